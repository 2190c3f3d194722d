//! `mlxlm-core` without MLX, as a program outside of this repository has it: tokenizers, chat templates and the hub, without C++.

use std::path::Path;
use std::process::Command;

const MANIFEST: &str = r#"
[package]
name = "outside"
version = "0.1.0"
edition = "2024"

[workspace]

[dependencies]
serde_json = "1"
mlxlm-core = { path = "CORE", default-features = false, features = ["hub", "text"] }
"#;

const MAIN: &str = r#"
use mlxlm_core::hub::{Hub, HubOptions, Progress};
use mlxlm_core::text::{TemplateOptions, Tokenizer, TokenizerOptions};

fn main() -> Result<(), mlxlm_core::Error> {
    let folder = std::env::args().nth(1).unwrap();
    let hub = Hub::new(HubOptions::new("http://127.0.0.1:9", "cache"));
    let folder = hub.resolve(&folder, None, &Progress::none())?;
    let tokenizer = Tokenizer::from_folder(folder, &TokenizerOptions::default())?;
    let messages = [serde_json::json!({"role": "user", "content": "What is 2 + 2?"})];
    let template = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
    let tokens = tokenizer.encode_chat(&messages, &template)?;
    println!("{}", tokenizer.decode(&tokens)?);
    Ok(())
}
"#;

#[test]
fn a_program_outside_has_text_and_hub_without_mlx() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let project = tempfile::tempdir().unwrap();
    let manifest = MANIFEST.replace("CORE", &root.join("mlxlm-core").to_string_lossy());
    std::fs::create_dir(project.path().join("src")).unwrap();
    std::fs::write(project.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::write(project.path().join("src/main.rs"), MAIN).unwrap();
    // The versions that this repository has tried.
    std::fs::copy(root.join("Cargo.lock"), project.path().join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(project.path()).args(["run", "--quiet", "--"]).arg(root.join("mlxlm-models/demo/demo"));
    // A compiler for C++ is what it must not need.
    cargo.env("CXX", "/bin/false").env("CARGO_TARGET_DIR", root.join("target/library"));
    let output = cargo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("What is 2 + 2?"), "{said}");
    let lock = std::fs::read_to_string(project.path().join("Cargo.lock")).unwrap();
    assert!(!lock.contains("name = \"mlx-sys\""), "MLX is among what it needs");
}
