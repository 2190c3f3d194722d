//! What is measured, in which order, and what is read from the results.
//!
//! Unusual: what is compared with each other is measured in turns, a round of all and then the next round, so that a
//! neighbour who makes the machine slow for a while slows all of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::measure::{Journal, median};
use super::peers::Peers;
use super::shape::{ALL, DENSE, MAIN, SKELETON, Shape};
use super::{decoding, folder, machine};

/// Contexts that decoding is measured at, in tokens.
pub(super) const CONTEXTS: [u64; 3] = [0, 4096, 16_384];
/// Sequences that are decoded together.
pub(super) const BATCHES: [u64; 3] = [4, 16, 64];
/// Prompts.
pub(super) const PROMPTS: [u64; 2] = [512, 4096];

/// One thing to measure about a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A prompt of so many tokens.
    Prefill(u64),
    /// A sequence at this context.
    Decode(u64),
    /// So many sequences without context.
    Batch(u64),
}

impl What {
    /// The part of a key that says what was measured.
    fn key(self) -> String {
        match self {
            Self::Prefill(tokens) => format!("prefill {tokens}"),
            Self::Decode(context) => format!("decode at {context}"),
            Self::Batch(rows) => format!("decode {rows} at once"),
        }
    }

    /// The options of `mlxlm benchmark`. What takes long is done less often.
    fn options(self, shape: &Shape, trials: u64) -> Vec<String> {
        // A step of a larger model takes longer, and that of a skeleton nothing at all.
        let steps = match shape.bytes_a_step() {
            0..100_000_000 => 400,
            100_000_000..1_000_000_000 => 40,
            _ => 16,
        };
        let (options, warm) = match self {
            Self::Prefill(tokens @ 1024..) => (vec![("p", tokens), ("g", 1), ("n", trials.min(2))], false),
            Self::Prefill(tokens) => (vec![("p", tokens), ("g", 1), ("n", trials)], true),
            Self::Decode(context) => {
                (vec![("p", 1), ("g", steps + 1), ("n", trials), ("-context-tokens", context)], false)
            }
            Self::Batch(rows) => (vec![("p", 1), ("g", steps / 4 + 1), ("n", trials.min(2)), ("b", rows)], false),
        };
        let mut words: Vec<String> =
            options.iter().flat_map(|(name, value)| [format!("-{name}"), value.to_string()]).collect();
        if !warm {
            words.push("--skip-warmup".to_owned());
        }
        words
    }

    /// The figure of a trial.
    fn field(self) -> &'static str {
        if matches!(self, Self::Prefill(_)) { "prompt_tps" } else { "generation_tps" }
    }
}

/// What the run measures with.
pub(super) struct Bench<'a> {
    pub(super) journal: &'a Journal,
    /// The release binary of mlxlm.
    pub(super) binary: PathBuf,
    /// The folder of the models.
    pub(super) models: PathBuf,
    pub(super) peers: Peers,
    /// One trial and one round, and only what the targets need.
    pub(super) quick: bool,
    /// The shapes that are wanted; empty for all.
    pub(super) only: Vec<String>,
    /// The model types that the binary supports.
    pub(super) supported: Vec<String>,
}

/// A forced level of instructions, as `MLXLM_ISA` has it; nothing for the best there is.
pub(super) type Isa = Option<&'static str>;

