//! More bits where the divergence from the dense model grows fastest, by its gradient.
//!
//! Ports `mlx_lm/quant/dynamic_quant.py` @ 0.32.2. Unusual: gradients are taken one block at a time (`backward`) and never added up;
//! an estimate can be continued; routers keep eight bits, and what was declared to stay dense does, as when
//! a model is converted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use mlxlm_core::nn::Matrix;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::{Array, Dtype, Exception, io};
use mlxlm_models::CausalLm;
use serde_json::{Value, json};

use crate::backward::{self, Leaves, Model, Parts};
use crate::divergence::kl;
use crate::plan::{self, Packable, Plan};
use crate::report::{Event, Report};
use crate::teacher::{Taught, Teacher};
use crate::{Error, Kept, Result};

/// Weights that are unpacked at once.
const AT_ONCE: usize = 1 << 20;

/// The two schemes of which each leaf gets one.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    /// What all leaves have.
    pub low: Scheme,
    /// What the most sensitive have instead.
    pub high: Scheme,
}

/// How much more of the divergence each leaf takes away for a million weights, by path in the order of the model.
pub type Sensitivities = Vec<(String, f64)>;

/// A leaf of the student: rounded at the low scheme, with what it would be at the high one.
#[derive(Debug)]
struct Rounded {
    low: Packed,
    high: Packed,
    weights: f64,
}

#[derive(Debug)]
struct Student {
    paths: Vec<String>,
    leaves: Vec<Rounded>,
    levels: Levels,
}

impl Student {
    /// Rounds the leaves that may have either scheme.
    fn round(model: &mut dyn CausalLm, levels: Levels) -> Result<Self> {
        let mut chosen: BTreeSet<String> = candidates(model, levels).into_iter().map(|leaf| leaf.path).collect();
        let (mut paths, mut leaves, mut failed) = (Vec::new(), Vec::new(), None);
        model.walk_mut("", &mut |path, mut leaf| {
            let Some(matrix) = leaf.matrix().filter(|_| chosen.remove(path)) else { return };
            let rounded = matrix.dense().and_then(|dense| {
                let [low, high] = [levels.low, levels.high].map(|scheme| quant::quantize(&dense, scheme));
                let rounded = Rounded { low: low?, high: high?, weights: dense.size() as f64 };
                for packed in [&rounded.low, &rounded.high] {
                    plan::compute(packed)?;
                }
                *matrix = Matrix::Packed(rounded.low.clone(), levels.low);
                paths.push(path.to_owned());
                leaves.push(rounded);
                Ok(())
            });
            failed = failed.take().or(rounded.err());
        });
        failed.map_or_else(|| Ok(Self { paths, leaves, levels }), |exception| Err(exception.into()))
    }

    /// In `f32`; by a kernel for every number of bits, unless floats are packed.
    fn unpacked(packed: &Packed, scheme: Scheme) -> Result<Array, Exception> {
        let Some(biases) = packed.biases.as_ref().filter(|_| scheme.mode == Mode::Affine) else {
            return quant::dequantize(packed, scheme, Some(Dtype::Float32));
        };
        let [scales, biases] = [&packed.scales, biases].map(|array| array.as_dtype(Dtype::Float32));
        quant::dense(&Packed { weight: packed.weight.clone(), scales: scales?, biases: Some(biases?) }, scheme)
    }

    /// How far the low scheme is from the high one in the direction of a gradient, of some rows at a time: a table takes as much
    /// memory as all layers of a small model.
    fn alignment(&self, leaf: usize, gradient: &Array) -> Result<f64> {
        let Rounded { low, high, .. } = &self.leaves[leaf];
        let count = gradient.dim(0);
        let of_row = (gradient.size() / count.max(1) as usize).max(1);
        let step = (AT_ONCE / of_row).max(1) as i32;
        let mut sum = 0.0;
        for start in (0..count).step_by(step as usize) {
            let range = start..(start + step).min(count);
            let high = Self::unpacked(&high.rows(range.clone())?, self.levels.high)?;
            let off = Self::unpacked(&low.rows(range.clone())?, self.levels.low)?.subtract(high)?;
            sum += f64::from(gradient.try_index(range)?.multiply(off)?.sum(None)?.try_item_exact::<f32>()?);
        }
        Ok(sum)
    }
}

