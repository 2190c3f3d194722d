//! What holds for caches whatever is fed to them and however it is cut.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::collections::BTreeMap;

use common::{HEADS, Sequence, WIDE, assert_close, assert_same, bits, feed, kv_formats, one, steps};
use mlxlm_cache::{Attend, CacheKind, Caches, LayerCache, Mask, Masks, Reach};
use mlxlm_core::quant::{Mode, Scheme, dequantize, quantize};
use mlxlm_core::{Array, Dtype, ops};
use proptest::prelude::*;

const EPS: f32 = 2e-5;

fn how() -> Attend {
    Attend::scaled(0.3)
}

fn layer(kind: &CacheKind) -> LayerCache {
    LayerCache::new(kind)
}

/// What remains of numbers that are quantized in groups of 32.
fn round(numbers: &[f32], bits: i32) -> Vec<f32> {
    let scheme = Scheme::new(Mode::Affine, bits, 32).unwrap();
    let packed = quantize(&Array::from_slice(numbers, &[numbers.len() as i32 / 32, 32]), scheme).unwrap();
    common::numbers(&dequantize(&packed, scheme, None).unwrap())
}

/// Numbers in rows of 32, each row times the Walsh-Hadamard matrix over the root of 32.
fn turned(numbers: &[f32]) -> Vec<f32> {
    let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
    let entry = |row: &[f32], i| (0..32).map(|j| sign(i, j) * f64::from(row[j])).sum::<f64>() / 32_f64.sqrt();
    numbers.chunks_exact(32).flat_map(|row| (0..32).map(|i| entry(row, i) as f32).collect::<Vec<_>>()).collect()
}

/// What remains of numbers that are held so.
fn held(numbers: &[f32], bits: i32, rotated: bool) -> Vec<f32> {
    if rotated { turned(&round(&turned(numbers), bits)) } else { round(numbers, bits) }
}

