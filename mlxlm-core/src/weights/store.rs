//! The strict view from which a model loads: every tensor is asked for by path and shape, and all that does not fit is
//! reported at the end, in one error.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use mlx_rs::{Array, Dtype, ops, random};

use super::adapter::Adapter;
use super::{FineTuneType, LoraParameters, Problem, QuantizationConfig, Tensors, WeightsError};
use crate::Result;
use crate::nn::{MAX_PIECES, Precision, Role, Worth, join};
use crate::quant::{Mode, Packed, Scheme};

/// How a parameter begins when there is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All ones: norms.
    Ones,
    /// All zeros: biases.
    Zeros,
    /// This number everywhere: learned factors.
    Full(f32),
    /// Normal around zero, with this standard deviation.
    Normal(f32),
    /// The logarithms of 1, 2, … along the last axis: how fast states of a recurrent layer decay (arXiv:2206.11893).
    LogCounts,
}

/// Where the tensors come from.
#[derive(Debug)]
enum Source {
    Checkpoint,
    /// Drawn anew, for training from scratch.
    Random(random::RandomState),
    /// Zeros that are never computed, to see which weights a configuration asks for.
    Measured,
}

/// All tensors of a checkpoint after its model's rules were applied, with what is known of their form.
#[derive(Debug)]
pub struct WeightStore {
    source: RefCell<Source>,
    tensors: RefCell<Tensors>,
    problems: RefCell<Vec<Problem>>,
    quantization: QuantizationConfig,
    adapter: RefCell<Option<Adapter>>,
    /// The blocks of the leaves that are rotated, by path.
    rotations: RefCell<BTreeMap<String, i32>>,
}

impl WeightStore {
    /// A store over the tensors of a checkpoint.
    pub fn new(tensors: Tensors, quantization: QuantizationConfig) -> Self {
        Self {
            source: RefCell::new(Source::Checkpoint),
            tensors: RefCell::new(tensors),
            problems: RefCell::default(),
            quantization,
            adapter: RefCell::default(),
            rotations: RefCell::default(),
        }
    }

    /// A store that draws each parameter when it is asked for, in `f32`: a model to train from scratch.
    pub fn random(seed: u64) -> Result<Self> {
        let store = Self::new(Tensors::new(), QuantizationConfig::default());
        store.source.replace(Source::Random(random::RandomState::with_seed(seed)?));
        Ok(store)
    }

    /// A store whose parameters have shapes and no memory: a model built over it can be measured, not run.
    pub fn measuring() -> Self {
        let store = Self::new(Tensors::new(), QuantizationConfig::default());
        store.source.replace(Source::Measured);
        store
    }

    /// Lays the fine-tune of a folder over the weights: leaves get their adapter as they load, and the tensors of a
    /// full fine-tune replace those of the checkpoint.
    pub fn with_adapter(self, folder: impl AsRef<Path>) -> Result<Self> {
        let adapter = Adapter::open(folder.as_ref())?;
        if adapter.config.fine_tune_type == FineTuneType::Full {
            self.tensors.borrow_mut().extend(adapter.tensors);
        } else {
            self.adapter.replace(Some(adapter));
        }
        Ok(self)
    }

    /// The view of the whole model.
    pub fn root(&self) -> Weights<'_> {
        Weights { store: self, path: String::new(), worth: Worth::default() }
    }

    /// The end of loading: what was missing, misshapen or left over, if anything was.
    pub fn finish(self) -> Result<(), WeightsError> {
        let mut problems = self.problems.into_inner();
        let left = self.tensors.into_inner().into_keys();
        let left_of_adapter = self.adapter.into_inner().into_iter().flat_map(|adapter| adapter.tensors.into_keys());
        problems.extend(left.chain(left_of_adapter).map(|name| Problem::LeftOver { name }));
        if problems.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(problems)) }
    }
}

/// The weights under one path of a model, as in `model.layers.3.self_attn`.
#[derive(Debug, Clone)]
pub struct Weights<'a> {
    store: &'a WeightStore,
    path: String,
    worth: Worth,
}

