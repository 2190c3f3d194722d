//! What help shows beside the options themselves: headings, examples, the version; and the freedoms in spelling them.

mod examples;
mod headings;

use std::any::TypeId;
use std::num::{NonZeroI32, NonZeroU64, NonZeroUsize};
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use mlxlm_core::device;

use self::examples::EXAMPLES;
use self::headings::{GROUPS, HEADINGS};
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