fn cut() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![3 => prop::collection::vec(1..9_usize, 1..5), 1 => Just(vec![1]), 1 => Just(vec![64])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Appending in any steps is plain causal attention.
    #[test]
    fn kv_is_causal_attention(sizes in cut(), tokens in 1..24_usize, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let got = feed(&mut layer(&CacheKind::Kv), &s, 0, &steps(tokens, &sizes), &how());
        assert_close(&got, &s.plainly(&how(), |i, j| j <= i), EPS);
    }

    /// A window on a cache that keeps everything.
    #[test]
    fn kv_with_a_window(sizes in cut(), tokens in 1..24_usize, window in 1..12_i32, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let how = Attend { window: Some(window), ..how() };
        let got = feed(&mut layer(&CacheKind::Kv), &s, 0, &steps(tokens, &sizes), &how);
        assert_close(&got, &s.plainly(&how, |i, j| j <= i && i < j + window as usize), EPS);
    }

    /// A rotating cache is that window, whatever order its keys lie in.
    #[test]
    fn rotating_is_a_window(sizes in cut(), tokens in 1..40_usize, max_size in 1..12_i32, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let mut rotating = layer(&CacheKind::Rotating { max_size, keep: 0 });
        let got = feed(&mut rotating, &s, 0, &steps(tokens, &sizes), &how());
        assert_close(&got, &s.plainly(&how(), |i, j| j <= i && i < j + max_size as usize), EPS);
    }

    /// A layer's window that is smaller than the ring it lies in.
    #[test]
    fn rotating_with_a_smaller_window(sizes in cut(), tokens in 1..40_usize, max_size in 2..12_i32, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let window = 1 + max_size / 2;
        let how = Attend { window: Some(window), ..how() };
        let mut rotating = layer(&CacheKind::Rotating { max_size, keep: 0 });
        let got = feed(&mut rotating, &s, 0, &steps(tokens, &sizes), &how);
        assert_close(&got, &s.plainly(&how, |i, j| j <= i && i < j + window as usize), EPS);
    }

    /// Token by token, a rotating cache that keeps the first ones sees those and the latest others.
    #[test]
    fn rotating_keeps_the_first(prompt in 1..6_usize, tokens in 6..40_usize, max_size in 6..12_usize, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let keep = 4;
        let mut rotating = layer(&CacheKind::Rotating { max_size: max_size as i32, keep: keep as i32 });
        let cut: Vec<usize> = [vec![prompt], vec![1; tokens - prompt]].concat();
        let got = feed(&mut rotating, &s, 0, &cut, &how());
        let sees = |i: usize, j: usize| j <= i && (i < max_size || j < keep || i < j + max_size - keep);
        assert_close(&got, &s.plainly(&how(), sees), EPS);
    }

    /// A chunked cache sees its own chunk, also when the front was cut.
    #[test]
    fn chunked_sees_its_chunk(sizes in cut(), tokens in 1..40_usize, chunk in 1..12_usize, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let mut chunked = layer(&CacheKind::Chunked { chunk_size: chunk as i32 });
        let got = feed(&mut chunked, &s, 0, &steps(tokens, &sizes), &how());
        assert_close(&got, &s.plainly(&how(), |i, j| j <= i && i / chunk == j / chunk), EPS);
    }

    /// A token has the same answer alone and as one of up to 65, wherever its keys lie.
    #[test]
    fn steps_of_any_size_are_the_same(
        sizes in prop::collection::vec(prop_oneof![4 => 1..9_usize, 1 => 10..65_usize], 1..5), tokens in 1..200_usize,
        (room, window) in (1..80_i32, prop::option::of(1..90_i32)), which in 0..3_usize, format in prop::option::of(kv_formats()),
        seed: u64,
    ) {
        let s = Sequence::new(WIDE, tokens, seed);
        let kind = [
            CacheKind::Kv,
            CacheKind::Rotating { max_size: room, keep: 0 },
            CacheKind::Chunked { chunk_size: room },
        ][which].clone();
        let fed = |sizes: &[usize]| {
            let mut caches = one(kind.clone());
            if let Some(format) = format {
                caches.quantize(format, 0).unwrap();
            }
            feed(&mut caches.layers_mut()[0], &s, 0, &steps(tokens, sizes), &Attend { window, ..how() })
        };
        assert_same(&fed(&sizes), &fed(&[1]));
    }

    /// Taking tokens back and reading them again is not having taken them back.
    #[test]
    fn trim_then_replay(
        sizes in cut(), tokens in 4..20_usize, back in 1..8_usize, which in 0..4_usize,
        format in prop::option::of(kv_formats()), seed: u64,
    ) {
        let s = Sequence::new(WIDE, tokens, seed);
        let kind = [
            CacheKind::Kv,
            CacheKind::Rotating { max_size: 32, keep: 0 },
            CacheKind::Chunked { chunk_size: 5 },
            CacheKind::Kv,
        ][which].clone();
        let mut caches = one(kind);
        if let Some(format) = format.filter(|_| which == 3) {
            caches.quantize(format, 0).unwrap();
        }
        let whole = feed(&mut caches.layers_mut()[0], &s, 0, &steps(tokens, &sizes), &how());
        let back = back.min(tokens);
        prop_assert_eq!(caches.trim(back as i32), back as i32);
        let again = feed(&mut caches.layers_mut()[0], &s, tokens - back, &steps(back, &sizes), &how());
        assert_close(&again, &whole[tokens - back..], EPS);
    }

    /// Quantized keys and values are plain attention over rounded numbers, however they are cut, and 8 bits round little.
    #[test]
    fn quantized_rounds(sizes in cut(), tokens in 1..24_usize, format in kv_formats(), seed: u64) {
        let s = Sequence::new(WIDE, tokens, seed);
        let ([k_bits, v_bits], [k_rotated, v_rotated]) = (format.bits(), format.is_rotated());
        let rounded =
            Sequence { k: held(&s.k, k_bits, k_rotated), v: held(&s.v, v_bits, v_rotated), ..s.clone() };
        let fed = |kind: CacheKind| {
            let mut caches = one(kind);
            caches.quantize(format, 0).unwrap();
            feed(&mut caches.layers_mut()[0], &s, 0, &steps(tokens, &sizes), &how())
        };
        let all = fed(CacheKind::Kv);
        assert_close(&all, &rounded.plainly(&how(), |i, j| j <= i), EPS);
        if format.bits() == [8, 8] {
            assert_close(&all, &s.plainly(&how(), |i, j| j <= i), 0.08);
        }
        let ring = fed(CacheKind::Rotating { max_size: 7, keep: 0 });
        assert_close(&ring, &rounded.plainly(&how(), |i, j| j <= i && i < j + 7), EPS);
        let chunks = fed(CacheKind::Chunked { chunk_size: 6 });
        assert_close(&chunks, &rounded.plainly(&how(), |i, j| j <= i && i / 6 == j / 6), EPS);
    }

    /// Quantizing at some point goes on as if it had been quantized from the start.
    #[test]
    fn quantized_on_the_way(before in 1..10_usize, after in 1..10_usize, seed: u64) {
        let s = Sequence::new(WIDE, before + after, seed);
        let mut late = one(CacheKind::Kv);
        feed(&mut late.layers_mut()[0], &s, 0, &[before], &how());
        late.quantize(bits(8), before as i32 + 1).unwrap();
        prop_assert!(late.format().is_none());
        late.quantize(bits(8), before as i32).unwrap();
        prop_assert!(late.format().is_some());
        let mut early = one(CacheKind::Kv);
        early.quantize(bits(8), 0).unwrap();
        feed(&mut early.layers_mut()[0], &s, 0, &[before], &how());
        let got = feed(&mut late.layers_mut()[0], &s, before, &[after], &how());
        assert_close(&got, &feed(&mut early.layers_mut()[0], &s, before, &[after], &how()), EPS);
    }

    /// Going back to a snapshot is not having gone on, whatever was written over it.
    #[test]
    fn restore_undoes(sizes in cut(), tokens in 2..30_usize, at in 1..29_usize, which in 0..3_usize, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let at = at.min(tokens - 1);
        let kind = [CacheKind::Kv, CacheKind::Rotating { max_size: 5, keep: 2 }, CacheKind::Chunked { chunk_size: 4 }];
        let mut caches = one(kind[which].clone());
        feed(&mut caches.layers_mut()[0], &s, 0, &steps(at, &sizes), &how());
        let snapshot = caches.snap();
        let first = feed(&mut caches.layers_mut()[0], &s, at, &steps(tokens - at, &sizes), &how());
        caches.restore(&snapshot);
        // Something else is read in between.
        let other = Sequence::new(HEADS, tokens, seed ^ 1);
        feed(&mut caches.layers_mut()[0], &other, at, &steps(tokens - at, &[1]), &how());
        caches.restore(&snapshot);
        let second = feed(&mut caches.layers_mut()[0], &s, at, &steps(tokens - at, &sizes), &how());
        prop_assert_eq!(first, second);
    }

    /// Soft-caps and sinks, computed by hand or by MLX, on plain and on quantized keys.
    #[test]
    fn softcap_and_sinks(sizes in cut(), tokens in 1..16_usize, softcap: bool, sinks: bool, seed: u64) {
        let s = Sequence::new(WIDE, tokens, seed);
        let how = Attend {
            softcap: softcap.then_some(3.0),
            sinks: sinks.then(|| Array::from_slice(&[0.5_f32, -1.0, 2.0, 0.0], &[4])),
            ..how()
        };
        let expected = s.plainly(&how, |i, j| j <= i);
        let got = feed(&mut layer(&CacheKind::Kv), &s, 0, &steps(tokens, &sizes), &how);
        assert_close(&got, &expected, EPS);
        let mut quantized = one(CacheKind::Kv);
        quantized.quantize(bits(8), 0).unwrap();
        assert_close(&feed(&mut quantized.layers_mut()[0], &s, 0, &steps(tokens, &sizes), &how), &expected, 0.1);
    }

    /// Without a cache it is the same as all at once with one.
    #[test]
    fn uncached_is_all_at_once(tokens in 1..20_usize, window in prop::option::of(1..8_i32), chunk: bool, seed: u64) {
        let s = Sequence::new(HEADS, tokens, seed);
        let how = Attend { window, chunk: chunk.then_some(3), ..how() };
        let (q, k, v) = s.part(0, tokens);
        let got = Reach::uncached(&k, &v, &how).and_then(|reach| reach.attend(&q, &how, &Masks::default())).unwrap();
        let sees = |i: usize, j: usize| {
            j <= i && window.is_none_or(|w| i < j + w as usize) && (!chunk || i / 3 == j / 3)
        };
        assert_close(&common::by_token(&got, 0), &s.plainly(&how, sees), EPS);
    }
}

