//! The options of a generation, as plain data.

use mlxlm_cache::{CacheKind, Caches, KvFormat, SnapKv};
use mlxlm_core::device;

use crate::{Error, ProcessorOptions, Result, SamplerOptions};

/// How many tokens of a prompt are read at a time unless somebody asks for another number: 512 by our CPU kernels, where that is faster
/// and takes less memory, and the reference's 2048 otherwise. What a cache of limited size keeps depends on the number, so there it is the
/// reference's, too.
pub fn prefill_step_size(max_kv_size: Option<usize>) -> usize {
    if max_kv_size.is_none() && device::has_kernels() { 512 } else { 2048 }
}

/// How to generate; the defaults are those of the reference's `stream_generate`, but for [`prefill_step_size`].
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate; `None` goes on until the model ends the text.
    pub max_tokens: Option<usize>,
    /// How tokens are drawn.
    pub sampler: SamplerOptions,
    /// What is done to the logits before.
    pub processors: ProcessorOptions,
    /// How many tokens of the prompt are read at a time.
    pub prefill_step_size: usize,
    /// The most tokens that a cache made here keeps: the first four and the latest others. `None` keeps all.
    pub max_kv_size: Option<usize>,
    /// Whether the cache is quantized.
    pub kv_quantization: Option<KvQuantization>,
    /// Whether the matrices that gated delta nets remember are kept in bf16, and not in f32.
    pub state_bf16: bool,
    /// Whether a long prompt keeps only what its end looks at.
    pub snapkv: Option<SnapKv>,
    /// How many tokens are proposed at a time, where somebody proposes; above [`MAX_DRAFT_TOKENS`](crate::engine::MAX_DRAFT_TOKENS) it is that many.
    pub num_draft_tokens: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: Some(256),
            sampler: SamplerOptions::default(),
            processors: ProcessorOptions::default(),
            prefill_step_size: prefill_step_size(None),
            max_kv_size: None,
            kv_quantization: None,
            state_bf16: false,
            snapkv: None,
            num_draft_tokens: 2,
        }
    }
}

impl GenerateOptions {
    /// Refuses what no generation can do; what depends on the model is checked where the model is known.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_tokens == Some(0) {
            return Err(Error::parameter("max_tokens", 0, "a positive number, or none for no limit"));
        }
        if self.prefill_step_size == 0 {
            return Err(Error::parameter("prefill_step_size", 0, "a positive number"));
        }
        Ok(())
    }

    /// Empty caches for layers of these kinds.
    pub(crate) fn caches(&self, kinds: &[CacheKind]) -> Result<Caches> {
        Ok(match self.max_kv_size()? {
            None => Caches::new(kinds),
            Some(max_size) => Caches::with_max_size(kinds, max_size)?,
        })
    }

    /// [`max_kv_size`](Self::max_kv_size) as caches count.
    pub(crate) fn max_kv_size(&self) -> Result<Option<i32>> {
        let too_large = |size| Error::parameter("max_kv_size", size, "a positive 32-bit integer");
        self.max_kv_size.map(|size| i32::try_from(size).map_err(|_| too_large(size))).transpose()
    }
}

/// How keys and values are quantized: affine, as in the reference, but each with bits of its own and perhaps rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuantization {
    /// Bits of keys, and of values.
    pub bits: [i32; 2],
    /// Numbers that share a scale.
    pub group_size: i32,
    /// Whether keys and values are rotated before they are quantized. Where nothing is said, what has [4 bits](Self::ROTATED_FROM) and
    /// fewer is, and caches that are quantized already stay as they are.
    pub rotate: Option<bool>,
    /// A layer is quantized once it has read so many tokens.
    pub start: usize,
}

impl KvQuantization {
    /// What has so many bits and fewer is rotated where nothing is said.
    pub const ROTATED_FROM: i32 = 4;

    /// The reference's defaults for everything but the bits, which are those of keys and of values.
    pub fn with_bits(bits: i32) -> Self {
        Self { bits: [bits; 2], group_size: 64, rotate: None, start: 5000 }
    }

    /// The format of caches that are quantized so from the start.
    ///
    /// # Errors
    /// If MLX has no such quantization.
    pub fn format(self) -> Result<KvFormat> {
        let rotated = self.bits.map(|bits| self.rotate.unwrap_or(bits <= Self::ROTATED_FROM));
        Ok(KvFormat::mixed(self.bits, self.group_size)?.rotated(rotated))
    }

    /// The format of these caches, to come or as they have it.
    fn format_of(self, caches: &Caches) -> Result<KvFormat> {
        let asked = self.format()?;
        let as_held = |held: &KvFormat| self.rotate.is_none() && asked.rotated(held.is_rotated()) == *held;
        Ok(caches.format().filter(as_held).unwrap_or(asked))
    }

    /// Refuses caches that are quantized already, and otherwise.
    pub(crate) fn check_held(self, caches: &Caches) -> Result<()> {
        let asked = self.format_of(caches)?;
        match caches.format() {
            Some(held) if held != asked => Err(mlxlm_cache::Error::Requantize { held, asked }.into()),
            _ => Ok(()),
        }
    }

    /// Quantizes the layers that have read enough.
    pub(crate) fn apply(self, caches: &mut Caches) -> Result<()> {
        let format = self.format_of(caches)?;
        Ok(caches.quantize(format, i32::try_from(self.start).unwrap_or(i32::MAX))?)
    }
}
