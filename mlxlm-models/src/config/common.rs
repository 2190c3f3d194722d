//! The entries of `config.json` that many architectures share.
//!
//! What everybody has is a field. All else is behind a method, which notes that somebody read it: an entry that no part of a
//! model asked for is reported.

use std::cell::RefCell;
use std::collections::BTreeSet;

use mlxlm_core::fast::Activation;
use mlxlm_core::weights::Weights;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ModelConfig, RopeConfig};
use crate::{Error, Result};

/// What architectures share; the names are those of `config.json`.
#[derive(Debug, Clone)]
pub struct Common {
    /// The architecture.
    pub model_type: String,
    /// `D`, the width of a token's state.
    pub hidden_size: i32,
    /// Blocks.
    pub num_hidden_layers: i32,
    /// `V`, rows of the embedding table.
    pub vocab_size: i32,
    /// Whether the embedding table is the head too.
    pub tie_word_embeddings: bool,
    entries: Entries,
    rope: RopeConfig,
    /// Everything, for [`part`](Self::part).
    all: ModelConfig,
    read: RefCell<BTreeSet<String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Entries {
    model_type: String,
    hidden_size: i32,
    num_hidden_layers: i32,
    vocab_size: i32,
    #[serde(default)]
    tie_word_embeddings: bool,
    intermediate_size: Option<Value>,
    num_attention_heads: Option<i32>,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    rms_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    activation_function: Option<String>,
    layer_types: Option<Vec<String>>,
    sliding_window: Option<i32>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<i32>,
}

/// Heads of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadCounts {
    /// `H`, query heads.
    pub count: i32,
    /// `K`, heads of keys and values.
    pub kv_count: i32,
    /// `d`, the width of a head.
    pub dim: i32,
}

/// Entries that a decoder always acts on.
const ALWAYS: &[&str] =
    &["hidden_size", "max_position_embeddings", "model_type", "num_hidden_layers", "tie_word_embeddings", "vocab_size"];

/// Entries that [`Common::rope`] hands out.
const ROPE: &[&str] = &[
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_traditional",
];

/// No model comes near these; a configuration beyond them is damaged or hostile.
const MAX_LAYERS: i32 = 10_000;
pub(crate) const MAX_WIDTH: i32 = 1 << 24;

impl Common {
    /// What `file` says, and `defaults` where it says nothing.
    pub(crate) fn new(file: &ModelConfig, defaults: &ModelConfig) -> Result<Self> {
        let (entries, _): (Entries, _) = file.or(defaults).parse()?;
        within("num_hidden_layers", entries.num_hidden_layers, MAX_LAYERS)?;
        within("hidden_size", entries.hidden_size, MAX_WIDTH)?;
        within("vocab_size", entries.vocab_size, MAX_WIDTH)?;
        Ok(Self {
            model_type: entries.model_type.clone(),
            hidden_size: entries.hidden_size,
            num_hidden_layers: entries.num_hidden_layers,
            vocab_size: entries.vocab_size,
            tie_word_embeddings: entries.tie_word_embeddings,
            rope: RopeConfig::read(file, defaults)?,
            all: file.over(defaults),
            entries,
            read: RefCell::default(),
        })
    }

