//! `convert`.

use std::path::Path;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::SafetensorsFile;
use mlxlm_core::{Array, io, ops};
use serde_json::{Value, json};

use crate::bench::{Bench, Ran};
use crate::tiny::configure;

fn convert(bench: &Bench, options: &[&str]) -> String {
    bench.run(&[&["convert", "--hf-path", "tiny", "--mlx-path", "out"], options].concat()).ok()
}

fn generate(bench: &Bench, model: &str) -> String {
    bench.run(&["generate", "--model", model, "-p", "hello", "-m", "8", "--verbose", "false"]).ok()
}

fn config(bench: &Bench, model: &str) -> Value {
    io::read_json(bench.path(model).join("config.json")).unwrap()
}

#[test]
fn a_model_is_copied_as_it_is() {
    let bench = Bench::new();
    assert_eq!(
        convert(&bench, &[]),
        "[INFO] Loading\n[INFO] 32.000 bits per weight.\n[INFO] Wrote out, 759.1 kB of weights.\n"
    );
    assert_eq!(generate(&bench, "out"), generate(&bench, "tiny"));
    let files = ["README.md", "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    for file in files {
        assert!(bench.path("out").join(file).is_file(), "{file}");
    }
    let card = io::read_to_string(bench.path("out").join("README.md")).unwrap();
    assert!(card.contains("library_name: mlx") && !card.contains("base_model"), "{card}");
    assert_eq!(bench.names(), ["out"]);
}

#[test]
fn every_mode_is_written_and_read() {
    let modes: [(&[&str], &str, (i64, i64)); 7] = [
        (&[], "affine", (4, 64)),
        (&["--q-bits", "8", "--q-group-size", "32"], "affine", (8, 32)),
        (&["--q_bits=2"], "affine", (2, 64)),
        (&["--q-mode", "mxfp4"], "mxfp4", (4, 32)),
        (&["--q-mode", "nvfp4"], "nvfp4", (4, 16)),
        (&["--q-mode", "mxfp8"], "mxfp8", (8, 32)),
        (&["--quant-predicate", "mixed_4_6"], "affine", (4, 64)),
    ];
    for (options, mode, (bits, group)) in modes {
        let bench = Bench::new();
        let shown = convert(&bench, &[&["-q"], options].concat());
        assert!(shown.starts_with("[INFO] Loading\n[INFO] Quantizing\n[INFO] Quantized model with "), "{shown}");
        let quantization = &config(&bench, "out")["quantization"];
        let found = (&quantization["mode"], quantization["bits"].as_i64(), quantization["group_size"].as_i64());
        assert_eq!(found, (&Value::from(mode), Some(bits), Some(group)), "{options:?}");
        let weights = std::fs::metadata(bench.path("out/model.safetensors")).unwrap().len();
        assert!(weights < std::fs::metadata(bench.path("tiny/model.safetensors")).unwrap().len() / 2, "{options:?}");
        assert!(!generate(&bench, "out").trim().is_empty(), "{options:?}");
    }
}

#[test]
fn eight_bits_say_what_the_original_says_and_unpack_to_it() {
    let bench = Bench::new();
    convert(&bench, &["--quantize", "--q-bits", "8", "--q-group-size", "32"]);
    let packed = generate(&bench, "out");
    assert_eq!(packed, generate(&bench, "tiny"));
    let shown = bench.run(&["convert", "--model", "out", "--mlx-path", "plain", "-d"]).ok();
    assert_eq!(
        shown,
        "[INFO] Loading\n[INFO] Dequantizing\n[INFO] 32.000 bits per weight.\n[INFO] Wrote plain, 759.1 kB of weights.\n"
    );
    assert_eq!(config(&bench, "plain").get("quantization"), None);
    assert_eq!(generate(&bench, "plain"), packed);
}

#[test]
fn weights_take_another_type() {
    for (dtype, bits) in [("float16", 16), ("bfloat16", 16), ("float32", 32)] {
        let bench = Bench::new();
        let shown = convert(&bench, &["--dtype", dtype]);
        assert!(shown.contains(&format!("[INFO] {bits}.000 bits per weight.\n[INFO] Wrote out, ")), "{shown}");
        generate(&bench, "out");
    }
}

/// The names and bytes of the files in a folder, sorted.
fn files(folder: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap_or_default())).collect();
    files.sort();
    files
}

