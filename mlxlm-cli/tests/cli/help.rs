//! What the commands and options are called.

use crate::bench::Bench;

const COMMANDS: [&str; 24] = [
    "generate",
    "chat",
    "check",
    "convert",
    "quantize",
    "awq",
    "gptq",
    "dwq",
    "dynamic_quant",
    "upload",
    "merge",
    "perplexity",
    "evaluate",
    "adapter",
    "lora",
    "fuse",
    "cache_prompt",
    "benchmark",
    "server",
    "manage",
    "models",
    "list",
    "show",
    "completions",
];

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
fn the_version_says_all_that_a_report_needs() {
    for option in ["--version", "-V"] {
        let version = Bench::empty().run(&[option]).ok();
        let lines: Vec<&str> = version.lines().collect();
        assert!(lines[0].starts_with(concat!("mlxlm ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
        assert!(lines[1].starts_with("MLX 0.") && lines[1].ends_with(", compatible with mlx-lm 0.32.2"), "{version}");
        assert!(lines[2].contains("kernels"), "{version}");
    }
}

#[test]
fn every_command_has_headings_and_two_examples_that_fit_eighty_columns() {
    let bench = Bench::empty();
    for command in COMMANDS {
        let help = bench.run(&[command, "--help"]).ok();
        let (options, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{command}: {help}"));
        assert_eq!(examples.matches("\n    mlxlm ").count(), 2, "{command}: {examples}");
        assert!(options.contains("\nMachine:\n"), "{command}");
        assert_eq!(bench.run(&["help", command]).ok(), help, "{command}");
        let mut narrow = bench.command();
        let shown =
            crate::bench::Ran::from(narrow.args([command, "--help"]).env("COLUMNS", "80").output().unwrap()).ok();
        let options = shown.split("\nExamples:\n").next().unwrap();
        let long: Vec<&str> =
            options.lines().filter(|line| !line.starts_with("Usage: ") && line.chars().count() > 80).collect();
        assert_eq!(long, [""; 0], "{command}");
    }
}

#[test]
fn the_program_alone_prints_its_help() {
    let bench = Bench::empty();
    assert_eq!(bench.run::<&str>(&[]).ok(), bench.run(&["--help"]).ok());
}

/// A link named like a program of Python mlx-lm is that program.
#[cfg(unix)]
#[test]
fn programs_of_mlx_lm_can_be_links() {
    let bench = Bench::new();
    let program = bench.path("mlx_lm.generate");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mlxlm"), &program).unwrap();
    let mut command = std::process::Command::new(program);
    command.current_dir(bench.path("")).env("HOME", bench.path("home")).env("HF_HUB_OFFLINE", "1");
    command.args(["--model", "tiny", "--verbose", "False", "--prompt", "hello", "--max-tokens", "5"]);
    let ran = crate::bench::Ran::from(command.output().unwrap());
    assert_eq!(ran.ok(), bench.text(&["-p", "hello", "-m", "5"]));
}

#[test]
fn the_command_of_mlx_lm_that_is_missing_is_named() {
    let ran = Bench::empty().run(&["share", "--path", "x"]);
    let (message, hint) = ran.refused(2);
    assert_eq!(message, "`mlxlm share` is not supported");
    assert!(hint.contains("mlxlm upload"), "{hint}");
}

#[test]
fn every_command_has_a_manual_page() {
    let bench = Bench::empty();
    assert_eq!(bench.run(&["man", "pages"]).ok(), "");
    for name in COMMANDS.map(|command| format!("mlxlm-{command}")).iter().map(String::as_str).chain(["mlxlm"]) {
        let page = std::fs::read_to_string(bench.path(format!("pages/{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn models_are_listed_and_shown() {
    let bench = Bench::new();
    let list = bench.run(&["list"]).ok();
    assert!(list.lines().any(|line| line.starts_with("demo ") && line.contains("built in")), "{list}");
    assert_eq!(bench.run(&["list", "--names"]).ok(), "demo\ndemo-draft\n");
    let shown = bench.run(&["show", "tiny"]).ok();
    for line in ["model type     llama", "context        512 tokens", "chat template  yes"] {
        assert!(shown.contains(line), "{shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&bench.run(&["show", "tiny", "--json"]).ok()).unwrap();
    assert_eq!(json["bits_per_weight"].as_f64().unwrap().round(), 32.0);
    assert_eq!(json["context_length"], 512);
    assert!(json["memory_bytes"]["512"].as_u64().unwrap() > json["weight_bytes"].as_u64().unwrap());
}

/// What bash makes of `mlxlm generate --model de`.
#[cfg(target_os = "linux")]
#[test]
fn models_are_completed_by_name() {
    let bench = Bench::empty();
    std::fs::write(bench.path("mlxlm.bash"), bench.run(&["completions", "bash"]).ok()).unwrap();
    let script = "source mlxlm.bash; COMP_WORDS=(mlxlm generate --model de); COMP_CWORD=3; \
                  _mlxlm mlxlm de --model; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_mlxlm")).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script]).current_dir(bench.path("")).env("HOME", bench.path("home")).env("PATH", path);
    let ran = crate::bench::Ran::from(command.output().unwrap());
    assert_eq!(ran.stdout, "demo\ndemo-draft\n", "{ran:?}");
    for shell in ["zsh", "fish"] {
        assert!(bench.run(&["completions", shell]).ok().contains("mlxlm list --names"), "{shell}");
    }
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
        assert!(
            list.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').any(|word| word == *name),
            "{name}: {list}"
        );
    }
}

/// `mlxlm … | head -c 1`: the reader goes away, which is no error.
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
