//! Rows that own their keys and values, in one operation, against each of them alone, at every level of the machine.

use mlx_rs::Dtype;
use proptest::prelude::*;

use super::*;
use crate::fast::{self, Chunk, Ring, Sight};
use crate::kernels::attention::attend_joined;
use crate::kernels::attention::tests::{CAUSAL, FLOATS, Owned, cut, random, same_bits};
use crate::quant::{Mode, Scheme};

/// What a row of the batch is like.
#[derive(Debug, Clone)]
struct Kind {
    /// Keys before those of the queries.
    before: i32,
    /// How keys and values are quantized, if they are.
    schemes: [Option<Scheme>; 2],
    window: Option<i32>,
    chunk: Option<Chunk>,
    padding: Option<i32>,
    /// The kept keys and the newest one, as parts of all.
    ring: Option<(prop::sample::Index, prop::sample::Index)>,
}

impl Kind {
    fn rule(&self, queries: i32) -> Causal {
        let keys = queries + self.before;
        let ring = self.ring.map(|(keep, newest)| {
            let newest = newest.index(keys as usize);
            Ring { keep: keep.index(newest + 1) as i32, newest: newest as i32 }
        });
        let padding = self.padding.into_iter().collect();
        Causal { window: self.window, chunk: self.chunk, padding, ring, ..Causal::default() }
    }

    /// Two tensors of the row in a cache with room for more, of so many heads and these widths.
    fn stored(&self, heads: i32, queries: i32, widths: [i32; 2], dtype: Dtype) -> [Owned; 2] {
        let keys = queries + self.before;
        [0, 1].map(|i| {
            let plain = random(&[1, heads, keys + 3, widths[i]], self.before as u64 + i as u64, dtype);
            let held = match self.schemes[i] {
                None => Owned::Plain(plain),
                Some(scheme) => Owned::packed(&plain, scheme),
            };
            held.cut(0, keys)
        })
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let affine = [8, 4].map(|bits| Scheme::new(Mode::Affine, bits, 32).unwrap());
    let schemes: Vec<Scheme> = affine.into_iter().chain([Mode::Mxfp4.default_scheme()]).collect();
    let scheme = || prop::option::of(prop::sample::select(schemes.clone()));
    let chunk = (1_i32..200, 0_i32..200).prop_map(|(size, first)| Chunk { size, first });
    (
        prop_oneof![8 => 0_i32..600, 1 => 1000_i32..2300],
        [scheme(), scheme()],
        prop::option::weighted(0.4, 1_i32..700),
        prop::option::weighted(0.2, chunk),
        prop::option::weighted(0.4, -80_i32..60),
        prop::option::weighted(0.3, any::<(prop::sample::Index, prop::sample::Index)>()),
    )
        .prop_map(|(before, schemes, window, chunk, padding, ring)| Kind {
            before,
            schemes,
            window,
            chunk,
            padding,
            ring,
        })
}

/// A batch of queries by position first, as models make them.
fn queries(kinds: &[Kind], heads: i32, l: i32, d: i32, dtype: Dtype) -> Array {
    random(&[kinds.len() as i32, l, heads, d], 1, dtype).transpose_axes(&[0, 2, 1, 3]).unwrap()
}

fn row_of(x: &Array, row: usize) -> Array {
    x.take_axis(Array::from_slice(&[row as i32], &[1]), 0).unwrap()
}

fn alone<'a>(rule: &Causal, how: &RowsAttention<'a>) -> fast::Attention<'a> {
    let sight = Sight::causal(rule.clone());
    fast::Attention { scale: how.scale, softcap: how.softcap, sight, sinks: how.sinks }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_row_has_the_bits_that_it_has_alone(
        kinds in prop::collection::vec(kinds(), 1..7), (kv_heads, group, l) in (1_i32..3, 1_i32..5, 1_i32..=9),
        (d, e) in prop::sample::select(vec![(32, 32), (64, 32), (32, 96)]), dtype in prop::sample::select(&FLOATS[..]),
        softcap in prop::option::weighted(0.3, 0.5_f32..5.0), with_sinks in any::<bool>(),
    ) {
        let heads = kv_heads * group;
        let q = queries(&kinds, heads, l, d, dtype);
        let rules: Vec<Causal> = kinds.iter().map(|kind| kind.rule(l)).collect();
        let held: Vec<[Owned; 2]> = kinds.iter().map(|kind| kind.stored(kv_heads, l, [d, e], dtype)).collect();
        let sinks = with_sinks.then(|| random(&[heads], 7, dtype));
        let how = RowsAttention { scale: 0.2, softcap, sinks: sinks.as_ref() };
        let rows = || held.iter().zip(&rules).map(|([k, v], rule)| ([Some(k.lend()), None], v.lend(), rule));
        for isa in Isa::available() {
            let together = attend_at(isa, &q, rows(), &how).unwrap().unwrap();
            for (row, (keys, values, rule)) in rows().enumerate() {
                let (q, keys) = (row_of(&q, row), [keys[0].unwrap()]);
                let one = attend_joined(isa, &q, &keys, values, &alone(rule, &how)).unwrap().unwrap();
                prop_assert!(same_bits(&one, &row_of(&together, row)), "{} row {}", isa, row);
            }
        }
    }

    #[test]
    fn a_row_of_latents_has_the_bits_that_it_has_alone(
        kinds in prop::collection::vec(kinds(), 1..5), (heads, l) in (1_i32..9, 1_i32..=9),
        dtype in prop::sample::select(&FLOATS[..]), softcap in prop::option::weighted(0.3, 0.5_f32..5.0),
    ) {
        let q = queries(&kinds, heads, l, 96, dtype);
        let rules: Vec<Causal> = kinds.iter().map(|kind| kind.rule(l)).collect();
        let held: Vec<[Owned; 2]> = kinds.iter().map(|kind| kind.stored(1, l, [64, 32], dtype)).collect();
        let how = RowsAttention { scale: 0.2, softcap, sinks: None };
        let rows = || {
            held.iter().zip(&rules).map(|([latent, k_pe], rule)| {
                ([Some(latent.lend()), Some(k_pe.lend())], latent.lend(), rule)
            })
        };
        for isa in Isa::available() {
            let together = attend_at(isa, &q, rows(), &how).unwrap().unwrap();
            for (row, (keys, values, rule)) in rows().enumerate() {
                let (q, keys) = (row_of(&q, row), keys.map(Option::unwrap));
                let one = attend_joined(isa, &q, &keys, values, &alone(rule, &how)).unwrap().unwrap();
                prop_assert!(same_bits(&one, &row_of(&together, row)), "{} row {}", isa, row);
            }
        }
    }
}

