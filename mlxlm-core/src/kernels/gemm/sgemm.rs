//! The BLAS routine `sgemm` for row-major matrices, and its plain version.

use super::{Block, Gemm, Kernels, Shared, gemm};
use crate::kernels::isa::Isa;

/// A row-major matrix of which the product takes the transpose, or not. `ld` values lie between two rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) data: *const f32,
    pub(crate) ld: usize,
    pub(crate) transposed: bool,
}

// SAFETY: whoever hands a `Matrix` to `sgemm` vouches that its values can be read, and nobody writes them.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// Packs a block whose lanes are rows of the operand (`A`, `across == false`) or its columns (`B`, `across == true`).
    unsafe fn pack(&self, kernels: &Kernels, across: bool, block: Block, dst: *mut f32) {
        let Block { lane, lanes, width, k, kc } = block;
        // SAFETY: the block is inside the matrix.
        unsafe {
            if self.transposed == across {
                (kernels.pack_rows)(self.data.add(lane * self.ld + k), self.ld, lanes, width, kc, dst);
            } else {
                (kernels.pack_cols)(self.data.add(k * self.ld + lane), self.ld, lanes, width, kc, dst);
            }
        }
    }
}

/// The sizes and factors of a product: `C` is `m` × `n`, the sums run over `k`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
}

