//! What help shows beside the options themselves: headings, examples, the version; and the freedoms in spelling them.

use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use mlxlm_core::device;

use crate::args::Cli;

/// The release of Python mlx-lm whose commands, options and files these are.
const MLX_LM: &str = "0.32.2";

/// What `mlxlm --version` says: everything that a report of a fault needs.
pub(crate) fn version() -> String {
    let mlx = device::mlx_version().unwrap_or_else(|| "of unknown version".to_owned());
    format!(
        "mlxlm {} ({})\nMLX {mlx}, compatible with mlx-lm {MLX_LM}\n{}\n",
        env!("CARGO_PKG_VERSION"),
        env!("MLXLM_COMMIT"),
        device::description()
    )
}

/// Headings of options, by the names of their fields. What is not here, and has no heading of its own, stands under `Options`.
const HEADINGS: [(&str, &[&str]); 7] = [
    ("Model", &["model", "gguf_path", "revision", "adapter_path"]),
    (
        "Prompt",
        &[
            "system_prompt",
            "prompt",
            "prefill_response",
            "ignore_chat_template",
            "chat_template",
            "chat_template_config",
            "chat_template_args",
        ],
    ),
    (
        "Sampling",
        &[
            "temp",
            "top_p",
            "top_k",
            "min_p",
            "min_tokens_to_keep",
            "xtc_probability",
            "xtc_threshold",
            "seed",
            "extra_eos_token",
            "eos_token",
        ],
    ),
    (
        "KV cache",
        &[
            "max_kv_size",
            "kv_bits",
            "kv_group_size",
            "quantized_kv_start",
            "prefill_step_size",
            "prompt_cache_file",
            "prompt_cache_size",
            "prompt_cache_bytes",
        ],
    ),
    ("Speculation", &["draft_model", "num_draft_tokens"]),
    ("Output", &["verbose", "max_tokens", "json", "mlx_path", "upload_repo", "log_level"]),
    (
        "For compatibility with mlx-lm",
        &["trust_remote_code", "use_default_chat_template", "quantize_activations", "image", "pipeline"],
    ),
];

/// Two examples of each command, with what they do.
const EXAMPLES: [(&str, [(&str, &str); 2]); 12] = [
    (
        "generate",
        [
            ("mlxlm generate --model demo --prompt \"Once upon a time\"", "a story by the built-in model"),
            (
                "mlxlm generate --model mlx-community/Qwen3-0.6B-4bit -p - < question.txt",
                "a model of the hub, the prompt from a file",
            ),
        ],
    ),
    (
        "chat",
        [
            ("mlxlm chat --model mlx-community/Qwen3-0.6B-4bit", "a conversation; `/help` lists its commands"),
            ("mlxlm chat --model demo --temp 0.7 --system-prompt \"Be brief.\"", "less predictable, with a role"),
        ],
    ),
    ("check", [("mlxlm check mlx_model", "a folder"), ("mlxlm check demo --json", "for programs")]),
    (
        "convert",
        [
            ("mlxlm convert --model Qwen/Qwen3-0.6B -q --mlx-path qwen3-4bit", "4 bits in groups of 64"),
            ("mlxlm convert --model qwen3-4bit -d --dtype bfloat16 --mlx-path qwen3-bf16", "and back"),
        ],
    ),
    (
        "cache_prompt",
        [
            (
                "mlxlm cache_prompt --model mlx_model --prompt - --prompt-cache-file book.safetensors < book.txt",
                "read a book once",
            ),
            ("mlxlm generate --prompt-cache-file book.safetensors -p \"Who is the thief?\"", "and ask about it"),
        ],
    ),
    (
        "benchmark",
        [
            ("mlxlm benchmark --model mlx_model -p 512 -g 128", "reading 512 tokens, then writing 128"),
            ("mlxlm benchmark --bandwidth", "how fast memory is read, which bounds writing"),
        ],
    ),
    (
        "server",
        [
            ("mlxlm server --model mlx-community/Qwen3-0.6B-4bit", "for programs on this machine, at port 8080"),
            ("mlxlm server --model mlx_model --host 0.0.0.0 --api-key-file keys.txt", "for others too"),
        ],
    ),
    (
        "manage",
        [
            ("mlxlm manage --scan --pattern Qwen", "models in the cache whose name contains Qwen"),
            ("mlxlm manage --delete --pattern Qwen3-0.6B", "delete them, after asking"),
        ],
    ),
    (
        "models",
        [
            ("mlxlm models", "every model type that can be loaded"),
            ("mlxlm models --config config.json", "parameters and memory of a model without its weights"),
        ],
    ),
    ("list", [("mlxlm list", "what is on disk"), ("mlxlm list --json", "for programs")]),
    (
        "show",
        [
            ("mlxlm show demo", "a model that is built in"),
            ("mlxlm show mlx-community/Qwen3-0.6B-4bit", "a model of the cache"),
        ],
    ),
    (
        "completions",
        [
            ("mlxlm completions bash > ~/.local/share/bash-completion/completions/mlxlm", "for bash"),
            ("mlxlm completions zsh > \"${fpath[1]}/_mlxlm\"", "for zsh"),
        ],
    ),
];

