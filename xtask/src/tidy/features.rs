//! A crate asks for the features that its code uses: built together with others that ask for them, it would compile anyway.

use std::collections::BTreeSet;

use super::code::code;
use super::{File, Finding};

/// Modules of `mlxlm-core` that belong to features which are off in `[workspace.dependencies]`.
const FEATURES: [(&str, &str); 1] = [("mlxlm_core::hub", "\"hub\"")];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let manifests = files.iter().filter(|file| file.path == format!("{}/Cargo.toml", file.folder()));
    manifests.flat_map(|manifest| of_crate(manifest, files)).collect()
}

fn of_crate(manifest: &File, files: &[File]) -> Vec<Finding> {
    let source = format!("{}/src/", manifest.folder());
    let of_it = |file: &&File| file.path.starts_with(&source) && file.path.ends_with(".rs");
    let used: BTreeSet<_> = files.iter().filter(of_it).flat_map(|file| used(&file.text)).collect();
    let asks = |feature: &str| {
        manifest.text.lines().any(|line| line.trim_start().starts_with("mlxlm-core") && line.contains(feature))
    };
    let absent = used.into_iter().filter(|(_, feature)| !asks(feature));
    absent
        .map(|(module, feature)| {
            let message = format!("its code uses `{module}`: `mlxlm-core` needs the feature {feature} here");
            manifest.finding(1, "features", message)
        })
        .collect()
}

/// The modules that some code names.
fn used(text: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let code = code(text);
    FEATURES.into_iter().filter(move |(module, _)| code.contains(module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(manifest: &str, source: &str) -> usize {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        check(&[file("mlxlm-train/Cargo.toml", manifest), file("mlxlm-train/src/a.rs", source)]).len()
    }

    #[test]
    fn features_are_asked_for() {
        let (without, with) =
            ("mlxlm-core = { workspace = true }", "mlxlm-core = { workspace = true, features = [\"hub\"] }");
        assert_eq!(found(without, "use mlxlm_core::hub::Hub;"), 1);
        assert_eq!(found(with, "use mlxlm_core::hub::Hub;"), 0);
        assert_eq!(found(without, "// mlxlm_core::hub\nuse mlxlm_core::text;"), 0);
    }
}
