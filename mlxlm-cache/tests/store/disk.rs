//! The store on disk: the same bits after a restart, damage, limits, and a disk that refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlxlm_cache::store::{DiskOptions, DiskStats, DiskStore, Key, Limits, PromptStore};
use mlxlm_cache::{CacheKind, Caches};
use mlxlm_core::io::FolderLock;
use mlxlm_core::weights::arrays_are_mapped;
use proptest::prelude::*;

use crate::common::{assert_same, numbers};
use crate::toy::{Toy, key, models};

fn options() -> DiskOptions {
    DiskOptions { min_tokens: 1, ..DiskOptions::default() }
}

fn on(folder: &Path) -> PromptStore {
    let disk = DiskStore::open(folder, options()).unwrap();
    PromptStore::new(Limits::default()).with_disk(disk)
}

fn stats(store: &PromptStore) -> DiskStats {
    store.stats().disk.unwrap()
}

/// The entries of a folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    entries.sort();
    entries
}

/// A folder with one sequence of a model, read by `toy`.
fn one(toy: &Toy, folder: &Path, tokens: &[u32]) -> PathBuf {
    let mut store = on(folder);
    toy.serve(&mut store, &key("m"), tokens, &[], &[]);
    store.flush().unwrap();
    let entries = entries(folder);
    assert_eq!(entries.len(), 1);
    entries[0].clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A store that is opened anew before every prompt knows what one that stays knows, to the bit.
    #[test]
    fn a_hit_on_disk_is_the_caches_that_were_written(
        which in 0..models().len(),
        prompts in prop::collection::vec((1..5_u32, 40..90_usize, 0..40_usize), 1..6),
    ) {
        let toy = &models()[which];
        let folder = tempfile::tempdir().unwrap();
        let mut stays = PromptStore::new(Limits::default());
        for (which, len, answer) in prompts {
            // Those of different numbers part after forty.
            let prompt: Vec<u32> = (0..len as u32).map(|i| if i < 40 { i } else { i * which }).collect();
            let answer: Vec<u32> = (0..answer as u32).map(|i| 500 + i).collect();
            let mut anew = on(folder.path());
            let (known, said) = toy.serve(&mut anew, &key("m"), &prompt, &answer, &[40]);
            anew.flush().unwrap();
            prop_assert_eq!(anew.stats().pending, 0);
            if arrays_are_mapped() {
                prop_assert_eq!(anew.stats().sequences, 0, "what is mapped need not be in memory too");
            }
            let (known_by_other, said_by_other) = toy.serve(&mut stays, &key("m"), &prompt, &answer, &[40]);
            prop_assert_eq!(known, known_by_other);
            assert_same(&[said.clone()], &[said_by_other]);
            assert_same(&[said], &[toy.fresh(&prompt)]);
        }
        prop_assert_eq!(on(folder.path()).disk_mut().unwrap().verify(), 0);
    }

    /// Whatever is written in whatever order, by two stores in turn, the folder keeps its limit.
    #[test]
    fn the_limit_holds(
        prompts in prop::collection::vec((any::<bool>(), 0..9_u32, 1..700_usize), 1..12),
        limit_bytes in 100_000..900_000_u64,
    ) {
        let toy = Toy { step: 64, ..Toy::of(&[CacheKind::Kv]) };
        let folder = tempfile::tempdir().unwrap();
        let open = || DiskStore::open(folder.path(), DiskOptions { limit_bytes, ..options() }).unwrap();
        let mut stores = [open(), open()];
        for (which, first, len) in prompts {
            let tokens: Vec<u32> = (0..len as u32).map(|i| i + 1000 * first).collect();
            let mut caches = toy.caches();
            toy.read(&mut caches, &tokens, 0, len);
            let store = &mut stores[usize::from(which)];
            let is_there = store.insert(&key("m"), &tokens, &caches, &[]).unwrap();
            let total: u64 = entries(folder.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            prop_assert!(total <= limit_bytes, "{total} of {limit_bytes}");
            if is_there {
                let prompt = [&tokens[..], &[7]].concat();
                prop_assert_eq!(store.fetch(&key("m"), &prompt).map(|hit| hit.tokens), Some(len));
            }
        }
    }
}

#[test]
fn an_entry_is_a_prompt_cache_file() {
    for toy in models() {
        let folder = tempfile::tempdir().unwrap();
        let tokens: Vec<u32> = (0..40).collect();
        let path = one(&toy, folder.path(), &tokens);
        let (mut caches, metadata) = Caches::load(path).unwrap();
        caches.check_fits(&toy.kinds).unwrap();
        assert_eq!((&*metadata["model"], &*metadata["adapter"]), ("m", ""));
        let more = [&tokens[..], &[41]].concat();
        let said = toy.read(&mut caches, &more, 40, 41);
        assert_same(&[said], &[toy.fresh(&more)]);
    }
}

#[test]
fn what_is_held_is_written_and_room_is_zero() {
    let folder = tempfile::tempdir().unwrap();
    let toy = Toy::of(&[CacheKind::Kv]);
    let mut caches = toy.caches();
    let tokens: Vec<u32> = (0..40).collect();
    toy.read(&mut caches, &tokens, 0, 40);
    caches.trim(30);
    let mut disk = DiskStore::open(folder.path(), options()).unwrap();
    assert!(disk.insert(&key("m"), &tokens[..10], &caches, &[]).unwrap());
    let (again, _) = Caches::load(&entries(folder.path())[0]).unwrap();
    let (held, was) = (again.arrays(), caches.arrays());
    assert_eq!(held[0].shape(), [1, 2, 256, 32]);
    for (held, was) in held.into_iter().zip(was) {
        let (held, was) = (numbers(held), numbers(was));
        for head in 0..2 {
            let at = head * 256 * 32;
            assert_eq!(held[at..at + 320], was[at..at + 320]);
            assert!(held[at + 320..at + 256 * 32].iter().all(|&x| x == 0.0), "tokens that were taken back");
        }
    }
}

#[test]
fn damaged_entries_are_removed_and_the_prompt_is_read() {
    let toy = Toy::of(&[CacheKind::State { slots: 1 }, CacheKind::Kv]);
    let tokens: Vec<u32> = (0..60).collect();
    let whole = {
        let folder = tempfile::tempdir().unwrap();
        fs::read(one(&toy, folder.path(), &tokens)).unwrap()
    };
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let longer = [&whole[..], &[0]].concat();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let digit = whole.windows(11).position(|bytes| bytes == br#"\"lowest\":"#).unwrap() + 11;
    let small = whole.len() - 5;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("cut in its length", whole[..5].to_vec()),
        ("cut in the header", whole[..header / 2].to_vec()),
        ("cut in the data", whole[..whole.len() - 1].to_vec()),
        ("longer than it says", longer),
        ("zeros", vec![0; whole.len()]),
        ("another number in the header", flipped(digit)),
        ("another small array", flipped(small)),
        ("no safetensors", vec![b'x'; 500]),
    ];
    for (what, bytes) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = one(&toy, folder.path(), &tokens);
        fs::write(&path, bytes).unwrap();
        let mut store = on(folder.path());
        let (known, said) = toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
        assert_eq!((known, stats(&store).damaged, entries(folder.path()).len()), (0, 1, 0), "{what}");
        assert_same(&[said], &[toy.fresh(&tokens)]);
        store.flush().unwrap();
        assert_eq!(on(folder.path()).fetch(&key("m"), &tokens).map(|hit| hit.tokens), Some(59), "{what}");
    }
}

