//! What models and training do most, in one operation each where there is a kernel for it, on a Linux CPU. In all other cases, and as the oracle of the kernels, the [`plain`] versions of MLX's own operations do the same.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::kernels::float;

/// Whether the kernels for `f32` take these arrays.
fn has_kernel(arrays: &[&Array]) -> bool {
    arrays[0].dtype() == Dtype::Float32 && has_float_kernel(arrays)
}

/// Whether the kernels for all floating-point types take these arrays, which must be of one type.
fn has_float_kernel(arrays: &[&Array]) -> bool {
    let dtype = arrays[0].dtype();
    cfg!(all(target_os = "linux", target_arch = "x86_64"))
        && matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
        && arrays.iter().all(|array| array.dtype() == dtype && array.size() > 0)
        && on_cpu()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn on_cpu() -> bool {
    crate::kernels::on_cpu()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn on_cpu() -> bool {
    false
}

/// Gives a function its kernel where there is one, and its plain version.
macro_rules! fused {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) if $fits:expr => $kernel:expr) => {
        $(#[$doc])*
        #[track_caller]
        pub fn $name($($arg: $type),*) -> Result<Array, Exception> {
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            if $fits {
                return $kernel;
            }
            plain::$name($($arg),*)
        }
    };
}

/// `x @ weight.T`, in `f32` by way of BLAS, which is ours too.
///
/// # Shapes
/// - `x`: `[…, in]`, `weight`: `[out, in]`, result: `[…, out]`
#[track_caller]
pub fn linear(x: &Array, weight: &Array) -> Result<Array, Exception> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if let Some(product) = crate::kernels::dense::linear(x, weight)? {
        return Ok(product);
    }
    plain::linear(x, weight)
}

fused! {
    /// `silu(gate) * up` (arXiv:2002.05202).
    ///
    /// # Shapes
    /// - `gate`, `up`: the same, and the same comes back
    swiglu(gate: &Array, up: &Array)
        if has_float_kernel(&[gate, up]) && gate.shape() == up.shape() => float::swiglu::swiglu(gate, up)
}

fused! {
    /// `x / rms(x) * weight` over the last axis (arXiv:1910.07467).
    ///
    /// # Shapes
    /// - `x`: `[…, D]`, `weight`: `[D]`, result: `[…, D]`
    rms_norm(x: &Array, weight: &Array, eps: f32)
        if has_float_kernel(&[x, weight]) && weight.shape() == [x.dim(-1)] => float::rms_norm::rms_norm(x, weight, eps)
}

fused! {
    /// Rotary positions (arXiv:2104.09864) from `offset` on; the pairs are the two halves of a head.
    ///
    /// # Shapes
    /// - `x`: `[B, H, L, d]` with an even `d`, and the same comes back
    rope(x: &Array, base: f32, scale: f32, offset: i32)
        if has_float_kernel(&[x]) && x.ndim() == 4 && x.dim(-1) % 2 == 0 =>
            float::rope::Rotation { dims: x.dim(-1), neighbours: false, base, scale, offset }.apply(x, None, None)
}

fused! {
    /// Attention of each token to itself and those before it, with grouped heads.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, `k`, `v`: `[B, K, L, d]` where `K` divides `H`; result: `[B, H, L, d]`
    causal_attention(q: &Array, k: &Array, v: &Array, scale: f32)
        if has_kernel(&[q, k, v]) && fits_attention(q, k, v) => float::attention::causal_attention(q, k, v, scale)
}

fused! {
    /// The cross entropy of the target in each row of logits.
    ///
    /// # Shapes
    /// - `logits`: `[…, V]`, `targets`: `[…]` of `i32`, result: `[…]`
    cross_entropy(logits: &Array, targets: &Array)
        if has_kernel(&[logits])
            && targets.dtype() == Dtype::Int32
            && logits.shape().split_last().is_some_and(|(_, rows)| rows == targets.shape()) =>
            float::cross_entropy::cross_entropy(logits, targets)
}

fused! {
    /// The logarithm of the sum of exponentials of each row.
    ///
    /// # Shapes
    /// - `x`: `[…, V]`, result: `[…, 1]`
    logsumexp(x: &Array)
        if x.ndim() > 0 && has_float_kernel(&[x]) => float::vocabulary::logsumexp(x)
}