#[test]
fn with_max_size_limits_every_layer_that_keeps_keys() {
    let kinds = [CacheKind::Kv, CacheKind::Rotating { max_size: 3, keep: 0 }, CacheKind::State { slots: 1 }];
    let mut caches = Caches::with_max_size(&kinds, 8).unwrap();
    let s = Sequence::new(HEADS, 30, 1);
    for layer in 0..2 {
        feed(&mut caches.layers_mut()[layer], &s, 0, &[1; 30], &how());
    }
    let lengths: Vec<i32> = caches.arrays().iter().map(|array| array.shape()[2]).collect();
    assert_eq!(lengths, [8, 8, 3, 3]);
}

#[test]
fn buffers_grow_in_steps_and_nbytes_counts_them() {
    let mut caches = one(CacheKind::Kv);
    let s = Sequence::new(HEADS, 300, 1);
    feed(&mut caches.layers_mut()[0], &s, 0, &[10], &how());
    assert_eq!(caches.arrays()[0].shape(), [1, 2, 256, 8]);
    feed(&mut caches.layers_mut()[0], &s, 10, &[290], &how());
    assert_eq!(caches.arrays()[1].shape(), [1, 2, 512, 8]);
    assert_eq!(caches.nbytes(), 2 * 2 * 512 * 8 * 4);
}

