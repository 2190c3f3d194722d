//! What a generation may be told, as plain data.

use mlxlm_cache::{CacheKind, Caches};

use crate::{Error, ProcessorOptions, Result, SamplerOptions};

/// How to generate; the defaults are those of the reference's `stream_generate`.
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
    /// How many tokens a draft model proposes at a time.
    pub num_draft_tokens: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: Some(256),
            sampler: SamplerOptions::default(),
            processors: ProcessorOptions::default(),
            prefill_step_size: 2048,
            max_kv_size: None,
            kv_quantization: None,
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

/// How keys and values are quantized: affine, as in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuantization {
    /// Bits of a number.
    pub bits: i32,
    /// Numbers that share a scale.
    pub group_size: i32,
    /// A layer is quantized once it has read so many tokens.
    pub start: usize,
}

impl KvQuantization {
    /// The reference's defaults for everything but the bits.
    pub fn with_bits(bits: i32) -> Self {
        Self { bits, group_size: 64, start: 5000 }
    }

    /// Quantizes the layers that have read enough.
    pub(crate) fn apply(self, caches: &mut Caches) -> Result<()> {
        Ok(caches.quantize(self.group_size, self.bits, i32::try_from(self.start).unwrap_or(i32::MAX))?)
    }
}
