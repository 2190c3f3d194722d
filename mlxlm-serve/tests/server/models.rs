//! Models for tests: built-in configurations of other kinds with random weights, behind the tokenizer of the demo model.

use mlxlm_models::{Architecture, Built, Loaded, build_random};
use mlxlm_serve::{Loader, Models};
use std::sync::Arc;

use crate::house::demo;

/// A model of this type that says nothing of sense.
pub fn random(model_type: &'static str) -> Loaded {
    let demo = demo();
    let mut config = Architecture::find(model_type).unwrap().tiny_config().unwrap();
    config.set("vocab_size", Some(demo.model.info().vocab_size.into()));
    let Built { model, .. } = build_random(&config, 7).unwrap();
    Loaded { model, config, ..demo }
}

/// What loads it.
pub fn loader(model_type: &'static str) -> Loader {
    Arc::new(move || Ok(Models { main: random(model_type), draft: None }))
}
