//! The plain microkernel, in scalar Rust that a compiler turns into the vectors every x86-64 has.

use super::{Kernels, Tile};

const MR: usize = 4;
const NR: usize = 8;

pub(super) const KERNELS: Kernels = Kernels { mr: MR, nr: NR, tile, pack_rows, pack_cols };

unsafe fn tile(t: &Tile) {
    // SAFETY: the caller vouches for the tile; `rows` is at most MR.
    unsafe {
        match t.rows {
            1 => tile_of::<1>(t),
            2 => tile_of::<2>(t),
            3 => tile_of::<3>(t),
            _ => tile_of::<4>(t),
        }
    }
}

unsafe fn tile_of<const R: usize>(t: &Tile) {
    let mut sums = [[0.0_f32; NR]; R];
    // SAFETY: packed operands have these sizes.
    let (a, b) = unsafe { (std::slice::from_raw_parts(t.a, t.kc * R), std::slice::from_raw_parts(t.b, t.kc * NR)) };
    for (a, b) in a.chunks_exact(R).zip(b.chunks_exact(NR)) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate().take(t.cols) {
            // SAFETY: row i and column j are inside the tile.
            unsafe {
                let c = t.c.add(i * t.ldc + j);
                *c = if t.beta == 0.0 { t.alpha * sum } else { t.beta * *c + t.alpha * sum };
            }
        }
    }
}

/// Packs lanes that are `ld` apart: a transposition.
pub(super) unsafe fn pack_rows(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    // SAFETY: the caller vouches for `lanes` rows of `kc` values and for the destination.
    unsafe {
        for lane in 0..width {
            for k in 0..kc {
                *dst.add(k * width + lane) = if lane < lanes { *src.add(lane * ld + k) } else { 0.0 };
            }
        }
    }
}

/// Packs lanes that are neighbours: a copy.
pub(super) unsafe fn pack_cols(src: *const f32, ld: usize, lanes: usize, width: usize, kc: usize, dst: *mut f32) {
    // SAFETY: the caller vouches for `kc` rows of `lanes` values and for the destination.
    unsafe {
        for k in 0..kc {
            std::ptr::copy_nonoverlapping(src.add(k * ld), dst.add(k * width), lanes);
            std::ptr::write_bytes(dst.add(k * width + lanes), 0, width - lanes);
        }
    }
}