#[test]
fn a_file_under_the_name_of_another_is_not_believed() {
    let toy = Toy::of(&[CacheKind::Kv]);
    let tokens: Vec<u32> = (0..60).collect();
    let others: Vec<u32> = (0..60).map(|i| i * 3).collect();
    let with = |key: &Key, tokens: &[u32]| {
        let folder = tempfile::tempdir().unwrap();
        let mut store = on(folder.path());
        toy.serve(&mut store, key, tokens, &[], &[]);
        store.flush().unwrap();
        fs::read(&entries(folder.path())[0]).unwrap()
    };
    let adapted = Key { model: "m".into(), adapter: "a".into() };
    for (what, bytes) in [
        ("another model", with(&key("n"), &tokens)),
        ("another adapter", with(&adapted, &tokens)),
        ("other tokens", with(&key("m"), &others)),
        ("fewer tokens", with(&key("m"), &tokens[..50])),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = one(&toy, folder.path(), &tokens);
        fs::write(&path, bytes).unwrap();
        let mut store = on(folder.path());
        assert!(store.fetch(&key("m"), &[&tokens[..], &[1]].concat()).is_none(), "{what}");
        assert_eq!((stats(&store).damaged, path.exists()), (1, false), "{what}");
    }
    // An entry of another version has another name.
    let folder = tempfile::tempdir().unwrap();
    let path = one(&toy, folder.path(), &tokens);
    let name = path.file_name().unwrap().to_str().unwrap();
    fs::rename(&path, path.with_file_name(format!("mlxlm-0123456789abcdef{}", &name[22..]))).unwrap();
    let mut store = on(folder.path());
    assert!(store.fetch(&key("m"), &tokens).is_none());
    assert_eq!((stats(&store).damaged, entries(folder.path()).len()), (0, 1));
}

