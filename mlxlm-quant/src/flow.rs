//! Texts on their way through a model, block by block, and what its leaves read there.

use std::collections::BTreeMap;

use mlxlm_core::nn::{self, Heard, Leaf, LeafMut, Place};
use mlxlm_core::{Array, Dtype, Exception, transforms};
use mlxlm_models::{CausalLm, Stages, Underway};

use crate::{Error, Result};

/// The stages of a model.
pub(crate) fn stages(model: &dyn CausalLm) -> Result<&dyn Stages> {
    model.stages().ok_or_else(|| Error::Stages { model_type: model.info().model_type.clone() })
}

/// Batches of texts, all before the same stage.
#[derive(Debug)]
pub(crate) struct Flow<'t>(Vec<Underway<'t>>);

impl<'t> Flow<'t> {
    /// Texts before the first stage; `heard` is shown what leaves before it read.
    pub(crate) fn enter(
        model: &dyn CausalLm,
        batches: &'t [Array],
        mut heard: impl FnMut(usize, Vec<Heard>) -> Result<()>,
    ) -> Result<Self> {
        let stages = stages(model)?;
        let mut flow = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            let (at, of_leaves) = nn::watch(BTreeMap::new(), || stages.enter(batch));
            heard(i, of_leaves)?;
            flow.push(at?);
        }
        Ok(Self(flow))
    }

    /// The texts after the next stage.
    pub(crate) fn next(
        &self,
        model: &dyn CausalLm,
        mut heard: impl FnMut(usize, Vec<Heard>) -> Result<()>,
    ) -> Result<Self> {
        let stages = stages(model)?;
        let mut flow = Vec::new();
        for (i, at) in self.0.iter().enumerate() {
            let (next, of_leaves) = nn::watch(BTreeMap::new(), || stages.advance(at));
            let next = next?;
            heard(i, of_leaves)?;
            transforms::eval([&next.x])?;
            flow.push(next);
        }
        Ok(Self(flow))
    }

    /// One batch after the next stage, and what leaves heard on the way; nothing is computed yet.
    pub(crate) fn step(&self, model: &dyn CausalLm, batch: usize) -> Result<(Underway<'t>, Vec<Heard>)> {
        let stages = stages(model)?;
        let (next, heard) = nn::watch(BTreeMap::new(), || stages.advance(&self.0[batch]));
        Ok((next?, heard))
    }

    /// The logits of all texts after the last stage, of which `heard` is shown what leaves on the way read.
    pub(crate) fn leave(
        self,
        model: &dyn CausalLm,
        mut heard: impl FnMut(usize, Vec<Heard>, Array) -> Result<()>,
    ) -> Result<()> {
        let stages = stages(model)?;
        for (i, at) in self.0.into_iter().enumerate() {
            let (logits, of_leaves) = nn::watch(BTreeMap::new(), || model.head(&stages.leave(at)?));
            heard(i, of_leaves, logits?)?;
        }
        Ok(())
    }

    /// The texts, by batch.
    pub(crate) fn batches(&self) -> &[Underway<'t>] {
        &self.0
    }

    /// The texts, by batch, for the last time.
    pub(crate) fn into_batches(self) -> Vec<Underway<'t>> {
        self.0
    }

    /// Texts that all are before the same stage.
    pub(crate) fn of(batches: Vec<Underway<'t>>) -> Self {
        Self(batches)
    }
}

/// The states of a text after the last stage, and what the leaves of the head read of them; logits are not computed.
pub(crate) fn head(model: &dyn CausalLm, at: Underway<'_>) -> Result<(Array, Vec<Heard>)> {
    let states = stages(model)?.leave(at)?;
    let (logits, heard) = nn::watch(BTreeMap::new(), || model.head(&states));
    logits?;
    Ok((states, heard))
}

/// The maps of a model whose inputs are heard, by place: linear ones and stacks of those of experts.
pub(crate) fn maps(model: &dyn CausalLm) -> BTreeMap<Place, String> {
    let mut maps = BTreeMap::new();
    model.walk("", &mut |path, leaf| {
        if matches!(leaf, Leaf::Linear(_) | Leaf::Experts(_)) {
            maps.insert(leaf.place(), path.to_owned());
        }
    });
    maps
}

/// Does something with the leaf at a path.
pub(crate) fn with_leaf<T>(
    model: &mut dyn CausalLm,
    path: &str,
    f: impl FnOnce(LeafMut<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let (mut f, mut result) = (Some(f), None);
    model.walk_mut("", &mut |at, leaf| {
        if at == path
            && let Some(f) = f.take()
        {
            result = Some(f(leaf));
        }
    });
    result.transpose()
}

/// What the rows of a map read, `[N, in]` in `f32`: turned first where the weights are.
pub(crate) fn rows(model: &dyn CausalLm, heard: &Heard) -> Result<Array, Exception> {
    let mut x = Ok(heard.x.clone());
    model.walk("", &mut |_, leaf| {
        if let (Leaf::Linear(linear), true) = (leaf, leaf.place() == heard.place)
            && let Some(rotation) = &linear.rotation
        {
            x = rotation.forward(&heard.x);
        }
    });
    let x = x?;
    x.as_dtype(Dtype::Float32)?.reshape(&[-1, x.dim(-1)])
}