#[test]
fn one_long_row_beside_short_ones_has_the_bits_that_it_has_alone() {
    let causal = CAUSAL;
    // With few tasks all that have several chunks are cut for all threads, with more only those of the longest row.
    for (heads, (l, dtype)) in [1, 4].into_iter().flat_map(|heads| FLOATS.map(|dtype| (heads, (heads + 1, dtype)))) {
        let held = |&s: &i32| Owned::Plain(random(&[1, heads, s, 16], s as u64, dtype));
        let held: Vec<Owned> = [40, 5000, 9, 1030].iter().map(held).collect();
        let q = random(&[4, 2 * heads, l, 16], 1, dtype);
        let how = RowsAttention::scaled(0.3);
        for isa in Isa::available() {
            let rows = held.iter().map(|kv| ([Some(kv.lend()), None], kv.lend(), &causal));
            let together = attend_at(isa, &q, rows, &how).unwrap().unwrap();
            for (row, kv) in held.iter().enumerate() {
                let one = attend_joined(isa, &row_of(&q, row), &[kv.lend()], kv.lend(), &alone(&causal, &how));
                assert!(same_bits(&one.unwrap().unwrap(), &row_of(&together, row)), "{isa} {dtype:?} row {row}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_left_to_rows_alone() {
    let of = |shape: [i32; 4], dtype| random(&shape, 1, dtype);
    let q = of([2, 4, 3, 8], Dtype::Float32);
    let kv = of([1, 2, 5, 8], Dtype::Float32);
    let taken = |q: &Array, second: &Array, rule: Causal, sinks: Option<&Array>| {
        let row = |kv, rule| Row { keys: Stored::Plain(kv), values: Stored::Plain(kv), rule };
        let how = RowsAttention { scale: 1.0, softcap: None, sinks };
        attend_rows(q, &[row(&kv, CAUSAL), row(second, rule)], &how).unwrap().is_some()
    };
    assert!(taken(&q, &of([1, 2, 9, 8], Dtype::Float32), CAUSAL, None));
    assert!(!taken(&q, &of([1, 2, 9, 8], Dtype::Bfloat16), CAUSAL, None));
    assert!(!taken(&q, &of([1, 4, 9, 8], Dtype::Float32), CAUSAL, None));
    assert!(!taken(&q, &of([1, 2, 9, 4], Dtype::Float32), CAUSAL, None));
    assert!(!taken(&q, &of([1, 2, 2, 8], Dtype::Float32), CAUSAL, None));
    assert!(!taken(&q, &kv, Causal { window: Some(0), ..CAUSAL }, None));
    assert!(!taken(&q, &kv, Causal { ring: Some(Ring { keep: 3, newest: 2 }), ..CAUSAL }, None));
    assert!(!taken(&q, &kv, CAUSAL, Some(&random(&[3], 1, Dtype::Float32))));
    assert!(!taken(&of([2, 3, 3, 8], Dtype::Float32), &kv, CAUSAL, None));
    let last = cut(&kv, 4, 5);
    assert!(taken(&cut(&q, 0, 1), &last, CAUSAL, None));
}
