//! Quantization in every mode of MLX: affine with 2 to 8 bits, and the block floating-point modes mxfp4, mxfp8, nvfp4.
//!
//! `mlx-rs` binds the affine mode only, so the calls go to the C interface. Packed rows are little-endian bit streams
//! in 32-bit words.

use std::ffi::CStr;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};

use crate::fast::{by_kernel, has_kernels};
use crate::raw;

pub(crate) mod panels;

pub use panels::Panels;

/// How a group of weights becomes bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// `w = scale * q + bias` with a scale and a bias for each group, in the type of the weights.
    Affine,
    /// 4-bit floats (e2m1) with a power of two for each 32 weights (OCP microscaling).
    Mxfp4,
    /// 8-bit floats (e4m3) with a power of two for each 32 weights (OCP microscaling).
    Mxfp8,
    /// 4-bit floats (e2m1) with an 8-bit float (e4m3) for each 16 weights.
    Nvfp4,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// The mode's name in `config.json` and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }

    fn c_name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }

    /// The scheme that `convert` takes when neither bits nor group are given.
    pub const fn default_scheme(self) -> Scheme {
        let (bits, group_size) = match self {
            Self::Affine => (4, 64),
            Self::Mxfp4 => (4, 32),
            Self::Mxfp8 => (8, 32),
            Self::Nvfp4 => (4, 16),
        };
        Scheme { mode: self, bits, group_size }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = QuantError;

    fn from_str(name: &str) -> Result<Self, QuantError> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| QuantError::UnknownMode { name: name.to_owned() })
    }
}

/// A quantization that MLX has: mode, bits for each weight, weights in each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scheme {
    /// How a group becomes bits.
    pub mode: Mode,
    /// Bits for each weight.
    pub bits: i32,
    /// Weights in each group.
    pub group_size: i32,
}

impl Scheme {
    /// A scheme, if MLX has it.
    pub fn new(mode: Mode, bits: i32, group_size: i32) -> Result<Self, QuantError> {
        let scheme = Self { mode, bits, group_size };
        let known = match mode {
            Mode::Affine => matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) && matches!(group_size, 32 | 64 | 128),
            _ => scheme == mode.default_scheme(),
        };
        if known { Ok(scheme) } else { Err(QuantError::UnsupportedScheme { scheme }) }
    }

    /// The 32-bit words that `weights` weights pack into.
    pub const fn packed_words(self, weights: i32) -> i32 {
        (weights as i64 * self.bits as i64 / 32) as i32
    }

    /// Whether rows of `weights` weights can be packed.
    pub const fn divides(self, weights: i32) -> bool {
        weights % self.group_size == 0
    }

    /// Whether a matrix of this shape, or a stack of them, can be packed: the group must divide its rows, and MLX packs
    /// nvfp4 two groups at a time over all rows.
    pub fn takes(self, shape: &[i32]) -> bool {
        const AT_A_TIME: i32 = 32;
        let count = |n: i32, &dim: &i32| n * (dim % AT_A_TIME) % AT_A_TIME;
        let pairs = self.group_size % AT_A_TIME == 0 || shape.iter().fold(1, count) == 0;
        pairs && shape.len() > 1 && shape.last().is_some_and(|&row| self.divides(row))
    }

    /// The scheme that the shapes of a packed weight imply, as mlx-lm 0.32.2 reads it: `None` if there is none.
    ///
    /// `weight` and `scales` are `[…, out, columns]`; `input` is the unpacked row length.
    pub fn of_shapes(weight: &Array, scales: &Array, input: i32) -> Option<Self> {
        let (columns, groups) = (*weight.shape().last()?, *scales.shape().last()?);
        if columns <= 0 || groups <= 0 || input <= 0 || input % groups != 0 {
            return None;
        }
        let group_size = input / groups;
        let bits = i32::try_from(i64::from(columns) * 32 / i64::from(input)).ok()?;
        let mode = match (scales.dtype(), bits, group_size) {
            (Dtype::Uint8, 4, 16) => Mode::Nvfp4,
            (Dtype::Uint8, 4, 32) => Mode::Mxfp4,
            (Dtype::Uint8, 8, 32) => Mode::Mxfp8,
            (Dtype::Uint8, ..) => return None,
            _ => Mode::Affine,
        };
        Self::new(mode, bits, group_size).ok()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bits and groups of {}", self.mode, self.bits, self.group_size)
    }
}

/// What is wrong with a quantization that somebody asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// No mode has this name.
    #[error("there is no quantization mode `{name}`; the modes are affine, mxfp4, mxfp8 and nvfp4")]
    UnknownMode {
        /// The name.
        name: String,
    },
    /// MLX has the mode, but not with these numbers.
    #[error("MLX has no quantization {scheme}")]
    UnsupportedScheme {
        /// What was asked for.
        scheme: Scheme,
    },
}

