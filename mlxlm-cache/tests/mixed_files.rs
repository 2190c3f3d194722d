//! Files of caches whose keys and values have bits of their own or are rotated, which Python mlx-lm cannot hold.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::files::{Metadata, saved, write};
use common::{Sequence, WIDE, feed};
use mlxlm_cache::{Attend, CacheKind, Caches, KvFormat};
use mlxlm_core::Array;

/// Python looks a class up by its name, and refuses what it does not know.
#[test]
fn what_python_cannot_hold_has_a_class_that_it_refuses() {
    let own = KvFormat::mixed([8, 4], 32).unwrap();
    for (kind, class, first) in [
        (CacheKind::Kv, "MixedQuantizedKVCache", 3),
        (CacheKind::Rotating { max_size: 4, keep: 1 }, "MixedQuantizedRotatingKVCache", 6),
        (CacheKind::Chunked { chunk_size: 4 }, "MixedQuantizedChunkedKVCache", 5),
    ] {
        for (format, numbers) in [
            (own, [32, 8, 4, 0, 0]),
            (common::bits(4).rotated([true, false]), [32, 4, 4, 1, 0]),
            (own.rotated([false, true]), [32, 8, 4, 0, 1]),
        ] {
            let mut caches = Caches::new(std::slice::from_ref(&kind));
            caches.quantize(format, 0).unwrap();
            feed(&mut caches.layers_mut()[0], &Sequence::new(WIDE, 6, 1), 0, &[6], &Attend::scaled(0.3));
            let (arrays, metadata) = saved(&caches, &Metadata::new());
            assert_eq!(metadata["1.0"], class);
            for (part, number) in (first..).zip(numbers) {
                assert_eq!(arrays[&format!("0.{part}")].try_item_cast::<i32>().unwrap(), number, "{class} {part}");
            }
        }
    }
}

#[test]
fn formats_that_a_mixed_file_makes_up_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lies.safetensors");
    let mut caches = Caches::new(&[CacheKind::Kv]);
    caches.quantize(KvFormat::mixed([8, 4], 32).unwrap(), 0).unwrap();
    feed(&mut caches.layers_mut()[0], &Sequence::new(WIDE, 6, 1), 0, &[6], &Attend::scaled(0.3));
    for (part, claim, expected) in [
        (4, 7, "its `0.4` (bits) is 7, expected 2, 3, 4, 5, 6 or 8, in groups of 32, 64 or 128"),
        (5, 1, "its `0.4` (bits) is 1, expected 2, 3, 4, 5, 6 or 8, in groups of 32, 64 or 128"),
        (5, 8, "its array `0.1.0` is [1, 2, 6, 4], expected [1, 2, 6] and 8 words"),
        (6, 2, "its `0.6` (1 if keys are rotated) is 2, expected 0 to 1"),
    ] {
        let (mut arrays, metadata) = saved(&caches, &Metadata::new());
        arrays.insert(format!("0.{part}"), Array::from_int(claim));
        write(&path, arrays, &metadata);
        let error = Caches::load(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
