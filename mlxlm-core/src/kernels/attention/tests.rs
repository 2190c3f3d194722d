//! The kernel against the plain version, at every level of the machine.

use proptest::prelude::*;

use super::*;
use crate::fast::{Chunk, Ring, Sight};
use crate::quant::Mode;
use crate::{ops, quant};

fn noise(seed: u64, i: usize) -> f32 {
    let mut x = seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((x >> 40) as f32) / 8_388_608.0 - 1.0
}

pub(super) fn random(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    let len: i32 = shape.iter().product();
    let values: Vec<f32> = (0..len as usize).map(|i| 2.0 * noise(seed, i)).collect();
    Array::from_slice(&values, shape).as_dtype(dtype).unwrap()
}

fn wide(a: &Array) -> Array {
    a.as_dtype(Dtype::Float32).unwrap()
}

fn floats(a: &Array) -> Vec<f32> {
    wide(a).contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

/// Parts of an array along the axis of tokens.
pub(super) fn cut(a: &Array, from: i32, to: i32) -> Array {
    ops::split_at_indices(a, &[from, to], 2).unwrap().swap_remove(1)
}

/// The sizes of a test: batch, heads, kv-heads, queries, keys, and the dimensions of keys and of values.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    b: i32,
    kv_heads: i32,
    group: i32,
    l: i32,
    s: i32,
    d: i32,
    e: i32,
}

/// Keys or values.
#[derive(Debug, Clone)]
pub(super) enum Owned {
    Plain(Array),
    Packed(Packed, Scheme),
}

impl Owned {
    pub(super) fn lend(&self) -> Stored<'_> {
        match self {
            Self::Plain(array) => Stored::Plain(array),
            Self::Packed(packed, scheme) => Stored::Packed(packed, *scheme),
        }
    }

    pub(super) fn packed(array: &Array, scheme: Scheme) -> Self {
        Self::Packed(quant::quantize(array, scheme).unwrap(), scheme)
    }

    /// The numbers in f32.
    fn plain(&self) -> Array {
        match self {
            Self::Plain(array) => wide(array),
            Self::Packed(packed, scheme) => {
                let parts = Packed {
                    weight: packed.weight.clone(),
                    scales: if scheme.mode == Mode::Affine { wide(&packed.scales) } else { packed.scales.clone() },
                    biases: packed.biases.as_ref().map(wide),
                };
                quant::dequantize(&parts, *scheme, Some(Dtype::Float32)).unwrap()
            }
        }
    }

    pub(super) fn cut(&self, from: i32, to: i32) -> Self {
        match self {
            Self::Plain(array) => Self::Plain(cut(array, from, to)),
            Self::Packed(packed, scheme) => {
                let biases = packed.biases.as_ref().map(|biases| cut(biases, from, to));
                let parts =
                    Packed { weight: cut(&packed.weight, from, to), scales: cut(&packed.scales, from, to), biases };
                Self::Packed(parts, *scheme)
            }
        }
    }
}

/// Inputs of a call.
#[derive(Debug, Clone)]
struct Case {
    q: Array,
    k: Owned,
    v: Owned,
    scale: f32,
    softcap: Option<f32>,
    rule: Option<Causal>,
    mask: Option<Array>,
    sinks: Option<Array>,
}

pub(super) const CAUSAL: Causal =
    Causal { window: None, chunk: None, padding: Vec::new(), documents: Vec::new(), ring: None };

impl Case {
    /// Keys and values lie in a cache with room for more, queries by position first, as models make them.
    fn new(z: Sizes, rule: Option<Causal>, dtype: Dtype) -> Self {
        let heads = z.kv_heads * z.group;
        let q = random(&[z.b, z.l, heads, z.d], 1, dtype).transpose_axes(&[0, 2, 1, 3]).unwrap();
        let cache = |width, seed| cut(&random(&[z.b, z.kv_heads, z.s + 5, width], seed, dtype), 0, z.s);
        let (k, v) = (Owned::Plain(cache(z.d, 2)), Owned::Plain(cache(z.e, 3)));
        Self { q, k, v, scale: 0.7 / (z.d as f32).sqrt(), softcap: None, rule, mask: None, sinks: None }
    }

