//! The licences of what is in the binary and beside it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, CARGO};
use crate::workspace;

/// A page that names every crate that the binary is made of, and MLX's libraries.
pub(super) fn list() -> Result<String> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--format-version", "1", "--filter-platform"]);
    cargo.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    let metadata: Value = serde_json::from_str(&process::succeed(&mut cargo, CARGO)?)?;
    let mut text = String::from(
        "# What mlxlm is made of\n\n\
         MLX and the libraries beside it (libmlx, BLAS, LAPACK, the runtime of GNU Fortran) come from MLX's own wheel: MLX is under \
         MIT, BLAS and LAPACK under BSD-3-Clause, libgfortran and libquadmath under GPL-3.0 with the GCC runtime exception and \
         LGPL-2.1. Each is a shared library that can be replaced.\n\n\
         The binary is linked from these crates:\n\n| crate | version | licence | source |\n| --- | --- | --- | --- |\n",
    );
    for ((name, version), (licence, source)) in crates(&metadata)? {
        writeln!(text, "| {name} | {version} | {licence} | {source} |")?;
    }
    Ok(text)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

type Crates<'a> = BTreeMap<(&'a str, &'a str), (&'a str, &'a str)>;

/// The crates that `mlxlm-cli` needs when it runs, with licence and repository; ours are not among them.
fn crates(metadata: &Value) -> Result<Crates<'_>> {
    let packages = metadata["packages"].as_array().context("cargo lists no packages")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo resolves nothing")?;
    let root = packages.iter().find(|package| package["name"] == "mlxlm-cli").context("there is no `mlxlm-cli`")?;
    let mut open = vec![&root["id"]];
    let mut seen: Vec<&Value> = Vec::new();
    while let Some(id) = open.pop() {
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let node = nodes.iter().find(|node| node["id"] == *id);
        let dependencies = node.and_then(|node| node["deps"].as_array()).into_iter().flatten();
        // What only builds or tests is not in the binary.
        let runs = |dependency: &&Value| {
            dependency["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        };
        open.extend(dependencies.filter(runs).map(|dependency| &dependency["pkg"]));
    }
    let is_in = |package: &&Value| seen.contains(&&package["id"]) && !package["source"].is_null();
    Ok(packages
        .iter()
        .filter(is_in)
        .map(|package| {
            let key = (text(&package["name"]), text(&package["version"]));
            (key, (text(&package["license"]), text(&package["repository"])))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_runs_is_listed() {
        let kind = |kind: Value| json!([{ "kind": kind }]);
        let package = |name: &str, source: Value| json!({"id": name, "name": name, "version": "1.0", "license": "MIT", "repository": "r", "source": source});
        let metadata = json!({
            "packages": [package("mlxlm-cli", Value::Null), package("a", json!("registry")), package("b", json!("registry"))],
            "resolve": {"nodes": [{"id": "mlxlm-cli", "deps": [
                {"pkg": "a", "dep_kinds": kind(Value::Null)}, {"pkg": "b", "dep_kinds": kind(json!("build"))}]}]},
        });
        let found = crates(&metadata).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(("a", "1.0"), ("MIT", "r"))]);
    }
}
