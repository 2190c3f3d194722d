//! What a model computes, as a short text: the key of its caches on the disk.
//!
//! Caches are of use to whoever computes the same from them, and to nobody else. So the key is made of what the model says to some
//! fixed tokens, to the bit: it changes with the weights, the way in which they are packed, an adapter, and the arithmetic of the
//! machine, and stays where a folder is moved or copied.

use std::fmt::Write;

use mlxlm_core::Dtype;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_models::CausalLm;
use mlxlm_sample::{Error, Result};
use sha2::{Digest, Sha256};

use super::score::row_of;

/// The tokens that are read.
const TOKENS: u32 = 32;

/// The hash of a model's logits after tokens from all over its vocabulary.
pub(super) fn of_model(model: &dyn CausalLm) -> Result<String> {
    let vocab = u32::try_from(model.info().vocab_size).unwrap_or(0).max(1);
    let tokens: Vec<u32> = (0..TOKENS).map(|i| (u64::from(i) * u64::from(vocab) / u64::from(TOKENS)) as u32).collect();
    let hidden = model.hidden(&row_of(&tokens), None)?;
    let last = hidden.try_index((.., hidden.dim(1) - 1.., ..))?;
    let logits = model.head(&last)?.as_dtype(Dtype::Float32)?;
    let logits = logits.to_vec_exact::<f32>().map_err(mlxlm_core::Error::from)?;
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(Error::NotNumbers { n: 0 });
    }
    let mut hash = Sha256::new();
    hash.update(model.info().model_type.as_bytes());
    logits.iter().for_each(|logit| hash.update(logit.to_le_bytes()));
    Ok(hex(&hash.finalize()))
}

/// The beginning of a hash, in digits.
pub(super) fn hex(hash: &[u8]) -> String {
    hash.iter().take(16).fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
