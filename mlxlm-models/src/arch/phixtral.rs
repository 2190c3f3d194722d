//! Phixtral: Phi-2 with a mixture of experts in place of the MLP.
//!
//! Ports `mlx_lm/models/phixtral.py` @ 0.32.2. Unusual: names of parts and entries are those of Phi-2's first release; the last
//! norm belongs to the head. Differences: `layer_norm_epsilon` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["phixtral", "phi-msft"])
    .aliases(&[
        ("model_dim", "hidden_size"),
        ("n_embd", "hidden_size"),
        ("n_head", "num_attention_heads"),
        ("n_layer", "num_hidden_layers"),
        ("n_positions", "max_position_embeddings"),
        ("num_heads", "num_attention_heads"),
        ("num_layers", "num_hidden_layers"),
        ("num_vocab", "vocab_size"),
    ])
    .defaults(|| {
        json!({
            "hidden_size": 2560, "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
            "num_local_experts": 4, "rotary_dim": 32, "vocab_size": 51200, "layer_norm_epsilon": 1e-5,
        })
    });

/// What Phixtral adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts_per_tok: i32,
    num_local_experts: i32,
    rotary_dim: i32,
    layer_norm_epsilon: f32,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_epsilon, true)?)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.embd.wte",
            stack: "transformer.h",
            norm: "lm_head.ln",
            head: "lm_head.linear",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        unsupported(c, "tie_word_embeddings", c.tie_word_embeddings)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.moe.mlp.*", "**.moe.switch_mlp", &[("fc1", "fc1"), ("fc2", "fc2")]))
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame { head: Head::Own { biased: true }, ..Frame::new(c, self.norm(&w.at(self.names().norm), c)?) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames { pre_mixer: "ln", mixer: "mixer", pre_mlp: "", mlp: "moe", ..BlockNames::PRE };
        within("rotary_dim", self.rotary_dim, c.heads()?.dim)?;
        let parts = AttentionNames { qkv: "Wqkv", out: "out_proj", ..AttentionNames::LLAMA };
        let heads = Heads::grouped(c, Rope::over(c.rope(), self.rotary_dim)?)?.fused().bias(Bias::All).names(parts);
        let at = w.at(names.mlp);
        let (dims, experts) = (c.hidden_size, self.num_local_experts);
        let routing = Routing::top(self.num_experts_per_tok, Score::SoftmaxOfChosen);
        let router = Router::load(&at, MoeNames::QWEN, (dims, experts), routing)?;
        let act = c.activation(Activation::GeluApprox)?;
        let experts = Experts::plain(&at.at("switch_mlp"), experts, (dims, 4 * dims), act, true)?;
        let moe = Moe::new(MoeNames::QWEN, router, experts);
        let attention = Attention::load(&w.at(names.mixer), heads)?;
        Ok(Box::new(ParallelBlock::new(names, self.norm(&w.at(names.pre_mixer), c)?, None, attention, moe)))
    }
}
