//! The files that ARCHITECTURE.md names are there.

use std::collections::BTreeSet;

use super::{File, Finding};

const PAGE: &str = "ARCHITECTURE.md";

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else { return Vec::new() };
    let known: BTreeSet<String> = files.iter().map(|file| format!("/{}", short(&file.path))).collect();
    let is_known = |name: &str| known.iter().any(|path| path.ends_with(&format!("/{}", short(name))));
    let lines = (1..).zip(page.text.lines());
    let named = lines.flat_map(|(line, text)| text.split('`').skip(1).step_by(2).map(move |name| (line, name)));
    named
        .filter(|(_, name)| is_source(name) && !is_known(name))
        .map(|(line, name)| page.finding(line, "address", format!("there is no `{name}`")))
        .collect()
}

/// How the page names a file: `mlxlm-core/src/nn/linear.rs` is `core/nn/linear.rs`.
fn short(path: &str) -> String {
    path.trim_start_matches("mlxlm-").replacen("/src/", "/", 1)
}

fn is_source(name: &str) -> bool {
    let endings = [".rs", ".cpp", ".h"];
    name.contains('/') && !name.contains([' ', '*']) && endings.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_gone_are_found() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let names = "`core/nn/linear.rs`, `nn/linear.rs`, `mlxlm-core/src/nn/linear.rs`, `cargo test`\n`core/gone.rs`, `gone.rs`\n";
        let page = file(PAGE, names);
        let findings = check(&[page, file("mlxlm-core/src/nn/linear.rs", "")]);
        let found: Vec<_> = findings.iter().map(|found| (found.line, found.message.as_str())).collect();
        assert_eq!(found, [(2, "there is no `core/gone.rs`")]);
    }
}