/// A conversion that a signal ends has left nothing, wherever it was, or all there is if it was done already.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_leaves_nothing_or_all() {
    use std::process::{Command, Stdio};
    let bench = Bench::new();
    convert(&bench, &[]);
    let whole = files(&bench.path("out"));
    std::fs::remove_dir_all(bench.path("out")).unwrap();
    let mut stopped = 0;
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        for pause_ms in [0, 1, 2, 4, 6, 8, 12, 20, 60] {
            let mut command = bench.command();
            command.args(["convert", "--model", "tiny", "--mlx-path", "new/out"]).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // Signals are listened for before this line.
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 10]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(pause_ms));
            let _may_be_over = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            let found = child.wait().unwrap().code();
            assert!(found == Some(0) || found == Some(code), "{signal} after {pause_ms} ms: {found:?}");
            if found == Some(0) || !bench.names().is_empty() {
                let names: Vec<_> = files(&bench.path("new")).into_iter().map(|(name, _)| name).collect();
                assert_eq!((bench.names(), names), (vec!["new".to_owned()], vec!["out".into()]));
                assert!(files(&bench.path("new/out")) == whole, "{signal} after {pause_ms} ms");
                std::fs::remove_dir_all(bench.path("new")).unwrap();
            } else {
                stopped += 1;
            }
        }
    }
    assert!(stopped > 0, "every conversion was done before its signal");
}

/// What a killed conversion has left is removed by the next one.
#[cfg(target_os = "linux")]
#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    use std::process::{Command, Stdio};
    let bench = Bench::new();
    for _ in 0..40 {
        let mut command = bench.command();
        let mut child =
            command.args(["convert", "--model", "tiny", "--mlx-path", "out"]).stdout(Stdio::null()).spawn().unwrap();
        // The folder in the making has a hidden name.
        while child.try_wait().unwrap().is_none() && !bench.names().iter().any(|name| name.starts_with('.')) {}
        let _may_be_over = Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
        if bench.names().iter().any(|name| name.starts_with('.')) {
            bench.run(&["convert", "--model", "tiny", "--mlx-path", "out2"]).ok();
            let names = bench.names();
            assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
            return;
        }
        let _was_finished = std::fs::remove_dir_all(bench.path("out"));
    }
    panic!("no run could be killed while it was writing");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_loaded() {
    let bench = Bench::new();
    for (args, message) in [
        (&["--model", "demo", "-q"][..], "the model is already quantized"),
        (&["--model", "tiny", "-q", "--q-mode", "mxfp4", "--quant-predicate", "mixed_3_6"], "the recipe `mixed_3_6`"),
        (&["--model", "tiny", "-d"], "the model is not quantized"),
    ] {
        let ran = bench.run(&[&["convert"], args].concat());
        assert_ne!(ran.code, Some(0));
        assert!(ran.stderr.starts_with(&format!("error: {message}")), "{ran:?}");
        assert!(!ran.stdout.contains("izing"), "{ran:?}");
        assert_eq!(bench.names(), [""; 0]);
    }
}

#[test]
fn older_names_of_options_are_taken() {
    let bench = Bench::new();
    let args = ["convert", "--model", "tiny", "-q", "--quantize-bits", "8", "--quantize_group_size", "32"];
    bench.run(&args).ok();
    let packed = config(&bench, "mlx_model");
    assert_eq!((&packed["quantization"]["bits"], &packed["quantization"]["group_size"]), (&json!(8), &json!(32)));
}

/// What is converted once more keeps the type that it was given.
#[test]
fn the_new_type_is_that_of_the_configuration() {
    let bench = Bench::new();
    for (entries, key) in [(json!({}), "torch_dtype"), (json!({"dtype": "float32"}), "dtype")] {
        configure(&bench.path("tiny"), entries);
        convert(&bench, &["--dtype", "float16"]);
        assert_eq!(config(&bench, "out")[key], "float16");
        let again = bench.run(&["convert", "--model", "out", "--mlx-path", "again"]).ok();
        assert!(again.contains("[INFO] 16.000 bits per weight.\n[INFO] Wrote again, "), "{again}");
        for folder in ["out", "again"] {
            std::fs::remove_dir_all(bench.path(folder)).unwrap();
        }
    }
}

