//! `BENCHMARKS.md`: what was measured, in tables that fit on a screen.

use super::decoding;
use super::goals::{Goal, goals, number, usual};
use super::plan::{BATCHES, Bench, CONTEXTS, Isa, PROMPTS, What};
use super::shape::{ALL, SKELETON};

/// The circumstances of a run.
#[derive(Debug)]
pub(super) struct About {
    pub(super) date: String,
    pub(super) command: String,
    pub(super) machine: String,
    pub(super) version: String,
    /// Processes that wanted the CPU when the run began.
    pub(super) load: Option<f64>,
}

/// The line below which the file is written by hand.
pub(super) const BY_HAND: &str = "<!-- By hand from here on. -->";

/// A new file, with the part of an earlier one that was written by hand.
pub(super) fn with_part_by_hand(report: &str, old: &str) -> String {
    old.find(BY_HAND).map_or(report.to_owned(), |at| format!("{report}\n{}", &old[at..]))
}

/// What is measured: the file without the part that is written by hand.
pub(super) fn report(bench: &Bench, about: &About) -> String {
    let parts =
        [head(bench, about), table_of_goals(bench), on_top(bench), speeds(bench), comparison(bench), notes(bench)];
    parts.join("\n")
}

fn head(bench: &Bench, about: &About) -> String {
    let load = about.load.map_or(String::new(), |load| format!("; load at the beginning: {load:.1}"));
    let gb = |rate: Option<f64>| rate.map_or("not measured".to_owned(), |b| format!("{} GB/s", number(b / 1e9)));
    let (best, usual) = (gb(bench.best_bandwidth()), gb(bench.usual_bandwidth()));
    format!(
        "# Benchmarks\n\n\
         Written by `{}` on {}.\n\n\
         - Machine: {}{load}.\n\
         - Read bandwidth of all cores together: {best} in the best pass, usually {usual}.\n\
         - {}.\n",
        about.command, about.date, about.machine, about.version
    )
}

/// A row of a Markdown table.
fn row<S: AsRef<str>>(cells: impl IntoIterator<Item = S>) -> String {
    cells.into_iter().fold("|".to_owned(), |row, cell| row + " " + cell.as_ref() + " |") + "\n"
}

fn table_of_goals(bench: &Bench) -> String {
    let mut text =
        "## What has to be reached\n\nShape of Llama-3.2-1B, 4 bits in groups of 64 unless it says otherwise.\n\n"
            .to_owned();
    text += &table(goals(bench));
    text
}

fn on_top(bench: &Bench) -> String {
    let mut text = "## On top of decoding\n\n\
        Each against doing without it, in turns within one process. Proposals: SmolLM2-135M from GGUF, 4 bits, greedy, at most 16 \
        tokens at once. JSON: the shape of the goals. The rest: a shape of 4 layers of width 1024, 4 bits.\n\n"
        .to_owned();
    text += &table(decoding::goals(bench));
    text
}

fn table(goals: Vec<Goal>) -> String {
    let mut text = "| | ours | against | ratio | goal | reached |\n| --- | --: | --: | --: | --: | --- |\n".to_owned();
    for goal in goals {
        let verdict = goal.verdict();
        let shown = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());
        let ratio = goal.ratio.map_or("–".to_owned(), |ratio| format!("{} ×", number(ratio)));
        text += &row([goal.what, &shown(goal.ours), &shown(goal.against), &ratio, &goal.bound.shown(), verdict]);
    }
    text
}

