//! Rows of a fixed length, filled with whole documents, and batches of rows.
//!
//! Documents in such a row see those before them, as in the training of models from scratch: with documents that begin and end with
//! their own marks a model learns soon to look no further back. Unusual: no document is cut that fits into a row. Rows for fine-tuning,
//! whose documents do not see each other, are [`Packed`](super::Packed).

use mlxlm_core::Array;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Documents;
use crate::{Error, Result};

/// The number of open rows among which a document looks for the fullest that it still fits into.
const OPEN_ROWS: usize = 64;

/// What a model reads and what it should predict.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[B, L]`, `i32`.
    pub inputs: Array,
    /// `[B, L]`, `i32`: the inputs one later.
    pub targets: Array,
    /// `[B, L]`, `f32`: one for each target, zero for padding.
    pub mask: Array,
    /// How many targets there are.
    pub tokens: usize,
    /// Where documents begin in each row, if they are not to see each other; empty otherwise.
    pub documents: Vec<Vec<i32>>,
}

impl Batch {
    /// A batch of rows of up to `len + 1` tokens.
    pub fn new(rows: &[Vec<u32>], len: usize) -> Self {
        let (mut inputs, mut targets, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let at = |i: usize| row.get(i).map_or(0, |&token| token as i32);
            inputs.extend((0..len).map(at));
            targets.extend((1..=len).map(at));
            mask.extend((1..=len).map(|i| if i < row.len() { 1_f32 } else { 0.0 }));
        }
        Self::of([&inputs, &targets], &mask, rows.len())
    }

    /// As many rows, laid end to end.
    pub(super) fn of([inputs, targets]: [&[i32]; 2], mask: &[f32], rows: usize) -> Self {
        let shape = [rows as i32, (mask.len() / rows.max(1)) as i32];
        Self {
            inputs: Array::from_slice(inputs, &shape),
            targets: Array::from_slice(targets, &shape),
            tokens: mask.iter().filter(|&&one| one > 0.0).count(),
            mask: Array::from_slice(mask, &shape),
            documents: Vec::new(),
        }
    }
}

/// Endless batches: the documents packed anew for each epoch.
#[derive(Debug)]
pub struct Batches<'a> {
    documents: &'a Documents,
    batch_size: usize,
    len: usize,
    seed: u64,
    epoch: u64,
    rows: std::vec::IntoIter<Vec<u32>>,
}

impl<'a> Batches<'a> {
    /// Batches of `batch_size` rows, each of `len` tokens that are read.
    ///
    /// # Errors
    /// [`Error::TooFewRows`] if the documents do not fill one batch.
    pub fn new(documents: &'a Documents, batch_size: usize, len: usize, seed: u64) -> Result<Self> {
        let rows = pack(&documents.tokens, len + 1, seed);
        if batch_size == 0 || rows.len() < batch_size {
            let path = documents.path.clone();
            return Err(Error::TooFewRows { path, rows: rows.len(), len, batch_size });
        }
        Ok(Self { documents, batch_size, len, seed, epoch: 0, rows: rows.into_iter() })
    }

    /// Full batches in an epoch.
    pub fn per_epoch(&self) -> usize {
        pack(&self.documents.tokens, self.len + 1, self.seed).len() / self.batch_size
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.rows.len() < self.batch_size {
            self.epoch += 1;
            let seed = self.seed.wrapping_add(self.epoch);
            self.rows = pack(&self.documents.tokens, self.len + 1, seed).into_iter();
        }
        let rows: Vec<Vec<u32>> = self.rows.by_ref().take(self.batch_size).collect();
        Some(Batch::new(&rows, self.len))
    }
}

/// Fills rows of at most `len` tokens with the documents, in an order drawn from `seed`, and shuffles the rows.
///
/// A longer document goes into several rows.
pub fn pack(documents: &[Vec<u32>], len: usize, seed: u64) -> Vec<Vec<u32>> {
    let pieces = documents.iter().flat_map(|document| document.chunks(len.max(1))).collect();
    let rows: Vec<Vec<&[u32]>> = fill(pieces, |piece| piece.len(), len, seed);
    rows.into_iter().map(|row| row.concat()).collect()
}

