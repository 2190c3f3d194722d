//! Rows of a fixed length, filled with whole documents, and batches of rows.
//!
//! Documents in a row see those before them: with documents that begin and end with their own marks a model learns soon
//! to look no further back, and rows are full without masks. Unusual: no document is cut that fits into a row.

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
        let shape = [rows.len() as i32, len as i32];
        Self {
            inputs: Array::from_slice(&inputs, &shape),
            targets: Array::from_slice(&targets, &shape),
            tokens: mask.iter().filter(|&&one| one > 0.0).count(),
            mask: Array::from_slice(&mask, &shape),
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
    let mut rng = StdRng::seed_from_u64(seed);
    let mut order: Vec<&[u32]> = documents.iter().flat_map(|document| document.chunks(len.max(1))).collect();
    order.shuffle(&mut rng);
    let (mut full, mut open): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
    for piece in order {
        let fitting = open.iter_mut().filter(|row| row.len() + piece.len() <= len);
        if let Some(row) = fitting.max_by_key(|row| row.len()) {
            row.extend_from_slice(piece);
            continue;
        }
        if open.len() == OPEN_ROWS {
            // The fullest is the least likely to take another document.
            let fullest = (0..open.len()).max_by_key(|&i| open[i].len()).unwrap_or_default();
            full.push(open.swap_remove(fullest));
        }
        open.push(piece.to_vec());
    }
    full.append(&mut open);
    full.shuffle(&mut rng);
    full
}
