//! A choice between proposers by what they have gained so far, and none of them where it does not pay.
//!
//! What a pass of n tokens costs is measured as it goes, as a line a + b n; how often a proposer is right, as a moving average. From
//! both follows how many tokens to propose: those that make the most tokens a second. A proposer that does not pay rests, twice as
//! long each time.

use std::time::Instant;

use mlxlm_core::Array;
use mlxlm_models::CausalLm;

use super::{Proposer, Scene};
use crate::Result;

/// Picks who proposes, and how much.
pub struct Auto<'p> {
    candidates: Vec<Candidate<'p>>,
    cost: Cost,
    /// The pass that is under way: since when, and with how many tokens.
    pass: Option<(Instant, usize)>,
    /// Who made the last proposals.
    last: Option<usize>,
}

struct Candidate<'p> {
    proposer: Box<dyn Proposer + 'p>,
    /// How often a proposed token is right, if those before it were.
    right: f64,
    /// Passes to rest.
    rests: usize,
    /// How long it rests next time.
    next_rest: usize,
}

/// The weight of the newest observation in an average.
const NEWEST: f64 = 0.1;
/// The first rest, and the longest.
const RESTS: (usize, usize) = (16, 512);
/// Tokens of a proposal that only tries whether it pays again.
const TRIAL: usize = 2;

impl<'p> Auto<'p> {
    /// Prefers the first of several that have something to propose and pay.
    pub fn new(proposers: Vec<Box<dyn Proposer + 'p>>) -> Self {
        let candidate = |proposer| Candidate { proposer, right: 0.6, rests: 0, next_rest: RESTS.0 };
        let candidates = proposers.into_iter().map(candidate).collect();
        Self { candidates, cost: Cost::default(), pass: None, last: None }
    }
}

impl Proposer for Auto<'_> {
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>> {
        if let Some((since, tokens)) = self.pass.take() {
            self.cost.note(tokens, since.elapsed().as_secs_f64());
        }
        self.last = None;
        let mut proposed = Vec::new();
        for (i, candidate) in self.candidates.iter_mut().enumerate() {
            if candidate.rests > 0 {
                candidate.rests -= 1;
                // On the pass after its rest it may try again.
                if candidate.rests > 0 {
                    continue;
                }
            }
            let pays = self.cost.best(candidate.right, scene.most);
            let most = pays.max(TRIAL).min(scene.most);
            proposed = candidate.proposer.propose(&Scene { most, ..*scene })?;
            if !proposed.is_empty() {
                if pays == 0 {
                    candidate.rests = candidate.next_rest;
                    candidate.next_rest = (2 * candidate.next_rest).min(RESTS.1);
                } else {
                    candidate.next_rest = RESTS.0;
                }
                self.last = Some(i);
                break;
            }
        }
        self.pass = Some((Instant::now(), 1 + proposed.len()));
        Ok(proposed)
    }

    fn rests(&mut self) -> bool {
        // Who wants states sees those of passes that are checked.
        let rests = !self.wants_states() && self.candidates.iter().all(|candidate| candidate.rests > 1);
        if rests {
            self.candidates.iter_mut().for_each(|candidate| candidate.rests -= 1);
            self.pass = None;
        }
        rests
    }

    fn checked(&mut self, proposed: usize, accepted: usize) {
        let Some(candidate) = self.last.and_then(|i| self.candidates.get_mut(i)) else { return };
        let outcomes = (0..proposed.min(accepted + 1)).map(|i| f64::from(u8::from(i < accepted)));
        for outcome in outcomes {
            candidate.right += NEWEST * (outcome - candidate.right);
        }
        candidate.proposer.checked(proposed, accepted);
    }

    fn wants_states(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.proposer.wants_states())
    }

    fn observe(&mut self, model: &dyn CausalLm, from: usize, tokens: &[u32], states: &Array) -> Result<()> {
        let wanting = self.candidates.iter_mut().filter(|candidate| candidate.proposer.wants_states());
        for candidate in wanting {
            candidate.proposer.observe(model, from, tokens, states)?;
        }
        Ok(())
    }

    fn settle(&mut self, text: &[u32]) -> Result<()> {
        self.candidates.iter_mut().try_for_each(|candidate| candidate.proposer.settle(text))
    }
}

