//! From the metadata of a GGUF file to the entries of `config.json`.

use mlxlm_core::text::GgufTokenizer;
use mlxlm_core::weights::gguf::{GgufFile, Metadata};
use serde_json::{Map, Value, json};

use super::family::Family;
use super::rope;
use crate::{ModelConfig, Result};

/// The numbers of an architecture in a file.
pub(super) struct Source<'f> {
    pub(super) file: &'f GgufFile,
    pub(super) family: &'static Family,
}

impl Source<'_> {
    pub(super) fn metadata(&self) -> &Metadata {
        self.file.metadata()
    }

    /// The whole key of a number of this architecture.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    /// A whole number that is the same for all layers.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.metadata().same_for_all(&self.key(name))?)
    }

    /// A whole number that must be there.
    fn needed(&self, name: &str) -> Result<i64> {
        self.integer(name)?.ok_or_else(|| self.metadata().wrong(self.key(name), "is missing").into())
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.metadata().float(&self.key(name))?)
    }

    /// `d`.
    pub(super) fn head_dim(&self) -> Result<i64> {
        let (hidden, heads) = (self.needed("embedding_length")?, self.needed("attention.head_count")?);
        match self.integer("attention.key_length")? {
            Some(length) => Ok(length),
            None => hidden
                .checked_div(heads)
                .ok_or_else(|| self.metadata().wrong(self.key("attention.head_count"), "is zero").into()),
        }
    }
}

/// The configuration of a file; how its tensors are packed and of which type they are is added with them.
pub(super) fn config(file: &GgufFile, family: &'static Family) -> Result<ModelConfig> {
    let source = Source { file, family };
    let mut entries = common(&source)?;
    if let Some(scaling) = rope::scaling(&source)? {
        entries.insert("rope_scaling".into(), scaling);
    }
    (family.config)(&source, &mut entries)?;
    ModelConfig::new(Value::Object(entries))
}

/// What all architectures have.
fn common(s: &Source) -> Result<Map<String, Value>> {
    let heads = s.needed("attention.head_count")?;
    let head_dim = s.head_dim()?;
    if let Some(length) = s.integer("attention.value_length")?.filter(|&length| length != head_dim) {
        let why = format!("is {length}, and heads of keys have {head_dim}, which no architecture here allows");
        return Err(s.metadata().wrong(s.key("attention.value_length"), why).into());
    }
    let eps = "attention.layer_norm_rms_epsilon";
    let eps = s.float(eps)?.ok_or_else(|| s.metadata().wrong(s.key(eps), "is missing"))?;
    let vocab = s.file.shape("token_embd.weight").and_then(|shape| shape.first());
    let Some(vocab) = vocab else {
        return Err(s
            .metadata()
            .wrong("token_embd.weight", "is missing: the file holds a vocabulary and no model")
            .into());
    };
    let mut entries = Map::new();
    let mut set = |key: &str, value: Value| entries.insert(key.to_owned(), value);
    set("hidden_size", s.needed("embedding_length")?.into());
    set("num_hidden_layers", s.needed("block_count")?.into());
    set("intermediate_size", s.needed("feed_forward_length")?.into());
    set("num_attention_heads", heads.into());
    set("num_key_value_heads", s.integer("attention.head_count_kv")?.unwrap_or(heads).into());
    set("head_dim", head_dim.into());
    set("vocab_size", (*vocab).into());
    set("rms_norm_eps", eps.into());
    set("rope_theta", s.float("rope.freq_base")?.unwrap_or(10_000.0).into());
    set("tie_word_embeddings", s.file.shape("output.weight").is_none().into());
    if let Some(length) = s.integer("context_length")? {
        set("max_position_embeddings", length.into());
    }
    let ends = GgufTokenizer::ends(s.metadata())?;
    if !ends.is_empty() {
        set("eos_token_id", ends.into());
    }
    Ok(entries)
}

/// Says which architecture it is.
#[expect(clippy::unnecessary_wraps, reason = "it stands where others may fail")]
pub(super) fn model_type(c: &mut Map<String, Value>, name: &str) -> Result<()> {
    c.insert("model_type".into(), name.into());
    Ok(())
}

/// Llama, Mistral and `SmolLM`, and Mixtral where there are experts.
pub(super) fn llama(s: &Source, c: &mut Map<String, Value>) -> Result<()> {
    match s.integer("expert_count")?.unwrap_or(0) {
        0 => {
            c.insert("attention_bias".into(), s.file.shape("blk.0.attn_q.bias").is_some().into());
            c.insert("mlp_bias".into(), s.file.shape("blk.0.ffn_up.bias").is_some().into());
            model_type(c, "llama")
        }
        experts => {
            c.insert("num_local_experts".into(), experts.into());
            c.insert("num_experts_per_tok".into(), s.needed("expert_used_count")?.into());
            model_type(c, "mixtral")
        }
    }
}

pub(super) fn qwen3_moe(s: &Source, c: &mut Map<String, Value>) -> Result<()> {
    c.insert("num_experts".into(), s.needed("expert_count")?.into());
    c.insert("num_experts_per_tok".into(), s.needed("expert_used_count")?.into());
    c.insert("moe_intermediate_size".into(), s.needed("expert_feed_forward_length")?.into());
    // The metadata does not say so; all models of this architecture do it.
    c.insert("norm_topk_prob".into(), true.into());
    c.insert("decoder_sparse_step".into(), 1.into());
    c.insert("mlp_only_layers".into(), json!([]));
    model_type(c, "qwen3_moe")
}

pub(super) fn gemma2(s: &Source, c: &mut Map<String, Value>) -> Result<()> {
    c.insert("attn_logit_softcapping".into(), s.float("attn_logit_softcapping")?.unwrap_or(50.0).into());
    c.insert("final_logit_softcapping".into(), s.float("final_logit_softcapping")?.unwrap_or(30.0).into());
    c.insert("query_pre_attn_scalar".into(), query_scalar(s, 46)?.into());
    if let Some(window) = s.integer("attention.sliding_window")? {
        c.insert("sliding_window".into(), window.into());
    }
    model_type(c, "gemma2")
}

pub(super) fn gemma3(s: &Source, c: &mut Map<String, Value>) -> Result<()> {
    c.insert("query_pre_attn_scalar".into(), query_scalar(s, 62)?.into());
    c.insert("rope_local_base_freq".into(), s.float("rope.freq_base_swa")?.unwrap_or(10_000.0).into());
    if let Some(window) = s.integer("attention.sliding_window")? {
        c.insert("sliding_window".into(), window.into());
    }
    c.insert("sliding_window_pattern".into(), 6.into());
    model_type(c, "gemma3_text")
}

/// What queries are divided by the root of, which the metadata does not say: the length of a head, but the share of a head in the
/// hidden size for the largest model, which is known by its layers.
fn query_scalar(s: &Source, layers_of_largest: i64) -> Result<i64> {
    let (hidden, heads) = (s.needed("embedding_length")?, s.needed("attention.head_count")?);
    match s.needed("block_count")? == layers_of_largest {
        true => Ok(hidden / heads.max(1)),
        false => s.head_dim(),
    }
}

pub(super) fn phi3(s: &Source, c: &mut Map<String, Value>) -> Result<()> {
    let head_dim = s.head_dim()?;
    let rotated = s.integer("rope.dimension_count")?.unwrap_or(head_dim);
    c.insert("partial_rotary_factor".into(), (rotated as f64 / head_dim.max(1) as f64).into());
    if let Some(length) = s.integer("rope.scaling.original_context_length")? {
        c.insert("original_max_position_embeddings".into(), length.into());
    }
    model_type(c, "phi3")
}
