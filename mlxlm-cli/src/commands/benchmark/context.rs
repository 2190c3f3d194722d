//! Caches that hold a context which nobody has read: random keys and values, in a moment instead of a long prefill.

use mlxlm_cache::{Attend, Caches, LayerCache, Masks};
use mlxlm_core::{Array, Exception, random, transforms};
use mlxlm_models::CausalLm;

use crate::failure::{Failure, Result};

/// Caches with `tokens` random tokens in every layer; none for no tokens.
pub(super) fn filled(model: &dyn CausalLm, tokens: u32) -> Result<Option<Caches>> {
    if tokens == 0 {
        return Ok(None);
    }
    // Of 31 bits, by its parser.
    let tokens = tokens as i32;
    let kinds = model.cache_kinds();
    // One token shows what each layer keeps.
    let mut pattern = Caches::new(&kinds);
    let _logits = model.forward(&Array::from_slice(&[0_u32], &[1, 1]), Some(&mut pattern))?;
    let mut caches = Caches::new(&kinds);
    let masks = Masks::default();
    for (i, pattern) in pattern.layers().iter().enumerate() {
        let (keys, values) = keys_and_values(pattern)?;
        let (k, v) = (like(keys, tokens)?, like(values, tokens)?);
        let layer = caches.layer_mut(i)?;
        // Only what the cache keeps is computed, not the attention.
        layer.attend(&k, &k, &v, &Attend::scaled(1.0), &masks)?;
        transforms::eval(layer.arrays()).map_err(mlxlm_core::Error::from)?;
    }
    Ok(Some(caches))
}

fn keys_and_values(layer: &LayerCache) -> Result<(&Array, &Array)> {
    match (layer, &layer.arrays()[..]) {
        (LayerCache::State(_) | LayerCache::Compressed(_) | LayerCache::List(_), _) => {}
        (_, &[keys, values]) => return Ok((keys, values)),
        _ => {}
    }
    Err(Failure::usage("`--context-tokens` needs a model with a KV cache in every layer")
        .hint("use a larger `--prompt-tokens` instead"))
}

/// Random numbers in the shape `[B, K, S, d]` of an array, but with another S.
fn like(array: &Array, tokens: i32) -> Result<Array> {
    let &[rows, heads, _, dim] = array.shape() else {
        return Err(Failure::new(format!("a cache keeps arrays of shape {:?}, expected four axes", array.shape())));
    };
    let drawn = random::normal::<f32>(&[rows, heads, tokens, dim][..], None, None, None);
    Ok(drawn
        .and_then(|drawn| drawn.as_dtype(array.dtype()))
        .map_err(|error: Exception| mlxlm_core::Error::from(error))?)
}
