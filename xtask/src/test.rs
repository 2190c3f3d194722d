//! `cargo xtask test`: the test command of the README and of continuous integration.

use anyhow::Result;

use crate::sections::Sections;
use crate::{setup, tidy, workspace};

/// Run every test of the workspace, after `setup` if it has not been done
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Arguments for `cargo test`
    #[arg(last = true)]
    cargo: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut sections = Sections::default();
    add(&mut sections, &args.cargo);
    sections.finish()
}

/// The tests as sections: the repository's own rules, then everything that `cargo test` finds.
pub(crate) fn add(sections: &mut Sections, extra: &[String]) {
    sections.check("tidy", tidy::check);
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(extra);
    sections.command("unit, integration and documentation tests", &mut cargo);
}
