//! The kernel against the plain version, at every level of the machine.

use proptest::prelude::*;

use super::*;
use crate::ops;

fn noise(seed: u64, i: usize) -> f32 {
    let mut x = seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((x >> 40) as f32) / 8_388_608.0 - 1.0
}

fn random(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    let len: i32 = shape.iter().product();
    let values: Vec<f32> = (0..len as usize).map(|i| 2.0 * noise(seed, i)).collect();
    Array::from_slice(&values, shape).as_dtype(dtype).unwrap()
}

fn floats(a: &Array) -> Vec<f32> {
    a.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().to_vec_exact::<f32>().unwrap()
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

/// Inputs of a call.
struct Case {
    q: Array,
    k: Array,
    v: Array,
    spec: Spec,
    mask: Option<Array>,
    sinks: Option<Array>,
}

impl Case {
    /// Keys and values lie in a cache with room for more, by position first, as models make them.
    fn new(z: Sizes, rule: Rule, dtype: Dtype) -> Self {
        let heads = z.kv_heads * z.group;
        let q = random(&[z.b, z.l, heads, z.d], 1, dtype).transpose_axes(&[0, 2, 1, 3]).unwrap();
        let cache = |width: i32, seed| {
            let all = random(&[z.b, z.kv_heads, z.s + 5, width], seed, dtype);
            ops::split_at_indices(&all, &[z.s], 2).unwrap().swap_remove(0)
        };
        let spec = Spec { scale: 0.7 / (z.d as f32).sqrt(), rule, softcap: None };
        Self { q, k: cache(z.d, 2), v: cache(z.e, 3), spec, mask: None, sinks: None }
    }

    fn ours(&self, isa: Isa) -> Array {
        assert!(fits(&self.q, &self.k, &self.v, self.spec, self.mask.as_ref(), self.sinks.as_ref()));
        let shape = [self.q.dim(0), self.q.dim(1), self.q.dim(2), self.v.dim(3)];
        let inputs: Vec<&Array> =
            [&self.q, &self.k, &self.v].into_iter().chain(&self.mask).chain(&self.sinks).collect();
        let operation = Attention { spec: self.spec, isa, has_mask: self.mask.is_some() };
        apply_one(operation, &inputs, &shape, self.q.dtype()).unwrap()
    }

    /// Holds every level against the plain version in f32.
    fn check(&self, what: &str) {
        let wide = |a: &Array| a.as_dtype(Dtype::Float32).unwrap();
        let mask = self.mask.as_ref().map(|mask| if mask.dtype() == Dtype::Bool { mask.clone() } else { wide(mask) });
        let (q, k, v) = (wide(&self.q), wide(&self.k), wide(&self.v));
        let want = floats(
            &plain::attend(&q, &k, &v, self.spec, mask.as_ref(), self.sinks.as_ref().map(wide).as_ref()).unwrap(),
        );
        let tolerance = match self.q.dtype() {
            Dtype::Float32 => 5e-6,
            Dtype::Float16 => 1.5e-3,
            _ => 1e-2,
        };
        for isa in Isa::available() {
            let got = floats(&self.ours(isa));
            assert_eq!(got.len(), want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((got - want).abs() <= tolerance, "{isa} {what} {i}: {got} is not {want}");
            }
        }
    }
}

const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

#[test]
fn decode_and_prefill_agree_with_the_plain_version() {
    let of = |group, l, s, d, e| Sizes { b: 2, kv_heads: 2, group, l, s, d, e };
    for dtype in FLOATS {
        for sizes in [of(4, 1, 1, 32, 32), of(3, 1, 130, 24, 40), of(1, 70, 70, 16, 16), of(4, 40, 200, 64, 64)] {
            for rule in [Rule::All, Rule::Causal] {
                Case::new(sizes, rule, dtype).check(&format!("{sizes:?} {rule:?} {dtype:?}"));
            }
        }
    }
}

#[test]
fn softcap_sinks_and_masks() {
    let sizes = Sizes { b: 2, kv_heads: 2, group: 2, l: 3, s: 90, d: 16, e: 16 };
    let mut case = Case::new(sizes, Rule::Causal, Dtype::Float32);
    case.spec.softcap = Some(1.5);
    case.check("softcap");
    case.sinks = Some(random(&[4], 8, Dtype::Float32));
    case.check("softcap and sinks");
    case.spec = Spec { softcap: None, rule: Rule::All, ..case.spec };
    case.check("sinks");
    for shape in [&[90][..], &[3, 90], &[2, 1, 3, 90], &[2, 4, 1, 90], &[1, 1, 3, 1]] {
        let additive = random(shape, 9, Dtype::Float32);
        case.mask = Some(additive.gt(Array::from_f32(-1.0)).unwrap());
        case.check(&format!("bool mask {shape:?}"));
        case.mask = Some(additive.as_dtype(Dtype::Float16).unwrap());
        case.check(&format!("additive mask {shape:?}"));
    }
}

#[test]
fn a_query_that_sees_nothing_takes_the_mean() {
    let sizes = Sizes { b: 1, kv_heads: 1, group: 1, l: 2, s: 70, d: 8, e: 8 };
    let mut case = Case::new(sizes, Rule::All, Dtype::Float32);
    case.mask = Some(Array::from_slice(&[false], &[1, 1]));
    case.check("nothing seen");
}

#[test]
fn what_does_not_fit_is_left_to_mlx() {
    let sizes = Sizes { b: 1, kv_heads: 2, group: 2, l: 3, s: 5, d: 8, e: 8 };
    let Case { q, k, v, spec, .. } = Case::new(sizes, Rule::Causal, Dtype::Float32);
    let refused = |q: &Array, k: &Array, v: &Array, mask: Option<&Array>, sinks: Option<&Array>| {
        attend(q, k, v, spec, mask, sinks).unwrap().is_none()
    };
    assert!(!refused(&q, &k, &v, None, None));
    assert!(refused(&q.as_dtype(Dtype::Float16).unwrap(), &k, &v, None, None));
    assert!(refused(&q, &k, &random(&[1, 2, 6, 8], 1, Dtype::Float32), None, None));
    assert!(refused(&q, &k, &v, Some(&random(&[4, 5], 1, Dtype::Float32)), None));
    assert!(refused(&q, &k, &v, None, Some(&random(&[3], 1, Dtype::Float32))));
    assert!(refused(&random(&[1, 4, 6, 8], 1, Dtype::Float32), &k, &v, None, None));
}

#[test]
fn gradients_are_those_of_the_plain_version() {
    let sizes = Sizes { b: 1, kv_heads: 2, group: 2, l: 3, s: 5, d: 8, e: 4 };
    let Case { q, k, v, spec, .. } = Case::new(sizes, Rule::Causal, Dtype::Float32);
    let loss = |y: Array| -> Result<Vec<Array>, Exception> { Ok(vec![y.square()?.sum(None)?]) };
    let missing = || Exception::custom("does not fit");
    let ours = |a: &[Array]| loss(attend(&a[0], &a[1], &a[2], spec, None, None)?.ok_or_else(missing)?);
    let theirs = |a: &[Array]| loss(plain::attend(&a[0], &a[1], &a[2], spec, None, None)?);
    let inputs = [q.clone(), k.clone(), v.clone()];
    let all = &[0, 1, 2][..];
    let (_, got) = transforms::value_and_grad_with_argnums(ours, all)(&inputs).unwrap();
    let (_, want) = transforms::value_and_grad_with_argnums(theirs, all)(&inputs).unwrap();
    for (got, want) in got.iter().zip(&want) {
        floats(got).iter().zip(floats(want)).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} is not {b}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn random_sizes_agree_with_the_plain_version(
        (b, kv_heads, group, l, extra) in (1_i32..3, 1_i32..3, 1_i32..5, 1_i32..20, 0_i32..150),
        (d, e) in (1_i32..70, 1_i32..70), causal in any::<bool>(), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let rule = if causal { Rule::Causal } else { Rule::All };
        let sizes = Sizes { b, kv_heads, group, l, s: l + extra, d, e };
        Case::new(sizes, rule, dtype).check(&format!("{sizes:?}"));
    }

    #[test]
    fn a_query_has_the_same_bits_alone_and_in_a_speculative_check(
        (l, before, group, d) in (1_i32..=64, 0_i32..140, 1_i32..5, 1_i32..40), dtype in proptest::sample::select(&FLOATS[..]),
    ) {
        let sizes = Sizes { b: 2, kv_heads: 2, group, l, s: l + before, d, e: d };
        let case = Case::new(sizes, Rule::Causal, dtype);
        let upto = |a: &Array, end: i32| ops::split_at_indices(a, &[end], 2).unwrap().swap_remove(0);
        for isa in Isa::available() {
            let together = case.ours(isa);
            for i in [0, l / 2, l - 1] {
                let one = |a: &Array| a.take_axis(Array::from_slice(&[i], &[1]), 2).unwrap();
                let seen = before + i + 1;
                let alone = Case {
                    q: one(&case.q),
                    k: if seen == sizes.s { case.k.clone() } else { upto(&case.k, seen) },
                    v: if seen == sizes.s { case.v.clone() } else { upto(&case.v, seen) },
                    spec: case.spec, mask: None, sinks: None,
                };
                let (alone, row) = (floats(&alone.ours(isa)), floats(&one(&together)));
                let same = alone.iter().zip(&row).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "{} {:?} query {}", isa, sizes, i);
            }
        }
    }
}
