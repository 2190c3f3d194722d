//! `~/.config/mlxlm/config.toml`: short names of models, and defaults of options.
//!
//! ```toml
//! [models]
//! small = "mlx-community/Qwen3-0.6B-4bit"
//!
//! [defaults]
//! model = "small"
//!
//! [defaults.chat]
//! temp = 0.7
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command};
use mlxlm_core::io;
use toml::{Table, Value};

use crate::failure::{Failure, Result};

/// What the user has set once and for all.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// Models by their short names.
    models: BTreeMap<String, String>,
    /// Options as arguments: of every command that has them, then of one command.
    defaults: Vec<Preset>,
}

/// An option that is as if given on the command line.
#[derive(Debug)]
struct Preset {
    /// The command; none for all.
    command: Option<String>,
    option: String,
    values: Vec<String>,
}

impl Settings {
    /// Reads the file; where there is none, nothing is set.
    pub(crate) fn read() -> Result<Self> {
        match path().filter(|path| path.is_file()) {
            Some(path) => Self::parse(&io::read_to_string(&path)?, &crate::help::spelled_freely())
                .map_err(|what| at(&path, &what)),
            None => Ok(Self::default()),
        }
    }

    /// `what` is wrong with a text that is no settings.
    fn parse(text: &str, root: &Command) -> std::result::Result<Self, String> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let mut settings = Self::default();
        for (key, value) in table {
            match (key.as_str(), value) {
                ("models", Value::Table(models)) => {
                    for (name, model) in models {
                        let Value::String(model) = model else { return Err(format!("`models.{name}` is not a text")) };
                        settings.models.insert(name, model);
                    }
                }
                ("defaults", Value::Table(defaults)) => {
                    for (key, value) in &defaults {
                        if !value.is_table() {
                            settings.defaults.push(default(None, key, value, root)?);
                        }
                    }
                    for (command, options) in &defaults {
                        for (key, value) in options.as_table().into_iter().flatten() {
                            settings.defaults.push(default(Some(command), key, value, root)?);
                        }
                    }
                }
                (other, _) => return Err(format!("`{other}` is neither of the tables `models` and `defaults`")),
            }
        }
        Ok(settings)
    }

    /// The model of a short name.
    pub(crate) fn model(&self, name: &str) -> Option<&str> {
        self.models.get(name).map(String::as_str)
    }

    /// The short names, with their models.
    pub(crate) fn models(&self) -> impl Iterator<Item = (&str, &str)> {
        self.models.iter().map(|(name, model)| (name.as_str(), model.as_str()))
    }

    /// Puts defaults before the options that were given, which therefore win; the word of the command is `words[place]`.
    pub(crate) fn add_defaults(&self, command: &Command, place: usize, words: &mut Vec<OsString>) {
        let given = |name: &str| words.iter().any(|word| word.to_string_lossy().replace('_', "-").starts_with(name));
        let from_file = given("--gguf-path");
        let mut defaults = Vec::new();
        for default in self
            .defaults
            .iter()
            .filter(|default| default.command.as_deref().is_none_or(|name| name == command.get_name()))
        {
            let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(&default.option)) else {
                continue;
            };
            // A file is given instead of a model.
            if from_file && default.option == "model" {
                continue;
            }
            for value in &default.values {
                match (arg.get_action(), value.as_str()) {
                    (ArgAction::SetTrue, "true") => defaults.push(format!("--{}", default.option).into()),
                    (ArgAction::SetTrue, _) => {}
                    _ => defaults.push(OsString::from(format!("--{}={value}", default.option))),
                }
            }
        }
        let behind = place + 1;
        drop(words.splice(behind..behind, defaults));
    }
}

fn default(command: Option<&str>, key: &str, value: &Value, root: &Command) -> std::result::Result<Preset, String> {
    let option = key.replace('_', "-");
    let shown = command.map_or_else(|| format!("defaults.{key}"), |command| format!("defaults.{command}.{key}"));
    let mut commands =
        root.get_subcommands().filter(|known| command.is_none_or(|name| name == known.get_name())).peekable();
    if commands.peek().is_none() {
        return Err(format!("`{shown}`: there is no command `{}`", command.unwrap_or_default()));
    }
    if !commands.any(|command| command.get_arguments().any(|arg| arg.get_long() == Some(&option))) {
        return Err(format!("`{shown}`: there is no option `--{option}`"));
    }
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(is) => Some(is.to_string()),
        _ => None,
    };
    let values = match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => text(value).map(|value| vec![value]),
    };
    let values = values.ok_or_else(|| format!("`{shown}` is not a text, a number or true or false"))?;
    Ok(Preset { command: command.map(str::to_owned), option, values })
}

/// Where the file is, if anywhere.
pub(crate) fn path() -> Option<PathBuf> {
    let set = |folder: &PathBuf| folder.is_absolute();
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(set);
    let base = named.or_else(|| Some(std::env::home_dir().filter(set)?.join(".config")))?;
    Some(base.join("mlxlm/config.toml"))
}

fn at(path: &Path, what: &str) -> Failure {
    Failure::usage(format!("`{}`: {what}", path.display())).hint("correct the file or remove it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::help::spelled_freely;

    fn words(text: &str, given: &[&str]) -> Vec<String> {
        let root = spelled_freely();
        let settings = Settings::parse(text, &root).unwrap();
        let mut words: Vec<OsString> = given.iter().map(OsString::from).collect();
        settings.add_defaults(root.find_subcommand(given[1]).unwrap(), 1, &mut words);
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn defaults_come_before_what_is_given() {
        let text = "[defaults]\nmodel = \"small\"\ntemp = 0.5\n[defaults.chat]\ntemp = 0.7\nmax_tokens = 9\n";
        assert_eq!(
            words(text, &["mlxlm", "chat", "-m", "1"]),
            ["mlxlm", "chat", "--model=small", "--temp=0.5", "--max-tokens=9", "--temp=0.7", "-m", "1"]
        );
        assert_eq!(words(text, &["mlxlm", "manage", "--scan"]), ["mlxlm", "manage", "--scan"]);
        assert_eq!(words(text, &["mlxlm", "convert", "--gguf_path", "f"]), ["mlxlm", "convert", "--gguf_path", "f"]);
        assert_eq!(
            words("[defaults.convert]\nquantize = true\n", &["mlxlm", "convert"]),
            ["mlxlm", "convert", "--quantize"]
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, expected) in [
            ("[defaults]\ntemperature = 1\n", "`defaults.temperature`: there is no option `--temperature`"),
            ("[defaults.sing]\ntemp = 1\n", "`defaults.sing.temp`: there is no command `sing`"),
            ("[model]\na = \"b\"\n", "`model` is neither of the tables `models` and `defaults`"),
            ("[models]\na = 1\n", "`models.a` is not a text"),
        ] {
            assert_eq!(Settings::parse(text, &spelled_freely()).unwrap_err(), expected);
        }
        assert!(Settings::parse("\n[models\n", &spelled_freely()).unwrap_err().starts_with("line 2: "));
    }

    #[test]
    fn short_names_are_models() {
        let settings = Settings::parse("[models]\nsmall = \"org/name\"\n", &spelled_freely()).unwrap();
        assert_eq!((settings.model("small"), settings.model("other")), (Some("org/name"), None));
    }
}
