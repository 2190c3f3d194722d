//! What has to be reached, each as a ratio of two figures of one run.

use super::measure::median;
use super::plan::{Bench, What};
use super::shape::{DENSE, MAIN, SKELETON, Shape};

/// A goal and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Goal {
    pub(super) what: &'static str,
    pub(super) ours: Option<String>,
    pub(super) against: Option<String>,
    /// Nothing if one of the two was not measured.
    pub(super) ratio: Option<f64>,
    pub(super) bound: Bound,
}

/// Where the ratio has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    /// A part of one, below this.
    Below(f64),
    AtMost(f64),
}

impl Goal {
    /// Whether it is reached.
    pub(super) fn verdict(&self) -> &'static str {
        let is_reached = self.ratio.map(|ratio| match self.bound {
            Bound::AtLeast(bound) => ratio >= bound,
            Bound::Below(bound) => ratio < bound,
            Bound::AtMost(bound) => ratio <= bound,
        });
        match is_reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        }
    }
}

impl Bound {
    /// As the table has it.
    pub(super) fn shown(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("{bound} ×"),
            Self::Below(bound) => format!("under {bound} ×"),
            Self::AtMost(bound) => format!("at most {bound} ×"),
        }
    }
}

/// All goals.
pub(super) fn goals(bench: &Bench) -> Vec<Goal> {
    let (Some(main), Some(dense), Some(skeleton)) = (Shape::find(MAIN), Shape::find(DENSE), Shape::find(SKELETON))
    else {
        return Vec::new();
    };
    let ours = |shape, what, isa| bench.figure(shape, what, isa)?.ok();
    let (decode, prefill) = (What::Decode(0), What::Prefill(512));
    let bandwidth = bench.best_bandwidth();
    // Of the builds with AMX, or of those without, the best.
    let llama = |what, amx: bool| {
        let titles = bench.peers.llamas.iter().map(|peer| &peer.title).filter(|title| title.contains("AMX") == amx);
        titles.filter_map(|title| bench.peer(title, main, what)?.ok()).max_by(f64::total_cmp)
    };
    let python = bench.peers.mlx_lm.as_ref().and_then(|peer| bench.peer(&peer.title, main, decode)?.ok());
    let wall = |shape: &'static Shape, context: u64| {
        let bytes = shape.bytes_a_step() + shape.kv_bytes(context);
        ours(shape, What::Decode(context), None).map(|tps| tps * bytes as f64)
    };
    // Only where there are tiles is it measured without them, too.
    let (tiled, untiled) = match (ours(main, prefill, None), ours(main, prefill, Some("avx512"))) {
        (default, None) => (None, default),
        both => both,
    };
    let share = |what, ours: Option<f64>| goal(what, Unit::Bytes, ours, bandwidth, 0.8);
    let tokens = |what, ours, against, bound| goal(what, Unit::Tokens, ours, against, bound);
    vec![
        tokens("decode, against llama.cpp Q4_0 without AMX", ours(main, decode, None), llama(decode, false), 1.6),
        tokens("decode, against llama.cpp Q4_0 with AMX", ours(main, decode, None), llama(decode, true), 1.6),
        share("decode, bytes of weights against read bandwidth", wall(main, 0)),
        tokens("prefill of 512 with AMX, against llama.cpp without", tiled, llama(prefill, false), 5.0),
        tokens("prefill of 512 without AMX, against llama.cpp without", untiled, llama(prefill, false), 1.3),
        Goal {
            bound: Bound::AtLeast(0.7),
            ..share("decode at 16k, bytes of weights and cache against read bandwidth", wall(main, 16_384))
        },
        tokens("16 sequences together, against one", ours(main, What::Batch(16), None), ours(main, decode, None), 6.0),
        share("decode in bf16, bytes of weights against read bandwidth", wall(dense, 0)),
        overhead(ours(main, decode, None), ours(skeleton, decode, None)),
        tokens("decode, against Python mlx-lm", ours(main, decode, None), python, 100.0),
        memory(bench, main),
    ]
}

