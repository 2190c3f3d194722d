//! A linear map, dense or packed, adapted or not.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{LowRankAdapter, Matrix, Rotation, Worth, watch};
use crate::quant::Panels;
use crate::weights::{Init, Weights};
use crate::{Result, fast};

/// `y = x @ weight.T + bias`, with the low-rank addition of an adapter if there is one.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Array>,
    /// What a fine-tune adds.
    pub adapter: Option<LowRankAdapter>,
    /// What was folded into the weights, and has to be done to the input.
    pub rotation: Option<Rotation>,
    /// How it is cut, and how far it may be packed.
    pub worth: Worth,
}

impl Linear {
    /// The map from `input` to `output` dimensions at `w`, without a bias.
    pub fn load(w: &Weights, output: i32, input: i32) -> Result<Self> {
        let init = Init::Normal(1.0 / (input.max(1) as f32).sqrt());
        Ok(Self {
            weight: Matrix::load(w, &[output, input], init)?,
            bias: None,
            adapter: w.low_rank(|r| [vec![input, r], vec![r, output], vec![output]]).map(LowRankAdapter::new),
            rotation: Rotation::load(w, input)?,
            worth: w.worth(),
        })
    }

    /// A map of weights that are in memory.
    pub fn new(weight: Matrix, bias: Option<Array>) -> Self {
        Self { weight, bias, adapter: None, rotation: None, worth: Worth::default() }
    }

    /// As [`Self::load`], with a bias if `biased`.
    pub fn load_biased(w: &Weights, output: i32, input: i32, biased: bool) -> Result<Self> {
        let bias = biased.then(|| w.parameter("bias", &[output], Init::Zeros)).transpose()?;
        Ok(Self { bias, ..Self::load(w, output, input)? })
    }

    /// # Shapes
    /// - `x`: `[…, in]`, result: `[…, out]`
    #[track_caller]
    pub fn forward(&self, x: &Array) -> Result<Array, Exception> {
        watch::heard(self, x, None, self.mapped(x)?)
    }

    #[track_caller]
    fn mapped(&self, x: &Array) -> Result<Array, Exception> {
        let turned = self.rotation.as_ref().map(|rotation| rotation.forward(x)).transpose()?;
        let read = turned.as_ref().unwrap_or(x);
        let y = match (&self.adapter, &self.weight, &self.bias) {
            (None, Matrix::Dense(weight), Some(bias)) => return fast::linear_biased(read, weight, bias),
            (None, ..) => self.weight.project(read)?,
            (Some(adapter), ..) if adapter.m.is_some() => self.forward_dora(x, read, adapter)?,
            (Some(adapter), ..) => {
                let z = adapter.drop(x)?.matmul(&adapter.a)?.matmul(&adapter.b)?;
                self.weight.project(read)?.add(adapter.scaled(&z, x)?)?
            }
        };
        self.biased(y)
    }

    /// What several maps make of the same input; at once where they are in panels and not adapted, as [`super::arrange`] leaves them.
    ///
    /// # Shapes
    /// - `x`: `[…, in]`, results: `[…, out]` of each
    #[track_caller]
    pub fn forward_all<const N: usize>(maps: [&Self; N], x: &Array) -> Result<[Array; N], Exception> {
        let panels: Vec<&Panels> = maps.iter().filter_map(|map| map.plain_panels()).collect();
        let all = match panels.len() == N {
            true => {
                let products = Panels::matmuls(x, &panels)?;
                maps.iter().zip(products).map(|(map, y)| map.biased(y)).collect::<Result<_, _>>()?
            }
            false => maps.iter().map(|map| map.forward(x)).collect::<Result<Vec<_>, _>>()?,
        };
        all.try_into().map_err(|_| Exception::custom("a product has not as many results as matrices"))
    }

    /// The matrix, if it is in panels, not adapted, and reads its input as it is.
    fn plain_panels(&self) -> Option<&Panels> {
        match (&self.weight, &self.adapter, &self.rotation) {
            (Matrix::Panels(panels), None, None) => Some(panels),
            _ => None,
        }
    }

    fn biased(&self, y: Array) -> Result<Array, Exception> {
        match &self.bias {
            Some(bias) => y.add(bias),
            None => Ok(y),
        }
    }

    /// `read` is the input as the weights read it: rotated or not.
    fn forward_dora(&self, x: &Array, read: &Array, adapter: &LowRankAdapter) -> Result<Array, Exception> {
        let weight = self.weight.dense()?;
        let z = adapter.drop(x)?.matmul(&adapter.a)?.matmul(&adapter.b)?;
        let y = fast::linear(read, &weight)?.add(adapter.scaled(&z, x)?)?;
        adapter.magnified(&y, &self.adapted_weight(&weight, adapter)?)
    }

    /// `W + scale * (A B)^T`, `[out, in]`, as the weights are stored: rotated or not.
    fn adapted_weight(&self, weight: &Array, adapter: &LowRankAdapter) -> Result<Array, Exception> {
        let more = adapter.scaled(&adapter.b.t().matmul(adapter.a.t())?, weight)?;
        weight.add(self.rotation.as_ref().map_or(Ok(more.clone()), |rotation| rotation.forward(&more))?)
    }

    /// Puts the adapter into the weights, which keep their form.
    pub fn fuse(&mut self) -> Result<(), Exception> {
        let Some(adapter) = self.adapter.take() else { return Ok(()) };
        let mut weight = self.adapted_weight(&self.weight.dense()?, &adapter)?;
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
        let bias = self.bias.iter().map(|bias| ("bias", bias));
        let signs = self.rotation.iter().map(|rotation| ("signs", &rotation.signs));
        bias.chain(signs).chain(self.adapter.iter().flat_map(LowRankAdapter::parameters)).collect()
    }

    pub(super) fn others_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        if let Some(bias) = &mut self.bias {
            visit("bias", bias);
        }
        if let Some(rotation) = &mut self.rotation {
            visit("signs", &mut rotation.signs);
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.parameters_mut(visit);
        }
    }
}