impl Leaves for Student {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn arrays(&self, leaf: usize) -> Result<Vec<Array>, Exception> {
        Ok(vec![Self::unpacked(&self.leaves[leaf].low, self.levels.low)?])
    }

    fn dense(&self, _leaf: usize, arrays: &[Array]) -> Result<Array, Exception> {
        arrays.first().cloned().ok_or_else(|| Exception::custom("a matrix could not be unpacked"))
    }

    fn at_rest(&self, leaf: usize) -> Result<Matrix, Exception> {
        Ok(Matrix::Packed(self.leaves[leaf].low.clone(), self.levels.low))
    }
}

/// The sums of all batches so far, and how many these were. Numbers are kept as bits, since they have to come back as they were.
#[derive(Debug)]
struct Sums {
    batches: usize,
    bits: Vec<u64>,
}

impl Sums {
    /// The file in the folder of a run.
    const FILE: &'static str = "sums.json";

    fn read(kept: Option<&Kept>, leaves: usize) -> Result<Self> {
        let begun = Self { batches: 0, bits: vec![0.0_f64.to_bits(); leaves] };
        let Some(path) = kept.map(|kept| kept.file(Self::FILE)).filter(|path| path.exists()) else { return Ok(begun) };
        let wrong = |why: String| Error::Kept { path: path.clone(), why };
        let (batches, bits): (usize, Vec<u64>) =
            serde_json::from_value(io::read_json::<Value>(&path)?).map_err(|error| wrong(error.to_string()))?;
        match bits.len() == leaves {
            true => Ok(Self { batches, bits }),
            false => Err(wrong(format!("it has the sums of {} matrices, and the model has {leaves}", bits.len()))),
        }
    }

    fn add(&mut self, leaf: usize, more: f64) {
        self.bits[leaf] = (f64::from_bits(self.bits[leaf]) + more).to_bits();
    }
}

/// Estimates them: `student` is the same model as the teacher, and holds rounded weights afterwards. What is added up is not gradients
/// but how far they point from one scheme to the other, a number for each leaf, so it takes no memory and is kept after each batch.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens
///
/// # Errors
/// [`Error::NotFinite`] for a leaf whose gradient is not finite.
pub fn sensitivities(
    teacher: Teacher<'_>,
    student: &mut dyn CausalLm,
    batches: &[Array],
    (levels, kept): (Levels, Option<&Kept>),
    report: Report<'_>,
) -> Result<Sensitivities> {
    let leaves = Student::round(student, levels)?;
    backward::let_go_of_files(student, &leaves)?;
    let parts = match batches.first() {
        Some(batch) => Parts::find(student, &leaves, batch)?,
        None => None,
    };
    let mut sums = Sums::read(kept, leaves.paths.len())?;
    // The loss is a mean over all positions.
    let share = 1.0 / batches.iter().map(Array::size).sum::<usize>().max(1) as f64;
    for batch in batches.iter().skip(sums.batches) {
        report(Event::Step { what: "sensitivities", done: sums.batches, of: batches.len() });
        let taught = Taught::read(teacher, batch)?;
        let loss = |student: &dyn CausalLm, states: &Array, range: Range<i32>| {
            Ok(kl(&student.head(states)?, &taught.logits(range)?, 1.0)?.sum(None)?)
        };
        let mut take = |leaf: usize, gradients: &[Array]| {
            for gradient in gradients {
                sums.add(leaf, share * leaves.alignment(leaf, gradient)?);
            }
            Ok(())
        };
        Model::new(student, &leaves).loss(parts.as_ref(), batch, &loss, Some(&mut take))?;
        sums.batches += 1;
        if let Some(kept) = kept {
            io::write_json(kept.file(Sums::FILE), &json!([sums.batches, sums.bits]))?;
        }
    }
    report(Event::Step { what: "sensitivities", done: batches.len(), of: batches.len() });
    let all = leaves.paths.iter().zip(&leaves.leaves).zip(&sums.bits).map(|((path, leaf), &bits)| {
        let alignment = f64::from_bits(bits);
        match alignment.is_finite() {
            true => Ok((path.clone(), alignment / (leaf.weights / 1e6))),
            false => Err(Error::NotFinite { path: path.clone() }),
        }
    });
    all.collect()
}

