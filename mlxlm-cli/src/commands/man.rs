//! `man`: a manual page for each command.

use std::path::Path;

use clap_mangen::Man;
use mlxlm_core::io;

use crate::failure::{Failure, Result};
use crate::help;

/// Writes `mlxlm.1` and `mlxlm-COMMAND.1` of every command that help shows.
pub(super) fn run(folder: &Path) -> Result {
    io::create_dir_all(folder)?;
    let mut root = help::command();
    root.build();
    page(folder, "mlxlm", root.clone())?;
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = format!("mlxlm-{}", command.get_name());
        // The name of a page is that of its file, and must live as long as clap wants it.
        page(folder, &name, command.clone().name(name.clone()).version(env!("CARGO_PKG_VERSION")))?;
    }
    Ok(())
}

fn page(folder: &Path, name: &str, command: clap::Command) -> Result {
    let mut page = Vec::new();
    let made = Man::new(command).render(&mut page);
    made.map_err(|error| Failure::new(format!("cannot make the manual page of `{name}`: {error}")))?;
    Ok(io::write(folder.join(format!("{name}.1")), page)?)
}
