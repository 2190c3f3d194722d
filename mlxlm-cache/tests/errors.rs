//! What each mistake is called, and how it is mended.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{HEADS, Sequence, WIDE, bits, feed};
use mlxlm_cache::{Attend, CacheKind, Caches, Error, KvFormat, LayerCache, Masks, Reach};
use mlxlm_core::{Array, Hint, ops};

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str, hint: Option<&str>) {
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.hint().as_deref(), hint);
}

fn ones(shape: &[i32]) -> Array {
    ops::ones::<f32>(shape).unwrap()
}

fn attend(layer: &mut LayerCache, q: &[i32], k: &[i32], v: &[i32]) -> Result<Array, Error> {
    layer.attend(&ones(q), &ones(k), &ones(v), &Attend::scaled(1.0), &Masks::default())
}

#[test]
fn shapes() {
    let mut layer = LayerCache::new(&CacheKind::Kv);
    let good = [1, 2, 3, 4];
    check(
        attend(&mut layer, &good, &[2, 3, 4], &good),
        "keys of the shape [2, 3, 4] do not fit a cache of [B, K, L, d]",
        None,
    );
    check(
        attend(&mut layer, &good, &[1, 0, 3, 4], &good),
        "keys of the shape [1, 0, 3, 4] do not fit a cache of [B, K, L, d]",
        None,
    );
    check(
        attend(&mut layer, &good, &good, &[1, 2, 4, 4]),
        "values of the shape [1, 2, 4, 4] do not fit a cache of [1, 2, 3, d]",
        None,
    );
    for kind in [CacheKind::Kv, CacheKind::Rotating { max_size: 8, keep: 0 }, CacheKind::Chunked { chunk_size: 8 }] {
        let mut layer = LayerCache::new(&kind);
        attend(&mut layer, &good, &good, &good).unwrap();
        // One kv-head would be broadcast over two by MLX, silently.
        check(
            attend(&mut layer, &[1, 2, 1, 4], &[1, 1, 1, 4], &[1, 1, 1, 4]),
            "keys of the shape [1, 1, 1, 4] do not fit a cache of [1, 2, L, 4]",
            None,
        );
        assert!(matches!(layer.offset(), mlxlm_cache::Offset::Same(3)), "a refused step leaves the cache as it was");
        attend(&mut layer, &good, &good, &good).unwrap();
    }
    let how = Attend { softcap: Some(1.0), ..Attend::scaled(1.0) };
    check(
        Reach::uncached(&ones(&good), &ones(&good), &how)
            .and_then(|reach| reach.attend(&ones(&[3]), &how, &Masks::default())),
        "queries of the shape [3] do not fit a cache of [B, H, L, d]",
        None,
    );
}

#[test]
fn more_tokens_than_positions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.safetensors");
    let mut caches = Caches::new(&[CacheKind::Rotating { max_size: 4, keep: 0 }]);
    feed(&mut caches.layers_mut()[0], &Sequence::new(HEADS, 9, 1), 0, &[1; 9], &Attend::scaled(1.0));
    caches.save(&path, &std::collections::BTreeMap::default()).unwrap();
    let file = mlxlm_core::weights::SafetensorsFile::open(&path).unwrap();
    let mut arrays = file.arrays().unwrap();
    arrays.insert("0.2".into(), Array::from_int(i32::MAX));
    let arrays: Vec<_> = arrays.into_iter().collect();
    mlxlm_core::weights::save_safetensors(&path, &arrays, &file.metadata()).unwrap();
    let (mut caches, _) = Caches::load(&path).unwrap();
    check(
        attend(caches.layer_mut(0).unwrap(), &[1, 4, 1, 8], &[1, 2, 1, 8], &[1, 2, 1, 8]),
        "the cache holds 2147483647 tokens, and 1 more are beyond 32-bit positions",
        None,
    );
}

#[test]
fn no_room() {
    let good = [1, 2, 3, 4];
    let expected = "a rotating cache of 4 tokens is too small: the first 4 tokens are always kept";
    let hint = Some("use a size of more than 4 tokens");
    check(Caches::with_max_size(&[CacheKind::Kv], 4), expected, hint);
    let inside = CacheKind::List(vec![CacheKind::State { slots: 1 }, CacheKind::List(vec![CacheKind::Kv])]);
    check(Caches::with_max_size(&[inside], 4), expected, hint);
    check(
        attend(&mut LayerCache::new(&CacheKind::Rotating { max_size: 4, keep: 4 }), &good, &good, &good),
        expected,
        hint,
    );
    check(
        attend(&mut LayerCache::new(&CacheKind::Chunked { chunk_size: 0 }), &good, &good, &good),
        "a chunk must hold at least one token, not 0",
        None,
    );
    let x = ones(&good);
    for (window, chunk, expected) in [
        (Some(0), None, "a window must hold at least one token, not 0"),
        (None, Some(-1), "a chunk must hold at least one token, not -1"),
    ] {
        let how = Attend { window, chunk, ..Attend::scaled(1.0) };
        check(Reach::uncached(&x, &x, &how), expected, None);
        check(LayerCache::new(&CacheKind::Kv).attend(&x, &x, &x, &how, &Masks::default()), expected, None);
    }
    check(
        attend(&mut LayerCache::new(&CacheKind::Rotating { max_size: 0, keep: 0 }), &good, &good, &good),
        "a rotating cache of 0 tokens is too small: the first 0 tokens are always kept",
        Some("use a size of more than 0 tokens"),
    );
}

