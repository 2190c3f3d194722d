//! Reading and changing the weights of leaves by path.

use mlxlm_core::nn::{LeafMut, Matrix};
use mlxlm_core::quant::{self, Scheme};
use mlxlm_core::{Array, Dtype, Exception};
use mlxlm_models::CausalLm;

use crate::Result;
use crate::flow::with_leaf;

/// What leaves were, to be put back. The arrays are handles, not copies.
#[derive(Debug)]
pub(super) struct Saved(Vec<(String, Kept)>);

#[derive(Debug)]
enum Kept {
    Map(Matrix, Option<Array>),
    Norm(Option<Array>, Option<Array>),
}

impl Saved {
    /// The leaves at these paths.
    pub(super) fn of<'a>(model: &mut dyn CausalLm, paths: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut saved = Vec::new();
        for path in paths {
            with_leaf(model, path, |leaf| {
                saved.extend(match leaf {
                    LeafMut::Linear(leaf) => Some((path.to_owned(), Kept::Map(leaf.weight.clone(), leaf.bias.clone()))),
                    LeafMut::Experts(leaf) => {
                        Some((path.to_owned(), Kept::Map(leaf.weight.clone(), leaf.bias.clone())))
                    }
                    LeafMut::Norm(leaf) => Some((path.to_owned(), Kept::Norm(leaf.weight.clone(), leaf.bias.clone()))),
                    _ => None,
                });
                Ok(())
            })?;
        }
        Ok(Self(saved))
    }

    /// Puts them back.
    pub(super) fn restore(&self, model: &mut dyn CausalLm) -> Result<()> {
        for (path, kept) in &self.0 {
            with_leaf(model, path, |leaf| {
                match (leaf, kept) {
                    (LeafMut::Linear(leaf), Kept::Map(weight, bias)) => {
                        (leaf.weight, leaf.bias) = (weight.clone(), bias.clone());
                    }
                    (LeafMut::Experts(leaf), Kept::Map(weight, bias)) => {
                        (leaf.weight, leaf.bias) = (weight.clone(), bias.clone());
                    }
                    (LeafMut::Norm(leaf), Kept::Norm(weight, bias)) => {
                        (leaf.weight, leaf.bias) = (weight.clone(), bias.clone());
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The matrix of a map as plain floats.
pub(super) fn weight(model: &mut dyn CausalLm, path: &str) -> Result<Option<Array>> {
    Ok(with_leaf(model, path, |mut leaf| Ok(leaf.matrix().map(|matrix| matrix.dense()).transpose()?))?.flatten())
}

/// Gives a map another matrix.
pub(super) fn set_weight(model: &mut dyn CausalLm, path: &str, weight: Array) -> Result<()> {
    with_leaf(model, path, |mut leaf| {
        if let Some(matrix) = leaf.matrix() {
            *matrix = Matrix::Dense(weight);
        }
        Ok(())
    })?;
    Ok(())
}

/// `weight` with its columns multiplied by `scales`, in its own type.
pub(super) fn scaled(weight: &Array, scales: &Array) -> Result<Array, Exception> {
    weight.as_dtype(Dtype::Float32)?.multiply(scales)?.as_dtype(weight.dtype())
}

/// What packing leaves of a matrix, in its own type.
pub(super) fn rounded(weight: &Array, scheme: Scheme) -> Result<Array, Exception> {
    quant::dequantize(&quant::quantize(weight, scheme)?, scheme, Some(weight.dtype()))
}

/// Divides what a map or a norm makes by `scales`, for others to multiply with; whether that is possible.
pub(super) fn divide_outputs(model: &mut dyn CausalLm, path: &str, scales: &Array) -> Result<bool> {
    let divided = with_leaf(model, path, |leaf| {
        let by_rows = |matrix: &mut Matrix, bias: &mut Option<Array>| -> Result<bool> {
            let weight = matrix.dense()?;
            if weight.dim(-2) != scales.dim(0) {
                return Ok(false);
            }
            let column = scales.reshape(&[-1, 1])?;
            *matrix = Matrix::Dense(weight.as_dtype(Dtype::Float32)?.divide(column)?.as_dtype(weight.dtype())?);
            if let Some(bias) = bias {
                *bias = bias.as_dtype(Dtype::Float32)?.divide(scales)?.as_dtype(bias.dtype())?;
            }
            Ok(true)
        };
        match leaf {
            LeafMut::Norm(norm) => Ok(norm.divide(scales)?),
            LeafMut::Linear(leaf) => by_rows(&mut leaf.weight, &mut leaf.bias),
            LeafMut::Experts(leaf) => by_rows(&mut leaf.weight, &mut leaf.bias),
            _ => Ok(false),
        }
    })?;
    Ok(divided.unwrap_or(false))
}

/// Multiplies what a map reads by `scales`.
pub(super) fn multiply_inputs(model: &mut dyn CausalLm, path: &str, scales: &Array) -> Result<()> {
    if let Some(old) = weight(model, path)? {
        set_weight(model, path, scaled(&old, scales)?)?;
    }
    Ok(())
}