#[test]
fn rot_in_keys_and_values_is_found_by_verifying() {
    let toy = Toy::of(&[CacheKind::Kv]);
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<u32> = (0..60).collect();
    let path = one(&toy, folder.path(), &tokens);
    let mut disk = DiskStore::open(folder.path(), options()).unwrap();
    assert_eq!(disk.verify(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header + 1000] ^= 4;
    fs::write(&path, bytes).unwrap();
    assert_eq!((disk.verify(), disk.stats().damaged, path.exists()), (1, 1, false));
}

#[test]
fn files_of_others_stay_and_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("model.safetensors");
    fs::write(&other, vec![0; 1 << 20]).unwrap();
    let toy = Toy::of(&[CacheKind::Kv]);
    let limit_bytes = 200_000;
    let mut disk = DiskStore::open(folder.path(), DiskOptions { limit_bytes, ..options() }).unwrap();
    for first in 0..4 {
        let mut caches = toy.caches();
        let tokens = vec![first; 20];
        toy.read(&mut caches, &tokens, 0, 20);
        assert!(disk.insert(&key("m"), &tokens, &caches, &[]).unwrap());
    }
    assert_eq!(disk.stats().evicted, 3);
    assert!(other.exists());
    disk.verify();
    assert!(other.exists());
}

#[test]
fn what_was_not_used_longest_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let toy = Toy::of(&[CacheKind::Kv]);
    let tokens = |first: u32| vec![first; 40];
    let size = fs::metadata(one(&toy, folder.path(), &tokens(0))).unwrap().len();
    let limit_bytes = 3 * size;
    let open = || DiskStore::open(folder.path(), DiskOptions { limit_bytes, ..options() }).unwrap();
    let mut disk = open();
    let write = |first: u32, disk: &mut DiskStore| {
        let mut caches = toy.caches();
        toy.read(&mut caches, &tokens(first), 0, 40);
        assert!(disk.insert(&key("m"), &tokens(first), &caches, &[]).unwrap());
    };
    write(1, &mut disk);
    write(2, &mut disk);
    // A use by another process counts too.
    assert!(open().fetch(&key("m"), &tokens(0)).is_some());
    write(3, &mut disk);
    let known: Vec<bool> = (0..4).map(|first| open().fetch(&key("m"), &tokens(first)).is_some()).collect();
    assert_eq!(known, [true, false, true, true]);
}

#[test]
fn short_sequences_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let toy = Toy { step: 64, ..Toy::of(&[CacheKind::Kv]) };
    let disk = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    let mut store = PromptStore::new(Limits::default()).with_disk(disk);
    for len in [255, 256] {
        let tokens: Vec<u32> = (0..len).collect();
        toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
        store.flush().unwrap();
        assert_eq!(entries(folder.path()).len(), usize::from(len == 256));
    }
}

