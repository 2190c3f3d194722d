//! What an architecture declares of itself, and finding the right one.

use std::collections::BTreeSet;
use std::fmt;

use mlxlm_core::weights::{Tensors, WeightStore, Weights};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::arch::ARCHITECTURES;
use crate::config::warning;
use crate::frame::{self, DecoderConfig};
use crate::{CausalLm, Common, Error, ModelConfig, Result, Rule};

/// A model, and what the caller should tell the user about it.
#[derive(Debug)]
pub struct Built {
    /// The model.
    pub model: Box<dyn CausalLm>,
    /// Such as entries of the configuration that were not understood.
    pub warnings: Vec<String>,
}

/// One architecture: its names, what a missing entry stands for, and how it is built.
#[derive(Clone, Copy)]
pub struct Architecture {
    /// The `model_type`s that it serves; the first is its own, and its file's, name.
    pub names: &'static [&'static str],
    /// Pairs of a `model_type` of another architecture and an entry of `architectures` that mean this one.
    classes: &'static [(&'static str, &'static str)],
    aliases: &'static [(&'static str, &'static str)],
    defaults: fn() -> Value,
    kind: Kind,
    /// The text of a configuration of this kind with small numbers.
    tiny: &'static str,
}

/// An architecture's own entries of a configuration, and those that it did not look at.
type Parsed = (Box<dyn DecoderConfig>, Vec<String>);

/// How an architecture is built.
#[derive(Clone, Copy)]
enum Kind {
    /// A stack of blocks between an embedding and a head.
    Decoder(fn(&ModelConfig) -> Result<Parsed>),
    /// The text model of another architecture inside a model of images or sound.
    TextOf { prefix: &'static str, inner: fn(&ModelConfig) -> Result<&'static Architecture>, rules: fn() -> Vec<Rule> },
    /// A model that writes its own stack.
    Model { rules: fn(&ModelConfig) -> Result<Vec<Rule>>, build: fn(&ModelConfig, &Weights) -> Result<Built> },
}