    fn quantized(z: Sizes, rule: Option<Causal>, dtype: Dtype, [of_keys, of_values]: [Scheme; 2]) -> Self {
        let cache = |width, seed, scheme| {
            Owned::packed(&random(&[z.b, z.kv_heads, z.s + 5, width], seed, dtype), scheme).cut(0, z.s)
        };
        Self { k: cache(z.d, 2, of_keys), v: cache(z.e, 3, of_values), ..Self::new(z, rule, dtype) }
    }

    fn how(&self) -> fast::Attention<'_> {
        let sight = Sight { rule: self.rule.clone(), bias: self.mask.as_ref() };
        fast::Attention { scale: self.scale, softcap: self.softcap, sight, sinks: self.sinks.as_ref() }
    }

    fn ours(&self, isa: Isa) -> Array {
        attend_at(isa, &self.q, self.k.lend(), self.v.lend(), &self.how()).unwrap().unwrap()
    }

    fn plain(&self) -> Array {
        let (q, k, v) = (wide(&self.q), self.k.plain(), self.v.plain());
        let in_f32 = Self {
            mask: self.mask.as_ref().map(|m| if m.dtype() == Dtype::Bool { m.clone() } else { wide(m) }),
            sinks: self.sinks.as_ref().map(wide),
            ..self.clone()
        };
        plain::attend_by_hand(&q, Stored::Plain(&k), Stored::Plain(&v), &in_f32.how()).unwrap()
    }

    /// Holds every level against the plain version in f32.
    fn check(&self, what: &str) {
        let want = floats(&self.plain());
        let tolerance = match self.q.dtype() {
            Dtype::Float32 => 5e-6,
            Dtype::Float16 => 1.5e-3,
            _ => 1e-2,
        };
        for isa in Isa::available() {
            let got = floats(&self.ours(isa));
            assert_eq!(got.len(), want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let near = (got - want).abs() <= tolerance || got.is_nan() && want.is_nan();
                assert!(near, "{isa} {what} {i}: {got} is not {want}");
            }
        }
    }

    /// The query at `i`, with the keys up to its own, of the rows from `padding` on.
    fn alone(&self, i: i32, padding: i32) -> Self {
        let (l, s) = (self.q.dim(2), self.k.plain().dim(2));
        let seen = s - l + i + 1;
        let upto = |stored: &Owned| {
            if seen == s && padding == 0 { stored.clone() } else { stored.cut(padding, seen) }
        };
        let rule = self.rule.clone().map(|rule| Causal {
            padding: Vec::new(),
            chunk: rule.chunk.map(|chunk| Chunk { first: chunk.first + padding, ..chunk }),
            ..rule
        });
        Self { q: cut(&self.q, i, i + 1), k: upto(&self.k), v: upto(&self.v), rule, ..self.clone() }
    }

    /// The last query, with the last `held` of the keys in a ring whose newest lies at `newest`.
    fn in_ring(&self, held: i32, newest: i32) -> Self {
        let (b, l, s) = (self.q.dim(0), self.q.dim(2), self.k.plain().dim(2));
        let older = held - newest - 1;
        let turned = |stored: &Owned| {
            let turn = |a: &Array| {
                let (old, young) = (cut(a, s - held, s - held + older), cut(a, s - held + older, s));
                ops::concatenate(&[young, old], 2).unwrap()
            };
            match stored {
                Owned::Plain(array) => Owned::Plain(turn(array)),
                Owned::Packed(p, scheme) => {
                    let biases = p.biases.as_ref().map(turn);
                    Owned::Packed(Packed { weight: turn(&p.weight), scales: turn(&p.scales), biases }, *scheme)
                }
            }
        };
        let rule = self.rule.clone().map(|rule| Causal {
            padding: vec![held - s; b as usize],
            chunk: rule.chunk.map(|chunk| Chunk { first: chunk.first + s - held, ..chunk }),
            ring: Some(Ring { keep: 0, newest }),
            ..rule
        });
        Self { q: cut(&self.q, l - 1, l), k: turned(&self.k), v: turned(&self.v), rule, ..self.clone() }
    }

    fn row(&self, row: i32) -> Self {
        let take = |a: &Array| a.take_axis(Array::from_slice(&[row], &[1]), 0).unwrap();
        let of = |stored: &Owned| match stored {
            Owned::Plain(array) => Owned::Plain(take(array)),
            Owned::Packed(p, scheme) => {
                let biases = p.biases.as_ref().map(take);
                Owned::Packed(Packed { weight: take(&p.weight), scales: take(&p.scales), biases }, *scheme)
            }
        };
        Self { q: take(&self.q), k: of(&self.k), v: of(&self.v), ..self.clone() }
    }
}

