//! Phi-3.5-MoE: Phi-3 with layer norms, biases and a mixture of experts (arXiv:2404.14219).
//!
//! Ports `mlx_lm/models/phimoe.py` @ 0.32.2. Unusual: experts are chosen one after the other, and the share of each is its
//! softmax among those experts whose logits are near it (SparseMixer-v2, arXiv:2409.12136). Differences: short factors for
//! short sequences, `sliding_window`, `attention_bias` and `lm_head_bias` act, as in transformers.

use mlxlm_core::stop_gradient;

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["phimoe"]).defaults(|| {
    json!({
        "attention_bias": true, "intermediate_size": 6400, "lm_head_bias": true,
        "max_position_embeddings": 131_072, "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 16,
        "original_max_position_embeddings": 4096, "router_jitter_noise": 0.01, "vocab_size": 32064,
    })
});

/// What Phi-3.5-MoE adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    lm_head_bias: bool,
    num_experts_per_tok: i32,
    num_local_experts: i32,
    router_jitter_noise: f32,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        within("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)?;
        unsupported(c, "tie_word_embeddings", c.tie_word_embeddings)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
        Ok(Rule::stack_experts("**.block_sparse_moe.experts.*", "**.block_sparse_moe.switch_mlp", &parts))
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::layer(&w.at(self.names().norm), c.hidden_size, c.rms_norm_eps()?, true)?;
        Ok(Frame { head: Head::Own { biased: self.lm_head_bias }, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames { mlp: "block_sparse_moe", ..BlockNames::PRE };
        let bias = Bias::all(self.attention_bias);
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(bias).window(c.window(layer, true)?);
        let attention = Attention::load(&w.at(names.mixer), heads)?;
        let moe = SparseMixer::load(&w.at(names.mlp), self, c)?;
        Ok(Box::new(PreNormBlock::layer_normed(w, c, names, c.rms_norm_eps()?, attention, moe)?))
    }
}

/// A mixture of experts that are chosen one after the other.
#[derive(Debug)]
struct SparseMixer {
    gate: Linear,
    switch_mlp: Experts,
    chosen: i32,
    jitter: f32,
}

module!(SparseMixer { gate, switch_mlp });

impl SparseMixer {
    fn load(w: &Weights, own: &Config, c: &Common) -> Result<Self> {
        let (sizes, act) = ((c.hidden_size, c.intermediate_size()?), c.activation(Activation::Silu)?);
        Ok(Self {
            gate: Linear::load(&w.at("gate").keep(Precision::Eight), own.num_local_experts, c.hidden_size)?,
            switch_mlp: Experts::gated(&w.at("switch_mlp"), own.num_local_experts, sizes, act, false)?,
            chosen: own.num_experts_per_tok,
            jitter: own.router_jitter_noise,
        })
    }

    /// The chosen experts and their shares.
    ///
    /// # Shapes
    /// - `logits`: `[…, E]`, results: `[…, chosen]` each
    fn choose(&self, logits: &Array) -> Result<(Array, Array)> {
        let like = |number: f32| Array::from_f32(number).as_dtype(logits.dtype());
        let (never, width) = (like(f32::NEG_INFINITY)?, like(2.0 * self.jitter)?);
        let (mut left, mut chosen, mut shares) = (logits.clone(), Vec::new(), Vec::new());
        for _ in 0..self.chosen {
            let top = left.max_axis(-1, true)?;
            let best = stop_gradient(&ops::indexing::argmax_axis(&left, -1, true)?)?;
            let distance = top.subtract(logits)?.divide(ops::maximum(logits.abs()?, &top)?)?;
            let near = ops::select(distance.gt(&width)?, &never, &left)?;
            shares.push(fast::softmax(&near, -1)?.take_along_axis(&best, -1)?);
            left = left.put_along_axis(&best, &never, -1)?;
            chosen.push(best);
        }
        Ok((ops::concatenate(&chosen, -1)?, ops::concatenate(&shares, -1)?))
    }
}

impl FeedForward for SparseMixer {
    fn forward(&self, x: &Array) -> Result<Array> {
        let (chosen, shares) = self.choose(&self.gate.forward(x)?)?;
        let answers = self.switch_mlp.forward(x, &chosen)?;
        Ok(answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?)
    }
}