/// Numbers of 16 bits stay such, through MLX's attention and through the one by hand.
#[test]
fn types_stay() {
    let s = Sequence::new(WIDE, 6, 3);
    let sinks = Array::from_slice(&[0.0_f32; 4], &[4]);
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        for (softcap, sinks, bits) in [
            (None, None, None),
            (Some(30.0), None, None),
            (Some(30.0), Some(sinks.as_dtype(dtype).unwrap()), None),
            (None, None, Some(8)),
            (None, Some(sinks.as_dtype(dtype).unwrap()), Some(4)),
        ] {
            let how = Attend { softcap, sinks, window: Some(3), ..how() };
            let mut caches = one(CacheKind::Kv);
            if let Some(bits) = bits {
                caches.quantize(common::bits(bits), 0).unwrap();
            }
            let expected = s.plainly(&how, |i, j| j <= i && i < j + 3);
            for (from, to) in [(0, 5), (5, 6)] {
                let (q, k, v) = s.part(from, to);
                let [q, k, v] = [q, k, v].map(|array| array.as_dtype(dtype).unwrap());
                let y = caches.layers_mut()[0].attend(&q, &k, &v, &how, &Masks::default()).unwrap();
                assert_eq!(y.dtype(), dtype);
                assert_close(&common::by_token(&y, 0), &expected[from..to], 0.5);
            }
        }
    }
}

