//! `cargo xtask fuzz`: changed inputs for every reader of foreign bytes.
//!
//! The readers and the ways in which inputs are changed are in `mlxlm-models/tests/support/fuzz.rs`. What is found lies in
//! `target/fuzz/<target>`; once mended, the smallest input that shows a fault goes into `mlxlm-models/tests/fuzz/<target>`, which
//! `cargo xtask test` reads again each time.

use anyhow::Result;

use crate::sections::Sections;
use crate::{setup, workspace};

/// The readers, as the harness names them.
const TARGETS: [&str; 7] = ["safetensors", "index", "config", "tokenizer", "prompt_cache", "template", "gguf"];

/// Fuzz the parsers of files and requests
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Parsers to fuzz [default: all]
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// Seconds per parser
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut sections = Sections::default();
    for target in
        TARGETS.into_iter().filter(|target| args.targets.is_empty() || args.targets.iter().any(|t| t == target))
    {
        let findings = workspace::root().join("target/fuzz").join(target);
        let mut harness = workspace::cargo();
        harness.args(["run", "--quiet", "--package", "mlxlm-models", "--example", "fuzz", "--", target]);
        sections.command(target, harness.arg(args.seconds.to_string()).arg(findings));
    }
    sections.finish()
}
