//! Datasets: formats against Python mlx-lm, every fault with its place, the hub, batches.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]

mod batches;
mod faults;
mod formats;
mod hub;
#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../../../mlxlm-core/tests/hub/server.rs"]
mod server;

use std::path::{Path, PathBuf};

use mlxlm_core::hub::{Hub, HubOptions, Progress};
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_train::Result;
use mlxlm_train::data::{DatasetOptions, Example, Rows, Splits, load};

/// The tokenizer of the demo model, which has a chat template with tools.
pub(crate) fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-models/demo/demo");
    Tokenizer::from_folder(folder, &TokenizerOptions::default()).unwrap()
}

/// A folder for one test.
pub(crate) struct Bench(tempfile::TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join(name);
        mlxlm_core::io::create_dir_all(path.parent().unwrap()).unwrap();
        mlxlm_core::io::write(path, bytes).unwrap();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The hub that is not there.
    pub(crate) fn offline(&self) -> Hub {
        let mut options = HubOptions::new("http://127.0.0.1:9", self.path("hub"));
        options.offline = true;
        Hub::new(options)
    }

    pub(crate) fn load(&self, options: &DatasetOptions) -> Result<Splits> {
        load(options, &tokenizer(), &self.offline(), &Progress::none())
    }

    /// What is said of a folder that cannot be used, without the folder's own path.
    pub(crate) fn refusal(&self, options: &DatasetOptions) -> String {
        let folder = format!("{}/", self.0.path().display());
        self.load(options).unwrap_err().to_string().replace(&folder, "")
    }
}

pub(crate) fn examples(rows: &Rows) -> &[Example] {
    match rows {
        Rows::Examples(rows) => rows,
        Rows::Preferences(_) => panic!("they are preferences"),
    }
}
