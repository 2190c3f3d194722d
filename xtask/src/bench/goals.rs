//! The targets, each a ratio of two figures of one run.

use super::machine;
use super::measure::median;
use super::plan::{Bench, What};
use super::shape::{MAIN, SKELETON, Shape};

/// A target, and what was measured of it.
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

/// Decoding against llama.cpp: the shapes, and the rows about them.
const AGAINST_LLAMA: [(&str, &str); 4] = [
    ("llama-3.2-1b", "decode of Llama-3.2-1B, against llama.cpp Q4_0"),
    ("qwen3-4b", "decode of Qwen3-4B, against llama.cpp Q4_0"),
    ("qwen3-30b-a3b-cut", "decode of Qwen3-30B-A3B, against llama.cpp Q4_0"),
    ("gemma-3-1b", "decode of Gemma-3-1B, against llama.cpp Q4_0"),
];

/// All targets.
pub(super) fn goals(bench: &Bench) -> Vec<Goal> {
    let Some(main) = Shape::find(MAIN) else { return Vec::new() };
    let ours = |shape, what, isa| bench.figure(shape, what, isa)?.ok();
    let (decode, prefill) = (What::Decode(0), What::Prefill(512));
    // The best of those builds of llama.cpp.
    let llama = |shape, what, wanted: &dyn Fn(&str) -> bool| {
        let titles = bench.peers.llamas.iter().map(|peer| &peer.title).filter(|title| wanted(title));
        titles.filter_map(|title| bench.peer(title, shape, what)?.ok()).max_by(f64::total_cmp)
    };
    let python = bench.peers.mlx_lm.as_ref().and_then(|peer| bench.peer(&peer.title, main, decode)?.ok());
    // AMX computes in bf16; without it products of quantized weights are exact.
    let exact = ours(main, prefill, Some("avx512")).or_else(|| ours(main, prefill, None));
    let together = if machine::has("amx_int8") { 6.0 } else { 3.0 };
    let tokens = |what, ours, against, bound| goal(what, Unit::Tokens, ours, against, bound);
    let mut goals = vec![
        share(bench, "decode, bytes of weights against read bandwidth", main, 0, 0.92),
        share(bench, "decode at 16k, bytes of weights and cache against read bandwidth", main, 16_384, 0.9),
    ];
    goals.extend(AGAINST_LLAMA.iter().filter_map(|(name, what)| {
        let shape = Shape::find(name)?;
        Some(tokens(what, ours(shape, decode, None), llama(shape, decode, &|_| true), 1.1))
    }));
    goals.extend([
        tokens(
            "exact prefill of 512, against llama.cpp without AMX",
            exact,
            llama(main, prefill, &|title| !title.contains("AMX")),
            1.3,
        ),
        tokens(
            "16 sequences together, against one",
            ours(main, What::Batch(16), None),
            ours(main, decode, None),
            together,
        ),
        tokens("decode, against Python mlx-lm", ours(main, decode, None), python, 100.0),
        memory(bench, main),
    ]);
    goals
}

/// The bytes that decoding reads in a second, against what probes right before and after it read: the median of the rounds.
fn share(bench: &Bench, what: &'static str, shape: &Shape, context: u64, bound: f64) -> Goal {
    let bytes = (shape.bytes_a_step() + shape.kv_bytes(context)) as f64;
    let rounds: Vec<(f64, f64)> =
        bench.probed(shape, What::Decode(context)).into_iter().map(|(tps, probe)| (tps * bytes, probe)).collect();
    let of = |figure: &dyn Fn(&(f64, f64)) -> f64| median(rounds.iter().map(figure));
    Goal { ratio: of(&|(ours, probe)| ours / probe), ..goal(what, Unit::Bytes, of(&|r| r.0), of(&|r| r.1), bound) }
}

/// What a step costs outside of the kernels at most, in milliseconds, and the whole step: a step of the same layers with matrices of
/// 64 × 64, and of the model.
pub(super) fn overhead(bench: &Bench) -> Option<(f64, f64)> {
    let step = |name| Some(1e3 / bench.figure(Shape::find(name)?, What::Decode(0), None)?.ok()?);
    step(SKELETON).zip(step(MAIN))
}

/// What the figures of a target are.
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
    fn the_shapes_against_llama_are_those_that_are_quantized() {
        let quantized = super::super::shape::ALL.iter().filter(|shape| shape.quantized && shape.name != SKELETON);
        assert_eq!(quantized.map(|shape| shape.name).collect::<Vec<_>>(), AGAINST_LLAMA.map(|(name, _)| name));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.123, 9.876, 12.34, 123.4, 1234.5].map(number), ["0.12", "9.88", "12.3", "123", "1234"]);
    }
}
