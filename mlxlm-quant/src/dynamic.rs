//! More bits where the divergence from the dense model grows fastest, by its gradient.
//!
//! Ports `mlx_lm/quant/dynamic_quant.py` @ 0.32.2. Unusual: routers keep eight bits, and what was declared to stay dense does, as when
//! a model is converted.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::quant::{self, Scheme};
use mlxlm_core::{Array, Dtype, io, transforms};
use mlxlm_models::CausalLm;
use mlxlm_train::Trainable;
use serde_json::{Value, json};

use crate::divergence::mean_kl;
use crate::plan::{self, Packable, Plan};
use crate::report::{Event, Report};
use crate::{Error, Result};

/// The two schemes of which each leaf gets one.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    /// What all leaves have.
    pub low: Scheme,
    /// What the most sensitive have instead.
    pub high: Scheme,
}

/// What an estimate takes.
#[derive(Debug, Clone, Copy)]
pub struct SensitivityOptions {
    /// Between which schemes.
    pub levels: Levels,
    /// The type in which gradients are added up: `f32`, or `bf16` for half the memory.
    pub accumulate: Dtype,
}

/// How much more of the divergence each leaf takes away for a million weights, by path in the order of the model.
pub type Sensitivities = Vec<(String, f64)>;

/// Estimates them: `student` is the same model as `teacher`, loaded once more, and holds rounded weights afterwards.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens
///
/// # Errors
/// [`Error::NotFinite`] for a leaf whose gradient is not finite.
pub fn sensitivities(
    teacher: &dyn CausalLm,
    student: &mut dyn CausalLm,
    batches: &[Array],
    options: SensitivityOptions,
    report: Report<'_>,
) -> Result<Sensitivities> {
    let Levels { low, high } = options.levels;
    let chosen = candidates(teacher, options.levels);
    let mut originals = BTreeMap::new();
    let mut failed = None;
    student.walk_mut("", &mut |path, mut leaf| {
        let Some(matrix) = leaf.matrix().filter(|_| chosen.iter().any(|leaf| leaf.path == path)) else { return };
        let rounded = matrix.dense().and_then(|dense| {
            *matrix = mlxlm_core::nn::Matrix::Dense(rounded(&dense, low)?);
            originals.insert(path.to_owned(), dense);
            Ok(())
        });
        failed = failed.take().or(rounded.err());
    });
    if let Some(exception) = failed {
        return Err(exception.into());
    }
    let weight = |path: &str| format!("{path}.weight");
    let names: Vec<String> = chosen.iter().map(|leaf| weight(&leaf.path)).collect();
    let trainable = Trainable::collect(student, |name, _| names.iter().any(|other| other == name));
    let mut sums: Vec<Array> = Vec::new();
    for (done, batch) in batches.iter().enumerate() {
        report(Event::Step { what: "sensitivities", done, of: batches.len() });
        let targets = teacher.forward(batch, None)?;
        targets.eval()?;
        let (_, gradients) = trainable.value_and_grad(student, |student| {
            let logits = student.forward(batch, None)?;
            let loss = mean_kl(&logits, &targets).map_err(|error| mlxlm_core::Exception::custom(error.to_string()))?;
            Ok(vec![loss])
        })?;
        let cast = gradients.iter().map(|gradient| gradient.as_dtype(options.accumulate));
        sums = match sums.is_empty() {
            true => cast.collect::<Result<_, _>>()?,
            false => sums.iter().zip(cast).map(|(sum, gradient)| sum.add(gradient?)).collect::<Result<_, _>>()?,
        };
        transforms::eval(&sums)?;
    }
    report(Event::Step { what: "sensitivities", done: batches.len(), of: batches.len() });
    let mut found = Vec::new();
    for ((name, now), gradient) in trainable.names().iter().zip(trainable.arrays()).zip(&sums) {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let Some(original) = originals.get(path) else { continue };
        let gradient = gradient.divide(Array::from_f32(batches.len() as f32))?;
        let alignment = gradient.multiply(now.subtract(rounded(original, high)?)?)?.sum(None)?;
        let alignment = f64::from(alignment.as_dtype(Dtype::Float32)?.try_item_exact::<f32>()?);
        if !alignment.is_finite() {
            return Err(Error::NotFinite { path: path.to_owned() });
        }
        found.push((path.to_owned(), alignment / (original.size() as f64 / 1e6)));
    }
    Ok(found)
}

/// The leaves that may have either scheme.
fn candidates(model: &dyn CausalLm, levels: Levels) -> Vec<Packable> {
    let takes = |leaf: &Packable, scheme| leaf.allowed(scheme) == Some(scheme);
    let both = |leaf: &Packable| takes(leaf, levels.low) && takes(leaf, levels.high);
    plan::packables(model).into_iter().filter(both).collect()
}

/// A matrix after packing and unpacking.
fn rounded(weight: &Array, scheme: Scheme) -> Result<Array, mlxlm_core::Exception> {
    quant::dequantize(&quant::quantize(weight, scheme)?, scheme, Some(weight.dtype()))
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
