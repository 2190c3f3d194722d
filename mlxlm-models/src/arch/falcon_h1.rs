//! Falcon-H1: in each block a mixer of Mamba-2 and attention side by side behind one norm (arXiv:2507.22448).
//!
//! Ports `mlx_lm/models/falcon_h1.py` @ 0.32.2. Unusual:
//! - Multipliers of the configuration are folded into the weights of files of transformers as they load; files that were converted
//!   have them inside. `attention_in_multiplier`, which is one in all models, is not folded into values.
//! - A gated norm takes all groups together.
//! - Each block has two caches: the mixer's and the attention's.
//!
//! Differences: `key_multiplier` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["falcon_h1"]).defaults(|| {
    json!({
        "attention_bias": false, "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.9375,
        "embedding_multiplier": 5.656_854_249_492_381_f64, "head_dim": 64, "hidden_size": 1024, "intermediate_size": 2048,
        "key_multiplier": 0.390_625, "lm_head_multiplier": 0.039_062_5, "mamba_conv_bias": true, "mamba_d_conv": 4, "mamba_d_head": 64,
        "mamba_d_ssm": 1536, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_n_heads": 24,
        "mamba_norm_before_gate": false, "mamba_proj_bias": false, "mamba_rms_norm": false, "mamba_use_mlp": true,
        "max_position_embeddings": 131_072, "mlp_bias": false,
        "mlp_multipliers": [0.883_883_476_483_184_4_f64, 0.585_937_5], "num_attention_heads": 8,
        "num_hidden_layers": 36, "num_key_value_heads": 2, "projectors_bias": false, "rms_norm_eps": 1e-5,
        "rope_theta": 1e11, "ssm_in_multiplier": 1.25,
        "ssm_multipliers": [
            0.353_553_390_593_273_8_f64, 0.25, 0.353_553_390_593_273_8_f64, 0.5, 0.353_553_390_593_273_8_f64,
        ],
        "ssm_out_multiplier": 0.235_702_260_395_515_87_f64, "vocab_size": 32784, "tie_word_embeddings": true,
    })
});

const NAMES: Names = Names { norm: "model.final_layernorm", ..LLAMA };

/// What Falcon-H1 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    attention_in_multiplier: f32,
    attention_out_multiplier: f32,
    embedding_multiplier: f32,
    key_multiplier: f32,
    lm_head_multiplier: f32,
    mamba_conv_bias: bool,
    mamba_d_conv: i32,
    mamba_d_head: i32,
    mamba_d_ssm: i32,
    mamba_d_state: i32,
    mamba_n_groups: i32,
    mamba_n_heads: i32,
    mamba_norm_before_gate: bool,
    mamba_proj_bias: bool,
    mamba_rms_norm: bool,
    mlp_bias: bool,
    mlp_multipliers: [f32; 2],
    projectors_bias: bool,
    ssm_in_multiplier: f32,
    ssm_multipliers: [f32; 5],
    ssm_out_multiplier: f32,
    mamba_use_mlp: bool,
}

impl Config {
    fn heads(&self) -> ScanHeads {
        let (count, dim) = (self.mamba_n_heads, self.mamba_d_head);
        ScanHeads { count, dim, groups: self.mamba_n_groups, state: self.mamba_d_state }
    }

