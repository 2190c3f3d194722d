//! The mixture of experts of DeepSeek and its kin (arXiv:2401.06066): dense layers first, then layers with many small experts
//! and some that every token takes.

use mlxlm_core::fast::Activation;
use mlxlm_core::nn::Precision;
use mlxlm_core::weights::Weights;
use serde::Deserialize;

use super::{Experts, Groups, Mixer, Mlp, Moe, MoeNames, PreNormBlock, Router, Routing, Score};
use crate::config::{MAX_WIDTH, missing, within};
use crate::rules::SAME;
use crate::{Common, Error, Result, Rule};

/// The entries of such a mixture.
#[derive(Debug, Clone, Deserialize)]
pub struct SparseConfig {
    n_routed_experts: Option<i32>,
    n_shared_experts: Option<i32>,
    num_experts_per_tok: Option<i32>,
    moe_intermediate_size: i32,
    moe_layer_freq: i32,
    first_k_dense_replace: i32,
    routed_scaling_factor: f32,
    norm_topk_prob: Option<bool>,
    scoring_func: Option<String>,
    topk_method: Option<String>,
    n_group: Option<i32>,
    topk_group: Option<i32>,
}

impl SparseConfig {
    /// The entries of a configuration, checked.
    pub fn of(c: &Common) -> Result<Self> {
        let own: Self = c.part()?;
        within("moe_layer_freq", own.moe_layer_freq, i32::MAX)?;
        if let Some(experts) = own.n_routed_experts {
            within("n_routed_experts", experts, MAX_WIDTH)?;
            within("num_experts_per_tok", own.chosen()?, experts)?;
            within("moe_intermediate_size", own.moe_intermediate_size, MAX_WIDTH)?;
        }
        match own.n_shared_experts.unwrap_or(0) {
            0 => Ok(own),
            shared => within("n_shared_experts", shared, MAX_WIDTH / own.moe_intermediate_size.max(1)).map(|()| own),
        }
    }

    /// The rules that stack the experts of checkpoints.
    pub fn rules() -> Vec<Rule> {
        Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME)
    }

    fn chosen(&self) -> Result<i32> {
        self.num_experts_per_tok.ok_or_else(|| missing("num_experts_per_tok"))
    }

    /// Refuses another way of choosing than those named; the first is meant where nothing is said.
    fn expect(&self, score: &str, methods: &[&str]) -> Result<()> {
        if self.n_routed_experts.is_none() {
            return Ok(());
        }
        for (key, value, known) in
            [("scoring_func", &self.scoring_func, &[score][..]), ("topk_method", &self.topk_method, methods)]
        {
            if let Some(value) = value.as_deref().filter(|value| !known.contains(value)) {
                let known = known.join("` or `");
                return Err(Error::config(format!("`{key}` is `{value}`, expected `{known}`")));
            }
        }
        Ok(())
    }

    /// The groups of experts, if there is more than one.
    fn groups(&self, by_two: bool) -> Result<Option<Groups>> {
        match self.n_group.unwrap_or(1) {
            1 => Ok(None),
            count => Ok(Some(Groups { count, kept: self.topk_group.ok_or_else(|| missing("topk_group"))?, by_two })),
        }
    }

    fn top(&self, score: Score) -> Routing {
        let top = Routing::top(self.num_experts_per_tok.unwrap_or(1), score);
        Routing { scale: self.routed_scaling_factor, precision: Precision::Dense, ..top }
    }

    /// The softmax of DeepSeek-V1 and V2; its shares are divided by their sum if `normalized`.
    pub fn by_softmax(&self) -> Result<Routing> {
        self.expect("softmax", &["greedy", "gready", "group_limited_greedy"])?;
        let limited = self.topk_method.as_deref() == Some("group_limited_greedy");
        let groups = self.groups(false)?.filter(|_| limited);
        Ok(Routing { groups, from_above: false, ..self.top(Score::Softmax) })
    }

    /// The softmax of Mistral 4, in `f32`.
    pub fn by_wide_softmax(&self) -> Result<Routing> {
        self.expect("softmax", &["greedy"])?;
        let normalized = self.normalized();
        Ok(Routing { groups: self.groups(true)?, normalized, ..self.top(Score::WideSoftmax) })
    }

    /// The corrected sigmoid of DeepSeek-V3 (arXiv:2412.19437).
    pub fn by_sigmoid(&self) -> Result<Routing> {
        self.expect("sigmoid", &["noaux_tc"])?;
        let top = self.top(Score::Sigmoid);
        // A share that is alone stays what it is.
        let normalized = self.normalized() && top.chosen > 1;
        Ok(Routing { corrected: true, groups: self.groups(true)?, normalized, ..top })
    }

    /// Whether shares are to be divided by their sum.
    pub fn normalized(&self) -> bool {
        self.norm_topk_prob.unwrap_or(false)
    }

    /// The block `layer` at `w`: this mixer, and experts or, in a dense layer, the MLP of the configuration.
    pub fn block(
        &self,
        w: &Weights,
        c: &Common,
        layer: usize,
        mixer: impl Mixer + 'static,
        routing: Routing,
    ) -> Result<PreNormBlock> {
        let (at, act) = (w.at("mlp"), c.activation(Activation::Silu)?);
        let is_sparse = layer as i32 >= self.first_k_dense_replace && layer as i32 % self.moe_layer_freq == 0;
        let Some(experts) = self.n_routed_experts.filter(|_| is_sparse) else {
            return PreNormBlock::with(w, c, mixer, Mlp::of(&at, c)?);
        };
        let (names, width) = (MoeNames::DEEPSEEK, self.moe_intermediate_size);
        let router = Router::load(&at, names, (c.hidden_size, experts), routing)?;
        let stack = Experts::gated(&at.at(names.experts), experts, (c.hidden_size, width), act, false)?;
        let shared = self.n_shared_experts.filter(|&shared| shared > 0);
        let shared = shared.map(|shared| Mlp::gated(&at.at(names.shared), c.hidden_size, width * shared, act));
        PreNormBlock::with(w, c, mixer, Moe::new(names, router, stack).shared(shared.transpose()?))
    }
}
