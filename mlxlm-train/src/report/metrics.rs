//! Reports as JSON objects, under the names of mlx-lm's `TrainingCallback`.

use serde_json::{Map, Value, json};

use super::Curve;
use crate::trainer::{Event, Report};

/// The iteration of an event that is written down, and its fields.
pub(super) fn fields(event: &Event) -> Option<(u64, Map<String, Value>)> {
    let (iteration, fields) = match event {
        Event::Report(report) => (report.iteration, of_report(report)),
        Event::Validation { iteration, loss, seconds } => {
            (*iteration, json!({"iteration": iteration, "val_loss": loss, "val_time": seconds}))
        }
        Event::Iteration { .. } | Event::Measured { .. } | Event::Saved { .. } => return None,
    };
    match fields {
        Value::Object(fields) => Some((iteration, fields)),
        _ => None,
    }
}

fn of_report(report: &Report) -> Value {
    let mut fields = json!({
        "iteration": report.iteration,
        "train_loss": report.train_loss,
        "learning_rate": report.learning_rate,
        "iterations_per_second": report.iterations_per_second,
        "tokens_per_second": report.tokens_per_second,
        "trained_tokens": report.trained_tokens,
        // In GB, as there.
        "peak_memory": report.peak_memory_bytes as f64 / 1e9,
    });
    if let Some(fields) = fields.as_object_mut() {
        fields.extend(report.grad_norm.map(|norm| ("grad_norm".to_owned(), norm.into())));
        fields.extend(report.measures.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
    }
    fields
}

/// The iteration that fields are of.
pub(super) fn iteration(fields: &Map<String, Value>) -> Option<u64> {
    fields.get("iteration").and_then(Value::as_u64)
}

/// Adds the losses among the fields to a curve.
pub(super) fn remember(fields: &Map<String, Value>, curve: &mut Curve) {
    let Some(at) = iteration(fields) else { return };
    let loss = |name: &str| fields.get(name).and_then(Value::as_f64).filter(|loss| loss.is_finite());
    curve.train.extend(loss("train_loss").map(|loss| (at, loss)));
    curve.valid.extend(loss("val_loss").map(|loss| (at, loss)));
}

/// What a field is called in TensorBoard.
pub(super) fn tag(field: &str) -> String {
    match field {
        "train_loss" => "train/loss".into(),
        "val_loss" => "validation/loss".into(),
        "val_time" => "validation/seconds".into(),
        field => format!("train/{field}"),
    }
}