    fn reads(&self, keys: &[&str]) {
        self.read.borrow_mut().extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// The entries that some architectures share, as a type of their own; those that it has count as read. A null in the file
    /// is an answer here: it does not stand for the default.
    pub fn part<T: DeserializeOwned>(&self) -> Result<T> {
        let (part, unread) = self.all.parse()?;
        let read = self.all.keys().filter(|key| !unread.iter().any(|other| other == key));
        self.read.borrow_mut().extend(read.map(str::to_owned));
        Ok(part)
    }

    /// The heads of the configuration: as many of keys and values as of queries if it has no number of them, and the hidden
    /// size divided among the query heads if it has no `head_dim`.
    pub fn heads(&self) -> Result<HeadCounts> {
        self.reads(&["num_attention_heads", "num_key_value_heads", "head_dim"]);
        let count = self.entries.num_attention_heads.ok_or_else(|| missing("num_attention_heads"))?;
        within("num_attention_heads", count, MAX_WIDTH)?;
        if self.entries.head_dim.is_none() && self.hidden_size % count != 0 {
            return Err(Error::config(format!(
                "`hidden_size` {} is not a multiple of `num_attention_heads` {count}",
                self.hidden_size
            )));
        }
        let dim = self.entries.head_dim.unwrap_or(self.hidden_size / count);
        HeadCounts::checked(count, self.entries.num_key_value_heads.unwrap_or(count), dim)
    }

    /// The query heads, of an architecture that says more of them elsewhere.
    pub fn num_attention_heads(&self) -> Result<i32> {
        self.reads(&["num_attention_heads"]);
        let count = self.entries.num_attention_heads.ok_or_else(|| missing("num_attention_heads"))?;
        within("num_attention_heads", count, MAX_WIDTH)?;
        Ok(count)
    }

    /// The width inside a block's MLP.
    pub fn intermediate_size(&self) -> Result<i32> {
        self.width()?.ok_or_else(|| missing("intermediate_size"))
    }

    /// The width inside a block's MLP, or `usual` if the configuration has none.
    pub fn intermediate_size_or(&self, usual: i32) -> Result<i32> {
        Ok(self.width()?.unwrap_or(usual))
    }

    /// `intermediate_size`, if it is there. Architectures whose files have one for each layer read it themselves.
    fn width(&self) -> Result<Option<i32>> {
        self.reads(&["intermediate_size"]);
        let Some(value) = &self.entries.intermediate_size else { return Ok(None) };
        let width = value
            .as_i64()
            .and_then(|width| i32::try_from(width).ok())
            .ok_or_else(|| Error::config(format!("`intermediate_size` is {value}, expected a whole number")))?;
        within("intermediate_size", width, MAX_WIDTH)?;
        Ok(Some(width))
    }

    /// What is added to the mean square in norms.
    pub fn rms_norm_eps(&self) -> Result<f32> {
        self.reads(&["rms_norm_eps"]);
        let eps = self.entries.rms_norm_eps.unwrap_or(1e-6);
        match eps.is_finite() && eps >= 0.0 {
            true => Ok(eps),
            false => Err(Error::config(format!("`rms_norm_eps` is {eps}, expected zero or a small number"))),
        }
    }

    /// What stands between the two halves of an MLP: what the configuration names, or `usual`.
    ///
    /// `hidden_activation` beats `hidden_act`, as in the files of Gemma.
    pub fn activation(&self, usual: Activation) -> Result<Activation> {
        self.reads(&["hidden_activation", "hidden_act", "activation_function"]);
        let Entries { hidden_activation, hidden_act, activation_function, .. } = &self.entries;
        let Some(name) = hidden_activation.as_ref().or(hidden_act.as_ref()).or(activation_function.as_ref()) else {
            return Ok(usual);
        };
        named_activation(name)
    }

    /// How positions are rotated.
    pub fn rope(&self) -> &RopeConfig {
        self.reads(ROPE);
        &self.rope
    }

    /// The longest sequence of the training.
    pub fn max_positions(&self) -> Option<i32> {
        self.rope.max_positions
    }

    /// The longest sequence that the model can read, if the configuration says so: that of the training, or what the
    /// rotary frequencies are stretched to.
    pub fn context_length(&self) -> Option<i32> {
        self.rope.context_length()
    }

    /// The entry of `layer_types` for a layer, if there is such a list. One that is too short is an error.
    pub fn layer_type(&self, layer: usize) -> Result<Option<&str>> {
        self.reads(&["layer_types"]);
        let Some(types) = self.entries.layer_types.as_ref().filter(|types| !types.is_empty()) else { return Ok(None) };
        match types.get(layer) {
            Some(name) => Ok(Some(name)),
            None => {
                Err(Error::config(format!("`layer_types` has {} entries, fewer than `num_hidden_layers`", types.len())))
            }
        }
    }

    /// Whether a layer slides: what `layer_types` says, or `otherwise` without such a list.
    pub fn slides(&self, layer: usize, otherwise: bool) -> Result<bool> {
        match self.layer_type(layer)? {
            None => Ok(otherwise),
            Some("sliding_attention") => Ok(true),
            Some("full_attention" | "attention") => Ok(false),
            Some(other) => Err(Error::config(format!(
                "`layer_types[{layer}]` is `{other}`; expected `full_attention` or `sliding_attention`"
            ))),
        }
    }

    /// `sliding_window`, which must be positive; `None` without one.
    pub fn sliding_window(&self) -> Result<Option<i32>> {
        self.reads(&["sliding_window"]);
        self.entries
            .sliding_window
            .map(|window| within("sliding_window", window, i32::MAX).map(|()| window))
            .transpose()
    }

    /// The window of a layer: `sliding_window` where the layer [slides](Self::slides). One as long as all that the model can
    /// read is none.
    pub fn window(&self, layer: usize, otherwise: bool) -> Result<Option<i32>> {
        match (self.slides(layer, otherwise)?, self.sliding_window()?) {
            (false, _) => Ok(None),
            (true, Some(window)) => {
                Ok(Some(window).filter(|window| self.context_length().is_none_or(|most| *window < most)))
            }
            (true, None) if self.layer_type(layer)?.is_none() => Ok(None),
            (true, None) => {
                Err(Error::config("`layer_types` has sliding attention, and `sliding_window` is not a positive number"))
            }
        }
    }

    /// The window of a layer of Qwen's: with `use_sliding_window`, the layers from `max_window_layers` on slide.
    pub fn window_above(&self, layer: usize) -> Result<Option<i32>> {
        self.reads(&["use_sliding_window", "max_window_layers", "sliding_window"]);
        if self.entries.use_sliding_window != Some(true) {
            self.reads(&["layer_types"]);
            return Ok(None);
        }
        let first = usize::try_from(self.entries.max_window_layers.unwrap_or(28)).unwrap_or(0);
        self.window(layer, layer >= first)
    }

    /// Which of `keys` no part of the model read, and the entries for rotation inside the objects that nothing acts on.
    pub(crate) fn unread(&self, keys: Vec<String>) -> Vec<String> {
        let read = self.read.borrow();
        let mut unread: Vec<String> =
            keys.into_iter().filter(|key| !ALWAYS.contains(&key.as_str()) && !read.contains(key.as_str())).collect();
        if read.contains("rope_scaling") {
            unread.extend(self.rope.unread());
        }
        unread
    }
}

impl HeadCounts {
    /// The projection at `w` of queries, keys and values in one, which lie in this order, each cut between its heads. Where there
    /// is a single head of keys, every device has all.
    pub fn cut<'a>(self, w: &Weights<'a>) -> Weights<'a> {
        let (queries, keys) = (self.count * self.dim, self.kv_count * self.dim);
        if self.kv_count > 1 { w.columns_of(&[queries, keys, keys]) } else { w.clone() }
    }

    /// The projection at `w` of keys or of values, cut between its heads; a single one is on every device.
    pub fn cut_keys<'a>(self, w: &Weights<'a>) -> Weights<'a> {
        if self.kv_count > 1 { w.columns() } else { w.clone() }
    }

    /// The way out at `w` of heads that were [cut](Self::cut).
    pub fn cut_out<'a>(self, w: &Weights<'a>) -> Weights<'a> {
        if self.kv_count > 1 { w.rows() } else { w.clone() }
    }

    /// Heads of these numbers and this width.
    pub fn checked(count: i32, kv_count: i32, dim: i32) -> Result<Self> {
        within("num_attention_heads", count, MAX_WIDTH)?;
        within("num_key_value_heads", kv_count, count)?;
        within("head_dim", dim, MAX_WIDTH)?;
        if dim % 2 != 0 {
            return Err(Error::config(format!("`head_dim` is {dim}, expected an even number")));
        }
        if count % kv_count != 0 {
            return Err(Error::config(format!(
                "`num_attention_heads` {count} is not a multiple of `num_key_value_heads` {kv_count}"
            )));
        }
        if i64::from(count) * i64::from(dim) > i64::from(MAX_WIDTH) {
            return Err(Error::config(format!("{count} heads of {dim} are wider than any model: {MAX_WIDTH} at most")));
        }
        Ok(Self { count, kv_count, dim })
    }
}

