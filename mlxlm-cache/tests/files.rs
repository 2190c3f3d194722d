//! Prompt-cache files: those of Python mlx-lm in both layouts, our own, and broken ones.
//!
//! `fixtures/mlx_lm_0.32.2` was written by the reference (`cache.safetensors`, with what it computes from it in
//! `expected.safetensors`); `fixtures/mlx_lm_0.31.3` by the last version with the old layout: there the key of head `h`
//! at position `p` is `p + h / 10 + x / 1000` for `x` along the head dimension, and the value is its negative.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};

use common::files::{Arrays, Metadata, open, saved, write};
use common::{HEADS, Heads, Sequence, WIDE, feed, kv_formats, numbers};
use mlxlm_cache::{Attend, CacheKind, Caches, KvFormat, LayerCache, Masks, Offset, appended};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, Hint, ops};
use proptest::prelude::*;

/// Of the last kind Python only writes files: it has no way to read them.
const CASES: [&str; 14] = [
    "kv",
    "kv_steps",
    "rotating",
    "rotating_short",
    "rotating_wrapped",
    "quantized8",
    "quantized4",
    "sliding",
    "arrays",
    "arrays_mamba",
    "delta",
    "list",
    "chunked",
    "compressed",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The kinds of the arrays that are none in Python, by key.
fn scalars(metadata: &Metadata) -> Metadata {
    let kind = |(key, array): (&String, &String)| {
        let n = key.strip_prefix("2.")?.strip_suffix(".0")?;
        Some((array.clone(), metadata[&format!("2.{n}.1")].clone()))
    };
    metadata.iter().filter_map(kind).collect()
}

#[track_caller]
fn assert_equal(key: &str, a: &Array, b: &Array) {
    assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()), "{key}");
    assert_eq!(bits(a), bits(b), "{key}");
}

#[test]
fn python_files_hold_the_keys_and_values_that_python_had() {
    let mut compared = 0;
    for case in CASES {
        let folder = fixture("mlx_lm_0.32.2").join(case);
        let (caches, metadata) = Caches::load(folder.join("cache.safetensors")).unwrap();
        assert_eq!(metadata["tokenizer_config"], "{}");
        let (ours, _) = saved(&caches, &metadata);
        let (expected, recorded) = open(&folder.join("expected.safetensors"));
        for (key, expected) in &expected {
            let (part, layer) = match key.split_once('.') {
                Some(("keys", layer)) => (0, layer),
                Some(("values", layer)) => (1, layer),
                _ => continue,
            };
            assert_equal(&format!("{case} {key}"), &ours[&format!("{layer}.{part}")], expected);
            compared += 1;
        }
        if caches.layers().iter().any(|layer| !matches!(layer, LayerCache::State(_))) {
            let seen: i32 = recorded["seen"].parse().unwrap();
            assert!(matches!(caches.offset(), Offset::Same(offset) if offset == seen), "{case}");
        }
    }
    assert_eq!(compared, 38);
}

#[test]
fn what_we_write_is_what_python_wrote_without_the_room_for_more() {
    for case in CASES {
        let path = fixture("mlx_lm_0.32.2").join(case).join("cache.safetensors");
        let (theirs, their_metadata) = open(&path);
        let (caches, user) = Caches::load(&path).unwrap();
        let (ours, metadata) = saved(&caches, &user);
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{case}");
        for (key, their) in &theirs {
            let our = &ours[key];
            let cut = if their.ndim() == 4 && our.shape()[2] < their.shape()[2] {
                their.try_index((.., .., 0..our.shape()[2], ..)).unwrap()
            } else {
                their.clone()
            };
            assert_equal(&format!("{case} {key}"), our, &cut);
        }
        assert_eq!(scalars(&metadata), scalars(&their_metadata), "{case}");
        let rest = |metadata: &Metadata| -> Metadata {
            metadata.clone().into_iter().filter(|(key, _)| !key.starts_with("2.") || key == "2.0").collect()
        };
        assert_eq!(rest(&metadata), rest(&their_metadata), "{case}");
    }
}

