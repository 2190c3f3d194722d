//! From the words of the command line to [`Cli`], with the freedoms that users of Python mlx-lm are used to: `_` for `-`
//! in the names of options, `-qa`, unique prefixes, values that start with `-`, and the last of several wins.

mod complaint;

use std::ffi::OsString;
use std::path::Path;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::settings::Settings;
use crate::{help, output};

/// Reads the arguments of the process, the first of which is its name. Help and version are printed here, and leave nothing to do.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Cli>> {
    parse_with(args, Settings::read)
}

fn parse_with(
    args: impl IntoIterator<Item = OsString>,
    settings: impl FnOnce() -> Result<Settings>,
) -> Result<Option<Cli>> {
    let mut words: Vec<OsString> =
        args.into_iter().map(|arg| if arg == "-qa" { "--quantize-activations".into() } else { arg }).collect();
    let program = words.first().cloned().unwrap_or_default();
    if let Some(command) = help::command_of_name(Path::new(&program)) {
        words.insert(1, command.into());
    }
    let mut command = help::spelled_freely();
    // `mlxlm help generate` is `mlxlm generate --help`.
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.truncate(2);
        words.push("--help".into());
    }
    match words.get(1).and_then(|word| word.to_str()) {
        None => {
            let text = help::command().render_help();
            output::print(format_args!("{text}"))?;
            return Ok(None);
        }
        Some("--version" | "-V") => {
            output::print(format_args!("{}", help::version()))?;
            return Ok(None);
        }
        _ => {}
    }
    let given = words.clone();
    if let Some((place, named)) = complaint::find(&words, &command) {
        settings()?.add_defaults(named, place, &mut words);
    }
    let parsed = command.try_get_matches_from_mut(&words).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print().map_err(|error| Failure::output(&error))?;
            Ok(None)
        }
        Err(error) => Err(complaint::of(&error, &given, &command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;

    fn parsed(args: &[&str]) -> Result<Option<Cli>> {
        let words = std::iter::once("mlxlm").chain(args.iter().copied()).map(OsString::from);
        parse_with(words, || Ok(Settings::default()))
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
        help::spelled_freely().debug_assert();
        help::command().debug_assert();
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
        assert!(matches!(cli.command, Command::Convert(args) if args.model.as_deref() == Some("a_b")));
    }

    #[test]
    fn a_prefix_of_an_option_is_enough() {
        assert_eq!(generate(&["--max-tok", "7"]).max_tokens, 7);
        assert_eq!(generate(&["--max_tok", "7"]).max_tokens, 7);
    }

    #[test]
    fn an_ambiguous_prefix_is_refused() {
        let failure = parsed(&["generate", "--max", "7"]).unwrap_err();
        assert!(
            failure.to_string().starts_with("error: `--max` may be `--max-kv-size` or `--max-tokens`\n"),
            "{failure}"
        );
        assert_eq!(failure.code(), 2);
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
        let words = args.chain([OsString::from_vec(vec![0xFF])]);
        let failure = parse_with(words, || Ok(Settings::default())).unwrap_err();
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

    /// What is said of words that cannot be.
    fn complaint(args: &[&str]) -> (String, String) {
        let failure = parsed(args).unwrap_err();
        assert_eq!(failure.code(), 2);
        let text = failure.to_string();
        let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
        (message.strip_prefix("error: ").unwrap().to_owned(), hint.to_owned())
    }

    #[test]
    fn complaints_are_one_line_with_a_hint() {
        let help = |command: &str| format!("`mlxlm {command} --help` lists its options");
        let cases: &[(&[&str], &str, &str)] = &[
            (&["generate", "--promt", "x"], "`mlxlm generate` has no option `--promt`", "did you mean `--prompt`?"),
            (&["generate", "--purple", "x"], "`mlxlm generate` has no option `--purple`", &help("generate")),
            (&["convert", "--model", "m", "--q-bits", "4"], "`--q-bits` needs `-q`", &help("convert")),
            (
                &["generate", "--model", "demo", "hello"],
                "`mlxlm generate` takes only options, not `hello`",
                "for a prompt use `--prompt \"hello\"`",
            ),
            (
                &["convert", "d-f32"],
                "`mlxlm convert` takes only options, not `d-f32`",
                "for a model use `--model d-f32`",
            ),
            (
                &["generate", "org/name"],
                "`mlxlm generate` takes only options, not `org/name`",
                "for a model use `--model org/name`",
            ),
            (&["generate", "-m", "abc"], "`--max-tokens` is `abc`, expected a whole number", &help("generate")),
            (&["generate", "--top-k", "-1"], "`--top-k` is `-1`, expected a whole number from 0 on", &help("generate")),
            (
                &["--threads", "0", "generate"],
                "`--threads` is `0`, expected a whole number from 1 on",
                &help("generate"),
            ),
            (&["generate", "--temp", "warm"], "`--temp` is `warm`, expected a number", &help("generate")),
            (&["generate", "--prompt"], "`--prompt` needs a value", &help("generate")),
            (
                &["cache_prompt", "--prompt", "x"],
                "`mlxlm cache_prompt` needs `--prompt-cache-file`",
                &help("cache_prompt"),
            ),
            (
                &["convert", "--model", "m", "-q", "-d"],
                "`--quantize` cannot be used with `--dequantize`",
                &help("convert"),
            ),
            (&["genrate"], "there is no command `genrate`", "did you mean `mlxlm generate`?"),
            (&["sing"], "there is no command `sing`", "`mlxlm --help` lists the commands"),
            (&["--cpu"], "no command is given", "`mlxlm --help` lists the commands"),
        ];
        for (args, message, hint) in cases {
            assert_eq!(complaint(args), ((*message).to_owned(), (*hint).to_owned()), "{args:?}");
        }
    }

    #[test]
    fn older_names_are_taken() {
        let cli = parsed(&["convert", "--model", "m", "-q", "--quantize-bits", "4", "--quantize_group_size=32"]);
        assert!(
            matches!(cli.unwrap().unwrap().command, Command::Convert(args) if args.q_bits == Some(4) && args.q_group_size == Some(32))
        );
        assert_eq!(generate(&["--eos_token", "X"]).extra_eos_token, ["X"]);
        let cli = parsed(&["cache_prompt", "--save-prompt-cache", "f", "--prompt", "p"]).unwrap().unwrap();
        assert!(matches!(cli.command, Command::CachePrompt(_)));
    }

    #[test]
    fn a_program_of_mlx_lm_is_its_command() {
        let words = ["/usr/bin/mlx_lm.generate", "--prompt", "x"].map(OsString::from);
        let cli = parse_with(words, || Ok(Settings::default())).unwrap().unwrap();
        assert!(matches!(cli.command, Command::Generate(args) if args.prompt == "x"));
    }
}
