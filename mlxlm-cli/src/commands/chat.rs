//! `chat`: a conversation, line by line.

use std::borrow::Cow;

use mlxlm_core::device::WiredLimit;
use mlxlm_core::text::TokenizerOptions;
use mlxlm_models::Loaded;
use mlxlm_sample::{GenerateOptions, GenerationResponse};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generate::{sampler_options, xtc_special_tokens};
use crate::args::{ChatArgs, DEFAULT_MODEL};
use crate::conversation::Conversation;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::model::load_model;
use crate::output::{self, muted, say};
use crate::prompt;

/// Runs the command.
pub(super) fn run(args: &ChatArgs) -> Result {
    if args.pipeline {
        return Err(Failure::usage("`--pipeline` is not supported: the model runs on one machine"));
    }
    let name = args.model.model.as_deref().unwrap_or(DEFAULT_MODEL);
    let mut options = options(args)?;
    let Loaded { model, tokenizer, .. } = load_model(name, &args.model, TokenizerOptions::default())?;
    if !tokenizer.has_chat_template() {
        return Err(Failure::new(format!("`{name}` has no chat template"))
            .hint("`mlxlm generate` continues a text without one"));
    }
    options.sampler.xtc_special_tokens = xtc_special_tokens(&tokenizer)?;
    let mut conversation = Conversation::new(&*model, &tokenizer, args.system_prompt.clone(), options, args.seed)?;
    let _wired = WiredLimit::raise()?;
    let interrupt = Interrupt::install()?;
    say!("{}", header(name, args))?;
    help()?;
    let mut lines = Lines::new()?;
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "q" | "/q" | "/quit" | "/exit" => {
                say!("{}", muted("bye"))?;
                break;
            }
            "r" | "/r" | "/reset" => {
                conversation.reset()?;
                say!("  reset {}", muted("context cleared"))?;
            }
            "h" | "/h" | "/help" => help()?,
            _ => answer(&mut conversation, &line, &interrupt)?,
        }
    }
    Ok(())
}

fn options(args: &ChatArgs) -> Result<GenerateOptions> {
    Ok(GenerateOptions {
        max_tokens: prompt::max_tokens(args.max_tokens)?,
        sampler: sampler_options(&args.sampling)?,
        prefill_step_size: args.prefill_step_size.get(),
        max_kv_size: args.max_kv_size,
        ..GenerateOptions::default()
    })
}

/// One turn. If the model cannot answer, the conversation goes on without it; if nobody reads, it ends.
fn answer(conversation: &mut Conversation<'_>, question: &str, interrupt: &Interrupt) -> Result {
    let answered = interrupt.during(|stopped| {
        conversation.answer(question, &mut |text| {
            output::print(format_args!("{text}"))?;
            Ok(!stopped())
        })
    });
    match answered {
        Ok(last) => {
            say!("")?;
            last.map_or(Ok(()), |last| say!("  {}", muted(&footer(&last))))
        }
        Err(failure) if failure.is_broken_pipe() => Err(failure),
        Err(failure) => {
            output::show(&failure);
            Ok(())
        }
    }
}

fn footer(last: &GenerationResponse) -> String {
    format!(
        "{} tokens · {:.1} tok/s · prompt {:.1} tok/s · peak {:.2} GB",
        last.generation_tokens, last.generation_tps, last.prompt_tps, last.peak_memory
    )
}

fn help() -> Result {
    say!("  commands    q {}   r {}   h {}", muted("exit"), muted("reset"), muted("help"))
}

/// A box that says who talks, and how.
fn header(name: &str, args: &ChatArgs) -> String {
    let adapter = args.model.adapter_path.as_ref().map(|path| ("adapter", path.display().to_string().into()));
    let max_tokens = if args.max_tokens < 0 { "no bound".to_owned() } else { grouped(args.max_tokens) };
    let system = args.system_prompt.as_deref().map(|prompt| ("system", shortened(prompt)));
    let rows: Vec<(&str, Cow<'_, str>)> =
        [Some(("model", name.into())), adapter, Some(("max tokens", max_tokens.into())), system]
            .into_iter()
            .flatten()
            .collect();
    panel("mlxlm chat", &rows)
}

/// At most 60 characters of one line.
fn shortened(text: &str) -> Cow<'_, str> {
    let text = text.replace(['\n', '\t'], " ");
    if text.chars().count() <= 60 { text.into() } else { (text.chars().take(57).collect::<String>() + "...").into() }
}

/// Digits in groups of three.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

fn panel(title: &str, rows: &[(&str, Cow<'_, str>)]) -> String {
    let label_width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows.iter().map(|(label, value)| format!("{label:label_width$}   {value}")).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(title.len());
    let body = lines.iter().map(|line| format!("│  {line:width$}  │")).collect::<Vec<_>>().join("\n");
    let rule = |n| "─".repeat(n);
    format!("╭─ {title} {}╮\n{body}\n╰{}╯", rule(width + 1 - title.len()), rule(width + 4))
}

/// What the user types: edited and remembered at a terminal, as it comes from a pipe.
struct Lines(DefaultEditor);

impl Lines {
    fn new() -> Result<Self> {
        DefaultEditor::new().map(Self).map_err(|error| Failure::new(format!("cannot use the terminal: {error}")))
    }

    /// The next line; none at the end of the input.
    fn next(&mut self) -> Result<Option<String>> {
        loop {
            match self.0.readline("› ") {
                Ok(line) => {
                    // History is a comfort: a line that it does not take is no reason to stop.
                    drop(self.0.add_history_entry(&line));
                    return Ok(Some(line));
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) => say!("  {}", muted("q or Ctrl-D ends the conversation"))?,
                Err(ReadlineError::Io(error)) => return Err(Failure::input(&error)),
                Err(error) => return Err(Failure::new(format!("cannot read from the terminal: {error}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_as_wide_as_its_widest_row() {
        let rows = [("model", "a/b".into()), ("max tokens", "4,096".into())];
        let expected = "╭─ mlxlm chat ─────────╮\n\
                        │  model        a/b    │\n\
                        │  max tokens   4,096  │\n\
                        ╰──────────────────────╯";
        assert_eq!(panel("mlxlm chat", &rows), expected);
    }

    #[test]
    fn numbers_have_groups_and_texts_an_end() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(256), "256");
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(61)), "é".repeat(57) + "...");
    }
}
