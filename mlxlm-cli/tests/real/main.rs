//! Real models and vocabularies against what their own programs make of them: `cargo xtask test --real`.
//!
//! `cargo xtask real-model` puts them into `target/real-models`. `expected.json` is what Python mlx-lm says of the model, in
//! `f32` on a CPU; `cargo xtask real-model --record` makes it anew with `xtask/src/golden/real.py`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod llama_cpp;
mod program;
mod smollm2;
mod vocabularies;

use std::path::{Path, PathBuf};

/// A path in the folder of real models.
fn real(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/real-models").join(name);
    assert!(path.exists(), "`{}` is missing; `cargo xtask real-model` makes it", path.display());
    path
}
