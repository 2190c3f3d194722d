//! Laws of the decode loops, on small real models.

mod batch;
mod draft;
mod errors;
mod exact;
mod mtp;
mod plain;

use crate::engine::{Chooser, Decoding};
use crate::testing::ids;
use crate::{GenerateOptions, ProcessorOptions};
use mlxlm_models::CausalLm;

/// Penalties that depend on the whole history.
fn penalties() -> ProcessorOptions {
    ProcessorOptions {
        repetition_penalty: Some(1.3),
        repetition_context_size: 0,
        frequency_penalty: Some(0.2),
        frequency_context_size: 7,
        ..ProcessorOptions::default()
    }
}

fn chooser(options: &GenerateOptions) -> Chooser {
    Chooser::from_options(&options.sampler, &options.processors).unwrap()
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() }
}

/// The tokens of plain decoding.
fn plain(model: &dyn CausalLm, prompt: &[u32], options: &GenerateOptions) -> Vec<u32> {
    ids(Decoding::new(model, prompt, None, chooser(options), options).unwrap()).unwrap()
}