    /// The ends of names, and what is folded into their tensors.
    fn factors(&self) -> [(&'static str, f32); 8] {
        [
            ("embed_tokens.weight", self.embedding_multiplier),
            ("lm_head.weight", self.lm_head_multiplier),
            ("q_proj.weight", self.attention_in_multiplier),
            ("k_proj.weight", self.attention_in_multiplier * self.key_multiplier),
            (".o_proj.weight", self.attention_out_multiplier),
            ("out_proj.weight", self.ssm_out_multiplier),
            ("gate_proj.weight", self.mlp_multipliers[0]),
            ("down_proj.weight", self.mlp_multipliers[1]),
        ]
    }

    /// What the outputs of the mixers' way in are multiplied with: gate, input, inputs and outputs of the groups, steps.
    fn of_in_proj(&self) -> Result<Array> {
        let (inner, of_groups) = (self.mamba_d_ssm, self.heads().group_width()?);
        let widths = [inner, inner, of_groups, of_groups, self.mamba_n_heads];
        let numbers = widths.iter().zip(self.ssm_multipliers);
        let all: Vec<f32> =
            numbers.flat_map(|(&n, factor)| std::iter::repeat_n(factor * self.ssm_in_multiplier, n as usize)).collect();
        Ok(Array::from_slice(&all, &[all.len() as i32, 1]))
    }
}

/// Folds multipliers into the weights of a file of transformers, which has its filters the other way round.
fn fold(tensors: &mut Tensors, factors: &[(&str, f32)], of_in_proj: &Array) -> Result<()> {
    let filters = tensors.get("model.layers.0.mamba.conv1d.weight");
    if !filters.is_some_and(|filters| filters.ndim() == 3 && filters.dim(2) > filters.dim(1)) {
        return Ok(());
    }
    for (name, array) in tensors.iter_mut() {
        let factor = match factors.iter().find(|(end, _)| name.ends_with(end)) {
            Some((_, factor)) => Array::from_f32(*factor),
            None if name.ends_with("in_proj.weight") => of_in_proj.clone(),
            None => continue,
        };
        *array = array.multiply(factor.as_dtype(array.dtype())?)?;
    }
    Ok(())
}

/// A block.
#[derive(Debug)]
struct FalconBlock {
    input_layernorm: Norm,
    mamba: Mamba2,
    self_attn: Attention,
    pre_ff_layernorm: Norm,
    feed_forward: Mlp,
}

module!(FalconBlock { input_layernorm, mamba, self_attn, pre_ff_layernorm, feed_forward });

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        all_within(&[
            ("mamba_d_conv", self.mamba_d_conv),
            ("mamba_d_head", self.mamba_d_head),
            ("mamba_d_ssm", self.mamba_d_ssm),
            ("mamba_d_state", self.mamba_d_state),
            ("mamba_n_groups", self.mamba_n_groups),
            ("mamba_n_heads", self.mamba_n_heads),
        ])?;
        let (width, d_ssm) = (self.heads().width()?, self.mamba_d_ssm);
        if width != d_ssm {
            return Err(Error::config(format!(
                "`mamba_d_ssm` is {d_ssm}, and the heads of Mamba have {width} dimensions"
            )));
        }
        always_on(c, "mamba_use_mlp", self.mamba_use_mlp)?;
        positive("embedding_multiplier", self.embedding_multiplier)?;
        unsupported(c, "hidden_act", c.activation(Activation::Silu)? != Activation::Silu)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let (factors, of_in_proj) = (self.factors(), self.of_in_proj()?);
        let fold = Rule::custom(move |tensors| fold(tensors, &factors, &of_in_proj));
        Ok(vec![fold, Rule::depthwise("**.mamba.conv1d.weight")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(NAMES.norm), c.hidden_size, c.rms_norm_eps()?)?;
        // A tied head reads a table into which the multiplier of embeddings is folded.
        let tied = c.tie_word_embeddings.then_some(self.lm_head_multiplier / self.embedding_multiplier);
        Ok(Frame { logit_scale: tied, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let eps = c.rms_norm_eps()?;
        let norm = match (self.mamba_rms_norm, self.mamba_norm_before_gate) {
            (false, _) => GateNorm::None,
            (true, false) => GateNorm::After { eps, groups: 1 },
            (true, true) => GateNorm::Before { eps },
        };
        let config = Mamba2Config {
            hidden: c.hidden_size,
            heads: self.heads(),
            conv: self.mamba_d_conv,
            conv_biased: self.mamba_conv_bias,
            in_biased: self.mamba_proj_bias,
            out_biased: self.projectors_bias,
            limits: StepLimits::NONE,
            norm,
            pinned: false,
        };
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        Ok(Box::new(FalconBlock {
            input_layernorm: Norm::rms(&w.at("input_layernorm"), c.hidden_size, eps)?,
            mamba: Mamba2::load(&w.at("mamba"), config)?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            pre_ff_layernorm: Norm::rms(&w.at("pre_ff_layernorm"), c.hidden_size, eps)?,
            feed_forward: Mlp::gated_biased(&w.at("feed_forward"), c.hidden_size, width, act, self.mlp_bias)?,
        }))
    }
}

impl Block for FalconBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let h = self.input_layernorm.forward(x)?;
        let scanned = self.mamba.forward(&h, &mut step.part(0)?)?;
        let attended = self.self_attn.forward(&h, &mut step.part(1)?)?;
        let [h, normed] = self.pre_ff_layernorm.forward_sum(&x.add(scanned)?, &attended)?;
        Ok(h.add(self.feed_forward.forward(&normed)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::List([self.mamba.caches(), self.self_attn.caches()].concat())]
    }
}