#[test]
fn a_longer_sequence_takes_the_place_of_its_beginning() {
    for toy in models() {
        let folder = tempfile::tempdir().unwrap();
        let mut all: Vec<u32> = Vec::new();
        for turn in 0..3 {
            let before = all.len();
            all.extend((0..30).map(|i| 100 * turn + i));
            let mut store = on(folder.path());
            let (hit, _) = toy.serve(&mut store, &key("m"), &all, &[5, 6], &[]);
            assert_eq!(hit, before, "{toy:?}");
            store.flush().unwrap();
            all.extend([5, 6]);
            assert_eq!(entries(folder.path()).len(), 1, "{toy:?}");
        }
        // The end of the second turn is still known.
        let prompt = [&all[..64], &[99, 98]].concat();
        let (hit, said) = toy.serve(&mut on(folder.path()), &key("m"), &prompt, &[], &[]);
        assert_eq!(hit, 64, "{toy:?}");
        assert_same(&[said], &[toy.fresh(&prompt)]);
    }
}

#[test]
fn a_sequence_that_has_no_room_in_memory_is_written_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let toy = Toy::of(&[CacheKind::Kv]);
    let disk = DiskStore::open(folder.path(), options()).unwrap();
    let mut store = PromptStore::new(Limits { sequences: 1, bytes: 10 }).with_disk(disk);
    let tokens: Vec<u32> = (0..60).collect();
    toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
    assert_eq!((store.stats().sequences, store.stats().bytes), (0, 0));
    let (hit, said) = toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
    assert_eq!(hit, 59);
    assert_same(&[said], &[toy.fresh(&tokens)]);
}

#[test]
fn a_disk_that_refuses_is_told_once_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("store");
    let toy = Toy::of(&[CacheKind::Kv]);
    let disk = DiskStore::open(&place, DiskOptions { pause: Duration::ZERO, ..options() }).unwrap();
    let mut store = PromptStore::new(Limits::default()).with_disk(disk);
    fs::remove_dir_all(&place).unwrap();
    let mut reported = Vec::new();
    for first in 0..3 {
        let tokens = vec![first; 30];
        toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
        reported.extend(store.flush().err().map(|error| error.to_string()));
        assert_eq!(store.fetch(&key("m"), &tokens).map(|hit| hit.tokens), Some(29), "from memory");
    }
    assert!(reported.len() == 1 && reported[0].starts_with("cannot lock `"), "{reported:?}");
    assert_eq!(stats(&store).refused, 3);

    fs::create_dir(&place).unwrap();
    toy.serve(&mut store, &key("m"), &[9; 30], &[], &[]);
    store.flush().unwrap();
    assert_eq!(entries(&place).len(), 1);
    // It is reported again after it took something.
    fs::remove_dir_all(&place).unwrap();
    toy.serve(&mut store, &key("m"), &[8; 30], &[], &[]);
    assert!(store.flush().is_err());
}

#[test]
fn a_disk_that_refused_is_left_alone_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("store");
    let toy = Toy::of(&[CacheKind::Kv]);
    let mut disk = DiskStore::open(&place, options()).unwrap();
    fs::remove_dir_all(&place).unwrap();
    let mut caches = toy.caches();
    toy.read(&mut caches, &[1; 30], 0, 30);
    assert!(disk.insert(&key("m"), &[1; 30], &caches, &[]).is_err());
    fs::create_dir(&place).unwrap();
    assert!(!disk.insert(&key("m"), &[1; 30], &caches, &[]).unwrap());
    assert_eq!(disk.stats().refused, 1);
}

#[test]
fn a_folder_that_another_process_does_not_let_go_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let toy = Toy::of(&[CacheKind::Kv]);
    let mut disk = DiskStore::open(folder.path(), DiskOptions { pause: Duration::ZERO, ..options() }).unwrap();
    let mut caches = toy.caches();
    toy.read(&mut caches, &[1; 30], 0, 30);
    let held = FolderLock::wait(folder.path().join(".mlxlm-store.lock"), Duration::ZERO).unwrap();
    let error = disk.insert(&key("m"), &[1; 30], &caches, &[]).unwrap_err().to_string();
    assert!(error.ends_with("`: another process holds it"), "{error}");
    drop(held);
    assert!(disk.insert(&key("m"), &[1; 30], &caches, &[]).unwrap());
}

#[test]
fn an_unusable_folder_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DiskStore::open(file.join("store"), options()).unwrap_err().to_string();
    assert!(error.starts_with("cannot create the folder `"), "{error}");
}
