//! `cargo xtask ci`: all that has to hold before a change goes in, the tests of real models and with the packages of clients among them.

use anyhow::Result;

use crate::sections::Sections;
use crate::{clients, process, setup, test, workspace};

/// Run every check: format, lints, documentation, licences, tidy, the tests, those of real models and those with clients' packages
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    setup::ensure()?;
    let mut sections = Sections::default();
    sections.command("format", workspace::cargo().args(["fmt", "--all", "--check"]));
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    sections.command("lints", workspace::cargo().args(clippy));
    let doc = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    sections.command("documentation", workspace::cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"));
    if process::on_path("cargo-deny") {
        sections.command("licences", workspace::cargo().args(["deny", "check", "licenses", "bans", "sources"]));
    } else {
        eprintln!("note: licences are not checked, cargo-deny is missing; `cargo install cargo-deny`");
    }
    test::add(&mut sections);
    test::add_real(&mut sections);
    clients::add_small(&mut sections);
    sections.finish()
}
