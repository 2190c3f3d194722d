//! The commands that learn how to quantize, and `upload`.

use std::fs;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::SafetensorsFile;
use mlxlm_core::{Array, io, ops};
use serde_json::{Value, json};

use crate::bench::{Bench, Ran};
use crate::hub_server::{REPO, Server, file as hub_file};

/// Few short samples, so that a run takes a second.
const SMALL: [&str; 8] = ["--model", "tiny", "--mlx-path", "out", "--num-samples", "4", "--sequence-length", "32"];
const DWQ: [&str; 10] =
    ["dwq", "--model", "tiny", "--mlx-path", "out", "--num-samples", "8", "--max-seq-length", "32", "--batch-size=2"];

fn small<'a>(command: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [&[command][..], &SMALL, options].concat()
}

#[track_caller]
fn done(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

fn quantization(bench: &Bench, folder: &str) -> Value {
    let config: Value = io::read_json(bench.path(folder).join("config.json")).unwrap();
    assert_eq!(config["quantization"], config["quantization_config"]);
    config["quantization"].clone()
}

fn speaks(bench: &Bench, folder: &str) {
    let text = bench.run(&["generate", "--model", folder, "-p", "hello", "-m", "8", "--verbose=f"]).ok();
    assert!(!text.trim().is_empty());
}

/// Each method writes a folder that loads, and says in its configuration what is packed how.
#[test]
fn each_method_writes_a_model() {
    let bits = |q: &Value, path: &str| q[path]["bits"].as_i64();
    for (args, head, table) in [
        (small("gptq", &["--bits", "3", "--fallback-bits", "8"]), 3, 8),
        (small("awq", &["--bits", "3", "--embed-group-size", "64", "--embed-bits", "5", "--n-grid", "4"]), 3, 5),
        ([&DWQ[..], &["--bits", "3"]].concat(), 3, 3),
    ] {
        let bench = Bench::new();
        let shown = done(bench.run(&args)).stdout;
        assert!(shown.starts_with("[INFO] Loading\n"), "{shown}");
        assert!(shown.contains("[INFO] Quantized model with ") && shown.ends_with(" bits per weight.\n"), "{shown}");
        let q = quantization(&bench, "out");
        assert_eq!(q["bits"], head, "{args:?}");
        assert_eq!(bits(&q, "model.embed_tokens").unwrap_or(head), table, "{args:?}");
        speaks(&bench, "out");
        assert_eq!(bench.names(), ["out"], "{args:?}");
        assert!(bench.path("out/README.md").is_file());
    }
}

#[test]
fn sensitivities_are_kept_and_taken() {
    let bench = Bench::new();
    let options = ["--target-bpw", "5.2", "--low-bits", "3", "--report-ppl"];
    let shown = done(bench.run(&small("dynamic_quant", &options))).stdout;
    assert!(shown.contains("Original PPL: ") && shown.contains("Quantized PPL: "), "{shown}");
    let kept: Vec<(String, f64)> =
        serde_json::from_value(io::read_json(bench.path("tiny_sensitivities.json")).unwrap()).unwrap();
    assert_eq!(kept.len(), 16);
    let q = quantization(&bench, "out");
    let high = q.as_object().unwrap().values().filter(|entry| entry["bits"] == 5).count();
    assert!(high > 0 && high < 16, "{q}");
    fs::rename(bench.path("out"), bench.path("first")).unwrap();
    let again = small("dynamic_quant", &[&options[..], &["--sensitivities", "tiny_sensitivities.json"]].concat());
    done(bench.run(&again));
    assert_eq!(quantization(&bench, "out"), q);
    fs::write(bench.path("other.json"), "[[\"lm_head\", 1.0]]").unwrap();
    fs::remove_dir_all(bench.path("out")).unwrap();
    let ran = bench.run(&small("dynamic_quant", &["--sensitivities", "other.json"]));
    assert!(ran.refused(1).0.contains("`model.embed_tokens`"), "{ran:?}");
}

#[test]
fn a_budget_is_kept_and_the_card_has_the_figures() {
    let bench = Bench::new();
    let shown = done(bench.run(&small("quantize", &["--target-bpw", "5", "--measure-samples", "1"]))).stdout;
    assert!(shown.contains("[INFO] KL divergence 0."), "{shown}");
    let bits: f64 = shown.rsplit("with ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(bits <= 5.0 && bits > 4.0, "{shown}");
    let card = io::read_to_string(bench.path("out/README.md")).unwrap();
    for words in ["| KL divergence, nats | 0.", "| same likeliest token |", "| bytes of weights |", "model.layers.1 "] {
        assert!(card.contains(words), "{card}");
    }
    speaks(&bench, "out");
    // What was measured is what the model is.
    let bytes = fs::metadata(bench.path("out/model.safetensors")).unwrap().len();
    let said: u64 = card.split("| bytes of weights | ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(bytes > said && bytes < said + 20_000, "{bytes} {said}");
}

#[test]
fn a_divergence_is_kept_to() {
    let bench = Bench::new();
    let shown = done(bench.run(&small("quantize", &["--max-kl", "0.002", "--measure-samples", "1"]))).stdout;
    let kl: f64 = shown.split("KL divergence ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(kl <= 0.002, "{shown}");
}

#[test]
fn a_budget_that_nothing_meets_names_the_nearest() {
    for (goal, number) in [("--target-bpw", "1"), ("--target-bytes", "1000")] {
        let bench = Bench::new();
        let ran = bench.run(&small("quantize", &[goal, number, "--measure-samples", "1"]));
        let message = ran.refused(1).0;
        assert!(message.contains("no choice of bits reaches 1") && message.contains("the nearest is "), "{message}");
        assert_eq!(bench.names(), [""; 0]);
    }
    let bench = Bench::new();
    let ran = bench.run(&small("dynamic_quant", &["--target-bpw", "9"]));
    assert!(
        ran.refused(1).0.starts_with("no choice of bits reaches 9.000 bits per weight; the nearest is 6."),
        "{ran:?}"
    );
    for goals in [&[][..], &["--target-bpw", "4", "--max-kl", "1"]] {
        assert_eq!(Bench::new().run(&small("quantize", goals)).code, Some(2));
    }
    let ran = Bench::new().run(&small("quantize", &["--max-kl", "-1"]));
    assert_eq!(ran.refused(2).0, "`--max-kl` is -1, expected a number above 0");
}

/// What is no text to calibrate with is said before any work, and leaves nothing.
#[test]
fn texts_that_cannot_be_used() {
    type Write = fn(&Bench);
    let cases: [(&str, Write, &str); 5] = [
        ("empty.txt", |b| fs::write(b.path("empty.txt"), " \n").unwrap(), "it is empty"),
        ("short.txt", |b| fs::write(b.path("short.txt"), "one two").unwrap(), "and a sample takes 32"),
        ("latin.txt", |b| fs::write(b.path("latin.txt"), b"caf\xe9 au lait").unwrap(), "not UTF-8 from byte 3 on"),
        (
            "odd.jsonl",
            |b| fs::write(b.path("odd.jsonl"), "{\"text\": \"a\"}\n{\"x\": 1}").unwrap(),
            "line 2: it has neither",
        ),
        ("cut.jsonl", |b| fs::write(b.path("cut.jsonl"), "{\"text\": ").unwrap(), "line 1: EOF"),
    ];
    for (file, write, says) in cases {
        for command in ["gptq", "awq", "dynamic_quant"] {
            let bench = Bench::new();
            write(&bench);
            let ran = bench.run(&small(command, &["--data-path", file]));
            let (message, hint) = ran.refused(1);
            assert!(message.contains(file) && message.contains(says), "{command}: {message}");
            assert!(hint.contains("UTF-8"), "{hint}");
            assert_eq!(bench.names(), [file]);
        }
    }
    let bench = Bench::new();
    let ran = bench.run(&small("gptq", &["--data-path", "absent.txt"]));
    assert!(ran.refused(1).0.contains("absent.txt"), "{ran:?}");
}

#[test]
fn a_data_set_of_conversations_is_read() {
    let bench = Bench::new();
    let line = json!({"messages": [{"role": "user", "content": "Tell me of the sea, the wind and the ships."},
        {"role": "assistant", "content": "The sea is wide, the wind is strong, and the ships come home in the evening."}]});
    let lines = vec![line.to_string(); 12].join("\n");
    fs::write(bench.path("chat.jsonl"), lines).unwrap();
    done(bench.run(&small("gptq", &["--data-path", "chat.jsonl"])));
    done(
        bench.run(
            &[
                &["dwq", "--model", "tiny", "--mlx-path", "out2", "--data-path", "chat.jsonl"][..],
                &["--batch-size", "2"],
            ]
            .concat(),
        ),
    );
    speaks(&bench, "out2");
}

#[test]
fn models_that_are_quantized_already() {
    let bench = Bench::new();
    bench.run(&["convert", "--model", "tiny", "--mlx-path", "packed", "-q"]).ok();
    for (command, goal) in
        [("gptq", &[][..]), ("awq", &[]), ("dynamic_quant", &[]), ("quantize", &["--target-bpw", "4"])]
    {
        let args = [&[command, "--model", "packed", "--mlx-path", "out"][..], goal].concat();
        let ran = bench.run(&args);
        let (message, hint) = ran.refused(1);
        assert!(message == "the model is already quantized" && hint.contains("--dequantize"), "{command}: {message}");
    }
    let ran = bench.run(&["dwq", "--model", "tiny", "--quantized-model", "tiny", "--mlx-path", "out"]);
    assert!(ran.refused(1).0.contains("no affine weights of less than 8 bits"), "{ran:?}");
    assert_eq!(bench.names(), ["packed"]);
}

/// Changes a tensor of the model.
fn change(bench: &Bench, name: &str, change: impl Fn(&Array) -> Array) {
    let file = SafetensorsFile::open(bench.path("tiny/model.safetensors")).unwrap();
    let arrays = file.arrays().unwrap().into_iter();
    let arrays = arrays.map(|(own, array)| if own == name { (own, change(&array)) } else { (own, array) }).collect();
    mlxlm_core::weights::save_model(bench.path("tiny"), arrays, 0).unwrap();
}

#[test]
fn activations_that_are_no_numbers_name_the_leaf() {
    let spoil = |array: &Array| array.multiply(Array::from_f32(f32::NAN)).unwrap();
    for (args, leaf) in [
        (small("gptq", &[]), "model.layers.1.self_attn.q_proj"),
        (small("awq", &["--embed-group-size", "64"]), "model.layers.1."),
        (small("dynamic_quant", &[]), "model."),
        (small("quantize", &["--target-bpw", "5"]), "the head"),
        (DWQ.to_vec(), "the loss of step 1"),
    ] {
        let bench = Bench::new();
        change(&bench, "model.layers.1.input_layernorm.weight", spoil);
        let ran = bench.run(&args);
        let (message, hint) = ran.refused(1);
        assert!(
            message.starts_with(&format!("the values at `{leaf}")) && message.ends_with("are not finite"),
            "{message}"
        );
        assert!(hint.contains("mlxlm check"), "{hint}");
        assert_eq!(bench.names(), [""; 0], "{args:?}");
    }
}

/// Norms of zeros let maps read nothing but zeros: a Hessian without any preference.
#[test]
fn a_hessian_that_is_singular_is_no_failure() {
    let bench = Bench::new();
    let zeros = |array: &Array| ops::zeros_like(array).unwrap();
    change(&bench, "model.layers.0.input_layernorm.weight", zeros);
    done(bench.run(&small("gptq", &[])));
    speaks(&bench, "out");
    // The same input again and again has one direction only.
    let bench = Bench::new();
    let alike = |array: &Array| {
        let row = array.try_index(..1).unwrap();
        ops::broadcast_to(&row, array.shape()).unwrap().contiguous().unwrap()
    };
    change(&bench, "model.embed_tokens.weight", alike);
    done(bench.run(&small("gptq", &[])));
    speaks(&bench, "out");
}

#[test]
fn targets_are_kept_and_taken() {
    let bench = Bench::new();
    done(bench.run(&[&DWQ[..], &["--target-dir", "targets", "--targets-only"]].concat()));
    assert_eq!(bench.names(), ["targets"]);
    let file = SafetensorsFile::open(bench.path("targets/train/0000000000.safetensors")).unwrap();
    let arrays = file.arrays().unwrap();
    assert_eq!(arrays["logits"].shape(), arrays["indices"].shape());
    done(bench.run(&[&DWQ[..], &["--target-dir", "targets"]].concat()));
    speaks(&bench, "out");
    let longer = ["dwq", "--model", "tiny", "--mlx-path", "other", "--max-seq-length", "48", "--target-dir", "targets"];
    let ran = bench.run(&longer);
    assert!(ran.refused(1).0.contains("targets"), "{ran:?}");
}

/// A data set is downloaded from the hub once, and read as fine-tuning reads it.
#[test]
fn texts_come_from_a_data_set_of_the_hub() {
    let bench = Bench::new();
    let line =
        |i: usize| json!({"text": format!("The ship number {i} comes home in the evening, when the wind is strong.")});
    let rows: String = (0..60).map(|i| line(i).to_string() + "\n").collect();
    let server = Server::start(vec![hub_file("train.jsonl", rows)]);
    let online = |args: &[&str]| {
        let mut command = bench.command();
        command.env("HF_ENDPOINT", server.address()).env("HF_HUB_OFFLINE", "0");
        Ran::from(command.args(args).output().unwrap())
    };
    done(online(&small("gptq", &["--data-path", REPO])));
    assert!(!server.asked("/datasets/").is_empty());
    speaks(&bench, "out");
    // The same rows in a folder make the same model, and so does the cache of what was downloaded.
    fs::create_dir(bench.path("data")).unwrap();
    fs::write(bench.path("data/train.jsonl"), (0..60).map(|i| line(i).to_string() + "\n").collect::<String>()).unwrap();
    let weights = || fs::read(bench.path("out/model.safetensors")).unwrap();
    let first = weights();
    for path in [REPO, "data"] {
        fs::remove_dir_all(bench.path("out")).unwrap();
        done(bench.run(&small("gptq", &["--data-path", path])));
        assert!(weights() == first, "{path}");
    }
    fs::remove_dir_all(bench.path("out")).unwrap();
    done(bench.run(&[&DWQ[..], &["--data-path", REPO]].concat()));
    // Rows that are cut short are as many samples as rows.
    let cut = ["--data-path", "data", "--num-samples", "20", "--max-seq-length", "4", "--batch-size", "2"];
    let ran = done(bench.run(&[&["dwq", "--model", "tiny", "--mlx-path", "cut"][..], &cut].concat()));
    assert!(!ran.stderr.contains("fewer than"), "{ran:?}");
    let ran = bench.run(&small("awq", &["--data-path", "nobody/nothing", "--mlx-path", "other"]));
    assert!(ran.refused(1).0.contains("nobody/nothing"), "{ran:?}");
}

/// Runs killed in the middle go on where they were, and come to the same bits as one that was not.
#[test]
fn packing_goes_on_from_its_checkpoint() {
    let budget = ["--target-bpw", "5", "--measure-samples", "8", "--epochs", "1"];
    for (command, options, first) in [
        ("gptq", &[][..], "state/block-00000.safetensors"),
        ("gptq", &["--plain"], "state/block-00000.safetensors"),
        ("awq", &["--embed-group-size", "64", "--n-grid", "6"], "state/block-00000.safetensors"),
        ("dynamic_quant", &["--target-bpw", "5.2"], "state/sums.json"),
        ("quantize", &budget, "state/measured.json"),
        ("quantize", &budget, "state/attempt-1/block-00000.safetensors"),
        ("quantize", &budget, "state/attempt-1/scales.safetensors"),
    ] {
        let bench = Bench::new();
        let args = |out: &'static str, rest: &[&'static str]| {
            let own =
                [command, "--model", "tiny", "--mlx-path", out, "--num-samples", "400", "--sequence-length", "32"];
            [&own[..], options, rest].concat()
        };
        done(bench.run(&args("whole", &[])));
        // Killed as soon as there is something to go on with.
        let mut child = bench.command().args(args("killed", &["--checkpoint", "state"])).spawn().unwrap();
        while !bench.path(first).exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        drop(child.kill());
        child.wait().unwrap();
        assert!(!bench.path("killed").exists(), "{command}: the run was over before it was killed");
        assert!(bench.path(first).exists(), "{command}");
        let ran = bench.run(&[&args("killed", &["--checkpoint", "state"])[..], &["--seed", "5"]].concat());
        let (message, hint) = ran.refused(1);
        assert!(
            message.contains("`state` is not a checkpoint of this run") && hint.contains("--checkpoint"),
            "{message}"
        );
        done(bench.run(&args("killed", &["--checkpoint", "state"])));
        let weights = |folder: &str| fs::read(bench.path(folder).join("model.safetensors")).unwrap();
        assert!(weights("killed") == weights("whole"), "{command} {options:?} from {first}");
        assert_eq!(quantization(&bench, "killed"), quantization(&bench, "whole"));
        // What dynamic_quant has estimated is kept for another run, as in the reference.
        let mut names = bench.names();
        names.retain(|name| !name.ends_with("_sensitivities.json"));
        assert_eq!(names, ["killed", "whole"], "{command}");
    }
}

/// A run that ended early goes on where it was, and comes to the same model.
#[test]
fn training_goes_on_from_its_checkpoint() {
    let bench = Bench::new();
    let with_rate = |option: &'static str, out: &'static str, rest: &[&'static str]| {
        let own = ["dwq", "--model", "tiny", "--mlx-path", out, "--num-samples", "400", "--max-seq-length", "32"];
        [&own[..], &["--batch-size", "2", option, "1e-3"], rest].concat()
    };
    let args = |out, rest: &[&'static str]| with_rate("--relative-learning-rate", out, rest);
    done(bench.run(&args("whole", &[])));
    // Killed as soon as there is a checkpoint.
    let mut child = bench.command().args(args("killed", &["--checkpoint", "state"])).spawn().unwrap();
    while !bench.path("state").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(child.kill());
    child.wait().unwrap();
    assert!(!bench.path("killed").exists(), "the run was over before it was killed");
    let other = bench.run(&with_rate("--learning-rate", "killed", &["--checkpoint", "state"]));
    assert!(other.refused(1).0.contains("the other kind of learning rate"), "{other:?}");
    done(bench.run(&args("killed", &["--checkpoint", "state"])));
    let weights = |folder: &str| fs::read(bench.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("killed") == weights("whole"));
    assert_eq!(bench.names(), ["killed", "whole"]);
}

#[test]
fn options_that_are_not_there_are_refused() {
    for (args, says) in [
        ([&DWQ[..], &["--pipeline"]].concat(), "`--pipeline` is not supported"),
        (small("gptq", &["--bits", "7"]), "MLX has no quantization affine with 7 bits"),
        (small("gptq", &["--sequence-length", "1"]), "`--sequence-length` is 1, expected 2 or more"),
        ([&DWQ[..], &["--learning-rate", "-1"]].concat(), "`--learning-rate` is -1, expected a number above 0"),
        (
            [&DWQ[..], &["--relative-learning-rate", "0"]].concat(),
            "`--relative-learning-rate` is 0, expected a number above 0",
        ),
        (vec!["share", "--path", "x", "--hostfile", "y"], "`mlxlm share` is not supported"),
        (vec!["upload", "--path", "tiny"], "--upload-repo"),
        (vec!["upload", "--path", "tiny", "--upload-repo", "a/b/c"], "a/b/c"),
    ] {
        let bench = Bench::new();
        let ran = bench.run(&args);
        assert!(ran.refused(2).0.contains(says), "{ran:?}");
        assert_eq!(bench.names(), [""; 0]);
    }
    let ran = done(Bench::new().run(&small("gptq", &["--group-size", "128"])));
    assert!(ran.stderr.contains("are not quantized, because affine with 4 bits and groups of 128"), "{ran:?}");
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    let bench = Bench::new();
    let command = bench.command();
    let binary = command.get_program().to_owned();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 1; exec \"$@\"", "sh"]).arg(binary).args(small("gptq", &[]));
    limited.current_dir(bench.path("")).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = Ran::from(limited.output().unwrap());
    assert!(ran.refused(1).0.starts_with("cannot write `"), "{ran:?}");
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn a_folder_is_uploaded() {
    let bench = Bench::new();
    let server = Server::start(Vec::new());
    let mut command = bench.command();
    command.env("HF_ENDPOINT", server.address()).env("HF_HUB_OFFLINE", "0").env("HF_TOKEN", "hf_test");
    let ran = Ran::from(command.args(["upload", "--path", "tiny", "--upload-repo", REPO]).output().unwrap());
    assert!(ran.ok().starts_with("[INFO] Uploaded to "));
    assert!(String::from_utf8_lossy(&server.asked("/commit/main")[0].body).contains("config.json"));
    fs::create_dir(bench.path("nothing")).unwrap();
    let ran = bench.run(&["upload", "--path", "nothing", "--upload-repo", REPO]);
    assert!(ran.refused(1).0.contains("nothing/config.json"), "{ran:?}");
}