/// The function of this name in `hidden_act` and its like.
pub(crate) fn named_activation(name: &str) -> Result<Activation> {
    Ok(match name {
        "silu" | "swish" | "swiglu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" | "gelu_accurate" => Activation::GeluApprox,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "relu2" | "relu_squared" => Activation::Relu2,
        "sigmoid" => Activation::Sigmoid,
        "tanh" => Activation::Tanh,
        "linear" => Activation::Identity,
        other => {
            return Err(Error::config(format!(
                "the activation `{other}` is not known; the known ones are silu, gelu, gelu_pytorch_tanh, quick_gelu, \
                 relu, relu2, sigmoid, tanh and linear"
            )));
        }
    })
}

pub(crate) fn missing(name: &str) -> Error {
    Error::config(format!("`{name}` is missing"))
}

/// Refuses the entry `name` unless it is from 1 to `most`.
pub(crate) fn within(name: &str, value: i32, most: i32) -> Result<()> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(Error::config(format!("`{name}` is {value}, expected 1 to {most}"))),
    }
}

/// Refuses entries that are sizes, unless each is at least 1.
pub(crate) fn all_within(sizes: &[(&str, i32)]) -> Result<()> {
    sizes.iter().try_for_each(|(name, value)| within(name, *value, MAX_WIDTH))
}

/// The product of two sizes, if a model can be so wide.
pub(crate) fn product(a: i32, b: i32) -> Result<i32> {
    let product = i64::from(a) * i64::from(b);
    match i32::try_from(product) {
        Ok(product) if (1..=MAX_WIDTH).contains(&product) => Ok(product),
        _ => Err(Error::config(format!("{a} times {b} is wider than any model: 1 to {MAX_WIDTH} are possible"))),
    }
}

/// Refuses the entry `name` unless it is from 0 to below `count`.
pub(crate) fn below(name: &str, value: i32, count: i32) -> Result<()> {
    match (0..count).contains(&value) {
        true => Ok(()),
        false => Err(Error::config(format!("`{name}` is {value}, expected 0 to {}", count.saturating_sub(1)))),
    }
}

/// Refuses the entry `name` unless it is a finite number above zero.
pub(crate) fn positive(name: &str, value: f32) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::config(format!("`{name}` is {value}, expected a positive number"))),
    }
}

/// Refuses the entry `name` if it switches off what the architecture always has here.
pub(crate) fn always_on(c: &Common, name: &str, is_on: bool) -> Result<()> {
    match is_on {
        true => Ok(()),
        false => Err(Error::config(format!("`{name}` is false, which is not supported for `{}`", c.model_type))),
    }
}

/// Refuses the entry `name` if it asks for what the architecture does not have here.
pub(crate) fn unsupported(c: &Common, name: &str, is_asked_for: bool) -> Result<()> {
    match is_asked_for {
        true => Err(Error::config(format!("`{name}` is set, which is not supported for `{}`", c.model_type))),
        false => Ok(()),
    }
}
