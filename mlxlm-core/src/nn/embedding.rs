//! An embedding table, which may serve as the head too.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{LowRankAdapter, Matrix, Rotation, Worth};
use crate::Result;
use crate::weights::{Init, Weights};

/// A row of `weight` for each token.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[V, D]`.
    pub weight: Matrix,
    /// What a fine-tune adds.
    pub adapter: Option<LowRankAdapter>,
    /// What was folded into the rows, and is taken back when they are looked up.
    pub rotation: Option<Rotation>,
    /// How it is cut, and how far it may be packed.
    pub worth: Worth,
}

impl Embedding {
    /// The table of `count` rows of `dims` at `w`.
    pub fn load(w: &Weights, count: i32, dims: i32) -> Result<Self> {
        let init = Init::Normal(1.0 / (dims.max(1) as f32).sqrt());
        Ok(Self {
            weight: Matrix::load(w, &[count, dims], init)?,
            adapter: w.low_rank(|r| [vec![count, r], vec![r, dims], vec![count]]).map(LowRankAdapter::new),
            rotation: Rotation::load(w, dims)?,
            worth: w.worth(),
        })
    }

    /// # Shapes
    /// - `ids`: `[B, L]`, result: `[B, L, D]`
    #[track_caller]
    pub fn forward(&self, ids: &Array) -> Result<Array, Exception> {
        let y = self.weight.rows(ids)?;
        let y = self.rotation.as_ref().map_or(Ok(y.clone()), |rotation| rotation.back(&y))?;
        let Some(adapter) = &self.adapter else { return Ok(y) };
        let z = adapter.a.take_axis(ids, 0)?.matmul(&adapter.b)?;
        let out = y.add(adapter.scaled(&adapter.drop(&z)?, &y)?)?;
        let Some(m) = &adapter.m else { return Ok(out) };
        // Only the rows that are looked up are brought to their magnitude.
        let rows = LowRankAdapter { m: Some(m.take_axis(ids, 0)?), ..adapter.clone() };
        let adapted = y.add(adapter.scaled(&z, &y)?)?;
        rows.magnified(&out.move_axis(-1, 0)?, &adapted)?.move_axis(0, -1)
    }

    /// The table as a head: `x @ weight.T`.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`, result: `[…, V]`
    #[track_caller]
    pub fn as_linear(&self, x: &Array) -> Result<Array, Exception> {
        let y = match &self.rotation {
            Some(rotation) => self.weight.project(&rotation.forward(x)?)?,
            None => self.weight.project(x)?,
        };
        let Some(adapter) = &self.adapter else { return Ok(y) };
        let z = adapter.drop(x)?.matmul(adapter.b.t())?.matmul(adapter.a.t())?;
        let out = y.add(adapter.scaled(&z, x)?)?;
        match adapter.m {
            Some(_) => adapter.magnified(&out, &self.adapted_weight(adapter)?),
            None => Ok(out),
        }
    }

    /// `W + scale * A B`, `[V, D]`, as the rows are stored: rotated or not.
    fn adapted_weight(&self, adapter: &LowRankAdapter) -> Result<Array, Exception> {
        let weight = self.weight.dense()?;
        let more = adapter.scaled(&adapter.a.matmul(&adapter.b)?, &weight)?;
        weight.add(self.rotation.as_ref().map_or(Ok(more.clone()), |rotation| rotation.forward(&more))?)
    }

    /// Puts the adapter into the table, which keeps its form.
    pub fn fuse(&mut self) -> Result<(), Exception> {
        let Some(adapter) = self.adapter.take() else { return Ok(()) };
        let mut weight = self.adapted_weight(&adapter)?;
        if adapter.m.is_some() {
            weight = adapter.magnified(&weight.t(), &weight)?.t();
        }
        self.weight.replace(weight)
    }

    pub(super) fn parameters_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        self.weight.parameters(visit);
        self.others_mut(visit);
    }

    /// All parameters but those of the matrix.
    pub(super) fn others(&self) -> Vec<(&'static str, &Array)> {
        let signs = self.rotation.iter().map(|rotation| ("signs", &rotation.signs));
        signs.chain(self.adapter.iter().flat_map(LowRankAdapter::parameters)).collect()
    }

    pub(super) fn others_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        if let Some(rotation) = &mut self.rotation {
            visit("signs", &mut rotation.signs);
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.parameters_mut(visit);
        }
    }
}
