//! `cargo xtask setup`: MLX for Linux in this repository; what it does is [`mlxlm_core::setup`].

use anyhow::Result;

use mlxlm_core::setup;
pub(crate) use mlxlm_core::setup::{Args, Libraries, MLX_VERSION, bindings, wheel};

use crate::workspace;

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&workspace::root(), args)
}

/// Does a setup if there is none.
pub(crate) fn ensure() -> Result<()> {
    setup::ensure(&workspace::root())
}

/// Where programs that are built here find MLX.
pub(crate) fn libraries() -> Result<Libraries> {
    setup::libraries(&workspace::root())
}
