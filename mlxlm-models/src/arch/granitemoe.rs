//! Granite 3 with a mixture of experts: scaled embeddings, scores, branches and logits (arXiv:2408.13359; the Granite 3.0
//! report, IBM, 2024).
//!
//! Ports `mlx_lm/models/granitemoe.py` @ 0.32.2. Unusual: the softmax is taken over the chosen experts only, and the way out of
//! attention and the head are packed to 8 bits at most. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["granitemoe"]).defaults(|| json!({"tie_word_embeddings": true}));

/// What Granite with experts adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    logits_scaling: f32,
    attention_multiplier: f32,
    embedding_multiplier: f32,
    residual_multiplier: f32,
    attention_bias: bool,
    num_local_experts: i32,
    num_experts_per_tok: i32,
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        positive("logits_scaling", self.logits_scaling)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![
            Rule::Halve {
                leaf: "**.block_sparse_moe.input_linear",
                into: ["switch_mlp.gate_proj", "switch_mlp.up_proj"],
            },
            Rule::Rename("**.block_sparse_moe.output_linear", "**.block_sparse_moe.switch_mlp.down_proj"),
        ])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at("model.norm"), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame {
            embedding_scale: Some(self.embedding_multiplier),
            logit_scale: Some(1.0 / self.logits_scaling),
            head_precision: Precision::Eight,
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads =
            Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias)).scale(self.attention_multiplier);
        let attention = Attention::load(&w.at("self_attn"), heads)?.keep_out(Precision::Eight);
        let names = BlockNames { mlp: "block_sparse_moe", ..BlockNames::PRE };
        let parts = MoeNames { gate: "router.layer", ..MoeNames::QWEN };
        let top = Routing::top(self.num_experts_per_tok, Score::SoftmaxOfChosen);
        let routing = Routing { from_above: true, ..top };
        let shape = ExpertShape::of(c, c.intermediate_size()?)?;
        let moe = Moe::load(&w.at(names.mlp), parts, self.num_local_experts, shape, routing)?;
        let block = PreNormBlock::named(w, c, names, attention, moe)?;
        Ok(Box::new(block.branch_scale(self.residual_multiplier)))
    }
}
