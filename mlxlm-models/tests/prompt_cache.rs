//! Prompt caches that Python mlx-lm wrote, read on by the models that they are of, and the way back.
//!
//! The files are those of `mlxlm-cache` (mlx-lm 0.32.2, with its models as recipes); their `expected.safetensors` holds the
//! tokens, the logits of the last five (one by one, and at once), and of three that follow after two were taken back.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_cache::{Caches, Offset};
use mlxlm_core::weights::SafetensorsFile;
use mlxlm_core::{Array, io};
use mlxlm_models::CausalLm;

use support::{columns, largest, largest_difference, model_of, step_by_step};

/// A cache file, the model that it is of, and what the reference computes with both.
struct Case {
    name: String,
    folder: PathBuf,
    expected: SafetensorsFile,
    model: Box<dyn CausalLm>,
    /// Tokens that the cache holds.
    seen: i32,
}

impl Case {
    /// `None` if the model is of an architecture that cannot be loaded.
    fn open(folder: PathBuf) -> Option<Self> {
        let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let metadata = expected.metadata();
        let model = folder.with_file_name(&metadata["model"]);
        let model = model.is_dir().then(|| model_of(&model, None).unwrap())?;
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Some(Self { name, folder, seen: metadata["seen"].parse().unwrap(), expected, model })
    }

    fn load(&self) -> Caches {
        let (caches, metadata) = Caches::load(self.folder.join("cache.safetensors")).unwrap();
        assert_eq!(metadata["model"], self.expected.metadata()["model"], "{}", self.name);
        caches.check_fits(&self.model.cache_kinds()).unwrap();
        assert!(matches!(caches.offset(), Offset::Same(n) if n == self.seen), "{}: {:?}", self.name, caches.offset());
        caches
    }

    fn tokens(&self) -> Array {
        self.expected.array("tokens").unwrap()
    }

    fn read(&self, from: i32, to: i32, caches: &mut Caches) -> Array {
        self.model.forward(&columns(&self.tokens(), from, to), Some(caches)).unwrap()
    }

    fn same(&self, what: &str, got: &Array, expected: &Array) {
        let (off, allowed) = (largest_difference(got, expected), 1e-4 * largest(expected));
        assert!(off <= allowed, "{}: {what} is off by {off:.1e}, allowed {allowed:.1e}", self.name);
    }
}

fn check(test: impl Fn(&Case)) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxlm-cache/tests/fixtures/mlx_lm_0.32.2");
    let folders = io::read_dir(fixtures).unwrap().into_iter().filter(|path| path.join("cache.safetensors").is_file());
    let cases: Vec<Case> = folders.filter_map(Case::open).collect();
    assert!(cases.len() >= 7, "only {} cases were found", cases.len());
    cases.iter().for_each(test);
}

#[test]
fn what_was_cached_is_read_on() {
    check(|case| {
        let total = case.tokens().dim(1);
        let logits = step_by_step(&*case.model, &columns(&case.tokens(), case.seen, total), &mut case.load());
        case.same("step by step", &logits, &case.expected.array("logits_step").unwrap());
        let chunk = case.read(case.seen, total, &mut case.load());
        case.same("at once", &chunk, &case.expected.array("logits_chunk").unwrap());
    });
}

#[test]
fn what_was_cached_is_taken_back() {
    check(|case| {
        let mut caches = case.load();
        let expected = case.expected.names().contains(&"logits_after_trim2".to_owned());
        assert_eq!(caches.is_trimmable(), expected, "{}", case.name);
        if expected {
            assert_eq!(caches.trim(2), 2, "{}", case.name);
            let logits = case.read(case.seen - 2, case.seen + 1, &mut caches);
            case.same("after a trim", &logits, &case.expected.array("logits_after_trim2").unwrap());
        }
    });
}

#[test]
fn our_own_file_is_read_on_as_well() {
    check(|case| {
        let total = case.tokens().dim(1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.safetensors");
        let caches = case.load();
        caches.save(&path, &BTreeMap::new()).unwrap();
        let mut again = Caches::load(&path).unwrap().0;
        let logits = case.read(case.seen, total, &mut again);
        case.same("after saving", &logits, &case.expected.array("logits_chunk").unwrap());
    });
}

/// The keys and values that our own model computes are those in the file, as far as logits can tell; only plain caches
/// can be computed again, as rounding (quantized ones) and dropping (rotating ones) depend on the way they were filled.
#[test]
fn a_prompt_read_here_goes_on_as_one_read_there() {
    check(|case| {
        if !case.name.starts_with("kv") {
            return;
        }
        let total = case.tokens().dim(1);
        let mut caches = Caches::new(&case.model.cache_kinds());
        case.read(0, case.seen, &mut caches);
        let logits = case.read(case.seen, total, &mut caches);
        case.same("a prompt read here", &logits, &case.expected.array("logits_chunk").unwrap());
    });
}
