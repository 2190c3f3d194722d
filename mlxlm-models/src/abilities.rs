//! What an architecture keeps of a sequence and what can be done with it, seen on a tiny model of its kind without memory.

use mlxlm_cache::CacheKind;
use mlxlm_core::nn::Role;

use crate::{Architecture, CausalLm, Result, measure};

/// What an architecture can do. `tests/laws.rs` holds each of them against models that compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// What layers keep of a sequence, as Python calls it, each once: `KVCache`, `ArraysCache`.
    pub caches: Vec<&'static str>,
    /// Sequences of different lengths can be read at once.
    pub batches: bool,
    /// Keys and values can be quantized.
    pub quantized_kv: bool,
    /// Heads that predict further tokens are loaded from checkpoints that have them.
    pub mtp: bool,
    /// Every block has parts that can be cut over several devices.
    pub shards: bool,
}

impl Architecture {
    /// What it can do, in the form that its tests have.
    pub fn abilities(&self) -> Result<Abilities> {
        let config = self.tiny_config()?;
        let built = measure(&config)?;
        let kinds = built.model.cache_kinds();
        let mut caches = Vec::new();
        for kind in &kinds {
            add_names(kind, &mut caches);
        }
        Ok(Abilities {
            caches,
            batches: kinds.iter().all(can_be_a_row),
            quantized_kv: kinds.iter().all(can_be_quantized) && kinds.iter().any(CacheKind::keeps_kv),
            mtp: self.may_have_mtp(&config)?,
            shards: can_be_cut(&*built.model),
        })
    }
}

fn add_names(kind: &CacheKind, names: &mut Vec<&'static str>) {
    let name = match kind {
        CacheKind::Kv => "KVCache",
        CacheKind::Rotating { .. } => "RotatingKVCache",
        CacheKind::Chunked { .. } => "ChunkedKVCache",
        CacheKind::State { .. } => "ArraysCache",
        CacheKind::Compressed => "LayerCache",
        CacheKind::List(kinds) => return kinds.iter().for_each(|kind| add_names(kind, names)),
    };
    if !names.contains(&name) {
        names.push(name);
    }
}

/// Whether sequences with such caches can be read in one pass.
fn can_be_a_row(kind: &CacheKind) -> bool {
    match kind {
        CacheKind::Kv | CacheKind::Rotating { .. } | CacheKind::Chunked { .. } | CacheKind::State { .. } => true,
        CacheKind::Compressed => false,
        CacheKind::List(kinds) => kinds.iter().all(can_be_a_row),
    }
}

/// Whether quantizing is no error; a state stays as it is.
fn can_be_quantized(kind: &CacheKind) -> bool {
    match kind {
        CacheKind::Compressed => false,
        CacheKind::List(kinds) => kinds.iter().all(can_be_quantized),
        _ => true,
    }
}

/// Whether leaves are cut by outputs and others by inputs.
fn can_be_cut(model: &dyn CausalLm) -> bool {
    let (mut columns, mut rows) = (false, false);
    model.walk("", &mut |_, leaf| match leaf.worth().role {
        Role::Columns => columns = true,
        Role::Rows => rows = true,
        Role::Whole => {}
    });
    columns && rows
}
