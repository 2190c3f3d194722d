//! Giving leaves of a model an adapter to train: LoRA (arXiv:2106.09685) and DoRA (arXiv:2402.09353).
//!
//! Ports `linear_to_lora_layers` of `mlx_lm/tuner/utils.py` @ 0.32.2. Unusual: keys that fit no leaf are an error here, not
//! a fine-tune that trains less than was asked for.

use std::collections::BTreeSet;

use mlxlm_core::nn::{Embedding, ExpertLinear, LeafMut, Linear, LowRankAdapter, Matrix, Module, join};
use mlxlm_core::random::{self, RandomState};
use mlxlm_core::weights::{FineTuneType, LoraParameters};
use mlxlm_core::{Array, Dtype, ops};

use crate::{Error, Result};

/// What a fine-tune of low rank changes.
#[derive(Debug, Clone)]
pub struct Lora {
    /// How many of the last blocks are adapted; all if it is not positive.
    pub num_layers: i32,
    /// Rank, scale, dropout, and which leaves: paths inside a block, or whole paths. All leaves of the blocks if absent.
    pub parameters: LoraParameters,
    /// With a trained magnitude for each row.
    pub dora: bool,
    /// What the factors are drawn from.
    pub seed: u64,
}

impl Lora {
    /// Gives the leaves their adapters, which change nothing yet, and returns the paths of the leaves.
    ///
    /// # Errors
    /// [`Error::TooManyLayers`], [`Error::CannotAdapt`] for a leaf that takes no such adapter, and [`Error::UnknownKeys`]
    /// for keys that name no leaf.
    pub fn adapt<M: Module + ?Sized>(&self, model: &mut M) -> Result<Vec<String>> {
        let (rank, scale) = (self.parameters.rank, self.parameters.scale);
        if rank < 1 || !scale.is_finite() || !(0.0..1.0).contains(&self.parameters.dropout) {
            return Err(Error::LoraParameters);
        }
        let first = first_layer(model, self.num_layers)?;
        let mut unused: BTreeSet<&str> = self.parameters.keys.iter().flatten().map(String::as_str).collect();
        let mut random = RandomState::with_seed(self.seed)?;
        let (mut adapted, mut result) = (Vec::new(), Ok(()));
        model.walk_mut("", &mut |path, mut leaf| {
            if result.is_err() {
                return;
            }
            let in_block = inside_block(path);
            let wanted = match &self.parameters.keys {
                None => in_block.is_some_and(|(layer, _)| layer >= first) && is_adaptable(&leaf),
                Some(keys) => keys.iter().any(|key| {
                    let inside = in_block.is_some_and(|(_, inside)| inside == key);
                    if inside || path == key {
                        unused.remove(key.as_str());
                    }
                    path == key || (inside && in_block.is_some_and(|(layer, _)| layer >= first))
                }),
            };
            if wanted {
                result = self.attach(path, &mut leaf, &mut random);
                adapted.push(path.to_owned());
            }
        });
        result?;
        if !unused.is_empty() {
            return Err(Error::UnknownKeys { keys: unused.into_iter().map(str::to_owned).collect() });
        }
        Ok(adapted)
    }

    fn attach(&self, path: &str, leaf: &mut LeafMut<'_>, random: &mut RandomState) -> Result<()> {
        let refuse = |why: &'static str| Error::CannotAdapt { path: path.to_owned(), why };
        match leaf {
            LeafMut::Linear(Linear { weight, adapter, .. }) => {
                let [output, input] = two(weight).ok_or_else(|| refuse("its weight is not a matrix"))?;
                let m = self.magnitude(weight)?;
                *adapter = Some(self.adapter(
                    random,
                    &[input, self.parameters.rank],
                    input,
                    &[self.parameters.rank, output],
                    m,
                )?);
            }
            LeafMut::Embedding(Embedding { weight, adapter, .. }) => {
                if self.dora && weight.scheme().is_some() {
                    return Err(refuse("DoRA does not take quantized embeddings"));
                }
                let [count, dims] = two(weight).ok_or_else(|| refuse("its weight is not a matrix"))?;
                let m = self.magnitude(weight)?;
                *adapter = Some(self.adapter(
                    random,
                    &[count, self.parameters.rank],
                    count,
                    &[self.parameters.rank, dims],
                    m,
                )?);
            }
            LeafMut::Experts(ExpertLinear { weight, adapter, .. }) => {
                let (rank, shape) = (self.parameters.rank, weight.shape());
                let &[experts, output, input] = shape.as_slice() else {
                    return Err(refuse("its weight is not a stack of matrices"));
                };
                if self.dora {
                    return Err(refuse("DoRA does not take experts"));
                }
                *adapter =
                    Some(self.adapter(random, &[experts, rank, input], input, &[experts, output, rank], None)?);
            }
            _ => return Err(refuse("only linear maps, embeddings and experts take an adapter")),
        }
        Ok(())
    }

    /// A first factor between ±1/√`input`, a second of zeros.
    fn adapter(
        &self,
        random: &mut RandomState,
        a: &[i32],
        input: i32,
        b: &[i32],
        m: Option<Array>,
    ) -> Result<LowRankAdapter> {
        let bound = 1.0 / (input as f32).sqrt();
        Ok(LowRankAdapter {
            a: random::uniform::<_, f32>(-bound, bound, a, &random.next_key()?)?,
            b: ops::zeros::<f32>(b)?,
            m,
            scale: self.parameters.scale,
            dropout: self.parameters.dropout,
        })
    }