impl Architecture {
    /// A stack of blocks between an embedding and a head.
    pub const fn decoder<C: DecoderConfig + DeserializeOwned + 'static>(names: &'static [&'static str]) -> Self {
        fn parse<C: DecoderConfig + DeserializeOwned + 'static>(config: &ModelConfig) -> Result<Parsed> {
            let (own, unread): (C, _) = config.parse()?;
            Ok((Box::new(own), unread))
        }
        Self {
            names,
            classes: &[],
            aliases: &[],
            defaults: || Value::Null,
            kind: Kind::Decoder(parse::<C>),
            tiny: "{}",
        }
    }

    /// The text model inside a model of images or sound: its configuration is the entry `text_config`, or the whole file if
    /// there is none, and its tensors lie below `prefix`, which may be empty. `rules` put them there and drop what is not text; those of the text
    /// model follow, with names as if it stood alone.
    pub const fn text_of(
        names: &'static [&'static str],
        prefix: &'static str,
        inner: fn(&ModelConfig) -> Result<&'static Self>,
        rules: fn() -> Vec<Rule>,
    ) -> Self {
        Self {
            names,
            classes: &[],
            aliases: &[],
            defaults: || Value::Null,
            kind: Kind::TextOf { prefix, inner, rules },
            tiny: "{}",
        }
    }

    /// A model with a stack of its own.
    pub const fn model(
        names: &'static [&'static str],
        rules: fn(&ModelConfig) -> Result<Vec<Rule>>,
        build: fn(&ModelConfig, &Weights) -> Result<Built>,
    ) -> Self {
        Self {
            names,
            classes: &[],
            aliases: &[],
            defaults: || Value::Null,
            kind: Kind::Model { rules, build },
            tiny: "{}",
        }
    }

    /// What else means this architecture: a `model_type` of another one together with an entry of `architectures`.
    #[must_use]
    pub const fn by_class(self, classes: &'static [(&'static str, &'static str)]) -> Self {
        Self { classes, ..self }
    }

    /// Pairs of a `model_type` of another architecture and an entry of `architectures` that mean this one.
    pub fn classes(&self) -> &'static [(&'static str, &'static str)] {
        self.classes
    }

    /// Whether it is the text model inside a model of images or sound.
    pub fn is_wrapper(&self) -> bool {
        matches!(self.kind, Kind::TextOf { .. })
    }

    /// With a configuration of this kind with small numbers, by which its [abilities](Self::abilities) are seen.
    #[must_use]
    pub(crate) const fn tiny(self, config: &'static str) -> Self {
        Self { tiny: config, ..self }
    }

    /// A configuration of this kind with small numbers, as the tests have it.
    pub fn tiny_config(&self) -> Result<ModelConfig> {
        ModelConfig::new(serde_json::from_str(self.tiny).map_err(|e| Error::config(e.to_string()))?)
    }

    /// Other names of entries, and the usual ones.
    #[must_use]
    pub const fn aliases(self, aliases: &'static [(&'static str, &'static str)]) -> Self {
        Self { aliases, ..self }
    }

    /// What a missing entry of the configuration stands for, where that differs from [`Common`].
    #[must_use]
    pub const fn defaults(self, defaults: fn() -> Value) -> Self {
        Self { defaults, ..self }
    }

    /// The architecture of a `model_type`.
    pub fn find(model_type: &str) -> Result<&'static Self> {
        ARCHITECTURES.iter().copied().find(|arch| arch.names.contains(&model_type)).ok_or_else(|| {
            let mut names: Vec<&str> = ARCHITECTURES.iter().flat_map(|arch| arch.names).copied().collect();
            names.sort_by_key(|name| distance(name, model_type));
            // Two slips of the finger, or one in a short name; whatever is farther is another model.
            let slips = if model_type.len() < 5 { 1 } else { 2 };
            let near = names.into_iter().filter(|name| distance(name, model_type) <= slips);
            let near = near.take(3).map(str::to_owned).collect();
            Error::UnknownModelType { name: model_type.to_owned(), near }
        })
    }

    /// The architecture of a configuration.
    pub fn of(config: &ModelConfig) -> Result<&'static Self> {
        let model_type = config.model_type()?;
        let classes = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
        for class in classes.filter_map(Value::as_str) {
            let meant = |arch: &&'static Self| arch.classes.contains(&(model_type, class));
            if let Some(arch) = ARCHITECTURES.iter().copied().find(meant) {
                return Ok(arch);
            }
        }
        Self::find(model_type)
    }

    /// The configuration as the architecture reads it, and what stands for missing entries.
    fn prepared(&self, config: &ModelConfig) -> Result<(ModelConfig, ModelConfig)> {
        let defaults = match (self.defaults)() {
            Value::Null => Value::Object(serde_json::Map::new()),
            defaults => defaults,
        };
        Ok((config.renamed(self.aliases), ModelConfig::new(defaults)?))
    }

    /// The configuration with what missing entries stand for.
    pub(crate) fn filled(&self, config: &ModelConfig) -> Result<ModelConfig> {
        let (mut filled, defaults) = self.prepared(config)?;
        if let Value::Object(defaults) = defaults.to_value() {
            for (key, value) in defaults {
                if filled.get(&key).is_none() {
                    filled.set(&key, Some(value));
                }
            }
        }
        Ok(filled)
    }

    /// Builds the model of a configuration: applies the architecture's rules to the tensors, and gives the store made of them
    /// to its parts. Without `mtp`, heads that predict further tokens are dropped.
    pub(crate) fn build(
        &self,
        config: &ModelConfig,
        mut tensors: Tensors,
        mtp: bool,
        store: impl FnOnce(Tensors) -> Result<WeightStore>,
    ) -> Result<(Built, WeightStore)> {
        for rule in self.all_rules(config, mtp)? {
            rule.apply(&mut tensors)?;
        }
        let store = store(tensors)?;
        let built = self.build_at(config, &store.root())?;
        Ok((built, store))
    }

    /// What has to be done to checkpoints of this configuration, of which heads that predict further tokens are dropped.
    pub fn rules(&self, config: &ModelConfig) -> Result<Vec<Rule>> {
        self.all_rules(config, false)
    }

    /// Whether models of this configuration may have heads that predict further tokens: see [`CausalLm::mtp`].
    pub(crate) fn may_have_mtp(&self, config: &ModelConfig) -> Result<bool> {
        match self.kind {
            Kind::Decoder(parse) => {
                let (file, defaults) = self.prepared(config)?;
                Ok(parse(&file.or(&defaults))?.0.mtp().is_some())
            }
            Kind::TextOf { inner, .. } => {
                let text = self.text_config(config)?;
                inner(&text)?.may_have_mtp(&text)
            }
            Kind::Model { .. } => Ok(false),
        }
    }

    /// As [`rules`](Self::rules); with `mtp`, heads that predict further tokens stay.
    fn all_rules(&self, config: &ModelConfig, mtp: bool) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::Drop("**.rotary_emb.inv_freq")];
        match self.kind {
            Kind::Decoder(parse) => {
                let (file, defaults) = self.prepared(config)?;
                let (own, _) = parse(&file.or(&defaults))?;
                let common = Common::new(&file, &defaults)?;
                own.check(&common)?;
                let heads = own.mtp().filter(|_| !mtp);
                rules.extend(heads.map(|heads| heads.drop_rule(&own.names(), own.layers(&common))));
                rules.extend(own.rules(&common)?);
            }
            Kind::TextOf { prefix, inner, rules: own } => {
                rules.extend(own());
                let text = self.text_config(config)?;
                let inner = inner(&text)?.all_rules(&text, mtp)?;
                rules.push(Rule::custom(move |tensors| below_prefix(tensors, prefix, &inner)));
            }
            Kind::Model { rules: own, .. } => {
                let (file, defaults) = self.prepared(config)?;
                rules.extend(own(&file.or(&defaults))?);
            }
        }
        Ok(rules)
    }

    /// The configuration of the text model of a wrapper: `text_config`, with what only the outer file says of the text, and
    /// what the wrapper has for missing entries.
    fn text_config(&self, config: &ModelConfig) -> Result<ModelConfig> {
        let (_, defaults) = self.prepared(config)?;
        if config.get("text_config").is_none() {
            return Ok(config.or(&defaults));
        }
        let mut text = config.nested("text_config")?;
        for key in ["tie_word_embeddings", "vocab_size", "model_type"] {
            if text.get(key).is_none() {
                text.set(key, config.get(key).cloned());
            }
        }
        Ok(text.or(&defaults))
    }

    /// Builds the model of a configuration from the weights at `w`, to which its rules were applied.
    pub(crate) fn build_at(&self, config: &ModelConfig, w: &Weights) -> Result<Built> {
        match self.kind {
            Kind::Decoder(parse) => {
                let (file, defaults) = self.prepared(config)?;
                let (own, unread) = parse(&file.or(&defaults))?;
                let common = Common::new(&file, &defaults)?;
                own.check(&common)?;
                let model = frame::assemble(&*own, w, &common)?;
                let in_file: BTreeSet<&str> = file.keys().collect();
                let in_file = |key: &String| in_file.contains(key.split('.').next().unwrap_or(key));
                let unread = unread.into_iter().filter(in_file).collect();
                Ok(Built { model, warnings: warning(&file, common.unread(unread)) })
            }
            Kind::TextOf { prefix, inner, .. } => {
                let text = self.text_config(config)?;
                inner(&text)?.build_at(&text, &w.at(prefix))
            }
            Kind::Model { build, .. } => {
                let (file, defaults) = self.prepared(config)?;
                build(&file.or(&defaults), w)
            }
        }
    }
}

