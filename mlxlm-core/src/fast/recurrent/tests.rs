//! Each layer against its plain version, alone and beside others, in one call and in several.

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Dtype, ops};
use proptest::prelude::*;

use super::super::testing::{
    FLOATS, Layout, check, check_narrow, copied, floats, layouts, normal, same_bits, same_outcome,
};
use super::super::{Activation, activate};
use super::*;

type Outcome = Result<(Array, Array), Exception>;

/// A layer, from inputs of which any numbers will do.
#[derive(Clone, Copy)]
struct Layer {
    name: &'static str,
    /// Of the inputs, with `B` rows and `T` tokens, then of the state.
    shapes: fn(i32, i32) -> Vec<Vec<i32>>,
    call: fn(Doors, &[Array], Option<&Array>, Option<&Array>) -> Outcome,
    /// The axis of tokens, of each input.
    tokens: i32,
}

/// The functions of the house, or their plain versions.
#[derive(Clone, Copy, PartialEq)]
enum Doors {
    Fast,
    Plain,
}

/// A number from 0 to 1 for each.
fn share(x: &Array) -> Result<Array, Exception> {
    ops::sigmoid(x)
}

fn delta(doors: Doors, x: &[Array], state: Option<&Array>, mask: Option<&Array>) -> Outcome {
    let (g, beta) = (share(&x[3])?, share(&x[4])?);
    // Keys of length one keep the state from growing.
    let k = x[1].multiply(Array::from_f32(0.3).as_dtype(x[1].dtype())?)?;
    let door = if doors == Doors::Fast { gated_delta } else { plain::gated_delta };
    door(&x[0], &k, &x[2], &g, &beta, state, mask)
}

fn scan(doors: Doors, x: &[Array], state: Option<&Array>, mask: Option<&Array>) -> Outcome {
    let (dt, a) = (activate(Activation::Softplus, &x[1])?, x[2].exp()?.negative()?);
    let scan = Scan { x: &x[0], dt: &dt, a: &a, b: &x[3], c: &x[4], d: x.get(5), state, mask };
    match (doors, x[0].ndim()) {
        (Doors::Fast, 4) => ssm_scan(&scan),
        (Doors::Plain, 4) => plain::ssm_scan(&scan),
        (Doors::Fast, _) => selective_scan(&scan),
        (Doors::Plain, _) => plain::selective_scan(&scan),
    }
}

fn rwkv(doors: Doors, x: &[Array], state: Option<&Array>, mask: Option<&Array>) -> Outcome {
    let small = |x: &Array| x.multiply(Array::from_f32(0.3).as_dtype(x.dtype())?);
    let (w, a, b) = (share(&x[1])?, small(&x[4])?, small(&x[5])?);
    let of = Wkv7 { r: &x[0], w: &w, k: &x[2], v: &x[3], a: &a, b: &b, state, mask };
    if doors == Doors::Fast { wkv7(&of) } else { plain::wkv7(&of) }
}

fn decay(doors: Doors, x: &[Array], state: Option<&Array>, mask: Option<&Array>) -> Outcome {
    let g = x[3].square()?.negative()?;
    let door = if doors == Doors::Fast { decay_attention } else { plain::decay_attention };
    door(&x[0], &x[1], &x[2], &g, 0.3, state, mask)
}

