//! Gear: Gemma 3 with bounded scores, and layers that gate short convolutions of keys and values in place of attention.
//!
//! Ports `mlx_lm/models/gear.py` @ 0.32.2. Unusual: norm weights are stored minus one, embeddings are scaled by √D, and sliding
//! layers have a rotary base of their own.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gear"]).defaults(|| {
    json!({
        "attention_bias": false, "conv_L_cache": 3, "rope_local_base_freq": 1e4, "rope_theta": 1e6,
        "sliding_window": 512, "tie_word_embeddings": true, "use_bidirectional_attention": false,
    })
});

/// What Gear adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    attn_logit_softcapping: Option<f32>,
    #[serde(rename = "conv_L_cache")]
    conv_width: i32,
    final_logit_softcapping: Option<f32>,
    query_pre_attn_scalar: Option<f32>,
    rope_local_base_freq: f32,
    use_bidirectional_attention: bool,
}

impl Config {
    fn attention(&self, w: &Weights, c: &Common, layer: usize) -> Result<Attention> {
        let (dim, slides) = (c.heads()?.dim, c.slides(layer, false)?);
        let rope = Rope::of_kind(c, dim, slides, self.rope_local_base_freq)?;
        let scalar = self.query_pre_attn_scalar.unwrap_or(dim as f32);
        positive("query_pre_attn_scalar", scalar)?;
        let heads = Heads::grouped(c, rope)?
            .bias(Bias::all(self.attention_bias))
            .qk_norm(Norm::rms_plus_one, c.rms_norm_eps()?)
            .scale(scalar.powf(-0.5))
            .softcap(self.attn_logit_softcapping.filter(|cap| *cap != 0.0))
            .window(c.window(layer, slides)?);
        Attention::load(w, heads)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("conv_L_cache", self.conv_width, 1024)?;
        positive("rope_local_base_freq", self.rope_local_base_freq)?;
        unsupported(c, "use_bidirectional_attention", self.use_bidirectional_attention)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let turned = |tensor| Rule::SwapAxes { tensor, axes: (1, 2), unless: (2, 1) };
        Ok(vec![Rule::Drop("**.embed_scale"), turned("**.key_conv.weight"), turned("**.value_conv.weight")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms_plus_one(&w.at(self.names().norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame {
            embedding_scale: Some((c.hidden_size as f32).sqrt()),
            logit_softcap: self.final_logit_softcapping.filter(|cap| *cap != 0.0),
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |w: &Weights| Ok(Norm::rms_plus_one(w, c.hidden_size, c.rms_norm_eps()?)?);
        let act = c.activation(Activation::GeluApprox)?;
        let mlp = Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size()?, act)?;
        if c.layer_type(layer)? == Some("conv_mixer") {
            let names = BlockNames { mixer: "local_mixer", ..BlockNames::SANDWICH };
            let mixer = GatedConv::load(&w.at(names.mixer), self, c)?;
            return Ok(Box::new(SandwichBlock::load(w, names, norm, mixer, mlp)?));
        }
        let attention = self.attention(&w.at("self_attn"), c, layer)?;
        Ok(Box::new(SandwichBlock::load(w, BlockNames::SANDWICH, norm, attention, mlp)?))
    }
}

/// `sigmoid(q · conv(k)) · conv(v)`, value by value, with grouped heads.
#[derive(Debug)]
struct GatedConv {
    key_conv: Conv1d,
    value_conv: Conv1d,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Norm,
    k_norm: Norm,
    counts: HeadCounts,
}

module!(GatedConv { key_conv, value_conv, q_proj, k_proj, v_proj, o_proj, q_norm, k_norm });

impl GatedConv {
    fn load(w: &Weights, own: &Config, c: &Common) -> Result<Self> {
        let (dims, counts, biased) = (c.hidden_size, c.heads()?, own.attention_bias);
        let HeadCounts { count, kv_count, dim } = counts;
        let linear = |name: &str, heads: i32| Linear::load_biased(&w.at(name).columns(), heads * dim, dims, biased);
        let conv = |name: &str| Conv1d::depthwise(&w.at(name), kv_count * dim, own.conv_width, biased);
        let norm = |name: &str| Ok::<_, Error>(Norm::rms_plus_one(&w.at(name), dim, c.rms_norm_eps()?)?);
        Ok(Self {
            key_conv: conv("key_conv")?,
            value_conv: conv("value_conv")?,
            q_proj: linear("q_proj", count)?,
            k_proj: linear("k_proj", kv_count)?,
            v_proj: linear("v_proj", kv_count)?,
            o_proj: Linear::load_biased(&w.at("o_proj").rows(), dims, count * dim, biased)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            counts,
        })
    }

    /// A convolution whose last tokens are kept in `slot`, with an axis for the query heads of each head.
    ///
    /// # Shapes
    /// - `x`: `[B, L, K · d]`, result: `[B, L, K, 1, d]`
    fn convolved(&self, x: &Array, conv: &Conv1d, slot: usize, step: &mut Step) -> Result<Array> {
        let y = convolve(x, conv, Activation::Identity, step, slot)?;
        Ok(ops::unflatten(y, -1, &[self.counts.kv_count, 1, self.counts.dim])?)
    }
}

impl Mixer for GatedConv {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, dim } = self.counts;
        let [q, k, v] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x)?;
        let q = self.q_norm.forward(&ops::unflatten(q, -1, &[kv_count, count / kv_count, dim])?)?;
        let normed = self.k_norm.forward(&ops::unflatten(&k, -1, &[kv_count, dim])?)?.reshape(k.shape())?;
        let k = self.convolved(&normed, &self.key_conv, 0, step)?;
        let v = self.convolved(&v, &self.value_conv, 1, step)?;
        let mixed = ops::sigmoid(q.multiply(k)?)?.multiply(v)?;
        Ok(self.o_proj.forward(&mixed.flatten(2, -1)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::State { slots: 2 }]
    }
}
