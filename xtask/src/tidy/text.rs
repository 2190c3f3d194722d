//! Rules for every file: nothing of the machine it was written on.
//!
//! Unusual:
//! - what is looked for is put together at run time, so that this file does not break its own rules;
//! - examples and tests that need somebody's home write that of `ada`, who is nobody.

use super::code::words;
use super::{File, Finding};

const NOBODY: &str = "ada";

pub(super) fn check(file: &File) -> Vec<Finding> {
    let folders = ["home", "root", "work", "Users"].map(|folder| format!("/{folder}/"));
    let hosts = [["pypi", "org"], ["pythonhosted", "org"], ["index.crates", "io"], ["static.crates", "io"]];
    let hosts = hosts.map(|host| host.join("."));
    let mut findings = Vec::new();
    for (line, text) in file.text.lines().enumerate() {
        if let Some(folder) = folders.iter().find(|folder| is_absolute(text, folder)) {
            let message = format!("`{folder}…` is a path of some machine; make it relative");
            findings.push(file.finding(line + 1, "machine path", message));
        }
        let host = hosts.iter().find(|host| text.contains(host.as_str()));
        if let Some(host) = host.map(String::as_str).or_else(|| mirror(file, text)) {
            let message = format!("`{host}`: where packages come from is each machine's own affair");
            findings.push(file.finding(line + 1, "registry", message));
        }
    }
    findings
}

/// Whether `folder` stands at the root and not below another folder or host.
fn is_absolute(text: &str, folder: &str) -> bool {
    text.match_indices(folder).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let below = before.is_some_and(|c| c.is_alphanumeric() || "._-~>}*)/".contains(c));
        !below && words(&text[at + folder.len()..], NOBODY).next() != Some(0)
    })
}

/// In the lock file every package comes from the registry itself or from here.
fn mirror<'a>(file: &File, text: &'a str) -> Option<&'a str> {
    let source = text.strip_prefix("source = \"").filter(|_| file.path.ends_with("Cargo.lock"))?;
    let canonical = ["registry+https://github.com/rust-lang/", "crates.io-index\""].concat();
    (source != canonical).then(|| source.trim_end_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;

    #[track_caller]
    fn check(path: &str, text: &str, wanted: &[(&'static str, usize)]) {
        assert_eq!(found(path, text), wanted, "{text}");
    }

    #[test]
    fn paths_of_machines_are_found() {
        for folder in ["home", "root", "work", "Users"] {
            check("README.md", &format!("one\nsee /{folder}/someone/x\n"), &[("machine path", 2)]);
            check("README.md", &format!("see target/{folder}/x and <dir>/{folder}/x\n"), &[]);
            check("README.md", &format!("/{folder}/ada/models, but not\n/{folder}/adam\n"), &[("machine path", 2)]);
        }
    }

    #[test]
    fn hosts_of_registries_are_found() {
        check("a.toml", &["url = \"https://py", "pi.org/simple\""].concat(), &[("registry", 1)]);
        check("README.md", "https://crates.io/crates/mlxlm\n", &[]);
    }

    #[test]
    fn the_lock_file_names_no_mirror() {
        let canonical = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        check("Cargo.lock", canonical, &[]);
        check("Cargo.lock", "source = \"registry+https://mirror.example/\"\n", &[("registry", 1)]);
    }
}
