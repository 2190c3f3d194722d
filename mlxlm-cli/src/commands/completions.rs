//! `completions`: a script for a shell, which also completes `--model` to the models on this machine.

use clap_complete::Shell;

use crate::failure::Result;
use crate::{help, output};

/// What lists the names of models.
const NAMES: &str = "mlxlm list --names 2>/dev/null";

/// The script is made in memory, because its maker panics where the reader has gone.
pub(super) fn run(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut help::command(), "mlxlm", &mut script);
    output::print(format_args!("{}", with_models(shell, &String::from_utf8_lossy(&script))))
}

/// The script with names of models after `--model` and `--draft-model`.
fn with_models(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Bash => {
            let files = "COMPREPLY=($(compgen -f \"${cur}\"))";
            let names = format!("COMPREPLY=($(compgen -W \"$({NAMES})\" -- \"${{cur}}\") $(compgen -f \"${{cur}}\"))");
            let option = |name: &str| format!("                --{name})\n                    {files}");
            let with = |name: &str| option(name).replace(files, &names);
            ["model", "draft-model"]
                .iter()
                .fold(script.to_owned(), |script, name| script.replace(&option(name), &with(name)))
        }
        Shell::Zsh => {
            let function = format!(
                "_mlxlm_models() {{\n    local -a names\n    names=(${{(f)\"$({NAMES})\"}})\n    compadd -a names\n    _files\n}}\n\n"
            );
            let script = script
                .replace(":MODEL:_default", ":MODEL:_mlxlm_models")
                .replace(":DRAFT_MODEL:_default", ":DRAFT_MODEL:_mlxlm_models");
            match script.find("_mlxlm() {") {
                Some(place) => format!("{}{function}{}", &script[..place], &script[place..]),
                None => script,
            }
        }
        Shell::Fish => script
            .lines()
            .map(|line| match line.contains(" -l model ") || line.contains(" -l draft-model ") {
                true => format!("{line} -a '({NAMES})'\n"),
                false => format!("{line}\n"),
            })
            .collect(),
        _ => script.to_owned(),
    }
}