/// Layers that need the same mask share it; a causal prompt needs none.
#[test]
fn masks_are_made_where_something_is_hidden() {
    let masks = Masks::default();
    let x: Array = ops::ones::<f32>(&[1, 1, 6, 4]).unwrap();
    let seen = |kind: &CacheKind, window: Option<i32>| {
        let how = Attend { window, ..how() };
        LayerCache::new(kind).remember(&x, &x, &how).and_then(|reach| reach.seen(&masks)).unwrap().mask
    };
    for kind in [CacheKind::Kv, CacheKind::Rotating { max_size: 6, keep: 0 }, CacheKind::Chunked { chunk_size: 6 }] {
        assert!(matches!(seen(&kind, None), Mask::Causal), "{kind:?}");
    }
    assert!(matches!(seen(&CacheKind::Kv, Some(6)), Mask::Causal));
    let Mask::Array(first) = seen(&CacheKind::Kv, Some(5)) else { panic!("the window hides a key") };
    let Mask::Array(second) = seen(&CacheKind::Rotating { max_size: 5, keep: 0 }, None) else { panic!("so it does") };
    assert_eq!(first.shape(), [6, 6]);
    assert_eq!(common::numbers(&first), common::numbers(&second));
}

#[test]
fn a_ring_holds_no_more_than_its_size() {
    let kinds = [CacheKind::Rotating { max_size: 6, keep: 2 }, CacheKind::State { slots: 1 }];
    let mut ring = Caches::new(&kinds);
    let mut both = Caches::new(&[kinds[0].clone(), CacheKind::List(vec![kinds[1].clone(), CacheKind::Kv])]);
    assert_eq!((ring.held_after(0), ring.held_after(4), ring.held_after(9)), (0, 4, 6));
    assert_eq!(both.held_after(9), 9, "what keeps all counts");
    assert_eq!(Caches::new(&kinds[1..]).held_after(9), 9, "nobody knows of a limit");
    let s = Sequence::new(WIDE, 8, 1);
    feed(ring.layer_mut(0).unwrap(), &s, 0, &[3, 1, 1, 1, 1, 1], &how());
    feed(&mut both.layer_mut(1).unwrap().list_mut().unwrap()[1], &s, 0, &[8], &how());
    assert_eq!((ring.held_after(0), ring.held_after(usize::MAX)), (6, 6));
    assert_eq!((both.held_after(0), both.held_after(1)), (8, 9));
}

#[test]
fn the_memory_of_tokens_to_come_is_what_they_will_take() {
    let s = Sequence::new(WIDE, 700, 1);
    for kind in [CacheKind::Kv, CacheKind::Rotating { max_size: 512, keep: 0 }] {
        for quantized in [false, true] {
            let mut caches = Caches::new(std::slice::from_ref(&kind));
            assert_eq!(caches.nbytes_of(1000), 0, "nothing is known yet");
            feed(caches.layer_mut(0).unwrap(), &s, 0, &[1], &how());
            if quantized {
                caches.quantize(bits(4), 0).unwrap();
            }
            let said = caches.nbytes_of(700);
            feed(caches.layer_mut(0).unwrap(), &s, 1, &[1; 699], &how());
            assert_eq!(said, caches.nbytes() as u64, "{kind:?}, quantized: {quantized}");
            assert_eq!(caches.nbytes_of(usize::MAX) == said, kind != CacheKind::Kv);
        }
    }
}

#[test]
fn empty_caches_are_written_and_read() {
    let kinds = [
        CacheKind::Kv,
        CacheKind::Rotating { max_size: 8, keep: 4 },
        CacheKind::Chunked { chunk_size: 3 },
        CacheKind::State { slots: 2 },
        CacheKind::List(vec![CacheKind::Kv, CacheKind::State { slots: 1 }]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.safetensors");
    Caches::new(&kinds).save(&path, &BTreeMap::new()).unwrap();
    let (again, user) = Caches::load(&path).unwrap();
    assert!(user.is_empty());
    again.check_fits(&kinds).unwrap();
    assert!(again.arrays().is_empty());
}
