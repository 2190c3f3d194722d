//! How a token's scores become a choice of experts and their shares (arXiv:1701.06538, arXiv:2401.04088, arXiv:2412.19437).

use mlxlm_core::nn::{Linear, Parameter, Precision};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::{Init, Weights};
use mlxlm_core::{Array, Dtype, fast, module, ops, stop_gradient};

use super::MoeNames;
use crate::config::within;
use crate::{Error, Result};

/// What is made of the logits of all experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// The best logits are chosen, and the softmax is taken over those alone.
    SoftmaxOfChosen,
    /// The softmax over all experts, in the type of the logits.
    Softmax,
    /// The softmax over all experts, in `f32`.
    WideSoftmax,
    /// The sigmoid of each logit, in `f32`.
    Sigmoid,
    /// The square root of the softplus of each logit, in `f32`.
    SqrtSoftplus,
}

/// Experts in groups, of which only the best are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Groups.
    pub count: i32,
    /// Groups that are kept.
    pub kept: i32,
    /// Whether a group is worth the sum of its best two scores, or else its best one.
    pub by_two: bool,
}

impl Groups {
    /// `count` groups that are worth the sum of their best two, of which `kept` are kept; nothing if there is one group only.
    pub fn by_two(count: i32, kept: i32) -> Option<Self> {
        (count != 1).then_some(Self { count, kept, by_two: true })
    }
}

/// How experts are chosen, and what their answers are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// Experts for each token.
    pub chosen: i32,
    /// What is made of the logits.
    pub score: Score,
    /// Whether a trained number for each expert is added to the scores, for the choice and not for the shares.
    pub corrected: bool,
    /// Groups, if experts are in groups.
    pub groups: Option<Groups>,
    /// Whether the shares of the chosen are divided by their sum.
    pub normalized: bool,
    /// Factor of the shares.
    pub scale: f32,
    /// Whether the map to logits has a bias.
    pub biased: bool,
    /// How far the map to logits may be packed.
    pub precision: Precision,
    /// Whether the map to logits is computed in `f32`, and not in the type of the states.
    pub wide: bool,
    /// Bound of the logits: `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
    /// Whether experts outside the kept groups are never chosen, not even where corrections leave the kept ones below zero.
    pub strict: bool,
    /// Whether the best are the upper end of ascending scores, or the lower end of their negatives: of scores that are equal,
    /// as those of 16 bits often are, the same are chosen as the reference chooses.
    pub from_above: bool,
}

impl Routing {
    /// The best `chosen` by this score, and nothing else.
    pub fn top(chosen: i32, score: Score) -> Self {
        Self {
            chosen,
            score,
            corrected: false,
            groups: None,
            normalized: false,
            scale: 1.0,
            biased: false,
            precision: Precision::Eight,
            wide: false,
            softcap: None,
            strict: false,
            from_above: score == Score::Softmax,
        }
    }

    /// The best `chosen` by a corrected sigmoid, in the best groups if there is more than one: a balance without an auxiliary
    /// loss (arXiv:2408.15664, arXiv:2412.19437).
    pub fn balanced(chosen: i32, groups: Option<Groups>) -> Self {
        Self { corrected: true, groups, ..Self::top(chosen, Score::Sigmoid) }
    }

    /// Refuses what cannot be done with so many experts.
    fn check(&self, experts: i32) -> Result<()> {
        within("num_experts_per_tok", self.chosen, experts)?;
        let Some(groups) = self.groups else { return Ok(()) };
        within("n_group", groups.count, experts)?;
        within("topk_group", groups.kept, groups.count)?;
        if experts % groups.count != 0 {
            let count = groups.count;
            return Err(Error::config(format!("{experts} experts cannot be put into {count} groups of the same size")));
        }
        let kept = experts / groups.count * groups.kept;
        if self.chosen > kept {
            let chosen = self.chosen;
            return Err(Error::config(format!("{chosen} experts are to be chosen of {kept} in the kept groups")));
        }
        Ok(())
    }
}

/// A router: a linear map to a logit for each expert, and what follows.
#[derive(Debug)]
pub struct Router {
    gate: Linear,
    correction: Option<Parameter>,
    routing: Routing,
    names: MoeNames,
}

module!(Router { gate as names.gate, correction as names.correction });

impl Router {
    /// The router of `experts` experts at `w`, the layer that has them, over states of `dims` dimensions.
    pub fn load(w: &Weights, names: MoeNames, (dims, experts): (i32, i32), routing: Routing) -> Result<Self> {
        routing.check(experts)?;
        let correction = || Parameter::load(&w.at(names.correction).pinned(), &[experts], Init::Zeros);
        Ok(Self {
            gate: Linear::load_biased(&w.at(names.gate).keep(routing.precision), experts, dims, routing.biased)?,
            correction: routing.corrected.then(correction).transpose()?,
            routing,
            names,
        })
    }

