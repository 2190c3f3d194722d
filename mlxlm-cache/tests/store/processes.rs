//! Several processes on one folder, killed at any moment, and a file system that takes no more.
//!
//! The other processes are this test program, which [`FOLDER`] makes work for one.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mlxlm_cache::CacheKind;
use mlxlm_cache::store::{DiskOptions, DiskStore, Limits, PromptStore};

use crate::common::assert_same;
use crate::toy::{Toy, key};

/// The folder that a process works on.
const FOLDER: &str = "MLXLM_TEST_STORE_FOLDER";
/// Which prompts it reads first.
const SEED: &str = "MLXLM_TEST_STORE_SEED";
const LIMIT: u64 = 3_000_000;

fn toy() -> Toy {
    Toy { step: 64, ..Toy::of(&[CacheKind::Kv, CacheKind::State { slots: 2 }]) }
}

fn open(folder: &Path) -> PromptStore {
    let options = DiskOptions { limit_bytes: LIMIT, min_tokens: 1, pause: Duration::ZERO };
    PromptStore::new(Limits::default()).with_disk(DiskStore::open(folder, options).unwrap())
}

/// Reads prompts of a few kinds, and holds each against one that is read whole.
fn work(folder: &Path, seed: u64, rounds: usize) {
    let toy = toy();
    let mut store = open(folder);
    let mut state = seed;
    for _ in 0..rounds {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (kind, len) = ((state >> 33) as u32 % 5, 40 + (state >> 40) as usize % 100);
        let prompt: Vec<u32> = (0..len as u32).map(|i| if i < 35 { i } else { i * (kind + 2) }).collect();
        let (_, said) = toy.serve(&mut store, &key("m"), &prompt, &[], &[35]);
        assert_same(&[said], &[toy.fresh(&prompt)]);
        store.flush().unwrap();
        let total: u64 = mlxlm_core::io::list_files(folder).unwrap().iter().map(|file| file.len_bytes).sum();
        // A listing is not of one moment: a file that others rename or replace meanwhile may be in it twice.
        assert!(total <= LIMIT + LIMIT / 4, "{total} of {LIMIT}");
        assert_eq!(store.stats().disk.unwrap().damaged, 0);
    }
}

fn spawn(test: &str, folder: &Path, seed: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--quiet"]).env(FOLDER, folder).env(SEED, seed.to_string());
    command.stdout(std::process::Stdio::null()).spawn().unwrap()
}

/// As a test of its own one process on a folder of its own; as a child of the others it works on theirs.
#[test]
fn a_process() {
    match (std::env::var_os(FOLDER), std::env::var(SEED)) {
        (Some(folder), Ok(seed)) => work(Path::new(&folder), seed.parse().unwrap(), 1000),
        _ => {
            let folder = tempfile::tempdir().unwrap();
            work(folder.path(), 1, 5);
            assert_eq!(open(folder.path()).disk_mut().unwrap().verify(), 0);
        }
    }
}

#[test]
fn processes_share_a_folder_and_may_be_killed() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut children: Vec<Child> = (0..2).map(|seed| spawn("processes::a_process", folder.path(), seed)).collect();
    for round in 0..4_u64 {
        std::thread::sleep(Duration::from_millis(900 + 170 * round));
        // Nobody has ended by itself: a child that fails does.
        for child in &mut children {
            assert!(child.try_wait().unwrap().is_none(), "a process failed");
        }
        let mut killed = children.remove(0);
        killed.kill().unwrap();
        killed.wait().unwrap();
        children.push(spawn("processes::a_process", folder.path(), 10 + round));
        assert!(start.elapsed() < Duration::from_secs(100));
    }
    work(folder.path(), 99, 10);
    for child in &mut children {
        assert!(child.try_wait().unwrap().is_none(), "a process failed");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    work(folder.path(), 100, 3);
    // What the killed ones left is gone, and what is there is whole.
    let files = mlxlm_core::io::list_files(folder.path()).unwrap();
    assert!(files.iter().all(|file| !mlxlm_core::io::is_temporary(&file.name)), "{files:?}");
    assert!(files.iter().filter(|file| file.name.ends_with(".safetensors")).count() > 1, "{files:?}");
    let mut store = open(folder.path());
    assert_eq!(store.disk_mut().unwrap().verify(), 0);
    let prompt: Vec<u32> = (0..36).collect();
    assert!(store.fetch(&key("m"), &prompt).is_some_and(|hit| hit.tokens >= 34));
}

/// Under a limit on the size of files, which refuses as a full disk does.
#[test]
fn a_full_disk_is_told_once() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let toy = toy();
        let mut store = open(Path::new(&folder));
        let mut reported = Vec::new();
        for first in 1..4 {
            let tokens = vec![first; 50];
            let (_, said) = toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
            assert_same(&[said], &[toy.fresh(&tokens)]);
            reported.extend(store.flush().err().map(|error| error.to_string()));
            assert_eq!(store.fetch(&key("m"), &tokens).map(|hit| hit.tokens), Some(49), "from memory");
        }
        assert!(reported.len() == 1 && reported[0].starts_with("cannot write `"), "{reported:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(std::env::current_exe().unwrap());
    shell.args(["--exact", "processes::a_full_disk_is_told_once", "--quiet"]).env(FOLDER, folder.path());
    // By pipes: a log in a file would be under the limit too.
    let output = shell.process_group(0).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mlxlm_core::io::list_files(folder.path()).unwrap().len(), 1, "the lock alone");
}