impl<'a> Weights<'a> {
    /// The weights under `name` below this path.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Weights<'a> {
        Weights { path: self.name_of(name), ..self.clone() }
    }

    /// The same weights, of which each device has some of the outputs.
    #[must_use]
    pub fn columns(&self) -> Weights<'a> {
        Weights { worth: Worth { role: Role::Columns, ..self.worth }, ..self.clone() }
    }

    /// The same weights, of which each device has some of the outputs of each piece; `pieces` are their numbers of outputs, in
    /// order, at most [`MAX_PIECES`].
    #[must_use]
    pub fn columns_of(&self, pieces: &[i32]) -> Weights<'a> {
        let mut all = [0; MAX_PIECES];
        all.iter_mut().zip(pieces).for_each(|(place, piece)| *place = *piece);
        Weights { worth: Worth { role: Role::Columns, pieces: all, ..self.worth }, ..self.clone() }
    }

    /// The same weights, of which each device has some of the inputs.
    #[must_use]
    pub fn rows(&self) -> Weights<'a> {
        Weights { worth: Worth { role: Role::Rows, ..self.worth }, ..self.clone() }
    }

    /// The same weights, to be packed no further than this.
    #[must_use]
    pub fn keep(&self, precision: Precision) -> Weights<'a> {
        Weights { worth: Worth { precision, ..self.worth }, ..self.clone() }
    }

    /// The same weights, which keep their type.
    #[must_use]
    pub fn pinned(&self) -> Weights<'a> {
        Weights { worth: Worth { pinned: true, ..self.worth }, ..self.clone() }
    }

    /// Says that a [rotation](crate::nn::Rotation) of blocks of this many dimensions was folded into the leaf here.
    pub fn rotated(&self, block: i32) {
        self.store.rotations.borrow_mut().insert(self.path.clone(), block);
    }

    /// The block of the rotation that was folded into the leaf here, if one was.
    pub(crate) fn block(&self) -> Option<i32> {
        self.store.rotations.borrow().get(&self.path).copied()
    }

    /// What these weights are worth.
    pub fn worth(&self) -> Worth {
        self.worth
    }

    /// Drops the tensors at this path and below, which the model knows of and does not need.
    pub fn forget(&self) {
        let below = format!("{}.", self.path);
        self.store.tensors.borrow_mut().retain(|name, _| *name != self.path && !name.starts_with(&below));
    }

    /// This path.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn name_of(&self, name: impl Display) -> String {
        join(&self.path, &name.to_string())
    }

    /// Whether the checkpoint has a tensor `name` here.
    pub fn has(&self, name: &str) -> bool {
        self.store.tensors.borrow().contains_key(&self.name_of(name))
    }

    /// Whether there is a checkpoint, and it has no tensor `name` here.
    pub fn lacks(&self, name: &str) -> bool {
        matches!(*self.store.source.borrow(), Source::Checkpoint) && !self.has(name)
    }

    /// The tensor `name`, of this shape and of a floating-point type.
    ///
    /// One that is missing or misshapen is noted for [`WeightStore::finish`], and zeros stand in for it.
    pub fn parameter(&self, name: &str, shape: &[i32], init: Init) -> Result<Array> {
        match &mut *self.store.source.borrow_mut() {
            Source::Checkpoint => {}
            Source::Random(state) => return draw(state, shape, init),
            Source::Measured => return Ok(ops::zeros_dtype(shape, Dtype::Bfloat16)?),
        }
        let mut tensors = self.store.tensors.borrow_mut();
        let taken = self.take(&mut tensors, name, shape, ("a float", &|dtype| dtype.is_float()));
        drop(tensors);
        Ok(taken.map_or_else(|| ops::zeros::<f32>(shape), Ok)?)
    }

    /// Takes a tensor of this shape and type, or notes why it cannot be had.
    fn take(
        &self,
        tensors: &mut Tensors,
        name: &str,
        shape: &[i32],
        (type_name, fits): (&str, &dyn Fn(Dtype) -> bool),
    ) -> Option<Array> {
        let name = self.name_of(name);
        let problem = match tensors.remove(&name) {
            Some(array) if array.shape() == shape && fits(array.dtype()) => return Some(array),
            Some(array) if array.shape() == shape => {
                Problem::Type { name, why: format!("is of the type {:?}, expected {type_name}", array.dtype()) }
            }
            Some(array) => Problem::Shape { name, got: array.shape().to_vec(), expected: shape.to_vec() },
            None => {
                // Looking for names that are alike reads all names: for the first few only.
                let first = self.store.problems.borrow().len() < NEAR_FOR;
                Problem::Missing { near: if first { near(tensors, &name) } else { Vec::new() }, name }
            }
        };
        self.store.problems.borrow_mut().push(problem);
        None
    }

    /// The packed tensors here and their scheme, if this leaf is quantized; `shape` is that before packing.
    ///
    /// An entry of the configuration decides; without one the leaf is quantized when it has `scales`, and their shapes
    /// tell the scheme.
    pub fn packed(&self, shape: &[i32]) -> Result<Option<(Packed, Scheme)>> {
        if !self.has("scales") {
            return Ok(None);
        }
        let Some((&input, rows)) = shape.split_last() else { return Ok(None) };
        let scheme = match self.store.quantization.paths.get(&self.path) {
            Some(Some(scheme)) => Some(*scheme),
            // The configuration says dense: the scales will be left over, and reported.
            Some(None) => return Ok(None),
            None => {
                let tensors = self.store.tensors.borrow();
                match (tensors.get(&self.name_of("weight")), tensors.get(&self.name_of("scales"))) {
                    (Some(weight), Some(scales)) => Scheme::of_shapes(weight, scales, input),
                    _ => None,
                }
            }
        };
        let Some(scheme) = scheme.filter(|scheme| scheme.divides(input)) else {
            self.note_unknown_scheme(input);
            // As below, a dense stand-in keeps the loading going.
            self.store.tensors.borrow_mut().insert(self.name_of("weight"), ops::zeros::<f32>(shape)?);
            return Ok(None);
        };
        let columns = |last: i32| rows.iter().copied().chain([last]).collect::<Vec<_>>();
        let groups = columns(input / scheme.group_size);
        let affine = scheme.mode == Mode::Affine;
        let float: (&str, &dyn Fn(Dtype) -> bool) = ("a float", &|dtype| dtype.is_float());
        let byte: (&str, &dyn Fn(Dtype) -> bool) = ("u8", &|dtype| dtype == Dtype::Uint8);
        let words: (&str, &dyn Fn(Dtype) -> bool) = ("u32", &|dtype| dtype == Dtype::Uint32);
        let mut tensors = self.store.tensors.borrow_mut();
        let weight = self.take(&mut tensors, "weight", &columns(scheme.packed_words(input)), words);
        let scales = self.take(&mut tensors, "scales", &groups, if affine { float } else { byte });
        let biases = if affine { self.take(&mut tensors, "biases", &groups, float) } else { None };
        let (Some(weight), Some(scales), false) = (weight, scales, affine && biases.is_none()) else {
            // What is wrong was noted; a dense stand-in keeps the loading going.
            tensors.insert(self.name_of("weight"), ops::zeros::<f32>(shape)?);
            return Ok(None);
        };
        Ok(Some((Packed { weight, scales, biases }, scheme)))
    }

    fn note_unknown_scheme(&self, input: i32) {
        let name = self.name_of("scales");
        let shape_of = |part: &str| {
            let tensors = self.store.tensors.borrow();
            tensors.get(&self.name_of(part)).map_or_else(Vec::new, |array| array.shape().to_vec())
        };
        let (weight, scales) = (shape_of("weight"), shape_of("scales"));
        for part in ["weight", "scales", "biases"] {
            self.store.tensors.borrow_mut().remove(&self.name_of(part));
        }
        let why = format!("{scales:?} beside a packed weight {weight:?} is no quantization of rows of {input}");
        self.store.problems.borrow_mut().push(Problem::Type { name, why });
    }

    /// The low-rank factors `lora_a` and `lora_b`, and the magnitude `m` of DoRA, if this leaf is adapted.
    ///
    /// `shapes` are those of the three for the given rank.
    pub fn low_rank(&self, shapes: impl FnOnce(i32) -> [Vec<i32>; 3]) -> Option<(LowRank, LoraParameters)> {
        let mut adapter = self.store.adapter.borrow_mut();
        let adapter = adapter.as_mut()?;
        let parameters = adapter.config.lora_parameters.clone()?;
        let dora = adapter.config.fine_tune_type == FineTuneType::Dora;
        if !adapter.tensors.contains_key(&self.name_of("lora_a")) {
            return None;
        }
        let [a, b, m] = shapes(parameters.rank);
        let float: (&str, &dyn Fn(Dtype) -> bool) = ("a float", &|dtype| dtype.is_float());
        let a = self.take(&mut adapter.tensors, "lora_a", &a, float);
        let b = self.take(&mut adapter.tensors, "lora_b", &b, float);
        let m = if dora { Some(self.take(&mut adapter.tensors, "m", &m, float)?) } else { None };
        Some((LowRank { a: a?, b: b?, m }, parameters))
    }
}

