//! Rows of several texts, none of which sees another, so that batches are full and no time goes into padding.
//!
//! Attention ends where a text begins, and positions begin anew with it: a text is learned as it would be in a row of its own.

use mlxlm_core::Array;

use super::packing::fill;
use super::{Batch, Example, Row};

/// A row of several texts, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// The tokens of all of them.
    pub tokens: Vec<u32>,
    /// Which of the tokens are learned: not those of masked prompts, and not the first of each text, which nothing
    /// before it could tell.
    pub learned: Vec<bool>,
    /// Where each text begins.
    pub starts: Vec<usize>,
}

/// Fills rows of at most `len` tokens with texts, in an order drawn from `seed`, and shuffles the rows. A longer text is cut off there, as
/// in a row of its own.
pub fn pack_examples(examples: &[Example], len: usize, seed: u64) -> Vec<Packed> {
    let len = len.max(2);
    let cut = |example: &Example| example.tokens.len().min(len);
    let rows = fill(examples.iter().filter(|example| cut(example) > 0).collect(), |example| cut(example), len, seed);
    let packed = |row: Vec<&Example>| {
        let mut packed = Packed::default();
        for example in row {
            let end = cut(example);
            packed.starts.push(packed.tokens.len());
            packed.learned.extend((0..end).map(|i| i >= example.start.max(1)));
            packed.tokens.extend_from_slice(&example.tokens[..end]);
        }
        packed
    };
    rows.into_iter().map(packed).collect()
}

impl Row for Packed {
    type Batch = Batch;

    fn longest(&self) -> usize {
        self.tokens.len()
    }

    /// Padded to `max_len`, so that all batches have one shape.
    fn batch(rows: &[&Self], max_len: usize) -> Batch {
        let cut: Vec<Vec<u32>> = rows.iter().map(|row| row.tokens[..row.tokens.len().min(max_len)].to_vec()).collect();
        let len = max_len.max(2) - 1;
        let learned = |row: &&Self| -> Vec<f32> {
            (1..=len).map(|i| if row.learned.get(i) == Some(&true) { 1.0 } else { 0.0 }).collect()
        };
        let mask: Vec<f32> = rows.iter().flat_map(learned).collect();
        let tokens = mask.iter().filter(|&&one| one > 0.0).count();
        let starts = |row: &&Self| -> Vec<i32> {
            // What is padded belongs to the last text, which does not see it.
            row.starts.iter().filter(|start| **start < len).map(|start| *start as i32).collect()
        };
        Batch {
            mask: Array::from_slice(&mask, &[rows.len() as i32, len as i32]),
            tokens,
            documents: rows.iter().map(starts).collect(),
            ..Batch::new(&cut, len)
        }
    }
}