pub(super) fn same_bits(a: &Array, b: &Array) -> bool {
    floats(a).iter().zip(&floats(b)).all(|(a, b)| a.to_bits() == b.to_bits())
}

pub(super) const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

#[test]
fn decode_and_prefill_agree_with_the_plain_version() {
    let of = |group, l, s, d, e| Sizes { b: 2, kv_heads: 2, group, l, s, d, e };
    for dtype in FLOATS {
        for sizes in [of(4, 1, 1, 32, 32), of(3, 1, 130, 24, 40), of(1, 70, 70, 16, 16), of(4, 40, 200, 64, 64)] {
            for rule in [None, Some(CAUSAL)] {
                Case::new(sizes, rule.clone(), dtype).check(&format!("{sizes:?} {rule:?} {dtype:?}"));
            }
        }
    }
}

#[test]
fn long_contexts_are_joined_of_chunks() {
    for (kv_heads, l, s) in [(1, 1, job::CHUNK as i32 + 1), (1, 3, 2500), (8, 1, 2100), (2, 70, 1200)] {
        let sizes = Sizes { b: 1, kv_heads, group: 2, l, s, d: 16, e: 32 };
        for dtype in FLOATS {
            Case::new(sizes, Some(CAUSAL), dtype).check(&format!("{sizes:?} {dtype:?}"));
        }
        let window = Causal { window: Some(1100), ..CAUSAL };
        Case::new(sizes, Some(window), Dtype::Float32).check(&format!("{sizes:?}, a window"));
    }
}

#[test]
fn softcap_sinks_and_masks() {
    let sizes = Sizes { b: 2, kv_heads: 2, group: 2, l: 3, s: 90, d: 16, e: 16 };
    let mut case = Case::new(sizes, Some(CAUSAL), Dtype::Float32);
    case.softcap = Some(1.5);
    case.check("softcap");
    case.sinks = Some(Array::from_slice(&[3.0_f32, -1.0, 0.5, 2.0], &[4]));
    case.check("softcap and sinks");
    case.rule = None;
    for shape in [vec![3, 90], vec![1, 90], vec![2, 1, 1, 90], vec![1, 4, 3, 1], vec![2, 4, 3, 90]] {
        let additive = random(&shape, 9, Dtype::Float32);
        case.mask = Some(additive.gt(Array::from_f32(-1.0)).unwrap());
        case.check(&format!("bool mask {shape:?}"));
        case.mask = Some(additive.as_dtype(Dtype::Float16).unwrap());
        case.check(&format!("additive mask {shape:?}"));
    }
}

#[test]
fn rules_and_masks_hold_together() {
    for (l, s) in [(3, 90), (70, 200), (1, 1100)] {
        let sizes = Sizes { b: 2, kv_heads: 2, group: 2, l, s, d: 16, e: 16 };
        let (ring, window) = (Some(Ring { keep: 4, newest: 20 }), Some(60));
        let rules = [
            CAUSAL,
            Causal { window, ..CAUSAL },
            Causal { padding: vec![0, 7], ..CAUSAL },
            Causal { padding: vec![-30, 5], ..CAUSAL },
            Causal { window, ring, padding: vec![-100, 3], ..CAUSAL },
        ];
        for (rule, dtype) in rules.iter().flat_map(|rule| FLOATS.map(|dtype| (rule, dtype))) {
            let mut case = Case::new(sizes, Some(rule.clone()), dtype);
            for shape in [vec![2, 1, l, s], vec![4, 1, s], vec![s]] {
                let additive = random(&shape, 9, Dtype::Float32);
                case.mask = Some(additive.gt(Array::from_f32(-0.5)).unwrap());
                case.check(&format!("{rule:?} and a bool mask {shape:?}, {dtype:?}"));
                case.mask = Some(additive);
                case.check(&format!("{rule:?} and an additive mask {shape:?}, {dtype:?}"));
            }
        }
    }
}