/// `C = alpha · op(A) · op(B) + beta · C`; `beta == 0` never reads `C`, `alpha == 0` reads neither operand.
///
/// # Safety
/// The operands must be readable and `c` writable for the shape and its leading dimensions, and nothing may overlap `c`.
pub(crate) unsafe fn sgemm(isa: Isa, shape: Shape, a: Matrix, b: Matrix, c: *mut f32, ldc: usize) {
    let kernels = Kernels::of(isa);
    let Shape { m, n, k, alpha, beta } = shape;
    // SAFETY: `gemm` asks for blocks inside the shape only.
    let pack_a = |block: Block, dst: *mut f32| unsafe { a.pack(&kernels, false, block, dst) };
    // SAFETY: as above.
    let pack_b = |block: Block, dst: *mut f32| unsafe { b.pack(&kernels, true, block, dst) };
    // SAFETY: passed on from the caller.
    unsafe { gemm(isa, &Gemm { m, n, k, pack_a: &pack_a, pack_b: &pack_b, alpha, beta, c: Shared(c), ldc }) };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain version, in f64: returns the result and, for each element, the sum of magnitudes that bounds its error.
    fn plain(shape: Shape, a: &Owned, b: &Owned, c: &[f32], ldc: usize) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for i in 0..shape.m {
            for j in 0..shape.n {
                let terms = (0..shape.k).map(|k| f64::from(a.at(i, k)) * f64::from(b.at(k, j)));
                let (sum, size) = terms.fold((0.0, 0.0), |(s, z), t| (s + t, z + t.abs()));
                let old = if shape.beta == 0.0 { 0.0 } else { f64::from(shape.beta) * f64::from(c[i * ldc + j]) };
                let alpha = f64::from(shape.alpha);
                let product = if alpha == 0.0 { 0.0 } else { alpha * sum };
                out.push((product + old, alpha.abs() * size + old.abs()));
            }
        }
        out
    }

    #[derive(Debug, Clone)]
    struct Owned {
        data: Vec<f32>,
        ld: usize,
        transposed: bool,
    }

    impl Owned {
        /// A logical `rows` × `cols` operand with `gap` unused values (NaN) after each stored row.
        fn new(rows: usize, cols: usize, gap: usize, transposed: bool, seed: u64) -> Self {
            let (stored_rows, stored_cols) = if transposed { (cols, rows) } else { (rows, cols) };
            let ld = stored_cols + gap;
            let mut data = vec![f32::NAN; (stored_rows * ld).saturating_sub(gap)];
            for i in 0..stored_rows {
                for j in 0..stored_cols {
                    data[i * ld + j] = noise(seed, i * stored_cols + j);
                }
            }
            Self { data, ld, transposed }
        }

        fn at(&self, i: usize, j: usize) -> f32 {
            if self.transposed { self.data[j * self.ld + i] } else { self.data[i * self.ld + j] }
        }

        fn matrix(&self) -> Matrix {
            Matrix { data: self.data.as_ptr(), ld: self.ld, transposed: self.transposed }
        }

        /// The rows from `from` on of an operand that is not transposed.
        fn row_on(&self, from: usize) -> Matrix {
            assert!(!self.transposed);
            Matrix { data: self.data[from * self.ld..].as_ptr(), ..self.matrix() }
        }
    }

    /// Values from -1 to 1, the same on every machine.
    fn noise(seed: u64, i: usize) -> f32 {
        let mut x = seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((x >> 40) as f32) / 8_388_608.0 - 1.0
    }

    fn run(isa: Isa, shape: Shape, a: Matrix, b: Matrix, c: &mut [f32], ldc: usize) {
        assert!(shape.m == 0 || c.len() >= (shape.m - 1) * ldc + shape.n);
        // SAFETY: `Owned` operands have the sizes of the shape, and `c` was measured.
        unsafe { sgemm(isa, shape, a, b, c.as_mut_ptr(), ldc) };
    }

    fn check(isa: Isa, shape: Shape, a: &Owned, b: &Owned, gap: usize) {
        let ldc = shape.n + gap;
        // With beta == 0 the old values must not matter, so they are NaN.
        let old: Vec<f32> =
            (0..shape.m * ldc).map(|i| if shape.beta == 0.0 { f32::NAN } else { noise(9, i) }).collect();
        let mut c = old.clone();
        run(isa, shape, a.matrix(), b.matrix(), &mut c, ldc);
        let tolerance = f64::from(f32::EPSILON) * (shape.k as f64).sqrt().max(4.0);
        for (at, (want, size)) in plain(shape, a, b, &old, ldc).into_iter().enumerate() {
            let (i, j) = (at / shape.n, at % shape.n);
            let got = f64::from(c[i * ldc + j]);
            assert!((got - want).abs() <= tolerance * size, "{isa} {shape:?} at ({i}, {j}): {got} is not {want}");
        }
        for i in 0..shape.m {
            for j in shape.n..ldc {
                assert_eq!(c[i * ldc + j].to_bits(), old[i * ldc + j].to_bits(), "{isa} wrote past column {}", shape.n);
            }
        }
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![3 => 0_usize..20, 2 => 20_usize..70, 1 => 70_usize..150]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn agrees_with_the_plain_version(
            (m, n) in (size(), size()),
            k in prop_oneof![4 => size(), 1 => 250_usize..600],
            (alpha, beta) in (prop_oneof![Just(1.0_f32), Just(0.0), -2.0_f32..2.0], prop_oneof![Just(0.0_f32), Just(1.0), -2.0_f32..2.0]),
            (ta, tb, gap) in (any::<bool>(), any::<bool>(), 0_usize..5),
        ) {
            let (a, b) = (Owned::new(m, k, gap, ta, 1), Owned::new(k, n, gap, tb, 2));
            for isa in Isa::available() {
                check(isa, Shape { m, n, k, alpha, beta }, &a, &b, gap);
            }
        }

        #[test]
        fn a_row_has_the_same_bits_alone_and_in_company(
            (m, n, k) in (1_usize..=65, 1_usize..200, 1_usize..700), tb in any::<bool>(), alpha in prop_oneof![Just(1.0_f32), 0.1_f32..2.0],
        ) {
            let (a, b) = (Owned::new(m, k, 0, false, 3), Owned::new(k, n, 0, tb, 4));
            for isa in Isa::available() {
                let mut together = vec![0.0; m * n];
                run(isa, Shape { m, n, k, alpha, beta: 0.0 }, a.matrix(), b.matrix(), &mut together, n);
                for row in 0..m {
                    let mut alone = vec![0.0; n];
                    run(isa, Shape { m: 1, n, k, alpha, beta: 0.0 }, a.row_on(row), b.matrix(), &mut alone, n);
                    let same = alone.iter().zip(&together[row * n..]).all(|(x, y)| x.to_bits() == y.to_bits());
                    prop_assert!(same, "{} row {} of {}", isa, row, m);
                }
            }
        }
    }

    #[test]
    fn large_products_use_every_path() {
        // More rows than one block of packed rows, several panels, threads.
        let (m, n, k) = (1100, 97, 300);
        let (a, b) = (Owned::new(m, k, 3, true, 5), Owned::new(k, n, 0, true, 6));
        for isa in Isa::available() {
            check(isa, Shape { m, n, k, alpha: 1.0, beta: 1.0 }, &a, &b, 2);
        }
    }

    #[test]
    fn nan_and_infinity_come_through() {
        let (m, n, k) = (5, 40, 30);
        let mut a = Owned::new(m, k, 0, false, 7);
        let mut b = Owned::new(k, n, 0, false, 8);
        a.data[2 * k + 3] = f32::NAN;
        b.data[4 * n + 39] = f32::INFINITY;
        for isa in Isa::available() {
            let mut c = vec![0.0; m * n];
            run(isa, Shape { m, n, k, alpha: 1.0, beta: 0.0 }, a.matrix(), b.matrix(), &mut c, n);
            for (at, v) in c.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                assert_eq!(v.is_nan(), i == 2, "{isa} ({i}, {j})");
                assert_eq!(v.is_infinite(), i != 2 && j == 39, "{isa} ({i}, {j})");
            }
        }
    }
}
