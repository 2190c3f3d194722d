//! A conversation: all messages so far, and caches that hold as much of them as they can.
//!
//! Unusual: Python mlx-lm keeps no messages and feeds each turn, system prompt included, behind the last. Here the whole
//! conversation is rendered for each answer, as the template wants it, and what the caches hold of it already is not
//! read again. Where they hold something else, as after a template that drops earlier thinking, the caches go back to
//! where the two part.

use std::time::{Duration, Instant};

use mlxlm_cache::Caches;
use mlxlm_core::text::{TemplateOptions, Tokenizer};
use mlxlm_models::CausalLm;
use mlxlm_sample::engine::prefill_by;
use mlxlm_sample::{GenerateOptions, GenerationResponse, Generator, Sampler, make_prompt_cache};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::prompt;

/// Who talks with whom, and what was said.
pub(crate) struct Conversation<'a> {
    model: &'a dyn CausalLm,
    tokenizer: &'a Tokenizer,
    options: GenerateOptions,
    /// The caches' size, which is none of the generator's business.
    max_kv_size: Option<usize>,
    system: Option<String>,
    messages: Vec<Value>,
    caches: Caches,
    /// The tokens in the caches.
    held: Vec<u32>,
    seed: u64,
    /// Whether prompts are read in steps so small that somebody who waits can stop them.
    small_steps: bool,
}

/// Who hears of an answer as it comes.
pub(crate) trait Listener {
    /// So many tokens of the prompt are read, of so many; false stops.
    fn reading(&mut self, done: usize, total: usize) -> bool;
    /// A piece of the answer; false stops.
    fn said(&mut self, text: &str) -> Result<bool>;
}

/// What an answer took.
pub(crate) struct Answered {
    pub(crate) last: GenerationResponse,
    /// From the question to the first token.
    pub(crate) first_token: Duration,
    /// Tokens that the caches hold now.
    pub(crate) context: usize,
}

impl<'a> Conversation<'a> {
    /// Nothing is said yet. Each answer has a seed of its own, from `seed` on.
    pub(crate) fn new(
        model: &'a dyn CausalLm,
        tokenizer: &'a Tokenizer,
        system: Option<String>,
        options: GenerateOptions,
        seed: u64,
    ) -> Result<Self> {
        let max_kv_size = options.max_kv_size;
        Ok(Self {
            model,
            tokenizer,
            options: GenerateOptions { max_kv_size: None, ..options },
            max_kv_size,
            system,
            messages: Vec::new(),
            caches: make_prompt_cache(model, max_kv_size)?,
            held: Vec::new(),
            seed,
            small_steps: false,
        })
    }

    /// Reads prompts in small steps, for somebody who waits at a terminal.
    pub(crate) fn with_small_steps(self, small_steps: bool) -> Self {
        Self { small_steps, ..self }
    }

