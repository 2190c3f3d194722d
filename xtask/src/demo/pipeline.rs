//! The steps of `cargo xtask demo-model`: corpus, tokenizer and configs into `target/demo`, then for each model training,
//! quantization to 4 bits, and installation in `mlxlm-models/demo`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::corpus::{self, Document};
use super::folder::{self, SIZES, Size};
use super::questions::questions;
use super::{Args, pass, tokenizer};
use crate::workspace;

/// About thirteen million tokens.
const DOCUMENTS: usize = 200_000;

/// Optimizer steps of 2048 tokens: the corpus once and a fifth of it again. Copying is learnt rather suddenly, after some 2000
/// steps.
const STEPS: usize = 7763;

/// Documents on which the tokenizer is trained: enough for all words.
const TOKENIZER_DOCUMENTS: usize = 20_000;

/// Longer documents, very few, are left out.
const MOST_TOKENS: usize = 240;

/// One document in so many is kept from training, to validate.
const VALIDATION_EVERY: usize = 50;

pub(crate) fn run(args: &Args) -> Result<()> {
    let data = workspace::root().join("target/demo");
    write_data(&data, args.seed, DOCUMENTS)?;
    if args.corpus_only {
        return Ok(());
    }
    // Together, so that both take the same build of what they depend on.
    let packages = ["--package", "mlxlm-cli", "--package", "mlxlm-train"];
    pass(workspace::cargo().args(["build", "--release"]).args(packages).args([
        "--bin",
        "mlxlm",
        "--example",
        "pretrain",
    ]))?;
    for size in SIZES {
        train(&data, size, args)?;
        quantize(&data, size)?;
        install(&data, size)?;
    }
    Ok(())
}

/// Writes `train.jsonl`, `valid.jsonl`, `questions.json` and a folder per model, and says how much of what there is.
fn write_data(data: &Path, seed: u64, count: usize) -> Result<()> {
    let begin = Instant::now();
    let documents = corpus::documents(seed, count);
    let tokenizer = tokenizer::train(&documents[..count.min(TOKENIZER_DOCUMENTS)])?;
    let tokens = tokenizer::encode(&tokenizer, &documents)?;

    std::fs::create_dir_all(data).with_context(|| format!("cannot create `{}`", data.display()))?;
    let (mut train, mut valid) = (String::new(), String::new());
    let short = tokens.iter().filter(|tokens| tokens.len() <= MOST_TOKENS);
    for (index, tokens) in short.enumerate() {
        let lines = if index % VALIDATION_EVERY == 0 { &mut valid } else { &mut train };
        writeln!(lines, "{}", json!({"tokens": tokens}))?;
    }
    let questions = serde_json::to_string_pretty(&questions())? + "\n";
    for (name, text) in [("train.jsonl", train), ("valid.jsonl", valid), ("questions.json", questions)] {
        let path = data.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    for size in SIZES {
        folder::write(&data.join(size.name), size, &tokenizer)?;
    }
    eprint!("{}", statistics(&documents, &tokens));
    eprintln!("corpus written to {} in {:.1} s", data.display(), begin.elapsed().as_secs_f32());
    Ok(())
}

fn statistics(documents: &[Document], tokens: &[Vec<u32>]) -> String {
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (document, tokens) in documents.iter().zip(tokens) {
        kinds.entry(document.kind).or_default().push(tokens.len());
        kinds.entry("all").or_default().push(tokens.len());
    }
    let mut rows =
        vec![format!("{:18}{:>10}{:>10}{:>7}{:>7}{:>10}\n", "kind", "documents", "tokens", "mean", "most", "too long")];
    for (kind, lengths) in kinds {
        let (count, sum) = (lengths.len(), lengths.iter().sum::<usize>());
        let most = lengths.iter().max().copied().unwrap_or_default();
        let too_long = lengths.iter().filter(|&&length| length > MOST_TOKENS).count();
        rows.push(format!("{kind:18}{count:>10}{sum:>10}{:>7}{most:>7}{too_long:>10}\n", sum / count));
    }
    rows.concat()
}

/// Trains by the example of `mlxlm-train`, which adds the weights to the model's folder.
fn train(data: &Path, size: Size, args: &Args) -> Result<()> {
    let folder = data.join(size.name);
    let mut pretrain = Command::new(workspace::root().join("target/release/examples/pretrain"));
    pretrain.arg("--config").arg(folder.join("config.json"));
    pretrain.arg("--data").arg(data).arg("--out").arg(&folder);
    pretrain.args(["--seed", &args.seed.to_string()]);
    pretrain.args(["--steps", &args.steps.unwrap_or(STEPS).to_string()]);
    pass(&mut pretrain)
}

fn quantize(data: &Path, size: Size) -> Result<()> {
    let quantized = quantized_folder(data, size);
    // `convert` writes into new folders only.
    if quantized.exists() {
        std::fs::remove_dir_all(&quantized).with_context(|| format!("cannot remove `{}`", quantized.display()))?;
    }
    let mut mlxlm = Command::new(workspace::root().join("target/release/mlxlm"));
    mlxlm.arg("convert").arg("--model").arg(data.join(size.name)).arg("--mlx-path").arg(&quantized);
    mlxlm.args(["-q", "--q-bits", "4", "--q-group-size", "64"]);
    pass(&mut mlxlm)
}

/// Copies the quantized model into the repository, without the model card and the index, which one file does not need.
fn install(data: &Path, size: Size) -> Result<()> {
    let (from, to) = (quantized_folder(data, size), workspace::root().join("mlxlm-models/demo").join(size.name));
    std::fs::create_dir_all(&to).with_context(|| format!("cannot create `{}`", to.display()))?;
    for entry in std::fs::read_dir(&from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let path = entry?.path();
        if let Some(name) =
            path.file_name().filter(|name| *name != "README.md" && *name != "model.safetensors.index.json")
        {
            std::fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy `{}`", path.display()))?;
        }
    }
    eprintln!("installed {}", to.display());
    Ok(())
}

fn quantized_folder(data: &Path, size: Size) -> std::path::PathBuf {
    data.join(format!("{}-4bit", size.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_is_complete_and_its_documents_are_short() {
        let data = tempfile::tempdir().unwrap();
        write_data(data.path(), 0, 1500).unwrap();
        let lines = |name: &str| std::fs::read_to_string(data.path().join(name)).unwrap();
        let (train, valid) = (lines("train.jsonl"), lines("valid.jsonl"));
        let kept = train.lines().count() + valid.lines().count();
        assert!((1470..=1500).contains(&kept), "{kept}");
        assert!((29..=30).contains(&valid.lines().count()));
        for line in train.lines().chain(valid.lines()) {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!((3..=MOST_TOKENS).contains(&document["tokens"].as_array().unwrap().len()));
        }
        for file in ["questions.json", "demo/config.json", "demo-draft/tokenizer.json"] {
            assert!(data.path().join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn statistics_add_up() {
        let document = |kind| Document { kind, text: String::new() };
        let table = statistics(&[document("a"), document("b"), document("a")], &[vec![1; 4], vec![1; 300], vec![1; 2]]);
        let numbers = |kind: &str| -> Vec<usize> {
            let line = table.lines().find(|line| line.starts_with(kind)).unwrap();
            line.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect()
        };
        assert_eq!(numbers("a "), [2, 6, 3, 4, 0]);
        assert_eq!(numbers("b "), [1, 300, 300, 300, 1]);
        assert_eq!(numbers("all"), [3, 306, 102, 300, 1]);
    }
}
