//! What help shows beside the options themselves: headings, examples, the version; and the freedoms in spelling them.

use std::any::TypeId;
use std::num::{NonZeroI32, NonZeroU64, NonZeroUsize};
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use mlxlm_core::device;

use crate::args::{CONVERTED_MODEL, Cli, DEFAULT_MODEL};

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

/// Headings of options, in the order in which help shows them. An entry is the name of a field, or `command.field` where commands differ.
/// What is not here stands under `Options`.
const HEADINGS: [(&str, &[&str]); 20] = [
    (
        "Model",
        &[
            "model",
            "models",
            "base",
            "base_model",
            "quantized_model",
            "gguf_path",
            "revision",
            "adapter_path",
            "model_dir",
            "served_model_name",
            "adapter_dir",
            "allow_download",
            "memory_budget",
            "ttl",
            "against",
        ],
    ),
    (
        "Prompt",
        &[
            "prompt",
            "system_prompt",
            "prefill_response",
            "chat_template",
            "chat_template_config",
            "chat_template_args",
            "ignore_chat_template",
            "apply_chat_template",
            "no_apply_chat_template",
            "fewshot_as_multiturn",
        ],
    ),
    (
        "Data",
        &[
            "data",
            "mask_prompt",
            "max_seq_length",
            "packing",
            "perplexity.data_path",
            "perplexity.seed",
            "perplexity.num_samples",
            "perplexity.sequence_length",
            "split",
            "tasks",
            "num_shots",
            "limit",
        ],
    ),
    (
        "Calibration",
        &[
            "data_path",
            "num_samples",
            "sequence_length",
            "dwq.max_seq_length",
            "quantize.seed",
            "gptq.seed",
            "awq.seed",
            "dwq.seed",
            "dynamic_quant.seed",
            "measure_samples",
            "sensitivities",
            "target_dir",
            "targets_only",
        ],
    ),
    (
        "Quantization",
        &[
            "quantize",
            "dequantize",
            "q_bits",
            "q_group_size",
            "q_mode",
            "quant_predicate",
            "dtype",
            "target_bpw",
            "target_bytes",
            "max_kl",
            "bits",
            "group_size",
            "low_bits",
            "low_group_size",
            "high_bits",
            "high_group_size",
            "fallback_bits",
            "fallback_group_size",
            "embed_bits",
            "embed_group_size",
            "n_grid",
            "accumulation_dtype",
            "plain",
        ],
    ),
    ("Merge", &["method", "weights", "density", "t", "no_normalize", "merge.seed"]),
    ("Adapter", &["num_layers", "rank", "scale", "dropout", "keys", "rslora", "lora_plus_ratio"]),
    (
        "Training",
        &[
            "train",
            "fine_tune_type",
            "objective",
            "beta",
            "optimizer",
            "learning_rate",
            "iters",
            "epochs",
            "lora.batch_size",
            "dwq.batch_size",
            "quantize.batch_size",
            "grad_accumulation_steps",
            "max_grad_norm",
            "lora.grad_checkpoint",
            "clear_cache_threshold",
            "resume",
            "resume_adapter_file",
            "lora.seed",
        ],
    ),
    ("Evaluation", &["val_batches", "steps_per_eval", "test", "test_batches", "report_ppl"]),
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
            "kv_rotate",
            "gdn_state_bf16",
            "prefill_step_size",
            "prompt_cache_file",
            "prompt_cache_size",
            "prompt_cache_bytes",
            "context_tokens",
        ],
    ),
    ("Prompt cache on disk", &["disk_prompt_cache_dir", "disk_prompt_cache_bytes", "disk_prompt_cache_min_tokens"]),
    (
        "SnapKV",
        &[
            "snapkv",
            "snapkv_top_k",
            "snapkv_sink",
            "snapkv_window",
            "snapkv_queries",
            "snapkv_pool",
            "snapkv_min_tokens",
            "snapkv_while_reading",
        ],
    ),
    ("Speculation", &["draft_model", "num_draft_tokens", "prompt_lookup_num_tokens", "mtp", "auto_speculative"]),
    ("Format of the answer", &["json_schema", "json_object", "regex", "grammar", "choice"]),
    ("Many prompts", &["prompts", "output", "generate.batch_size"]),
    (
        "Output",
        &[
            "max_tokens",
            "verbose",
            "json",
            "mlx_path",
            "save_path",
            "to",
            "output_dir",
            "log_samples",
            "upload_repo",
            "export_gguf",
            "fuse.gguf_path",
            "gguf_type",
            "lora.adapter_path",
            "save_every",
            "steps_per_report",
            "report_to",
            "checkpoint",
        ],
    ),
    (
        "HTTP",
        &[
            "host",
            "port",
            "api_key",
            "api_key_file",
            "tls_cert",
            "tls_key",
            "allowed_origins",
            "allowed_hosts",
            "no_page",
            "require_model",
            "images",
            "log_level",
            "log_format",
        ],
    ),
    ("Limits", &["decode_concurrency", "prompt_concurrency", "queue_size", "request_timeout", "max_body_bytes"]),
    (
        "Compatibility with mlx-lm",
        &[
            "trust_remote_code",
            "use_default_chat_template",
            "quantize_activations",
            "image",
            "pipeline",
            "grad_checkpoint",
            "project_name",
            "confirm_run_unsafe_code",
        ],
    ),
];

