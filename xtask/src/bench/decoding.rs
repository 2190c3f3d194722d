//! The section "decoding": what stands on top of plain decoding, each against doing without it, in turns within one process
//! (`mlxlm benchmark --decoding`).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::folder;
use super::goals::{Bound, Goal, number};
use super::plan::Bench;
use super::shape::{HYBRID, MAIN, SMALL, Shape};
use crate::workspace;

/// What `--only` takes for this section.
pub(super) const NAME: &str = "decoding";

/// The folder that prompts are stored in, below that of the models.
const STORE: &str = "store.tmp";

/// What a part runs on.
enum On {
    /// The small real model, by whose text it is decided what pays.
    Real,
    /// A small shape with random weights, of which long prompts are read in a minute.
    Small,
    /// A small shape with recurrent states, with random weights.
    Hybrid,
    /// The shape of the goals, with the vocabulary of Llama 3.
    Main,
}

/// The parts, as the command calls them.
const PARTS: [(&str, On); 8] = [
    ("speculation", On::Real),
    ("hybrid", On::Hybrid),
    ("snapkv", On::Small),
    ("store", On::Small),
    ("prefill", On::Small),
    ("joining", On::Small),
    ("snapshots", On::Small),
    ("grammar", On::Main),
];

impl Bench<'_> {
    /// Measures all parts.
    pub(super) fn decoding(&self) -> Result<()> {
        let real = workspace::root().join("target/real-models");
        for (part, on) in PARTS {
            let (model, path) = match on {
                On::Real => (real.join("smollm2-135m.gguf"), None),
                On::Small => (folder::ensure(&self.models, &SMALL)?, Some(self.models.join(STORE))),
                On::Hybrid => (folder::ensure(&self.models, &HYBRID)?, None),
                On::Main => {
                    let Some(shape) = Shape::find(MAIN) else { continue };
                    let vocabulary = real.join("vocabularies/ggml-vocab-llama-bpe.gguf");
                    (folder::ensure(&self.models, shape)?, Some(vocabulary))
                }
            };
            let mut command = Command::new(&self.binary);
            command.args(["benchmark", "--decoding", part, "--model"]).arg(model);
            if let Some(path) = &path {
                command.arg("--decoding-path").arg(path);
            }
            self.journal.measure(&key(part), &mut command)?;
        }
        empty(&self.models.join(STORE))
    }

    /// A number that a part found.
    fn found(&self, part: &str, pointer: &str) -> Option<f64> {
        self.journal
            .outcomes(&key(part))
            .into_iter()
            .flatten()
            .next()
            .and_then(|said: Value| said.pointer(pointer)?.as_f64())
    }
}

fn key(part: &str) -> String {
    format!("{NAME}: {part}.")
}

/// Removes the folder of a part.
fn empty(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    Ok(())
}