const LAYERS: [Layer; 7] = [
    Layer {
        name: "gates of heads",
        shapes: |b, t| {
            let (qk, v, gate) = (vec![b, t, 2, 19], vec![b, t, 4, 37], vec![b, t, 4]);
            vec![qk.clone(), qk, v, gate.clone(), gate, vec![b, 4, 37, 19]]
        },
        call: delta,
        tokens: 1,
    },
    Layer {
        name: "gates of columns",
        shapes: |b, t| {
            let qk = vec![b, t, 3, 16];
            vec![qk.clone(), qk.clone(), vec![b, t, 3, 5], qk, vec![b, t, 3], vec![b, 3, 5, 16]]
        },
        call: delta,
        tokens: 1,
    },
    Layer {
        name: "Mamba-2",
        shapes: |b, t| {
            let (dt, bc) = (vec![b, t, 4], vec![b, t, 2, 20]);
            vec![vec![b, t, 4, 35], dt, vec![4], bc.clone(), bc, vec![4], vec![b, 4, 35, 20]]
        },
        call: scan,
        tokens: 1,
    },
    Layer {
        name: "Mamba-2 without D",
        shapes: |b, t| {
            let (dt, bc) = (vec![b, t, 2], vec![b, t, 1, 16]);
            vec![vec![b, t, 2, 3], dt, vec![2], bc.clone(), bc, vec![b, 2, 3, 16]]
        },
        call: scan,
        tokens: 1,
    },
    Layer {
        name: "Mamba",
        shapes: |b, t| {
            let (x, bc) = (vec![b, t, 21], vec![b, t, 5]);
            vec![x.clone(), x, vec![21, 5], bc.clone(), bc, vec![21], vec![b, 21, 5]]
        },
        call: scan,
        tokens: 1,
    },
    Layer {
        name: "RWKV-7",
        shapes: |b, t| {
            let x = vec![b, t, 2, 18];
            let mut all = vec![x; 6];
            all.push(vec![b, 2, 18, 18]);
            all
        },
        call: rwkv,
        tokens: 1,
    },
    Layer {
        name: "decay",
        shapes: |b, t| {
            let qk = vec![b, 3, t, 17];
            vec![qk.clone(), qk, vec![b, 3, t, 34], vec![3], vec![b, 3, 17, 34]]
        },
        call: decay,
        tokens: 2,
    },
];

impl Layer {
    fn inputs(&self, batch: i32, tokens: i32) -> Vec<Array> {
        (self.shapes)(batch, tokens).iter().zip(1..).map(|(shape, seed)| normal(shape, seed)).collect()
    }

    /// Both results, one after the other, of inputs with or without a state behind them.
    fn all(&self, doors: Doors, x: &[Array], with_state: bool, mask: Option<&Array>) -> Result<Array, Exception> {
        let (inputs, state) = split(x, with_state);
        let (y, state) = (self.call)(doors, inputs, state, mask)?;
        ops::concatenate(&[y.flatten(None, None)?.as_dtype(Dtype::Float32)?, state.flatten(None, None)?], 0)
    }

    /// The tokens of a range, of the inputs that have any.
    fn cut(&self, x: &[Array], from: i32, to: i32) -> Vec<Array> {
        let tokens = x[0].dim(self.tokens);
        let part = |x: &Array| match self.tokens {
            1 if x.ndim() > 2 && x.dim(1) == tokens => x.try_index((.., from..to)).unwrap(),
            2 if x.ndim() > 2 && x.dim(2) == tokens => x.try_index((.., .., from..to)).unwrap(),
            _ => x.clone(),
        };
        x.iter().map(part).collect()
    }
}

/// Inputs, and the state behind them, if there is one.
fn split(x: &[Array], with_state: bool) -> (&[Array], Option<&Array>) {
    match x.split_last() {
        Some((state, inputs)) if with_state => (inputs, Some(state)),
        _ => (x, None),
    }
}

/// One row of inputs that have rows.
fn row(x: &[Array], number: i32) -> Vec<Array> {
    let batch = x[0].dim(0);
    let one = |x: &Array| {
        if x.ndim() > 2 && x.dim(0) == batch { x.try_index(number..number + 1).unwrap() } else { x.clone() }
    };
    x.iter().map(one).collect()
}

#[test]
fn they_are_the_plain_ones() {
    let mask = Array::from_slice(&[false, false, true, true, true, true, false, true, true, false], &[2, 5]);
    for layer in LAYERS {
        let with_state = layer.inputs(2, 5);
        let without = &with_state[..with_state.len() - 1];
        for mask in [None, Some(&mask)] {
            for (x, has_state) in [(&with_state[..], true), (without, false)] {
                let of = |doors| move |x: &[Array]| layer.all(doors, x, has_state, mask);
                let compare = || check(x, of(Doors::Fast), of(Doors::Plain));
                let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(compare));
                assert!(got.is_ok(), "{}, state: {has_state}, mask: {}", layer.name, mask.is_some());
            }
        }
    }
}

