//! Adding a token to a cache writes into its buffer and does not copy it. In a binary of its own, because MLX counts
//! the memory of the whole process.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::{Mutex, PoisonError};

use mlxlm_cache::store::{DiskOptions, DiskStore, Key};
use mlxlm_cache::{Attend, CacheKind, Caches, KvFormat, Masks};
use mlxlm_core::weights::arrays_are_mapped;
use mlxlm_core::{Array, device, memory, ops, transforms};

/// One very wide head, so that the room for 256 tokens is 8 MiB of keys and as many of values.
const WIDTH: i32 = 8192;
const TOKENS: i32 = 256;
const BUFFER: usize = (WIDTH * TOKENS * 4) as usize;

/// Adds `len` tokens, evaluates, and says by how much the memory in use rose on the way, at most.
fn rise(caches: &mut Caches, len: i32) -> usize {
    device::reset_peak_memory().unwrap();
    let before = device::active_memory_bytes().unwrap();
    let x: Array = ops::ones::<f32>(&[1, 1, len, WIDTH]).unwrap();
    let y = caches.layers_mut()[0].attend(&x, &x, &x, &Attend::scaled(0.1), &Masks::default()).unwrap();
    transforms::eval(caches.arrays().into_iter().chain([&y])).unwrap();
    memory::peak_memory().unwrap().saturating_sub(before)
}

/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_token_costs_no_copy_of_the_buffer() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in
        [CacheKind::Kv, CacheKind::Rotating { max_size: TOKENS, keep: 4 }, CacheKind::Chunked { chunk_size: TOKENS }]
    {
        let mut caches = Caches::new(std::slice::from_ref(&kind));
        // A prompt, and a first token, with which a rotating cache becomes a ring.
        rise(&mut caches, 10);
        rise(&mut caches, 1);
        for _ in 0..3 {
            let rise = rise(&mut caches, 1);
            assert!(rise < BUFFER / 4, "{kind:?}: {rise} bytes");
        }

        // While a snapshot holds on to the old contents, the first token copies keys and values, and only the first.
        let snapshot = caches.snap();
        let first = rise(&mut caches, 1);
        assert!(first >= 2 * BUFFER * 9 / 10, "{kind:?}: {first} bytes");
        let second = rise(&mut caches, 1);
        assert!(second < BUFFER / 4, "{kind:?}: {second} bytes");
        drop(snapshot);
    }
}

/// The first token after a restore too goes into the buffer, which is the mapped file.
#[test]
fn a_token_behind_caches_from_disk_costs_no_copy_of_the_buffer() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let key = Key { model: "m".into(), adapter: String::new() };
    let mut disk = DiskStore::open(folder.path(), DiskOptions { min_tokens: 1, ..DiskOptions::default() }).unwrap();
    let kinds =
        [CacheKind::Kv, CacheKind::Rotating { max_size: TOKENS, keep: 4 }, CacheKind::Chunked { chunk_size: TOKENS }];
    for (kind, bits) in kinds.iter().flat_map(|kind| [(kind, None), (kind, Some(8))]) {
        let mut caches = Caches::new(std::slice::from_ref(kind));
        if let Some(bits) = bits {
            caches.quantize(KvFormat::new(bits, 64).unwrap(), 0).unwrap();
        }
        rise(&mut caches, 10);
        let tokens: Vec<u32> = (0..10).map(|i| i + 100 * bits.unwrap_or(0) as u32).collect();
        let key = Key { model: format!("{kind}"), ..key.clone() };
        assert!(disk.insert(&key, &tokens, &caches, &[]).unwrap());
        let mut hit = disk.fetch(&key, &[&tokens[..], &[1]].concat()).unwrap();
        assert_eq!(hit.tokens, 10);
        let first = rise(&mut hit.caches, 1);
        // What attention itself takes, for which quantized keys of this width become plain.
        rise(&mut caches, 1);
        let usual = rise(&mut caches, 1);
        assert!(!arrays_are_mapped() || first < usual + BUFFER / 16, "{kind:?}, {bits:?}: {first} bytes, not {usual}");
    }
}
