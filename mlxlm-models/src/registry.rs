//! What an architecture declares of itself, and finding the right one.

use std::fmt;

use mlxlm_core::weights::WeightStore;
use serde_json::Value;

use crate::arch::ARCHITECTURES;
use crate::decoder::{self, DecoderConfig};
use crate::{CausalLm, Error, ModelConfig, Result, Rule};

/// A model and the entries of its configuration that nobody looked at.
pub(crate) type Built = (Box<dyn CausalLm>, Vec<String>);

/// One architecture: its names, what has to be done to its checkpoints, and how it is built.
#[derive(Clone, Copy)]
pub struct Architecture {
    /// The `model_type`s that it serves; the first is its own, and its file's, name.
    pub names: &'static [&'static str],
    /// What happens to the tensors of a checkpoint before they are loaded.
    pub rules: &'static [Rule],
    /// How the paths of its routers end: what chooses experts is worth more bits than they are.
    pub routers: &'static [&'static str],
    defaults: fn() -> Value,
    build: fn(&ModelConfig, &WeightStore) -> Result<Built>,
}

impl Architecture {
    /// A stack of blocks between an embedding and a head.
    pub const fn decoder<C: DecoderConfig>(names: &'static [&'static str]) -> Self {
        Self { names, rules: &[], routers: &[], defaults: || Value::Null, build: decoder::build::<C> }
    }

    /// What has to be done to its checkpoints.
    #[must_use]
    pub const fn rules(self, rules: &'static [Rule]) -> Self {
        Self { rules, ..self }
    }

    /// Its routers.
    #[must_use]
    pub const fn routers(self, routers: &'static [&'static str]) -> Self {
        Self { routers, ..self }
    }

    /// What a missing entry of the configuration stands for, where that differs from [`Common`](crate::Common).
    #[must_use]
    pub const fn defaults(self, defaults: fn() -> Value) -> Self {
        Self { defaults, ..self }
    }

    /// The architecture of a `model_type`.
    pub fn find(model_type: &str) -> Result<&'static Self> {
        ARCHITECTURES.iter().copied().find(|arch| arch.names.contains(&model_type)).ok_or_else(|| {
            let mut names: Vec<&str> = ARCHITECTURES.iter().flat_map(|arch| arch.names).copied().collect();
            names.sort_by_key(|name| distance(name, model_type));
            let near = names.into_iter().take(3).map(str::to_owned).collect();
            Error::UnknownModelType { name: model_type.to_owned(), near }
        })
    }

    pub(crate) fn build(&self, config: &ModelConfig, store: &WeightStore) -> Result<Built> {
        (self.build)(&config.with_defaults((self.defaults)()), store)
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Architecture").field("names", &self.names).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Levenshtein distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_told_with_the_nearest() {
        let error = Architecture::find("qwen9").unwrap_err().to_string();
        assert!(error.starts_with("the model type `qwen9` is not known; the nearest are `qwen2`, `qwen3`"), "{error}");
    }

    #[test]
    fn architectures_are_sorted_and_no_name_is_taken_twice() {
        let own: Vec<&str> = ARCHITECTURES.iter().map(|arch| arch.names[0]).collect();
        assert!(own.is_sorted(), "{own:?}");
        let mut all: Vec<&str> = ARCHITECTURES.iter().flat_map(|arch| arch.names).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
