//! Progress of a transfer, reported to whoever draws it: this crate prints nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What happens during a download or an upload.
///
/// Downloads of several files run at once, so that their events mix; those of one file come in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// What is to be moved is known. It may come twice: the index of the shards is fetched before they are.
    Start {
        /// The repository.
        repo: &'a str,
        /// Files to move; those that the cache holds already are not counted.
        files: usize,
        /// Their bytes in all.
        total_bytes: u64,
    },
    /// A file moves on. The first such event of a resumed file starts where it was left.
    File {
        /// The path within the repository.
        file: &'a str,
        /// Bytes that are there now. It falls back to zero when a file has to be fetched anew.
        done_bytes: u64,
        /// Bytes of the whole file.
        total_bytes: u64,
    },
    /// A file of the cache is compared with its hash, because nobody has done so yet or because it was changed since.
    Check {
        /// The path within the repository.
        file: &'a str,
        /// Bytes that were read.
        done_bytes: u64,
        /// Bytes of the whole file.
        total_bytes: u64,
    },
    /// Another process downloads this file; its work is waited for.
    Waiting {
        /// The path within the repository.
        file: &'a str,
    },
    /// An answer of the hub comes slowly. This event is repeated as long as it does.
    Slow {
        /// What is asked for, as in "the list of files".
        what: &'a str,
        /// How long it has been waited for.
        waited: Duration,
    },
    /// A request failed in a way that may pass, and is tried again.
    Retry {
        /// The path within the repository, or nothing for a question about the repository itself.
        file: &'a str,
        /// Why.
        cause: &'a str,
        /// How long the hub is left alone before.
        pause: Duration,
    },
    /// The copy in the cache is taken, which may be an old one.
    FromCache {
        /// The repository.
        repo: &'a str,
        /// Why, as in "the hub cannot be reached".
        cause: &'a str,
    },
    /// All is there.
    Done,
}

/// To whom it is reported: a function that is called with each [`Event`], from several threads.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&Event<'_>) + Send + Sync>);

impl Progress {
    /// Reports to `watcher`, which must return soon, because the transfer waits for it.
    pub fn new(watcher: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(watcher))
    }

    /// Reports to nobody.
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    pub(super) fn report(&self, event: Event<'_>) {
        (self.0)(&event);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