#[test]
fn a_query_that_sees_nothing_takes_the_mean() {
    let sizes = Sizes { b: 1, kv_heads: 1, group: 1, l: 2, s: 70, d: 8, e: 8 };
    let mut case = Case::new(sizes, None, Dtype::Float32);
    case.mask = Some(Array::from_slice(&[false], &[1, 1]));
    case.check("nothing seen");
}

#[test]
fn quantized_keys_and_values_in_every_mode() {
    let sizes = Sizes { b: 2, kv_heads: 2, group: 3, l: 2, s: 150, d: 64, e: 128 };
    let mut schemes: Vec<Scheme> = Mode::ALL.map(Mode::default_scheme).to_vec();
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64] {
            schemes.push(Scheme::new(Mode::Affine, bits, group).unwrap());
        }
    }
    for scheme in schemes {
        for dtype in FLOATS {
            Case::quantized(sizes, Some(CAUSAL), dtype, [scheme; 2]).check(&format!("{scheme} {dtype:?}"));
        }
    }
    let wide_group = Scheme::new(Mode::Affine, 4, 128).unwrap();
    let scheme = Mode::Affine.default_scheme();
    let mut mixed = Case::quantized(sizes, None, Dtype::Bfloat16, [scheme, wide_group]);
    mixed.check("mixed");
    mixed.k = Owned::Plain(random(&[2, 2, 150, 64], 4, Dtype::Bfloat16));
    mixed.check("plain keys and quantized values");
    // Every second token, so that rows do not lie one after the other; and columns turned about, which are copied.
    let strided = |a: &Array| {
        let apart = a.reshape(&[2, 2, 75, 2, a.dim(3)]).unwrap();
        ops::split_equal(&apart, 2, 3).unwrap().swap_remove(0).squeeze_axes(&[3]).unwrap()
    };
    let Owned::Packed(p, _) = &Case::quantized(sizes, None, Dtype::Float32, [scheme, wide_group]).v else {
        unreachable!("it is quantized")
    };
    let biases = p.biases.as_ref().map(strided);
    mixed.v = Owned::Packed(Packed { weight: strided(&p.weight), scales: strided(&p.scales), biases }, wide_group);
    mixed.k = Owned::Plain(random(&[64, 75, 2, 2], 4, Dtype::Bfloat16).transpose().unwrap());
    mixed.check("strided");
}

