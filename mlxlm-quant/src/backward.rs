//! Gradients of the matrices of a model, one part of it after the other: its blocks from the last to the first, and its head in chunks.
//!
//! Only what each block reads is kept on the way forward; what a block computes is computed again for its gradient, and only the
//! matrices of one block are dense at a time. So the memory is that of one block and one chunk of logits, however deep the model is.
//! MLX would hold the activations of all blocks, or with its checkpoints still all matrices, which are functions of scales and biases.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mlxlm_core::nn::{self, Heard, Leaf, Matrix, Place};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, Exception, transforms};
use mlxlm_models::CausalLm;

use crate::Result;
use crate::flow::stages;

/// States that go through the head at once: with a vocabulary of 49 thousand, 25 MB for each of the arrays that a loss is made of.
const CHUNK: i32 = 128;

/// Leaves of a model whose matrices are functions of other arrays.
pub(crate) trait Leaves {
    /// Where they are.
    fn paths(&self) -> &[String];

    /// The arrays of a leaf, of which gradients are taken.
    fn arrays(&self, leaf: usize) -> Result<Vec<Array>, Exception>;

    /// The dense matrix of a leaf with these arrays. In `f32` all that follows is computed so.
    fn dense(&self, leaf: usize, arrays: &[Array]) -> Result<Array, Exception>;

    /// What a leaf is while its part does not run.
    fn at_rest(&self, leaf: usize) -> Result<Matrix, Exception>;
}

/// The loss of some states: a sum over them.
///
/// # Shapes
/// - the states: `[1, N, D]`, of which the range says where they are in the batch as one row; result: `[]`, `f32`
pub(crate) type Loss<'l> = &'l dyn Fn(&dyn CausalLm, &Array, Range<i32>) -> Result<Array>;

/// Takes gradients of the arrays of a leaf. A leaf that several parts read has several, which add up.
pub(crate) type Take<'t> = &'t mut dyn FnMut(usize, &[Array]) -> Result<()>;

/// Which leaves each part of a model reads.
#[derive(Debug)]
pub(crate) struct Parts {
    enter: Vec<usize>,
    stages: Vec<Vec<usize>>,
    leave: Vec<usize>,
    head: Vec<usize>,
}

impl Parts {
    /// Runs a few tokens through a model, and hears which leaves each part asks; nothing is computed. There are no parts of a model
    /// without stages, nor of one whose blocks hand more on than their outputs.
    pub(crate) fn find(model: &dyn CausalLm, leaves: &impl Leaves, tokens: &Array) -> Result<Option<Self>> {
        let Some(all) = model.stages() else { return Ok(None) };
        let mut places: BTreeMap<Place, &str> = BTreeMap::new();
        let mut names = Vec::new();
        model.walk("", &mut |path, leaf: Leaf<'_>| names.push((leaf.place(), path.to_owned())));
        places.extend(names.iter().map(|(place, path)| (*place, path.as_str())));
        let heard_by = |heard: Vec<Heard>| -> BTreeSet<&str> {
            heard.iter().filter_map(|heard| places.get(&heard.place).copied()).collect()
        };
        let few = tokens.try_index((..1, ..tokens.dim(1).min(2)))?;
        let (at, heard) = nn::watch(BTreeMap::new(), || all.enter(&few));
        let (mut at, mut by_part) = (at?, vec![heard_by(heard)]);
        for _ in 0..all.count() {
            let (next, heard) = nn::watch(BTreeMap::new(), || all.advance(&at));
            at = next?;
            by_part.push(heard_by(heard));
            if at.is_carrying() {
                return Ok(None);
            }
        }
        let (left, heard) = nn::watch(BTreeMap::new(), || all.leave(at));
        left?;
        by_part.push(heard_by(heard));
        let everywhere: BTreeSet<&str> = by_part.iter().flatten().copied().collect();
        let blocks: Vec<BTreeSet<&str>> =
            by_part.iter().map(|part| part.iter().filter_map(|path| block_of(path)).collect()).collect();
        let own = |part: usize| -> Vec<usize> {
            let of_part = |path: &str| match everywhere.contains(path) {
                true => by_part[part].contains(path),
                // What is not heard (tables, stacks of heads) belongs to its block, or to no block.
                false => match block_of(path).filter(|block| blocks.iter().any(|blocks| blocks.contains(block))) {
                    Some(block) => blocks[part].contains(block),
                    None => part == 0,
                },
            };
            (0..leaves.paths().len()).filter(|&leaf| of_part(&leaves.paths()[leaf])).collect()
        };
        let is_of_head = |path: &str| model.head_reads(&format!("{path}.weight"));
        Ok(Some(Self {
            enter: own(0),
            stages: (1..=all.count()).map(own).collect(),
            leave: own(all.count() + 1),
            head: (0..leaves.paths().len()).filter(|&leaf| is_of_head(&leaves.paths()[leaf])).collect(),
        }))
    }
}

/// The part of a path up to its first number: the block that a leaf is in.
fn block_of(path: &str) -> Option<&str> {
    let mut end = 0;
    for part in path.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return path.get(..end);
        }
        end += 1;
    }
    None
}

