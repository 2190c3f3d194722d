//! Rows that hold several documents, one behind the other.

use std::rc::Rc;

use mlxlm_core::Array;

use crate::{Error, Result};

/// Where the documents of each row begin. A copy costs nothing.
#[derive(Debug, Clone)]
pub struct Packing {
    starts: Rc<Vec<Vec<i32>>>,
    /// The position of each token in its own document, `i32` `[B, L]`.
    places: Array,
}

impl Packing {
    /// Rows of `len` tokens in which documents begin at these places: the first at zero, the others in ascending order. What comes
    /// before the first of a row with none is one document.
    ///
    /// # Errors
    /// Of places that are not in a row, or not in that order.
    pub fn new(starts: Vec<Vec<i32>>, len: i32) -> Result<Self> {
        let fits =
            |row: &Vec<i32>| row.is_sorted_by(|a, b| a < b) && row.iter().all(|start| (0..len.max(1)).contains(start));
        if !starts.iter().all(fits) {
            return Err(Error::packing("documents must begin in ascending order within their row"));
        }
        let place = |row: &Vec<i32>, at: i32| at - row.iter().rev().find(|start| **start <= at).copied().unwrap_or(0);
        let places: Vec<i32> = starts.iter().flat_map(|row| (0..len).map(move |at| place(row, at))).collect();
        let places = Array::from_slice(&places, &[starts.len() as i32, len]);
        Ok(Self { starts: Rc::new(starts), places })
    }

    /// Where documents begin in each row.
    pub fn starts(&self) -> &[Vec<i32>] {
        &self.starts
    }

    /// The position of each token in its own document, `i32` `[B, L]`.
    pub fn places(&self) -> &Array {
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_anew_with_each_document() {
        let packing = Packing::new(vec![vec![0, 2, 3], vec![]], 5).unwrap();
        let places = packing.places().to_vec_exact::<i32>().unwrap();
        assert_eq!(places, [0, 1, 0, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!(packing.starts(), [vec![0, 2, 3], vec![]]);
    }

    #[test]
    fn places_outside_of_a_row_or_out_of_order_are_refused() {
        for starts in [vec![0, 5], vec![-1, 2], vec![0, 3, 2], vec![0, 0]] {
            let error = Packing::new(vec![starts], 5).unwrap_err().to_string();
            assert!(error.contains("ascending order"), "{error}");
        }
    }
}
