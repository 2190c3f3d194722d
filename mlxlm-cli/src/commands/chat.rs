//! `chat`: a conversation, line by line.
//!
//! Answers go to standard output. All else is for the terminal: where answers go to a file, it does not go there.

mod input;
mod panel;
mod words;

use std::time::{Duration, Instant};

use mlxlm_core::device::WiredLimit;
use mlxlm_core::io;
use mlxlm_core::text::TokenizerOptions;
use mlxlm_models::Loaded;
use mlxlm_sample::GenerateOptions;

use self::input::Lines;
use self::panel::{folded, panel};
use self::words::{HELP, Line};
use super::generate::{kv_quantization, prefill_step_size, sampler_options, xtc_special_tokens};
use crate::args::{ChatArgs, DEFAULT_MODEL};
use crate::conversation::{Answered, Conversation, Listener};
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::mode::Unseen;
use crate::model::load_model;
use crate::output::{self, aside, muted, say};
use crate::{prompt, terminal, units};

/// Runs the command.
pub(super) fn run(args: &ChatArgs) -> Result {
    if args.pipeline {
        return Err(Failure::usage("`--pipeline` is not supported: a model runs on one machine"));
    }
    let interrupt = Interrupt::install()?;
    let name = args.model.model.as_deref().unwrap_or(DEFAULT_MODEL);
    let mut options = options(args)?;
    let Loaded { model, tokenizer, .. } = load_model(name, &args.model.variant, TokenizerOptions::default())?;
    if !tokenizer.has_chat_template() {
        return Err(Failure::new(format!("`{name}` has no chat template")).hint("`mlxlm generate` works without one"));
    }
    options.sampler.xtc_special_tokens = xtc_special_tokens(&tokenizer)?;
    let mut lines = Lines::new()?;
    let conversation = Conversation::new(&*model, &tokenizer, args.system_prompt.clone(), options, args.seed)?;
    let mut conversation = conversation.with_small_steps(lines.is_terminal());
    let _wired = WiredLimit::raise()?;
    interrupt.loaded();
    aside!("{}", header(name, args))?;
    aside!("  commands    q {}   r {}   h {}", muted("exit"), muted("reset"), muted("help"))?;
    while let Some(line) = lines.next()? {
        if !turn(&mut conversation, &line, &interrupt)? {
            break;
        }
    }
    aside!("{}", muted("bye"))
}

/// Does what a line asks for; false ends the conversation. What fails is said, and the conversation goes on, unless nobody reads it.
fn turn(conversation: &mut Conversation<'_>, line: &str, interrupt: &Interrupt) -> Result<bool> {
    let done = match Line::of(line) {
        Line::Nothing => Ok(()),
        Line::Quit => return Ok(false),
        Line::Reset => {
            conversation.reset()?;
            aside!("  reset {}", muted("context cleared"))
        }
        Line::Help => help(),
        Line::Set(name, value) => set(conversation, name, value),
        Line::System(None) => match conversation.system() {
            Some(system) => aside!("  {system}"),
            None => aside!("  {}", muted("there is no system prompt")),
        },
        Line::System(Some(text)) => {
            conversation.set_system(text);
            aside!("  {}", muted("the next answer has this system prompt"))
        }
        Line::Save(file) => save(conversation, file),
        Line::Load(file) => load(conversation, file),
        Line::Again => answered(conversation, interrupt, |conversation, listener| conversation.answer_again(listener)),
        Line::Unknown(word) => {
            Err(Failure::usage(format!("there is no command `{word}`")).hint("`/help` lists the commands"))
        }
        Line::Lacks(word, what) => Err(Failure::usage(format!("`{word}` needs {what}"))),
        Line::Say(text) => {
            answered(conversation, interrupt, |conversation, listener| conversation.answer(text, listener))
        }
    };
    match done {
        Err(failure) if failure.is_of_output() => Err(failure),
        Err(failure) => {
            output::show(&failure);
            Ok(true)
        }
        Ok(()) => Ok(true),
    }
}

fn options(args: &ChatArgs) -> Result<GenerateOptions> {
    Ok(GenerateOptions {
        max_tokens: prompt::max_tokens(args.max_tokens)?,
        sampler: sampler_options(&args.sampling)?,
        prefill_step_size: prefill_step_size(args.prefill_step_size, args.kv.max_kv_size),
        max_kv_size: args.kv.max_kv_size,
        kv_quantization: kv_quantization(&args.kv.precision)?,
        state_bf16: args.kv.precision.gdn_state_bf16,
        ..GenerateOptions::default()
    })
}

