//! A weight matrix, or a stack of them, dense or packed: the one place that knows the difference.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::pages::Arena;
use crate::quant::{self, Packed, Panels, Scheme};
use crate::weights::{Init, Weights};
use crate::{Result, fast};

/// `[…, out, in]`, dense or packed along the rows.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// Plain floats.
    Dense(Array),
    /// Quantized rows.
    Packed(Packed, Scheme),
    /// Quantized, in the order in which the CPU's kernels read it.
    Panels(Panels),
}

impl Matrix {
    /// The matrix at `w` (`weight`, and if packed `scales` and `biases`), whose shape before packing is `shape`.
    pub fn load(w: &Weights, shape: &[i32], init: Init) -> Result<Self> {
        Ok(match w.packed(shape)? {
            Some((packed, scheme)) => Self::Packed(packed, scheme),
            None => Self::Dense(w.parameter("weight", shape, init)?),
        })
    }

    /// `x @ self.T`.
    ///
    /// # Shapes
    /// - `x`: `[…, in]`, result: `[…, out]`
    #[track_caller]
    pub fn project(&self, x: &Array) -> Result<Array, Exception> {
        match self {
            Self::Dense(weight) => fast::linear(x, weight),
            Self::Packed(packed, scheme) => quant::quantized_matmul(x, packed, *scheme, true),
            Self::Panels(panels) => panels.matmul(x, true),
        }
    }

    /// `x[i] @ self[indices[i]].T` over a stack.
    ///
    /// # Shapes
    /// - `x`: `[…, 1, in]`, `indices`: `[…]` of `u32`, result: `[…, 1, out]`
    #[track_caller]
    pub fn project_chosen(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
        match self {
            Self::Dense(stack) => fast::gather_linear(x, stack, indices, sorted),
            Self::Packed(packed, scheme) => quant::gather_quantized_matmul(x, packed, *scheme, indices, sorted),
            Self::Panels(panels) => panels.gather_matmul(x, indices, sorted),
        }
    }

    /// `x @ self.T` for each matrix of a stack, or `x @ self` without `transpose`.
    ///
    /// # Shapes
    /// - `x`: `[B, H, L, in]`, or `[B, 1, L, in]` for all, result: `[B, H, L, out]`; without `transpose`, `x` has rows of `out`
    #[track_caller]
    pub fn project_stack(&self, x: &Array, transpose: bool) -> Result<Array, Exception> {
        match self {
            Self::Dense(stack) if transpose => x.matmul(stack.swap_axes(-1, -2)?),
            Self::Dense(stack) => x.matmul(stack),
            Self::Packed(packed, scheme) => quant::quantized_matmul(x, packed, *scheme, transpose),
            Self::Panels(panels) => quant::quantized_matmul(x, &panels.restore()?, panels.scheme(), transpose),
        }
    }

    /// The matrices of a stack as one, whose outputs are those of all, one behind the other.
    pub fn flattened(&self) -> Result<Self, Exception> {
        let flat = |array: &Array| array.flatten(0, -2);
        let packed = |packed: &Packed| {
            let biases = packed.biases.as_ref().map(flat).transpose()?;
            Ok::<_, Exception>(Packed { weight: flat(&packed.weight)?, scales: flat(&packed.scales)?, biases })
        };
        Ok(match self {
            Self::Dense(stack) => Self::Dense(flat(stack)?),
            Self::Packed(stack, scheme) => Self::Packed(packed(stack)?, *scheme),
            Self::Panels(panels) => Self::Packed(packed(&panels.restore()?)?, panels.scheme()),
        })
    }

    /// The rows with these numbers, dense.
    ///
    /// # Shapes
    /// - `ids`: `[…]`, result: `[…, in]`
    #[track_caller]
    pub fn rows(&self, ids: &Array) -> Result<Array, Exception> {
        match self {
            Self::Dense(weight) => weight.take_axis(ids, 0),
            Self::Packed(packed, scheme) => quant::quantized_rows(packed, *scheme, ids),
            Self::Panels(panels) => panels.rows(ids),
        }
    }

