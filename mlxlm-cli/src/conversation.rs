//! A conversation: all messages so far, and caches that hold as much of them as they can.
//!
//! Unusual: Python mlx-lm keeps no messages and feeds each turn, system prompt included, behind the last. Here the whole
//! conversation is rendered for each answer, as the template wants it, and what the caches hold of it already is not
//! read again. Where they hold something else, as after a template that drops earlier thinking, the caches go back to
//! where the two part.

use mlxlm_cache::Caches;
use mlxlm_core::text::{TemplateOptions, Tokenizer};
use mlxlm_models::CausalLm;
use mlxlm_sample::{GenerateOptions, GenerationResponse, Generator, make_prompt_cache};
use serde_json::{Value, json};

use crate::failure::Result;

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
        })
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

    /// Answers, piece by piece, until `say` returns false. A turn that fails has never been.
    pub(crate) fn answer(
        &mut self,
        question: &str,
        say: &mut dyn FnMut(&str) -> Result<bool>,
    ) -> Result<Option<GenerationResponse>> {
        self.messages.push(message("user", question));
        let answered = self.generate(say);
        if answered.is_err() {
            self.messages.pop();
            self.forget()?;
        }
        answered
    }

    fn generate(&mut self, say: &mut dyn FnMut(&str) -> Result<bool>) -> Result<Option<GenerationResponse>> {
        let system = self.system.iter().map(|system| message("system", system));
        let messages: Vec<Value> = system.chain(self.messages.iter().cloned()).collect();
        let template = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
        let tokens = self.tokenizer.encode_chat(&messages, &template)?;
        let common = self.rewind(&tokens)?;

        self.options.sampler.seed = Some(self.seed);
        self.seed = self.seed.wrapping_add(1);
        let generator = Generator::new(self.model, self.tokenizer).prompt_cache(&mut self.caches);
        let mut generation = generator.stream(tokens[common..].to_vec(), &self.options)?;
        self.held = tokens;
        let (mut text, mut last) = (String::new(), None);
        for response in &mut generation {
            let response = response?;
            self.held.push(response.token);
            text += &response.text;
            let goes_on = say(&response.text)?;
            last = Some(response);
            if !goes_on {
                break;
            }
        }
        self.messages.push(message("assistant", &text));
        Ok(last)
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