/// Puts pieces together to rows of at most `len`, in an order drawn from `seed`, and shuffles the rows.
pub(super) fn fill<P>(pieces: Vec<P>, length: impl Fn(&P) -> usize, len: usize, seed: u64) -> Vec<Vec<P>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut order = pieces;
    order.shuffle(&mut rng);
    let (mut full, mut open): (Vec<Vec<P>>, Vec<(usize, Vec<P>)>) = (Vec::new(), Vec::new());
    for piece in order {
        let size = length(&piece);
        let fitting = open.iter_mut().filter(|(filled, _)| filled + size <= len);
        if let Some((filled, row)) = fitting.max_by_key(|(filled, _)| *filled) {
            *filled += size;
            row.push(piece);
            continue;
        }
        if open.len() == OPEN_ROWS {
            // The fullest is the least likely to take another document.
            let fullest = (0..open.len()).max_by_key(|&i| open[i].0).unwrap_or_default();
            full.push(open.swap_remove(fullest).1);
        }
        open.push((size, vec![piece]));
    }
    full.extend(open.into_iter().map(|(_, row)| row));
    full.shuffle(&mut rng);
    full
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
        // Every document is a run of its own number, so that it is recognised wherever it lies.
        prop::collection::vec(2..30_usize, 1..200)
            .prop_map(|lens| lens.into_iter().enumerate().map(|(i, len)| vec![i as u32; len]).collect())
    }

    proptest! {
        #[test]
        fn every_token_is_packed_once_and_whole_documents_stay_whole(documents in documents(), seed: u64) {
            let rows = pack(&documents, 32, seed);
            prop_assert!(rows.iter().all(|row| !row.is_empty() && row.len() <= 32));
            let runs: Vec<&[u32]> = rows.iter().flat_map(|row| row.chunk_by(|a, b| a == b)).collect();
            prop_assert_eq!(runs.len(), documents.len());
            for run in runs {
                prop_assert_eq!(run.len(), documents[run[0] as usize].len());
            }
        }
    }

    #[test]
    fn rows_are_nearly_full() {
        let documents: Vec<Vec<u32>> = (0..2000).map(|i| vec![1; 20 + i * 7 % 90]).collect();
        let rows = pack(&documents, 257, 0);
        let tokens: usize = documents.iter().map(Vec::len).sum();
        assert!(tokens as f64 / (rows.len() * 257) as f64 > 0.97, "{} rows", rows.len());
    }

    #[test]
    fn long_documents_go_into_several_rows() {
        let mut rows = pack(&[vec![7; 100]], 32, 1);
        rows.sort_by_key(Vec::len);
        assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [4, 32, 32, 32]);
    }

    #[test]
    fn a_batch_predicts_the_next_token_and_masks_the_padding() {
        let batch = Batch::new(&[vec![1, 2, 3], vec![4, 5]], 3);
        let ints = |array: &Array| array.try_as_slice::<i32>().unwrap().to_vec();
        assert_eq!(ints(&batch.inputs), [1, 2, 3, 4, 5, 0]);
        assert_eq!(ints(&batch.targets), [2, 3, 0, 5, 0, 0]);
        assert_eq!(batch.mask.try_as_slice::<f32>().unwrap(), [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!((batch.inputs.shape(), batch.tokens), (&[2, 3][..], 3));
    }

    #[test]
    fn batches_go_on_over_epochs_and_come_again_with_the_seed() {
        let documents = Documents { path: PathBuf::new(), tokens: (0..10).map(|i| vec![i; 5]).collect() };
        let first_tokens = |seed| -> Vec<i32> {
            let batches = Batches::new(&documents, 2, 4, seed).unwrap();
            assert_eq!(batches.per_epoch(), 5);
            batches.take(12).flat_map(|batch| batch.inputs.try_as_slice::<i32>().unwrap()[..4].to_vec()).collect()
        };
        assert_eq!(first_tokens(3), first_tokens(3));
        assert_ne!(first_tokens(3), first_tokens(4));
        assert_ne!(first_tokens(3)[..20], first_tokens(3)[20..40]);
    }

    #[test]
    fn too_few_documents_are_refused() {
        let documents = Documents { path: PathBuf::from("train.jsonl"), tokens: vec![vec![1, 2]] };
        let error = Batches::new(&documents, 2, 4, 0).unwrap_err().to_string();
        assert_eq!(error, "`train.jsonl` makes 1 rows of 4 tokens, fewer than one batch of 2");
    }
}
