//! Packing, unpacking and products in every mode, with every number of bits, group and type, against MLX through Python.
//!
//! `fixtures/quant` holds what mlx 0.32.4 for CPUs computes for a drawn `w` [10, 256] (two rows of which are drawn, the others
//! are all zero, constant, with an outlier, of one sign, tiny, or lie exactly on the steps), for `x` [5, 256], for
//! `x_rows` [5, 10], and for three stacked experts of which each of the five rows takes two.
//!
//! Products in `f32` must agree up to rounding. In 16 bits both sides round, so each is held against the same product in
//! `f32`: ours may be twice as far from it as the reference's.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::path::Path;

use mlxlm_core::nn::Matrix;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::weights::{SafetensorsFile, Tensors};
use mlxlm_core::{Array, Dtype, io};

/// What the reference computed for one scheme and type.
struct Case {
    name: String,
    scheme: Scheme,
    dtype: Dtype,
    tensors: Tensors,
}

impl Case {
    fn open(path: &Path) -> Self {
        let file = SafetensorsFile::open(path).unwrap();
        let metadata = file.metadata();
        let number = |key: &str| metadata[key].parse().unwrap();
        let scheme = Scheme::new(metadata["mode"].parse().unwrap(), number("bits"), number("group_size")).unwrap();
        let tensors = file.arrays().unwrap();
        Self { name: format!("{scheme}, {}", metadata["dtype"]), scheme, dtype: tensors["w"].dtype(), tensors }
    }

    fn get(&self, name: &str) -> &Array {
        &self.tensors[name]
    }

    /// The packed matrix `w`, or the packed experts `e`.
    fn packed(&self, of: &str) -> Packed {
        let (weight, scales, biases) = match of {
            "w" => ("w_q", "scales", "biases"),
            _ => ("e_q", "e_scales", "e_biases"),
        };
        let biases = self.tensors.get(biases).cloned();
        Packed { weight: self.get(weight).clone(), scales: self.get(scales).clone(), biases }
    }

    /// The weights in `f32`, without any rounding but that of the packing.
    fn exact(&self, of: &str) -> Array {
        let packed = self.packed(of);
        let wide = |array: &Array| if array.dtype().is_float() { as_f32(array) } else { array.clone() };
        let packed = Packed { scales: wide(&packed.scales), biases: packed.biases.as_ref().map(wide), ..packed };
        quant::dequantize(&packed, self.scheme, Some(Dtype::Float32)).unwrap()
    }

    /// Whether `got` is `expected`, as far as the type lets one say; `exact` is the same in `f32`.
    fn same(&self, what: &str, got: &Array, expected: &Array, exact: &Array) {
        assert_eq!((got.shape(), got.dtype()), (expected.shape(), expected.dtype()), "{}: {what}", self.name);
        let rounding = 1e-5 * values(exact).iter().fold(0.0, |most: f32, v| most.max(v.abs()));
        let allowed = match self.dtype {
            Dtype::Float32 => rounding,
            _ => 2.0 * furthest(expected, exact) + rounding,
        };
        let truth = if self.dtype == Dtype::Float32 { expected } else { exact };
        let off = furthest(got, truth);
        assert!(off <= allowed, "{}: {what} is off by {off:.1e}, allowed {allowed:.1e}", self.name);
    }
}

fn check(test: impl Fn(&Case)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quant");
    let files: Vec<_> = io::read_dir(folder).unwrap();
    assert_eq!(files.len(), 28);
    for path in &files {
        test(&Case::open(path));
    }
}

fn as_f32(array: &Array) -> Array {
    array.as_dtype(Dtype::Float32).unwrap()
}

fn values(array: &Array) -> Vec<f32> {
    as_f32(array).contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

fn furthest(a: &Array, b: &Array) -> f32 {
    let differences = values(a).into_iter().zip(values(b)).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, |most: f32, d| if d.is_nan() || most.is_nan() { f32::NAN } else { most.max(d) })
}

/// The numbers that rows of words pack, `bits` bits each, the lowest first.
fn codes(words: &Array, bits: i32) -> Vec<u32> {
    let words = words.contiguous().unwrap().to_vec_exact::<u32>().unwrap();
    let bit = |i: usize| words[i / 32] >> (i % 32) & 1;
    let bits = bits as usize;
    (0..words.len() * 32 / bits).map(|code| (0..bits).map(|i| bit(code * bits + i) << i).sum()).collect()
}

/// Codes are those of the reference, but for weights that lie in the middle between two steps.
#[test]
fn packing_is_that_of_the_reference() {
    check(|case| {
        let packed = quant::quantize(case.get("w"), case.scheme).unwrap();
        let expected = case.packed("w");
        case.same("scales", &packed.scales, &expected.scales, &expected.scales);
        assert_eq!(packed.biases.is_some(), expected.biases.is_some(), "{}", case.name);
        if let (Some(got), Some(expected)) = (&packed.biases, &expected.biases) {
            case.same("biases", got, expected, expected);
        }
        let (w, exact) = (values(case.get("w")), values(&case.exact("w")));
        let ours = quant::dequantize(&packed, case.scheme, Some(Dtype::Float32)).unwrap();
        let codes = codes(&packed.weight, case.scheme.bits).into_iter().zip(codes(&expected.weight, case.scheme.bits));
        let differ: Vec<usize> = codes.enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
        assert!(differ.len() <= w.len() / 50, "{}: {} codes differ", case.name, differ.len());
        let ours = values(&ours);
        for i in differ {
            let (a, b) = ((ours[i] - w[i]).abs(), (exact[i] - w[i]).abs());
            assert!(
                (a - b).abs() <= 1e-5 * a.max(b),
                "{}: {} became {}, and not {}",
                case.name,
                w[i],
                ours[i],
                exact[i]
            );
        }
    });
}

