//! Text in and out: tokenizers, streaming detokenizers and chat templates.
//!
//! - [`Tokenizer`] is loaded from a model folder and does all of it: `encode`, `decode`, the ids that end a text, the
//!   thinking tokens of the model, and its chat template.
//! - [`Detokenizer`] turns ids into text one by one and never cuts a character.
//! - [`ChatTemplate`] renders messages as Python's `transformers` does, under limits, since templates come with the
//!   model and are foreign code.
//!
//! ```no_run
//! use mlxlm_core::text::{TemplateOptions, Tokenizer, TokenizerOptions};
//! # fn main() -> mlxlm_core::Result<()> {
//! let tokenizer = Tokenizer::from_folder("models/demo", &TokenizerOptions::default())?;
//! let messages = [serde_json::json!({"role": "user", "content": "What is the capital of France?"})];
//! let options = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
//! let prompt: Vec<u32> = tokenizer.encode_chat(&messages, &options)?;
//!
//! let mut detokenizer = tokenizer.detokenizer();
//! for id in prompt {
//!     detokenizer.add_token(id);
//!     let _readable_so_far: String = detokenizer.last_segment();
//! }
//! detokenizer.finalize();
//! # Ok(())
//! # }
//! ```

mod chat_template;
mod codec;
mod config;
mod detokenizer;
mod error;
mod llama;
mod python;
mod sentencepiece;
mod thinking;
mod tokenizer;

pub use chat_template::{ChatTemplate, TemplateOptions};
pub use detokenizer::{Detokenizer, DetokenizerKind};
pub use error::TextError;
pub use thinking::Thinking;
pub use tokenizer::{Tokenizer, TokenizerOptions};
