//! One sequence as a file: its caches as Python mlx-lm keeps them, and beside them its tokens and its checkpoints.
//!
//! The metadata has the key (`model`, `adapter`) and, under `store`, what is beside and how far back the caches can go.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::weights::SafetensorsPlan;
use serde::{Deserialize, Serialize};

use crate::store::checkpoint::Held;
use crate::store::memory::common;
use crate::store::{Checkpoint, Hit, Key, rewind};
use crate::{Caches, Error, LayerCache, Result, file};

/// What an entry says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    /// The fewest tokens that the caches can be taken back to.
    lowest: usize,
    /// In the order of their places.
    checkpoints: Vec<Saved>,
}

/// A checkpoint in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    tokens: usize,
    layers: Vec<Part>,
}

/// What there is of a layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// Nothing: the caches have it.
    Later,
    /// The layer, beside the caches.
    Layer {
        /// The how manieth beside them.
        at: usize,
        /// The class that it is of.
        class: String,
    },
    /// Of the caches of a layer that has several.
    List(Vec<Part>),
}

/// What a file with these caches is going to be.
pub(super) fn plan(key: &Key, tokens: &[u32], caches: &Caches, checkpoints: &[&Checkpoint]) -> Result<SafetensorsPlan> {
    let (mut beside, mut saved) = (Vec::new(), Vec::new());
    for checkpoint in checkpoints {
        let layers = checkpoint.layers.iter().map(|held| part(held, &mut beside)).collect();
        saved.push(Saved { tokens: checkpoint.tokens(), layers });
    }
    let contents = Contents { lowest: rewind::lowest(caches, tokens.len()), checkpoints: saved };
    let contents =
        serde_json::to_string(&contents).map_err(|source| mlxlm_core::Error::Json { path: "store".into(), source })?;
    let metadata = [("model", key.model.clone()), ("adapter", key.adapter.clone()), ("store", contents)];
    let metadata: BTreeMap<String, String> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    file::plan_entry(caches.layers(), &beside, tokens, &metadata)
}

fn part<'a>(held: &'a Held, beside: &mut Vec<&'a LayerCache>) -> Part {
    match held {
        Held::Later => Part::Later,
        Held::Layer(layer) => {
            beside.push(layer);
            Part::Layer { at: beside.len() - 1, class: file::class(layer).to_owned() }
        }
        Held::List(parts) => Part::List(parts.iter().map(|held| part(held, beside)).collect()),
    }
}

/// What is known of an entry after one look at it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) tokens: Vec<u32>,
    lowest: usize,
    checkpoints: Vec<usize>,
}

impl Known {
    /// The longest beginning of a prompt, of at most `most` tokens, that the entry has caches of.
    pub(super) fn reaches(&self, prompt: &[u32], most: usize) -> usize {
        let most = common(&self.tokens, prompt).min(most);
        if self.tokens.len() <= most || self.lowest <= most {
            return most;
        }
        self.checkpoints.iter().copied().filter(|&tokens| tokens <= most).max().unwrap_or(0)
    }
}

/// An entry that was opened.
pub(super) struct Opened {
    entry: file::Entry,
    contents: Contents,
    pub(super) known: Known,
}

impl Opened {
    /// Opens an entry, of which the header and the tokens are read, and checks that it is one of this key.
    pub(super) fn open(path: &Path, key: &Key) -> Result<Self> {
        let entry = file::Entry::open(path)?;
        for (what, ours) in [("model", &key.model), ("adapter", &key.adapter)] {
            let theirs = entry.metadata(what)?;
            if theirs != ours {
                return Err(entry.fail(format!("it is of the {what} `{theirs}`, not `{ours}`")));
            }
        }
        let contents: Contents = serde_json::from_str(entry.metadata("store")?)
            .map_err(|e| entry.fail(format!("it cannot be read: {e}")))?;
        let tokens = entry.tokens()?;
        let places = contents.checkpoints.iter().map(|saved| saved.tokens);
        let known = Known { lowest: contents.lowest, checkpoints: places.collect(), tokens };
        Ok(Self { entry, contents, known })
    }

    /// The error of a file whose name says something else.
    pub(super) fn misnamed(&self) -> Error {
        self.entry.fail("its tokens are not those that its name says")
    }

    /// The caches of the longest beginning of a prompt, of at most `most` tokens; nothing if it shares none.
    ///
    /// Checkpoints come from the same entry, opened `again`: what they keep would be copied if the caches had it too.
    pub(super) fn hit(&self, prompt: &[u32], most: usize, again: impl FnOnce() -> Result<Self>) -> Result<Option<Hit>> {
        let tokens = self.known.reaches(prompt, most);
        if tokens == 0 {
            return Ok(None);
        }
        let caches = self.caches(tokens)?;
        let mut checkpoints = Vec::new();
        if !caches.layers().iter().all(rewind::is_always_trimmable) {
            let other = again()?;
            let saved = other.contents.checkpoints.iter().filter(|saved| saved.tokens <= tokens);
            checkpoints = saved.map(|saved| other.checkpoint(saved)).collect::<Result<Vec<_>>>()?;
            if checkpoints.last().is_none_or(|checkpoint| checkpoint.tokens() != tokens) {
                checkpoints.push(Checkpoint::shared(&other.caches(tokens)?, tokens));
            }
        }
        Ok(Some(Hit { caches, tokens, checkpoints }))
    }

    /// The caches after so many of the tokens. To be asked for once.
    fn caches(&self, tokens: usize) -> Result<Caches> {
        let seen = self.known.tokens.len();
        let later = Caches::from_layers((0..self.entry.len()).map(|i| self.entry.layer(i)).collect::<Result<_>>()?);
        rewind::check_read(&later, seen)?;
        let caches = if seen == tokens || self.contents.lowest <= tokens {
            let layers = later.layers().iter().map(|layer| rewind::back_to(layer, seen, tokens, false));
            layers.collect::<Option<Vec<_>>>().map(Caches::from_layers)
        } else {
            let saved = self.contents.checkpoints.iter().find(|saved| saved.tokens == tokens);
            let checkpoint = saved.map(|saved| self.checkpoint(saved)).transpose()?;
            checkpoint.and_then(|checkpoint| checkpoint.caches(&later, seen, false))
        };
        let caches = caches.ok_or_else(|| self.entry.fail(format!("it has no caches of {tokens} tokens")))?;
        rewind::check_read(&caches, tokens)?;
        Ok(caches)
    }

    fn checkpoint(&self, saved: &Saved) -> Result<Checkpoint> {
        let layers = saved.layers.iter().map(|part| self.held(part, 0)).collect::<Result<_>>()?;
        Ok(Checkpoint::new(saved.tokens, layers))
    }

    fn held(&self, part: &Part, depth: usize) -> Result<Held> {
        const DEEPEST: usize = 4;
        Ok(match part {
            Part::Later => Held::Later,
            Part::Layer { at, class } => Held::Layer(self.entry.beside(*at, class)?),
            Part::List(_) if depth >= DEEPEST => return Err(self.entry.fail("its lists are nested too deeply")),
            Part::List(parts) => {
                Held::List(parts.iter().map(|part| self.held(part, depth + 1)).collect::<Result<_>>()?)
            }
        })
    }
}
