//! How a fast function is held against its plain version, and arrays of any layout.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, random, transforms};
use proptest::prelude::*;

use super::Activation;

/// All activations, with limits that normal numbers reach.
pub(crate) const ACTIVATIONS: [Activation; 15] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluApprox,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Relu2,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Softplus,
    Activation::Identity,
    Activation::SwigluOai { alpha: 1.702, limit: 1.5 },
    Activation::SwigluClamped { limit: 0.75 },
    Activation::SwigluLimited { limit: 1.25 },
    Activation::Situ { beta: 1.5, linear_beta: None },
    Activation::Situ { beta: 0.75, linear_beta: Some(2.0) },
];

pub(crate) const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

pub(crate) fn normal(shape: &[i32], seed: u64) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
}

pub(crate) fn floats(x: &Array) -> Vec<f32> {
    let x = x.as_dtype(Dtype::Float32).unwrap();
    if x.size() == 0 { Vec::new() } else { x.contiguous().unwrap().to_vec_exact::<f32>().unwrap() }
}

pub(crate) fn same_bits(a: &Array, b: &Array) -> bool {
    (a.shape(), a.dtype()) == (b.shape(), b.dtype())
        && floats(a).iter().zip(floats(b)).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Holds a result against that of MLX's own operations: the same values, or the same error.
pub(crate) fn same_outcome(got: Result<Array, Exception>, want: Result<Array, Exception>) {
    let computed = |result: Result<Array, Exception>| result.and_then(|x| x.eval().map(|()| x));
    match (computed(got), computed(want)) {
        (Ok(got), Ok(want)) => assert!(same_bits(&got, &want), "{got:?} is not {want:?}"),
        (Err(got), Err(want)) => assert_eq!(got.what(), want.what()),
        (got, want) => panic!("{got:?} is not {want:?}"),
    }
}

/// How an array lies in memory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The axes, that of neighbours in memory last.
    order: Vec<usize>,
    /// For each axis every how many entries are taken, backwards if negative; 0 repeats one of them.
    steps: Vec<i32>,
    /// Entries that lie before the array.
    before: i32,
}

/// Layouts of so many axes: transposed, sliced with steps, turned round, broadcast, and contiguous.
pub(crate) fn layouts(axes: usize) -> impl Strategy<Value = Layout> {
    let order: Vec<usize> = (0..axes).collect();
    let order = prop_oneof![Just(order.clone()), Just(order).prop_shuffle()];
    let step = prop_oneof![5 => Just(1), 2 => prop::sample::select(vec![2, 3, -1, -2]), 1 => Just(0)];
    (order, prop::collection::vec(step, axes), 0..5).prop_map(|(order, steps, before)| Layout { order, steps, before })
}

impl Layout {
    /// An array of this layout in the memory of one that `make` makes of one axis.
    pub(crate) fn of(&self, shape: &[i32], make: impl Fn(&[i32]) -> Array) -> Array {
        let (mut strides, mut first, mut room) = (vec![0; shape.len()], self.before, 1);
        for &axis in self.order.iter().rev() {
            let (size, step) = (shape[axis], self.steps[axis]);
            strides[axis] = i64::from(room * step);
            first += room * (-step).max(0) * (size - 1);
            room *= (size * step.abs()).max(1);
        }
        make(&[self.before + room]).as_strided(shape, &strides[..], first as usize).unwrap()
    }

    /// As [`normal`], in this layout.
    pub(crate) fn normal(&self, shape: &[i32], seed: u64, dtype: Dtype) -> Array {
        self.of(shape, |room| normal(room, seed).as_dtype(dtype).unwrap())
    }
}

/// Words of any bits, for codes.
pub(crate) fn words(shape: &[i32]) -> Array {
    let words: Vec<u32> = (0..shape.iter().product()).map(|i: i32| (i as u32).wrapping_mul(0x9E37_79B9)).collect();
    Array::from_slice(&words, shape)
}

/// The same entries one after the other.
pub(crate) fn copied(x: &Array) -> Array {
    let copy = x.contiguous().unwrap();
    copy.eval().unwrap();
    copy
}

fn largest(x: &Array) -> f32 {
    x.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap()
}

/// Holds a result against another of the same shape and type.
pub(crate) fn close(got: &Array, want: &Array, what: &str) {
    assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "{what}");
    let wide = |x: &Array| x.as_dtype(Dtype::Float32).unwrap();
    let (off, scale) = (largest(&wide(&got.subtract(want).unwrap())), largest(&wide(want)));
    assert!(off <= 1e-5 * scale.max(1.0), "{what}: off by {off} of {scale}");
}

type Function<'a> = &'a dyn Fn(&[Array]) -> Result<Array, Exception>;

/// The gradients of all inputs.
pub(crate) fn gradients(loss: impl Fn(&[Array]) -> Result<Array, Exception>, inputs: &[Array]) -> Vec<Array> {
    let numbers: Vec<i32> = (0..inputs.len() as i32).collect();
    let loss = |x: &[Array]| Ok::<_, Exception>(vec![loss(x)?]);
    transforms::value_and_grad_with_argnums(loss, numbers.as_slice())(inputs).unwrap().1
}

