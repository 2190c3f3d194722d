//! Adapters that come and go while the model runs. One of them is on the model at a time: it is changed between two steps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlxlm_core::io;
use mlxlm_models::CausalLm;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::adapter_set::AdapterSet;
use super::fingerprint::hex;
use super::job::{Fault, FaultKind};

/// A change of the adapters, and where its outcome goes.
#[derive(Debug)]
pub(crate) enum Order {
    /// Reads the folder of a fine-tune; one of the same name is replaced.
    Load { name: String, folder: PathBuf, done: oneshot::Sender<Result<AdapterInfo, Fault>> },
    /// Forgets one. Sequences that have it go on with it. Whether there was one.
    Unload { name: String, done: oneshot::Sender<bool> },
}

/// What others may know of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdapterInfo {
    pub(crate) name: String,
    /// Where it was read from.
    pub(crate) folder: PathBuf,
    /// The leaves of the model that it adds to.
    pub(crate) leaves: usize,
    /// The memory that it takes, in bytes.
    pub(crate) bytes: usize,
}

/// An adapter in memory.
#[derive(Debug)]
pub(super) struct Adapter {
    /// Tells it from others, also of the same name.
    id: u64,
    /// The key of the caches that are made with it: a hash of its files; empty for what the model was loaded with.
    pub(super) key: String,
    set: AdapterSet,
    info: Option<AdapterInfo>,
}

/// The adapters of a model.
#[derive(Debug)]
pub(super) struct Adapters {
    /// What the model was loaded with.
    base: Rc<Adapter>,
    by_name: BTreeMap<String, Rc<Adapter>>,
    /// The one that is on the model.
    on: u64,
    next: u64,
}

impl Adapters {
    pub(super) fn new(model: &dyn CausalLm) -> Self {
        let base = Adapter { id: 0, key: String::new(), set: AdapterSet::of(model), info: None };
        Self { base: Rc::new(base), by_name: BTreeMap::new(), on: 0, next: 1 }
    }

    /// What the model was loaded with.
    pub(super) fn base(&self) -> &Rc<Adapter> {
        &self.base
    }

    /// The adapter of a name.
    pub(super) fn named(&self, name: &str) -> Option<&Rc<Adapter>> {
        self.by_name.get(name)
    }

    /// Reads an adapter.
    pub(super) fn load(&mut self, name: &str, folder: &Path, model: &dyn CausalLm) -> Result<AdapterInfo, Fault> {
        let refused = |error: mlxlm_core::Error| Fault::new(FaultKind::Request, error.to_string());
        let mut hash = Sha256::new();
        for file in ["adapter_config.json", "adapters.safetensors"] {
            hash.update(io::read(folder.join(file)).map_err(refused)?);
        }
        let set = AdapterSet::read(folder, model).map_err(refused)?;
        let (leaves, bytes) = (set.len(), set.nbytes());
        let info = AdapterInfo { name: name.to_owned(), folder: folder.to_owned(), leaves, bytes };
        let adapter = Adapter { id: self.next, key: hex(&hash.finalize()), set, info: Some(info.clone()) };
        self.next += 1;
        self.by_name.insert(name.to_owned(), Rc::new(adapter));
        Ok(info)
    }

    /// Forgets an adapter, and says whether there was one.
    pub(super) fn unload(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// Those that can be asked for.
    pub(super) fn list(&self) -> Vec<AdapterInfo> {
        self.by_name.values().filter_map(|adapter| adapter.info.clone()).collect()
    }

    /// Puts an adapter on the model in place of the one that is there.
    pub(super) fn put_on(&mut self, adapter: &Adapter, model: &mut dyn CausalLm) {
        if self.on != adapter.id {
            adapter.set.put_on(model);
            self.on = adapter.id;
        }
    }

    /// Whether an adapter can still be asked for.
    pub(super) fn is_known(&self, adapter: &Adapter) -> bool {
        adapter.id == self.base.id || self.by_name.values().any(|own| own.id == adapter.id)
    }
}
