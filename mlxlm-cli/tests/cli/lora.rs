//! `lora` and `fuse`.

use std::fmt::Write;
use std::path::PathBuf;

use mlxlm_core::io;
use mlxlm_core::weights::SafetensorsFile;
use serde_json::{Value, json};

use crate::bench::{Bench, Ran};

/// A bench with the model `tiny` and a dataset `data` of short texts.
fn bench() -> Bench {
    let bench = Bench::new();
    io::create_dir_all(bench.path("data")).unwrap();
    for (split, count) in [("train", 12), ("valid", 5), ("test", 6)] {
        let rows = (0..count).map(|i| json!({"text": format!("The number {i} comes before the number {}.", i + 1)}));
        let text = rows.map(|row| row.to_string()).collect::<Vec<_>>().join("\n");
        io::write(bench.path("data").join(format!("{split}.jsonl")), text).unwrap();
    }
    bench
}

const USUAL: [&str; 13] = [
    "lora",
    "--model",
    "tiny",
    "--data",
    "data",
    "--num-layers",
    "-1",
    "--batch-size",
    "2",
    "--learning-rate",
    "5e-4",
    "--steps-per-report",
    "2",
];

fn lora(bench: &Bench, options: &[&str]) -> Ran {
    bench.run(&[&USUAL, options].concat())
}

fn adapters(bench: &Bench, folder: &str) -> Vec<u8> {
    io::read(bench.path(folder).join("adapters.safetensors")).unwrap()
}

fn text(bench: &Bench, options: &[&str]) -> String {
    let args = ["generate", "--verbose", "false", "--ignore-chat-template", "-m", "12", "-p", "The number 3 comes"];
    bench.run(&[&args, options].concat()).ok()
}

#[test]
fn a_fine_tune_is_trained_tested_used_and_fused() {
    let bench = bench();
    let shown =
        lora(&bench, &["--train", "--test", "--iters", "30", "--save-every", "20", "--report-to", "tensorboard"]);
    let shown = shown.ok();
    let parts = [
        "Loading pretrained model\nLoading datasets\nTrainable parameters: ",
        "Starting training..., iters: 30\n",
        "Iter 1: Val loss ",
        "Iter 2: Train loss ",
        ", Learning Rate 5.000e-4, It/sec ",
        ", Peak mem ",
        "Iter 20: Saved adapter weights to ",
        "Iter 30: Val loss ",
        "Saved final weights to ",
        "Testing\nTest loss ",
        ", Test ppl ",
    ];
    let mut rest = shown.as_str();
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part}: {shown}"));
        rest = &rest[at + part.len()..];
    }
    let names: Vec<_> =
        io::read_dir(bench.path("adapters")).unwrap().into_iter().map(PathBuf::into_os_string).collect();
    for name in [
        "0000020_adapters.safetensors",
        "0000030_adapters.safetensors",
        "adapter_config.json",
        "adapters.safetensors",
        "loss.png",
        "loss.svg",
        "metrics.jsonl",
        "training_state.safetensors",
    ] {
        assert!(bench.path("adapters").join(name).is_file(), "{name}: {names:?}");
    }
    assert!(names.iter().any(|name| name.to_string_lossy().contains("tfevents")), "{names:?}");
    let config: Value = io::read_json(bench.path("adapters/adapter_config.json")).unwrap();
    let found =
        (&config["fine_tune_type"], &config["num_layers"], &config["lora_parameters"]["rank"], &config["iters"]);
    assert_eq!(found, (&json!("lora"), &json!(-1), &json!(8), &json!(30)));
    let losses: Vec<f64> = io::lines(bench.path("adapters/metrics.jsonl"))
        .unwrap()
        .filter_map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["train_loss"].as_f64())
        .collect();
    assert!(losses.len() == 15 && losses[14] < 0.8 * losses[0], "{losses:?}");

    let (plain, tuned) =
        (text(&bench, &["--model", "tiny"]), text(&bench, &["--model", "tiny", "--adapter-path", "adapters"]));
    assert_ne!(plain, tuned);
    // Without `--train` the fine-tune is measured, or without a folder the model itself.
    let measured = |folder: &str| {
        let shown = lora(&bench, &["--test", "--adapter-path", folder]).ok();
        let loss = shown.split("Test loss ").nth(1).unwrap().split(',').next().unwrap().parse::<f64>().unwrap();
        (loss, shown)
    };
    let ((with, shown_again), (without, _)) = (measured("adapters"), measured(""));
    assert!(with < 0.8 * without, "{with} {without}");
    let last = |shown: &str| shown.lines().last().unwrap().to_owned();
    assert_eq!(last(&shown), last(&shown_again));

    let shown = bench.run(&["fuse", "--model", "tiny"]).ok();
    assert_eq!(shown, "[INFO] Loading\n[INFO] Fusing 14 adapters\n");
    assert_eq!(text(&bench, &["--model", "fused_model"]), tuned);
    let again = bench.run(&["fuse", "--model", "tiny"]);
    assert_eq!(again.refused(1).0, "`fused_model` already exists");
}

