//! The `quantization` of a `config.json`: a scheme for the whole model, and what single paths have instead.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::WeightsError;
use crate::quant::{Mode, Scheme};

/// How the leaves of a checkpoint are quantized, as its configuration says.
///
/// The header's numbers are what `convert` wrote; where a path has no entry of its own, the shapes of its tensors
/// decide, as in mlx-lm 0.32.2.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantizationConfig {
    /// The head: the scheme of every leaf that has no entry of its own.
    pub default: Option<Scheme>,
    /// Single paths: their scheme, or `None` for those that stay dense.
    pub paths: BTreeMap<String, Option<Scheme>>,
}

impl QuantizationConfig {
    /// Reads the key `quantization` of a model's configuration; without it nothing is quantized.
    pub fn from_model_config(config: &Value) -> Result<Self, WeightsError> {
        match config.get("quantization") {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(Value::Object(entries)) => Self::from_entries(entries),
            Some(_) => Err(wrong("", "it is not an object".into())),
        }
    }

    fn from_entries(entries: &Map<String, Value>) -> Result<Self, WeightsError> {
        let default = match entries.contains_key("bits") || entries.contains_key("group_size") {
            true => Some(scheme("", entries)?),
            false => None,
        };
        let mut paths = BTreeMap::new();
        for (path, entry) in entries {
            match entry {
                Value::Object(own) => paths.insert(path.clone(), Some(scheme(path, own)?)),
                Value::Bool(false) => paths.insert(path.clone(), None),
                // `true` means the head's scheme, which the shapes tell as well; the head's own keys are no paths.
                _ => None,
            };
        }
        Ok(Self { default, paths })
    }

    /// The entry as mlx-lm writes it, or `None` when nothing is quantized.
    pub fn to_json(&self) -> Option<Value> {
        let mut entries = self.default.map(scheme_json).unwrap_or_default();
        for (path, own) in &self.paths {
            entries.insert(path.clone(), own.map_or(Value::Bool(false), |own| Value::Object(scheme_json(own))));
        }
        (!entries.is_empty()).then_some(Value::Object(entries))
    }
}

fn scheme_json(scheme: Scheme) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("group_size".into(), scheme.group_size.into());
    entry.insert("bits".into(), scheme.bits.into());
    entry.insert("mode".into(), scheme.mode.name().into());
    entry
}

fn wrong(path: &str, why: String) -> WeightsError {
    let at = if path.is_empty() { String::new() } else { format!(".{path}") };
    WeightsError::Quantization { at, why }
}

/// One entry. A `group_size` of null, which mixed recipes of older versions wrote, means 64.
fn scheme(path: &str, entry: &Map<String, Value>) -> Result<Scheme, WeightsError> {
    let mode: Mode = match entry.get("mode") {
        None | Some(Value::Null) => Mode::Affine,
        Some(Value::String(name)) => name.parse().map_err(|e: crate::quant::QuantError| wrong(path, e.to_string()))?,
        Some(_) => return Err(wrong(path, "`mode` is not a string".into())),
    };
    let usual = mode.default_scheme();
    let number = |key: &str, usual: i32| match entry.get(key) {
        None | Some(Value::Null) => Ok(usual),
        Some(value) => value
            .as_i64()
            .and_then(|n| i32::try_from(n).ok())
            .ok_or_else(|| wrong(path, format!("`{key}` is {value}, not a small number"))),
    };
    let (bits, group_size) = (number("bits", usual.bits)?, number("group_size", usual.group_size)?);
    if entry.get("global_scale").is_some_and(|flag| flag != &Value::Bool(false)) {
        return Err(wrong(path, "`global_scale` is not supported".into()));
    }
    Scheme::new(mode, bits, group_size).map_err(|e| wrong(path, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(quantization: Value) -> Result<QuantizationConfig, String> {
        QuantizationConfig::from_model_config(&json!({"quantization": quantization})).map_err(|e| e.to_string())
    }

    #[test]
    fn a_head_with_exceptions() {
        let config = read(json!({
            "group_size": 64, "bits": 4, "mode": "affine",
            "model.layers.0.mlp.gate": {"group_size": null, "bits": 8}, "lm_head": false,
        }))
        .unwrap();
        let four = Scheme::new(Mode::Affine, 4, 64).unwrap();
        assert_eq!(config.default, Some(four));
        assert_eq!(config.paths["lm_head"], None);
        assert_eq!(config.paths["model.layers.0.mlp.gate"], Some(Scheme { bits: 8, ..four }));
        assert_eq!(read(config.to_json().unwrap()).unwrap(), config);
    }

    #[test]
    fn nonsense_is_named() {
        let check = |value, expected: &str| assert_eq!(read(value).unwrap_err(), expected);
        check(json!([4]), "`quantization` in config.json: it is not an object");
        check(
            json!({"bits": 7, "group_size": 64}),
            "`quantization` in config.json: MLX has no quantization affine with 7 bits and groups of 64",
        );
        check(
            json!({"bits": 4, "group_size": 64, "a.b": {"bits": 1e9}}),
            "`quantization.a.b` in config.json: `bits` is 1000000000.0, not a small number",
        );
        check(
            json!({"bits": 4, "mode": "int3"}),
            "`quantization` in config.json: there is no quantization mode `int3`; the modes are affine, mxfp4, mxfp8 and nvfp4",
        );
    }
}