/// The leaves that may have either scheme.
fn candidates(model: &dyn CausalLm, levels: Levels) -> Vec<Packable> {
    let takes = |leaf: &Packable, scheme| leaf.allowed(scheme) == Some(scheme);
    let both = |leaf: &Packable| takes(leaf, levels.low) && takes(leaf, levels.high);
    plan::packables(model).into_iter().filter(both).collect()
}

/// Chooses who gets more bits, so that the model has about `target_bpw` bits for each weight: as in the reference, all above a
/// threshold that is searched for by halves.
///
/// # Errors
/// [`Error::Budget`] if even the low scheme takes more, or the high one less.
pub fn choose(model: &dyn CausalLm, sensitivities: &Sensitivities, levels: Levels, target_bpw: f64) -> Result<Plan> {
    let leaves = plan::packables(model);
    let of: BTreeMap<&str, f64> = sensitivities.iter().map(|(path, value)| (path.as_str(), *value)).collect();
    let plan_at = |threshold: f64| -> Plan {
        let scheme = |leaf: &Packable| {
            let high = of.get(leaf.path.as_str()).is_some_and(|&value| value > threshold);
            leaf.allowed(if high { levels.high } else { levels.low })
        };
        leaves.iter().filter_map(|leaf| Some((leaf.path.clone(), scheme(leaf)?))).collect()
    };
    let bits = |plan: &Plan| plan::bits_per_weight(model, plan);
    let (least, most) = (bits(&plan_at(f64::INFINITY)), bits(&plan_at(f64::NEG_INFINITY)));
    // The threshold is a whole leaf's step away from the target at most.
    if target_bpw < least - 0.05 || target_bpw > most + 0.05 {
        let nearest = if target_bpw < least { least } else { most };
        let in_words = |bits: f64| format!("{bits:.3} bits per weight");
        return Err(Error::Budget { wanted: in_words(target_bpw), nearest: in_words(nearest) });
    }
    let (mut low, mut high) =
        of.values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    let tolerance = 1e-3 * (high - low);
    while high - low > tolerance {
        let middle = f64::midpoint(high, low);
        if bits(&plan_at(middle)) > target_bpw { low = middle } else { high = middle }
    }
    Ok(plan_at(f64::midpoint(high, low)))
}

/// Writes sensitivities as the reference does: a list of pairs of path and value.
pub fn write(path: &Path, sensitivities: &Sensitivities) -> Result<()> {
    let pairs = sensitivities.iter().map(|(path, value)| json!([path, value])).collect();
    Ok(io::write_json(path, &Value::Array(pairs))?)
}

/// Reads sensitivities that [`write()`] or the reference wrote, for this model.
///
/// # Errors
/// [`Error::Sensitivities`] for a file of another form, or without a leaf of the model.
pub fn read(path: &Path, model: &dyn CausalLm, levels: Levels) -> Result<Sensitivities> {
    let wrong = |why: String| Error::Sensitivities { path: path.to_owned(), why };
    let found: Vec<(String, f64)> =
        serde_json::from_value(io::read_json::<Value>(path)?).map_err(|error| wrong(error.to_string()))?;
    for leaf in candidates(model, levels) {
        if !found.iter().any(|(path, _)| *path == leaf.path) {
            return Err(wrong(format!("it has none of `{}`", leaf.path)));
        }
    }
    Ok(found)
}