impl Bench<'_> {
    /// Measures everything.
    pub(super) fn run(&self) -> Result<()> {
        self.bandwidth("before")?;
        if self.is_wanted(MAIN) {
            self.main()?;
        }
        for shape in ALL.iter().filter(|shape| ![MAIN, SKELETON].contains(&shape.name)) {
            if self.is_wanted(shape.name) && self.is_supported(shape) {
                self.shape(shape)?;
            }
        }
        if self.is_wanted(decoding::NAME) {
            self.decoding()?;
        }
        self.bandwidth("after")
    }

    fn is_wanted(&self, name: &str) -> bool {
        match self.only.is_empty() {
            true => !self.quick || [MAIN, DENSE].contains(&name),
            false => self.only.iter().any(|only| only == name),
        }
    }

    /// Whether the binary has the architecture.
    pub(super) fn is_supported(&self, shape: &Shape) -> bool {
        self.supported.iter().any(|known| known == shape.model_type)
    }

    fn bandwidth(&self, when: &str) -> Result<()> {
        let mut command = Command::new(&self.binary);
        self.journal.measure(&format!("bandwidth {when}"), command.args(["benchmark", "--bandwidth", "--json"]))
    }

    /// One thing with a probe of the bandwidth right before and right after it.
    fn between_probes(&self, shape: &Shape, what: What, round: u64) -> Result<()> {
        let when = |side: &str| format!("{side} {}round {round}", key(shape, what, None));
        self.bandwidth(&when("before"))?;
        self.ours(shape, what, None, round)?;
        self.bandwidth(&when("after"))
    }

    /// The shape of the targets, in turns with the peers.
    fn main(&self) -> Result<()> {
        let (Some(shape), Some(skeleton)) = (Shape::find(MAIN), Shape::find(SKELETON)) else { return Ok(()) };
        let isas: &[Isa] = match (machine::has("amx_int8"), self.quick) {
            (true, false) => &[None, Some("avx512"), Some("avx2")],
            (true, true) => &[None, Some("avx512")],
            (false, false) => &[None, Some("avx2")],
            (false, true) => &[None],
        };
        for round in 1..=if self.quick { 1 } else { 3 } {
            for &isa in isas {
                self.ours(shape, What::Prefill(512), isa, round)?;
                match isa {
                    None => self.between_probes(shape, What::Decode(0), round)?,
                    Some(_) => self.ours(shape, What::Decode(0), isa, round)?,
                }
            }
            self.llamas(shape, round)?;
            self.ours(skeleton, What::Decode(0), None, round)?;
            self.ours(shape, What::Batch(16), None, round)?;
            self.between_probes(shape, What::Decode(16_384), round)?;
        }
        self.shape(shape)
    }

    /// All of a shape that has not been measured yet.
    fn shape(&self, shape: &Shape) -> Result<()> {
        for what in self.wanted(shape) {
            if self.figure(shape, what, None).is_none() {
                self.ours(shape, what, None, 1)?;
                // Others come next to what they are compared with.
                if what == What::Decode(0) && shape.quantized && !self.quick {
                    self.llamas(shape, 1)?;
                }
            }
        }
        match &self.peers.mlx_lm {
            Some(python) if shape.quantized => {
                // A token takes it ten seconds, or a minute.
                let folder = folder::ensure(&self.models, shape)?;
                let tokens = if self.quick || shape.name != MAIN { "2" } else { "3" };
                let key = peer_key(&python.title, shape, What::Decode(0));
                self.journal.measure(&key, python.command("run").arg(folder).arg(tokens))
            }
            _ => Ok(()),
        }
    }

    /// Every build of llama.cpp once.
    fn llamas(&self, shape: &Shape, round: u64) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).to_string();
        for llama in &self.peers.llamas {
            let model = llama.gguf(&self.models, shape)?.to_string_lossy().into_owned();
            for (what, prompt, generate) in [(What::Prefill(512), "512", "1"), (What::Decode(0), "1", "41")] {
                let key = format!("{}round {round}", peer_key(&llama.title, shape, what));
                self.journal.measure(&key, llama.command("run").args([&*model, prompt, generate, &threads]))?;
            }
        }
        Ok(())
    }

    fn wanted(&self, shape: &Shape) -> Vec<What> {
        if self.quick {
            return match shape.name {
                MAIN => vec![What::Prefill(4096)],
                _ => vec![What::Decode(0)],
            };
        }
        let prefills = PROMPTS.iter().map(|tokens| What::Prefill(*tokens));
        let decodes = CONTEXTS.iter().map(|context| What::Decode(*context));
        prefills.chain(decodes).chain(BATCHES.iter().map(|rows| What::Batch(*rows))).collect()
    }

    fn ours(&self, shape: &Shape, what: What, isa: Isa, round: u64) -> Result<()> {
        let model = folder::ensure(&self.models, shape)?;
        let is_compared = [MAIN, SKELETON].contains(&shape.name);
        let trials = if self.quick || is_compared { 1 } else { 3 };
        let mut command = Command::new(&self.binary);
        command.args(["benchmark", "--json", "--model"]).arg(model).args(what.options(shape, trials));
        if let Some(isa) = isa {
            command.env("MLXLM_ISA", isa);
        }
        self.journal.measure(&format!("{}round {round}", key(shape, what, isa)), &mut command)
    }

    /// The median of all trials in tokens a second, or why there is none; nothing if it was not measured.
    pub(super) fn figure(&self, shape: &Shape, what: What, isa: Isa) -> Option<Result<f64, String>> {
        self.median(&key(shape, what, isa), |value| trials(value, what))
    }

    /// The same of a peer.
    pub(super) fn peer(&self, title: &str, shape: &Shape, what: What) -> Option<Result<f64, String>> {
        self.median(&peer_key(title, shape, what), |value| value[what.field()].as_f64().into_iter().collect())
    }

    fn median(&self, prefix: &str, of: impl Fn(&Value) -> Vec<f64>) -> Option<Result<f64, String>> {
        let outcomes = self.journal.outcomes(prefix);
        let figures: Vec<f64> = outcomes.iter().flatten().flat_map(of).collect();
        match median(figures) {
            Some(figure) => Some(Ok(figure)),
            None => outcomes.into_iter().find_map(Result::err).map(Err),
        }
    }

    /// The most bytes a second that were read at any time of the run.
    pub(super) fn best_bandwidth(&self) -> Option<f64> {
        let outcomes = self.journal.outcomes("bandwidth ");
        outcomes.iter().flatten().filter_map(|value| value["bytes_per_s"].as_f64()).max_by(f64::total_cmp)
    }

    /// The median of what was usual at each time that it was measured.
    pub(super) fn usual_bandwidth(&self) -> Option<f64> {
        let outcomes = self.journal.outcomes("bandwidth ");
        median(outcomes.iter().flatten().filter_map(|value| value["usual_bytes_per_s"].as_f64()))
    }

    /// Of each round that [`Bench::between_probes`] measured: tokens a second, and the mean of the probes' median passes in bytes a second.
    pub(super) fn probed(&self, shape: &Shape, what: What) -> Vec<(f64, f64)> {
        let round = |round: u64| {
            let key = format!("{}round {round}", key(shape, what, None));
            let tps = self.median(&key, |value| trials(value, what))?.ok()?;
            let [before, after] = ["before", "after"].map(|side| {
                let outcomes = self.journal.outcomes(&format!("bandwidth {side} {key}"));
                median(outcomes.iter().flatten().filter_map(|value| value["usual_bytes_per_s"].as_f64()))
            });
            Some((tps, f64::midpoint(before?, after?)))
        };
        (1..=9).map_while(round).collect()
    }

    /// What our processes said of this shape, each with the context and the rows that it had.
    pub(super) fn processes(&self, shape: &Shape) -> Vec<Value> {
        self.journal.outcomes(&format!("{}: ", shape.name)).into_iter().flatten().collect()
    }
}