fused! {
    /// The index of the largest entry of each row, the first of equals.
    ///
    /// # Shapes
    /// - `x`: `[…, V]`, result: `[…]` of `u32`
    argmax(x: &Array)
        if x.ndim() > 0 && has_float_kernel(&[x]) => float::vocabulary::argmax(x)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn fits_attention(q: &Array, k: &Array, v: &Array) -> bool {
    match (q.shape(), k.shape()) {
        (&[batch, heads, len, dims], &[of_batch, kv_heads, of_len, of_dims]) => {
            k.shape() == v.shape() && (batch, len, dims) == (of_batch, of_len, of_dims) && heads % kv_heads == 0
        }
        _ => false,
    }
}

/// The same in MLX's own operations.
pub mod plain {
    use mlx_rs::error::Exception;
    use mlx_rs::fast::ScaledDotProductAttentionMask;
    use mlx_rs::{Array, fast, ops};

    /// See [`super::linear`].
    #[track_caller]
    pub fn linear(x: &Array, weight: &Array) -> Result<Array, Exception> {
        x.matmul(weight.t())
    }

    /// See [`super::swiglu`].
    #[track_caller]
    pub fn swiglu(gate: &Array, up: &Array) -> Result<Array, Exception> {
        gate.multiply(ops::sigmoid(gate)?)?.multiply(up)
    }

    /// See [`super::rms_norm`].
    #[track_caller]
    pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array, Exception> {
        fast::rms_norm(x, Some(weight), eps)
    }

    /// See [`super::rope`].
    #[track_caller]
    pub fn rope(x: &Array, base: f32, scale: f32, offset: i32) -> Result<Array, Exception> {
        fast::rope(x, x.dim(-1), false, base, scale, offset, None)
    }

    /// See [`super::causal_attention`].
    #[track_caller]
    pub fn causal_attention(q: &Array, k: &Array, v: &Array, scale: f32) -> Result<Array, Exception> {
        fast::scaled_dot_product_attention(q, k, v, scale, Some(ScaledDotProductAttentionMask::Causal), None)
    }

    /// See [`super::logsumexp`].
    #[track_caller]
    pub fn logsumexp(x: &Array) -> Result<Array, Exception> {
        ops::logsumexp_axis(x, -1, true)
    }

    /// See [`super::argmax`].
    #[track_caller]
    pub fn argmax(x: &Array) -> Result<Array, Exception> {
        ops::indexing::argmax_axis(x, -1, false)
    }

    /// See [`super::cross_entropy`].
    #[track_caller]
    pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array, Exception> {
        let chosen = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
        ops::logsumexp_axis(logits, -1, false)?.subtract(chosen)
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::{random, transforms};

    use super::*;

    fn normal(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    fn close(got: &Array, want: &Array, what: &str) {
        assert_eq!(got.shape(), want.shape(), "{what}");
        let largest = want.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap();
        let off = got.subtract(want).unwrap().abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap();
        assert!(off <= 1e-5 * largest.max(1.0), "{what}: off by {off} of {largest}");
    }

    /// Holds values and gradients of a fused operation against those of its plain version.
    fn check(
        inputs: &[Array],
        fused: impl Fn(&[Array]) -> Result<Array, Exception>,
        plain: impl Fn(&[Array]) -> Result<Array, Exception>,
    ) {
        let got = fused(inputs).unwrap();
        close(&got, &plain(inputs).unwrap(), "value");
        let direction = normal(got.shape(), 99);
        let along = |y: Array| Ok::<_, Exception>(vec![y.multiply(&direction)?.sum(None)?]);
        let numbers: Vec<i32> = (0..inputs.len() as i32).collect();
        let gradients = |f: &dyn Fn(&[Array]) -> Result<Array, Exception>| {
            transforms::value_and_grad_with_argnums(|x: &[Array]| along(f(x)?), numbers.as_slice())(inputs).unwrap().1
        };
        for (i, (got, want)) in gradients(&fused).iter().zip(gradients(&plain)).enumerate() {
            close(got, &want, &format!("gradient {i}"));
        }
    }

    #[test]
    fn swiglu_is_the_plain_one() {
        let inputs = [normal(&[3, 37], 1), normal(&[3, 37], 2)];
        check(&inputs, |x| swiglu(&x[0], &x[1]), |x| plain::swiglu(&x[0], &x[1]));
    }

    #[test]
    fn rms_norm_is_the_plain_one() {
        let inputs = [normal(&[5, 7, 40], 1), normal(&[40], 2)];
        check(&inputs, |x| rms_norm(&x[0], &x[1], 1e-5), |x| plain::rms_norm(&x[0], &x[1], 1e-5));
    }

    #[test]
    fn rope_is_the_plain_one() {
        let inputs = [normal(&[2, 3, 9, 32], 1)];
        check(&inputs, |x| rope(&x[0], 10000.0, 0.5, 3), |x| plain::rope(&x[0], 10000.0, 0.5, 3));
        let transposed = |x: &[Array]| x[0].transpose_axes(&[0, 2, 1, 3]);
        check(&inputs, |x| rope(&transposed(x)?, 10000.0, 1.0, 0), |x| plain::rope(&transposed(x)?, 10000.0, 1.0, 0));
    }

    #[test]
    fn causal_attention_is_the_plain_one() {
        let check_sizes = |len: i32, heads: i32, kv_heads: i32, dims: i32| {
            let kv = [2, len, kv_heads, dims];
            let inputs = [normal(&[2, len, heads, dims], 1), normal(&kv, 2), normal(&kv, 3)];
            let by_head = |x: &Array| x.transpose_axes(&[0, 2, 1, 3]);
            type Attention = fn(&Array, &Array, &Array, f32) -> Result<Array, Exception>;
            let with = |f: Attention| {
                move |x: &[Array]| by_head(&f(&by_head(&x[0])?, &by_head(&x[1])?, &by_head(&x[2])?, 0.3)?)
            };
            check(&inputs, with(causal_attention), with(plain::causal_attention));
        };
        check_sizes(1, 1, 1, 4);
        check_sizes(7, 4, 2, 8);
        check_sizes(64, 2, 2, 16);
        check_sizes(150, 4, 1, 32);
    }

    #[test]
    fn cross_entropy_is_the_plain_one() {
        let targets = Array::from_slice(&[0, 5, 36, 7, 7, 20], &[2, 3]);
        let inputs = [normal(&[2, 3, 37], 1).multiply(Array::from_f32(5.0)).unwrap()];
        check(&inputs, |x| cross_entropy(&x[0], &targets), |x| plain::cross_entropy(&x[0], &targets));
    }

    /// Holds the value in 16 bits against that in `f32`, and the type of its gradient.
    fn check_narrow(shapes: &[&[i32]], f: impl Fn(&[Array]) -> Result<Array, Exception>) {
        for dtype in [Dtype::Float16, Dtype::Bfloat16] {
            let narrow = |(shape, seed): (&&[i32], u64)| normal(shape, seed).as_dtype(dtype).unwrap();
            let inputs: Vec<Array> = shapes.iter().zip(1..).map(narrow).collect();
            let wide: Vec<Array> = inputs.iter().map(|x| x.as_dtype(Dtype::Float32).unwrap()).collect();
            let got = f(&inputs).unwrap();
            assert_eq!(got.dtype(), dtype);
            let want = f(&wide).unwrap().as_dtype(dtype).unwrap();
            assert!(got.all_close(&want, 0.0, 0.0, None).unwrap(), "{dtype:?}");
            let loss = |x: &[Array]| Ok::<_, Exception>(vec![f(x)?.square()?.sum(None)?]);
            let numbers: Vec<i32> = (0..inputs.len() as i32).collect();
            let gradients = |x: &[Array]| transforms::value_and_grad_with_argnums(loss, &numbers[..])(x).unwrap().1;
            for (got, want) in gradients(&inputs).iter().zip(gradients(&wide)) {
                assert_eq!(got.dtype(), dtype);
                let largest = want.abs().unwrap().max(None).unwrap().try_item_exact::<f32>().unwrap();
                let off = got.subtract(&want).unwrap().abs().unwrap().max(None).unwrap();
                assert!(off.try_item_exact::<f32>().unwrap() <= 0.02 * largest, "{dtype:?}");
            }
        }
    }

    #[test]
    fn logsumexp_is_the_plain_one() {
        check(&[normal(&[3, 37], 1)], |x| logsumexp(&x[0]), |x| plain::logsumexp(&x[0]));
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = Array::from_slice(&[-inf, -inf, inf, 1.0, nan, inf, -inf, 2.0], &[4, 2]);
        let got = logsumexp(&rows).unwrap();
        let got = got.try_as_slice::<f32>().unwrap();
        assert!(got[0] == -inf && got[1] == inf && got[2].is_nan() && got[3] == 2.0, "{got:?}");
    }

    #[test]
    fn argmax_is_the_plain_one() {
        let x = normal(&[2, 5, 100], 1);
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            // In 16 bits there are equal entries.
            let x = x.as_dtype(dtype).unwrap().round(0).unwrap();
            let (got, want) = (argmax(&x).unwrap(), plain::argmax(&x).unwrap());
            assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
            assert_eq!(got.try_as_slice::<u32>().unwrap(), want.try_as_slice::<u32>().unwrap());
        }
    }

    #[test]
    fn narrow_types_are_rounded_once() {
        check_narrow(&[&[3, 2000], &[3, 2000]], |x| swiglu(&x[0], &x[1]));
        check_narrow(&[&[5, 40], &[7, 40]], |x| linear(&x[0], &x[1]));
        check_narrow(&[&[5, 40], &[40]], |x| rms_norm(&x[0], &x[1], 1e-5));
        check_narrow(&[&[2, 3, 5, 16]], |x| rope(&x[0], 10000.0, 1.0, 3));
    }

    #[test]
    fn what_has_no_kernel_takes_the_plain_version() {
        let x = normal(&[2, 8], 1);
        let half = x.as_dtype(Dtype::Float16).unwrap();
        let got = swiglu(&x, &half).unwrap();
        assert!(got.all_close(plain::swiglu(&x, &half).unwrap(), None, None, None).unwrap());
    }
}