#[test]
fn what_a_kind_cannot() {
    let good = [1, 2, 3, 4];
    let mut state = LayerCache::new(&CacheKind::State { slots: 1 });
    check(attend(&mut state, &good, &good, &good), "a recurrent-state cache cannot attend", None);
    check(state.keep(1, ones(&[1]), None), "there is no array 1 in a recurrent state of 1", None);
    check(state.list_mut().map(drop), "a recurrent-state cache cannot stand for several", None);
    let mut compressed = Caches::new(&[CacheKind::Compressed]);
    check(attend(&mut compressed.layers_mut()[0], &good, &good, &good), "a compressed cache cannot attend", None);
    check(compressed.quantize(KvFormat::new(8, 64).unwrap(), 0), "a compressed cache cannot be quantized", None);
    check(Caches::join(vec![compressed.clone()]), "a compressed cache cannot become a row of a batch", None);
    check(state.compressed_mut().map(drop), "a recurrent-state cache cannot keep compressed groups", None);
    let mut kv = Caches::new(&[CacheKind::Kv]);
    check(kv.layers()[0].recall(0), "a KV cache cannot keep a recurrent state", None);
    check(kv.layer_mut(3).map(drop), "there is no cache for layer 3, only for 1 layers", None);
    kv.quantize(bits(4), 0).unwrap();
    let x = ones(&[1, 2, 3, 32]);
    check(
        kv.layers_mut()[0].remember(&x, &x, &Attend::scaled(1.0)).and_then(|reach| reach.seen(&Masks::default())),
        "a quantized cache cannot hand out its keys and values as they were",
        Some("do not quantize the cache of this architecture"),
    );
}

#[test]
fn quantizing() {
    let mut kv = Caches::new(&[CacheKind::Kv, CacheKind::State { slots: 1 }]);
    check(
        KvFormat::new(7, 64),
        "MLX has no quantization affine with 7 bits and groups of 64",
        Some("affine takes 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128"),
    );
    feed(&mut kv.layers_mut()[0], &Sequence::new(WIDE, 3, 1), 0, &[3], &Attend::scaled(1.0));
    check(
        kv.quantize(KvFormat::new(8, 64).unwrap(), 0),
        "keys and values of the widths 32 and 32 cannot be quantized in groups of 64",
        Some("use groups of 32, or do not quantize the cache"),
    );
    for (widths, hint) in [
        ([96, 192], "use groups of 32, or do not quantize the cache"),
        ([128, 64], "use groups of 32 or 64, or do not quantize the cache"),
        ([80, 64], "no group fits these widths; do not quantize the cache"),
    ] {
        let refused: Result<(), _> = Err(Error::Group { keys: widths[0], values: widths[1], group_size: 128 });
        let [keys, values] = widths;
        let expected =
            format!("keys and values of the widths {keys} and {values} cannot be quantized in groups of 128");
        check(refused, &expected, Some(hint));
    }
    kv.quantize(bits(8), 0).unwrap();
    kv.quantize(bits(8), 0).unwrap();
    check(
        kv.quantize(bits(4), 0),
        "the cache is already quantized: 8 bits in groups of 32, not 4 bits in groups of 32",
        Some("use 8 bits in groups of 32, as in the cache"),
    );
    check(
        kv.quantize(KvFormat::mixed([8, 4], 32).unwrap().rotated([true, false]), 0),
        "the cache is already quantized: 8 bits in groups of 32, not 8 bits for keys and 4 for values in groups of 32, keys rotated",
        Some("use 8 bits in groups of 32, as in the cache"),
    );
    let states = CacheKind::State { slots: 1 };
    check(
        Caches::new(&[states.clone(), states]).quantize(KvFormat::new(8, 64).unwrap(), 0),
        "no layer of this model keeps keys and values that could be quantized; its caches are recurrent-state",
        Some("do not quantize the cache"),
    );
}

#[test]
fn caches_of_another_model() {
    let hint = Some("use the cache with the model it was made with");
    let state = |slots| CacheKind::State { slots };
    let compressed = Caches::new(&[CacheKind::Compressed]);
    compressed.check_fits(&[CacheKind::Compressed]).unwrap();
    check(
        compressed.check_fits(&[CacheKind::Kv]),
        "the caches do not fit the model: layer 0 has a compressed cache, and the model needs a KV one",
        hint,
    );
    let caches = Caches::new(&[CacheKind::Kv, state(2), CacheKind::List(vec![CacheKind::Kv])]);
    caches
        .check_fits(&[CacheKind::Rotating { max_size: 8, keep: 0 }, state(2), CacheKind::List(vec![CacheKind::Kv])])
        .unwrap();
    check(
        caches.check_fits(&[CacheKind::Kv]),
        "the caches do not fit the model: there are 3 of them, and the model has 1 layers with a cache",
        hint,
    );
    let list = CacheKind::List(vec![CacheKind::Kv]);
    for (kinds, expected) in [
        ([state(1), state(2), list.clone()], "layer 0 has a KV cache, and the model needs a recurrent-state one"),
        (
            [CacheKind::Kv, CacheKind::Kv, list.clone()],
            "layer 1 has a recurrent-state cache, and the model needs a KV one",
        ),
        ([CacheKind::Kv, state(2), CacheKind::Kv], "layer 2 has a list cache, and the model needs a KV one"),
    ] {
        check(caches.check_fits(&kinds), &format!("the caches do not fit the model: {expected}"), hint);
    }
    assert!(caches.check_fits(&[CacheKind::Kv, state(3), list]).is_err());
}

#[test]
fn what_mlx_says_is_passed_on() {
    let mut layer = LayerCache::new(&CacheKind::Kv);
    let error = attend(&mut layer, &[1, 2, 3, 5], &[1, 2, 3, 4], &[1, 2, 3, 4]).unwrap_err();
    assert!(matches!(error, Error::Core(_)), "{error}");
}
