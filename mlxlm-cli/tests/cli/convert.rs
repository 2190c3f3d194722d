//! `convert`.

use mlxlm_core::io;
use serde_json::Value;

use crate::bench::Bench;

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
    assert_eq!(convert(&bench, &[]), "[INFO] Loading\n[INFO] 32.000 bits per weight.\n");
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
        assert!(shown.starts_with("[INFO] Loading\n[INFO] Quantizing\n[INFO] "), "{shown}");
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
    assert_eq!(shown, "[INFO] Loading\n[INFO] Dequantizing\n[INFO] 32.000 bits per weight.\n");
    assert_eq!(config(&bench, "plain").get("quantization"), None);
    assert_eq!(generate(&bench, "plain"), packed);
}

#[test]
fn weights_take_another_type() {
    for (dtype, bits) in [("float16", 16), ("bfloat16", 16), ("float32", 32)] {
        let bench = Bench::new();
        let shown = convert(&bench, &["--dtype", dtype]);
        assert!(shown.ends_with(&format!("[INFO] {bits}.000 bits per weight.\n")), "{shown}");
        generate(&bench, "out");
    }
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
    assert_eq!(ran.refused(1), ("`out` exists already", "name a folder that does not exist, or remove this one"));
    assert_eq!(std::fs::read_dir(bench.path("out")).unwrap().count(), 0);
}
