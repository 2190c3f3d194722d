//! The folder in which seeds, our folders and Python's lie side by side.

use std::path::{Path, PathBuf};
use std::process::Command;

use mlxlm_core::io;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::seeds;

/// A seed and the options of `convert` that make it `{seed}-{form}`. MLX has no 16-bit products of dense experts on CPUs,
/// where Python has to run the models as well.
pub const CASES: [(&str, &str, &[&str]); 12] = [
    ("gemma2", "q4", Q4),
    ("gemma2", "mxfp4", MXFP4),
    ("gemma2", "bf16", BF16),
    ("llama", "q4", Q4),
    ("llama", "mxfp4", MXFP4),
    ("llama", "bf16", BF16),
    ("mixtral", "q4", Q4),
    ("mixtral", "mxfp4", MXFP4),
    ("mixtral", "f32", F32),
    ("qwen3", "q4", Q4),
    ("qwen3", "mxfp4", MXFP4),
    ("qwen3", "bf16", BF16),
];

const Q4: &[&str] = &["-q", "--q-bits", "4", "--q-group-size", "32", "--dtype", "float32"];
const MXFP4: &[&str] = &["-q", "--q-mode", "mxfp4", "--dtype", "float32"];
const BF16: &[&str] = &["--dtype", "bfloat16"];
const F32: &[&str] = &["--dtype", "float32"];

/// The folder; one that was asked for stays.
pub struct Work {
    root: PathBuf,
    temporary: Option<TempDir>,
}

impl Work {
    /// The folder of `MLXLM_ROUNDTRIP`, or a temporary one with what Python left in `tests/golden`.
    pub fn open() -> Self {
        if let Some(root) = std::env::var_os("MLXLM_ROUNDTRIP") {
            return Self { root: root.into(), temporary: None };
        }
        let temporary = tempfile::tempdir().unwrap();
        let work = Self { root: temporary.path().to_owned(), temporary: Some(temporary) };
        copy(&golden("mlx_lm_0.32.2"), &work.path("theirs"));
        seeds::add_tokenizer(&work.path("theirs/llama-q4"));
        work
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What Python recorded, if it ran already.
    pub fn record<T: DeserializeOwned>(&self) -> Option<T> {
        let path = if self.temporary.is_some() { golden("roundtrip.json") } else { self.path("roundtrip.json") };
        path.is_file().then(|| io::read_json(path).unwrap())
    }

    /// The output of the binary, run in the folder.
    pub fn mlxlm(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_mlxlm")).current_dir(&self.root).args(args).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap())
    }

    /// Makes the seeds and all our folders, but for those that are there.
    pub fn make_ours(&self) {
        if self.path("ours").exists() {
            return;
        }
        for model in seeds::MODELS {
            seeds::make(model, &self.path(&format!("seed/{model}")));
        }
        io::create_dir_all(self.path("ours")).unwrap();
        for (model, form, options) in CASES {
            let (from, to) = (format!("seed/{model}"), format!("ours/{model}-{form}"));
            let mut args = vec!["convert", "--model", &from, "--mlx-path", &to];
            args.extend(options);
            self.mlxlm(&args).unwrap();
        }
        seeds::make_adapter(&self.path("seed/llama"), &self.path("ours/adapter"));
        let (model, cache) = ("ours/llama-q4", "ours/cache.safetensors");
        let prompt = "Tell me of the sea";
        self.mlxlm(&["cache_prompt", "--model", model, "--prompt-cache-file", cache, "--prompt", prompt]).unwrap();
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn copy(from: &Path, to: &Path) {
    io::create_dir_all(to).unwrap();
    for path in io::read_dir(from).unwrap() {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { io::copy(&path, target).unwrap() }
    }
}
