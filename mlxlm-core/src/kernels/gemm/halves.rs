//! `C = A · B` of bf16 matrices by the tiles of AMX, or by [`vectors`] of AVX-512, with sums in f32: for many rows, as prompts and
//! training have them.
//!
//! What is unusual:
//! - Operands come through packing functions, as in [`super`], so quantized weights are unpacked to bf16 where they are used.
//! - Everything is padded with zeros to whole tiles, so there is one shape of tile and one loop.
//! - A block of [`DEPTH`] values of `k` of all rows stays in the second-level cache while columns pass by, and that of 32 columns in
//!   the first. The sums of a task wait in memory between blocks.
//! - A row's bits depend on how many rows there are only by whether this way is taken at all.

use std::cell::Cell;

use half::bf16;

use super::Shared;
use crate::kernels::amx::{self, Config, Tiles};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, with_scratch};

mod vectors;

/// Rows of a tile of `A`, columns of one of `B`.
pub(crate) const SIDE: usize = 16;
/// Values of `k` in a tile.
pub(crate) const STEP: usize = 32;
/// Values of `k` in a block.
pub(crate) const DEPTH: usize = 512;
/// bf16 values of a tile.
pub(crate) const TILE: usize = SIDE * STEP;
/// Rows of one pass over `B`.
const ROWS: usize = 512;
/// Tiles of columns that a task has at most: what its sums take is half of a second-level cache.
const SPAN: usize = 16;
/// Below this many multiply-adds another core is not worth waking.
const SERIAL: usize = 1 << 21;

thread_local! {
    static PACKED_A: Scratch = const { Cell::new(Vec::new()) };
    static PACKED_B: Scratch = const { Cell::new(Vec::new()) };
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
}

/// A product to compute.
pub(crate) struct Halves<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Writes `tiles` for rows `row..row + 16` and all of `k`: `[k / 32][16][32]`. Rows and values that are not there are zero.
    pub(crate) pack_a: &'a (dyn Fn(usize, &mut [bf16]) + Sync),
    /// Writes `tiles` for columns `column..column + 16` and `k..`: `[k / 32][16 pairs of k][16 columns][2]`. Columns that are not
    /// there may be anything, values that are not there are zero.
    pub(crate) pack_b: &'a (dyn Fn(usize, usize, &mut [bf16]) + Sync),
    /// Takes the sums of a row from a column on.
    pub(crate) write: &'a (dyn Fn(usize, usize, &mut [f32]) + Sync),
}

/// Computes a product.
///
/// # Safety
/// The machine must have the level, which must be AVX-512 or AMX.
pub(crate) unsafe fn multiply(isa: Isa, g: &Halves<'_>) {
    let steps = g.k.div_ceil(STEP);
    for from in (0..g.m).step_by(ROWS) {
        let rows = ROWS.min(g.m - from);
        // Two tiles of rows are multiplied together.
        let tiles = rows.div_ceil(2 * SIDE) * 2;
        with_scratch(&PACKED_A, tiles * steps * TILE / 2, |packed| {
            let packed = Shared(halves_of(packed).as_mut_ptr());
            let parts = if rows * g.k < SERIAL / 64 { 1 } else { tiles };
            pool::parallel_ranges(tiles, 1, parts, |begin, end| {
                for tile in begin..end {
                    // SAFETY: tiles have places of their own.
                    let to =
                        unsafe { std::slice::from_raw_parts_mut(packed.get().add(tile * steps * TILE), steps * TILE) };
                    if tile * SIDE < rows { (g.pack_a)(from + tile * SIDE, to) } else { to.fill(bf16::ZERO) }
                }
            });
            let columns = g.n.div_ceil(SIDE);
            let wanted = if rows * g.n * g.k < SERIAL { 1 } else { 3 * pool::threads() };
            let span = columns.div_ceil(wanted).next_multiple_of(2).min(SPAN);
            pool::parallel(columns.div_ceil(span), |task| {
                let pass = Pass { isa, g, from, rows, tiles, a: packed.get(), steps };
                // SAFETY: passed on from the caller.
                unsafe { pass.columns(task * span, ((task + 1) * span).min(columns)) };
            });
        });
    }
}

/// Some rows against all columns.
struct Pass<'a> {
    isa: Isa,
    g: &'a Halves<'a>,
    from: usize,
    rows: usize,
    /// Tiles of the rows, an even number.
    tiles: usize,
    a: *const bf16,
    /// Tiles of `k`.
    steps: usize,
}

