//! GPT-2: learned positions, layer norms, one projection for queries, keys and values (Radford et al., 2019).
//!
//! Ports `mlx_lm/models/gpt2.py` @ 0.32.2. Unusual: files of transformers have their linear maps as `[in, out]`, under names
//! without `model`. Differences: `n_inner`, `activation_function` and the two entries for the scale of scores act, as in
//! transformers; a sequence beyond the last position is an error.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gpt2"]).aliases(ALIASES).defaults(|| {
    json!({
        "layer_norm_epsilon": 1e-5, "scale_attn_by_inverse_layer_idx": false, "scale_attn_weights": true,
        "tie_word_embeddings": true,
    })
});

/// What the GPT family calls the usual entries.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_inner", "intermediate_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_positions", "max_position_embeddings"),
];

/// What the GPT family calls the parts of a block.
pub(super) const NAMES: BlockNames =
    BlockNames { pre_mixer: "ln_1", mixer: "attn", pre_mlp: "ln_2", ..BlockNames::PRE };

/// What GPT-2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    layer_norm_epsilon: f32,
    scale_attn_by_inverse_layer_idx: bool,
    scale_attn_weights: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { root: "model", table: "model.wte", stack: "model.h", norm: "model.ln_f", head: "lm_head" }
    }

    fn check(&self, _c: &Common) -> Result<()> {
        positive("layer_norm_epsilon", self.layer_norm_epsilon)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        const TURNED: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
        let mut rules =
            vec![Rule::Drop("**.attn.bias"), Rule::Drop("**.attn.masked_bias"), Rule::Rename("transformer", "")];
        rules.extend(TURNED.map(|leaf| {
            Rule::custom(move |tensors| {
                for (_, array) in matching(tensors, &format!("h.*.{leaf}.weight")) {
                    *array = array.swap_axes(0, 1)?;
                }
                Ok(())
            })
        }));
        let parts = [("h", "model.h"), ("ln_f", "model.ln_f"), ("wpe", "model.wpe"), ("wte", "model.wte")];
        rules.extend(parts.map(|(from, to)| Rule::Rename(from, to)));
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::layer(&w.at(self.names().norm), c.hidden_size, self.layer_norm_epsilon, true)?;
        let entry = Positions::load(&w.at(self.names().root), c)?;
        Ok(Frame { entry: Some(Box::new(entry)), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let mut heads = Heads::grouped(c, Rope::none())?.fused().bias(Bias::All).names(ATTENTION);
        let scale = match self.scale_attn_weights {
            true => (c.heads()?.dim as f32).powf(-0.5),
            false => 1.0,
        };
        let depth = if self.scale_attn_by_inverse_layer_idx { layer as f32 + 1.0 } else { 1.0 };
        heads = heads.scale(scale / depth);
        let attention = Attention::load(&w.at(NAMES.mixer), heads)?;
        let (width, act) = (c.intermediate_size_or(4 * c.hidden_size)?, c.activation(Activation::GeluApprox)?);
        let mlp = Mlp::plain(&w.at(NAMES.mlp), MLP, c.hidden_size, width, act, true)?;
        Ok(Box::new(PreNormBlock::layer_normed(w, c, NAMES, self.layer_norm_epsilon, attention, mlp)?))
    }
}

/// The parts of attention.
pub(super) const ATTENTION: AttentionNames = AttentionNames { qkv: "c_attn", out: "c_proj", ..AttentionNames::LLAMA };

/// The parts of the MLP.
pub(super) const MLP: MlpNames = MlpNames { gate: "", up: "c_fc", down: "c_proj" };

/// Learned positions: what is added to the embedding of a token at each place of a sequence.
#[derive(Debug)]
pub(super) struct Positions {
    wpe: Embedding,
    count: i32,
}

module!(Positions { wpe });

impl Positions {
    /// The table below `w`.
    pub(super) fn load(w: &Weights, c: &Common) -> Result<Self> {
        let count = c.max_positions().ok_or_else(|| missing("n_positions"))?;
        within("n_positions", count, MAX_WIDTH)?;
        Ok(Self { wpe: Embedding::load(&w.at("wpe"), count, c.hidden_size)?, count })
    }
}

impl Block for Positions {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let tokens = length(x, step.position())?;
        if tokens > self.count {
            return Err(Error::TooLong { tokens, most: self.count });
        }
        let places = ops::arange::<i32, i32>(0, x.dim(1), None)?;
        let places = match step.position() {
            Offset::Same(start) => places.add(Array::from_int(*start))?,
            // Padding lies before the first place; it gets any.
            Offset::Rows(starts) => ops::maximum(places.add(starts.expand_dims(1)?)?, Array::from_int(0))?,
            Offset::Tokens(places) => places.clone(),
        };
        Ok(x.add(self.wpe.forward(&places)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}