/// `/set`.
fn set(conversation: &mut Conversation<'_>, name: &str, value: &str) -> Result {
    let known = "temp, top_p, top_k, min_p, xtc_probability, xtc_threshold, max_tokens, seed";
    let unreadable = |expected: &str| {
        Failure::usage(format!("`{name}` is `{value}`, expected {expected}")).hint("for example `/set temp 0.7`")
    };
    let number = || value.parse::<f64>().map_err(|_| unreadable("a number"));
    let whole = || value.parse::<u64>().map_err(|_| unreadable("a whole number from 0 on"));
    match name.trim_start_matches('-').replace('-', "_").as_str() {
        "temp" | "temperature" => {
            let temp = number()?;
            conversation.set(|options| options.sampler.temp = temp)?;
        }
        "top_p" => {
            let top_p = number()?;
            conversation.set(|options| options.sampler.top_p = top_p)?;
        }
        "top_k" => {
            let top_k = whole()? as usize;
            conversation.set(|options| options.sampler.top_k = top_k)?;
        }
        "min_p" => {
            let min_p = number()?;
            conversation.set(|options| options.sampler.min_p = min_p)?;
        }
        "xtc_probability" => {
            let probability = number()?;
            conversation.set(|options| options.sampler.xtc_probability = probability)?;
        }
        "xtc_threshold" => {
            let threshold = number()?;
            conversation.set(|options| options.sampler.xtc_threshold = threshold)?;
        }
        "max_tokens" => {
            let tokens = value.parse::<i64>().map_err(|_| unreadable("a whole number, or -1 for no limit"))?;
            let max_tokens = prompt::max_tokens(tokens)?;
            conversation.set(|options| options.max_tokens = max_tokens)?;
        }
        "seed" => conversation.set_seed(whole()?),
        _ => {
            return Err(
                Failure::usage(format!("there is no setting `{name}`")).hint(format!("the settings are {known}"))
            );
        }
    }
    aside!("  {name} {}", muted(&format!("is {value} from now on")))
}

/// `/save`.
fn save(conversation: &Conversation<'_>, file: &str) -> Result {
    io::write_json(file, &conversation.messages().into())?;
    aside!("  {}", muted(&format!("the conversation is in {}", terminal::name(file))))
}

/// `/load`.
fn load(conversation: &mut Conversation<'_>, file: &str) -> Result {
    let messages = io::read_json(file)?;
    conversation.load(messages)?;
    let count = conversation.messages().len();
    aside!("  {}", muted(&format!("{} of {}", units::counted(count, "message"), terminal::name(file))))
}

/// One answer, with what it took below.
fn answered<'a>(
    conversation: &mut Conversation<'a>,
    interrupt: &Interrupt,
    answer: impl FnOnce(&mut Conversation<'a>, &mut dyn Listener) -> Result<Option<Answered>>,
) -> Result {
    let unseen = Unseen::begin();
    let answer = interrupt.during(|stopped| {
        let mut shown = Shown { stopped, begin: Instant::now(), is_shown: false };
        let answer = answer(conversation, &mut shown);
        shown.clear()?;
        answer
    });
    drop(unseen);
    let Some(answered) = answer? else { return aside!("  {}", muted("stopped; the question is forgotten")) };
    say!("")?;
    aside!("{}", muted(&footer(&answered, conversation.context_length())))
}

/// An answer on its way to the terminal.
struct Shown<'a> {
    stopped: &'a dyn Fn() -> bool,
    begin: Instant,
    /// Whether the line now says how far the prompt is read.
    is_shown: bool,
}

impl Shown<'_> {
    fn clear(&mut self) -> Result {
        if std::mem::take(&mut self.is_shown) { output::beside(format_args!("\r\x1b[K")) } else { Ok(()) }
    }
}

impl Listener for Shown<'_> {
    fn reading(&mut self, done: usize, total: usize) -> bool {
        /// What takes less needs no words.
        const PATIENCE: Duration = Duration::from_millis(400);
        if output::is_watched() && self.begin.elapsed() > PATIENCE {
            self.is_shown = true;
            // A terminal that has gone is noticed when the answer is printed.
            drop(output::beside(format_args!("\r\x1b[K{}", muted(&format!("  reading {done}/{total}")))));
        }
        !(self.stopped)()
    }

    fn said(&mut self, text: &str) -> Result<bool> {
        self.clear()?;
        output::print(format_args!("{text}"))?;
        Ok(!(self.stopped)())
    }
}

fn footer(answered: &Answered, limit: Option<usize>) -> String {
    let last = &answered.last;
    let rate = (last.generation_tokens > 1).then(|| format!("{:.1} tok/s", last.generation_tps));
    let context = match limit {
        Some(limit) => format!("context {} of {limit}", answered.context),
        None => format!("context {}", answered.context),
    };
    let parts: Vec<String> = [units::counted(last.generation_tokens, "token")]
        .into_iter()
        .chain(rate)
        .chain([
            format!("first after {}", units::time(answered.first_token)),
            context,
            format!("peak {}", units::bytes((last.peak_memory * 1e9) as u64)),
        ])
        .collect();
    folded(&parts, output::columns())
}

fn help() -> Result {
    HELP.iter().try_for_each(|(word, what)| aside!("  {word:<12} {}", muted(what)))
}

/// A box that says who talks, and how.
fn header(name: &str, args: &ChatArgs) -> String {
    let mut rows = vec![("model", terminal::name(name))];
    rows.extend(
        args.model.variant.adapter_path.as_ref().map(|path| ("adapter", terminal::name(&path.to_string_lossy()))),
    );
    rows.push(("max tokens", if args.max_tokens < 0 { "no limit".to_owned() } else { grouped(args.max_tokens) }));
    rows.extend(args.system_prompt.as_deref().map(|text| ("system", terminal::name(&text.replace(['\n', '\t'], " ")))));
    panel("mlxlm chat", &rows, output::columns())
}

/// Digits in groups of three.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_groups() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(256), "256");
    }
}