    /// For DoRA the norm of each row, in `f32`.
    fn magnitude(&self, weight: &Matrix) -> Result<Option<Array>> {
        if !self.dora {
            return Ok(None);
        }
        let squares = ops::square(&weight.dense()?.as_dtype(Dtype::Float32)?)?;
        Ok(Some(ops::sqrt(&squares.sum_axis(-1, false)?)?))
    }
}

fn two(weight: &Matrix) -> Option<[i32; 2]> {
    weight.shape().try_into().ok()
}

/// Which parameters a fine-tune trains: those of adapters, or those of the last `num_layers` blocks.
///
/// # Errors
/// [`Error::TooManyLayers`]
pub fn trained<M: Module + ?Sized>(
    model: &mut M,
    fine_tune_type: FineTuneType,
    num_layers: i32,
) -> Result<impl Fn(&str, &Array) -> bool + use<M>> {
    let first = first_layer(model, num_layers)?;
    Ok(move |name: &str, _: &Array| match fine_tune_type {
        FineTuneType::Lora | FineTuneType::Dora => is_adapter_parameter(name),
        FineTuneType::Full => inside_block(name).is_some_and(|(layer, _)| layer >= first),
    })
}

/// Whether a parameter of this name belongs to an adapter.
pub fn is_adapter_parameter(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("lora_a" | "lora_b" | "m"))
}

/// Takes all adapters off, and returns how many there were.
pub fn remove<M: Module + ?Sized>(model: &mut M) -> usize {
    let mut removed = 0;
    model.walk_mut("", &mut |_, leaf| {
        removed += usize::from(adapter_of(leaf).is_some_and(|adapter| adapter.take().is_some()));
    });
    removed
}

/// Puts all adapters into the weights, which keep their form, or become dense if `dequantize`: those of the whole model.
/// Returns how many adapters there were.
pub fn fuse<M: Module + ?Sized>(model: &mut M, dequantize: bool) -> Result<usize> {
    let (mut fused, mut result) = (0, Ok(()));
    model.walk_mut("", &mut |_, leaf| {
        let (weight, adapted) = match &leaf {
            LeafMut::Linear(leaf) => (leaf.weight.scheme(), leaf.adapter.is_some()),
            LeafMut::Embedding(leaf) => (leaf.weight.scheme(), leaf.adapter.is_some()),
            LeafMut::Experts(leaf) => (leaf.weight.scheme(), leaf.adapter.is_some()),
            _ => return,
        };
        if result.is_err() {
            return;
        }
        let unpack = dequantize && weight.is_some();
        fused += usize::from(adapted);
        // Unpacked first, so that the sum is not rounded to the packed form.
        result = match leaf {
            LeafMut::Linear(leaf) => unpacked(&mut leaf.weight, unpack).and_then(|()| leaf.fuse()),
            LeafMut::Embedding(leaf) => unpacked(&mut leaf.weight, unpack).and_then(|()| leaf.fuse()),
            LeafMut::Experts(leaf) => unpacked(&mut leaf.weight, unpack).and_then(|()| leaf.fuse()),
            _ => Ok(()),
        };
    });
    result?;
    Ok(fused)
}

fn unpacked(weight: &mut Matrix, unpack: bool) -> Result<(), mlxlm_core::Exception> {
    if unpack { weight.dequantize() } else { Ok(()) }
}

fn adapter_of(leaf: LeafMut<'_>) -> Option<&mut Option<LowRankAdapter>> {
    match leaf {
        LeafMut::Linear(leaf) => Some(&mut leaf.adapter),
        LeafMut::Embedding(leaf) => Some(&mut leaf.adapter),
        LeafMut::Experts(leaf) => Some(&mut leaf.adapter),
        _ => None,
    }
}

fn is_adaptable(leaf: &LeafMut<'_>) -> bool {
    matches!(leaf, LeafMut::Linear(_) | LeafMut::Embedding(_) | LeafMut::Experts(_))
}

/// The number of a path's block and the path inside it: blocks are the first parts of a model that are counted.
fn inside_block(path: &str) -> Option<(usize, &str)> {
    let mut rest = path;
    while let Some((part, after)) = rest.split_once('.') {
        if let Ok(layer) = part.parse() {
            return Some((layer, after));
        }
        rest = after;
    }
    None
}

/// The first of the last `num_layers` blocks.
fn first_layer<M: Module + ?Sized>(model: &mut M, num_layers: i32) -> Result<usize> {
    let mut layers = 0;
    model.walk_mut("", &mut |path, _| {
        // A leaf may be the block itself.
        if let Some((layer, _)) = inside_block(&join(path, "weight")) {
            layers = layers.max(layer + 1);
        }
    });
    let wanted = usize::try_from(num_layers).unwrap_or(0);
    match wanted {
        0 => Ok(0),
        _ => layers.checked_sub(wanted).ok_or(Error::TooManyLayers { wanted, layers }),
    }
}
