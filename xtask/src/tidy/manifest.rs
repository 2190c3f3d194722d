//! Rules for a crate's `Cargo.toml`: the shared lints, and the layers.

use super::{File, Finding};

/// Our crates; each depends only on those above it.
const LAYERS: &[&str] = &[
    "mlxlm-core",
    "mlxlm-cache",
    "mlxlm-models",
    "mlxlm-sample",
    "mlxlm-train",
    "mlxlm-quant",
    "mlxlm-serve",
    "mlxlm-cli",
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut section = "";
    let mut shared_lints = false;
    for (line, text) in file.text.lines().enumerate() {
        let text = text.split('#').next().unwrap_or_default().trim();
        if let Some(name) = text.strip_prefix('[') {
            section = name.trim_end_matches(']');
            // `[dependencies.name]` is one dependency.
            if let Some((_, name)) = section.split_once("dependencies.") {
                findings.extend(dependency(file, line + 1, name));
            }
        } else if section == "lints" {
            shared_lints |= text.split_whitespace().collect::<String>() == "workspace=true";
        } else if section.ends_with("dependencies") {
            let name = text.split(['=', '.', ' ']).next().unwrap_or_default();
            // Without its default features it needs no MLX.
            let is_setup =
                file.folder() == "xtask" && text.contains("default-features = false, features = [\"setup\"]");
            findings.extend(dependency(file, line + 1, name).filter(|_| !is_setup));
        }
    }
    if !shared_lints {
        findings.push(file.finding(1, "lints", "a crate takes the workspace's lints: `[lints] workspace = true`"));
    }
    findings
}

fn dependency(file: &File, line: usize, name: &str) -> Option<Finding> {
    let own = file.folder();
    if matches!(name, "mlx-rs" | "mlx-sys") {
        let message = format!("`{name}`: only mlxlm-core depends on MLX's crates");
        return (own != "mlxlm-core").then(|| file.finding(line, "mlx", message));
    }
    let theirs = LAYERS.iter().position(|layer| *layer == name)?;
    let message = match LAYERS.iter().position(|layer| *layer == own) {
        Some(ours) if theirs < ours => return None,
        Some(_) => format!("`{own}` must not depend on `{name}`, which is not above it: {}", LAYERS.join(", ")),
        None => format!(
            "`{own}` has to build before MLX is there, so it depends on none of our crates but `mlxlm-core` with the feature `setup` alone"
        ),
    };
    Some(file.finding(line, "layers", message))
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;

    #[track_caller]
    fn check(path: &str, dependencies: &str, wanted: &[(&'static str, usize)]) {
        let text = format!("[lints]\nworkspace = true\n{dependencies}\n");
        assert_eq!(found(path, &text), wanted, "{path}: {dependencies}");
    }

    #[test]
    fn lints_are_shared() {
        assert_eq!(found("mlxlm-core/Cargo.toml", "[package]\nname = \"mlxlm-core\"\n"), [("lints", 1)]);
        assert_eq!(found("mlxlm-core/Cargo.toml", "[dependencies]\nworkspace = true\n"), [("lints", 1)]);
        check("mlxlm-core/Cargo.toml", "", &[]);
    }

    #[test]
    fn layers_hold() {
        check("mlxlm-models/Cargo.toml", "[dependencies]\nmlxlm-core.workspace = true", &[]);
        check("mlxlm-models/Cargo.toml", "[dependencies]\nmlxlm-sample = { workspace = true }", &[("layers", 4)]);
        check("mlxlm-models/Cargo.toml", "[dev-dependencies]\nmlxlm-cli.workspace = true", &[("layers", 4)]);
        check("mlxlm-models/Cargo.toml", "[dependencies.mlxlm-quant]\nworkspace = true", &[("layers", 3)]);
        check("mlxlm-models/Cargo.toml", "[dependencies]\n# mlxlm-sample\nserde = \"1\"", &[]);
    }

    #[test]
    fn xtask_builds_without_mlx() {
        check("xtask/Cargo.toml", "[dependencies]\nmlxlm-core.workspace = true", &[("layers", 4)]);
        let alone = "[dependencies]\nmlxlm-core = { path = \"x\", default-features = false, features = [\"setup\"] }";
        check("xtask/Cargo.toml", alone, &[]);
        check(
            "mlxlm-cache/Cargo.toml",
            "[dependencies]\nmlxlm-cli = { default-features = false, features = [\"setup\"] }",
            &[("layers", 4)],
        );
        check("xtask/Cargo.toml", "[dependencies]\nmlx-rs.workspace = true", &[("mlx", 4)]);
        check("mlxlm-core/Cargo.toml", "[dependencies]\nmlx-rs.workspace = true", &[]);
    }
}