fn speeds(bench: &Bench) -> String {
    let mut text =
        "## Tokens a second\n\nReading a prompt; one sequence at a context; several sequences together. Then seconds \
                    until the first token of a program that starts, and the most memory of one sequence.\n\n"
            .to_owned();
    let k = |tokens: u64| if tokens >= 1024 { format!("{}k", tokens / 1024) } else { tokens.to_string() };
    let whats = || {
        let prompts = PROMPTS.iter().map(|tokens| What::Prefill(*tokens));
        let contexts = CONTEXTS.iter().map(|context| What::Decode(*context));
        prompts.chain(contexts).chain(BATCHES.iter().map(|rows| What::Batch(*rows)))
    };
    let titles = whats().map(|what| match what {
        What::Prefill(tokens) => format!("read {}", k(tokens)),
        What::Decode(context) => format!("at {}", k(context)),
        What::Batch(rows) => format!("{rows} ×"),
    });
    let columns: Vec<String> = titles.chain(["start".to_owned(), "peak".to_owned()]).collect();
    text += &row(std::iter::once("model".to_owned()).chain(columns.iter().cloned()));
    text += &row(std::iter::once("---").chain(columns.iter().map(|_| "--:")));
    for shape in ALL.iter().filter(|shape| shape.name != SKELETON) {
        if !bench.is_supported(shape) {
            let why = format!("not supported yet (`{}`)", shape.model_type);
            text += &row([shape.title, &why].into_iter().chain((1..columns.len()).map(|_| "")));
            continue;
        }
        if bench.processes(shape).is_empty() {
            continue;
        }
        let figures = whats().map(|what| cell(bench.figure(shape, what, None).as_ref()));
        let start = usual(bench, shape, "ready_s").map_or("–".to_owned(), |s| format!("{s:.1} s"));
        let single = bench.processes(shape).into_iter().filter(|said| said["batch_size"] == 1);
        let peak = single.filter_map(|said| said["peak_resident_bytes"].as_f64()).max_by(f64::total_cmp);
        let peak = peak.map_or("–".to_owned(), |bytes| format!("{:.1} GB", bytes / 1e9));
        text += &row(std::iter::once(shape.title.to_owned()).chain(figures).chain([start, peak]));
    }
    text
}

fn cell(figure: Option<&Result<f64, String>>) -> String {
    match figure {
        Some(Ok(figure)) => number(*figure),
        Some(Err(_)) => "failed".to_owned(),
        None => "–".to_owned(),
    }
}

fn comparison(bench: &Bench) -> String {
    let mut text =
        "## Others on the same shapes\n\nTokens a second; the first shape was measured in turns, three times.\n\n\
                    | model | | read 512 | decode |\n| --- | --- | --: | --: |\n"
            .to_owned();
    let levels: [(&str, Isa); 3] =
        [("mlxlm", None), ("mlxlm, `MLXLM_ISA=avx512`", Some("avx512")), ("mlxlm, `MLXLM_ISA=avx2`", Some("avx2"))];
    let whats = [What::Prefill(512), What::Decode(0)];
    for shape in ALL.iter().filter(|shape| shape.quantized && shape.name != SKELETON) {
        let mut line = |program: &str, figure: &dyn Fn(What) -> Option<Result<f64, String>>| {
            if whats.iter().any(|what| figure(*what).is_some()) {
                let figures = whats.map(|what| cell(figure(what).as_ref()));
                text += &row([shape.title, program].into_iter().chain(figures.iter().map(String::as_str)));
            }
        };
        for (title, isa) in levels {
            line(title, &|what| bench.figure(shape, what, isa));
        }
        for peer in bench.peers.llamas.iter().chain(&bench.peers.mlx_lm) {
            line(&peer.title, &|what| bench.peer(&peer.title, shape, what));
        }
    }
    for absent in &bench.peers.absent {
        text += &["\n- ", absent, "\n"].concat();
    }
    text
}