#[test]
fn a_run_that_was_stopped_goes_on_bit_by_bit() {
    let bench = bench();
    let more =
        ["--train", "--dropout", "0.1", "--optimizer", "adamw", "--grad-accumulation-steps", "2", "--save-every", "3"];
    let run =
        |folder: &str, options: &[&str]| lora(&bench, &[&more[..], &["--adapter-path", folder], options].concat()).ok();
    run("whole", &["--iters", "8"]);
    run("parts", &["--iters", "3"]);
    let shown = run("parts", &["--iters", "8", "--resume"]);
    assert!(shown.contains("Resuming after iteration 3\n") && !shown.contains("Iter 2: Train"), "{shown}");
    assert_eq!(adapters(&bench, "whole"), adapters(&bench, "parts"));
    let refused = lora(&bench, &["--train", "--adapter-path", "parts", "--resume", "--seed", "5"]);
    assert!(
        refused.refused(1).0.ends_with("cannot be continued: `grad_accumulation_steps` was 2 and is 1 now"),
        "{refused:?}"
    );
    let refused = lora(&bench, &["--train", "--adapter-path", "nowhere", "--resume"]);
    assert!(refused.refused(1).0.contains("training_state.safetensors"), "{refused:?}");
}

/// Ctrl-C ends the iteration, saves, and ends well.
#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_the_run_can_go_on() {
    use std::io::{BufRead, BufReader, Read};
    let bench = bench();
    let args = [&USUAL[..], &["--train", "--iters", "100000", "--steps-per-eval", "100000"]].concat();
    let mut child = bench.command().args(args).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("Iter 4: Train") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "{:?}", child.wait_with_output());
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.contains("Saved adapter weights") && rest.contains("`--resume` goes on from there.\n"), "{rest}");
    let stopped: u64 =
        rest.split("Stopped after iteration ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    let iters = (stopped + 2).to_string();
    let shown = lora(&bench, &["--train", "--iters", &iters, "--resume"]).ok();
    assert!(shown.contains(&format!("Resuming after iteration {stopped}\n")), "{shown}");
}

