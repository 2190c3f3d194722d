//! Models out as GGUF: configuration to metadata, tensors under the names of llama.cpp, the tokenizer with its template.
//!
//! Source: the converters of llama.cpp (`conversion/llama.py`, `conversion/qwen.py`, `gguf-py/gguf/vocab.py`). Unusual:
//! - Which splits a tokenizer has is found by trying those that llama.cpp knows: the first that gives the tokens of the
//!   original for a text full of hard places is written.
//! - `Q4_0` keeps the head, or the table where both are one, in `Q8_0`: it is the most sensitive of all.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::nn::{self, LeafMut, Matrix};
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::weights::gguf::{GgufFile, Metadata, TensorType, Value as Entry, write_gguf};
use mlxlm_core::{Array, Exception, io};
use serde_json::Value;

use super::{export_tokenizer, is_file, names};
use crate::{Architecture, CausalLm, Error, LoadOptions, ModelConfig, Result, load_model};

/// The architectures that are written, as configurations and as GGUF name them, and whether rows of queries and keys are
/// permuted.
const FAMILIES: [(&str, &str, bool); 4] =
    [("llama", "llama", true), ("mistral", "llama", true), ("qwen2", "qwen2", false), ("qwen3", "qwen3", false)];

/// The types that are written, with their numbers in `general.file_type`.
const KINDS: [(TensorType, i64); 5] =
    [(TensorType::F32, 0), (TensorType::F16, 1), (TensorType::Q4_0, 2), (TensorType::Q8_0, 7), (TensorType::BF16, 32)];

/// Writes the model of a folder or a GGUF file, with a fine-tune laid over it if there is one, as a GGUF file.
///
/// # Errors
/// As [`export_model`]; and those of loading.
pub fn export(source: &Path, adapter: Option<&Path>, target: &Path, kind: TensorType) -> Result<()> {
    let options = LoadOptions { adapter_path: adapter.map(Path::to_owned), ..LoadOptions::default() };
    let (mut built, config) = load_model(source, &options)?;
    // Unpacked first, so that what was trained is not rounded with what was packed.
    dequantize(&mut *built.model)?;
    let mut failed: Option<Exception> = None;
    built.model.walk_mut("", &mut |_, leaf| {
        let fused = match leaf {
            LeafMut::Linear(leaf) => leaf.fuse(),
            LeafMut::Embedding(leaf) => leaf.fuse(),
            LeafMut::Experts(leaf) => leaf.fuse(),
            _ => Ok(()),
        };
        if let Err(exception) = fused {
            failed.get_or_insert(exception);
        }
    });
    if let Some(exception) = failed {
        return Err(exception.into());
    }
    export_model(&mut *built.model, &config, source, target, kind)
}

/// Writes a model as a GGUF file: its matrices as `kind`, vectors in 32 bits. Packed weights are unpacked first, in the
/// model itself; the tokenizer is that of `source`, the folder or file that the model is from.
///
/// # Errors
/// [`Error::Config`] for architectures, rotations and tokenizers that are not written, by name.
pub fn export_model(
    model: &mut dyn CausalLm,
    config: &ModelConfig,
    source: &Path,
    target: &Path,
    kind: TensorType,
) -> Result<()> {
    let refuse = |what: String| Error::config(format!("{what} cannot be written as GGUF"));
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(&(_, architecture, permuted)) = FAMILIES.iter().find(|(name, ..)| *name == model_type) else {
        let known: Vec<&str> = FAMILIES.iter().map(|(name, ..)| *name).collect();
        return Err(refuse(format!("a model of the type `{model_type}` (only {} can)", known.join(", "))));
    };
    let Some(&(_, file_type)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        return Err(refuse(format!("the type {} ", kind.name())));
    };
    let config = &Architecture::of(config)?.filled(config)?;
    let mut entries = numbers(config, architecture)?;
    entries.insert("general.file_type".into(), Entry::Integer(file_type));
    let rows = model.info().vocab_size.unsigned_abs() as usize;
    match is_file(source) {
        true => {
            let file = GgufFile::open(source)?;
            let own = file.metadata().entries().iter().filter(|(key, _)| key.starts_with("tokenizer."));
            entries.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        }
        false => entries.extend(export_tokenizer::entries(source, rows)?),
    }
    dequantize(model)?;
    let mut tensors = Vec::new();
    if let Some(factors) = stretched(config)? {
        let count = factors.len() as i32;
        tensors.push((names::ROPE_FREQS.to_owned(), Array::from_slice(&factors, &[count]), TensorType::F32));
    }
    let heads = |key: &str| config.get(key).and_then(Value::as_i64).unwrap_or(1) as i32;
    let query_heads = heads("num_attention_heads");
    let key_heads = config.get("num_key_value_heads").map_or(query_heads, |_| heads("num_key_value_heads"));
    let all = nn::parameters(model);
    let has_head = all.iter().any(|(name, _)| name.starts_with("lm_head."));
    for (name, array) in all {
        let (path, leaf) = name.rsplit_once('.').unwrap_or((&name, ""));
        let own = names::in_gguf(path).filter(|_| ["weight", "bias"].contains(&leaf));
        let own = own.ok_or_else(|| refuse(format!("the tensor `{name}`")))?;
        let array = match path.rsplit('.').next() {
            Some("q_proj") if permuted => permuted_rows(&array, query_heads)?,
            Some("k_proj") if permuted => permuted_rows(&array, key_heads)?,
            _ => array,
        };
        let kind = match array.ndim() {
            2 => fitting(kind, &array, own == "output" || (own == "token_embd" && !has_head)),
            _ => TensorType::F32,
        };
        tensors.push((format!("{own}.{leaf}"), array, kind));
    }
    Ok(write_gguf(target, &Metadata::new(target, entries), &tensors)?)
}

