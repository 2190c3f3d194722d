//! What the commands and options are called.

use crate::bench::Bench;

const COMMANDS: [&str; 8] =
    ["generate", "chat", "convert", "cache_prompt", "benchmark", "manage", "models", "completions"];

#[test]
fn help_lists_the_commands() {
    let bench = Bench::empty();
    let help = bench.run(&["--help"]).ok();
    assert!(COMMANDS.iter().all(|command| help.contains(&format!("\n  {command} "))), "{help}");
    insta::assert_snapshot!("help", help);
}

#[test]
fn each_command_lists_its_options() {
    let bench = Bench::empty();
    for command in COMMANDS {
        insta::assert_snapshot!(format!("help_{command}"), bench.run(&[command, "--help"]).ok());
    }
}

#[test]
fn the_version_is_that_of_the_crate() {
    assert_eq!(Bench::empty().run(&["--version"]).ok(), concat!("mlxlm ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn each_shell_gets_completions_of_all_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Bench::empty().run(&["completions", shell]).ok();
        for word in COMMANDS.iter().chain(&["prompt-cache-file", "q-group-size"]) {
            assert!(script.contains(word), "{shell} knows nothing of {word}");
        }
    }
}

#[test]
fn models_lists_every_architecture_with_its_aliases() {
    let list = Bench::empty().run(&["models"]).ok();
    assert_eq!(list.lines().count(), mlxlm_models::arch::ARCHITECTURES.len());
    for name in mlxlm_models::arch::ARCHITECTURES.iter().flat_map(|arch| arch.names) {
        assert!(list.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *name), "{name}: {list}");
    }
}

/// `mlxlm … | head -c 1`: the reader goes away, and nobody is told.
#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;
    let bench = Bench::empty();
    for args in [&["completions", "bash"][..], &["--help"], &["models"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = bench.command().args(args).stdout(Stdio::from(writer)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}

/// The same with standard error: a complaint that nobody reads must not become a panic.
#[cfg(unix)]
#[test]
fn a_closed_standard_error_changes_no_exit_code() {
    use std::process::Stdio;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let bench = Bench::empty();
    let output = bench.command().args(["generate", "--max-tokens", "0"]).stderr(Stdio::from(writer)).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
