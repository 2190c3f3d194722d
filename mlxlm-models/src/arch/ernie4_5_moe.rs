//! ERNIE 4.5 with a mixture of experts (the ERNIE 4.5 technical report, Baidu, 2025).
//!
//! Ports `mlx_lm/models/ernie4_5_moe.py` @ 0.32.2. Unusual: neighbouring pairs are rotated, and the layers with experts are
//! named by the first, the last and a step. Differences: the correction of the scores for the choice,
//! `moe_statics.e_score_correction_bias`, acts where the checkpoint has it, and so does `rope_scaling`, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["ernie4_5_moe"]).defaults(|| {
    json!({
        "moe_layer_start_index": 0, "moe_intermediate_size": 0, "moe_k": 1, "moe_layer_interval": 1,
        "moe_num_shared_experts": 0, "moe_gate_act": "softmax",
    })
});

const CORRECTION: &str = "moe_statics.e_score_correction_bias";

const NAMES: MoeNames = MoeNames { correction: CORRECTION, ..MoeNames::DEEPSEEK };

/// What ERNIE with experts adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    use_bias: bool,
    moe_num_experts: i32,
    moe_layer_start_index: PerLayer<i32>,
    moe_layer_end_index: Option<PerLayer<i32>>,
    moe_layer_interval: i32,
    moe_intermediate_size: i32,
    moe_k: i32,
    moe_num_shared_experts: i32,
    moe_gate_act: String,
}

impl Config {
    /// The last layer of each interval has experts, if it lies between the first and the last that may; text and images have
    /// such bounds of their own in some files.
    fn is_sparse(&self, layer: usize) -> bool {
        let layer = layer as i32;
        let starts = self.moe_layer_start_index.any(|start| layer >= start);
        // -1 is the last layer.
        let goes_on = self.moe_layer_end_index.as_ref().is_none_or(|end| end.any(|end| end == -1 || layer <= end));
        starts && goes_on && (layer + 1) % self.moe_layer_interval == 0
    }

    fn score(&self) -> Result<Score> {
        match self.moe_gate_act.as_str() {
            "softmax" => Ok(Score::WideSoftmax),
            "sigmoid" => Ok(Score::Sigmoid),
            other => Err(Error::config(format!("`moe_gate_act` is `{other}`, expected `softmax` or `sigmoid`"))),
        }
    }

    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let width = match self.moe_intermediate_size {
            0 => c.intermediate_size()?,
            width => width,
        };
        let corrected = w.has(CORRECTION);
        let routing = Routing { normalized: true, corrected, ..Routing::top(self.moe_k, self.score()?) };
        let shape = ExpertShape { biased: self.use_bias, ..ExpertShape::of(c, width)? };
        Moe::load(w, NAMES, self.moe_num_experts, shape, routing)?.with_shared(w, self.moe_num_shared_experts, shape)
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("moe_num_experts", self.moe_num_experts, MAX_WIDTH)?;
        within("moe_k", self.moe_k, self.moe_num_experts)?;
        within("moe_layer_interval", self.moe_layer_interval, i32::MAX)?;
        self.score().map(drop)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut rules: Vec<Rule> =
            ["**.mtp_block", "**.mtp_linear_proj", "**.mtp_hidden_norm", "**.mtp_emb_norm"].map(Rule::Drop).into();
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        let sparse: Vec<String> = (0..self.layers(c))
            .filter(|&layer| self.is_sparse(layer))
            .map(|layer| format!("model.layers.{layer}.mlp.{CORRECTION}"))
            .collect();
        rules.push(Rule::custom(move |tensors| {
            // Stored as a row of a matrix, and for some dense layers too.
            tensors.retain(|name, _| !name.ends_with(CORRECTION) || sparse.contains(name));
            for name in &sparse {
                if let Some(array) = tensors.get_mut(name) {
                    *array = array.flatten(None, None)?;
                }
            }
            Ok(())
        }));
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let rope = Rope::over(&c.rope().clone().traditional(), c.heads()?.dim)?;
        let heads = Heads::grouped(c, rope)?.bias(Bias::all(self.use_bias));
        let (attention, mlp) = (Attention::load(&w.at("self_attn"), heads)?, w.at("mlp"));
        if self.is_sparse(layer) {
            return Ok(Box::new(PreNormBlock::with(w, c, attention, self.moe(&mlp, c)?)?));
        }
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&mlp, c.hidden_size, c.intermediate_size()?, act, self.use_bias)?;
        Ok(Box::new(PreNormBlock::with(w, c, attention, mlp)?))
    }
}
