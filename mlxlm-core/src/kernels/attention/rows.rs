//! The rows of queries that one task has, and what each of them sees.

use std::ops::Range;

use half::bf16;

use super::job::Job;
use crate::fast::Causal;
use crate::kernels::convert::Results;
use crate::kernels::exp::{Online, soft_cap};

/// The queries of some positions, of the heads that share a kv-head; rows go by position, then by head.
pub(super) struct Rows<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    pub(super) positions: Range<usize>,
    /// The keys that each row sees, by the rule.
    seen: Vec<(usize, usize)>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(job: &'a Job<'a>, batch: usize, kv_head: usize, positions: Range<usize>) -> Self {
        let of = |position| std::iter::repeat_n(job.seen(batch, position), job.group());
        let seen = positions.clone().flat_map(of).map(|keys| (keys.start, keys.end)).collect();
        Self { job, batch, kv_head, positions, seen }
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len() * self.job.group()
    }

    /// Position and head of a row.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let group = self.job.group();
        (self.positions.start + row / group, self.kv_head * group + row % group)
    }

    /// The keys that any row sees, and maybe some between them.
    pub(super) fn reach(&self) -> Range<usize> {
        let first = self.seen.iter().map(|keys| keys.0).min().unwrap_or(0);
        first..self.seen.iter().map(|keys| keys.1).max().unwrap_or(0)
    }

    /// The keys of the block of `count` from `first` on that a row sees, counted from there.
    pub(super) fn seen_of(&self, row: usize, first: usize, count: usize) -> Range<usize> {
        let (start, end) = self.seen[row];
        start.saturating_sub(first).min(count)..end.saturating_sub(first).min(count)
    }

    /// All rows of queries as f32, `width` values apart.
    pub(super) fn read_queries(&self, width: usize, to: &mut [f32]) {
        let d = self.job.q.shape[3];
        for (row, to) in to.chunks_exact_mut(width).enumerate().take(self.len()) {
            let (position, head) = self.place(row);
            self.job.q.read(self.job.isa, [self.batch, head, position], &mut to[..d]);
            to[d..].fill(0.0);
        }
    }

    /// The state of a row before the first key.
    pub(super) fn start(&self, row: usize) -> Online {
        match &self.job.sinks {
            None => Online::EMPTY,
            Some(sinks) => Online { max: sinks[self.place(row).1], sum: 1.0 },
        }
    }

    /// Makes a row's products with the block of `count` keys from `first` on scores, to be multiplied with what is returned. Those
    /// of keys that it does not see become minus infinity; `None` if it sees none.
    pub(super) fn score(&self, row: usize, first: usize, count: usize, scores: &mut [f32]) -> Option<f32> {
        let Job { scale, softcap, mask, isa, .. } = self.job;
        let seen = self.seen_of(row, first, count);
        if seen.is_empty() {
            return None;
        }
        let mut scale = *scale;
        if softcap.is_some() || mask.is_some() {
            for score in scores.iter_mut() {
                *score *= scale;
            }
            scale = 1.0;
        }
        if let Some(cap) = softcap {
            soft_cap(*isa, *cap, scores);
        }
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        if let Some(mask) = mask {
            let (position, head) = self.place(row);
            mask.apply([self.batch, head, position, first + seen.start], &mut scores[seen]);
        }
        Some(scale)
    }

    /// Turns a row's products with the block of `count` keys from `first` on into weights, and returns the factor for the sums so
    /// far. Those of keys that it does not see become zero; the length of `scores` is a multiple of 16.
    pub(super) fn weigh(&self, row: usize, first: usize, count: usize, scores: &mut [f32], state: &mut Online) -> f32 {
        let Some(scale) = self.score(row, first, count, scores) else {
            // This row must not even be multiplied by one.
            scores.fill(0.0);
            return 1.0;
        };
        state.step(self.job.isa, scale, scores)
    }

    /// [`weigh`](Self::weigh) with AVX-512 and BF16, with the weights in bf16; the scores keep no value.
    pub(super) fn weigh_narrow(
        &self,
        row: usize,
        first: usize,
        count: usize,
        scores: &mut [f32],
        weights: &mut [bf16],
        state: &mut Online,
    ) -> f32 {
        let Some(scale) = self.score(row, first, count, scores) else {
            weights.fill(bf16::ZERO);
            return 1.0;
        };
        state.step_narrow(scale, scores, weights)
    }

    /// Writes the sums of all rows, which are `width` apart, divided by those of their weights.
    pub(super) fn write(&self, out: &Results, states: &[Online], sums: &mut [f32], width: usize) {
        let Job { isa, q, .. } = self.job;
        let ([_, heads, len, _], e) = (q.shape, self.job.values.shape()[3]);
        for (row, state) in states.iter().enumerate() {
            let (position, head) = self.place(row);
            let sums = &mut sums[row * width..][..e];
            for sum in sums.iter_mut() {
                *sum /= state.sum;
            }
            // SAFETY: the row is inside the result, and each is of one task.
            unsafe { out.write(*isa, ((self.batch * heads + head) * len + position) * e, sums) };
        }
    }
}

/// The keys that the query at `own` sees, of `keys`.
pub(super) fn seen(rule: Option<&Causal>, batch: usize, own: usize, keys: usize) -> Range<usize> {
    let Some(rule) = rule else { return 0..keys };
    let padding = padding(Some(rule), batch, keys);
    let window = rule.window.map_or(0, |window| (own + 1).saturating_sub(window as usize));
    let chunk = rule.chunk.map_or(0, |chunk| own.saturating_sub((own + chunk.first as usize) % chunk.size as usize));
    window.max(chunk).max(padding)..own.max(padding) + 1
}

/// The keys at the front of a row of the batch that no query sees.
pub(super) fn padding(rule: Option<&Causal>, batch: usize, keys: usize) -> usize {
    let padding = rule.and_then(|rule| rule.padding.get(batch)).copied().unwrap_or(0);
    usize::try_from(padding).unwrap_or(0).min(keys - 1)
}