fn notes(bench: &Bench) -> String {
    let mut text = "## How\n\n\
        - Weights are random in the shape of the model, packed as mlx-lm packs them; speed does not depend on them. llama.cpp \
        gets Q4_0 throughout, the embedding table too, which is fewer bytes than its own files have.\n\
        - Each figure is a median, of processes of their own; what is compared ran in turns. Files are in the page cache.\n\
        - Decoding is timed after the first token, greedy, through the same loop as `mlxlm generate`. llama.cpp and mlx-lm \
        are timed in the same way, llama.cpp without sampling.\n\
        - `--install-peers` compiles llama.cpp's AMX build with a mend (`xtask/src/bench/tiles.h`): as it is, what GCC 12 makes \
        of it dies of an illegal instruction at its first prompt.\n\
        - A context is random keys and values, which cost the same to attend to as those of a prompt.\n\
        - Goals are held against the read bandwidth of the best of all passes of the run, with AVX2 loads, prefetching and huge \
        pages. The usual one is the median pass, and what neighbours on the same machine leave.\n\
        - What a step costs outside of the kernels is that of a model with the same layers and matrices of 64 × 64: an upper \
        bound, since the kernels' own start is in it.\n"
        .to_owned();
    for (key, why) in bench.journal.failures() {
        text += &["- Failed: ", &key, ": ", &why, ".\n"].concat();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::{Value, json};

    use super::super::measure::Journal;
    use super::super::peers::Peers;
    use super::*;

    /// A run in which a few things were measured, and one failed.
    fn with_report(check: impl FnOnce(&str)) {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("measured.jsonl"), "", false).unwrap();
        let say = |key: &str, value: Value| {
            let mut echo = Command::new("echo");
            journal.measure(key, echo.arg(value.to_string())).unwrap();
        };
        say("bandwidth before", json!({"bytes_per_s": 30e9, "usual_bytes_per_s": 25e9}));
        let said = |tps: f64| {
            json!({
                "trials": [{"prompt_tps": tps, "generation_tps": tps}], "batch_size": 1, "prompt_tokens": 1,
                "generation_tokens": 1, "context_tokens": 0, "weight_bytes": 695_000_000, "ready_s": 0.5,
                "peak_resident_bytes": 1_000_000_000,
            })
        };
        say("llama-3.2-1b: prefill 512 round 1", said(600.0));
        for (round, tps) in [(1, 30.0), (2, 36.0), (3, 34.0)] {
            say(&format!("llama-3.2-1b: decode at 0 round {round}"), said(tps));
        }
        journal.measure("qwen3-4b: decode at 0 round 1", &mut Command::new("false")).unwrap();
        let bench = Bench {
            journal: &journal,
            binary: "mlxlm".into(),
            models: "models".into(),
            peers: Peers { absent: vec!["llama.cpp: not found".into()], ..Peers::default() },
            quick: false,
            only: Vec::new(),
            supported: vec!["llama".into(), "qwen3".into()],
        };
        let about = About {
            date: "2026-01-31".into(),
            command: "cargo xtask bench".into(),
            machine: "Some CPU".into(),
            version: "mlxlm 0.1.0".into(),
            load: Some(0.06),
        };
        check(&report(&bench, &about));
    }

    #[test]
    fn the_report_says_what_was_measured_and_what_was_not() {
        with_report(|text| {
            for line in [
                "- Machine: Some CPU; load at the beginning: 0.1.",
                "- Read bandwidth of all cores together: 30.0 GB/s in the best pass, usually 25.0 GB/s.",
                "| decode, bytes of weights against read bandwidth | 23.6 GB/s | 30.0 GB/s | 0.79 × | 0.8 × | **no** |",
                "| decode, against llama.cpp Q4_0 without AMX | 34.0 tokens/s | – | – | 1.6 × | not measured |",
                "| peak memory less 100 MB, against weights and cache | 1.00 GB | 0.70 GB | 1.29 × | at most 1.15 × | **no** |",
                "| Llama-3.2-1B | 600 | – | 34.0 | – | – | – | – | – | 0.5 s | 1.0 GB |",
                "| Gemma-3-1B | not supported yet (`gemma3_text`) |  |  |  |  |  |  |  |  |  |",
                "| Llama-3.2-1B | mlxlm | 600 | 34.0 |",
                "- llama.cpp: not found",
                "- Failed: qwen3-4b: decode at 0 round 1: it failed and did not say why.",
            ] {
                assert!(text.lines().any(|own| own == line), "{line}\nis not in\n{text}");
            }
        });
    }

    #[test]
    fn what_was_written_by_hand_stays() {
        let by_hand = format!("{BY_HAND}\n\n## Where the time goes\n");
        let old = with_part_by_hand("# Old\n", &by_hand);
        assert_eq!(with_part_by_hand("# New\n", &old), format!("# New\n\n{by_hand}"));
        assert_eq!(with_part_by_hand("# New\n", "# Old\n"), "# New\n");
    }

    #[test]
    fn tables_are_tables() {
        with_report(|text| {
            let mut columns = None;
            for line in text.lines() {
                let count = line.starts_with('|').then(|| line.matches('|').count());
                assert!(columns.is_none() || count.is_none() || columns == count, "{line}");
                columns = count;
            }
        });
    }
}
