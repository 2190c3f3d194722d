//! How the rotary frequencies are stretched: from metadata, and from tensors that hold a factor for each pair, to an entry
//! `rope_scaling`.

use std::f64::consts::PI;

use mlxlm_core::weights::gguf::GgufTensor;
use serde_json::{Map, Value, json};

use super::config::Source;
use super::names::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT};
use crate::Result;

/// What Llama 3.1 and its successors have besides their factor; files hold only what follows from it.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
const ORIGINAL: f64 = 8192.0;

/// The entry `rope_scaling`, if the frequencies are stretched.
pub(super) fn scaling(s: &Source) -> Result<Option<Value>> {
    check_dimensions(s)?;
    if let Some(factors) = factors(s, ROPE_FREQS)? {
        return llama3(s, &factors);
    }
    if let (Some(long), Some(short)) = (factors(s, ROPE_LONG)?, factors(s, ROPE_SHORT)?) {
        let kind = "longrope";
        return Ok(Some(json!({"type": kind, "rope_type": kind, "long_factor": long, "short_factor": short})));
    }
    let key = s.key("rope.scaling.type");
    let factor = s.float("rope.scaling.factor")?.or(s.float("rope.scale_linear")?);
    let factor = factor.filter(|&factor| factor > 0.0 && changes(factor));
    match (s.metadata().text(&key)?, factor) {
        (Some("none"), _) | (Some("linear" | "yarn") | None, None) => Ok(None),
        (Some("linear") | None, Some(factor)) => {
            Ok(Some(json!({"type": "linear", "rope_type": "linear", "factor": factor})))
        }
        (Some("yarn"), Some(factor)) => yarn(s, factor).map(Some),
        (Some(other), _) => {
            let why = format!("is `{other}`, and its factors are not in the file or not known");
            Err(s.metadata().wrong(key, why).into())
        }
    }
}

/// Whether a factor stretches anything.
fn changes(factor: f64) -> bool {
    (factor - 1.0).abs() > 1e-6
}

/// Only Phi-3 can rotate a part of each head.
fn check_dimensions(s: &Source) -> Result<()> {
    let name = "rope.dimension_count";
    let head_dim = s.head_dim()?;
    match s.integer(name)? {
        Some(rotated) if rotated != head_dim && s.family.name != "phi3" => {
            let why = format!("is {rotated} of the {head_dim} of a head, which `{}` does not allow", s.family.name);
            Err(s.metadata().wrong(s.key(name), why).into())
        }
        _ => Ok(()),
    }
}

/// The numbers of a small tensor.
fn factors(s: &Source, name: &str) -> Result<Option<Vec<f32>>> {
    if s.file.shape(name).is_none() {
        return Ok(None);
    }
    match s.file.tensor(name)? {
        GgufTensor::Dense(array) => Ok(Some(array.to_vec_cast::<f32>().map_err(mlxlm_core::Error::from)?)),
        GgufTensor::Packed { .. } => Err(s.metadata().wrong(name, "is packed, expected plain numbers").into()),
    }
}

fn yarn(s: &Source, factor: f64) -> Result<Value> {
    let mut entry = Map::new();
    for key in ["type", "rope_type"] {
        entry.insert(key.into(), "yarn".into());
    }
    entry.insert("factor".into(), factor.into());
    if let Some(length) = s.integer("rope.scaling.original_context_length")? {
        entry.insert("original_max_position_embeddings".into(), length.into());
    }
    for (name, key) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
        if let Some(number) = s.float(&format!("rope.scaling.{name}"))? {
            entry.insert(key.into(), number.into());
        }
    }
    Ok(Value::Object(entry))
}

/// Llama 3.1: the factors of all pairs follow from the greatest of them, with the usual other numbers.
fn llama3(s: &Source, factors: &[f32]) -> Result<Option<Value>> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    if !changes(factor) {
        return Ok(None);
    }
    let base = s.float("rope.freq_base")?.unwrap_or(10_000.0);
    let expected = |pair: usize| {
        let length = 2.0 * PI * base.powf(pair as f64 / factors.len() as f64);
        let smooth = ((ORIGINAL / length - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    let fits = |(pair, &found): (usize, &f32)| (f64::from(found) / expected(pair) - 1.0).abs() < 1e-3;
    if !factors.iter().enumerate().all(fits) {
        return Err(s.metadata().wrong(ROPE_FREQS, "holds other factors than those of Llama 3").into());
    }
    Ok(Some(json!({
        "type": "llama3", "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
        "original_max_position_embeddings": ORIGINAL as i64,
    })))
}
