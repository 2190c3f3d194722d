//! Nemotron-H: blocks of one part each, by a pattern: a mixer of Mamba-2, attention, an MLP or experts (arXiv:2504.03624,
//! arXiv:2512.20848).
//!
//! Ports `mlx_lm/models/nemotron_h.py` @ 0.32.2. Unusual: attention knows no positions, the gated norms take each group by itself,
//! experts may work on a projection of the states, and the head is never tied.

use super::mamba::NAMES;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["nemotron_h"])
    // The number of blocks is the length of the pattern.
    .defaults(|| json!({"num_hidden_layers": 1}));

const MOE: MoeNames = MoeNames::DEEPSEEK;

/// What Nemotron-H adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    mamba_num_heads: i32,
    mamba_head_dim: i32,
    mamba_proj_bias: bool,
    ssm_state_size: i32,
    conv_kernel: i32,
    n_groups: i32,
    mlp_bias: bool,
    layer_norm_epsilon: f32,
    use_conv_bias: bool,
    hybrid_override_pattern: Option<Pattern>,
    layers_block_type: Option<Vec<String>>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    moe_intermediate_size: i32,
    #[serde(default)]
    moe_shared_expert_intermediate_size: i32,
    moe_latent_size: Option<i32>,
    #[serde(default = "one")]
    n_group: i32,
    #[serde(default = "one")]
    topk_group: i32,
    #[serde(default)]
    n_routed_experts: i32,
    n_shared_experts: Option<i32>,
    #[serde(default)]
    num_experts_per_tok: i32,
    #[serde(default)]
    norm_topk_prob: bool,
    routed_scaling_factor: Option<f32>,
    time_step_limit: Option<StepLimits>,
    mlp_hidden_act: Option<String>,
    mamba_hidden_act: Option<String>,
    /// Attention knows no positions.
    #[serde(default, rename = "rope_theta")]
    _rope_theta: serde_json::Value,
    /// Repeats `layer_norm_epsilon`.
    #[serde(default, rename = "norm_eps")]
    _norm_eps: serde_json::Value,
    /// `mamba_proj_bias` and `mlp_bias` say it of each part.
    #[serde(default, rename = "use_bias")]
    _use_bias: bool,
}

fn one() -> i32 {
    1
}

/// The kinds of all blocks: `M`, `*`, `-` and `E`, in one string or one by one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pattern {
    Joined(String),
    Single(Vec<String>),
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

impl Kind {
    fn of(name: &str) -> Result<Self> {
        Ok(match name {
            "M" | "linear_attention" | "mamba" | "conv" => Self::Mamba,
            "*" | "full_attention" | "attention" => Self::Attention,
            "-" | "mlp" => Self::Mlp,
            "E" | "moe" => Self::Experts,
            other => {
                return Err(Error::config(format!(
                    "`{other}` is no kind of block; the kinds are `mamba`, `attention`, `mlp` and `moe`, or M, *, - and E"
                )));
            }
        })
    }
}

impl Config {
    fn kinds(&self) -> Result<Vec<Kind>> {
        let kinds: Vec<Kind> = match (&self.hybrid_override_pattern, &self.layers_block_type, &self.layer_types) {
            (Some(Pattern::Joined(pattern)), ..) => {
                pattern.chars().map(|kind| Kind::of(kind.encode_utf8(&mut [0; 4]))).collect::<Result<_>>()?
            }
            (Some(Pattern::Single(kinds)), ..) | (None, Some(kinds), _) | (None, None, Some(kinds)) => {
                kinds.iter().map(|kind| Kind::of(kind)).collect::<Result<_>>()?
            }
            (None, None, None) => return Err(missing("hybrid_override_pattern` or `layers_block_type")),
        };
        match (1..=10_000).contains(&kinds.len()) {
            true => Ok(kinds),
            false => Err(Error::config(format!("the pattern of blocks has {}, expected 1 to 10000", kinds.len()))),
        }
    }

    fn mamba(&self, w: &Weights, c: &Common) -> Result<Mamba2> {
        let (count, dim, groups) = (self.mamba_num_heads, self.mamba_head_dim, self.n_groups);
        let config = Mamba2Config {
            hidden: c.hidden_size,
            heads: ScanHeads { count, dim, groups, state: self.ssm_state_size },
            conv: self.conv_kernel,
            conv_biased: self.use_conv_bias,
            in_biased: self.mamba_proj_bias,
            out_biased: self.mamba_proj_bias,
            limits: self.time_step_limit.unwrap_or(StepLimits::NONE),
            norm: GateNorm::After { eps: self.layer_norm_epsilon, groups },
            pinned: true,
        };
        Mamba2::load(w, config)
    }

    fn attention(&self, w: &Weights, c: &Common) -> Result<Attention> {
        Attention::load(w, Heads::grouped(c, Rope::none())?.bias(Bias::all(self.attention_bias)))
    }

    fn mlp(&self, w: &Weights, c: &Common, width: i32) -> Result<Mlp> {
        Mlp::plain(w, MlpNames::LLAMA, c.hidden_size, width, Activation::Relu2, self.mlp_bias)
    }

