//! EXAONE 4: norms of what the halves of a block give, normed heads, and in large models three sliding layers to one full
//! (arXiv:2507.11407).
//!
//! Ports `mlx_lm/models/exaone4.py` @ 0.32.2. Unusual: where some layers slide, the full ones know no positions.
//! Differences: `layer_types` is read, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["exaone4"]);

/// What EXAONE 4 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    /// `L` for a sliding layer and `G` for a full one, over and over.
    sliding_window_pattern: Option<String>,
}

impl Config {
    /// Whether a layer slides; `None` in a model of which no layer does.
    fn is_local(&self, c: &Common, layer: usize) -> Result<Option<bool>> {
        let pattern = self.sliding_window_pattern.as_deref().unwrap_or_default().as_bytes();
        if !pattern.is_empty() {
            return c.slides(layer, pattern.get(layer % pattern.len()) == Some(&b'L')).map(Some);
        }
        for other in 0..c.num_hidden_layers as usize {
            if c.slides(other, false)? {
                return c.slides(layer, false).map(Some);
            }
        }
        Ok(None)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        if self.is_local(c, 0)?.is_some() && c.sliding_window()?.is_none() {
            return Err(missing("sliding_window"));
        }
        Ok(())
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let is_local = self.is_local(c, layer)?;
        let rope = if is_local == Some(false) { Rope::none() } else { Rope::from(c)? };
        let heads = Heads::grouped(c, rope)?
            .qk_norm(Norm::rms, c.rms_norm_eps()?)
            .window(c.window(layer, is_local == Some(true))?);
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(PostNormBlock::with(w, c, attention, Mlp::of(&w.at("mlp"), c)?)?))
    }
}
