//! What clap refuses, in our words: which option, what it should be, and where to look.

use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::{Arg, Command};

use crate::failure::Failure;

/// A complaint about `words`, the first of which is the program.
pub(super) fn of(error: &Error, words: &[OsString], root: &Command) -> Failure {
    let command = named(words, root);
    let help = match command {
        Some(command) => format!("`mlxlm {} --help` lists its options", command.get_name()),
        None => "`mlxlm --help` lists the commands".to_owned(),
    };
    let text = |kind| text(error, kind);
    let invalid = text(ContextKind::InvalidArg).unwrap_or_default();
    let option = option_of(&invalid);
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Failure::usage("no command is given").hint(help)
        }
        ErrorKind::InvalidSubcommand => {
            unknown_command(&text(ContextKind::InvalidSubcommand).unwrap_or_default(), root, help)
        }
        ErrorKind::UnknownArgument => match command {
            Some(command) if invalid.starts_with('-') => unknown_option(&invalid, command, help),
            Some(command) => stray_word(&invalid, command, help),
            None => Failure::usage(format!("`{invalid}` is not an option of `mlxlm` itself")).hint(help),
        },
        ErrorKind::MissingRequiredArgument => missing(error, words, command, help),
        ErrorKind::ArgumentConflict => {
            let other = option_of(&text(ContextKind::PriorArg).unwrap_or_default()).to_owned();
            Failure::usage(format!("`{option}` cannot be used with `{other}`")).hint(help)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let allowed = strings(error, ContextKind::ValidValue);
            let expected = match error.source() {
                _ if !allowed.is_empty() => format!("expected one of {}", allowed.join(", ")),
                Some(source) => expected(&source.to_string(), &value),
                None => "which is not allowed".to_owned(),
            };
            match value.is_empty() {
                true => Failure::usage(format!("`{option}` needs a value")).hint(help),
                false => Failure::usage(format!("`{option}` is `{value}`, {expected}")).hint(help),
            }
        }
        _ => {
            let whole = error.to_string();
            let message = whole.split("\n\n").next().unwrap_or_default();
            Failure::usage(message.strip_prefix("error: ").unwrap_or(message)).hint(help)
        }
    }
}

/// The command that the words name, in full, by an alias or by a prefix that only it has.
fn named<'c>(words: &[OsString], root: &'c Command) -> Option<&'c Command> {
    find(words, root).map(|(_, command)| command)
}

/// The same, with the place of its word.
pub(super) fn find<'c>(words: &[OsString], root: &'c Command) -> Option<(usize, &'c Command)> {
    let mut words = words.iter().enumerate().skip(1).map(|(place, word)| (place, word.to_string_lossy()));
    while let Some((place, word)) = words.next() {
        if word == "--threads" {
            words.next();
        } else if !word.starts_with('-') {
            let is =
                |command: &&Command| command.get_name() == word || command.get_all_aliases().any(|alias| alias == word);
            let command = root.get_subcommands().find(is).or_else(|| {
                let mut starting = root.get_subcommands().filter(|command| command.get_name().starts_with(&*word));
                starting.next().filter(|_| starting.next().is_none())
            });
            return command.map(|command| (place, command));
        }
    }
    None
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn strings(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    }
}

/// `--max-tokens` of `--max-tokens <MAX_TOKENS>`; of a positional argument its name.
fn option_of(usage: &str) -> &str {
    usage.split([' ', '=']).next().unwrap_or(usage)
}

/// The most changes to a name that count as a typing error.
const SLIP: usize = 2;

/// The name that was meant, if that is clear: among several as near, none is.
fn meant<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut near: Vec<(usize, &str)> =
        names.map(|name| (strsim::damerau_levenshtein(given, name), name)).filter(|(far, _)| *far <= SLIP).collect();
    near.sort_unstable();
    match near[..] {
        [(_, name)] => Some(name),
        [(first, name), (second, _), ..] if first < second => Some(name),
        _ => None,
    }
}