/// What a pass costs by its number of tokens: a line through what was measured lately, in seconds.
#[derive(Debug, Default)]
struct Cost {
    /// Moving averages of n, t, n² and n t.
    n: f64,
    t: f64,
    nn: f64,
    nt: f64,
    seen: usize,
}

/// What a token more costs against a pass of one, before it is known.
const GUESSED_SLOPE: f64 = 0.1;

impl Cost {
    fn note(&mut self, tokens: usize, seconds: f64) {
        self.seen += 1;
        // The first pass also does what is done once; a pause of the machine is no cost of ours.
        if self.seen == 1 || (self.seen > 8 && seconds > 4.0 * self.of(tokens)) {
            return;
        }
        let n = tokens as f64;
        let weight = if self.seen == 2 { 1.0 } else { NEWEST };
        for (average, value) in
            [(&mut self.n, n), (&mut self.t, seconds), (&mut self.nn, n * n), (&mut self.nt, n * seconds)]
        {
            *average += weight * (value - *average);
        }
    }

    /// Seconds of a pass of so many tokens.
    fn of(&self, tokens: usize) -> f64 {
        let spread = self.nn - self.n * self.n;
        let measured = if spread > 0.05 { (self.nt - self.n * self.t) / spread } else { 0.0 };
        // One token's share of a pass is at most all of it.
        let guess = self.t * GUESSED_SLOPE / (1.0 + GUESSED_SLOPE * (self.n - 1.0).max(0.0));
        let slope = if spread > 0.05 { measured.clamp(0.0, self.t) } else { guess };
        (self.t + slope * (tokens as f64 - self.n)).max(self.t * 0.05)
    }

    /// How many proposals make the most tokens a second, if each is right with probability `right` once those before it were.
    fn best(&self, right: f64, most: usize) -> usize {
        if self.t <= 0.0 {
            return most.min(TRIAL);
        }
        let (mut best, mut best_rate) = (0, 1.0 / self.of(1));
        let (mut expected, mut chance) = (1.0, 1.0);
        for n in 1..=most {
            chance *= right;
            expected += chance;
            let rate = expected / self.of(1 + n);
            // What gains less than a few hundredths is not worth its risk.
            if rate > best_rate * if best == 0 { 1.03 } else { 1.0 } {
                (best, best_rate) = (n, rate);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(first: f64, more: f64) -> Cost {
        let mut cost = Cost::default();
        for i in 0..200 {
            let n = 1 + i % 5;
            cost.note(n, first + more * (n - 1) as f64);
        }
        cost
    }

    #[test]
    fn the_line_goes_through_what_was_measured() {
        let cost = cost(10.0, 2.0);
        for n in 1..20 {
            let expected = 10.0 + 2.0 * (n - 1) as f64;
            assert!((cost.of(n) - expected).abs() < 1e-6, "{n}: {}", cost.of(n));
        }
    }

    #[test]
    fn more_is_proposed_the_more_it_pays() {
        // Tokens of a pass that cost nothing: all of them.
        assert_eq!(cost(10.0, 0.0).best(0.9, 8), 8);
        // Each costs as much as a pass of its own: none.
        assert_eq!(cost(10.0, 10.0).best(0.9, 8), 0);
        let between = |right| cost(10.0, 1.0).best(right, 60);
        assert!(between(0.05) == 0 && between(0.5) > 0 && between(0.9) > between(0.5));
    }

    #[test]
    fn a_pause_of_the_machine_is_no_cost() {
        let mut cost = cost(10.0, 1.0);
        cost.note(1, 1000.0);
        assert!((cost.of(1) - 10.0).abs() < 1e-6);
    }
}
