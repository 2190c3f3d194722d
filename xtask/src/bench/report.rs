//! `BENCHMARKS.md`: what was measured, in tables that fit on a screen.

use super::decoding;
use super::goals::{Goal, goals, number, overhead, usual};
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

/// The line below which a run leaves the file as it is.
pub(super) const KEPT_BELOW: &str = "<!-- `cargo xtask bench` keeps what is below this line. -->";

/// A new file, with the part of an earlier one that runs keep.
pub(super) fn with_kept_part(report: &str, old: &str) -> String {
    old.find(KEPT_BELOW).map_or(report.to_owned(), |at| format!("{report}\n{}", &old[at..]))
}

/// The measured part of the file.
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
         - Read bandwidth of all cores: {best} in the best pass, {usual} in the median pass.\n\
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
        "## Targets\n\nShape of Llama-3.2-1B unless the row names another; 4 bits in groups of 64.\n\n".to_owned();
    text += &table(goals(bench));
    text
}

fn on_top(bench: &Bench) -> String {
    let mut text = "## Speculation, prompt caches and grammars\n\n\
        Each compared with plain decoding, in turns in one process. Speculation: SmolLM2-135M from GGUF, 4 bits, greedy, at most 16 \
        tokens at once. JSON: the shape of Llama-3.2-1B. Others: a shape of 4 layers of width 1024, 4 bits.\n\n"
        .to_owned();
    text += &table(decoding::goals(bench));
    text
}

fn table(goals: Vec<Goal>) -> String {
    let mut text =
        "| | ours | against | ratio | target | reached |\n| --- | --: | --: | --: | --: | --- |\n".to_owned();
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
        "## Speed\n\nTokens per second: processing a prompt; generating one sequence at a context of 0, 4k and 16k tokens; generating several \
                    sequences together. Then the time from the start of the program to the first token, and the peak memory of \
                    one sequence.\n\n"
            .to_owned();
    let k = |tokens: u64| if tokens >= 1024 { format!("{}k", tokens / 1024) } else { tokens.to_string() };
    let whats = || {
        let prompts = PROMPTS.iter().map(|tokens| What::Prefill(*tokens));
        let contexts = CONTEXTS.iter().map(|context| What::Decode(*context));
        prompts.chain(contexts).chain(BATCHES.iter().map(|rows| What::Batch(*rows)))
    };
    let titles = whats().map(|what| match what {
        What::Prefill(tokens) => format!("prompt {}", k(tokens)),
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
    let mut text = "## Other programs\n\nTokens per second. The first shape was measured three times, in turns.\n\n\
                    | model | program | prompt 512 | decode |\n| --- | --- | --: | --: |\n"
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
    let mut text = "## Method\n\n\
        - Weights are random, in the shape of the model and in mlx-lm's format; speed does not depend on their values. llama.cpp \
        gets Q4_0 for all matrices, the embedding too, which is smaller than its usual files.\n\
        - Each figure is a median over separate processes. Programs that are compared ran in turns. Files are in the page cache.\n\
        - Decoding is greedy, through the same code as `mlxlm generate`, and timed after the first token. llama.cpp and mlx-lm \
        are timed in the same way, llama.cpp without sampling.\n\
        - Read bandwidth is probed right before and right after each measurement that is compared with it. A probe reads memory with \
        all cores, AVX2 loads, prefetching and huge pages; the figure is its median pass.\n\
        - A context is random keys and values, which cost as much as those of a prompt.\n\
        - 16 sequences together must be 6 times one where the CPU has AMX, and 3 times elsewhere.\n\
        - `--install-peers` patches llama.cpp's AMX build (`xtask/src/bench/tiles.h`), because GCC 12 compiles it to an illegal \
        instruction.\n"
        .to_owned();
    if let Some((outside, step)) = overhead(bench) {
        let [outside, step] = [outside, step].map(number);
        text += &[
            "- At most ",
            &outside,
            " ms of a step of ",
            &step,
            " ms are spent outside the kernels: that is a step of the same \
            layers with matrices of 64 × 64.\n",
        ]
        .concat();
    }
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
        for side in ["before", "after"] {
            for (round, usual) in [(1, 22e9), (2, 26e9), (3, 24e9)] {
                let key = format!("bandwidth {side} llama-3.2-1b: decode at 0 round {round}");
                say(&key, json!({"bytes_per_s": 30e9, "usual_bytes_per_s": usual}));
            }
        }
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
    fn the_report_has_what_was_measured_and_what_was_not() {
        with_report(|text| {
            for line in [
                "- Machine: Some CPU; load at the beginning: 0.1.",
                "- Read bandwidth of all cores: 30.0 GB/s in the best pass, 24.0 GB/s in the median pass.",
                "| decode, bytes of weights against read bandwidth | 23.6 GB/s | 24.0 GB/s | 0.96 × | 0.92 × | yes |",
                "| decode at 16k, bytes of weights and cache against read bandwidth | – | – | – | 0.9 × | not measured |",
                "| decode of Llama-3.2-1B, against llama.cpp Q4_0 | 34.0 tokens/s | – | – | 1.1 × | not measured |",
                "| exact prefill of 512, against llama.cpp without AMX | 600 tokens/s | – | – | 1.3 × | not measured |",
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
    fn a_run_keeps_the_end_of_the_file() {
        let kept = format!("{KEPT_BELOW}\n\n## In words\n");
        let old = with_kept_part("# Old\n", &kept);
        assert_eq!(with_kept_part("# New\n", &old), format!("# New\n\n{kept}"));
        assert_eq!(with_kept_part("# New\n", "# Old\n"), "# New\n");
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