#[test]
fn unpacking_is_that_of_the_reference() {
    check(|case| {
        let expected = case.get("w_hat");
        let exact = case.exact("w");
        let unpacked = quant::dequantize(&case.packed("w"), case.scheme, Some(case.dtype)).unwrap();
        case.same("w_hat", &unpacked, expected, &exact);
        let matrix = Matrix::Packed(case.packed("w"), case.scheme);
        assert_eq!((matrix.shape(), matrix.input_dims(), matrix.scheme()), (vec![10, 256], 256, Some(case.scheme)));
        case.same("the matrix", &matrix.dense().unwrap().as_dtype(case.dtype).unwrap(), expected, &exact);
        let ids = Array::from_slice(&[9_u32, 0, 2, 2], &[4]);
        let of = |array: &Array| array.take_axis(&ids, 0).unwrap();
        let rows = matrix.rows(&ids).unwrap().as_dtype(case.dtype).unwrap();
        case.same("rows", &rows, &of(expected), &of(&exact));
    });
}

#[test]
fn products_are_those_of_the_reference() {
    check(|case| {
        let (x, x_rows, w) = (case.get("x"), case.get("x_rows"), case.exact("w"));
        let matrix = Matrix::Packed(case.packed("w"), case.scheme);
        let one = x.take_axis(Array::from_slice(&[0_u32], &[1]), 0).unwrap();
        for (name, x) in [("y", x), ("y_vec", &one)] {
            let exact = as_f32(x).matmul(w.t()).unwrap();
            case.same(name, &matrix.project(x).unwrap(), case.get(name), &exact);
        }
        let y = quant::quantized_matmul(x_rows, &case.packed("w"), case.scheme, false).unwrap();
        case.same("y_rows", &y, case.get("y_rows"), &as_f32(x_rows).matmul(&w).unwrap());
    });
}

/// Each row of `x` against the two experts that `e_ids` names for it.
#[test]
fn products_with_chosen_experts_are_those_of_the_reference() {
    check(|case| {
        let x = case.get("x").expand_dims(-2).unwrap().expand_dims(-2).unwrap();
        let ids = case.get("e_ids");
        let experts = Matrix::Packed(case.packed("e"), case.scheme);
        let y = experts.project_chosen(&x, ids, false).unwrap().squeeze_axes(&[-2]).unwrap();
        let exact = Matrix::Dense(case.exact("e")).project_chosen(&as_f32(&x), ids, false).unwrap();
        case.same("e_y", &y, case.get("e_y"), &exact.squeeze_axes(&[-2]).unwrap());
    });
}

/// A matrix of small floats that is packed again is the same: its values lie on the steps. Affine steps are chosen anew.
#[test]
fn packing_keeps_the_scheme() {
    check(|case| {
        let mut matrix = Matrix::Packed(case.packed("w"), case.scheme);
        let once = matrix.dense().unwrap();
        matrix.replace(once.clone()).unwrap();
        assert_eq!(matrix.scheme(), Some(case.scheme), "{}", case.name);
        if case.scheme.mode != Mode::Affine {
            assert_eq!(values(&matrix.dense().unwrap()), values(&once), "{}", case.name);
        }
        matrix.dequantize().unwrap();
        assert_eq!((matrix.scheme(), matrix.shape()), (None, vec![10, 256]), "{}", case.name);
    });
}

/// A large matrix is packed by pieces, and a stack by its matrices: the bits are those of each piece alone.
#[test]
fn pieces_are_packed_as_a_whole_is() {
    let random = |shape: &[i32]| {
        let count = shape.iter().product::<i32>();
        let value = |i: i32| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5;
        Array::from_slice(&(0..count).map(value).collect::<Vec<_>>(), shape).as_dtype(Dtype::Float16).unwrap()
    };
    for mode in Mode::ALL {
        let scheme = mode.default_scheme();
        // Several pieces, the last with rows that are not a whole number of 32; and several for a stack.
        for (shape, rows) in [([2 * 4096 + 36, 256].as_slice(), 4), (&[5, 1024, 512], 1)] {
            let w = random(shape);
            let packed = quant::quantize(&w, scheme).unwrap();
            assert_eq!(packed.weight.dim(0), shape[0], "{mode}");
            let last = shape[0] - rows..shape[0];
            let alone = quant::quantize(&w.try_index(last.clone()).unwrap(), scheme).unwrap();
            let same = |alone: &Array, all: &Array| alone.eq_values(all.try_index(last.clone()).unwrap()).unwrap();
            assert!(same(&alone.weight, &packed.weight) && same(&alone.scales, &packed.scales), "{mode}");
            match (&alone.biases, &packed.biases) {
                (Some(alone), Some(all)) => assert!(same(alone, all), "{mode}"),
                (alone, all) => assert!(alone.is_none() && all.is_none(), "{mode}"),
            }
        }
    }
}