/// The commands as the first help lists them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Run models", &["generate", "chat", "server", "cache_prompt"]),
    ("Convert and quantize", &["convert", "quantize", "gptq", "awq", "dwq", "dynamic_quant", "upload"]),
    ("Fine-tune and merge", &["lora", "fuse", "adapter", "merge"]),
    ("Measure", &["perplexity", "evaluate", "benchmark", "check"]),
    ("Manage", &["list", "show", "models", "manage", "completions"]),
];

/// Two examples of each command, with what they do.
const EXAMPLES: [(&str, [(&str, &str); 2]); 24] = [
    (
        "generate",
        [
            ("mlxlm generate --model demo --prompt \"Once upon a time\"", "Use the built-in model"),
            (
                "mlxlm generate --model mlx-community/Qwen3-0.6B-4bit -p - < question.txt",
                "Use a model of the hub, and a prompt from a file",
            ),
        ],
    ),
    (
        "chat",
        [
            (
                "mlxlm chat --model mlx-community/Qwen3-0.6B-4bit",
                "Start a conversation; `/help` lists the commands in it",
            ),
            ("mlxlm chat --model demo --temp 0.7 --system-prompt \"Be brief.\"", "Sample, with a system prompt"),
        ],
    ),
    (
        "check",
        [
            ("mlxlm check mlx_model", "Check a model folder"),
            ("mlxlm check mlx-community/Qwen3-0.6B-4bit --json", "Check a model of the hub, and print JSON"),
        ],
    ),
    (
        "convert",
        [
            ("mlxlm convert --model Qwen/Qwen3-0.6B -q --mlx-path qwen3-4bit", "Quantize to 4 bits in groups of 64"),
            ("mlxlm convert --model qwen3-4bit -d --dtype bfloat16 --mlx-path qwen3-bf16", "Dequantize to bfloat16"),
        ],
    ),
    (
        "quantize",
        [
            ("mlxlm quantize --model Qwen/Qwen3-0.6B --target-bpw 4", "Find the best model of 4 bits per weight"),
            ("mlxlm quantize --model Qwen/Qwen3-0.6B --target-bytes 300M", "Find the best model of 300 MB"),
        ],
    ),
    (
        "gptq",
        [
            ("mlxlm gptq --model Qwen/Qwen3-0.6B --bits 3 --mlx-path qwen3-3bit", "Quantize to 3 bits"),
            ("mlxlm gptq --model Qwen/Qwen3-0.6B --data-path code.jsonl", "Calibrate with your own data"),
        ],
    ),
    (
        "awq",
        [
            ("mlxlm awq --model Qwen/Qwen3-0.6B --mlx-path qwen3-awq", "Quantize to 4 bits"),
            ("mlxlm awq --model Qwen/Qwen3-0.6B --bits 3 --num-samples 32", "Quantize to 3 bits with fewer samples"),
        ],
    ),
    (
        "dwq",
        [
            ("mlxlm dwq --model Qwen/Qwen3-0.6B --mlx-path qwen3-dwq", "Quantize to 4 bits and train the scales"),
            (
                "mlxlm dwq --model Qwen/Qwen3-0.6B --quantized-model qwen3-4bit",
                "Improve a model that is already quantized",
            ),
        ],
    ),
    (
        "dynamic_quant",
        [
            ("mlxlm dynamic_quant --model Qwen/Qwen3-0.6B --target-bpw 4.5", "Mix 4 and 5 bits"),
            (
                "mlxlm dynamic_quant --model Qwen/Qwen3-0.6B --low-bits 3 --high-bits 6 --target-bpw 4",
                "Mix 3 and 6 bits",
            ),
        ],
    ),
    (
        "upload",
        [
            ("mlxlm upload --path mlx_model --upload-repo me/qwen3-4bit", "Upload a folder; needs `HF_TOKEN`"),
            ("mlxlm upload --upload-repo me/my-model", "Upload the folder `mlx_model`"),
        ],
    ),
    (
        "lora",
        [
            (
                "mlxlm lora --model mlx-community/Qwen3-0.6B-4bit --train --data my_data --iters 600",
                "Train a LoRA adapter on `my_data/train.jsonl`",
            ),
            ("mlxlm lora --config lora.yaml --resume", "Resume a training with its settings in a file"),
        ],
    ),
    (
        "fuse",
        [
            (
                "mlxlm fuse --model mlx-community/Qwen3-0.6B-4bit --adapter-path adapters",
                "Write the folder `fused_model`",
            ),
            ("mlxlm fuse --model mlx_model --dequantize --export-gguf --gguf-type q8_0", "Also write a GGUF file"),
        ],
    ),
    (
        "adapter",
        [
            (
                "mlxlm adapter --adapter-path adapters --save-path peft --to peft --base-model Qwen/Qwen3-0.6B",
                "Convert an adapter for PEFT",
            ),
            ("mlxlm adapter --adapter-path peft --save-path adapters --to mlx", "Convert an adapter of PEFT"),
        ],
    ),
    (
        "merge",
        [
            ("mlxlm merge --models model_a model_b --t 0.3", "Interpolate two models with slerp"),
            (
                "mlxlm merge --models tuned_a tuned_b --base original --method ties --density 0.5",
                "Merge two fine-tunes with TIES",
            ),
        ],
    ),
    (
        "perplexity",
        [
            ("mlxlm perplexity --model mlx_model --data-path book.txt", "Measure the perplexity of a text"),
            (
                "mlxlm perplexity --model qwen3-4bit --against Qwen/Qwen3-0.6B --data-path book.txt",
                "Compare a quantized model with the original",
            ),
        ],
    ),
    (
        "evaluate",
        [
            ("mlxlm evaluate --model mlx_model --tasks arc_easy.yaml", "Run one task"),
            (
                "mlxlm evaluate --model mlx_model --tasks a.yaml b.yaml --limit 100 --log-samples",
                "Run two tasks with 100 questions each, and keep the answers",
            ),
        ],
    ),
    (
        "cache_prompt",
        [
            (
                "mlxlm cache_prompt --model mlx_model --prompt - --prompt-cache-file book.safetensors < book.txt",
                "Process a book once",
            ),
            ("mlxlm generate --prompt-cache-file book.safetensors -p \"Who is the thief?\"", "Ask a question about it"),
        ],
    ),
    (
        "benchmark",
        [
            ("mlxlm benchmark --model mlx_model -p 512 -g 128", "Process 512 tokens and generate 128"),
            ("mlxlm benchmark --bandwidth", "Measure memory bandwidth, which limits generation"),
        ],
    ),
    (
        "server",
        [
            ("mlxlm server --model mlx-community/Qwen3-0.6B-4bit", "Serve this machine, on port 8080"),
            (
                "mlxlm server --model mlx_model --host 0.0.0.0 --api-key-file keys.txt",
                "Serve the network, with API keys",
            ),
        ],
    ),
    (
        "manage",
        [
            ("mlxlm manage --scan --pattern Qwen", "List cached models whose name contains `Qwen`"),
            ("mlxlm manage --delete --pattern Qwen3-0.6B", "Delete a cached model"),
        ],
    ),
    (
        "models",
        [
            ("mlxlm models", "List the supported model types"),
            ("mlxlm models --config config.json", "Print the size of a model without its weights"),
        ],
    ),
    (
        "list",
        [("mlxlm list", "List the models in the cache, and the built-in ones"), ("mlxlm list --json", "Print JSON")],
    ),
    (
        "show",
        [
            ("mlxlm show demo", "Show the built-in model"),
            ("mlxlm show mlx-community/Qwen3-0.6B-4bit", "Show a model of the hub"),
        ],
    ),
    (
        "completions",
        [
            (
                "mlxlm completions bash > ~/.local/share/bash-completion/completions/mlxlm",
                "Install completions for bash",
            ),
            ("mlxlm completions zsh > \"${fpath[1]}/_mlxlm\"", "Install completions for zsh"),
        ],
    ),
];