    fn experts(&self, w: &Weights, c: &Common) -> Result<LatentMoe> {
        let (count, width) = (self.n_routed_experts, self.moe_intermediate_size);
        all_within(&[("n_routed_experts", count), ("moe_intermediate_size", width)])?;
        let groups = Groups { count: self.n_group, kept: self.topk_group, by_two: true };
        let routing = Routing {
            corrected: true,
            groups: (self.n_group > 1).then_some(groups),
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor.unwrap_or(1.0),
            precision: Precision::Dense,
            ..Routing::top(self.num_experts_per_tok, Score::Sigmoid)
        };
        let seen = self.moe_latent_size.unwrap_or(c.hidden_size);
        within("moe_latent_size", seen, MAX_WIDTH)?;
        let project = |name: &str, output: i32, input: i32| {
            let load = || Linear::load_biased(&w.at(name), output, input, self.mlp_bias);
            self.moe_latent_size.is_some().then(load).transpose()
        };
        let shared = match self.n_shared_experts {
            None => None,
            Some(_) => {
                let width = match self.moe_shared_expert_intermediate_size {
                    0 => c.intermediate_size()?,
                    width => width,
                };
                Some(self.mlp(&w.at(MOE.shared), c, width)?)
            }
        };
        Ok(LatentMoe {
            router: Router::load(w, MOE, (c.hidden_size, count), routing)?,
            switch_mlp: Experts::plain(&w.at(MOE.experts), count, (seen, width), Activation::Relu2, false)?,
            shared_experts: shared,
            fc1_latent_proj: project("fc1_latent_proj", seen, c.hidden_size)?,
            fc2_latent_proj: project("fc2_latent_proj", c.hidden_size, seen)?,
        })
    }
}

/// Experts that may see a projection of the states, of which the router sees all.
#[derive(Debug)]
struct LatentMoe {
    router: Router,
    switch_mlp: Experts,
    shared_experts: Option<Mlp>,
    fc1_latent_proj: Option<Linear>,
    fc2_latent_proj: Option<Linear>,
}

module!(LatentMoe { router as "", switch_mlp, shared_experts, fc1_latent_proj, fc2_latent_proj });

impl FeedForward for LatentMoe {
    fn forward(&self, x: &Array) -> Result<Array> {
        let (indices, shares) = self.router.forward(x)?;
        let project = |linear: &Option<Linear>, x: &Array| linear.as_ref().map_or(Ok(x.clone()), |l| l.forward(x));
        let answers = self.switch_mlp.forward(&project(&self.fc1_latent_proj, x)?, &indices)?;
        let y = project(&self.fc2_latent_proj, &add_up(&answers, &shares)?)?;
        match &self.shared_experts {
            None => Ok(y),
            Some(shared) => Ok(y.add(shared.forward(x)?)?),
        }
    }
}

/// A function of each token in the place of a mixer.
#[derive(Debug)]
struct ByToken {
    part: Box<dyn FeedForward>,
}

module!(ByToken { part as "" });

impl Mixer for ByToken {
    fn forward(&self, x: &Array, _step: &mut Step) -> Result<Array> {
        self.part.forward(x)
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        all_within(&[
            ("mamba_num_heads", self.mamba_num_heads),
            ("mamba_head_dim", self.mamba_head_dim),
            ("ssm_state_size", self.ssm_state_size),
            ("conv_kernel", self.conv_kernel),
            ("n_groups", self.n_groups),
        ])?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        unsupported(c, "mlp_hidden_act", self.mlp_hidden_act.as_ref().is_some_and(|act| act != "relu2"))?;
        unsupported(c, "mamba_hidden_act", self.mamba_hidden_act.as_ref().is_some_and(|act| act != "silu"))?;
        unsupported(c, "sliding_window", c.sliding_window()?.is_some())?;
        self.kinds().map(drop)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::Drop("mtp"), Rule::depthwise("**.conv1d.weight")];
        let parts = [("up_proj", "fc1"), ("down_proj", "fc2")];
        rules.extend(Rule::stack_experts("**.mixer.experts.*", "**.mixer.switch_mlp", &parts));
        Ok(rules)
    }

    fn layers(&self, _c: &Common) -> usize {
        self.kinds().map_or(0, |kinds| kinds.len())
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(NAMES.norm), c.hidden_size, self.layer_norm_epsilon)?;
        Ok(Frame { head: Head::Own { biased: false }, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let at = w.at("mixer");
        let mixer: Box<dyn Mixer> = match self.kinds()?.get(layer) {
            Some(Kind::Mamba) => Box::new(self.mamba(&at, c)?),
            Some(Kind::Attention) => Box::new(self.attention(&at, c)?),
            Some(Kind::Mlp) => Box::new(ByToken { part: Box::new(self.mlp(&at, c, c.intermediate_size()?)?) }),
            Some(Kind::Experts) => Box::new(ByToken { part: Box::new(self.experts(&at, c)?) }),
            None => return Err(missing("hybrid_override_pattern")),
        };
        Ok(Box::new(SingleBlock::load(w, c, self.layer_norm_epsilon, mixer)?))
    }
}
