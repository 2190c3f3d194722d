//! nanochat: a small GPT whose norms have no parameters (Andrej Karpathy, 2025).
//!
//! Ports `mlx_lm/models/nanochat.py` @ 0.32.2. Unusual: embeddings are normed, heads are normed after a rotation the other way
//! round, and logits are bounded. Differences: `hidden_act` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["nanochat"]).defaults(|| {
    json!({
        "hidden_size": 1280, "num_hidden_layers": 20, "num_attention_heads": 10, "num_key_value_heads": 10,
        "vocab_size": 65536, "max_position_embeddings": 2048, "intermediate_size": 5120,
    })
});

const ATTENTION: AttentionNames =
    AttentionNames { q: "c_q", k: "c_k", v: "c_v", out: "c_proj", ..AttentionNames::LLAMA };
const BLOCK: BlockNames = BlockNames { pre_mixer: "", mixer: "attn", pre_mlp: "", ..BlockNames::PRE };
const MLP: MlpNames = MlpNames { up: "c_fc", down: "c_proj", ..MlpNames::LLAMA };

/// What is added to mean squares.
const EPS: f32 = 1e-5;

/// The largest logit.
const CAP: f32 = 15.0;

/// nanochat adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.wte",
            stack: "transformer.h",
            norm: "transformer.norm",
            head: "lm_head",
        }
    }

    fn frame(&self, _w: &Weights, c: &Common) -> Result<Frame> {
        let norm = || Norm::rms_plain(EPS);
        Ok(Frame { entry: Some(Box::new(norm())), logit_softcap: Some(CAP), ..Frame::new(c, norm()) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::backwards(c.heads()?.dim, c.rope())?)?
            .names(ATTENTION)
            .rotated_qk_norm(|_, _, eps| Ok(Norm::rms_plain(eps)), EPS);
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Relu2)?);
        let mlp = Mlp::plain(&w.at(BLOCK.mlp), MLP, c.hidden_size, width, act, false)?;
        let norms = [Norm::rms_plain(EPS), Norm::rms_plain(EPS)];
        Ok(Box::new(PreNormBlock::new(BLOCK, norms, Attention::load(&w.at(BLOCK.mixer), heads)?, mlp)))
    }
}