    /// The most tokens that the model reads, if it says so.
    pub(crate) fn context_length(&self) -> Option<usize> {
        self.model.info().context_length.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0)
    }

    /// Forgets all but the system prompt.
    pub(crate) fn reset(&mut self) -> Result {
        self.messages.clear();
        self.forget()
    }

    fn forget(&mut self) -> Result {
        self.held.clear();
        self.caches = make_prompt_cache(self.model, self.max_kv_size)?;
        Ok(())
    }

    /// The system prompt.
    pub(crate) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// From the next answer on, the system prompt is this one; none if it is empty.
    pub(crate) fn set_system(&mut self, system: &str) {
        self.system = Some(system.to_owned()).filter(|system| !system.is_empty());
    }

    /// Changes how answers are made; what no sampler takes is refused and changes nothing.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut GenerateOptions)) -> Result {
        let mut options = self.options.clone();
        change(&mut options);
        Sampler::new(&options.sampler)?;
        self.options = options;
        Ok(())
    }

    /// The next answer is drawn from this seed, and those that follow from the seeds after it.
    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Everything that was said, the system prompt first, as the messages of a chat API.
    pub(crate) fn messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|system| message("system", system));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// Goes on from messages as [`messages`](Self::messages) gives them.
    pub(crate) fn load(&mut self, messages: Vec<Value>) -> Result {
        let role = |message: &Value| message["role"].as_str().map(str::to_owned);
        let is_message = |message: &Value| {
            message["content"].is_string()
                && role(message).is_some_and(|role| ["system", "user", "assistant"].contains(&role.as_str()))
        };
        if !messages.iter().all(is_message) {
            return Err(Failure::new("it is not a saved conversation")
                .hint("`/save` writes one: a list of objects with `role` and `content`"));
        }
        let (system, others): (Vec<Value>, Vec<Value>) =
            messages.into_iter().partition(|message| message["role"] == "system");
        self.system = system.first().and_then(|message| message["content"].as_str()).map(str::to_owned);
        self.messages = others;
        Ok(())
    }

    /// Answers. A turn that fails, or is stopped before a word of the answer, has never been.
    pub(crate) fn answer(&mut self, question: &str, listener: &mut dyn Listener) -> Result<Option<Answered>> {
        self.messages.push(message("user", question));
        let answered = self.generate(listener);
        if !matches!(answered, Ok(Some(_))) {
            self.messages.pop();
        }
        if answered.is_err() {
            self.forget()?;
        }
        answered
    }

    /// Answers the last question once more. If that fails, the answer that was there stays.
    pub(crate) fn answer_again(&mut self, listener: &mut dyn Listener) -> Result<Option<Answered>> {
        let Some(before) = self.messages.pop_if(|message| message["role"] == "assistant") else {
            return Err(Failure::new("there is no answer to generate again"));
        };
        let answered = self.generate(listener);
        if !matches!(answered, Ok(Some(_))) {
            self.messages.push(before);
        }
        if answered.is_err() {
            self.forget()?;
        }
        answered
    }

    fn generate(&mut self, listener: &mut dyn Listener) -> Result<Option<Answered>> {
        let begin = Instant::now();
        let template = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
        let rendered = self.tokenizer.apply_chat_template(&self.messages(), &template)?;
        let tokens = prompt::rendered_tokens(&rendered, self.tokenizer, self.model)?;
        let mut read = self.rewind(&tokens)?;
        if self.small_steps {
            read += self.read(&tokens, read, listener)?;
            self.held = tokens[..read].to_vec();
            if read + 1 < tokens.len() {
                return Ok(None);
            }
        }

        self.options.sampler.seed = Some(self.seed);
        self.seed = self.seed.wrapping_add(1);
        let generator = Generator::new(self.model, self.tokenizer).prompt_cache(&mut self.caches);
        let mut generation = generator.stream(tokens[read..].to_vec(), &self.options).map_err(in_a_chat)?;
        self.held = tokens;
        let (mut text, mut last, mut first_token) = (String::new(), None, Duration::ZERO);
        for response in &mut generation {
            let response = response?;
            if last.is_none() {
                first_token = begin.elapsed();
            }
            self.held.push(response.token);
            text += &response.text;
            let goes_on = listener.said(&response.text)?;
            last = Some(response);
            if !goes_on {
                break;
            }
        }
        drop(generation);
        if last.is_some() {
            self.messages.push(message("assistant", &text));
        }
        let context = self.held.len();
        Ok(last.map(|last| Answered { last, first_token, context }))
    }

    /// Reads what comes after the first `held` tokens, but for the last of all, in steps of a quarter of a second or so; how many were
    /// read, which are fewer if it was stopped.
    fn read(&mut self, tokens: &[u32], held: usize, listener: &mut dyn Listener) -> Result<usize> {
        const STEP: usize = 16;
        const SOON: Duration = Duration::from_millis(100);
        const LATE: Duration = Duration::from_millis(300);
        let total = tokens.len() - held;
        let (mut step, mut since) = (STEP.min(self.options.prefill_step_size), Instant::now());
        let most = self.options.prefill_step_size;
        let read = prefill_by(self.model, &tokens[held..], &mut self.caches, &self.options, &mut |done, _| {
            if done > 0 {
                match since.elapsed() {
                    took if took < SOON => step = (step * 2).min(most),
                    took if took > LATE => step = (step / 2).max(1),
                    _ => {}
                }
            }
            since = Instant::now();
            if listener.reading(done, total) { step.min(total - 1 - done) } else { 0 }
        })
        .map_err(in_a_chat)?;
        Ok(read)
    }

    /// Brings the caches to where they hold the beginning of `tokens` and nothing else; how many they then hold. At
    /// least one token is left to be read.
    fn rewind(&mut self, tokens: &[u32]) -> Result<usize> {
        let same = tokens.iter().zip(&self.held).take_while(|(a, b)| a == b).count();
        let common = same.min(tokens.len().saturating_sub(1));
        let surplus = (self.held.len() - common) as i32;
        if surplus > 0 && self.caches.trim(surplus) != surplus {
            self.forget()?;
            return Ok(0);
        }
        self.held.truncate(common);
        Ok(common)
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A conversation that has become too long can be started again.
fn in_a_chat(error: mlxlm_sample::Error) -> Failure {
    match error {
        mlxlm_sample::Error::PromptTooLong { .. } => {
            Failure::new(error.to_string()).hint("shorten the message, or use `/reset` to start again")
        }
        _ => error.into(),
    }
}
