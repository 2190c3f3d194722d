//! The server: one engine thread that owns the model and every array, and the APIs of OpenAI and Anthropic over it.
//!
//! - [`Server`] listens and answers; [`ServerOptions`] say how.
//! - [`tools`] and [`reasoning`] find tool calls and reasoning in the text that a model writes.
//! - A [`Loader`] loads the [`Models`] on the engine's thread, and they stay there: only token ids, text and numbers cross threads.
//!
//! ```no_run
//! use std::sync::Arc;
//! use mlxlm_models::{LoadOptions, load};
//! use mlxlm_serve::{Loader, Models, Server, ServerOptions};
//!
//! let loader: Loader = Arc::new(|| {
//!     let main = load("path/to/model", &LoadOptions::default()).map_err(|error| error.to_string())?;
//!     Ok(Models { main, draft: None })
//! });
//! let server = Server::bind(ServerOptions::default())?;
//! server.run(loader)?;
//! # Ok::<(), mlxlm_serve::Error>(())
//! ```
//!
//! The path of a request: `http` checks access and reads the body, `api` reads the fields and makes the prompt, `engine`
//! generates, `text` turns tokens into text, and `api` writes the answer.

mod api;
mod app;
mod engine;
mod error;
mod http;
mod options;
pub mod reasoning;
mod server;
mod shelf;
mod text;
pub mod tools;

pub use api::sampling::Defaults;
pub use engine::{DiskPromptCache, EngineOptions, Loader, Models};
pub use error::{Error, Result};
pub use options::{Access, ApiKey, Asked, Images, Level, Limits, Line, Log, ServerOptions, Tls};
pub use server::{Server, Stop};
pub use shelf::{Finder, OtherModel};