/// Applies rules to the tensors below a prefix, as if they stood alone.
fn below_prefix(tensors: &mut Tensors, prefix: &str, rules: &[Rule]) -> Result<()> {
    if prefix.is_empty() {
        return rules.iter().try_for_each(|rule| rule.apply(tensors));
    }
    let start = format!("{prefix}.");
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(&start)).cloned().collect();
    let mut own = Tensors::new();
    for name in names {
        if let (Some(array), Some(short)) = (tensors.remove(&name), name.strip_prefix(&start)) {
            own.insert(short.to_owned(), array);
        }
    }
    for rule in rules {
        rule.apply(&mut own)?;
    }
    tensors.extend(own.into_iter().map(|(name, array)| (format!("{start}{name}"), array)));
    Ok(())
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Architecture").field("names", &self.names).finish_non_exhaustive()
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
    fn what_is_like_no_type_has_no_nearest() {
        let error = Architecture::find("chatterbox").unwrap_err().to_string();
        assert_eq!(error, "the model type `chatterbox` is not known");
    }

    #[test]
    fn an_unknown_type_is_reported_with_the_nearest() {
        let error = Architecture::find("qwen9").unwrap_err().to_string();
        assert!(error.starts_with("the model type `qwen9` is not known; the nearest are `qwen`, `qwen2`"), "{error}");
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

    #[test]
    fn every_architecture_has_a_tiny_configuration_of_its_own() {
        for arch in ARCHITECTURES {
            let found = Architecture::of(&arch.tiny_config().unwrap()).unwrap();
            assert_eq!(found.names, arch.names);
            assert!(arch.abilities().is_ok(), "{:?}", arch.abilities());
        }
    }
}
