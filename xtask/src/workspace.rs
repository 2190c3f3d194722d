//! Where the repository is.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use mlxlm_core::setup::tool::{cargo as cargo_in, locked_version};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it when it runs us; the built-in value serves whoever starts the binary by hand.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).parent().expect("xtask is a folder in the workspace").to_path_buf()
}

/// The cargo that runs us, at the workspace's root.
pub(crate) fn cargo() -> Command {
    cargo_in(&root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_pins_mlx_sys() {
        assert!(root().join("Cargo.toml").is_file());
        assert!(locked_version(&root(), "mlx-sys").is_ok());
    }
}
