//! `cargo xtask test`: the test command of the README and of continuous integration.

use anyhow::Result;

use crate::sections::Sections;
use crate::{setup, tidy, workspace};

/// Run every test of the workspace, after `setup` if it has not been done
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    setup::ensure()?;
    let mut sections = Sections::default();
    add(&mut sections);
    sections.finish()
}

/// The tests as sections: the repository's own rules, then everything that `cargo test` finds.
pub(crate) fn add(sections: &mut Sections) {
    sections.check("tidy", tidy::check);
    // In xtask's own profile most of it is compiled already.
    let own = ["test", "--profile", "xtask", "--package", "xtask"];
    sections.command("tests of xtask", workspace::cargo().args(own));
    let crates = ["test", "--workspace", "--exclude", "xtask", "--no-fail-fast"];
    sections.command("tests of the crates", workspace::cargo().args(crates));
}
