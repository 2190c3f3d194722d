//! The hub client against a hub on the loopback interface.
#![cfg(feature = "hub")]
#![expect(missing_docs, reason = "a test binary has no interface")]
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

/// A cache of its own for one test, and a record of what was told.
pub struct Bench {
    folder: tempfile::TempDir,
    pub options: HubOptions,
    told: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    pub fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = HubOptions::new(server.address(), folder.path().join("hub"));
        options.retry_delay = Duration::from_millis(1);
        Self { folder, options, told: Arc::default() }
    }

    /// A path in the test's folder, outside the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn hub(&self) -> Hub {
        Hub::new(self.options.clone())
    }

    pub fn progress(&self) -> Progress {
        let told = Arc::clone(&self.told);
        Progress::new(move |event: &Event<'_>| told.lock().unwrap().push(format!("{event:?}")))
    }

    pub fn resolve(&self) -> mlxlm_core::Result<PathBuf> {
        self.hub().resolve(REPO, None, &self.progress())
    }

    /// The message of the failure of [`Bench::resolve`], and its hint.
    pub fn failure(&self) -> (String, String) {
        words(&self.resolve().unwrap_err())
    }

    /// The events that contain `part`.
    pub fn told(&self, part: &str) -> Vec<String> {
        self.told.lock().unwrap().iter().filter(|event| event.contains(part)).cloned().collect()
    }

    /// The repository's folder in the cache.
    pub fn repo(&self) -> PathBuf {
        self.options.cache.join("models--org--name")
    }

    pub fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }
}

pub fn words(error: &mlxlm_core::Error) -> (String, String) {
    use mlxlm_core::Hint;
    (error.to_string(), error.hint().unwrap_or_default())
}

/// The names of all files below a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
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