/// The type of one matrix: rows that are no whole number of blocks stay in 16 bits.
fn fitting(kind: TensorType, array: &Array, is_head: bool) -> TensorType {
    let kind = if is_head && kind == TensorType::Q4_0 { TensorType::Q8_0 } else { kind };
    let row = array.shape().last().copied().unwrap_or(0) as usize;
    if row.is_multiple_of(kind.block()) { kind } else { TensorType::F16 }
}

fn dequantize(model: &mut dyn CausalLm) -> Result<()> {
    let mut failed: Option<Exception> = None;
    model.walk_mut("", &mut |_, mut leaf| {
        if let Some(Err(exception)) = leaf.matrix().map(Matrix::dequantize) {
            failed.get_or_insert(exception);
        }
    });
    failed.map_or(Ok(()), |exception| Err(exception.into()))
}

/// The numbers of a configuration.
fn numbers(config: &ModelConfig, architecture: &str) -> Result<BTreeMap<String, Entry>> {
    let integer = |key: &str| config.get(key).and_then(Value::as_i64);
    let needed = |key: &str| integer(key).ok_or_else(|| Error::config(format!("`{key}` is missing")));
    let float = |key: &str| config.get(key).and_then(Value::as_f64);
    let (hidden, heads) = (needed("hidden_size")?, needed("num_attention_heads")?);
    let head_dim = integer("head_dim").unwrap_or(hidden / heads.max(1));
    let rope = config.get("rope_parameters");
    let theta = float("rope_theta").or_else(|| rope.and_then(|rope| rope.get("rope_theta")?.as_f64()));
    let mut entries = BTreeMap::from([
        ("general.architecture".to_owned(), Entry::Text(architecture.to_owned())),
        ("general.quantization_version".to_owned(), Entry::Integer(2)),
    ]);
    let mut set = |key: &str, value: Entry| entries.insert(format!("{architecture}.{key}"), value);
    set("block_count", Entry::Integer(needed("num_hidden_layers")?));
    set("context_length", Entry::Integer(integer("max_position_embeddings").unwrap_or(2048)));
    set("embedding_length", Entry::Integer(hidden));
    set("feed_forward_length", Entry::Integer(needed("intermediate_size")?));
    set("attention.head_count", Entry::Integer(heads));
    set("attention.head_count_kv", Entry::Integer(integer("num_key_value_heads").unwrap_or(heads)));
    set("attention.key_length", Entry::Integer(head_dim));
    set("attention.value_length", Entry::Integer(head_dim));
    set("attention.layer_norm_rms_epsilon", Entry::Float(float("rms_norm_eps").unwrap_or(1e-6)));
    set("rope.dimension_count", Entry::Integer(head_dim));
    set("rope.freq_base", Entry::Float(theta.unwrap_or(10_000.0)));
    set("vocab_size", Entry::Integer(needed("vocab_size")?));
    if let Some(Scaling { kind, factor, entry }) = scaling(config)? {
        match kind.as_str() {
            // The factors are a tensor.
            "llama3" => {}
            "linear" | "yarn" => {
                set("rope.scaling.type", Entry::Text(kind));
                set("rope.scaling.factor", Entry::Float(factor));
                if let Some(length) = entry.get("original_max_position_embeddings").and_then(Value::as_i64) {
                    set("rope.scaling.original_context_length", Entry::Integer(length));
                }
            }
            _ => return Err(Error::config(format!("rotations of the type `{kind}` cannot be written as GGUF"))),
        }
    }
    if config.get("sliding_window").is_some() && config.get("use_sliding_window") != Some(&Value::Bool(false)) {
        // llama.cpp reads a window for neither of these architectures; within it, nothing differs.
        let (window, length) =
            (integer("sliding_window").unwrap_or(0), integer("max_position_embeddings").unwrap_or(0));
        if window < length {
            return Err(Error::config(format!("a sliding window of {window} tokens cannot be written as GGUF")));
        }
    }
    Ok(entries)
}

