//! What the user sees when a command cannot do its work: one line, and a hint where there is one.

use std::fmt;
use std::io;

use mlxlm_core::Hint;

use crate::terminal;

/// An error on its way to the terminal.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
    is_of_output: bool,
    broken_pipe: bool,
}

/// The result of a command.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// The work could not be done: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1, is_of_output: false, broken_pipe: false }
    }

    /// What the user asked for makes no sense: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(message) }
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { is_of_output: true, broken_pipe, ..Self::new(format!("cannot write the output: {error}")) }
    }

    /// Standard input could not be read.
    pub(crate) fn input(error: &io::Error) -> Self {
        Self::new(format!("cannot read standard input: {error}"))
    }

    /// With a remedy.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As a fault of the command line.
    pub(crate) fn into_usage(self) -> Self {
        Self { code: 2, ..self }
    }

    /// The message and the hint in one line, for somebody else's error.
    pub(crate) fn in_a_line(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}"));
        self.message.clone() + &hint.unwrap_or_default()
    }

    /// The exit code of the process: 2 for usage, 1 for everything else.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether it is the output that cannot be written: there is no use in going on.
    pub(crate) fn is_of_output(&self) -> bool {
        self.is_of_output
    }

    /// Whether the reader of the output has gone, as in `mlxlm … | head`: no reason to complain.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }

    /// An error of one of our crates, with its hint.
    fn of(error: &(impl fmt::Display + Hint), code: u8) -> Self {
        Self { hint: error.hint(), code, ..Self::new(error.to_string()) }
    }
}

impl From<mlxlm_core::Error> for Failure {
    fn from(error: mlxlm_core::Error) -> Self {
        Self::of(&error, 1)
    }
}

impl From<mlxlm_cache::Error> for Failure {
    fn from(error: mlxlm_cache::Error) -> Self {
        Self::of(&error, if matches!(error, mlxlm_cache::Error::Room { .. }) { 2 } else { 1 })
    }
}

impl From<mlxlm_models::Error> for Failure {
    fn from(error: mlxlm_models::Error) -> Self {
        Self::of(&error, 1)
    }
}

/// A scheme that does not exist was asked for by options.
impl From<mlxlm_core::quant::QuantError> for Failure {
    fn from(error: mlxlm_core::quant::QuantError) -> Self {
        Self::of(&error, 2)
    }
}

impl From<mlxlm_quant::Error> for Failure {
    fn from(error: mlxlm_quant::Error) -> Self {
        use mlxlm_quant::Error;
        if let Error::Parameter { name, ref value, expected } = error {
            return Self::usage(format!("`--{}` is {value}, expected {expected}", name.replace('_', "-")));
        }
        Self::of(&error, if matches!(error, Error::Quant(_) | Error::RecipeMode { .. }) { 2 } else { 1 })
    }
}

/// Settings are options here, and what is given for them is the user's.
impl From<mlxlm_train::Error> for Failure {
    fn from(error: mlxlm_train::Error) -> Self {
        use mlxlm_train::Error;
        match error {
            Error::Core(error) => error.into(),
            Error::Model(error) => error.into(),
            Error::Sample(error) => error.into(),
            Error::Setting { .. }
            | Error::LoraParameters
            | Error::UnknownKeys { .. }
            | Error::TooManyLayers { .. }
            | Error::Schedule { .. }
            | Error::Optimizer { .. } => Self::of(&error, 2),
            _ => Self::of(&error, 1),
        }
    }
}

impl From<mlxlm_serve::Error> for Failure {
    fn from(error: mlxlm_serve::Error) -> Self {
        Self::of(
            &error,
            if matches!(error, mlxlm_serve::Error::Bind { .. } | mlxlm_serve::Error::Certificate { .. }) {
                2
            } else {
                1
            },
        )
    }
}

/// Parameters are options here, and are called as the user typed them.
impl From<mlxlm_sample::Error> for Failure {
    fn from(error: mlxlm_sample::Error) -> Self {
        use mlxlm_sample::Error;
        match error {
            Error::Parameter { name, ref value, ref expected } => {
                let option = name.replace('_', "-");
                Self { hint: error.hint(), ..Self::usage(format!("`--{option}` is {value}, expected {expected}")) }
            }
            Error::EmptyPrompt => Self::of(&error, 2),
            Error::Cache(error) => error.into(),
            _ => Self::of(&error, 1),
        }
    }
}

/// The most items of a list that are shown, each on its own line.
const MOST_ITEMS: usize = 3;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_item = |line: &&str| line.trim_start().starts_with("- ");
        let (head, items): (Vec<&str>, Vec<&str>) = match self.message.lines().filter(is_item).count() {
            0 | 1 => (vec![&self.message], Vec::new()),
            _ => self.message.lines().partition(|line| !is_item(line)),
        };
        write!(f, "error: {}", terminal::line(&head.join("\n")))?;
        // A list may end in `and 7 more`.
        let rest = |item: &str| item.trim().strip_prefix("- and ")?.strip_suffix(" more")?.parse::<usize>().ok();
        let unnamed = items.last().and_then(|item| rest(item));
        let named = &items[..items.len() - usize::from(unnamed.is_some())];
        for item in named.iter().take(MOST_ITEMS) {
            write!(f, "\n  - {}", terminal::line(item.trim_start().trim_start_matches("- ")))?;
        }
        match named.len().saturating_sub(MOST_ITEMS) + unnamed.unwrap_or(0) {
            0 => {}
            more => write!(f, "\n  - and {more} more")?,
        }
        self.hint.iter().try_for_each(|hint| write!(f, "\nhint: {}", terminal::line(hint)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_a_hint() {
        let failure = Failure::usage("no\n  such\n\nthing").hint("look\nelsewhere");
        assert_eq!(failure.to_string(), "error: no such thing\nhint: look elsewhere");
    }

    #[test]
    fn a_list_has_a_line_for_each_of_its_first_items() {
        let shown = |items: &str| Failure::new(format!("they do not fit:{items}")).hint("h").to_string();
        assert_eq!(shown("\n  - `a`"), "error: they do not fit: `a`\nhint: h");
        assert_eq!(shown("\n  - `a`\n  - `b`"), "error: they do not fit:\n  - `a`\n  - `b`\nhint: h");
        let many = shown("\n  - `a`\n  - `b`\n  - `c`\n  - `d`\n  - `e`\n  - and 29 more");
        assert_eq!(many, "error: they do not fit:\n  - `a`\n  - `b`\n  - `c`\n  - and 31 more\nhint: h");
    }

    #[test]
    fn parameters_are_called_as_the_options() {
        let error = mlxlm_sample::Error::Parameter { name: "top_p", value: "2".into(), expected: "less".into() };
        let failure = Failure::from(error);
        assert_eq!(failure.to_string(), "error: `--top-p` is 2, expected less");
        assert_eq!(failure.code(), 2);
    }
}