/// The trained tensors of one adapted leaf.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// The factor on the side of the input.
    pub a: Array,
    /// The factor on the side of the output.
    pub b: Array,
    /// The magnitude of each row, for DoRA.
    pub m: Option<Array>,
}

/// For how many missing tensors similar names are looked for; no more of them are printed.
const NEAR_FOR: usize = 12;

/// Names that share their last three parts, or else their last two, with `name`.
fn near(tensors: &Tensors, name: &str) -> Vec<String> {
    let alike = |parts: usize| {
        tensors.keys().filter(move |other| other.rsplit('.').take(parts).eq(name.rsplit('.').take(parts))).take(2)
    };
    let close: Vec<String> = alike(3).cloned().collect();
    if close.is_empty() { alike(2).cloned().collect() } else { close }
}

fn draw(state: &mut random::RandomState, shape: &[i32], init: Init) -> Result<Array> {
    Ok(match init {
        Init::Ones => ops::ones::<f32>(shape)?,
        Init::Zeros => ops::zeros::<f32>(shape)?,
        Init::Full(number) => ops::full::<f32>(shape, Array::from_f32(number))?,
        Init::LogCounts => {
            let counts = ops::arange::<f32, f32>(1.0, shape.last().copied().unwrap_or(1) as f32 + 1.0, None)?;
            ops::broadcast_to(&counts.log()?, shape)?
        }
        Init::Normal(deviation) => random::normal::<f32>(shape, None, deviation, &state.next_key()?)?,
    })
}