/// A model with leaves.
pub(crate) struct Model<'m, L> {
    model: &'m mut dyn CausalLm,
    leaves: &'m L,
}

impl<'m, L: Leaves> Model<'m, L> {
    pub(crate) fn new(model: &'m mut dyn CausalLm, leaves: &'m L) -> Self {
        Self { model, leaves }
    }

    /// The loss over a batch, and the gradients of what its leaves are made of where somebody takes them. Without parts all is
    /// computed at once.
    ///
    /// # Shapes
    /// - `tokens`: `[B, L]`
    pub(crate) fn loss(
        &mut self,
        parts: Option<&Parts>,
        tokens: &Array,
        loss: Loss<'_>,
        take: Option<Take<'_>>,
    ) -> Result<f64> {
        let Some(parts) = parts else { return self.loss_at_once(tokens, loss, take) };
        let mut at = self.dense(&parts.enter, |model| {
            let at = stages(model)?.enter(tokens)?;
            transforms::eval([&at.x])?;
            Ok(at)
        })?;
        let mut way = Vec::new();
        for own in &parts.stages {
            let next = self.dense(own, |model| {
                let next = stages(model)?.advance(&at)?;
                transforms::eval([&next.x])?;
                Ok(next)
            })?;
            way.push(std::mem::replace(&mut at, next));
        }
        let last = at.with(at.x.clone())?;
        let states = self.dense(&parts.leave, |model| {
            let states = stages(model)?.leave(at)?;
            transforms::eval([&states])?;
            Ok(states)
        })?;
        let &[rows, len, width] = states.shape() else { return Ok(0.0) };
        let flat = states.reshape(&[1, rows * len, width])?;
        let Some(take) = take else {
            return self.dense(&parts.head, |model| {
                let chunks = chunks(rows * len).map(|range| {
                    let states = flat.try_index((.., range.clone()))?;
                    number(&loss(model, &states, range)?)
                });
                chunks.sum()
            });
        };
        let (sum, above) = self.of_head(&parts.head, &flat, loss, take)?;
        let mut above = above.reshape(&[rows, len, width])?;
        let left = |model: &dyn CausalLm, x: &Array| Ok(stages(model)?.leave(last.with(x.clone())?)?);
        above = self.pull_back(&parts.leave, &last.x, &above, take, left)?;
        for (own, at) in parts.stages.iter().zip(&way).rev() {
            let passed = |model: &dyn CausalLm, x: &Array| Ok(stages(model)?.advance(&at.with(x.clone())?)?.x);
            above = self.pull_back(own, &at.x, &above, take, passed)?;
        }
        if !parts.enter.is_empty() {
            self.pull(&parts.enter, None, take, |model, _| weighed(&stages(model)?.enter(tokens)?.x, &above))?;
        }
        Ok(sum)
    }