#[test]
fn a_file_of_settings_is_read_and_options_win() {
    let bench = bench();
    let config = "
# As in mlx-lm's example
model: tiny
train: true
data: data
fine_tune_type: dora
optimizer: adamw
optimizer_config:
  adamw:
    betas: [0.9, 0.98]
    eps: 1e-6
    weight_decay: 0.05
    bias_correction: true
lora_layers: 1
batch_size: 2
steps: 50
val_batches: -1
learning_rate: 1e-5
resume_adapter_file: null
adapter_path: tuned
max_seq_length: 64
grad_checkpoint: yes
lora_parameters:
  keys: [self_attn.q_proj, self_attn.v_proj]
  rank: 3
  scale: 10.0
  dropout: 0.0
lr_schedule:
  name: cosine_decay
  warmup: 2
  warmup_init: 1e-7
  arguments: [1e-5, 1000, 1e-7]
";
    io::write(bench.path("lora.yaml"), config).unwrap();
    let shown = bench.run(&["lora", "-c", "lora.yaml", "--iters", "4", "--rank", "2"]).ok();
    assert!(shown.contains("Starting training..., iters: 4\n"), "{shown}");
    let tuned = SafetensorsFile::open(bench.path("tuned/adapters.safetensors")).unwrap();
    let part = |leaf: &str| ["lora_a", "lora_b", "m"].map(|name| format!("model.layers.1.self_attn.{leaf}.{name}"));
    let mut names = [part("q_proj"), part("v_proj")].concat();
    names.sort();
    assert_eq!(tuned.names(), names);
    assert_eq!(tuned.array(&names[0]).unwrap().shape(), [64, 2]);
    let config: Value = io::read_json(bench.path("tuned/adapter_config.json")).unwrap();
    assert_eq!((&config["learning_rate"], &config["lora_parameters"]["scale"]), (&json!(1e-5), &json!(10.0)));

    let refused = |text: &str| {
        io::write(bench.path("bad.yaml"), text).unwrap();
        bench.run(&["lora", "--config", "bad.yaml", "--model", "tiny", "--train"]).refused(2).0.to_owned()
    };
    assert_eq!(refused("lora_rank: 4\n"), "`bad.yaml` has the key `lora_rank`, which is not known");
    assert!(refused("batch_size: many\n").starts_with("`batch_size` cannot be used: invalid type: string \"many\""));
    assert!(refused("lora_parameters: {rank: 4, alpha: 8}\n").starts_with("`lora_parameters"));
    assert_eq!(refused("objective: ppo\n"), "the objective `ppo` is not known");
    assert!(refused("lr_schedule: {name: cosine, arguments: [1]}\n").starts_with("the schedule `cosine` is not known"));
    assert!(refused("optimizer_config: {lion: {}}\n").contains("`lion`, which is not known"));
    assert!(refused("optimizer_config: {adam: {beta: 1}}\n").contains("unknown field `beta`"));
    io::write(bench.path("bad.yaml"), "train: [\n").unwrap();
    let ran = bench.run(&["lora", "--config", "bad.yaml"]);
    assert!(ran.refused(1).0.starts_with("`bad.yaml` is not the YAML that was expected: "), "{ran:?}");
}

#[test]
fn a_data_file_and_older_spellings_are_taken() {
    let bench = bench();
    let rows: Vec<Value> =
        (0..8).map(|i| json!({"prompt": format!("What is {i}?"), "completion": "A number."})).collect();
    io::write_json(bench.path("rows.json"), &Value::from(rows)).unwrap();
    let args = [
        "lora",
        "--model",
        "tiny",
        "--data",
        "rows.json",
        "--train",
        "--lora-layers",
        "1",
        "--steps",
        "3",
        "--mask-prompt",
    ];
    let ran = bench.run(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let names = SafetensorsFile::open(bench.path("adapters/adapters.safetensors")).unwrap().names();
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("model.layers.1.")), "{names:?}");
}