/// 259 rows of 48 weights are not a whole number of pairs of nvfp4's groups, and rows of 48 no groups of 32 or 64.
#[test]
fn a_matrix_that_a_mode_cannot_take_stays_as_it_is() {
    for mode in ["nvfp4", "mxfp4", "affine"] {
        let bench = Bench::new();
        narrow(&bench.path("tiny"));
        let ran = bench.run(&["convert", "--model", "tiny", "--mlx-path", "out", "-q", "--q-mode", mode]);
        assert_eq!(ran.code, Some(0), "{mode}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("warning: `model.embed_tokens`, "), "{mode}: {}", ran.stderr);
        assert!(ran.stderr.contains(&format!("are not quantized, because {mode} with")), "{mode}: {}", ran.stderr);
        assert!(!generate(&bench, "out").is_empty(), "{mode}");
    }
}

/// Narrows the model to 48 dimensions in three heads of 16, with an odd number of tokens.
fn narrow(folder: &Path) {
    let narrowed = |array: &Array| {
        let size = |n: i32| match n {
            64 => 48,
            32 => 16,
            n => n,
        };
        let cut = array.try_index(..size(array.dim(0))).unwrap();
        let cut = if cut.ndim() == 2 { cut.try_index((.., ..size(cut.dim(1)))).unwrap() } else { cut };
        if cut.dim(0) == 900 { ops::concatenate(&[&cut, &cut.try_index(..1).unwrap()], 0).unwrap() } else { cut }
    };
    let file = SafetensorsFile::open(folder.join("model.safetensors")).unwrap();
    let arrays = file.arrays().unwrap().into_iter().map(|(name, array)| (name, narrowed(&array))).collect();
    mlxlm_core::weights::save_model(folder, arrays, 0).unwrap();
    configure(folder, json!({"hidden_size": 48, "num_attention_heads": 3, "head_dim": 16, "vocab_size": 901}));
}

#[test]
fn an_entry_about_a_packing_that_is_none_is_dropped() {
    let bench = Bench::new();
    let expected = generate(&bench, "tiny");
    let left = json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
    configure(&bench.path("tiny"), left);
    assert_eq!(generate(&bench, "tiny"), expected);
    let ran = bench.run(&["convert", "--model", "tiny", "--mlx-path", "out"]);
    assert!(ran.stderr.contains("the weights are not quantized by `bitsandbytes`"), "{}", ran.stderr);
    assert_eq!(config(&bench, "out").get("quantization_config"), None);
    assert_eq!(generate(&bench, "out"), expected);
}

#[test]
fn named_templates_go_along_and_links_out_of_the_folder_do_not() {
    let bench = Bench::new();
    let templates = bench.path("tiny/additional_chat_templates");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(templates.join("tool_use.jinja"), "{{ tools }}").unwrap();
    convert(&bench, &[]);
    assert_eq!(
        std::fs::read_to_string(bench.path("out/additional_chat_templates/tool_use.jinja")).unwrap(),
        "{{ tools }}"
    );
    std::fs::write(bench.path("secret"), "a secret").unwrap();
    for name in ["vocab.txt", "README.md"] {
        std::os::unix::fs::symlink("../secret", bench.path("tiny").join(name)).unwrap();
        let ran = bench.run(&["convert", "--model", "tiny", "--mlx-path", "again"]);
        assert!(ran.refused(1).0.contains(&format!("`tiny/{name}` is a link to")), "{ran:?}");
        std::fs::remove_file(bench.path("tiny").join(name)).unwrap();
    }
    assert_eq!(bench.names(), ["out", "secret"]);
}

#[test]
fn an_upload_without_a_token_is_refused_before_the_work() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", "http://127.0.0.1:9");
    let args = ["convert", "--model", "tiny", "--mlx-path", "out", "--upload-repo", "org/name"];
    let ran = Ran::from(command.args(args).output().unwrap());
    assert_eq!(ran.refused(1).0, "uploading to `org/name` needs a token, and none is set");
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn the_default_folder_is_mlx_model() {
    let bench = Bench::new();
    bench.run(&["convert", "--model", "tiny"]).ok();
    assert_eq!(bench.names(), ["mlx_model"]);
}

#[test]
fn what_is_there_is_left_alone() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("out")).unwrap();
    let ran = bench.run(&["convert", "--model", "tiny", "--mlx-path", "out"]);
    assert_eq!(ran.refused(1), ("`out` already exists", "use a folder that does not exist, or remove this one"));
    assert_eq!(std::fs::read_dir(bench.path("out")).unwrap().count(), 0);
}
