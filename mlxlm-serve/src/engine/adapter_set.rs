//! The additions of a fine-tune apart from the model that they are for, so that a model can take them on and off while it is in memory.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::nn::{Leaf, LeafMut, LowRankAdapter, Module, join};
use mlxlm_core::weights::{AdapterConfig, FineTuneType, LoraParameters, SafetensorsFile, WeightsError};
use mlxlm_core::{Result, io};

/// The additions of low rank to leaves of a model, by their paths. Arrays are shared, not copied.
#[derive(Debug, Clone, Default)]
pub(super) struct AdapterSet {
    by_path: BTreeMap<String, LowRankAdapter>,
}

impl AdapterSet {
    /// Those that a model has now.
    pub(super) fn of<M: Module + ?Sized>(model: &M) -> Self {
        let mut by_path = BTreeMap::new();
        model.walk("", &mut |path, leaf| {
            let adapter = match leaf {
                Leaf::Linear(leaf) => &leaf.adapter,
                Leaf::Embedding(leaf) => &leaf.adapter,
                Leaf::Experts(leaf) => &leaf.adapter,
                _ => return,
            };
            if let Some(adapter) = adapter {
                by_path.insert(path.to_owned(), adapter.clone());
            }
        });
        Self { by_path }
    }

    /// Reads the folder of a fine-tune (`adapter_config.json` beside `adapters.safetensors`) for a model.
    ///
    /// # Errors
    /// Where the folder is none, holds a full fine-tune, which is no addition, or tensors that fit no leaf of the model: all of them
    /// are named.
    pub(super) fn read<M: Module + ?Sized>(folder: impl AsRef<Path>, model: &M) -> Result<Self> {
        let folder = folder.as_ref();
        let (file, config) = (folder.join("adapters.safetensors"), folder.join("adapter_config.json"));
        let wrong = |why: String| WeightsError::Adapter { path: file.clone(), why };
        let config: AdapterConfig = io::read_json(config)?;
        let mut tensors = SafetensorsFile::open(&file)?.arrays()?;
        let parameters = match (config.fine_tune_type, config.lora_parameters) {
            (FineTuneType::Full, _) => {
                let why = "a full fine-tune cannot be put on while the model runs; load it with the model";
                return Err(wrong(why.into()).into());
            }
            (_, Some(parameters)) if parameters.rank < 1 || !parameters.scale.is_finite() => {
                return Err(wrong("`rank` must be at least 1, and `scale` finite".into()).into());
            }
            (_, Some(parameters)) => parameters,
            (_, None) => return Err(wrong("`lora_parameters` is missing".into()).into()),
        };
        let is_dora = config.fine_tune_type == FineTuneType::Dora;
        let mut by_path = BTreeMap::new();
        let mut problems = Vec::new();
        model.walk("", &mut |path, leaf| {
            let name = |part: &str| join(path, part);
            let Some([a, b, m]) = shapes(leaf, parameters.rank) else { return };
            if !tensors.contains_key(&name("lora_a")) {
                return;
            }
            let mut take = |part: &str, shape: &[i32]| {
                let array = tensors.remove(&name(part));
                let fits = array.as_ref().is_some_and(|array| array.shape() == shape && array.dtype().is_float());
                if !fits {
                    let got = array.as_ref().map_or("is missing".to_owned(), |array| format!("is {:?}", array.shape()));
                    problems.push(format!("`{}` {got}, expected floats of {shape:?}", name(part)));
                }
                array.filter(|_| fits)
            };
            let (a, b) = (take("lora_a", &a), take("lora_b", &b));
            let m = is_dora.then(|| take("m", &m));
            if let (Some(a), Some(b), Some(m)) = (a, b, m.map_or(Some(None), |m| m.map(Some))) {
                let LoraParameters { scale, dropout, .. } = parameters;
                by_path.insert(path.to_owned(), LowRankAdapter { a, b, m, scale, dropout });
            }
        });
        problems.extend(tensors.keys().map(|name| format!("`{name}` fits nothing in the model")));
        if !problems.is_empty() {
            let shown = problems.iter().take(8).cloned().collect::<Vec<_>>().join("; ");
            let more = problems.len().saturating_sub(8);
            return Err(wrong(if more > 0 { format!("{shown}; and {more} more") } else { shown }).into());
        }
        if by_path.is_empty() {
            return Err(wrong("holds no additions".into()).into());
        }
        Ok(Self { by_path })
    }

    /// Puts these on a model in place of those that it has: only handles of arrays move.
    pub(super) fn put_on<M: Module + ?Sized>(&self, model: &mut M) {
        model.walk_mut("", &mut |path, leaf| {
            let adapter = match leaf {
                LeafMut::Linear(leaf) => &mut leaf.adapter,
                LeafMut::Embedding(leaf) => &mut leaf.adapter,
                LeafMut::Experts(leaf) => &mut leaf.adapter,
                _ => return,
            };
            *adapter = self.by_path.get(path).cloned();
        });
    }

    /// How many leaves they are for.
    pub(super) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// The memory that they take, in bytes.
    pub(super) fn nbytes(&self) -> usize {
        let bytes = |adapter: &LowRankAdapter| {
            adapter.a.nbytes() + adapter.b.nbytes() + adapter.m.as_ref().map_or(0, mlxlm_core::Array::nbytes)
        };
        self.by_path.values().map(bytes).sum()
    }
}

/// The shapes of `lora_a`, `lora_b` and `m` for a leaf, as its constructor asks for them.
fn shapes(leaf: Leaf<'_>, rank: i32) -> Option<[Vec<i32>; 3]> {
    let shape = leaf.matrix()?.shape();
    match (leaf, &shape[..]) {
        (Leaf::Linear(_), &[output, input]) => Some([vec![input, rank], vec![rank, output], vec![output]]),
        (Leaf::Embedding(_), &[count, dims]) => Some([vec![count, rank], vec![rank, dims], vec![count]]),
        (Leaf::Experts(_), &[experts, output, input]) => {
            Some([vec![experts, rank, input], vec![experts, output, rank], vec![experts, output]])
        }
        _ => None,
    }
}
