//! Rows each of which meets one matrix of a stack: mixtures of experts.
//!
//! Rows are sorted by matrix here, whatever their order, so that each chosen matrix is read once.

use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::primitive::View;

/// Which rows of a result come from which matrix. Rows have numbers in the order of the result, and places in the order of the
/// stack.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    batch: &'a [i32],
    matrix_of: Vec<usize>,
    order: Vec<usize>,
}

impl<'a> Chosen<'a> {
    /// The matrices that `indices` chooses, broadcast to the rows of `batch`.
    pub(crate) fn new(indices: &View<'_>, batch: &'a [i32]) -> Self {
        let mut copy = Vec::new();
        let numbers = indices.contiguous::<u32>(&mut copy);
        let matrix_of: Vec<usize> = sources(indices.shape, batch).iter().map(|&i| numbers[i] as usize).collect();
        let mut order: Vec<usize> = (0..matrix_of.len()).collect();
        order.sort_by_key(|&row| matrix_of[row]);
        Self { batch, matrix_of, order }
    }

    /// The number of the row at each place.
    pub(crate) fn order(&self) -> &[usize] {
        &self.order
    }

    /// The row of `x` (`[…, 1, in]`, broadcast) for each place.
    pub(crate) fn sources(&self, x: &View<'_>) -> Vec<usize> {
        let row_of = sources(&x.shape[..x.shape.len() - 2], self.batch);
        self.order.iter().map(|&row| row_of[row]).collect()
    }

    /// The matrices that are chosen, ascending, and the places of their rows. The stack may have fewer matrices.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut end = 0;
        self.order.chunk_by(|&a, &b| self.matrix_of[a] == self.matrix_of[b]).map(move |rows| {
            let begin = end;
            end += rows.len();
            (self.matrix_of[rows[0]], begin..end)
        })
    }
}

/// The shape of the products of `x` (`[…, 1, in]`) with matrices of `rows` rows that `indices` chooses, if these fit.
pub(crate) fn shape(x: &Array, indices: &Array, rows: i32) -> Option<Vec<i32>> {
    if x.ndim() < 2 || x.dim(-2) != 1 || indices.dtype() != Dtype::Uint32 {
        return None;
    }
    let batch = broadcast(&x.shape()[..x.ndim() - 2], indices.shape())?;
    Some([&batch[..], &[1, rows]].concat())
}

/// The shape that both are broadcast to.
pub(crate) fn broadcast(a: &[i32], b: &[i32]) -> Option<Vec<i32>> {
    let len = a.len().max(b.len());
    let size = |shape: &[i32], axis: usize| (axis + shape.len()).checked_sub(len).map_or(1, |i| shape[i]);
    (0..len)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b || b == 1 => Some(a),
            (1, b) => Some(b),
            _ => None,
        })
        .collect()
}

/// For each element of `to` in row-major order, the number of the element of `from` that is broadcast to it.
fn sources(from: &[i32], to: &[i32]) -> Vec<usize> {
    let mut all = vec![0];
    let mut stride: usize = from.iter().map(|&size| size as usize).product();
    for (axis, &size) in to.iter().enumerate() {
        let own = (axis + from.len()).checked_sub(to.len()).map_or(1, |i| from[i] as usize);
        stride /= if axis + from.len() >= to.len() { own.max(1) } else { 1 };
        let step = if own == 1 { 0 } else { stride };
        all = all.iter().flat_map(|at| (0..size as usize).map(move |i| at + i * step)).collect();
    }
    all
}

/// Sums over the axes along which an array of `shape` was broadcast.
pub(crate) fn sum_to(array: &Array, shape: &[i32]) -> Result<Array, Exception> {
    let extra = array.ndim() - shape.len();
    let axes: Vec<i32> = (0..array.ndim())
        .filter(|&axis| axis < extra || (shape[axis - extra] == 1 && array.shape()[axis] != 1))
        .map(|axis| axis as i32)
        .collect();
    if axes.is_empty() {
        return Ok(array.clone());
    }
    array.sum_axes(&axes, true)?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_a_broadcast() {
        assert_eq!(broadcast(&[3, 1], &[2, 1, 4]), Some(vec![2, 3, 4]));
        assert_eq!(broadcast(&[0], &[1]), Some(vec![0]));
        assert_eq!(broadcast(&[2], &[3]), None);
        assert_eq!(sources(&[2, 1], &[2, 3]), [0, 0, 0, 1, 1, 1]);
        assert_eq!(sources(&[3], &[2, 3]), [0, 1, 2, 0, 1, 2]);
        assert_eq!(sources(&[], &[2]), [0, 0]);
        assert!(sources(&[0, 2], &[0, 2]).is_empty());
    }
}
