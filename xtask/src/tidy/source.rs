//! Rules for one Rust file: its header, its length, and who may name what.

use super::code::{code, test_lines, words};
use super::{File, Finding};

const MAX_LINES: usize = 600;
/// An architecture file reads like the paper.
const MAX_ARCHITECTURE_LINES: usize = 400;

/// Files, and the hub's cache, whose links, locks and partial files are its own affair.
const FILE_LAYERS: &[&str] = &["mlxlm-core/src/io/", "mlxlm-core/src/hub/"];

/// Programs inside of library crates: `mlxlm-setup`, which is built before MLX is there.
const PROGRAMS: &[&str] = &["mlxlm-core/src/bin/", "mlxlm-core/src/setup/"];

/// Where a rule of [`NAMES`] does not hold.
enum Except {
    Nowhere,
    Core,
    /// It holds in library crates only, and neither in tests nor in examples.
    BinariesAndTests,
    /// Likewise; and these places in `mlxlm-core` are made for it: [`FILE_LAYERS`].
    FileLayersBinariesAndTests,
}

/// Words that must not stand in code: (rule, words, where they may, why).
const NAMES: &[(&str, &[&str], Except, &str)] = &[
    ("mlx", &["mlx_rs", "mlx_sys"], Except::Core, "only mlxlm-core names MLX's crates; use what it re-exports"),
    ("unsafe", &["unsafe"], Except::Core, "only mlxlm-core holds unsafe code"),
    (
        "printing",
        &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        Except::BinariesAndTests,
        "nothing below mlxlm-cli prints; return it, or take a callback",
    ),
    (
        "files",
        &["std::fs", "tokio::fs", "fs::", "File::open", "File::create", "OpenOptions"],
        Except::FileLayersBinariesAndTests,
        "files go through mlxlm_core::io, which names the path in errors and writes by rename",
    ),
    ("unfinished", &["todo!", "unimplemented!"], Except::Nowhere, "finish it, or return an error that names it"),
    ("ignored test", &["#[ignore"], Except::Nowhere, "make the test fast, or remove it"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let whole = header(file).into_iter().chain(length(file));
    whole.chain(names(file)).chain(notes(file)).collect()
}

fn header(file: &File) -> Option<Finding> {
    let message = "a file begins with `//!`: what it is, its source, and what is unusual";
    let first = file.text.lines().find(|line| !line.trim().is_empty());
    (!first.is_some_and(|line| line.starts_with("//!"))).then(|| file.finding(1, "header", message))
}

fn length(file: &File) -> Option<Finding> {
    let architecture = file.path.starts_with("mlxlm-models/src/arch/");
    let max = if architecture { MAX_ARCHITECTURE_LINES } else { MAX_LINES };
    let lines = file.text.lines().count();
    (lines > max).then(|| file.finding(lines, "length", format!("{lines} lines, at most {max}; split the file")))
}

fn names(file: &File) -> Vec<Finding> {
    let code = code(&file.text);
    let in_tests = test_lines(&code);
    let mut findings = Vec::new();
    for (line, (text, is_test)) in code.lines().zip(in_tests).enumerate() {
        // The type alone touches no file.
        let text = &text.replace("std::fs::File", "File");
        for (rule, names, except, why) in NAMES {
            let allowed = may(file, except, is_test);
            let hit = || names.iter().find(|name| words(text, name).next().is_some());
            if let Some(name) = (!allowed).then(hit).flatten() {
                findings.push(file.finding(line + 1, rule, format!("`{name}`: {why}")));
            }
        }
    }
    findings
}

fn may(file: &File, except: &Except, is_test: bool) -> bool {
    let starts = |places: &[&str]| places.iter().any(|place| file.path.starts_with(place));
    let library = file.folder().starts_with("mlxlm-") && file.folder() != "mlxlm-cli" && !starts(PROGRAMS);
    let apart = is_test || is_apart(&file.path);
    match except {
        Except::Nowhere => false,
        Except::Core => file.folder() == "mlxlm-core",
        Except::BinariesAndTests => !library || apart,
        Except::FileLayersBinariesAndTests => !library || apart || starts(FILE_LAYERS),
    }
}

/// Tests, benches and examples; a crate's build script.
fn is_apart(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs" | "build.rs"))
}

/// Comments that put something off. The words are built here, so that this file does not break its own rule.
fn notes(file: &File) -> Vec<Finding> {
    let notes = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let lines = file.text.lines().enumerate();
    lines
        .filter_map(|(line, text)| {
            let comment = &text[text.find("//")?..];
            let note = notes.iter().find(|note| words(comment, note).next().is_some())?;
            Some(file.finding(line + 1, "unfinished", format!("`{note}`: do it, or write an issue")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;

    /// What is found in a file with a header and this second line.
    #[track_caller]
    fn check(path: &str, line: &str, wanted: Option<&'static str>) {
        let found = found(path, &format!("//! Header.\n{line}\n"));
        assert_eq!(found, wanted.map(|rule| (rule, 2)).into_iter().collect::<Vec<_>>(), "{path}: {line}");
    }

    #[test]
    fn every_file_has_a_header() {
        assert_eq!(found("mlxlm-core/tests/a.rs", "fn main() {}\n"), [("header", 1)]);
        assert_eq!(found("mlxlm-core/src/a.rs", ""), [("header", 1)]);
        assert_eq!(found("mlxlm-core/src/a.rs", "\n//! Header.\n"), []);
    }

    #[test]
    fn files_are_short() {
        let lines = |count: usize| format!("//! Header.{}", "\n".repeat(count));
        assert_eq!(found("mlxlm-core/src/a.rs", &lines(600)), []);
        assert_eq!(found("mlxlm-core/src/a.rs", &lines(601)), [("length", 601)]);
        assert_eq!(found("mlxlm-models/src/arch/llama.rs", &lines(400)), []);
        assert_eq!(found("mlxlm-models/src/arch/llama.rs", &lines(401)), [("length", 401)]);
    }

    #[test]
    fn only_core_names_mlx() {
        for line in ["use mlx_rs::Array;", "mlx_sys::mlx_array_new()", "#[cfg(test)] use mlx_rs::Array;"] {
            check("mlxlm-models/src/a.rs", line, Some("mlx"));
            check("mlxlm-core/src/a.rs", line, None);
        }
        check("mlxlm-models/src/a.rs", "// mlx_rs panics here", None);
        check("mlxlm-models/src/a.rs", "let name = \"mlx_rs\";", None);
    }

    #[test]
    fn only_core_is_unsafe() {
        check("mlxlm-cache/src/a.rs", "unsafe { f() }", Some("unsafe"));
        check("xtask/src/a.rs", "unsafe { f() }", Some("unsafe"));
        check("mlxlm-core/src/a.rs", "unsafe { f() }", None);
        check("mlxlm-cache/src/a.rs", "#![deny(unsafe_code)]", None);
    }

    #[test]
    fn libraries_do_not_print() {
        for line in ["println!();", "eprintln!(\"x\");", "let x = dbg!(y);"] {
            check("mlxlm-serve/src/a.rs", line, Some("printing"));
            check("mlxlm-serve/tests/a.rs", line, None);
            check("mlxlm-serve/examples/a.rs", line, None);
            check("mlxlm-cli/src/a.rs", line, None);
            check("mlxlm-core/src/setup/mod.rs", line, None);
        }
        check("mlxlm-serve/src/a.rs", "#[cfg(test)] fn f() { println!() }", None);
    }

    #[test]
    fn libraries_use_the_io_module() {
        for line in ["std::fs::read(path)", "use std::fs;", "fs::write(path, text)", "std::fs::File::open(path)"] {
            check("mlxlm-train/src/a.rs", line, Some("files"));
            check("mlxlm-core/src/a.rs", line, Some("files"));
            check("mlxlm-core/src/io/mod.rs", line, None);
            check("mlxlm-core/src/hub/layout.rs", line, None);
            check("mlxlm-core/build.rs", line, None);
            check("mlxlm-train/src/data/tests.rs", line, None);
        }
        check("mlxlm-core/src/a.rs", "fn map(file: &std::fs::File)", None);
    }

    #[test]
    fn nothing_is_unfinished() {
        check("xtask/src/a.rs", "todo!()", Some("unfinished"));
        check("mlxlm-core/tests/a.rs", "unimplemented!()", Some("unfinished"));
        check("mlxlm-core/src/a.rs", &["// TO", "DO: later"].concat(), Some("unfinished"));
        check("mlxlm-core/src/a.rs", &["let x = 1; // FIX", "ME"].concat(), Some("unfinished"));
    }

    #[test]
    fn no_test_is_ignored() {
        check("mlxlm-core/tests/a.rs", "#[ignore]", Some("ignored test"));
        check("mlxlm-core/tests/a.rs", "#[ignore = \"slow\"]", Some("ignored test"));
        check("mlxlm-core/tests/a.rs", "#[test] #[ignore]", Some("ignored test"));
        check("mlxlm-core/src/a.rs", "table[ignore]", None);
    }
}