/// The commands and options as help, completions and manual pages show them.
pub(crate) fn command() -> Command {
    let root = Cli::command().mut_args(|arg| with_short_value(arg.help_heading("Machine").display_order(900)));
    let root = root.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let examples = EXAMPLES.iter().find(|(of, _)| *of == name);
        let command = with_short_help(sorted(command.mut_args(|arg| headed(&name, arg))));
        match examples {
            Some((_, examples)) => {
                let lines = examples.map(|(line, what)| format!("  {what}:\n    {line}"));
                command.after_help(format!("Examples:\n{}", lines.join("\n")))
            }
            None => command,
        }
    });
    let commands = grouped(&root);
    with_short_help(root)
        .bin_name("mlxlm")
        .help_template("{about}\n\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}")
        .before_help(commands)
        .after_help("`mlxlm COMMAND --help` shows the options of a command, with examples.")
}

/// The commands under their headings.
fn grouped(root: &Command) -> String {
    let about = |name: &str| {
        let command = root.find_subcommand(name);
        command.and_then(Command::get_about).map(ToString::to_string).unwrap_or_default()
    };
    let groups = GROUPS.map(|(heading, names)| {
        let lines = names.iter().map(|name| format!("  {name:<14} {}\n", about(name)));
        format!("{heading}:\n{}", lines.collect::<String>())
    });
    groups.join("\n").trim_end().to_owned()
}