fn unknown_command(given: &str, root: &Command, help: String) -> Failure {
    let starting: Vec<&str> =
        root.get_subcommands().map(Command::get_name).filter(|name| name.starts_with(given)).collect();
    if starting.len() > 1 {
        return Failure::usage(format!("`{given}` may be {}", alternatives(&starting))).hint(help);
    }
    let near = meant(given, root.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name));
    let failure = Failure::usage(format!("there is no command `{given}`"));
    failure.hint(near.map_or(help, |near| format!("did you mean `mlxlm {near}`?")))
}

fn unknown_option(given: &str, command: &Command, help: String) -> Failure {
    let given = given.split('=').next().unwrap_or(given);
    let Some(name) = given.strip_prefix("--").map(|name| name.replace('_', "-")).filter(|name| !name.is_empty()) else {
        return Failure::usage(format!("`mlxlm {}` has no option `{given}`", command.get_name())).hint(help);
    };
    let names = || command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long);
    let mut starting: Vec<&str> = names().filter(|other| other.starts_with(&name)).collect();
    starting.sort_unstable();
    if starting.len() > 1 {
        let options: Vec<String> = starting.iter().map(|name| format!("--{name}")).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        return Failure::usage(format!("`{given}` may be {}", alternatives(&options))).hint(help);
    }
    let failure = Failure::usage(format!("`mlxlm {}` has no option `{given}`", command.get_name()));
    failure.hint(meant(&name, names()).map_or(help, |near| format!("did you mean `--{near}`?")))
}

/// `a`, `b` or `c`, each between backticks.
fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

/// A word where only options stand: most likely a prompt or a model.
fn stray_word(word: &str, command: &Command, help: String) -> Failure {
    let has = |name: &str| command.get_arguments().any(|arg| arg.get_long() == Some(name));
    let is_model = word == "demo" || Path::new(word).is_dir() || (word.contains('/') && !word.contains(' '));
    let failure = Failure::usage(format!("`mlxlm {}` takes only options, not `{word}`", command.get_name()));
    match () {
        () if has("prompt") && !is_model => failure.hint(format!("for a prompt use `--prompt \"{word}\"`")),
        () if has("model") => failure.hint(format!("for a model use `--model {word}`")),
        () => failure.hint(help),
    }
}

/// Options without which others have no meaning, and how those begin.
const NEEDED: [(&str, &str, &[&str]); 4] = [
    ("--quantize", "-q", &["--q-", "--quant-predicate"]),
    ("--snapkv", "--snapkv", &["--snapkv-"]),
    ("--output", "--output", &["--prompts"]),
    ("--prompts", "--prompts", &["--output", "--batch-size"]),
];

fn missing(error: &Error, words: &[OsString], command: Option<&Command>, help: String) -> Failure {
    let names = strings(error, ContextKind::InvalidArg);
    let names: Vec<&str> = names.iter().map(|usage| option_of(usage)).collect();
    if let [name] = names[..]
        && let Some((_, short, dependents)) = NEEDED.iter().find(|(needed, _, _)| *needed == name)
    {
        let given = words.iter().map(|word| word.to_string_lossy().replace('_', "-"));
        let dependent = given
            .map(|word| option_of(&word).to_owned())
            .find(|word| dependents.iter().any(|start| word.starts_with(start)));
        if let Some(dependent) = dependent {
            return Failure::usage(format!("`{dependent}` needs `{short}`")).hint(help);
        }
    }
    let what: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let command = command.map_or_else(String::new, |command| format!(" {}", command.get_name()));
    Failure::usage(format!("`mlxlm{command}` needs {}", what.join(" and "))).hint(help)
}

/// What Rust's parsers of numbers say, in words; what our own say is passed on.
fn expected(said: &str, value: &str) -> String {
    match said {
        "invalid digit found in string" if value.starts_with('-') => "expected a whole number from 0 on".into(),
        "invalid digit found in string" | "cannot parse integer from empty string" => "expected a whole number".into(),
        "number would be zero for non-zero type" => "expected a whole number from 1 on".into(),
        "number too large to fit in target type" | "number too small to fit in target type" => {
            "expected a smaller number".into()
        }
        "invalid float literal" | "cannot parse float from empty string" => "expected a number".into(),
        other => other.to_owned(),
    }
}