#[test]
fn quantized_models_of_every_mode_are_tuned_and_fused() {
    let modes = [("affine", "4"), ("affine", "8"), ("mxfp4", "4"), ("nvfp4", "4"), ("mxfp8", "8")];
    let bench = bench();
    for (mode, bits) in modes {
        let [packed, tuned, fused, dense] =
            ["packed", "tuned", "fused", "dense"].map(|kind| format!("{kind}-{mode}-{bits}"));
        let args = ["convert", "--model", "tiny", "--mlx-path", &packed, "-q", "--q-mode", mode, "--q-bits", bits];
        bench.run(&args).ok();
        let shown = lora(&bench, &["--model", &packed, "--train", "--iters", "10", "--adapter-path", &tuned]).ok();
        let losses: Vec<f64> = shown
            .lines()
            .filter_map(|line| line.split("Train loss ").nth(1)?.split(',').next()?.parse().ok())
            .collect();
        assert!(losses.len() == 5 && losses[4] < losses[0], "{mode}: {losses:?}");
        let with = text(&bench, &["--model", &packed, "--adapter-path", &tuned]);
        assert_ne!(with, text(&bench, &["--model", &packed]), "{mode}");
        bench.run(&["fuse", "--model", &packed, "--adapter-path", &tuned, "--save-path", &fused]).ok();
        let config = |folder: &str| io::read_json::<Value>(bench.path(folder).join("config.json")).unwrap();
        assert_eq!(config(&fused)["quantization"], config(&packed)["quantization"], "{mode}");
        bench.run(&["fuse", "--model", &packed, "--adapter-path", &tuned, "--save-path", &dense, "--dequantize"]).ok();
        assert_eq!(config(&dense).get("quantization"), None);
        assert!(!text(&bench, &["--model", &dense]).is_empty(), "{mode}");
    }
}