impl crate::Hint for QuantError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownMode { .. } => None,
            Self::UnsupportedScheme { scheme } => Some(match scheme.mode {
                Mode::Affine => "affine takes 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128".into(),
                mode => {
                    let Scheme { bits, group_size, .. } = mode.default_scheme();
                    format!("{mode} is always {bits} bits in groups of {group_size}")
                }
            }),
        }
    }
}

/// A quantized matrix, or a stack of them.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The packed rows, `u32` `[…, out, in * bits / 32]`.
    pub weight: Array,
    /// `[…, out, in / group]`: the weights' type for affine, `u8` for the others.
    pub scales: Array,
    /// `[…, out, in / group]`, affine only.
    pub biases: Option<Array>,
}

impl Packed {
    /// Some rows of a matrix, or matrices of a stack.
    pub fn rows(&self, range: Range<i32>) -> Result<Self, Exception> {
        let some = |array: &Array| array.try_index(range.clone());
        let biases = self.biases.as_ref().map(some).transpose()?;
        Ok(Self { weight: some(&self.weight)?, scales: some(&self.scales)?, biases })
    }
}

/// The bytes of the largest array that packing may make on CPUs, where MLX packs with many operations: each makes an array in `f32`, and
/// to look for the nearest float of 4 bits one with all sixteen for each weight.
const AT_ONCE: i32 = 4 << 20;

/// Packs the rows of `w`.
///
/// # Shapes
/// - `w`: `[…, out, in]`, `in` a multiple of the group
#[track_caller]
pub fn quantize(w: &Array, scheme: Scheme) -> Result<Packed, Exception> {
    if !has_kernels() || w.ndim() < 2 {
        return mlx_quantize(w, scheme);
    }
    let of_weight = if scheme.mode == Mode::Affine { 4 } else { 64 };
    let of_one = w.shape()[1..].iter().product::<i32>().saturating_mul(of_weight).max(1);
    // A multiple of the rows that the modes pack together.
    let step = (AT_ONCE / of_one / 32 * 32).max(if w.ndim() == 2 { 32 } else { 1 });
    if w.dim(0) <= step {
        return mlx_quantize(w, scheme);
    }
    let (mut weights, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..w.dim(0)).step_by(step as usize) {
        let packed = mlx_quantize(&w.try_index(start..(start + step).min(w.dim(0)))?, scheme)?;
        weights.push(packed.weight);
        scales.push(packed.scales);
        biases.extend(packed.biases);
    }
    let whole = |parts: &[Array]| ops::concatenate(parts, 0);
    let biases = if biases.is_empty() { None } else { Some(whole(&biases)?) };
    Ok(Packed { weight: whole(&weights)?, scales: whole(&scales)?, biases })
}

/// [`quantize`] by one call of MLX.
#[track_caller]
fn mlx_quantize(w: &Array, scheme: Scheme) -> Result<Packed, Exception> {
    let (group, bits) = options(scheme);
    #[allow(unsafe_code, reason = "call of the C interface")]
    let arrays = raw::try_arrays(|results, stream| {
        // SAFETY: all handles are alive; a null global scale means none.
        unsafe {
            mlx_sys::mlx_quantize(results, w.as_ptr(), group, bits, scheme.mode.c_name().as_ptr(), raw::NONE, stream)
        }
    })?;
    let mut arrays = arrays.into_iter();
    match (arrays.next(), arrays.next(), arrays.next()) {
        (Some(weight), Some(scales), biases) => Ok(Packed { weight, scales, biases }),
        _ => Err(Exception::custom("MLX's quantize gave fewer than two arrays")),
    }
}

/// Unpacks to `dtype`, or to the type that MLX takes for the scheme.
#[track_caller]
pub fn dequantize(packed: &Packed, scheme: Scheme, dtype: Option<Dtype>) -> Result<Array, Exception> {
    let (group, bits) = options(scheme);
    let dtype =
        mlx_sys::mlx_optional_dtype { value: dtype.unwrap_or(Dtype::Float32).into(), has_value: dtype.is_some() };
    #[allow(unsafe_code, reason = "call of the C interface")]
    raw::try_array(|result, stream| {
        // SAFETY: all handles are alive; null biases and a null global scale mean none.
        unsafe {
            mlx_sys::mlx_dequantize(
                result,
                packed.weight.as_ptr(),
                packed.scales.as_ptr(),
                packed.biases.as_ref().map_or(raw::NONE, Array::as_ptr),
                group,
                bits,
                scheme.mode.c_name().as_ptr(),
                raw::NONE,
                dtype,
                stream,
            )
        }
    })
}

