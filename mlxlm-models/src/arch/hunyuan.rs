//! Hunyuan-Large and its kin: layers that share keys and values, experts beside an MLP that every token takes, and a rotation
//! with a grown base (arXiv:2411.02265).
//!
//! Ports `mlx_lm/models/hunyuan.py` @ 0.32.2. Unusual: a layer that shares takes the projected keys and values of the last one
//! that has its own, and norms, rotates and remembers them itself; norms come after the rotation; the head is always tied.
//! Differences: every type of `rope_scaling` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["hunyuan"]);

const NAMES: MoeNames = MoeNames { gate: "gate.wg", shared: "shared_mlp", ..MoeNames::QWEN };

/// What Hunyuan adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    moe_topk: PerLayer<i32>,
    num_experts: i32,
    num_shared_expert: PerLayer<i32>,
    use_mixed_mlp_moe: bool,
    use_qk_norm: bool,
    use_cla: bool,
    cla_share_factor: i32,
    moe_intermediate_size: Option<PerLayer<i32>>,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common, layer: usize) -> Result<Moe> {
        let width = match &self.moe_intermediate_size {
            Some(width) => width.at("moe_intermediate_size", layer)?,
            None => c.intermediate_size()?,
        };
        within("moe_intermediate_size", width, MAX_WIDTH)?;
        let top = Routing::top(self.moe_topk.at("moe_topk", layer)?, Score::Softmax);
        let routing = Routing { from_above: false, ..top };
        let shape = ExpertShape::of(c, width)?;
        let moe = Moe::load(w, NAMES, self.num_experts, shape, routing)?;
        if !self.use_mixed_mlp_moe {
            return Ok(moe);
        }
        let count = self.num_shared_expert.at("num_shared_expert", layer)?;
        moe.with_shared(w, count, ExpertShape { width: c.intermediate_size()?, ..shape })
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("cla_share_factor", self.cla_share_factor, i32::MAX)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let counts = c.heads()?;
        let mut rules = vec![
            Rule::custom(move |tensors| split_groups(tensors, counts)),
            Rule::Halve { leaf: "**.gate_and_up_proj", into: ["up_proj", "gate_proj"] },
        ];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at("model.norm"), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { head: Head::Tied, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let shares = self.use_cla && layer as i32 % self.cla_share_factor != 0;
        let (attention, mlp) = (SharedAttention::load(&w.at("self_attn"), c, self, shares)?, w.at("mlp"));
        Ok(Box::new(match self.num_experts {
            1 => PreNormBlock::with(w, c, attention, Mlp::of(&mlp, c)?)?,
            _ => PreNormBlock::with(w, c, attention, self.moe(&mlp, c, layer)?)?,
        }))
    }
}

/// Cuts projections of queries, keys and values, each key head of which lies between its query heads and its values.
fn split_groups(tensors: &mut Tensors, HeadCounts { count, kv_count, dim }: HeadCounts) -> Result<()> {
    let found: Vec<String> = tensors.keys().filter(|name| name.contains(".qkv_proj.")).cloned().collect();
    for name in found {
        let Some(array) = tensors.get(&name).filter(|array| array.ndim() > 0) else { continue };
        let (group, rest) = (count / kv_count, &array.shape()[1..]);
        if array.dim(0) != (count + 2 * kv_count) * dim {
            continue;
        }
        let groups = array.reshape(&[&[kv_count, group + 2, dim], rest].concat())?;
        let parts = ops::split_at_indices(groups, &[group, group + 1], 1)?;
        let parts = parts.iter().map(|part| part.flatten(0, 2)).collect::<Result<Vec<_>, _>>()?;
        tensors.remove(&name);
        for (part, array) in ["q_proj", "k_proj", "v_proj"].iter().zip(parts) {
            tensors.insert(name.replace("qkv_proj", part), array);
        }
    }
    Ok(())
}

/// The projected keys and values of the last layer that has its own.
#[derive(Debug, Clone, Default)]
struct Projected(Option<[Array; 2]>);

/// Attention with keys and values of its own, or those of a layer before.
#[derive(Debug)]
struct SharedAttention {
    q_proj: Linear,
    k_proj: Option<Linear>,
    v_proj: Option<Linear>,
    o_proj: Linear,
    query_layernorm: Option<Norm>,
    key_layernorm: Option<Norm>,
    counts: HeadCounts,
    rope: Rope,
    how: Attend,
}

module!(SharedAttention { q_proj, k_proj, v_proj, o_proj, query_layernorm, key_layernorm });

impl SharedAttention {
    fn load(w: &Weights, c: &Common, own: &Config, shares: bool) -> Result<Self> {
        let (counts, biased) = (c.heads()?, own.attention_bias);
        let HeadCounts { count, kv_count, dim } = counts;
        let load =
            |name: &str, heads: i32| Linear::load_biased(&w.at(name).columns(), heads * dim, c.hidden_size, biased);
        let unless_shared = |name: &str| (!shares).then(|| load(name, kv_count)).transpose();
        let eps = c.rms_norm_eps()?;
        let norm = |name: &str| own.use_qk_norm.then(|| Norm::rms(&w.at(name), dim, eps)).transpose();
        Ok(Self {
            q_proj: load("q_proj", count)?,
            k_proj: unless_shared("k_proj")?,
            v_proj: unless_shared("v_proj")?,
            o_proj: Linear::load_biased(&w.at("o_proj").rows(), c.hidden_size, count * dim, biased)?,
            query_layernorm: norm("query_layernorm")?,
            key_layernorm: norm("key_layernorm")?,
            counts,
            rope: Rope::from(c)?,
            how: Attend::scaled((dim as f32).powf(-0.5)),
        })
    }

    /// Rotated and normed heads.
    fn prepare(&self, x: &Array, norm: Option<&Norm>, step: &Step) -> Result<Array> {
        let x = self.rope.forward(x, &step.offset())?;
        Ok(match norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        })
    }
}

impl Mixer for SharedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, .. } = self.counts;
        let q = split_heads(&self.q_proj.forward(x)?, count)?;
        if let (Some(k), Some(v)) = (&self.k_proj, &self.v_proj) {
            let [k, v] = Linear::forward_all([k, v], x)?;
            step.carry::<Projected>().0 = Some([split_heads(&k, kv_count)?, split_heads(&v, kv_count)?]);
        }
        let Some([k, v]) = step.carry::<Projected>().0.clone() else {
            return Err(Error::config("no layer before the first that shares has keys and values of its own"));
        };
        let q = self.prepare(&q, self.query_layernorm.as_ref(), step)?;
        let k = self.prepare(&k, self.key_layernorm.as_ref(), step)?;
        let out = step.attend(&q, &k, &v, &self.how)?;
        Ok(self.o_proj.forward(&merge_heads(&out)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::Kv]
    }
}
