//! The rows of queries that one task has, and what each of them sees.

use std::ops::Range;

use half::bf16;

use super::job::Job;
use crate::fast::{Causal, Ring};
use crate::kernels::exp::{Online, soft_cap};

/// The queries of some positions, of the heads that share a kv-head; rows go by position, then by head.
pub(super) struct Rows<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    pub(super) positions: Range<usize>,
    /// Where keys lie. All other functions number them by their positions, of which the first token of the sequence has the first.
    pub(super) place: Place,
    /// The keys that each row sees, by the rule.
    seen: Vec<(usize, usize)>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(job: &'a Job<'a>, batch: usize, kv_head: usize, positions: Range<usize>) -> Self {
        let place = Place::new(job.rule, batch, job.key_count());
        let of = |position| std::iter::repeat_n(job.seen(batch, position), job.group());
        let seen = positions.clone().flat_map(of).map(|keys| (place.position(keys.start), place.position(keys.end)));
        Self { job, batch, kv_head, place, seen: seen.collect(), positions }
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
        match self.job.sinks {
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
            let apply = |key, scores: &mut [f32]| mask.apply([self.batch, head, position, key], scores);
            match self.place.straight(first + seen.start, seen.len()) {
                Some(key) => apply(key, &mut scores[seen]),
                None => {
                    for at in seen {
                        if let Some(key) = self.place.key(first + at) {
                            apply(key, &mut scores[at..=at]);
                        }
                    }
                }
            }
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
    pub(super) fn write(&self, states: &[Online], sums: &mut [f32], width: usize) {
        let Job { isa, q, out, .. } = self.job;
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

/// Where the keys of one row of the batch lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Where the first token lies in the order of time, or would if it were still there.
    origin: isize,
    ring: Option<Ring>,
    keys: usize,
}

impl Place {
    fn new(rule: Option<&Causal>, batch: usize, keys: usize) -> Self {
        let origin = rule.and_then(|rule| rule.padding.get(batch)).copied().unwrap_or(0) as isize;
        Self { origin: origin.min(keys as isize - 1), ring: rule.and_then(|rule| rule.ring), keys }
    }

    /// The position of the key with this number in the order of time, which is none before the first token.
    fn position(&self, number: usize) -> usize {
        (number as isize - self.origin) as usize
    }

    /// The position behind the last key.
    pub(super) fn end(&self) -> usize {
        self.position(self.keys)
    }

    /// Whether all keys from the first token on are there, one after the other.
    pub(super) fn is_plain(&self) -> bool {
        self.origin >= 0 && self.ring.is_none()
    }

    /// Where the key at a position before [`end`](Self::end) lies, if it is still there.
    pub(super) fn key(&self, position: usize) -> Option<usize> {
        let number = usize::try_from(position as isize + self.origin).ok()?;
        let Some(Ring { keep, newest }) = self.ring else { return Some(number) };
        let (keep, behind) = (keep as usize, newest as usize + 1);
        let oldest = self.keys - behind;
        Some(match number.checked_sub(keep) {
            None => number,
            Some(age) if age < oldest => behind + age,
            Some(_) => number - oldest,
        })
    }

    /// Where the first of `count` keys from a position on lies, if all of them are there, one after the other.
    pub(super) fn straight(&self, first: usize, count: usize) -> Option<usize> {
        let (from, to) = (self.key(first)?, self.key(first + count - 1)?);
        (to == from + count - 1).then_some(from)
    }
}

/// The keys that the query at `own` sees, of `keys`, by their numbers in the order of time.
pub(super) fn seen(rule: Option<&Causal>, batch: usize, own: usize, keys: usize) -> Range<usize> {
    let Some(rule) = rule else { return 0..keys };
    let padding = padding(Some(rule), batch, keys);
    let window = rule.window.map_or(0, |window| (own + 1).saturating_sub(window as usize));
    let chunk = rule.chunk.map_or(0, |chunk| own.saturating_sub((own + chunk.first as usize) % chunk.size as usize));
    let document = rule.document(batch, own as i32) as usize;
    window.max(chunk).max(document).max(padding)..own.max(padding) + 1
}

/// The keys at the front of a row of the batch that no query sees.
fn padding(rule: Option<&Causal>, batch: usize, keys: usize) -> usize {
    let padding = rule.and_then(|rule| rule.padding.get(batch)).copied().unwrap_or(0);
    usize::try_from(padding).unwrap_or(0).min(keys - 1)
}