/// What the figures of a goal are.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Tokens,
    Bytes,
}

fn goal(what: &'static str, unit: Unit, ours: Option<f64>, against: Option<f64>, bound: f64) -> Goal {
    let shown = |figure: f64| match unit {
        Unit::Tokens => format!("{} tokens/s", number(figure)),
        Unit::Bytes => format!("{} GB/s", number(figure / 1e9)),
    };
    let ratio = ours.zip(against).map(|(ours, against)| ours / against);
    Goal { what, ours: ours.map(shown), against: against.map(shown), ratio, bound: Bound::AtLeast(bound) }
}

/// A step of the skeleton, whose matrices are next to nothing, against one of the model.
fn overhead(main: Option<f64>, skeleton: Option<f64>) -> Goal {
    let shown = |tps: f64| format!("{} ms", number(1e3 / tps));
    Goal {
        what: "a step with matrices of next to nothing, against a step",
        ours: skeleton.map(shown),
        against: main.map(shown),
        ratio: main.zip(skeleton).map(|(main, skeleton)| main / skeleton),
        bound: Bound::Below(0.08),
    }
}

/// The process that took the most for what it held: its peak less 100 MB, against weights and cache.
fn memory(bench: &Bench, shape: &Shape) -> Goal {
    let peaks = bench.processes(shape).into_iter().filter_map(|said| {
        let number = |name: &str| said[name].as_u64();
        // Several sequences are merged from caches of their own, which is not what is asked for here.
        let is_single = number("batch_size")? == 1;
        let tokens = number("prompt_tokens")? + number("generation_tokens")? + number("context_tokens")?;
        let held = number("weight_bytes")? + shape.kv_bytes(tokens);
        let peak = number("peak_resident_bytes")?;
        is_single.then_some((peak as f64, held as f64, (peak as f64 - 1e8) / held as f64))
    });
    let worst = peaks.max_by(|a, b| a.2.total_cmp(&b.2));
    let shown = |bytes: f64| format!("{} GB", number(bytes / 1e9));
    Goal {
        what: "peak memory less 100 MB, against weights and cache",
        ours: worst.map(|(peak, ..)| shown(peak)),
        against: worst.map(|(_, held, _)| shown(held)),
        ratio: worst.map(|(.., ratio)| ratio),
        bound: Bound::AtMost(1.15),
    }
}

/// A figure with three digits or more.
pub(super) fn number(figure: f64) -> String {
    match figure {
        ..10.0 => format!("{figure:.2}"),
        ..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// The median of a number that our processes print about a shape.
pub(super) fn usual(bench: &Bench, shape: &Shape, name: &str) -> Option<f64> {
    median(bench.processes(shape).iter().filter_map(|said| said[name].as_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_missed_or_not_measured() {
        let goal = |ours, bound| Goal { bound, ..goal("x", Unit::Tokens, ours, Some(10.0), 1.6) };
        assert_eq!(goal(Some(16.0), Bound::AtLeast(1.6)).verdict(), "yes");
        assert_eq!(goal(Some(15.9), Bound::AtLeast(1.6)).verdict(), "**no**");
        assert_eq!(goal(Some(0.8), Bound::Below(0.08)).verdict(), "**no**");
        assert_eq!(goal(Some(11.5), Bound::AtMost(1.15)).verdict(), "yes");
        assert_eq!(goal(None, Bound::AtLeast(1.6)).verdict(), "not measured");
        assert_eq!(goal(Some(15.94), Bound::AtLeast(1.6)).ours.as_deref(), Some("15.9 tokens/s"));
    }

    #[test]
    fn the_overhead_is_a_part_of_the_step() {
        let goal = overhead(Some(25.0), Some(500.0));
        assert_eq!((goal.ours.as_deref(), goal.against.as_deref()), (Some("2.00 ms"), Some("40.0 ms")));
        assert_eq!((goal.ratio, goal.verdict()), (Some(0.05), "yes"));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.123, 9.876, 12.34, 123.4, 1234.5].map(number), ["0.12", "9.88", "12.3", "123", "1234"]);
    }
}
