//! `cargo xtask tidy`: the rules of this repository that neither the compiler nor clippy knows.
//!
//! - [`source`]: rules for one Rust file, on what [`code`] leaves of it;
//! - [`manifest`]: rules for a crate's `Cargo.toml`, the layers among them;
//! - [`features`]: a crate compiles alone;
//! - [`text`]: rules for every file;
//! - [`addresses`]: the files that ARCHITECTURE.md names are there;
//! - [`table`]: the page of architectures and the list in README.md are current.
//!
//! A rule is a function from a [`File`] to [`Finding`]s. `cargo xtask test` runs them all.

mod addresses;
mod code;
mod features;
mod manifest;
mod source;
mod table;
mod text;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{self, GIT};
use crate::workspace;

/// Check the rules that neither the compiler nor clippy knows: headers, lengths, layers
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// First write the list of model types in README.md anew, from docs/architectures.md
    #[arg(long)]
    write: bool,
}

/// A file of the repository.
#[derive(Debug)]
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

impl File {
    fn finding(&self, line: usize, rule: &'static str, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, rule, message: message.into() }
    }

    /// The crate's folder, if the file lies in a top-level folder at all.
    fn folder(&self) -> &str {
        self.path.split_once('/').map_or("", |(folder, _)| folder)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.write {
        let root = workspace::root();
        let files = files(&root)?;
        if let Some((path, text)) = table::new_readme(&files) {
            std::fs::write(root.join(path), text).with_context(|| format!("cannot write `{path}`"))?;
        }
    }
    check()?;
    eprintln!("tidy: all rules hold");
    Ok(())
}

/// Prints every finding; an error if there is one.
pub(crate) fn check() -> Result<()> {
    let files = files(&workspace::root())?;
    let mut findings: Vec<_> = files.iter().flat_map(findings).chain(table::check(&files)).collect();
    findings.extend(features::check(&files));
    findings.extend(addresses::check(&files));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} places break the rules above"),
    }
}

fn findings(file: &File) -> Vec<Finding> {
    let mut findings = text::check(file);
    if file.path.ends_with("/Cargo.toml") {
        findings.extend(manifest::check(file));
    }
    if Path::new(&file.path).extension().is_some_and(|extension| extension == "rs") {
        findings.extend(source::check(file));
    }
    findings
}

/// All text files that git knows or would take.
fn files(root: &Path) -> Result<Vec<File>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let list = process::succeed(&mut git, GIT)?;
    let mut files = Vec::new();
    for path in list.split_terminator('\0') {
        let full = root.join(path);
        // Deleted but not yet committed, or a link.
        if !full.symlink_metadata().is_ok_and(|file| file.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&full).with_context(|| format!("cannot read `{path}`"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules and lines found in a file with this path and text.
    pub(super) fn found(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        findings(&file).into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn a_finding_reads_like_a_compiler_message() {
        let file = File { path: "mlxlm-core/src/a.rs".into(), text: String::new() };
        let shown = file.finding(3, "length", "too long").to_string();
        assert_eq!(shown, "mlxlm-core/src/a.rs:3: length: too long");
    }

    #[test]
    fn files_are_those_of_git() {
        let files = files(&workspace::root()).unwrap();
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy.rs"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")));
    }
}
