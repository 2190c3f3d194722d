//! Mistral 4: latent attention with queries that grow with their position, and experts chosen by a softmax.
//!
//! Ports `mlx_lm/models/mistral4.py` @ 0.32.2, without a paper. Unusual: the softmax over the experts is taken in `f32`, and
//! groups of them are weighed by their best two. Differences: queries need not grow.

use super::deepseek_v3::{self, EPS};
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["mistral4"]).defaults(|| json!({"moe_layer_freq": 1}));

/// Mistral 4 adds nothing to [`Common`], [`LatentConfig`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
struct Config {}

/// How queries grow: by how much, and with which length.
fn growth(c: &Common) -> Result<Option<(f32, f32)>> {
    match c.rope().query_growth() {
        (None, _) => Ok(None),
        (Some(_), None) => Err(missing("rope_parameters.original_max_position_embeddings")),
        (Some(beta), Some(original)) => {
            positive("rope_parameters.original_max_position_embeddings", original as f32)?;
            Ok(Some((beta as f32, original as f32)))
        }
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        LatentConfig::of(c)?;
        growth(c)?;
        SparseConfig::of(c)?.by_wide_softmax().map(drop)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![
            Rule::Leaf("**.mlp.experts.gate_up_proj"),
            Rule::Leaf("**.mlp.experts.down_proj"),
            Rule::Rename("**.mlp.experts.gate_up_proj", "**.mlp.switch_mlp.gate_up_proj"),
            Rule::Rename("**.mlp.experts.down_proj", "**.mlp.switch_mlp.down_proj"),
            Rule::Halve { leaf: "**.mlp.switch_mlp.gate_up_proj", into: ["gate_proj", "up_proj"] },
        ];
        rules.push(Rule::DropFrom { stack: LLAMA.stack, first: c.num_hidden_layers as usize });
        rules.extend(deepseek_v3::rules(c)?);
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (latent, sparse) = (LatentConfig::of(c)?, SparseConfig::of(c)?);
        let rope = latent.rope(c)?;
        let scale = match c.rope().is_scaled() {
            true => latent.scale(c),
            false => ((latent.qk_nope_head_dim + latent.qk_rope_head_dim) as f32).powf(-0.5),
        };
        let heads = LatentHeads::of(c, latent, rope, EPS)?.scale(scale).growth(growth(c)?);
        let attention = LatentAttention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(sparse.block(w, c, layer, attention, sparse.by_wide_softmax()?)?))
    }
}
