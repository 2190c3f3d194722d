//! `cargo xtask openapi`: the description of the server's routes, `/openapi.json`, from types by `utoipa`.
//!
//! The server has the file built in. That it names every route of the router, and that the server takes every field that is described, is
//! tested there. Unusual: as with `demo-model` only a build with a feature of its own can do this, since nothing else needs `utoipa`.

#[cfg(any(test, feature = "openapi"))]
#[expect(dead_code, reason = "the fields are what is described; nobody reads them")]
mod anthropic;
#[cfg(any(test, feature = "openapi"))]
mod document;
#[cfg(any(test, feature = "openapi"))]
#[expect(dead_code, reason = "the fields are what is described; nobody reads them")]
mod openai;

use anyhow::Result;

/// Write the OpenAPI description of the server, mlxlm-serve/src/http/openapi.json
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {}

#[cfg(any(test, feature = "openapi"))]
pub(crate) fn run(_: &Args) -> Result<()> {
    use anyhow::Context;
    let path = path();
    std::fs::write(&path, text()?).with_context(|| format!("cannot write `{}`", path.display()))?;
    eprintln!("wrote `{}`", path.display());
    Ok(())
}

#[cfg(not(any(test, feature = "openapi")))]
pub(crate) fn run(_: &Args) -> Result<()> {
    use anyhow::bail;
    let mut cargo = crate::workspace::cargo();
    cargo.args(["run", "--profile", "xtask", "--package", "xtask", "--features", "openapi", "--", "openapi"]);
    let status = cargo.status()?;
    if status.success() { Ok(()) } else { bail!("`{}` failed ({status})", crate::process::shown(&cargo)) }
}

#[cfg(any(test, feature = "openapi"))]
fn path() -> std::path::PathBuf {
    crate::workspace::root().join("mlxlm-serve/src/http/openapi.json")
}

#[cfg(any(test, feature = "openapi"))]
fn text() -> Result<String> {
    let version = crate::workspace::locked_version(&crate::workspace::root(), "mlxlm-serve")?;
    Ok(document::document(&version).to_pretty_json()? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_current() {
        let there = std::fs::read_to_string(path()).unwrap();
        assert!(there == text().unwrap(), "run `cargo xtask openapi`");
    }
}