/// The sum of the products of all entries.
fn along(x: &Array, direction: &Array) -> f32 {
    x.multiply(direction).unwrap().sum(None).unwrap().try_item_exact::<f32>().unwrap()
}

/// Holds gradients of `loss` against the differences that a step along a random direction makes.
fn check_differences(loss: impl Fn(&[Array]) -> Array, inputs: &[Array], gradients: &[Array]) {
    const STEP: f32 = 1.0 / 128.0;
    for (i, gradient) in gradients.iter().enumerate() {
        let direction = normal(inputs[i].shape(), 7 + i as u64);
        let at = |step: f32| {
            let mut inputs = inputs.to_vec();
            inputs[i] = inputs[i].add(direction.multiply(Array::from_f32(step)).unwrap()).unwrap();
            loss(&inputs).try_item_exact::<f32>().unwrap()
        };
        let (got, want) = ((at(STEP) - at(-STEP)) / (2.0 * STEP), along(gradient, &direction));
        // The gradient's length is what a random direction makes of it.
        let scale = along(gradient, gradient).sqrt();
        assert!(
            (got - want).abs() <= 0.03 * (scale + 1.0),
            "gradient {i}: {want} along a direction, a step makes {got}"
        );
    }
}

/// Holds values and gradients of a function of `f32` against those of its plain version, and gradients against differences.
pub(crate) fn check(
    inputs: &[Array],
    fast: impl Fn(&[Array]) -> Result<Array, Exception>,
    plain: impl Fn(&[Array]) -> Result<Array, Exception>,
) {
    let got = fast(inputs).unwrap();
    close(&got, &plain(inputs).unwrap(), "value");
    let direction = normal(got.shape(), 99);
    let gradients_of = |f: Function<'_>| gradients(|x| f(x)?.multiply(&direction)?.sum(None), inputs);
    let got = gradients_of(&fast);
    for (i, (got, want)) in got.iter().zip(gradients_of(&plain)).enumerate() {
        close(got, &want, &format!("gradient {i}"));
    }
    check_differences(|x| fast(x).unwrap().multiply(&direction).unwrap().sum(None).unwrap(), inputs, &got);
}

/// Holds the value in 16 bits against that in `f32`, and the type of its gradient.
pub(crate) fn check_narrow(shapes: &[&[i32]], f: impl Fn(&[Array]) -> Result<Array, Exception>) {
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        let narrow = |(shape, seed): (&&[i32], u64)| normal(shape, seed).as_dtype(dtype).unwrap();
        let inputs: Vec<Array> = shapes.iter().zip(1..).map(narrow).collect();
        let wide: Vec<Array> = inputs.iter().map(|x| x.as_dtype(Dtype::Float32).unwrap()).collect();
        let got = f(&inputs).unwrap();
        assert_eq!(got.dtype(), dtype);
        let want = f(&wide).unwrap().as_dtype(dtype).unwrap();
        // Rounded once: where the sums of both lie on two sides of a tie, by the last bits of `f32`, they are one step apart.
        let step = if dtype == Dtype::Bfloat16 { 1.0 / 128.0 } else { 1.0 / 1024.0 };
        let (most_apart, near_zero) = if has_tiles() {
            (0.5, f64::from(0.01 * largest(&want.as_dtype(Dtype::Float32).unwrap())))
        } else {
            (0.01, 1e-6)
        };
        let apart = got.ne(&want).unwrap().as_dtype(Dtype::Float32).unwrap().mean(None).unwrap();
        assert!(apart.try_item_exact::<f32>().unwrap() < most_apart, "{dtype:?}");
        assert!(got.all_close(&want, step, near_zero, None).unwrap(), "{dtype:?}");
        let of = |inputs: &[Array]| gradients(|x| f(x)?.square()?.sum(None), inputs);
        for (got, want) in of(&inputs).iter().zip(of(&wide)) {
            assert_eq!(got.dtype(), dtype);
            assert!(largest(&got.as_dtype(Dtype::Float32).unwrap().subtract(&want).unwrap()) <= 0.02 * largest(&want));
        }
    }
}

/// Whether the tiles of AMX compute, which round the shares of a softmax to 16 bits as well.
fn has_tiles() -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    return matches!(crate::kernels::Isa::active(), Ok(crate::kernels::Isa::Amx));
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    false
}

proptest! {
    #[test]
    fn a_layout_repeats_entries_of_its_memory_where_it_is_broadcast_only(
        layout in layouts(3), shape in [1_i32..4, 1_i32..5, 1_i32..6],
    ) {
        let room = std::cell::Cell::new(0);
        let x = layout.of(&shape, |size| {
            room.set(size[0]);
            mlx_rs::ops::arange::<i32, i32>(0, size[0], None).unwrap()
        });
        let mut entries = copied(&x).to_vec_exact::<i32>().unwrap();
        entries.sort_unstable();
        entries.dedup();
        let different: i32 = shape.iter().zip(&layout.steps).filter(|(_, step)| **step != 0).map(|(size, _)| size).product();
        prop_assert_eq!(entries.len(), different as usize);
        prop_assert!(entries[0] >= 0 && entries[entries.len() - 1] < room.get());
    }
}