/// How rotations are stretched.
struct Scaling<'c> {
    kind: String,
    factor: f64,
    entry: &'c Value,
}

fn scaling(config: &ModelConfig) -> Result<Option<Scaling<'_>>> {
    let entry = config.get("rope_scaling").or_else(|| config.get("rope_parameters"));
    let Some(entry) = entry.filter(|entry| entry.is_object()) else { return Ok(None) };
    let kind = entry.get("rope_type").or_else(|| entry.get("type")).and_then(Value::as_str).unwrap_or("default");
    if kind == "default" {
        return Ok(None);
    }
    let factor = entry.get("factor").and_then(Value::as_f64);
    let factor = factor.ok_or_else(|| Error::config("`rope_scaling` has no `factor`".to_owned()))?;
    Ok(Some(Scaling { kind: kind.to_owned(), factor, entry }))
}

/// Llama 3.1: what the frequency of each pair is divided by.
fn stretched(config: &ModelConfig) -> Result<Option<Vec<f32>>> {
    let Some(Scaling { kind, factor, entry }) = scaling(config)? else { return Ok(None) };
    if kind != "llama3" {
        return Ok(None);
    }
    let float = |key: &str, usual: f64| entry.get(key).and_then(Value::as_f64).unwrap_or(usual);
    let (low, high) = (float("low_freq_factor", 1.0), float("high_freq_factor", 4.0));
    let original = float("original_max_position_embeddings", 8192.0);
    let number = |key: &str| config.get(key).and_then(Value::as_f64);
    let heads = number("num_attention_heads").unwrap_or(1.0);
    let head_dim = number("head_dim").or_else(|| Some(number("hidden_size")? / heads)).unwrap_or(0.0) as usize;
    let base = number("rope_theta").or_else(|| entry.get("rope_theta")?.as_f64()).unwrap_or(10_000.0);
    let factor_of = |pair: usize| {
        let length = 2.0 * std::f64::consts::PI * base.powf(2.0 * pair as f64 / head_dim as f64);
        let smooth = ((original / length - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    Ok(Some((0..head_dim / 2).map(factor_of).collect()))
}

/// The order in which the two numbers that rotate together are neighbours.
///
/// # Shapes
/// - `array`: `[heads * d, …]`, and the same comes back
fn permuted_rows(array: &Array, heads: i32) -> Result<Array> {
    let shape = array.shape().to_vec();
    let rows = shape.first().copied().unwrap_or(0);
    if heads < 1 || rows % heads != 0 || rows / heads % 2 != 0 {
        return Err(Error::config(format!("{rows} rows are not {heads} heads of an even size")));
    }
    let halves = array.reshape(&[heads, 2, rows / heads / 2, -1])?;
    Ok(halves.swap_axes(1, 2)?.reshape(&shape)?)
}

/// Reads the tokenizer that was written, to compare.
pub(super) fn read_back(entries: &BTreeMap<String, Entry>) -> Result<Tokenizer> {
    let metadata = Metadata::new("model.gguf", entries.clone());
    let tokenizer = mlxlm_core::text::GgufTokenizer::from_metadata(&metadata)?;
    Ok(tokenizer.load(&TokenizerOptions::default())?)
}

/// The content of a JSON file of a folder.
pub(super) fn json(path: &Path) -> Result<Value> {
    Ok(io::read_json(path)?)
}
