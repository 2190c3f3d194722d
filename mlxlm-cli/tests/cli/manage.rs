//! `manage`, on a cache of the Hugging Face layout.

use std::path::PathBuf;

use crate::bench::{Bench, Ran};

const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// A cache with these repositories of one file each; where each lies.
fn cache(bench: &Bench, repos: &[&str]) -> Vec<PathBuf> {
    let folder = |repo: &&str| {
        let folder = bench.path("home/hf/hub").join(format!("models--{}", repo.replace('/', "--")));
        let snapshot = folder.join("snapshots").join(COMMIT);
        for (path, contents) in [(folder.join("refs/main"), COMMIT), (snapshot.join("config.json"), "{\"a\": 1}")] {
            mlxlm_core::io::create_dir_all(path.parent().unwrap()).unwrap();
            mlxlm_core::io::write(path, contents).unwrap();
        }
        folder
    };
    repos.iter().map(folder).collect()
}

fn manage(bench: &Bench, options: &[&str], stdin: &str) -> Ran {
    let mut command = bench.command();
    command.env("HF_HOME", bench.path("home/hf")).arg("manage").args(options);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    drop(std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()));
    Ran::from(child.wait_with_output().unwrap())
}

#[test]
fn scan_lists_what_the_pattern_finds() {
    let bench = Bench::empty();
    let folders = cache(&bench, &["mlx-community/one", "org/two"]);
    let shown = manage(&bench, &["--scan"], "").ok();
    assert!(shown.starts_with("Scanning Hugging Face cache for models with pattern \"mlx\".\nREPO ID"), "{shown}");
    assert!(shown.contains("mlx-community/one model") && !shown.contains("org/two"), "{shown}");
    assert!(shown.contains(folders[0].to_str().unwrap()), "{shown}");
    let all = manage(&bench, &["--scan", "--pattern", "o"], "").ok();
    assert!(all.contains("mlx-community/one") && all.contains("org/two"), "{all}");
}

#[test]
fn names_of_folders_are_shown_with_care() {
    let bench = Bench::empty();
    cache(&bench, &["org/\x1b[31mred\x07"]);
    for shown in
        [manage(&bench, &["--scan", "--pattern", ""], ""), manage(&bench, &["--delete", "--pattern", "\x1b"], "y\n")]
    {
        let shown = shown.ok();
        assert!(shown.contains(r"org/\u{1b}[31mred\u{7}") && !shown.contains('\x1b'), "{shown}");
    }
}

#[test]
fn a_cache_that_is_not_there_is_empty() {
    let shown = manage(&Bench::empty(), &["--scan"], "").ok();
    assert_eq!(shown.lines().last(), Some("No models found matching pattern \"mlx\""), "{shown}");
}

#[test]
fn delete_asks_first() {
    let bench = Bench::empty();
    let folders = cache(&bench, &["mlx-community/one", "org/two"]);
    for no in ["n\n", "no\n", "\n", "", "maybe\n0\n"] {
        let shown = manage(&bench, &["--delete"], no).ok();
        assert!(shown.contains("Are you sure you want to delete these models? (y/n) "), "{shown}");
        assert!(shown.ends_with("\nDeletion cancelled - no changes made.\n"), "{shown}");
        assert_eq!(shown.contains("Invalid input"), no.starts_with("maybe"));
        assert!(folders[0].is_dir());
    }
    let shown = manage(&bench, &["--delete"], "YES\n").ok();
    assert!(
        shown.contains("Deleting mlx-community/one...") && shown.ends_with("Model(s) deleted successfully.\n"),
        "{shown}"
    );
    assert!(!folders[0].exists() && folders[1].is_dir());
}

#[test]
fn nothing_to_delete_is_said() {
    let shown = manage(&Bench::empty(), &["--delete", "--pattern", "x"], "").ok();
    assert_eq!(shown, "Deleting models matching pattern \"x\"\nNo models found matching pattern \"x\"\n");
}

#[test]
fn one_of_both_must_be_asked_for() {
    assert_eq!(manage(&Bench::empty(), &[], "").refused(2).0, "`manage` needs `--scan` or `--delete`");
}