    /// The matrix as plain floats.
    #[track_caller]
    pub fn dense(&self) -> Result<Array, Exception> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Packed(packed, scheme) => quant::dequantize(packed, *scheme, None),
            Self::Panels(panels) => quant::dequantize(&panels.restore()?, panels.scheme(), None),
        }
    }

    /// Puts a packed matrix in the order in which the CPU's kernels read it fastest, and whatever has no such order as it is, into
    /// the memory of `arena`.
    pub(super) fn arrange(&mut self, arena: &mut Arena) -> Result<(), Exception> {
        match self {
            Self::Dense(weight) => *weight = arena.copy(weight)?,
            Self::Packed(packed, scheme) => match Panels::arrange(packed, *scheme, arena)? {
                Some(panels) => *self = Self::Panels(panels),
                None => {
                    for part in [&mut packed.weight, &mut packed.scales].into_iter().chain(&mut packed.biases) {
                        *part = arena.copy(part)?;
                    }
                }
            },
            Self::Panels(_) => {}
        }
        Ok(())
    }

    /// The scheme, if packed.
    pub fn scheme(&self) -> Option<Scheme> {
        match self {
            Self::Dense(_) => None,
            Self::Packed(_, scheme) => Some(*scheme),
            Self::Panels(panels) => Some(panels.scheme()),
        }
    }

    /// The row length before packing.
    pub fn input_dims(&self) -> i32 {
        match self {
            Self::Dense(weight) => weight.dim(-1),
            Self::Packed(packed, scheme) => packed.scales.dim(-1) * scheme.group_size,
            Self::Panels(panels) => panels.shape().last().copied().unwrap_or(0),
        }
    }

    /// The shape before packing.
    pub fn shape(&self) -> Vec<i32> {
        let stored = match self {
            Self::Dense(weight) => weight.shape(),
            Self::Packed(packed, _) => packed.weight.shape(),
            Self::Panels(panels) => return panels.shape(),
        };
        stored[..stored.len() - 1].iter().copied().chain([self.input_dims()]).collect()
    }

    /// The bytes that the matrix takes in a file.
    pub fn nbytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.nbytes(),
            Self::Packed(Packed { weight, scales, biases }, _) => {
                weight.nbytes() + scales.nbytes() + biases.as_ref().map_or(0, Array::nbytes)
            }
            Self::Panels(panels) => panels.nbytes(),
        }
    }

    /// Packs a dense matrix; one that is packed stays as it is.
    pub fn quantize(&mut self, scheme: Scheme) -> Result<(), Exception> {
        if let Self::Dense(weight) = self {
            *self = Self::Packed(quant::quantize(weight, scheme)?, scheme);
        }
        Ok(())
    }

    /// Unpacks a packed matrix.
    pub fn dequantize(&mut self) -> Result<(), Exception> {
        *self = Self::Dense(self.dense()?);
        Ok(())
    }

    /// Replaces the values and keeps the form: packed again in the same scheme, or dense.
    pub fn replace(&mut self, dense: Array) -> Result<(), Exception> {
        let scheme = self.scheme();
        *self = Self::Dense(dense);
        scheme.map_or(Ok(()), |scheme| self.quantize(scheme))
    }

    /// The type that results have where the input is of this type too.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Packed(Packed { biases: Some(biases), .. }, _) => biases.dtype(),
            Self::Packed(..) => Dtype::Bfloat16,
            Self::Panels(panels) => panels.dtype(),
        }
    }

    /// Shows the arrays that a checkpoint has, into which panels are turned back.
    pub(super) fn parameters(&mut self, visit: &mut dyn FnMut(&str, &mut Array)) {
        if let Self::Panels(panels) = self {
            let packed = panels.restore().expect("panels are in memory");
            *self = Self::Packed(packed, panels.scheme());
        }
        match self {
            Self::Panels(_) => unreachable!("panels were turned back"),
            Self::Dense(weight) => visit("weight", weight),
            Self::Packed(packed, _) => {
                visit("weight", &mut packed.weight);
                visit("scales", &mut packed.scales);
                if let Some(biases) = &mut packed.biases {
                    visit("biases", biases);
                }
            }
        }
    }
}