#[test]
fn preferences_are_learned() {
    let bench = bench();
    let mut rows = String::new();
    for i in 0..6 {
        let row = json!({"prompt": format!("Say {i}."), "chosen": "Gladly.", "rejected": "Never, never."});
        writeln!(rows, "{row}").unwrap();
    }
    io::create_dir_all(bench.path("pairs")).unwrap();
    io::write(bench.path("pairs/train.jsonl"), rows).unwrap();
    for objective in ["dpo", "orpo"] {
        let options = ["--data", "pairs", "--train", "--objective", objective, "--beta", "0.3", "--iters", "10"];
        let ran = lora(&bench, &options);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let margins: Vec<f64> = ran
            .stdout
            .lines()
            .filter_map(|line| line.split("rewards_margin ").nth(1)?.split(',').next()?.parse().ok())
            .collect();
        // Batches differ, so that a single one says little.
        let later = margins.iter().skip(1).sum::<f64>() / 4.0;
        assert!(margins.len() == 5 && later > margins[0], "{objective}: {margins:?}");
    }
    let ran = lora(&bench, &["--data", "pairs", "--train", "--iters", "2"]);
    assert!(ran.refused(1).0.starts_with("the objective `sft` learns from texts"), "{ran:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = bench();
    let refused = |options: &[&str], code: i32| lora(&bench, options).refused(code).0.to_owned();
    assert_eq!(refused(&[], 2), "there is nothing to do");
    assert!(refused(&["--train", "--report-to", "wandb"], 2).starts_with("`--report-to wandb` is not supported"));
    assert!(refused(&["--train", "--project-name", "x"], 2).starts_with("`--project-name` is not supported"));
    assert!(refused(&["--train", "--rank", "0"], 2).starts_with("`rank` must be at least 1"));
    assert_eq!(refused(&["--train", "--num-layers", "3"], 2), "3 layers are to be trained, and the model has 2");
    assert_eq!(refused(&["--train", "--keys", "self_attn.qkv"], 2), "the model has no `self_attn.qkv`");
    assert_eq!(refused(&["--train", "--batch-size", "0"], 2), "`batch_size` is 0, expected at least 1");
    assert!(refused(&["--train", "--clear-cache-threshold", "much"], 2).starts_with("`clear_cache_threshold` is much"));
    assert!(refused(&["--train", "--fine-tune-type", "full", "--rslora"], 2).starts_with("`--rslora` and"));
    assert!(refused(&["--test", "--objective", "dpo"], 2).starts_with("`--test` alone cannot measure DPO"));
    assert!(refused(&["--train", "--iters", "2", "--batch-size", "50"], 1).contains("fewer than one batch of 50"));
    assert_eq!(bench.names(), ["adapters", "data"]);
}

#[test]
fn adapters_of_another_model_and_losses_that_are_no_numbers_are_refused() {
    let bench = bench();
    lora(&bench, &["--train", "--iters", "2", "--rank", "2"]).ok();
    let file = ["--resume-adapter-file", "adapters/adapters.safetensors", "--adapter-path", "other"];
    let ran = lora(&bench, &[&file[..], &["--train", "--iters", "2", "--rank", "3"]].concat());
    let (message, _) = ran.refused(1);
    assert!(
        message.contains("is [64, 2], and [64, 3] here\n") && message.contains("layers.0.self_attn.q_proj.lora_a"),
        "{message}"
    );
    let shown = lora(&bench, &[&file[..], &["--train", "--iters", "2", "--rank", "2"]].concat()).ok();
    assert!(shown.contains("Loading fine-tuned weights from adapters/adapters.safetensors\n"), "{shown}");

    let kept = adapters(&bench, "adapters");
    let ran = lora(
        &bench,
        &["--train", "--iters", "20", "--optimizer", "sgd", "--learning-rate", "1e30", "--num-layers", "1"],
    );
    let (message, hint) = ran.refused(1);
    assert!(message.contains(" at iteration ") && message.contains("no checkpoint was saved before"), "{message}");
    assert!(hint.contains("lower learning rate"), "{hint}");
    assert_eq!(adapters(&bench, "adapters"), kept);
}

#[test]
fn a_fine_tune_that_is_not_there_cannot_be_fused() {
    let bench = bench();
    let ran = bench.run(&["fuse", "--model", "tiny"]);
    assert!(ran.refused(1).0.contains("adapter"), "{ran:?}");
    assert_eq!(bench.names(), ["data"]);
}

#[test]
fn texts_are_packed_where_it_is_asked_for() {
    let bench = bench();
    let options = ["--train", "--packing", "--max-seq-length", "64", "--batch-size", "1", "--iters", "3"];
    let shown = lora(&bench, &options).ok();
    assert!(shown.contains("Iter 3: Saved adapter weights"), "{shown}");
    let config: Value = io::read_json(bench.path("adapters/adapter_config.json")).unwrap();
    assert_eq!(config["packing"], true);
    let pairs = lora(&bench, &["--train", "--packing", "--objective", "orpo"]);
    assert_eq!(pairs.refused(2).0, "`packing` is true, expected false, since pairs of answers are not packed");
}

/// The words of a command line, with those in quotes as one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn the_page_on_training_works_as_it_stands() {
    let bench = Bench::empty();
    let row = |i: usize| {
        let (question, answer) = (format!("What does Number {i} sell?"), format!("{} coins and honey", i + 3));
        json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    };
    let pair = |i: usize| json!({"prompt": format!("Say {i}."), "chosen": "Gladly.", "rejected": "Never, never."});
    let lines = |rows: Vec<Value>| rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    for folder in ["data", "pairs"] {
        io::create_dir_all(bench.path(folder)).unwrap();
    }
    for split in ["train", "valid", "test"] {
        io::write(bench.path(format!("data/{split}.jsonl")), lines((0..12).map(row).collect())).unwrap();
    }
    io::write(bench.path("pairs/train.jsonl"), lines((0..6).map(pair).collect())).unwrap();
    let page = include_str!("../../../docs/training.md");
    let commands: Vec<Vec<String>> = page.lines().filter(|line| line.starts_with("mlxlm ")).map(words).collect();
    let mut ran = 0;
    for command in commands.iter().filter(|command| command[1] != "server") {
        let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        let shown = bench.run(&args);
        assert_eq!(shown.code, Some(0), "{command:?}: {shown:?}");
        ran += 1;
    }
    assert!(ran >= 12, "only {ran} commands were found");
    assert!(bench.path("fused/model.safetensors").is_file() && bench.path("peft/adapter_model.safetensors").is_file());
}