    /// The chosen experts and their shares.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`, results: `[…, chosen]` each
    pub fn forward(&self, x: &Array) -> Result<(Array, Array)> {
        match self.routing.wide {
            true => self.choose(&self.gate.forward(&x.as_dtype(Dtype::Float32)?)?),
            false => self.choose(&self.gate.forward(x)?),
        }
    }

    /// The choice that these logits come to.
    ///
    /// # Shapes
    /// - `logits`: `[…, E]`, results: `[…, chosen]` each
    pub fn choose(&self, logits: &Array) -> Result<(Array, Array)> {
        let Routing { chosen, score, groups, normalized, scale, from_above, .. } = self.routing;
        let logits = &match self.routing.softcap {
            Some(cap) => {
                let cap = Array::from_f32(cap);
                ops::tanh(logits.as_dtype(Dtype::Float32)?.divide(&cap)?)?.multiply(cap)?
            }
            None => logits.clone(),
        };
        let scores = match score {
            Score::SoftmaxOfChosen => logits.clone(),
            Score::Softmax => fast::softmax(logits, -1)?,
            Score::WideSoftmax => fast::softmax(&logits.as_dtype(Dtype::Float32)?, -1)?,
            Score::Sigmoid => ops::sigmoid(logits.as_dtype(Dtype::Float32)?)?,
            Score::SqrtSoftplus => {
                let wide = logits.as_dtype(Dtype::Float32)?;
                ops::sqrt(&ops::logaddexp(&wide, Array::from_f32(0.0))?)?
            }
        };
        let mut worth = match &self.correction {
            Some(correction) => scores.add(&correction.value)?,
            None => scores.clone(),
        };
        if let Some(groups) = groups.filter(|groups| groups.kept < groups.count) {
            let floor = if self.routing.strict { f32::NEG_INFINITY } else { 0.0 };
            worth = in_best_groups(&worth, groups, floor)?;
        }
        let indices = match from_above {
            true => {
                let rest = worth.dim(-1) - chosen;
                ops::argpartition_axis(&worth, rest, -1)?.try_index((ops::indexing::Ellipsis, rest..))?
            }
            false => best(&worth, chosen)?,
        };
        let indices = stop_gradient(&indices)?;
        let mut shares = scores.take_along_axis(&indices, -1)?;
        if score == Score::SoftmaxOfChosen {
            shares = fast::softmax(&shares, -1)?;
        }
        if normalized {
            let sum = shares.sum_axis(-1, true)?;
            let sum = if score == Score::Sigmoid { sum.add(Array::from_f32(1e-20))? } else { sum };
            shares = shares.divide(sum)?;
        }
        if scale != 1.0 {
            shares = shares.multiply(Array::from_f32(scale).as_dtype(shares.dtype())?)?;
        }
        Ok((indices, shares))
    }
}

/// Where the `n` best of the last axis are, in no order.
fn best(scores: &Array, n: i32) -> Result<Array> {
    Ok(ops::argpartition_axis(scores.negative()?, n - 1, -1)?.try_index((ops::indexing::Ellipsis, ..n))?)
}

/// The scores, with `floor` for all experts that are not in one of the best groups.
fn in_best_groups(scores: &Array, groups: Groups, floor: f32) -> Result<Array> {
    let mut shape = scores.shape().to_vec();
    let experts = shape.pop().unwrap_or(0);
    shape.extend([groups.count, experts / groups.count]);
    let by_group = scores.reshape(&shape)?;
    let worth = match groups.by_two {
        true => {
            let rest = by_group.dim(-1) - 2;
            let two = ops::partition_axis(&by_group, rest.max(0), -1)?;
            two.try_index((ops::indexing::Ellipsis, rest.max(0)..))?.sum_axis(-1, true)?
        }
        false => by_group.max_axis(-1, true)?,
    };
    let dropped = groups.count - groups.kept;
    let worst = ops::argpartition_axis(&worth, dropped - 1, -2)?;
    let worst = stop_gradient(&worst.try_index((ops::indexing::Ellipsis, ..dropped, ..))?)?;
    let floor = Array::from_f32(floor).as_dtype(by_group.dtype())?;
    let kept = by_group.put_along_axis(&worst, &floor, -2)?;
    Ok(kept.reshape(scores.shape())?)
}
