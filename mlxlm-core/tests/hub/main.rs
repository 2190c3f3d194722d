//! The hub client against a hub on the loopback interface.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]

mod download;
mod faults;
mod manage;
mod server;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlxlm_core::hub::{Event, Hub, HubOptions, Progress};
use server::{COMMIT, REPO, Server};

/// A cache of its own for one test, and a record of its events.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) options: HubOptions,
    events: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    pub(crate) fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = HubOptions::new(server.address(), folder.path().join("hub"));
        options.retry_delay = Duration::from_millis(1);
        Self { folder, options, events: Arc::default() }
    }

    /// A path in the test's folder, outside the cache.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(self.options.clone())
    }

    pub(crate) fn progress(&self) -> Progress {
        let events = Arc::clone(&self.events);
        Progress::new(move |event: &Event<'_>| events.lock().unwrap().push(format!("{event:?}")))
    }

    pub(crate) fn resolve(&self) -> mlxlm_core::Result<PathBuf> {
        self.hub().resolve(REPO, None, &self.progress())
    }

    /// The message of the failure of [`Bench::resolve`], and its hint.
    pub(crate) fn failure(&self) -> (String, String) {
        words(&self.resolve().unwrap_err())
    }

    /// The events that contain `part`.
    pub(crate) fn events(&self, part: &str) -> Vec<String> {
        self.events.lock().unwrap().iter().filter(|event| event.contains(part)).cloned().collect()
    }

    /// The repository's folder in the cache.
    pub(crate) fn repo(&self) -> PathBuf {
        self.options.cache.join("models--org--name")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }
}

pub(crate) fn words(error: &mlxlm_core::Error) -> (String, String) {
    use mlxlm_core::Hint;
    (error.to_string(), error.hint().unwrap_or_default())
}

/// The names of all files below a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in mlxlm_core::io::read_dir(&next).unwrap_or_default() {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