#[test]
fn infinities_and_no_numbers_come_through_where_they_are_seen() {
    // Queries whose keys end on either side of 192 have tiles of their own.
    let few = [(Dtype::Float32, 200, 4), (Dtype::Bfloat16, 200, 4), (Dtype::Bfloat16, 195, 4)];
    for (dtype, s, l) in few.into_iter().chain(FLOATS.map(|dtype| (dtype, 200, 80))) {
        let sizes = Sizes { b: 1, kv_heads: 1, group: 2, l, s, d: 16, e: 16 };
        let (first, last) = (s - l, s as usize - 2);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (key, rule) in [(last - 1, CAUSAL), (100, CAUSAL), (10, Causal { window: Some(60), ..CAUSAL })] {
                let mut at = vec![0.0_f32; s as usize * 16];
                at[key * 16 + 3] = bad;
                let at = Array::from_slice(&at, &[1, 1, s, 16]).as_dtype(dtype).unwrap();
                let clean = Case::new(sizes, Some(rule.clone()), dtype);
                for of_keys in [true, false] {
                    let mut case = clean.clone();
                    let to = if of_keys { &mut case.k } else { &mut case.v };
                    *to = Owned::Plain(to.plain().add(&at).unwrap().as_dtype(dtype).unwrap());
                    for isa in Isa::available() {
                        let (all, all_clean) = (case.ours(isa), clean.ours(isa));
                        for i in [0, 1, l - 2, l - 1] {
                            let own = first + i;
                            let sees = key as i32 <= own && rule.window.is_none_or(|w| key as i32 + w > own);
                            let row = cut(&all, i, i + 1);
                            let finite = floats(&row).iter().all(|v| v.is_finite());
                            let same = same_bits(&row, &cut(&all_clean, i, i + 1));
                            let what = format!("{isa} {dtype:?} {bad} at {key} of {s}, query {i}");
                            // A key of minus infinity may weigh nothing.
                            assert!(if sees { !finite || of_keys } else { same }, "{what}");
                            assert!(!sees || !bad.is_nan() || !finite, "{what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_left_to_mlx() {
    let sizes = Sizes { b: 1, kv_heads: 2, group: 2, l: 3, s: 5, d: 8, e: 8 };
    let case = Case::new(sizes, Some(CAUSAL), Dtype::Float32);
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        attend_at(Isa::best(), &case.q, case.k.lend(), case.v.lend(), &case.how()).unwrap().is_none()
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|c| c.q = c.q.as_dtype(Dtype::Float16).unwrap()));
    assert!(refused(&|c| c.k = Owned::Plain(random(&[1, 2, 6, 8], 1, Dtype::Float32))));
    assert!(refused(&|c| (c.rule, c.mask) = (None, Some(random(&[4, 5], 1, Dtype::Float32)))));
    assert!(refused(&|c| c.sinks = Some(random(&[3], 1, Dtype::Float32))));
    assert!(refused(&|c| c.q = random(&[1, 4, 6, 8], 1, Dtype::Float32)));
    assert!(refused(&|c| c.rule = Some(Causal { window: Some(0), ..CAUSAL })));
    assert!(refused(&|c| c.rule = Some(Causal { chunk: Some(Chunk { size: 0, first: 0 }), ..CAUSAL })));
    assert!(refused(&|c| c.rule = Some(Causal { padding: vec![1, 2], ..CAUSAL })));
}

#[test]
fn gradients_are_those_of_the_plain_version() {
    let sizes = Sizes { b: 1, kv_heads: 2, group: 2, l: 3, s: 5, d: 8, e: 4 };
    let case = Case {
        softcap: Some(2.0),
        sinks: Some(random(&[4], 5, Dtype::Float32)),
        ..Case::new(sizes, Some(Causal { window: Some(2), ..CAUSAL }), Dtype::Float32)
    };
    let loss = |y: Array| -> Result<Vec<Array>, Exception> { Ok(vec![y.square()?.sum(None)?]) };
    let missing = || Exception::custom("does not fit");
    let ours = |a: &[Array]| {
        let how = fast::Attention { sinks: Some(&a[3]), ..case.how() };
        loss(attend(&a[0], Stored::Plain(&a[1]), Stored::Plain(&a[2]), &how)?.ok_or_else(missing)?)
    };
    let theirs = |a: &[Array]| {
        let how = fast::Attention { sinks: Some(&a[3]), ..case.how() };
        loss(plain::attend_by_hand(&a[0], Stored::Plain(&a[1]), Stored::Plain(&a[2]), &how)?)
    };
    let inputs = [case.q.clone(), case.k.plain(), case.v.plain(), case.sinks.clone().unwrap()];
    let all = &[0, 1, 2, 3][..];
    let (_, got) = transforms::value_and_grad_with_argnums(ours, all)(&inputs).unwrap();
    let (_, want) = transforms::value_and_grad_with_argnums(theirs, all)(&inputs).unwrap();
    for (got, want) in got.iter().zip(&want) {
        floats(got).iter().zip(floats(want)).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} is not {b}"));
    }
}

#[test]
fn queries_of_quantized_keys_have_gradients() {
    let sizes = Sizes { b: 1, kv_heads: 1, group: 2, l: 2, s: 5, d: 32, e: 32 };
    let case = Case::quantized(sizes, Some(CAUSAL), Dtype::Float32, [Scheme::new(Mode::Affine, 8, 32).unwrap(); 2]);
    let (k, v) = (case.k.plain(), case.v.plain());
    let ours = |q: &Array| attend(q, case.k.lend(), case.v.lend(), &case.how())?.unwrap().square()?.sum(None);
    let theirs =
        |q: &Array| plain::attend_by_hand(q, Stored::Plain(&k), Stored::Plain(&v), &case.how())?.square()?.sum(None);
    let (got, want) = (transforms::grad(ours)(&case.q).unwrap(), transforms::grad(theirs)(&case.q).unwrap());
    floats(&got).iter().zip(floats(&want)).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} is not {b}"));
}

/// Rules of all kinds for two rows of `s` keys.
fn rules(s: i32) -> impl Strategy<Value = Option<Causal>> {
    let window = prop_oneof![Just(None), (1..s + 2).prop_map(Some)];
    let chunk = prop_oneof![Just(None), (1..s + 2, 0..200_i32).prop_map(|(size, first)| Some(Chunk { size, first }))];
    let padding = prop_oneof![Just(Vec::new()), prop::collection::vec(-3..s + 3, 2)];
    let starts = prop::collection::vec(0..s + 3, 0..4).prop_map(|mut starts| {
        starts.sort_unstable();
        starts
    });
    let documents = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(starts, 2)];
    let rule = (window, chunk, padding, documents)
        .prop_map(|(window, chunk, padding, documents)| Some(Causal { window, chunk, padding, documents, ring: None }));
    prop_oneof![1 => Just(None), 1 => Just(Some(CAUSAL)), 4 => rule]
}

/// Keys before the queries: some, or more than a chunk.
fn lengths() -> impl Strategy<Value = i32> {
    prop_oneof![4 => 0_i32..140, 1 => 900_i32..1300]
}

/// All of a case but its sizes.
#[derive(Debug, Clone)]
struct Kind {
    scheme: Option<Scheme>,
    dtype: Dtype,
    rule: Causal,
    softcap: Option<f32>,
    with_sinks: bool,
}

impl Kind {
    fn case(self, sizes: Sizes) -> Case {
        let case = match self.scheme {
            Some(scheme) => Case::quantized(sizes, Some(self.rule), self.dtype, [scheme; 2]),
            None => Case::new(sizes, Some(self.rule), self.dtype),
        };
        let sinks = self.with_sinks.then(|| random(&[sizes.kv_heads * sizes.group], 7, self.dtype));
        Case { softcap: self.softcap, sinks, ..case }
    }
}

/// All types and schemes, with and without windows, chunks, soft-caps and sinks.
fn kinds() -> impl Strategy<Value = Kind> {
    let affine = [2, 3, 4, 5, 6, 8].map(|bits| Scheme::new(Mode::Affine, bits, 32).unwrap());
    let schemes = [Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4].map(Mode::default_scheme).into_iter().chain(affine);
    let scheme = prop::option::of(prop::sample::select(schemes.collect::<Vec<_>>()));
    let chunk = (1_i32..200, 0_i32..200).prop_map(|(size, first)| Chunk { size, first });
    let rule = (prop::option::of(1_i32..200), prop::option::weighted(0.2, chunk));
    let rule = rule.prop_map(|(window, chunk)| Causal { window, chunk, ..CAUSAL });
    let softcap = prop::option::weighted(0.3, 0.5_f32..5.0);
    (scheme, proptest::sample::select(&FLOATS[..]), rule, softcap, any::<bool>())
        .prop_map(|(scheme, dtype, rule, softcap, with_sinks)| Kind { scheme, dtype, rule, softcap, with_sinks })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_sizes_agree_with_the_plain_version(
        (kv_heads, group, l, d, e) in (1_i32..3, 1_i32..6, 1_i32..20, 1_i32..100, 1_i32..140),
        (s, rule) in (20_i32..180).prop_flat_map(|s| (Just(s), rules(s))),
        dtype in proptest::sample::select(&FLOATS[..]), softcap in prop::option::of(0.5_f32..5.0), with_sinks in any::<bool>(),
    ) {
        let sizes = Sizes { b: 2, kv_heads, group, l, s, d, e };
        let mut case = Case::new(sizes, rule, dtype);
        case.softcap = softcap;
        case.sinks = with_sinks.then(|| random(&[kv_heads * group], 7, dtype));
        case.check(&format!("{sizes:?} {:?}", case.rule));
    }

    #[test]
    fn a_query_has_the_same_bits_alone_and_in_a_speculative_check(
        (l, before, group) in (1_i32..=65, lengths(), 1_i32..6), kind in kinds(), of in any::<prop::sample::Index>(),
    ) {
        let case = kind.case(Sizes { b: 2, kv_heads: 2, group, l, s: l + before, d: 32, e: 32 });
        let i = of.index(l as usize) as i32;
        for isa in Isa::available() {
            let alone = case.alone(i, 0).ours(isa);
            prop_assert!(same_bits(&alone, &cut(&case.ours(isa), i, i + 1)), "{} {:?} query {}", isa, case.rule, i);
        }
    }

    #[test]
    fn a_sequence_has_the_same_bits_alone_and_in_a_padded_batch(
        (l, before, group) in (1_i32..=6, lengths(), 1_i32..5), padding in prop::collection::vec(0_i32..100, 2), kind in kinds(),
    ) {
        let mut case = kind.case(Sizes { b: 2, kv_heads: 2, group, l, s: l + before + 100, d: 32, e: 32 });
        case.rule.as_mut().unwrap().padding.clone_from(&padding);
        for isa in Isa::available() {
            let together = case.ours(isa);
            for (row, &padding) in padding.iter().enumerate() {
                let one = case.row(row as i32).alone(l - 1, padding).ours(isa);
                let take = Array::from_slice(&[row as i32], &[1]);
                let row = cut(&together.take_axis(take, 0).unwrap(), l - 1, l);
                prop_assert!(same_bits(&one, &row), "{} {:?}", isa, case.rule);
            }
        }
    }

    #[test]
    fn a_query_has_the_same_bits_where_keys_lie_in_a_ring_and_earlier_ones_were_dropped(
        (l, before, group) in (1_i32..=3, lengths(), 1_i32..5), kind in kinds(),
        (held, newest) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let s = l + before;
        let mut case = kind.case(Sizes { b: 2, kv_heads: 2, group, l, s, d: 32, e: 32 });
        let rule = case.rule.as_mut().unwrap();
        let window = rule.window.map_or(s, |window| window.min(s));
        rule.window = Some(window);
        let held = window + held.index((s - window) as usize + 1) as i32;
        let ring = case.in_ring(held, newest.index(held as usize) as i32);
        for isa in Isa::available() {
            prop_assert!(same_bits(&ring.ours(isa), &cut(&case.ours(isa), l - 1, l)), "{} {:?}", isa, ring.rule);
        }
        ring.check(&format!("{:?}", ring.rule));
    }

    #[test]
    fn pieces_on_several_threads_give_the_same_bits_as_one_after_the_other(
        (kv_heads, l, s) in (1_i32..4, 1_i32..20, 1025_i32..3500), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        // Many heads are balanced without cutting, few are not.
        let case = Case::new(Sizes { b: 1, kv_heads, group: 2, l, s, d: 8, e: 8 }, Some(CAUSAL), dtype);
        let many = |stored: &Owned| Owned::Plain(ops::concatenate(&[&stored.plain(); 12], 1).unwrap().as_dtype(dtype).unwrap());
        let heads = Case {
            q: ops::concatenate(&[&case.q; 12], 1).unwrap(), k: many(&case.k), v: many(&case.v), ..case.clone()
        };
        for isa in Isa::available() {
            let first = ops::split_at_indices(heads.ours(isa), &[2 * kv_heads], 1).unwrap().swap_remove(0);
            prop_assert!(same_bits(&case.ours(isa), &first), "{}", isa);
        }
    }
}
