//! `cargo xtask test`: the test command of the README and of continuous integration.

use anyhow::Result;

use crate::bench::machine;
use crate::sections::Sections;
use crate::{clients, real_model, setup, tidy, workspace};

/// Run all tests of the workspace (runs `setup` first if needed)
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Run the tests of real models instead (runs `real-model` first if needed)
    #[arg(long)]
    real: bool,

    /// Run the tests with other programs instead: clients, compliance suites and routers, installed with pip
    #[arg(long, conflicts_with = "real")]
    clients: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut sections = Sections::default();
    match (args.real, args.clients) {
        (true, _) => add_real(&mut sections),
        (_, true) => clients::add(&mut sections),
        _ => add(&mut sections),
    }
    sections.finish()
}

/// The tests that need what `real-model` gets.
pub(crate) fn add_real(sections: &mut Sections) {
    sections.check("real models", real_model::ensure);
    sections.command("tests of real models", workspace::cargo().args(real_model::TESTS).arg("--no-fail-fast"));
}

/// The tests as sections: the repository's own rules, then everything that `cargo test` finds.
pub(crate) fn add(sections: &mut Sections) {
    sections.check("tidy", tidy::check);
    // In xtask's own profile most of it is compiled already.
    let own = ["test", "--profile", "xtask", "--package", "xtask"];
    sections.command("tests of xtask", workspace::cargo().args(own));
    let crates = ["test", "--workspace", "--exclude", "xtask", "--no-fail-fast"];
    sections.command("tests of the crates", workspace::cargo().args(crates));
    // What holds for whole models and caches has to hold with the kernels of lesser machines too.
    let whole = ["test", "--workspace", "--exclude", "xtask", "--test", "golden", "--test", "laws", "--test", "batch"];
    let levels = [
        ("tests of models, avx512", "avx512", "amx_int8"),
        ("tests of models, avx2", "avx2", "avx2"),
        ("tests of models, portable", "portable", "sse2"),
    ];
    for (title, level, flag) in levels {
        if machine::has(flag) {
            sections.command(title, workspace::cargo().args(whole).env("MLXLM_ISA", level));
        }
    }
}