/// What has to be reached.
pub(super) fn goals(bench: &Bench) -> Vec<Goal> {
    let speed = |what, part, ours: &str, plain: &str, bound| {
        let [ours, plain] = [ours, plain].map(|pointer| bench.found(part, pointer));
        compared(what, [ours, plain], &|tps| format!("{} tokens/s", number(tps)), Bound::AtLeast(bound))
    };
    // How often one time fits into another.
    let times = |what, part, long: &str, short: &str, bound| {
        let [long, short] = [long, short].map(|pointer| bench.found(part, pointer));
        Goal {
            ours: short.map(time),
            against: long.map(time),
            ..compared(what, [long, short], &time, Bound::AtLeast(bound))
        }
    };
    let at_most = |what, part, ours: &str, against: &str, bound| {
        let [ours, against] = [ours, against].map(|pointer| bench.found(part, pointer));
        compared(what, [ours, against], &time, Bound::AtMost(bound))
    };
    let snapshot = bench.found("snapshots", "/layer");
    vec![
        speed(
            "proposals of the suffix automaton, texts to repeat",
            "speculation",
            "/echo/suffix/tps",
            "/echo/plain/tps",
            1.8,
        ),
        speed(
            "proposals of the suffix automaton, texts to edit",
            "speculation",
            "/edit/suffix/tps",
            "/edit/plain/tps",
            1.8,
        ),
        speed("automatic choice, texts to repeat", "speculation", "/echo/auto/tps", "/echo/plain/tps", 1.8),
        speed("automatic choice, texts to edit", "speculation", "/edit/auto/tps", "/edit/plain/tps", 1.8),
        speed("automatic choice, texts to make up", "speculation", "/open/auto/tps", "/open/plain/tps", 0.97),
        speed(
            "proposals with 12 right tokens in a row, gated delta nets",
            "hybrid",
            "/proposals/ours",
            "/proposals/plain",
            1.6,
        ),
        speed("states in bf16, gated delta nets", "hybrid", "/states/ours", "/states/plain", 1.0),
        Goal {
            what: "divergence of states in bf16 from f32, random weights, against 0.0068",
            ours: bench.found("hybrid", "/divergence").map(|nats| format!("{nats:.1e}")),
            against: Some("0.0068".into()),
            ratio: bench.found("hybrid", "/divergence").map(|nats| nats / 0.0068),
            bound: Bound::AtMost(1.0),
        },
        speed("SnapKV, decode at 32k", "snapkv", "/32768/ours", "/32768/plain", 1.3),
        speed("SnapKV, decode at 96k", "snapkv", "/98304/ours", "/98304/plain", 2.0),
        times("restoring 4k tokens from disk, against reading them", "store", "/4096/read", "/4096/restored", 1600.0),
        times(
            "restoring 32k tokens from disk, against reading them",
            "store",
            "/32768/read",
            "/32768/restored",
            3200.0,
        ),
        at_most(
            "first token after restoring 4k, against a step there",
            "store",
            "/4096/first_token",
            "/4096/step",
            1.3,
        ),
        at_most(
            "first token after restoring 32k, against a step there",
            "store",
            "/32768/first_token",
            "/32768/step",
            1.3,
        ),
        at_most(
            "the same, against the first token after 4k in memory",
            "store",
            "/4096/first_token",
            "/4096/first_token_in_memory",
            1.3,
        ),
        at_most(
            "the same, against the first token after 32k in memory",
            "store",
            "/32768/first_token",
            "/32768/first_token_in_memory",
            1.3,
        ),
        speed("three prompts of 8k read first, against in turns", "prefill", "/ours", "/plain", 2.6),
        at_most("one joins 16 at 4k: longest gap, against a step", "joining", "/join", "/step", 1.2),
        at_most("one leaves 16 at 4k: longest gap, against a step", "joining", "/leave", "/step", 1.2),
        Goal {
            what: "snapshot of one layer and going back, against 1 µs",
            ours: snapshot.map(time),
            against: Some(time(1e-6)),
            ratio: snapshot.map(|seconds| seconds / 1e-6),
            bound: Bound::Below(1.0),
        },
        speed("answers that a JSON schema holds, 128k vocabulary", "grammar", "/ours", "/plain", 0.97),
    ]
}

fn compared(
    what: &'static str,
    [ours, against]: [Option<f64>; 2],
    shown: &dyn Fn(f64) -> String,
    bound: Bound,
) -> Goal {
    let ratio = ours.zip(against).map(|(ours, against)| ours / against);
    Goal { what, ours: ours.map(shown), against: against.map(shown), ratio, bound }
}

/// Seconds in a unit that suits them.
fn time(seconds: f64) -> String {
    let (factor, unit) = match seconds {
        1.0.. => (1.0, "s"),
        1e-3.. => (1e3, "ms"),
        _ => (1e6, "µs"),
    };
    format!("{} {unit}", number(seconds * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!([61.2, 0.0123, 4.5e-7].map(time), ["61.2 s", "12.3 ms", "0.45 µs"]);
    }

    #[test]
    fn no_part_begins_with_another() {
        let keys = PARTS.map(|(part, _)| key(part));
        assert!(
            keys.iter().enumerate().all(|(i, a)| keys.iter().enumerate().all(|(j, b)| i == j || !b.starts_with(&**a)))
        );
    }

    #[test]
    fn a_ratio_is_ours_against_theirs() {
        let goal = compared("x", [Some(3.0), Some(2.0)], &time, Bound::AtLeast(1.3));
        assert_eq!((goal.ratio, goal.verdict(), goal.ours.as_deref()), (Some(1.5), "yes", Some("3.00 s")));
        assert_eq!(compared("x", [None, Some(2.0)], &time, Bound::AtLeast(1.3)).verdict(), "not measured");
    }
}