#[test]
fn narrow_types_are_rounded_once() {
    for layer in LAYERS {
        let mut shapes = (layer.shapes)(2, 7);
        shapes.pop();
        let shapes: Vec<&[i32]> = shapes.iter().map(Vec::as_slice).collect();
        if layer.name.contains("Mamba") || layer.name.contains("gate") || layer.name == "RWKV-7" {
            // What is made of inputs here is rounded, too, so that types are only held.
            for dtype in FLOATS {
                let x: Vec<Array> =
                    shapes.iter().zip(1..).map(|(shape, seed)| normal(shape, seed).as_dtype(dtype).unwrap()).collect();
                let [fast, plain] =
                    [Doors::Fast, Doors::Plain].map(|doors| (layer.call)(doors, &x, None, None).unwrap());
                assert_eq!((fast.0.dtype(), fast.1.dtype()), (dtype, Dtype::Float32), "{}", layer.name);
                let rounding = if dtype == Dtype::Float32 { 1e-5 } else { 0.01 };
                assert!(fast.0.all_close(&plain.0, rounding, rounding, None).unwrap(), "{} {dtype:?}", layer.name);
                assert!(fast.1.all_close(&plain.1, 1e-4, 1e-4, None).unwrap(), "{} {dtype:?}", layer.name);
            }
        } else {
            let gate = normal(&[3], 9);
            check_narrow(&shapes[..3], |x| {
                let x = [x[0].clone(), x[1].clone(), x[2].clone(), gate.clone()];
                Ok((layer.call)(Doors::Fast, &x, None, None)?.0)
            });
        }
    }
}

#[test]
fn a_sequence_may_be_cut_anywhere() {
    for layer in LAYERS {
        let x = layer.inputs(2, 9);
        let (inputs, state) = split(&x, true);
        let (whole, last) = (layer.call)(Doors::Fast, inputs, state, None).unwrap();
        for at in [1, 4, 8] {
            let first = (layer.call)(Doors::Fast, &layer.cut(inputs, 0, at), state, None).unwrap();
            let second = (layer.call)(Doors::Fast, &layer.cut(inputs, at, 9), Some(&first.1), None).unwrap();
            let joined = ops::concatenate(&[&first.0, &second.0], layer.tokens).unwrap();
            assert!(same_bits(&joined, &whole) && same_bits(&second.1, &last), "{} at {at}", layer.name);
        }
    }
}

/// A state in bf16 stays such, is rounded after each token however they come, and is rounded once.
#[test]
fn a_narrow_state_may_be_cut_anywhere() {
    for layer in LAYERS.iter().filter(|layer| layer.name.contains("gate")) {
        let x = layer.inputs(2, 9);
        let (inputs, state) = split(&x, true);
        let state = state.unwrap().as_dtype(Dtype::Bfloat16).unwrap();
        let [fast, plain] =
            [Doors::Fast, Doors::Plain].map(|doors| (layer.call)(doors, inputs, Some(&state), None).unwrap());
        assert_eq!((fast.1.dtype(), plain.1.dtype()), (Dtype::Bfloat16, Dtype::Bfloat16));
        assert!(fast.0.all_close(&plain.0, 0.02, 0.02, None).unwrap(), "{}", layer.name);
        let wide = (layer.call)(Doors::Fast, inputs, Some(&state.as_dtype(Dtype::Float32).unwrap()), None).unwrap();
        assert!(!same_bits(&fast.0, &wide.0) && fast.0.all_close(&wide.0, 0.05, 0.05, None).unwrap(), "{}", layer.name);
        for at in [1, 4, 8] {
            let first = (layer.call)(Doors::Fast, &layer.cut(inputs, 0, at), Some(&state), None).unwrap();
            let second = (layer.call)(Doors::Fast, &layer.cut(inputs, at, 9), Some(&first.1), None).unwrap();
            let joined = ops::concatenate(&[&first.0, &second.0], layer.tokens).unwrap();
            assert!(same_bits(&joined, &fast.0) && same_bits(&second.1, &fast.1), "{} at {at}", layer.name);
        }
        let first = layer.cut(inputs, 0, 1);
        let wide = (layer.call)(Doors::Fast, &first, Some(&state.as_dtype(Dtype::Float32).unwrap()), None).unwrap();
        let narrow = (layer.call)(Doors::Fast, &first, Some(&state), None).unwrap();
        assert!(same_bits(&narrow.1, &wide.1.as_dtype(Dtype::Bfloat16).unwrap()), "{}", layer.name);
    }
}

