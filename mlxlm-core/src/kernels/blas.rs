//! `cblas_sgemm` and `cblas_dgemm`, exported under these names so that MLX uses them.
//!
//! MLX's CPU build calls BLAS for f32 and f64 matrix products, and the prebuilt library brings the slow reference BLAS. The dynamic
//! linker takes a symbol from the program before it looks into libraries, so defining it here replaces that one without
//! touching any file of MLX. [`calls`] lets a test see that it happened.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gemm::sgemm::{Matrix, Shape, sgemm};
use super::isa::Isa;
use super::pool;

const ROW_MAJOR: c_int = 101;
const NO_TRANS: c_int = 111;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Keeps the linker from dropping the two functions, which nothing in Rust calls.
#[used]
static KEEP: (Cblas<f32>, Cblas<f64>) = (cblas_sgemm, cblas_dgemm);

type Cblas<T> = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    T,
    *const T,
    c_int,
    *const T,
    c_int,
    T,
    *mut T,
    c_int,
);

/// How many products MLX has asked of this module so far.
pub fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// BLAS arguments as row-major sizes: a column-major product is the row-major product of the swapped operands.
struct Call<T> {
    a: (*const T, usize, bool),
    b: (*const T, usize, bool),
    m: usize,
    n: usize,
    k: usize,
}

impl<T> Call<T> {
    fn new(order: c_int, a: (*const T, c_int, c_int), b: (*const T, c_int, c_int), [m, n, k]: [c_int; 3]) -> Self {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let size = |v: c_int| usize::try_from(v).unwrap_or(0);
        let operand = |(data, ld, trans): (*const T, c_int, c_int)| (data, size(ld), trans != NO_TRANS);
        let (a, b, m, n) = if order == ROW_MAJOR { (a, b, m, n) } else { (b, a, n, m) };
        Self { a: operand(a), b: operand(b), m: size(m), n: size(n), k: size(k) }
    }
}

/// The CBLAS routine of this name.
///
/// # Safety
/// As the standard says: the matrices must be valid for their sizes and leading dimensions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_sgemm(
    order: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    let call = Call::new(order, (a, lda, trans_a), (b, ldb, trans_b), [m, n, k]);
    let matrix = |(data, ld, transposed)| Matrix { data, ld, transposed };
    let shape = Shape { m: call.m, n: call.n, k: call.k, alpha, beta };
    // C has no way to report a bad `MLXLM_ISA`; programs check it at their start.
    let isa = Isa::active().unwrap_or(Isa::Portable);
    // SAFETY: the caller vouches for the matrices.
    unsafe { sgemm(isa, shape, matrix(call.a), matrix(call.b), c, usize::try_from(ldc).unwrap_or(0)) };
}

/// The CBLAS routine of this name: rows in parallel, plain loops. Nothing of a language model runs in f64.
///
/// # Safety
/// As the standard says: the matrices must be valid for their sizes and leading dimensions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cblas_dgemm(
    order: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f64,
    a: *const f64,
    lda: c_int,
    b: *const f64,
    ldb: c_int,
    beta: f64,
    c: *mut f64,
    ldc: c_int,
) {
    let call = Call::new(order, (a, lda, trans_a), (b, ldb, trans_b), [m, n, k]);
    let rows = Rows { call, alpha, beta, c, ldc: usize::try_from(ldc).unwrap_or(0) };
    let parts = if rows.call.m * rows.call.n * rows.call.k < 100_000 { 1 } else { 4 * pool::threads() };
    // SAFETY: the caller vouches for the matrices; each row is written by one task.
    pool::parallel_ranges(rows.call.m, 1, parts, |from, to| (from..to).for_each(|i| unsafe { rows.compute(i) }));
}

struct Rows {
    call: Call<f64>,
    alpha: f64,
    beta: f64,
    c: *mut f64,
    ldc: usize,
}

// SAFETY: operands are only read, and tasks write different rows of `c`.
unsafe impl Sync for Rows {}

impl Rows {
    unsafe fn compute(&self, i: usize) {
        let Call { a: (a, lda, ta), b: (b, ldb, tb), n, k, .. } = self.call;
        // SAFETY: every index is inside the matrices, for which the caller of `cblas_dgemm` vouches.
        unsafe {
            let c = std::slice::from_raw_parts_mut(self.c.add(i * self.ldc), n);
            for v in &mut *c {
                *v = if self.beta == 0.0 { 0.0 } else { *v * self.beta };
            }
            if self.alpha == 0.0 {
                return;
            }
            let factor = |p: usize| self.alpha * *a.add(if ta { p * lda + i } else { i * lda + p });
            if tb {
                for (j, v) in c.iter_mut().enumerate() {
                    *v += (0..k).map(|p| factor(p) * *b.add(j * ldb + p)).sum::<f64>();
                }
            } else {
                for p in 0..k {
                    let (factor, row) = (factor(p), std::slice::from_raw_parts(b.add(p * ldb), n));
                    c.iter_mut().zip(row).for_each(|(v, b)| *v += factor * b);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, ops};

    #[test]
    fn mlx_calls_these_functions() {
        let a = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let before = calls();
        let product = ops::matmul(&a, a.t()).unwrap();
        assert_eq!(product.try_as_slice::<f32>().unwrap(), [14.0, 32.0, 32.0, 77.0]);
        assert!(calls() > before, "MLX used another BLAS");
    }

    fn check_dgemm(order: c_int, trans: [c_int; 2], a: &[f64], lda: c_int, b: &[f64], ldb: c_int, want: [f64; 4]) {
        let mut c = [1.0, 2.0, 3.0, 4.0];
        // SAFETY: the matrices are 2 × 3, 3 × 2 and 2 × 2.
        unsafe {
            cblas_dgemm(
                order,
                trans[0],
                trans[1],
                2,
                2,
                3,
                2.0,
                a.as_ptr(),
                lda,
                b.as_ptr(),
                ldb,
                1.0,
                c.as_mut_ptr(),
                2,
            );
        }
        assert_eq!(c, want);
    }

    #[test]
    fn dgemm_knows_orders_and_transposes() {
        const TRANS: c_int = 112;
        let (a, at) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let (b, bt) = ([1.0, 0.0, 0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
        // A · B is [[4, 5], [10, 11]].
        let rows = [9.0, 12.0, 23.0, 26.0];
        check_dgemm(ROW_MAJOR, [NO_TRANS, NO_TRANS], &a, 3, &b, 2, rows);
        check_dgemm(ROW_MAJOR, [TRANS, TRANS], &at, 2, &bt, 3, rows);
        let columns = [9.0, 22.0, 13.0, 26.0];
        check_dgemm(102, [NO_TRANS, NO_TRANS], &at, 2, &bt, 3, columns);
        check_dgemm(102, [TRANS, TRANS], &a, 3, &b, 2, columns);
    }

    #[test]
    fn sgemm_takes_column_major() {
        let (at, bt) = ([1.0_f32, 4.0, 2.0, 5.0, 3.0, 6.0], [1.0_f32, 0.0, 1.0, 0.0, 1.0, 1.0]);
        let mut c = [f32::NAN; 4];
        // SAFETY: the matrices are 2 × 3, 3 × 2 and 2 × 2.
        unsafe {
            cblas_sgemm(102, NO_TRANS, NO_TRANS, 2, 2, 3, 1.0, at.as_ptr(), 2, bt.as_ptr(), 3, 0.0, c.as_mut_ptr(), 2);
        };
        assert_eq!(c, [4.0, 10.0, 5.0, 11.0]);
    }
}