    /// The loss of all states, and its gradient with respect to them. The matrices of the head are made once for all chunks.
    fn of_head(&mut self, own: &[usize], flat: &Array, loss: Loss<'_>, take: Take<'_>) -> Result<(f64, Array)> {
        let leaves = self.leaves;
        let made = own.iter().map(|&leaf| leaves.dense(leaf, &leaves.arrays(leaf)?));
        let made = Made { paths: leaves.paths(), own, matrices: made.collect::<Result<_, _>>()? };
        transforms::eval(&made.matrices)?;
        let mut gradients: Vec<Option<Array>> = vec![None; own.len()];
        let mut add = |leaf: usize, more: &[Array]| {
            let Some((at, more)) = made.at(leaf).zip(more.first()) else { return Ok(()) };
            let all = match gradients[at].take() {
                Some(sum) => sum.add(more)?,
                None => more.clone(),
            };
            transforms::eval([&all])?;
            gradients[at] = Some(all);
            Ok(())
        };
        let (mut sum, mut of_states) = (0.0, Vec::new());
        let mut of_made = Model::new(self.model, &made);
        for range in chunks(flat.dim(1)) {
            let states = flat.try_index((.., range.clone()))?.contiguous()?;
            let chunk = |model: &dyn CausalLm, states: &Array| loss(model, states, range.clone());
            let (value, below) = of_made.pull(own, Some(&states), &mut add, chunk)?;
            sum += number(&value)?;
            of_states.extend(below);
        }
        drop(made);
        for (&leaf, above) in own.iter().zip(gradients) {
            let Some(above) = above else { continue };
            let arrays = leaves.arrays(leaf)?;
            let numbers: Vec<i32> = (0..arrays.len() as i32).collect();
            let made = |arrays: &[Array]| Ok(vec![leaves.dense(leaf, arrays)?.multiply(&above)?.sum(None)?]);
            let (_, of_arrays) = transforms::value_and_grad_with_argnums(made, numbers.as_slice())(&arrays)?;
            transforms::eval(&of_arrays)?;
            take(leaf, &of_arrays)?;
        }
        put(self.model, leaves, own, |leaf| leaves.at_rest(leaf))?;
        Ok((sum, mlxlm_core::ops::concatenate(&of_states, 1)?))
    }

    /// The gradient of what a part read, from that of what it made.
    fn pull_back(
        &mut self,
        own: &[usize],
        x: &Array,
        above: &Array,
        take: Take<'_>,
        part: impl Fn(&dyn CausalLm, &Array) -> Result<Array>,
    ) -> Result<Array> {
        let (_, below) = self.pull(own, Some(x), take, |model, x| weighed(&part(model, x)?, above))?;
        Ok(below.unwrap_or_else(|| above.clone()))
    }

    /// All gradients of a scalar: those of leaves are handed on, that of `x` comes back beside the scalar.
    fn pull(
        &mut self,
        own: &[usize],
        x: Option<&Array>,
        take: Take<'_>,
        scalar: impl Fn(&dyn CausalLm, &Array) -> Result<Array>,
    ) -> Result<(Array, Option<Array>)> {
        let of_leaves: Vec<Vec<Array>> = own.iter().map(|&leaf| self.leaves.arrays(leaf)).collect::<Result<_, _>>()?;
        let given: Vec<Array> = of_leaves.iter().flatten().chain(x).cloned().collect();
        let numbers: Vec<i32> = (0..given.len() as i32).collect();
        let mut failed = None;
        let nothing = Array::from_f32(0.0);
        let traced = |traced: &[Array]| {
            let (mut rest, mut counts) = (traced, of_leaves.iter().map(Vec::len));
            let put = put(self.model, self.leaves, own, |leaf| {
                let (of_leaf, others) = rest.split_at(counts.next().unwrap_or(0));
                rest = others;
                Ok(Matrix::Dense(self.leaves.dense(leaf, of_leaf)?))
            });
            put?;
            let x = rest.first().unwrap_or(&nothing);
            let made = nn::train(|| scalar(self.model, x)).map_err(|error| {
                let exception = Exception::custom(error.to_string());
                failed = Some(error);
                exception
            })?;
            Ok(vec![made])
        };
        let result = transforms::value_and_grad_with_argnums(traced, numbers.as_slice())(&given);
        // Traced arrays must not stay in the model.
        put(self.model, self.leaves, own, |leaf| self.leaves.at_rest(leaf))?;
        let (values, gradients) = failed.map_or_else(|| Ok(result?), Err)?;
        transforms::eval(values.iter().chain(&gradients))?;
        let mut rest = gradients.as_slice();
        for (&leaf, arrays) in own.iter().zip(&of_leaves) {
            let (of_leaf, others) = rest.split_at(arrays.len());
            rest = others;
            take(leaf, of_leaf)?;
        }
        let value = values.into_iter().next().ok_or_else(|| Exception::custom("a loss is one array"))?;
        Ok((value, rest.first().cloned()))
    }