#[test]
fn rows_have_the_same_bits_alone_and_padded() {
    for layer in LAYERS {
        let x = layer.inputs(3, 6);
        // The second row begins later, the third ends earlier.
        let mut shown = [true; 18];
        shown[6..8].fill(false);
        shown[15..18].fill(false);
        let mask = Array::from_slice(&shown, &[3, 6]);
        let (inputs, state) = split(&x, true);
        let (y, last) = (layer.call)(Doors::Fast, inputs, state, Some(&mask)).unwrap();
        for (number, (from, to)) in [(0, 6), (2, 6), (0, 3)].into_iter().enumerate() {
            let number = number as i32;
            let alone = layer.cut(&row(inputs, number), from, to);
            let state = state.map(|state| state.try_index(number..number + 1).unwrap());
            let (want, want_last) = (layer.call)(Doors::Fast, &alone, state.as_ref(), None).unwrap();
            let got = layer.cut(&row(std::slice::from_ref(&y), number), from, to).swap_remove(0);
            let got_last = last.try_index(number..number + 1).unwrap();
            assert!(same_bits(&got, &want) && same_bits(&got_last, &want_last), "{} row {number}", layer.name);
        }
        let hidden = layer.cut(&row(std::slice::from_ref(&y), 1), 0, 2).swap_remove(0);
        assert!(floats(&hidden).iter().all(|y| *y == 0.0), "{}", layer.name);
    }
}

#[test]
fn no_tokens_leave_the_state_as_it_is() {
    for layer in LAYERS {
        let x = layer.inputs(2, 0);
        let (inputs, state) = split(&x, true);
        let [fast, plain] = [Doors::Fast, Doors::Plain].map(|doors| (layer.call)(doors, inputs, state, None));
        let (y, last): (Vec<_>, Vec<_>) = [fast.unwrap(), plain.unwrap()].into_iter().unzip();
        same_outcome(Ok(y[0].clone()), Ok(y[1].clone()));
        assert!(same_bits(&last[0], state.unwrap()) && same_bits(&last[1], state.unwrap()));
    }
}

#[test]
fn shapes_that_do_not_go_together_are_errors_that_say_which() {
    let (q, v) = (normal(&[2, 5, 3, 8], 1), normal(&[2, 5, 4, 8], 2));
    let gate = normal(&[2, 5, 4], 3);
    let error = gated_delta(&q, &q, &v, &gate, &gate, None, None).unwrap_err().to_string();
    assert!(error.contains("3 key heads cannot serve 4"), "{error}");
    let (q, state) = (normal(&[2, 5, 2, 8], 1), normal(&[2, 4, 8, 7], 4));
    let error = gated_delta(&q, &q, &v, &gate, &gate, Some(&state), None).unwrap_err().to_string();
    assert!(error.contains("the state must be [2, 4, 8, 8]"), "{error}");
    let mask = normal(&[2, 5], 5);
    let error = gated_delta(&q, &q, &v, &gate, &gate, None, Some(&mask)).unwrap_err().to_string();
    assert!(error.contains("the mask must be of bool"), "{error}");
    for layer in LAYERS {
        let x = layer.inputs(2, 5);
        let (inputs, state) = split(&x, true);
        for wrong in 0..inputs.len() {
            let mut inputs = inputs.to_vec();
            inputs[wrong] = normal(&[2, 2, 2, 2, 2], 1);
            assert!((layer.call)(Doors::Fast, &inputs, state, None).is_err(), "{} {wrong}", layer.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_layout_gives_the_bits_of_a_contiguous_one(
        which in 0..LAYERS.len(), of in prop::collection::vec(layouts(4), 7), dtype in prop::sample::select(&FLOATS[..]),
        tokens in 1..5_i32, (of_mask, masked) in (layouts(2), any::<bool>()),
    ) {
        let layer = LAYERS[which];
        let make = |((shape, layout), seed): ((&Vec<i32>, &Layout), u64)| match shape.len() {
            4 => layout.normal(shape, seed, dtype),
            _ => normal(shape, seed).as_dtype(dtype).unwrap(),
        };
        let shapes = (layer.shapes)(2, tokens);
        let x: Vec<Array> = shapes.iter().zip(&of).zip(1..).map(make).collect();
        let mask = of_mask.normal(&[2, tokens], 9, Dtype::Float32).gt(Array::from_f32(-0.5)).unwrap();
        let straight: Vec<Array> = x.iter().map(copied).collect();
        let [got, want] = [&x, &straight].map(|x| {
            let (inputs, state) = split(x, true);
            (layer.call)(Doors::Fast, inputs, state, masked.then_some(&mask)).unwrap()
        });
        prop_assert!(same_bits(&got.0, &want.0) && same_bits(&got.1, &want.1), "{}", layer.name);
    }
}
