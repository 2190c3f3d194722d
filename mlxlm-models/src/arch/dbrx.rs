//! DBRX: layer norms, bounded queries, keys and values, and a mixture of experts (Databricks, 2024).
//!
//! Ports `mlx_lm/models/dbrx.py` @ 0.32.2. Unusual: each expert is an MLP of its own in converted checkpoints, while the original
//! has one matrix with the rows of all. The choice of experts is read back on the way, so that only those run that a token
//! takes. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["dbrx"]).aliases(&[
    ("d_model", "hidden_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("max_seq_len", "max_position_embeddings"),
]);

/// The layer norms have this, and no biases.
const EPS: f32 = 1e-5;

/// What DBRX adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attn_config: AttentionConfig,
    ffn_config: ExpertsConfig,
}

#[derive(Debug, Deserialize)]
struct AttentionConfig {
    kv_n_heads: i32,
    clip_qkv: Option<f32>,
    rope_theta: f32,
}

#[derive(Debug, Deserialize)]
struct ExpertsConfig {
    ffn_hidden_size: i32,
    moe_num_experts: i32,
    moe_top_k: i32,
    /// The norm by which the shares of the chosen are divided.
    moe_normalize_expert_weights: Option<f32>,
}

impl Config {
    fn heads(&self, c: &Common) -> Result<Heads> {
        let (count, own) = (c.num_attention_heads()?, &self.attn_config);
        let counts = HeadCounts::checked(count, own.kv_n_heads, c.hidden_size / count)?;
        let rope = Rope::over(&c.rope().clone().with_theta(own.rope_theta), counts.dim)?;
        let names = AttentionNames { qkv: "Wqkv", out: "out_proj", ..AttentionNames::LLAMA };
        Ok(Heads::of(c.hidden_size, counts, rope).names(names).fused().clip(own.clip_qkv))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.wte",
            stack: "transformer.blocks",
            norm: "transformer.norm_f",
            head: "lm_head",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        let ExpertsConfig { ffn_hidden_size, moe_num_experts, moe_top_k, moe_normalize_expert_weights } =
            self.ffn_config;
        within("ffn_config.ffn_hidden_size", ffn_hidden_size, MAX_WIDTH)?;
        within("ffn_config.moe_num_experts", moe_num_experts, MAX_WIDTH)?;
        within("ffn_config.moe_top_k", moe_top_k, moe_num_experts)?;
        if let Some(clip) = self.attn_config.clip_qkv {
            positive("attn_config.clip_qkv", clip)?;
        }
        let other = moe_normalize_expert_weights.is_some_and(|norm| norm != 1.0);
        unsupported(c, "ffn_config.moe_normalize_expert_weights", other)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let experts = self.ffn_config.moe_num_experts;
        Ok(vec![Rule::custom(move |tensors| split_experts(tensors, experts))])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::layer(&w.at(self.names().norm), c.hidden_size, EPS, false)?;
        Ok(Frame { head: Head::own(c), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames {
            pre_mixer: "norm_attn_norm.norm_1",
            mixer: "norm_attn_norm.attn",
            pre_mlp: "norm_attn_norm.norm_2",
            mlp: "ffn",
            ..BlockNames::PRE
        };
        let norm = |name: &str| Norm::layer(&w.at(name), c.hidden_size, EPS, false);
        let attention = Attention::load(&w.at(names.mixer), self.heads(c)?)?;
        let moe = SingleExperts::load(&w.at(names.mlp), c, &self.ffn_config)?;
        Ok(Box::new(PreNormBlock::new(names, [norm(names.pre_mixer)?, norm(names.pre_mlp)?], attention, moe)))
    }
}

/// Cuts the matrices of all experts, one below the other, into those of each; those of the way out are transposed.
fn split_experts(tensors: &mut Tensors, experts: i32) -> Result<()> {
    let found: Vec<String> = tensors.keys().filter(|name| name.contains(".experts.mlp.")).cloned().collect();
    for name in found {
        let Some(all) = tensors.get(&name).filter(|all| all.ndim() == 2 && all.dim(0) % experts == 0) else { continue };
        let parts = ops::split_equal(all, experts, 0)?;
        tensors.remove(&name);
        for (expert, part) in parts.into_iter().enumerate() {
            let part = if name.ends_with(".w2") { part.swap_axes(0, 1)? } else { part };
            tensors.insert(name.replace(".mlp.", &format!(".{expert}.")) + ".weight", part);
        }
    }
    Ok(())
}

/// Experts that are not in a stack, and their router.
#[derive(Debug)]
struct SingleExperts {
    router: Router,
    experts: Vec<Mlp>,
}

module!(SingleExperts { router as "", experts });

impl SingleExperts {
    fn load(w: &Weights, c: &Common, own: &ExpertsConfig) -> Result<Self> {
        let routing = Routing { normalized: true, ..Routing::top(own.moe_top_k, Score::WideSoftmax) };
        let names = MoeNames { gate: "router.layer", ..MoeNames::QWEN };
        let parts = MlpNames { gate: "w1", up: "v1", down: "w2" };
        let expert = |number: i32| {
            let at = w.at("experts").at(number);
            Mlp::named(&at, parts, c.hidden_size, own.ffn_hidden_size, Activation::Silu, false)
        };
        Ok(Self {
            router: Router::load(w, names, (c.hidden_size, own.moe_num_experts), routing)?,
            experts: (0..own.moe_num_experts).map(expert).collect::<Result<_>>()?,
        })
    }
}

impl FeedForward for SingleExperts {
    fn forward(&self, x: &Array) -> Result<Array> {
        let flat = x.reshape(&[-1, x.dim(-1)])?;
        let (indices, shares) = self.router.forward(&flat)?;
        let chosen = indices.dim(-1);
        let picks = indices.flatten(None, None)?.to_vec_cast::<i32>().map_err(mlxlm_core::Error::from)?;
        // Each choice with its place, by expert.
        let mut order: Vec<(i32, i32)> = picks.into_iter().zip(0..).collect();
        order.sort_unstable();
        let mut answers = Vec::new();
        for run in order.chunk_by(|a, b| a.0 == b.0) {
            let Some(expert) = run.first().and_then(|(pick, _)| self.experts.get(usize::try_from(*pick).ok()?)) else {
                continue;
            };
            let rows: Vec<i32> = run.iter().map(|(_, place)| place / chosen).collect();
            answers.push(expert.forward(&flat.take_axis(Array::from_slice(&rows, &[rows.len() as i32]), 0)?)?);
        }
        let places: Vec<i32> = order.iter().map(|(_, place)| *place).collect();
        let back = ops::argsort_axis(Array::from_slice(&places, &[places.len() as i32]), 0)?;
        let answers = ops::concatenate(&answers, 0)?.take_axis(&back, 0)?.reshape(&[-1, chosen, x.dim(-1)])?;
        let y = answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?;
        Ok(y.as_dtype(x.dtype())?.reshape(x.shape())?)
    }
}