    /// The same for all of a model at once.
    fn loss_at_once(&mut self, tokens: &Array, loss: Loss<'_>, take: Option<Take<'_>>) -> Result<f64> {
        let all: Vec<usize> = (0..self.leaves.paths().len()).collect();
        let whole = |model: &dyn CausalLm| {
            let states = model.hidden(tokens, None)?;
            let &[rows, len, width] = states.shape() else { return Ok(Array::from_f32(0.0)) };
            loss(model, &states.reshape(&[1, rows * len, width])?, 0..rows * len)
        };
        match take {
            Some(take) => number(&self.pull(&all, None, take, |model, _| whole(model))?.0),
            None => self.dense(&all, |model| number(&whole(model)?)),
        }
    }

    /// Runs a part with its leaves dense; all that comes of it must be computed by then.
    fn dense<T>(&mut self, own: &[usize], f: impl FnOnce(&dyn CausalLm) -> Result<T>) -> Result<T> {
        let leaves = self.leaves;
        put(self.model, leaves, own, |leaf| Ok(Matrix::Dense(leaves.dense(leaf, &leaves.arrays(leaf)?)?)))?;
        let result = f(self.model);
        put(self.model, leaves, own, |leaf| leaves.at_rest(leaf))?;
        result
    }
}

/// Some leaves of others, whose matrices are what gradients are taken of.
struct Made<'l> {
    paths: &'l [String],
    own: &'l [usize],
    matrices: Vec<Array>,
}

impl Made<'_> {
    fn at(&self, leaf: usize) -> Option<usize> {
        self.own.iter().position(|&own| own == leaf)
    }
}

impl Leaves for Made<'_> {
    fn paths(&self) -> &[String] {
        self.paths
    }

    fn arrays(&self, leaf: usize) -> Result<Vec<Array>, Exception> {
        Ok(self.at(leaf).map(|at| self.matrices[at].clone()).into_iter().collect())
    }

    fn dense(&self, _leaf: usize, arrays: &[Array]) -> Result<Array, Exception> {
        arrays.first().cloned().ok_or_else(|| Exception::custom("a matrix is one array"))
    }

    fn at_rest(&self, leaf: usize) -> Result<Matrix, Exception> {
        self.dense(leaf, &self.arrays(leaf)?).map(Matrix::Dense)
    }
}

/// Copies what a model has beside its leaves, so that it does not hold the files of weights that it has no more.
pub(crate) fn let_go_of_files(model: &mut dyn CausalLm, leaves: &impl Leaves) -> Result<()> {
    let own: BTreeSet<&str> = leaves.paths().iter().map(String::as_str).collect();
    let mut failed = None;
    model.walk_mut("", &mut |path, leaf| {
        if own.contains(path) {
            return;
        }
        leaf.parameters(path, &mut |_, array| {
            failed = failed.take().or(array.eval().err());
            *array = array.deep_clone();
        });
    });
    failed.map_or(Ok(()), |exception| Err(exception.into()))
}

/// Puts matrices into leaves.
pub(crate) fn put(
    model: &mut dyn CausalLm,
    leaves: &impl Leaves,
    own: &[usize],
    mut matrix: impl FnMut(usize) -> Result<Matrix, Exception>,
) -> Result<(), Exception> {
    let made = own.iter().map(|&leaf| Ok((leaves.paths()[leaf].as_str(), matrix(leaf)?)));
    let mut made: BTreeMap<&str, Matrix> = made.collect::<Result<_, Exception>>()?;
    model.walk_mut("", &mut |path, mut leaf| {
        if let Some(matrix) = leaf.matrix()
            && let Some(made) = made.remove(path)
        {
            *matrix = made;
        }
    });
    Ok(())
}

fn chunks(rows: i32) -> impl Iterator<Item = Range<i32>> {
    (0..rows).step_by(CHUNK as usize).map(move |start| start..(start + CHUNK).min(rows))
}

/// What has `above` as the gradient of `x`.
fn weighed(x: &Array, above: &Array) -> Result<Array> {
    Ok(x.as_dtype(Dtype::Float32)?.multiply(above.as_dtype(Dtype::Float32)?)?.sum(None)?)
}

fn number(scalar: &Array) -> Result<f64> {
    Ok(f64::from(scalar.as_dtype(Dtype::Float32)?.try_item_exact::<f32>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_of_a_path_ends_with_its_first_number() {
        assert_eq!(block_of("model.layers.3.mlp.experts.1"), Some("model.layers.3"));
        assert_eq!(block_of("h.0"), Some("h.0"));
        assert_eq!(block_of("model.embed_tokens"), None);
        assert_eq!(chunks(300).collect::<Vec<_>>(), [0..128, 128..256, 256..300]);
    }
}