/// The command with its options in the order of their headings, which is the order in which clap shows headings.
fn sorted(command: Command) -> Command {
    let place = |arg: &Arg| {
        HEADINGS.iter().position(|(heading, _)| Some(*heading) == arg.get_help_heading()).map_or(0, |place| place + 1)
    };
    let mut args: Vec<Arg> = command.get_arguments().cloned().collect();
    args.sort_by_key(place);
    let about = command.get_about().cloned();
    let mut sorted = Command::new(command.get_name().to_owned()).hide(command.is_hide_set()).args(args);
    sorted = sorted.aliases(command.get_all_aliases().map(str::to_owned).collect::<Vec<_>>());
    if let Some(about) = about {
        sorted = sorted.about(about);
    }
    sorted.groups(command.get_groups().cloned())
}

/// `--help` and `-h` are the same, in short lines.
fn with_short_help(command: Command) -> Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Print help");
    command.disable_help_flag(true).arg(help)
}

fn headed(command: &str, mut arg: Arg) -> Arg {
    if arg.is_positional() {
        return arg;
    }
    let default = match command {
        "generate" | "chat" | "benchmark" | "server" => Some(DEFAULT_MODEL),
        "cache_prompt" => Some(CONVERTED_MODEL),
        _ => None,
    };
    if let Some(default) = default.filter(|_| arg.get_id() == "model") {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg = arg.help(format!("{help} [default: {default}]"));
    }
    let id = arg.get_id().as_str();
    let own = format!("{command}.{id}");
    let at = |name: &str| {
        HEADINGS.iter().enumerate().find_map(|(place, (heading, ids))| {
            ids.iter().position(|id| *id == name).map(|within| (*heading, place * 40 + within))
        })
    };
    match at(&own).or_else(|| at(id)) {
        Some((heading, order)) => with_short_value(arg.help_heading(heading).display_order(order)),
        None => with_short_value(arg),
    }
}