/// The matrix in `f32` as a function of its scales and biases, which both have gradients: to train them. They are in `f32`, and the mode is
/// affine.
///
/// # Shapes
/// - `w`: `[…, out, in]` before packing, which is the shape of the result
#[track_caller]
pub fn dense(w: &Packed, scheme: Scheme) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::dense(w, scheme));
    plain_dense(w, scheme)
}

/// [`dense`] in MLX's own operations.
pub(crate) fn plain_dense(w: &Packed, scheme: Scheme) -> Result<Array, Exception> {
    let Some(biases) = &w.biases else { return Err(Exception::custom("only affine scales are trained")) };
    let (ones, zeros) = (ops::ones::<f32>(w.scales.shape())?, ops::zeros::<f32>(w.scales.shape())?);
    let codes = Packed { weight: w.weight.clone(), scales: ones, biases: Some(zeros) };
    let codes = dequantize(&codes, scheme, Some(Dtype::Float32))?;
    let by_group = codes.reshape(&[w.scales.shape(), &[scheme.group_size]].concat())?;
    by_group.multiply(w.scales.expand_dims(-1)?)?.add(biases.expand_dims(-1)?)?.reshape(codes.shape())
}

/// `x @ w.T` (or `x @ w` without `transpose`) against packed weights, by our kernels where they are faster than MLX's.
///
/// # Shapes
/// - `x`: `[…, in]`, `w`: `[…, out, in]` before packing, result: `[…, out]`; without `transpose`, `x` is `[…, out]`
#[track_caller]
pub fn quantized_matmul(x: &Array, w: &Packed, scheme: Scheme, transpose: bool) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::quantized_matmul(x, w, scheme, transpose));
    mlx_quantized_matmul(x, w, scheme, transpose)
}

/// [`quantized_matmul`] by MLX's own kernels.
#[track_caller]
pub(crate) fn mlx_quantized_matmul(x: &Array, w: &Packed, scheme: Scheme, transpose: bool) -> Result<Array, Exception> {
    let (group, bits) = options(scheme);
    #[allow(unsafe_code, reason = "call of the C interface")]
    raw::try_array(|result, stream| {
        // SAFETY: all handles are alive; null biases mean none.
        unsafe {
            mlx_sys::mlx_quantized_matmul(
                result,
                x.as_ptr(),
                w.weight.as_ptr(),
                w.scales.as_ptr(),
                w.biases.as_ref().map_or(raw::NONE, Array::as_ptr),
                transpose,
                group,
                bits,
                scheme.mode.c_name().as_ptr(),
                stream,
            )
        }
    })
}

/// [`quantized_matmul`] with the matrix chosen for each row from a stack: `x[i] @ w[indices[i]].T`.
///
/// # Shapes
/// - `x`: `[…, 1, in]`, `w`: `[E, out, in]` before packing, `indices`: `[…]` of `u32`, result: `[…, 1, out]`
#[track_caller]
pub fn gather_quantized_matmul(
    x: &Array,
    w: &Packed,
    scheme: Scheme,
    indices: &Array,
    sorted: bool,
) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::gather_quantized_matmul(x, w, scheme, indices));
    let (group, bits) = options(scheme);
    #[allow(unsafe_code, reason = "call of the C interface")]
    raw::try_array(|result, stream| {
        // SAFETY: all handles are alive; null biases and left indices mean none.
        unsafe {
            mlx_sys::mlx_gather_qmm(
                result,
                x.as_ptr(),
                w.weight.as_ptr(),
                w.scales.as_ptr(),
                w.biases.as_ref().map_or(raw::NONE, Array::as_ptr),
                raw::NONE,
                indices.as_ptr(),
                true,
                group,
                bits,
                scheme.mode.c_name().as_ptr(),
                sorted,
                stream,
            )
        }
    })
}

/// The rows of a packed matrix with these numbers, dense.
///
/// # Shapes
/// - `ids`: `[…]`, result: `[…, in]`
#[track_caller]
pub fn quantized_rows(w: &Packed, scheme: Scheme, ids: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::quantized_rows(w, scheme, ids));
    mlx_quantized_rows(w, scheme, ids)
}

/// [`quantized_rows`] by MLX's own operations.
#[track_caller]
pub(crate) fn mlx_quantized_rows(w: &Packed, scheme: Scheme, ids: &Array) -> Result<Array, Exception> {
    let rows = Packed {
        weight: w.weight.take_axis(ids, 0)?,
        scales: w.scales.take_axis(ids, 0)?,
        biases: w.biases.as_ref().map(|biases| biases.take_axis(ids, 0)).transpose()?,
    };
    dequantize(&rows, scheme, None)
}

fn options(scheme: Scheme) -> (mlx_sys::mlx_optional_int, mlx_sys::mlx_optional_int) {
    let some = |value| mlx_sys::mlx_optional_int { value, has_value: true };
    (some(scheme.group_size), some(scheme.bits))
}
