//! Text in and out: tokenizers, streaming detokenizers and chat templates.
//!
//! - [`Tokenizer`] is loaded from a model folder and does all of it: `encode`, `decode`, the ids that end a text, the
//!   thinking tokens of the model, and its chat template.
//! - [`Detokenizer`] turns ids into text one by one and never cuts a character.
//! - [`GgufTokenizer`] makes one of the metadata of a GGUF file.
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
mod decoding;
mod detokenizer;
mod error;
#[cfg(feature = "mlx")]
mod gguf;
mod growth;
mod guard;
mod llama;
mod python;
mod sentencepiece;
mod thinking;
mod tokenizer;
mod vet;

pub use chat_template::{ChatTemplate, TemplateOptions};
pub use config::token_ids;
pub use detokenizer::Detokenizer;
pub use error::TextError;
#[cfg(feature = "mlx")]
pub use gguf::GgufTokenizer;
pub use thinking::Thinking;
pub use tokenizer::{Tokenizer, TokenizerOptions};