/// `N` for the name of a value that is a number, if the option has not named it itself.
fn with_short_value(arg: Arg) -> Arg {
    let named_itself = arg
        .get_value_names()
        .is_some_and(|names| names.iter().all(|name| name.as_str() != arg.get_id().as_str().to_uppercase()));
    let kind = arg.get_value_parser().type_id();
    let is = |kinds: &[TypeId]| kinds.iter().any(|of| kind == *of);
    let integers = [
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZeroI32>(),
        TypeId::of::<NonZeroU64>(),
        TypeId::of::<NonZeroUsize>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
    ];
    match arg.get_action().takes_values() && !named_itself && is(&integers) {
        true => arg.value_name("N"),
        false => arg,
    }
}

/// The same with everything that is parsed: underscores, older names, negative numbers.
pub(crate) fn spelled_freely() -> Command {
    command().mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command.args_override_self(true).mut_args(|arg| spelled(&name, arg))
    })
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
        let names: Vec<String> = command
            .get_subcommands()
            .flat_map(|command| {
                let of = |arg: &Arg| [arg.get_id().to_string(), format!("{}.{}", command.get_name(), arg.get_id())];
                command.get_arguments().flat_map(of).collect::<Vec<_>>()
            })
            .collect();
        for (heading, ids) in HEADINGS {
            assert!(ids.len() <= 40, "{heading}");
            for id in ids {
                assert!(names.iter().any(|name| name == id), "{heading}: {id}");
            }
        }
    }

    #[test]
    fn every_command_has_a_group_and_examples() {
        let command = command();
        let shown: Vec<&str> =
            command.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let mut with_examples: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        for names in [&mut grouped, &mut with_examples] {
            names.sort_unstable();
            let mut shown = shown.clone();
            shown.sort_unstable();
            assert_eq!(*names, shown);
        }
    }

    /// Options without a heading are those that say so here.
    #[test]
    fn every_option_has_a_heading() {
        let command = command();
        let bare = |arg: &&Arg| arg.get_help_heading().is_none() && !arg.is_positional() && !arg.is_hide_set();
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let names: Vec<&str> = command.get_arguments().filter(bare).map(|arg| arg.get_id().as_str()).collect();
            let expected: &[&str] = match command.get_name() {
                "benchmark" => &[
                    "prompt_tokens",
                    "generation_tokens",
                    "batch_size",
                    "num_trials",
                    "delay",
                    "skip_warmup",
                    "bandwidth",
                    "help",
                ],
                "evaluate" | "perplexity" => &["batch_size", "help"],
                "lora" | "merge" | "models" => &["config", "help"],
                "manage" => &["scan", "delete", "pattern", "help"],
                "upload" => &["path", "help"],
                _ => &["help"],
            };
            assert_eq!(names, expected, "{}", command.get_name());
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