impl Pass<'_> {
    /// The sums of some tiles of columns.
    unsafe fn columns(&self, first: usize, end: usize) {
        let pairs = (end - first).div_ceil(2);
        let line = pairs * 2 * SIDE;
        let depth = DEPTH / STEP;
        with_scratch(&SUMS, self.tiles * SIDE * line, |sums| {
            with_scratch(&PACKED_B, depth * TILE, |packed| {
                let packed = halves_of(packed);
                // SAFETY: passed on from the caller.
                let configure = || unsafe { Tiles::configure(&Config::new([(SIDE, amx::ROW); 8])) };
                let tiles = (self.isa == Isa::Amx).then(configure);
                for step in (0..self.steps).step_by(depth) {
                    let some = depth.min(self.steps - step);
                    for pair in 0..pairs {
                        for (i, to) in packed[..2 * some * TILE].chunks_exact_mut(some * TILE).enumerate() {
                            let column = (first + 2 * pair + i).min(end - 1) * SIDE;
                            (self.g.pack_b)(column, step * STEP, to);
                        }
                        let to = &mut sums[pair * 2 * SIDE..];
                        // SAFETY: the tiles are configured, and `packed`, `a` and `sums` have the sizes.
                        unsafe {
                            match self.isa {
                                Isa::Amx => self.block(step, some, packed.as_ptr(), to, line),
                                _ => self.block_by_vectors(step, some, packed.as_ptr(), to, line),
                            }
                        };
                    }
                }
                drop(tiles);
            });
            let column = first * SIDE;
            let width = line.min(self.g.n - column);
            for (row, sums) in sums.chunks_exact_mut(line).take(self.rows).enumerate() {
                (self.g.write)(self.from + row, column, &mut sums[..width]);
            }
        });
    }

    /// Adds a block of `k` to the sums of all rows and two tiles of columns, which the first block begins; rows are `line` apart.
    unsafe fn block(&self, step: usize, steps: usize, b: *const bf16, sums: &mut [f32], line: usize) {
        let bytes = |of: *const bf16, tile: usize| of.wrapping_add(tile * TILE).cast::<u8>();
        let stride = 4 * line;
        assert!(sums.len() >= (self.tiles * SIDE - 1) * line + 2 * SIDE);
        let base = sums.as_mut_ptr();
        for pair in 0..self.tiles / 2 {
            let row = 2 * pair * SIDE;
            let at = |row: usize, column: usize| base.wrapping_add(row * line + column).cast::<u8>();
            let c = [at(row, 0), at(row, SIDE), at(row + SIDE, 0), at(row + SIDE, SIDE)];
            let first = 2 * pair * self.steps + step;
            // SAFETY: the tiles lie inside the packed operands and the sums.
            unsafe {
                if step == 0 {
                    amx::zero::<0>();
                    amx::zero::<1>();
                    amx::zero::<2>();
                    amx::zero::<3>();
                } else {
                    amx::load::<0>(c[0], stride);
                    amx::load::<1>(c[1], stride);
                    amx::load::<2>(c[2], stride);
                    amx::load::<3>(c[3], stride);
                }
                for i in 0..steps {
                    amx::load::<4>(bytes(self.a, first + i), amx::ROW);
                    amx::load::<6>(bytes(b, i), amx::ROW);
                    amx::dot_bf16::<0, 4, 6>();
                    amx::load::<7>(bytes(b, steps + i), amx::ROW);
                    amx::dot_bf16::<1, 4, 7>();
                    amx::load::<5>(bytes(self.a, first + self.steps + i), amx::ROW);
                    amx::dot_bf16::<2, 5, 6>();
                    amx::dot_bf16::<3, 5, 7>();
                }
                amx::store::<0>(c[0], stride);
                amx::store::<1>(c[1], stride);
                amx::store::<2>(c[2], stride);
                amx::store::<3>(c[3], stride);
            }
        }
    }
}

impl Pass<'_> {
    /// What [`block`](Self::block) does, without tiles.
    unsafe fn block_by_vectors(&self, step: usize, steps: usize, b: *const bf16, sums: &mut [f32], line: usize) {
        assert!(sums.len() >= (self.tiles * SIDE - 1) * line + 2 * SIDE);
        let columns = [b, b.wrapping_add(steps * TILE)];
        for (tile, base) in (0..self.tiles).zip((0..).step_by(SIDE * line)) {
            let rows = self.a.wrapping_add((tile * self.steps + step) * TILE);
            let to = sums.as_mut_ptr().wrapping_add(base);
            // SAFETY: the tiles lie inside the packed operands and the sums, and the level is the caller's.
            unsafe { vectors::block(rows, columns, steps, (to, line), step == 0) };
        }
    }
}

/// Packs row `i` of 16, as [`Halves::pack_a`] has to; what is not there is zero.
pub(crate) fn pack_row(row: &[bf16], i: usize, tiles: &mut [bf16]) {
    for (step, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
        let to = &mut tile[i * STEP..][..STEP];
        let from = &row[row.len().min(step * STEP)..row.len().min((step + 1) * STEP)];
        to[..from.len()].copy_from_slice(from);
        to[from.len()..].fill(bf16::ZERO);
    }
}

/// The memory of floats as bf16.
fn halves_of(floats: &mut [f32]) -> &mut [bf16] {
    // SAFETY: a float has room for two bf16, which may be any bits.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 2 * floats.len()) }
}