/// The commands and options as help, completions and manual pages show them.
pub(crate) fn command() -> Command {
    Cli::command().mut_args(|arg| arg.help_heading("Machine").display_order(900)).mut_subcommands(|command| {
        let examples = EXAMPLES.iter().find(|(name, _)| *name == command.get_name());
        let command = command.mut_args(headed);
        match examples {
            Some((_, examples)) => {
                let lines = examples.map(|(line, what)| format!("  {line}\n      {what}"));
                command.after_help(format!("Examples:\n{}", lines.join("\n")))
            }
            None => command,
        }
    })
}

/// The same with everything that is parsed: underscores, older names, negative numbers.
pub(crate) fn spelled_freely() -> Command {
    command().mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command.args_override_self(true).mut_args(|arg| spelled(&name, arg))
    })
}

fn headed(arg: Arg) -> Arg {
    let heading = HEADINGS.iter().find(|(_, ids)| ids.contains(&arg.get_id().as_str()));
    match heading.filter(|_| arg.get_help_heading().is_none() && !arg.is_positional()) {
        Some((heading, _)) => arg.help_heading(*heading),
        None => arg,
    }
}

/// Names that options had in earlier releases of mlx-lm or in its documents: command, today's name, older names.
const OLDER: [(&str, &str, &[&str]); 5] = [
    ("convert", "q-bits", &["quantize-bits"]),
    ("convert", "q-group-size", &["quantize-group-size"]),
    ("generate", "extra-eos-token", &["eos-token"]),
    ("cache_prompt", "prompt-cache-file", &["save-prompt-cache"]),
    ("lora", "num-layers", &["lora-layers"]),
];

/// Lets `_` stand for `-`, older names for today's, and negative numbers be values.
fn spelled(command: &str, arg: Arg) -> Arg {
    let takes_value = arg.get_action().takes_values();
    let older = OLDER.iter().find(|(of, name, _)| *of == command && Some(*name) == arg.get_long());
    let older = older.map_or(&[][..], |(_, _, older)| *older);
    let underscored = [arg.get_long()]
        .into_iter()
        .chain(arg.get_all_aliases().into_iter().flatten().map(Some))
        .flatten()
        .chain(older.iter().copied())
        .filter(|name| name.contains('-'))
        .map(|name| name.replace('-', "_"));
    let aliases: Vec<String> = underscored.chain(older.iter().map(|name| (*name).to_owned())).collect();
    arg.aliases(aliases).allow_negative_numbers(takes_value)
}

/// The command that a program of mlx-lm is, by the name under which this one was called: `generate` for `/usr/bin/mlx_lm.generate`.
pub(crate) fn command_of_name(program: &Path) -> Option<&str> {
    program.file_name()?.to_str()?.strip_prefix("mlx_lm.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_tables_exists() {
        let command = command();
        let ids: Vec<&str> = command
            .get_subcommands()
            .flat_map(|command| command.get_arguments())
            .map(|arg| arg.get_id().as_str())
            .collect();
        for (heading, names) in HEADINGS {
            assert!(names.iter().all(|name| ids.contains(name)), "{heading}");
        }
        for (name, examples) in EXAMPLES {
            assert!(command.find_subcommand(name).is_some(), "{name}");
            assert!(examples.iter().all(|(line, _)| line.starts_with("mlxlm ")), "{name}");
        }
    }

    #[test]
    fn examples_parse() {
        for (_, examples) in EXAMPLES {
            for (line, _) in examples {
                let line = line.split([' ']).take_while(|word| !word.starts_with(['<', '>']));
                let mut words: Vec<String> = Vec::new();
                for word in line {
                    match words.last_mut().filter(|last| last.matches('"').count() == 1) {
                        Some(open) => *open += word,
                        None => words.push(word.to_owned()),
                    }
                }
                spelled_freely().try_get_matches_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            }
        }
    }

    #[test]
    fn programs_of_mlx_lm_are_known_by_their_name() {
        assert_eq!(command_of_name(Path::new("/usr/bin/mlx_lm.generate")), Some("generate"));
        assert_eq!(command_of_name(Path::new("mlxlm")), None);
    }
}