/// The keys of positions as the old fixtures have them: `[1, 2, positions, d]`.
fn keys_at(positions: &[usize], d: usize) -> Vec<f32> {
    let key = |h: usize, p: usize, x: usize| (p as f64 + h as f64 / 10.0 + x as f64 / 1000.0) as f32;
    (0..2).flat_map(|h| positions.iter().flat_map(move |&p| (0..d).map(move |x| key(h, p, x)))).collect()
}

#[test]
fn files_of_the_old_layout_load() {
    let (caches, metadata) = Caches::load(fixture("mlx_lm_0.31.3/single.safetensors")).unwrap();
    assert_eq!(metadata, [("model", "m"), ("tokenizer_config", "{}")].map(|(k, v)| (k.into(), v.into())).into());
    let (arrays, _) = saved(&caches, &metadata);
    let int = |key: &str| arrays[key].try_item_cast::<i32>().unwrap();
    let check = |at: &str, positions: &[usize], ints: &[i32]| {
        assert_eq!(numbers(&arrays[&format!("{at}.0")]), keys_at(positions, 4), "{at}");
        assert_eq!(numbers(&arrays[&format!("{at}.1")]), keys_at(positions, 4).iter().map(|x| -x).collect::<Vec<_>>());
        for (i, &expected) in ints.iter().enumerate() {
            assert_eq!(int(&format!("{at}.{}", i + 2)), expected, "{at}.{}", i + 2);
        }
    };
    check("0", &[0, 1, 2, 3, 4, 5], &[6]);
    // Eight tokens went into a ring of six that keeps two: it lies in storage order.
    check("1", &[0, 1, 6, 7, 4, 5], &[8, 2, 6, 4]);
    check("2", &[0, 1, 2, 3], &[4, 4, 16, 4]);
    check("5.1.0", &[0, 1, 2], &[3, 0, 4, 3]);
    check("6", &[0, 1, 2, 3, 4, 5], &[6, 8, 0]);
    assert_eq!((int("3.2"), int("3.3"), int("3.4")), (6, 32, 4));
    assert_eq!(arrays["3.0.0"].shape(), [1, 2, 6, 4]);
    assert_eq!(numbers(&arrays["4.0.0"]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(arrays["4.0.1"].dtype(), Dtype::Bfloat16);
    assert_eq!(numbers(&arrays["5.0.0.0.0"]), [0.0, 1.0]);

    let (batch, _) = Caches::load(fixture("mlx_lm_0.31.3/batch.safetensors")).unwrap();
    let rows = batch.split();
    let (arrays, _) = saved(&rows[1], &Metadata::new());
    assert_eq!(numbers(&arrays["0.0"]), keys_at(&[0, 1, 2], 4));
    assert_eq!(numbers(&arrays["1.0"]), keys_at(&[0, 1, 2, 5], 4));
}

/// A number that a file may claim.
fn claim() -> impl Strategy<Value = i32> {
    prop_oneof![4 => -2..20_i32, 1 => any::<i32>(), 1 => Just(i32::MAX), 1 => Just(i32::MIN)]
}

/// Grouped queries, wide enough for groups of 64.
const HEADS64: Heads = Heads { h: 4, k: 2, d: 64 };
const KINDS: usize = 8;

fn kind(which: usize) -> CacheKind {
    let state = CacheKind::State { slots: 2 };
    [
        CacheKind::Kv,
        CacheKind::Rotating { max_size: 6, keep: 0 },
        CacheKind::Rotating { max_size: 6, keep: 2 },
        CacheKind::Rotating { max_size: 32, keep: 4 },
        CacheKind::Chunked { chunk_size: 4 },
        state.clone(),
        CacheKind::Compressed,
        CacheKind::List(vec![CacheKind::Kv, state, CacheKind::Rotating { max_size: 6, keep: 0 }]),
    ][which]
        .clone()
}

/// Reads the tokens `from..to` in a type, and says what the layer makes of them.
fn step(layer: &mut LayerCache, s: &Sequence, from: usize, to: usize, dtype: Dtype) -> Array {
    let (q, k, v) = s.part(from, to);
    let [q, k, v] = [q, k, v].map(|x| x.as_dtype(dtype).unwrap());
    match layer {
        LayerCache::State(state) => {
            let last = k.try_index((.., .., -1.., ..)).unwrap();
            let now = state.get(1).unwrap().map_or(last.clone(), |state| state.add(&last).unwrap());
            state.set(1, now.clone(), None).unwrap();
            now
        }
        LayerCache::Compressed(cache) => {
            let rows = k.try_index((.., 0, .., ..)).unwrap();
            cache.compressed = Some(appended(cache.compressed.as_ref(), &rows).unwrap());
            cache.slide(&rows, 5).unwrap()
        }
        LayerCache::List(caches) => {
            let said: Vec<Array> = caches.iter_mut().map(|cache| step(cache, s, from, to, dtype)).collect();
            let flat: Vec<Array> = said.iter().map(|array| array.flatten(None, None).unwrap()).collect();
            ops::concatenate(&flat, 0).unwrap()
        }
        _ => layer.attend(&q, &k, &v, &Attend::scaled(0.3), &Masks::default()).unwrap(),
    }
}

/// An array's numbers to the bit.
fn bits(array: &Array) -> Vec<u32> {
    match array.dtype() {
        Dtype::Uint32 => array.contiguous().unwrap().to_vec_exact::<u32>().unwrap(),
        _ => numbers(array).into_iter().map(f32::to_bits).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every kind in every format comes back to the bit, goes on as the caches would have, and is written again as it was.
    #[test]
    fn a_file_is_the_caches(
        tokens in 1..20_usize,
        which in 0..KINDS,
        format in prop::option::of(prop_oneof![kv_formats(), Just(KvFormat::new(8, 64).unwrap())]),
        dtype in prop::sample::select(vec![Dtype::Float32, Dtype::Bfloat16, Dtype::Float16]),
        single: bool,
        seed: u64,
    ) {
        let s = Sequence::new(HEADS64, tokens + 4, seed);
        let kind = kind(which);
        let mut caches = Caches::new(std::slice::from_ref(&kind));
        if let Some(format) = format.filter(|_| kind.keeps_kv() && kind != CacheKind::Compressed) {
            caches.quantize(format, 0).unwrap();
        }
        for (from, to) in if single { (0..tokens).map(|i| (i, i + 1)).collect() } else { vec![(0, tokens)] } {
            step(&mut caches.layers_mut()[0], &s, from, to, dtype);
        }

        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
        let metadata = Metadata::from([("a.b".into(), "c".into())]);
        caches.save(&first, &metadata).unwrap();
        let (mut loaded, user) = Caches::load(&first).unwrap();
        prop_assert_eq!(&user, &metadata);
        prop_assert_eq!(loaded.format(), caches.format());
        loaded.check_fits(&[kind]).unwrap();
        loaded.save(&second, &user).unwrap();
        let ((a, a_metadata), (b, b_metadata)) = (open(&first), open(&second));
        prop_assert_eq!(a_metadata, b_metadata);
        prop_assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        for (key, array) in &a {
            assert_equal(key, array, &b[key]);
        }

        for len in [1, 2, 1] {
            let expected = step(&mut caches.layers_mut()[0], &s, tokens, tokens + len, dtype);
            let got = step(&mut loaded.layers_mut()[0], &s, tokens, tokens + len, dtype);
            prop_assert_eq!(bits(&got), bits(&expected));
            caches.trim(len as i32);
            loaded.trim(len as i32);
            if !caches.is_trimmable() {
                break;
            }
        }
        // What was added is not in the file.
        for (key, array) in &open(&first).0 {
            assert_equal(key, array, &a[key]);
        }
    }

    /// Whatever numbers a file claims, it is refused, or its caches can be used.
    #[test]
    fn any_numbers(
        case in prop::sample::select(vec!["kv", "rotating", "rotating_wrapped", "quantized4", "chunked"]),
        lies in prop::collection::vec((0..8_usize, claim()), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lies.safetensors");
        let source = fixture("mlx_lm_0.32.2").join(case).join("cache.safetensors");
        let (sound, user) = Caches::load(&source).unwrap();
        let (mut arrays, metadata) = saved(&sound, &user);
        for (part, claim) in lies {
            for layer in 0..2 {
                let Some(array) = arrays.get_mut(&format!("{layer}.{part}")) else { continue };
                if array.dtype() == Dtype::Int32 {
                    *array = Array::full::<i32>(array.shape(), Array::from_int(claim)).unwrap();
                }
            }
        }
        write(&path, arrays, &metadata);
        let Ok((mut caches, _)) = Caches::load(&path) else { return Ok(()) };
        for step in [1, 3] {
            for layer in caches.layers_mut() {
                let held = layer.arrays()[0].shape().to_vec();
                let d = if layer.format().is_some() { 32 } else { held[3] };
                let x = zeros(&[held[0], held[1], step, d]);
                drop(layer.attend(&x, &x, &x, &Attend::scaled(1.0), &Masks::default()));
            }
            caches.trim(2);
        }
        drop(caches.offset());
        drop(Caches::join(vec![caches.clone(), caches.clone()]));
        caches.save(&path, &Metadata::new()).unwrap();
    }
}

#[test]
fn quantized_rings_and_chunks_are_classes_of_ours() {
    for (kind, class, numbers, tokens) in [
        (CacheKind::Rotating { max_size: 4, keep: 1 }, "QuantizedRotatingKVCache", &[6, 1, 4, 6, 32, 8][..], 6),
        (CacheKind::Chunked { chunk_size: 4 }, "QuantizedChunkedKVCache", &[6, 4, 0, 32, 8], 6),
    ] {
        let mut caches = Caches::new(&[kind]);
        caches.quantize(common::bits(8), 0).unwrap();
        feed(&mut caches.layers_mut()[0], &Sequence::new(WIDE, tokens, 1), 0, &[tokens], &Attend::scaled(0.3));
        let (arrays, metadata) = saved(&caches, &Metadata::new());
        assert_eq!(metadata["1.0"], class);
        assert_eq!((arrays["0.0.0"].shape(), arrays["0.0.0"].dtype()), (&[1, 2, 6, 8][..], Dtype::Uint32));
        for (part, &number) in (2..).zip(numbers) {
            assert_eq!(arrays[&format!("0.{part}")].try_item_cast::<i32>().unwrap(), number, "{class} {part}");
        }
    }
}

/// A good file that `change` breaks, and what is said of it.
struct Broken {
    file: PathBuf,
}

impl Broken {
    fn of(name: &str) -> Self {
        Self { file: fixture(name) }
    }

    fn case(name: &str) -> Self {
        Self::of(&format!("mlx_lm_0.32.2/{name}/cache.safetensors"))
    }

    #[track_caller]
    fn check(&self, change: impl FnOnce(&mut Arrays, &mut Metadata), expected: &str) {
        let (mut arrays, mut metadata) = open(&self.file);
        change(&mut arrays, &mut metadata);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.safetensors");
        write(&path, arrays, &metadata);
        let error = Caches::load(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("`{}` is not a usable prompt cache: {expected}", path.display()));
        assert!(error.hint().is_some());
    }
}

fn int(value: i32) -> Array {
    Array::from_int(value)
}

fn zeros(shape: &[i32]) -> Array {
    mlxlm_core::ops::zeros::<f32>(shape).unwrap()
}

#[test]
fn broken_metadata_is_reported() {
    let kv = Broken::case("kv");
    kv.check(|_, m| m.clear(), "its metadata has no `2.0`");
    kv.check(|_, m| drop(m.remove("1.0")), "its metadata has no `1.0`");
    kv.check(|_, m| drop(m.remove("2.1.0")), "its metadata has no `2.1.0`");
    kv.check(
        |_, m| drop(m.insert("2.1.1".into(), "tuple".into())),
        "its metadata `2.1.1` is `tuple`, expected scalar, string or none",
    );
    kv.check(
        |_, m| drop(m.insert("1.1".into(), "PagedKVCache".into())),
        "the cache `1` is of the class `PagedKVCache`, which is not known",
    );
    let old = Broken::of("mlx_lm_0.31.3/single.safetensors");
    old.check(|_, m| drop(m.remove("0.1.2")), "its metadata has no `0.1.2`");
    old.check(
        |_, m| drop(m.insert("0.1.2".into(), "many".into())),
        "its metadata `0.1.2` is `many`, expected an integer",
    );
    old.check(|_, m| drop(m.insert("0.6.1".into(), "3".into())), "its `0.6.1` (first position) is 3, expected 0 to 0");
}

#[test]
fn broken_arrays_are_reported() {
    let kv = Broken::case("kv");
    kv.check(|a, _| drop(a.remove("0.1")), "it has no array `0.1`");
    kv.check(|a, _| drop(a.insert("0.9".into(), int(1))), "it has unexpected arrays `0.9`");
    kv.check(
        |a, _| drop(a.insert("0.0".into(), zeros(&[2, 256, 8]))),
        "its array `0.0` is [2, 256, 8], expected [B, K, S, d]",
    );
    kv.check(
        |a, _| drop(a.insert("0.1".into(), zeros(&[1, 2, 255, 8]))),
        "its array `0.1` is [1, 2, 255, 8], expected [1, 2, 256] and a width",
    );
    kv.check(
        |a, _| drop(a.insert("0.0".into(), zeros(&[1, 2, 256, 8]).as_dtype(Dtype::Int32).unwrap())),
        "its array `0.0` is of the type Int32, expected a float of 16 or 32 bits",
    );
    kv.check(|a, _| drop(a.insert("0.2".into(), int(257))), "its `0.2` (tokens) is 257, expected 0 to 256");
    kv.check(|a, _| drop(a.insert("0.2".into(), int(-1))), "its `0.2` (tokens) is -1, expected 0 to 256");
    kv.check(
        |a, _| drop(a.insert("0.2".into(), zeros(&[]))),
        "its array `0.2` is of the type Float32, expected an integer",
    );
    kv.check(|a, _| drop(a.insert("0.2".into(), zeros(&[3]))), "its array `0.2` is [3], expected one number");
    kv.check(
        |_, m| {
            m.insert("2.3.0".into(), "0.0".into());
            m.insert("2.3.1".into(), "none".into());
        },
        "it has no array `0.0`",
    );
}

#[test]
fn broken_groups_are_reported() {
    let compressed = Broken::case("compressed");
    let put =
        |key: &'static str, array: Array| move |a: &mut Arrays, _: &mut Metadata| drop(a.insert(key.into(), array));
    compressed.check(put("1.1", zeros(&[2, 2, 4])), "its array `1.1` is [2, 2, 4], expected [1, rows, width]");
    compressed.check(put("1.0", zeros(&[3, 4])), "its array `1.0` is [3, 4], expected [3, rows, width]");
    compressed.check(put("1.2", int(1)), "its array `1.2` is [], expected [1, rows, width]");
    compressed.check(put("1.4", zeros(&[1, 2, 4])), "its array `1.4` is [1, 2, 4], expected [1, 1, 32]");
    compressed.check(put("1.5", int(2)), "its `1.5` (tokens) is 2, expected 4 to 2147483647");
    compressed.check(
        |_, m| {
            m.insert("2.9.0".into(), "1.3".into());
            m.insert("2.9.1".into(), "none".into());
        },
        "it has no array `1.3`",
    );
}

#[test]
fn broken_quantization_is_reported() {
    let quantized = Broken::case("quantized4");
    quantized.check(
        |a, _| drop(a.insert("0.4".into(), int(7))),
        "its `0.4` (bits) is 7, expected 2, 3, 4, 5, 6 or 8, in groups of 32, 64 or 128",
    );
    quantized.check(
        |a, _| drop(a.insert("0.4".into(), int(8))),
        "its array `0.0.0` is [1, 2, 256, 4], expected [1, 2, 256] and 8 words",
    );
    quantized.check(
        |a, _| drop(a.insert("0.0.1".into(), zeros(&[1, 2, 256]))),
        "its array `0.0.1` is [1, 2, 256], expected [B, K, S, groups]",
    );
    quantized.check(
        |a, _| drop(a.insert("0.0.2".into(), zeros(&[1, 2, 256, 2]))),
        "its array `0.0.2` is [1, 2, 256, 2], expected [1, 2, 256, 1]",
    );
    quantized.check(
        |a, _| drop(a.insert("0.1.0".into(), zeros(&[1, 2, 256, 4]))),
        "its array `0.1.0` is of the type Float32, expected 32-bit words",
    );
    quantized.check(
        |a, _| {
            for part in ["0.1.0", "0.1.1", "0.1.2"] {
                let cut = a[part].try_index((.., .., 0..9, ..)).unwrap();
                a.insert(part.into(), cut);
            }
        },
        "its array `0.1.1` is [1, 2, 9, 1], expected [1, 2, 256] and a width",
    );
    quantized.check(|a, _| drop(a.insert("0.2".into(), int(300))), "its `0.2` (tokens) is 300, expected 0 to 256");
}

#[test]
fn broken_rings_are_reported() {
    let wrapped = Broken::case("rotating_wrapped");
    wrapped.check(|a, _| drop(a.insert("0.4".into(), int(2))), "its `0.4` (tokens at most) is 2, expected more than 2");
    wrapped.check(
        |a, _| drop(a.insert("0.5".into(), int(9))),
        "its `0.5` (place of the next token) is 9, expected 2 to 8",
    );
    wrapped.check(
        |a, _| drop(a.insert("0.5".into(), int(1))),
        "its `0.5` (place of the next token) is 1, expected 2 to 8",
    );
    wrapped.check(|a, _| drop(a.insert("0.2".into(), int(8))), "its `0.5` (place of the next token) is 6, expected 8");
    wrapped.check(|a, _| drop(a.insert("0.4".into(), int(9))), "its `0.2` (tokens) is 12, expected 0 to 8");
    wrapped.check(
        |a, _| drop(a.insert("0.4".into(), int(6))),
        "its `0.5` (place of the next token) is 6, expected 8 to 8",
    );
    let chunked = Broken::case("chunked");
    chunked.check(
        |a, _| drop(a.insert("0.3".into(), int(0))),
        "its `0.3` (tokens in a chunk) is 0, expected 1 to 2147483647",
    );
    chunked.check(|a, _| drop(a.insert("0.4".into(), int(9))), "its `0.2` (tokens) is 8, expected 9 to 269");
}

#[test]
fn broken_states_and_lists_are_reported() {
    let arrays = Broken::case("arrays");
    arrays.check(|a, _| drop(a.insert("0.0.1".into(), zeros(&[2, 4]))), "its array `0.0.1` is [2, 4], expected [1, …]");
    let unlisted = |m: &mut Metadata| m.retain(|key, value| !(key.ends_with(".0") && value == "0.1"));
    arrays.check(|_, m| unlisted(m), "its metadata has no `2.1.0`");
    let list = Broken::case("list");
    list.check(
        |a, _| drop(a.insert("0.0.1".into(), zeros(&[3]))),
        "its array `0.0.1` is of the type Float32, expected characters",
    );
    list.check(
        |a, _| drop(a.insert("0.0.1".into(), zeros(&[65]))),
        "its array `0.0.1` is [65], expected the characters of a class name",
    );
    list.check(
        |a, _| drop(a.insert("0.0.1".into(), Array::from_slice(&[88], &[1]))),
        "the cache `0.0.0` is of the class `X`, which is not known",
    );
    let name = Array::from_slice(&"CacheList".chars().map(|c| c as i32).collect::<Vec<_>>(), &[9]);
    list.check(
        |a, _| {
            for key in ["0.0.1", "0.0.0.0.1", "0.0.0.0.0.0.1", "0.0.0.0.0.0.0.0.1"] {
                a.insert(key.into(), name.clone());
            }
        },
        "its cache `0.0.0.0.0.0.0.0.0` is nested too deeply",
    );
}

#[test]
fn broken_batches_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch.safetensors");
    let row = |kind: CacheKind| {
        let mut caches = Caches::new(&[kind]);
        feed(&mut caches.layers_mut()[0], &Sequence::new(HEADS, 3, 1), 0, &[3], &Attend::scaled(0.3));
        caches
    };
    // Two rows of three tokens each, as Python writes them.
    let save = |kind: CacheKind, class: &str, ints: &[i32]| {
        let (mut arrays, mut metadata) = saved(&row(kind), &Metadata::new());
        metadata.insert("1.0".into(), class.into());
        for key in ["0.0", "0.1"] {
            let both = mlxlm_core::ops::concatenate(&[&arrays[key], &arrays[key]], 0).unwrap();
            arrays.insert(key.into(), both);
        }
        arrays.insert("0.2".into(), Array::from_slice(&[3, 3], &[2]));
        arrays.insert("0.3".into(), Array::from_slice(&[0, 0], &[2]));
        (4..).zip(ints).for_each(|(part, &value)| drop(arrays.insert(format!("0.{part}"), int(value))));
        if class == "BatchRotatingKVCache" {
            arrays.insert("0.7".into(), Array::from_bool(false));
        }
        write(&path, arrays, &metadata);
        Broken { file: path.clone() }
    };
    let kv = save(CacheKind::Kv, "BatchKVCache", &[3]);
    assert_eq!(Caches::load(&path).unwrap().0.split().len(), 2);
    kv.check(|a, _| drop(a.insert("0.3".into(), zeros(&[3]))), "its array `0.3` is [3], expected [2]");
    kv.check(
        |a, _| drop(a.insert("0.3".into(), zeros(&[2]))),
        "its array `0.3` is of the type Float32, expected integers",
    );
    kv.check(
        |a, _| drop(a.insert("0.3".into(), Array::from_slice(&[0, 1], &[2]))),
        "its `0.2` (tokens of a row) is 3, expected 3 less the row's padding",
    );
    let rotating = save(CacheKind::Rotating { max_size: 4, keep: 0 }, "BatchRotatingKVCache", &[4, 3, 3]);
    assert_eq!(Caches::load(&path).unwrap().0.split().len(), 2);
    rotating.check(
        |a, _| drop(a.insert("0.7".into(), Array::from_bool(true))),
        "its `0.4` (tokens at most) is 4, expected 3",
    );
    rotating.check(
        |a, _| drop(a.insert("0.7".into(), int(1))),
        "its array `0.7` is of the type Int32, expected a truth value",
    );
    rotating
        .check(|a, _| drop(a.insert("0.7".into(), zeros(&[2]))), "its array `0.7` is [2], expected one truth value");
}

#[test]
fn files_that_are_none_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    let whole = mlxlm_core::io::read(fixture("mlx_lm_0.32.2/kv/cache.safetensors")).unwrap();
    for len in [0, 7, 200, whole.len() - 1] {
        mlxlm_core::io::write(&path, &whole[..len]).unwrap();
        let error = Caches::load(&path).unwrap_err();
        assert!(error.to_string().contains("cut.safetensors"), "{error}");
    }
    let absent = Caches::load(folder.path().join("absent")).unwrap_err().to_string();
    assert!(absent.starts_with("cannot open"), "{absent}");
    let unwritable = Caches::new(&[]).save(folder.path().join("no/such/folder"), &Metadata::new());
    assert!(unwritable.unwrap_err().to_string().starts_with("cannot create"));
}
