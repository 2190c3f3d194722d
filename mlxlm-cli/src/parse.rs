//! From the words of the command line to [`Cli`], with the freedoms that users of Python mlx-lm are used to: `_` for `-`
//! in the names of options, `-qa`, unique prefixes, values that start with `-`, and the last of several wins.

use std::ffi::OsString;

use clap::error::{Error, ErrorKind};
use clap::{Arg, CommandFactory, FromArgMatches};

use crate::args::Cli;
use crate::failure::{Failure, Result};

/// The commands and options as they are parsed, which is more than what help and completions show.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.args_override_self(true).mut_args(spelled))
}

/// Lets `_` stand for `-`, and negative numbers be values.
fn spelled(arg: Arg) -> Arg {
    let takes_value = arg.get_action().takes_values();
    let aliases: Vec<String> = [arg.get_long()]
        .into_iter()
        .chain(arg.get_all_aliases().into_iter().flatten().map(Some))
        .flatten()
        .filter(|name| name.contains('-'))
        .map(|name| name.replace('-', "_"))
        .collect();
    arg.aliases(aliases).allow_negative_numbers(takes_value)
}

/// Reads the arguments of the process. Help and version are printed here, and leave nothing to do.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Cli>> {
    let args = args.into_iter().map(|arg| if arg == "-qa" { "--quantize-activations".into() } else { arg });
    let parsed = command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print().map_err(|error| Failure::output(&error))?;
            Ok(None)
        }
        Err(error) => Err(failure(&error)),
    }
}

/// A complaint of clap in our form: its first paragraph is the message, a tip the hint.
fn failure(error: &Error) -> Failure {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let help = "`mlxlm --help` lists the commands, `mlxlm <COMMAND> --help` the options of one";
    let message = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => "no command is given",
        _ => message.strip_prefix("error: ").unwrap_or(message),
    };
    Failure::usage(message).hint(tip.unwrap_or(help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;

    fn parsed(args: &[&str]) -> Result<Option<Cli>> {
        parse(std::iter::once("mlxlm").chain(args.iter().copied()).map(OsString::from))
    }

    fn generate(args: &[&str]) -> crate::args::GenerateArgs {
        let args: Vec<&str> = std::iter::once("generate").chain(args.iter().copied()).collect();
        match parsed(&args).unwrap().unwrap().command {
            Command::Generate(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn names_take_underscores_and_values_keep_them() {
        let args = generate(&["--max_tokens=7", "--system_prompt", "a_b", "--prompt", "--no_option"]);
        assert_eq!(args.max_tokens, 7);
        assert_eq!(args.system_prompt.as_deref(), Some("a_b"));
        assert_eq!(args.prompt, "--no_option");
        for name in ["cache_prompt", "cache-prompt"] {
            let cli = parsed(&[name, "--prompt_cache_file", "f", "--prompt", "p"]).unwrap().unwrap();
            assert!(matches!(cli.command, Command::CachePrompt(_)));
        }
        let cli = parsed(&["convert", "--hf_path", "a_b"]).unwrap().unwrap();
        assert!(matches!(cli.command, Command::Convert(args) if args.model == "a_b"));
    }

    #[test]
    fn a_prefix_of_an_option_is_enough() {
        assert_eq!(generate(&["--max-tok", "7"]).max_tokens, 7);
        assert_eq!(generate(&["--max_tok", "7"]).max_tokens, 7);
    }

    #[test]
    fn an_ambiguous_prefix_is_refused() {
        assert_eq!(parsed(&["generate", "--max", "7"]).unwrap_err().code(), 2);
    }

    #[test]
    fn short_options_have_the_letters_of_the_reference() {
        let args = generate(&["-m", "9", "-p", "- a list", "-qa"]);
        assert!(args.max_tokens == 9 && args.prompt == "- a list" && args.quantize_activations);
        let cli = parsed(&["convert", "--model", "m", "-q"]).unwrap().unwrap();
        assert!(matches!(cli.command, Command::Convert(args) if args.quantize && !args.dequantize));
        let cli = parsed(&["convert", "--model", "m", "-d"]).unwrap().unwrap();
        assert!(matches!(cli.command, Command::Convert(args) if args.dequantize));
    }

    #[cfg(unix)]
    #[test]
    fn words_that_are_no_text_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let args = ["mlxlm", "generate", "--prompt"].map(OsString::from).into_iter();
        let failure = parse(args.chain([OsString::from_vec(vec![0xFF])])).unwrap_err();
        assert!(failure.to_string().starts_with("error: invalid UTF-8 was detected"), "{failure}");
    }

    #[test]
    fn the_last_of_several_wins() {
        assert_eq!(
            generate(&["-m", "1", "--max-tokens", "2", "--trust-remote-code", "--trust_remote_code"]).max_tokens,
            2
        );
    }

    #[test]
    fn negative_numbers_are_values() {
        let args = generate(&["--temp", "-0.5", "-m", "-1"]);
        assert!(args.sampling.temp < 0.0 && args.max_tokens == -1);
    }

    #[test]
    fn complaints_are_one_line_with_a_hint() {
        let failure = parsed(&["generate", "--promt", "x"]).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "error: unexpected argument '--promt' found\nhint: a similar argument exists: '--prompt'"
        );
        let failure = parsed(&["cache_prompt", "--prompt", "x"]).unwrap_err().to_string();
        assert_eq!(failure.lines().count(), 2);
        assert!(failure.contains("--prompt-cache-file"), "{failure}");
        let failure = parsed(&[]).unwrap_err();
        assert!(failure.to_string().starts_with("error: no command is given\nhint: "), "{failure}");
        assert_eq!(failure.code(), 2);
    }
}