/// The figures of the trials that a process of ours printed.
fn trials(value: &Value, what: What) -> Vec<f64> {
    let trials = value["trials"].as_array().map_or(&[][..], Vec::as_slice);
    trials.iter().filter_map(|trial| trial[what.field()].as_f64()).collect()
}

fn key(shape: &Shape, what: What, isa: Isa) -> String {
    let isa = isa.map_or(String::new(), |isa| format!("{isa} "));
    format!("{}: {isa}{} ", shape.name, what.key())
}

fn peer_key(title: &str, shape: &Shape, what: What) -> String {
    format!("{title}, {}: {} ", shape.name, what.key())
}

/// The types in what `mlxlm models` prints: one a line, others behind `also`.
pub(super) fn model_types(list: &str) -> Vec<String> {
    let words = list.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty() && *word != "also").map(str::to_owned).collect()
}

/// The models' home below the build folder.
pub(super) fn models(root: &Path) -> PathBuf {
    root.join("target/bench-models")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_types_are_read_with_their_aliases() {
        assert_eq!(model_types("gemma2\nllama (also mistral, xverse)\n"), ["gemma2", "llama", "mistral", "xverse"]);
    }

    #[test]
    fn no_key_begins_with_another() {
        let whats = [4, 16, 64].map(What::Batch).into_iter();
        let whats = whats.chain([512, 4096].map(What::Prefill)).chain([0, 4096, 16_384].map(What::Decode));
        let mut keys: Vec<String> = Vec::new();
        for shape in ALL {
            for what in whats.clone() {
                keys.extend([None, Some("avx512")].map(|isa| key(shape, what, isa)));
            }
        }
        for (i, one) in keys.iter().enumerate() {
            assert!(keys.iter().enumerate().all(|(j, other)| i == j || !other.starts_with(one.as_str())), "{one}");
        }
    }

    #[test]
    fn options_are_those_of_the_command() {
        let shape = Shape::find(MAIN).unwrap();
        let words = |what: What| what.options(shape, 3).join(" ");
        assert_eq!(words(What::Prefill(512)), "-p 512 -g 1 -n 3");
        assert_eq!(words(What::Prefill(4096)), "-p 4096 -g 1 -n 2 --skip-warmup");
        assert_eq!(words(What::Decode(4096)), "-p 1 -g 41 -n 3 --context-tokens 4096 --skip-warmup");
        assert_eq!(words(What::Batch(16)), "-p 1 -g 11 -n 2 -b 16 --skip-warmup");
    }
}
