//! How a fast function is held against its plain version.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, random, transforms};

pub(super) fn normal(shape: &[i32], seed: u64) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
}

fn largest(x: &Array) -> f32 {
    x.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap()
}

fn close(got: &Array, want: &Array, what: &str) {
    assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()), "{what}");
    let (off, scale) = (largest(&got.subtract(want).unwrap()), largest(want));
    assert!(off <= 1e-5 * scale.max(1.0), "{what}: off by {off} of {scale}");
}

type Function<'a> = &'a dyn Fn(&[Array]) -> Result<Array, Exception>;

/// The gradients of all inputs.
pub(super) fn gradients(loss: impl Fn(&[Array]) -> Result<Array, Exception>, inputs: &[Array]) -> Vec<Array> {
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
pub(super) fn check(
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
pub(super) fn check_narrow(shapes: &[&[i32]], f: impl Fn(&[Array]) -> Result<Array, Exception>) {
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        let narrow = |(shape, seed): (&&[i32], u64)| normal(shape, seed).as_dtype(dtype).unwrap();
        let inputs: Vec<Array> = shapes.iter().zip(1..).map(narrow).collect();
        let wide: Vec<Array> = inputs.iter().map(|x| x.as_dtype(Dtype::Float32).unwrap()).collect();
        let got = f(&inputs).unwrap();
        assert_eq!(got.dtype(), dtype);
        let want = f(&wide).unwrap().as_dtype(dtype).unwrap();
        assert!(got.all_close(&want, 0.0, 0.0, None).unwrap(), "{dtype:?}");
        let of = |inputs: &[Array]| gradients(|x| f(x)?.square()?.sum(None), inputs);
        for (got, want) in of(&inputs).iter().zip(of(&wide)) {
            assert_eq!(got.dtype(), dtype);
            assert!(largest(&got.as_dtype(Dtype::Float32).unwrap().subtract(&want).unwrap()) <= 0.02 * largest(&want));
        }
    }
}
