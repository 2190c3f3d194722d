//! Qwen3.5 in packs of two bits, into whose weights Walsh-Hadamard rotations were folded (arXiv:2404.00456).
//!
//! Ports `mlx_lm/models/prism_hadamard_qwen35.py` @ 0.32.2. Unusual: `modules` lists the packed leaves; a linear map rotates what it
//! reads, and the embedding table turns its rows back. Differences: leaves may be packed in other ways too, and one that is listed and
//! not in the model is found by its signs, which then belong to nothing.

use super::qwen3_5;
use crate::prelude::*;
use crate::registry::Built;

pub(super) const ARCH: Architecture = Architecture::model(&["prism_hadamard_qwen35"], rules, build);

/// What is said of one leaf.
#[derive(Debug, Deserialize)]
struct Packed {
    path: String,
    block: i32,
    embedding: bool,
    dtype: String,
}

/// What a pack adds to Qwen3.5.
#[derive(Debug, Deserialize)]
struct Pack {
    #[serde(default = "two")]
    schema_version: i32,
    #[serde(default)]
    tensor_namespace: String,
    #[serde(default = "grouped")]
    gdn_activation_layout: String,
    #[serde(default)]
    modules: Vec<Packed>,
}

fn two() -> i32 {
    2
}

fn grouped() -> String {
    "grouped".into()
}

impl Pack {
    fn read(config: &ModelConfig) -> Result<Self> {
        let (pack, _): (Self, _) = config.parse()?;
        let refuse = |why: String| Err(Error::config(why));
        match (pack.schema_version, pack.tensor_namespace.as_str()) {
            (1, "mlx-lm-text") | (2, "mlx-vlm-qwen3_5") => {}
            (version, space) => {
                return refuse(format!("`schema_version` {version} of `tensor_namespace` `{space}` is not known"));
            }
        }
        if pack.gdn_activation_layout != "grouped" {
            return refuse(format!("`gdn_activation_layout` is `{}`, expected `grouped`", pack.gdn_activation_layout));
        }
        if pack.modules.is_empty() {
            return refuse("`modules` is missing or empty".into());
        }
        for (i, Packed { path, block, embedding, dtype }) in pack.modules.iter().enumerate() {
            if ![0, 512, 1024, 2048, 4096, 8192].contains(block) {
                return refuse(format!(
                    "`modules[{i}].block` is {block}, expected 0 or a power of two from 512 to 8192"
                ));
            }
            if dtype != "float16" {
                return refuse(format!("`modules[{i}].dtype` is `{dtype}`, expected `float16`"));
            }
            if *embedding != (path == LLAMA.table) || pack.modules[..i].iter().any(|other| other.path == *path) {
                return refuse(format!("`modules[{i}]` lists `{path}` twice or as what it is not"));
            }
        }
        Ok(pack)
    }

    /// The leaves that rotate, and their blocks.
    fn rotated(&self) -> impl Iterator<Item = (&str, i32)> {
        self.modules.iter().filter(|leaf| leaf.block > 0).map(|leaf| (leaf.path.as_str(), leaf.block))
    }
}

fn rules(config: &ModelConfig) -> Result<Vec<Rule>> {
    let pack = Pack::read(config)?;
    let mut rules = qwen3_5::ARCH.rules(config)?;
    let signs: Vec<String> = pack.rotated().map(|(path, _)| format!("language_model.{path}.signs")).collect();
    rules.push(Rule::custom(move |tensors| {
        for name in &signs {
            let Some(signs) = tensors.get(name) else { continue };
            if signs.to_vec_cast::<f32>().map_err(mlxlm_core::Error::from)?.iter().any(|sign| sign.abs() != 1.0) {
                return Err(Error::config(format!("`{name}` must hold 1 and -1 only")));
            }
        }
        Ok(())
    }));
    Ok(rules)
}

fn build(config: &ModelConfig, w: &Weights) -> Result<Built> {
    for (path, block) in Pack::read(config)?.rotated() {
        w.at("language_model").at(path).rotated(block);
    }
    qwen3_5::ARCH.build_at(config, w)
}
