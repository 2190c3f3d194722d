//! gpt-oss: every other layer slides, heads have sinks, and experts have biases and a gate that is cut off
//! (arXiv:2508.10925).
//!
//! Ports `mlx_lm/models/gpt_oss.py` @ 0.32.2. Unusual: the original layout keeps the rows of gates and of linear parts in turns.
//! Differences: `truncate` of a yarn acts, `attention_bias` and `swiglu_limit` are read, and the layout of files whose experts
//! are not packed is known, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gpt_oss"]).defaults(|| {
    json!({
        "num_hidden_layers": 36, "num_local_experts": 128, "num_experts_per_tok": 4, "vocab_size": 201_088,
        "rms_norm_eps": 1e-5, "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128, "rope_theta": 150_000,
        "attention_bias": true, "swiglu_limit": 7.0,
    })
});

const NAMES: MoeNames = MoeNames { gate: "router", experts: "experts", ..MoeNames::QWEN };

/// What gpt-oss adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_local_experts: i32,
    num_experts_per_tok: i32,
    attention_bias: bool,
    swiglu_limit: f32,
    /// The same number once more.
    experts_per_token: Option<i32>,
    hidden_act: Option<String>,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        positive("swiglu_limit", self.swiglu_limit)?;
        let is_other = |experts: i32| experts != self.num_experts_per_tok;
        unsupported(c, "experts_per_token", self.experts_per_token.is_some_and(is_other))?;
        unsupported(c, "hidden_act", self.hidden_act.as_deref().is_some_and(|act| act != "silu"))
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        // Experts that are not packed are stored with their inputs before their outputs, and without the name of a leaf.
        let swapped = |tensor| Rule::SwapAxes { tensor, axes: (1, 2), unless: (0, -1) };
        Ok(vec![
            swapped("**.experts.gate_up_proj"),
            swapped("**.experts.down_proj"),
            Rule::Leaf("**.experts.gate_up_proj"),
            Rule::Leaf("**.experts.down_proj"),
            Rule::Rename("**.experts.gate_up_proj_bias", "**.experts.gate_up_proj.bias"),
            Rule::Rename("**.experts.down_proj_bias", "**.experts.down_proj.bias"),
            Rule::custom(split_turns),
        ])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Frame::untied(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .bias(Bias::all(self.attention_bias))
            .sinks()
            .window(c.window(layer, layer % 2 == 0)?);
        let top = Routing::top(self.num_experts_per_tok, Score::SoftmaxOfChosen);
        let routing = Routing { biased: true, from_above: true, ..top };
        let activation = Activation::SwigluOai { alpha: 1.702, limit: self.swiglu_limit };
        let shape = ExpertShape { dims: c.hidden_size, width: c.intermediate_size()?, activation, biased: true };
        let moe = Moe::load(&w.at("mlp"), NAMES, self.num_local_experts, shape, routing)?;
        Ok(Box::new(PreNormBlock::with(w, c, Attention::load(&w.at("self_attn"), heads)?, moe)?))
    }
}

/// Puts every second output of `gate_up_proj`, from the first on, into `gate_proj`, and the others into `up_proj`.
fn split_turns(tensors: &mut Tensors) -> Result<()> {
    let found: Vec<String> = tensors.keys().filter(|name| name.contains(".experts.gate_up_proj.")).cloned().collect();
    for name in found {
        // Outputs are the last axis of a bias, and the one before the last of all else.
        let axis: i32 = if name.ends_with(".bias") { -1 } else { -2 };
        let Some(array) = tensors.get(&name) else { continue };
        let rows = array.shape().len().saturating_sub(axis.unsigned_abs() as usize);
        let mut shape = array.shape().to_vec();
        match shape.get_mut(rows) {
            Some(outputs) if *outputs % 2 == 0 => *outputs /= 2,
            _ => continue,
        }
        shape.insert(rows + 1, 2);
        let turns = ops::split_equal(array.reshape(&shape)?, 2, rows as i32 + 1)?;
        tensors.remove(&name);
        for (part, turn) in ["gate_proj", "up_proj"].iter().zip(turns) {
            let turn = turn.squeeze_axes(&[rows as i32 + 1])?.contiguous()?;
            tensors.insert(name.replace("gate_up_proj", part), turn);
        }
    }
    Ok(())
}
