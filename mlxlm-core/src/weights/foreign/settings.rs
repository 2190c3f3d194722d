//! What a configuration says of the packing, from whichever place it has it.

use serde_json::{Map, Value};

use super::ForeignError;

/// The methods whose packings are known.
const METHODS: [&str; 12] = [
    "auto-round",
    "awq",
    "bitnet",
    "bitsandbytes",
    "compressed-tensors",
    "fbgemm_fp8",
    "fp8",
    "gptq",
    "gptq_v2",
    "modelopt",
    "mxfp4",
    "mxfp8",
];

/// The varieties of a method.
struct Variety {
    /// How the method's name begins; all methods if it is empty.
    method: &'static str,
    /// The entry that names the variety.
    key: &'static str,
    /// The varieties that are known; letters may be of either case.
    known: &'static [&'static str],
}

const VARIETIES: [Variety; 6] = [
    Variety { method: "awq", key: "version", known: &["gemm", "gemv", "exllama"] },
    Variety { method: "awq", key: "checkpoint_format", known: &["gemm", "gemv", "awq"] },
    Variety { method: "gptq", key: "checkpoint_format", known: &["gptq", "gptq_v2"] },
    Variety {
        method: "compressed-tensors",
        key: "format",
        known: &[
            "dense",
            "float-quantized",
            "int-quantized",
            "mixed-precision",
            "mxfp4-pack-quantized",
            "mxfp8-quantized",
            "naive-quantized",
            "nvfp4-pack-quantized",
            "pack-quantized",
        ],
    },
    Variety {
        method: "auto-round",
        key: "packing_format",
        known: &["auto_round:auto_awq", "auto_round:auto_gptq", "auto_round:awq", "auto_round:gptq"],
    },
    Variety {
        method: "",
        key: "quant_algo",
        known: &[
            "fp8",
            "fp8_pb_wo",
            "fp8_per_channel_per_token",
            "mixed_precision",
            "mxfp4",
            "mxfp8",
            "nvfp4",
            "nvfp4_awq",
            "w4a16_nvfp4",
            "w4a8_nvfp4_fp8",
        ],
    },
];

/// The `quantization_config` of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The method's name, if there is a configuration.
    pub(super) method: Option<String>,
    /// The architecture, for packings that are an architecture's own.
    pub(super) model_type: Option<String>,
    entries: Map<String, Value>,
}

impl Settings {
    /// Reads the configuration's own entry, else that of its text model, else the separate file.
    pub(super) fn read(config: &Value, hf_quant_config: Option<&Value>) -> Self {
        let places = [
            config.get("quantization_config"),
            config.pointer("/text_config/quantization_config"),
            config.get("compression_config"),
            hf_quant_config,
        ];
        let model_type = config.get("model_type").and_then(Value::as_str).map(str::to_owned);
        let Some(entries) = places.into_iter().flatten().find_map(Value::as_object) else {
            return Self { model_type, ..Self::default() };
        };
        // modelopt's separate file has the entries one level below.
        let entries = entries.get("quantization").and_then(Value::as_object).unwrap_or(entries).clone();
        let named = |key: &str| entries.get(key).and_then(Value::as_str).map(str::to_owned);
        let algorithm = entries.contains_key("quant_algo").then(|| "modelopt".to_owned());
        let method = named("quant_method").or(algorithm).map(|name| name.trim_start_matches("intel/").to_owned());
        Self { method, model_type, entries }
    }

    /// The entry in MLX's own form: `quantization`, or what older versions wrote as a `quantization_config` without a method.
    pub(super) fn own<'a>(&'a self, config: &'a Value) -> Option<Value> {
        match config.get("quantization") {
            Some(own) if !own.is_null() => Some(own.clone()),
            _ if self.method.is_none() && self.entries.contains_key("bits") => {
                Some(Value::Object(self.entries.clone()))
            }
            _ => None,
        }
    }

    /// Refuses a method that is not known, by name.
    pub(super) fn refuse_unknown(&self) -> Result<(), ForeignError> {
        let Some(method) = &self.method else { return Ok(()) };
        let refuse = |variety| Err(ForeignError::Method { method: method.clone(), variety });
        if !METHODS.contains(&method.as_str()) {
            return refuse(None);
        }
        for Variety { key, known, .. } in VARIETIES.iter().filter(|variety| method.starts_with(variety.method)) {
            if let Some(value) = self.text(key)
                && !known.contains(&value.to_ascii_lowercase().as_str())
            {
                return refuse(Some((key, format!("`{value}`"))));
            }
        }
        if let Some(sparse) = self.nested("sparsity_config", "format").filter(|&format| format != "dense") {
            return refuse(Some(("sparsity_config", sparse.to_string())));
        }
        // Weights that were rotated need rotated inputs.
        if let Some(Value::Object(transforms)) = self.nested("transform_config", "config_groups")
            && !transforms.is_empty()
        {
            let names: Vec<&str> = transforms.keys().map(String::as_str).collect();
            return refuse(Some(("transform_config", format!("`{}`", names.join("`, `")))));
        }
        Ok(())
    }

    /// Whether the method is `name`, or packs as it does.
    pub(super) fn packs_as(&self, name: &str) -> bool {
        let Some(method) = &self.method else { return false };
        match method.as_str() {
            "auto-round" => self.text("packing_format").unwrap_or("auto_gptq").contains(name),
            "gptq_v2" => name == "gptq",
            method => method == name,
        }
    }

    /// An entry that is text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entries.get(key).and_then(Value::as_str)
    }

    fn nested(&self, key: &str, below: &str) -> Option<&Value> {
        self.entries.get(key)?.get(below).filter(|value| !value.is_null())
    }

    /// An entry that is a small number.
    pub(super) fn number(&self, key: &str) -> Option<i32> {
        self.entries.get(key).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok())
    }

    /// Whether single layers may differ from the entries of the head.
    pub(super) fn has_overrides(&self) -> bool {
        ["dynamic", "extra_config"].iter().any(|key| self.entries.get(*key).is_some_and(|value| !value.is_null()))
    }

    /// Whether scales are powers of two.
    pub(super) fn scales_are_powers(&self) -> bool {
        self.text("scale_fmt") == Some("ue8m0")
    }

    /// The block of weights, rows and columns, that has one fp8 scale.
    pub(super) fn block(&self) -> Option<(i32, i32)> {
        let block = self.entries.get("weight_block_size").and_then(Value::as_array)?;
        let side =
            |i: usize| block.get(i).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).filter(|&n| n > 0);
        Some((side(0)?, side(1)?))
    }

    /// The bits of a weight, if all groups of compressed-tensors agree.
    pub(super) fn group_bits(&self) -> Option<i32> {
        let groups = self.entries.get("config_groups")?.as_object()?;
        let mut bits = groups.values().map(|group| group.pointer("/weights/num_bits").and_then(Value::as_i64));
        let first = bits.next()??;
        bits.all(|other| other == Some(first)).then(|| i32::try_from(first).ok()).flatten()
    }
}
