//! `C = alpha · A · B + beta · C` in f32 with operands of any layout, after Goto and van de Geijn, "Anatomy of
//! High-Performance Matrix Multiplication" (2008).
//!
//! What is unusual:
//! - Operands come through packing functions, so transposed, 16-bit and quantized matrices share this driver.
//! - A row's result has the same bits whatever the other rows are: each element is a chain of multiply-adds over `KC` values
//!   of `k` in order, and the chains of successive blocks are added up in order. Neither `M`, the tile a row falls into, nor the
//!   number of threads changes that.
//! - `B` is packed by the task that uses it, a few panels of [`KC`] × `NR` at a time, which stay in its caches while all rows
//!   pass by. There is no barrier inside a block of rows.

use std::cell::Cell;

use super::isa::Isa;
use super::pool;
use super::scratch::{Scratch, with_scratch};

mod avx2;
pub(crate) mod avx512;
pub(crate) mod halves;
mod portable;
pub(crate) mod sgemm;

/// Depth of a block. Part of the contract: it decides the order of sums.
const KC: usize = 256;
/// Packed rows of `A` hold at most this many values (16 MiB).
const PACKED_A: usize = 1 << 22;
/// Panels of `B` that one task keeps in the second-level cache.
const PANELS: usize = 4;
/// Below this many multiply-adds a product is not worth waking another core (about 4 µs of one).
const SERIAL: usize = 300_000;

thread_local! {
    static PACK_A: Scratch = const { Cell::new(Vec::new()) };
    static PACK_B: Scratch = const { Cell::new(Vec::new()) };
}

/// A part of an operand to pack: `lanes` rows of `A` or columns of `B` from `lane` on, `kc` values of `k` from `k` on.
/// The packed form is `[kc][width]`; lanes from `lanes` to `width` are zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) lane: usize,
    pub(crate) lanes: usize,
    pub(crate) width: usize,
    pub(crate) k: usize,
    pub(crate) kc: usize,
}

/// Writes a block's packed form to a pointer that has room for `kc · width` values.
pub(crate) type Pack<'a> = &'a (dyn Fn(Block, *mut f32) + Sync);

/// A product to compute. `c` points to `m` rows of `n` values, `ldc` apart; `beta == 0` never reads them.
pub(crate) struct Gemm<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) pack_a: Pack<'a>,
    pub(crate) pack_b: Pack<'a>,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) c: Shared<f32>,
    pub(crate) ldc: usize,
}

/// One call of a microkernel: `rows` × `cols` of `C`, from `a` as `[kc][rows]` and `b` as `[kc][NR]`.
struct Tile {
    rows: usize,
    cols: usize,
    kc: usize,
    a: *const f32,
    b: *const f32,
    alpha: f32,
    beta: f32,
    c: *mut f32,
    ldc: usize,
}

/// Packs lanes that are `ld` apart (`pack_rows`), or that are neighbours while `k` goes in steps of `ld` (`pack_cols`):
/// source, `ld`, lanes, width, kc, destination.
type PackFn = unsafe fn(*const f32, usize, usize, usize, usize, *mut f32);

/// What a level of instructions brings.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    mr: usize,
    nr: usize,
    tile: unsafe fn(&Tile),
    pub(crate) pack_rows: PackFn,
    pub(crate) pack_cols: PackFn,
}

impl Kernels {
    /// The kernels of a level, which the machine must have.
    pub(crate) fn of(isa: Isa) -> Self {
        assert!(isa <= Isa::best(), "this machine has no {isa}");
        match isa {
            Isa::Portable => portable::KERNELS,
            Isa::Avx2 => avx2::KERNELS,
            Isa::Avx512 | Isa::Amx => avx512::KERNELS,
        }
    }
}

/// A pointer that tasks share; each writes its own part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: whoever makes one sees to it that tasks write disjoint parts.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A method, so that closures capture the whole wrapper and not the bare pointer in it.
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

/// Computes a product.
///
/// # Safety
/// `c` must be valid for the rows and columns it stands for, with nobody else writing there, and the packing functions must be
/// right for every block inside `m`, `n` and `k`.
pub(crate) unsafe fn gemm(isa: Isa, g: &Gemm<'_>) {
    if g.m == 0 || g.n == 0 {
        return;
    }
    if g.k == 0 || g.alpha == 0.0 {
        // SAFETY: passed on from the caller.
        unsafe { scale(g) };
        return;
    }
    let kernels = Kernels::of(isa);
    let most = (PACKED_A / g.k).clamp(8 * kernels.mr, 1024);
    for from in (0..g.m).step_by(most) {
        let rows = Rows::new(from, (g.m - from).min(most), kernels.mr);
        with_scratch(&PACK_A, rows.len * g.k, |packed| {
            // SAFETY: passed on from the caller; `packed` has room for all rows of this block.
            unsafe { row_block(&kernels, g, &rows, Shared(packed.as_mut_ptr())) };
        });
    }
}

/// Rows of `C` that are computed together, cut into tiles of nearly the same height.
struct Rows {
    from: usize,
    len: usize,
    tiles: usize,
}

impl Rows {
    fn new(from: usize, len: usize, mr: usize) -> Self {
        Self { from, len, tiles: len.div_ceil(mr) }
    }

    /// First row of a tile, counted from this block's first.
    fn start(&self, tile: usize) -> usize {
        tile * self.len / self.tiles
    }
}

unsafe fn row_block(kernels: &Kernels, g: &Gemm<'_>, rows: &Rows, packed: Shared<f32>) {
    let serial = rows.len * g.n * g.k < SERIAL;
    let run = |tasks: usize, task: &(dyn Fn(usize) + Sync)| {
        if serial { (0..tasks).for_each(task) } else { pool::parallel(tasks, task) }
    };
    // Packed rows lie as [k block][tile][kc][rows of the tile].
    let at = |tile: usize, k: usize, kc: usize| k * rows.len + rows.start(tile) * kc;
    let pack = |tile: usize| {
        for k in (0..g.k).step_by(KC) {
            let kc = KC.min(g.k - k);
            let (start, end) = (rows.start(tile), rows.start(tile + 1));
            let block = Block { lane: rows.from + start, lanes: end - start, width: end - start, k, kc };
            // SAFETY: the offset is inside the buffer, whose size is rows × k.
            (g.pack_a)(block, unsafe { packed.get().add(at(tile, k, kc)) });
        }
    };
    if serial || rows.len * g.k < SERIAL {
        (0..rows.tiles).for_each(pack);
    } else {
        pool::parallel(rows.tiles, pack);
    }
    let panels = g.n.div_ceil(kernels.nr);
    let wanted = 3 * pool::threads();
    // Neighbouring panels share the pass over the packed rows, which may come from memory.
    let spans = panels.div_ceil((panels / wanted).clamp(1, PANELS));
    let groups = wanted.div_ceil(spans).clamp(1, rows.tiles);
    run(spans * groups, &|task| {
        let (span, group) = (task % spans, task / spans);
        let tiles = group * rows.tiles / groups..(group + 1) * rows.tiles / groups;
        let columns = (span * panels / spans * kernels.nr..((span + 1) * panels / spans * kernels.nr).min(g.n))
            .step_by(kernels.nr);
        let size = KC * kernels.nr;
        with_scratch(&PACK_B, columns.len() * size, |b| {
            for k in (0..g.k).step_by(KC) {
                let kc = KC.min(g.k - k);
                for (column, b) in columns.clone().zip(b.chunks_exact_mut(size)) {
                    let lanes = kernels.nr.min(g.n - column);
                    (g.pack_b)(Block { lane: column, lanes, width: kernels.nr, k, kc }, b.as_mut_ptr());
                }
                for tile in tiles.clone() {
                    let row = rows.start(tile);
                    for (column, b) in columns.clone().zip(b.chunks_exact(size)) {
                        // SAFETY: the tile lies inside C, and no other task has it: tasks differ in columns or in tiles.
                        unsafe {
                            (kernels.tile)(&Tile {
                                rows: rows.start(tile + 1) - row,
                                cols: kernels.nr.min(g.n - column),
                                kc,
                                a: packed.get().add(at(tile, k, kc)),
                                b: b.as_ptr(),
                                alpha: g.alpha,
                                beta: if k == 0 { g.beta } else { 1.0 },
                                c: g.c.get().add((rows.from + row) * g.ldc + column),
                                ldc: g.ldc,
                            });
                        }
                    }
                }
            }
        });
    });
}

/// Small products on one thread, with the same rows of `A` each time: what attention makes of a block of keys.
pub(crate) struct Serial {
    kernels: Kernels,
    rows: Rows,
}

impl Serial {
    pub(crate) fn new(isa: Isa, rows: usize) -> Self {
        let kernels = Kernels::of(isa);
        Self { kernels, rows: Rows::new(0, rows, kernels.mr) }
    }

    /// Room for one panel of a `B` with `k` rows.
    pub(crate) fn panel(isa: Isa, k: usize) -> usize {
        Kernels::of(isa).nr * k
    }

    /// Packs rows of `k` values that are `ld` apart, to be `A`.
    pub(crate) fn pack(&self, a: &[f32], ld: usize, k: usize, packed: &mut [f32]) {
        assert!(a.len() >= (self.rows.len - 1) * ld + k && packed.len() >= self.rows.len * k);
        for tile in 0..self.rows.tiles {
            let (start, end) = (self.rows.start(tile), self.rows.start(tile + 1));
            let rows = end - start;
            // SAFETY: the slices were measured.
            unsafe {
                let to = packed.as_mut_ptr().add(start * k);
                (self.kernels.pack_rows)(a.as_ptr().add(start * ld), ld, rows, rows, k, to);
            }
        }
    }

    /// `C = A · B + beta · C` with `n` columns, in one chain of sums over `k`. `b` is `[n][k]` if `transposed`, else `[k][n]`.
    pub(crate) fn multiply(
        &self,
        a: &[f32],
        b: &[f32],
        [k, n]: [usize; 2],
        transposed: bool,
        beta: f32,
        to: Target<'_>,
    ) {
        let Target { c, ldc, panel } = to;
        let nr = self.kernels.nr;
        assert!(a.len() >= self.rows.len * k && b.len() >= k * n && panel.len() >= nr * k);
        assert!(ldc >= n && c.len() >= (self.rows.len - 1) * ldc + n);
        for column in (0..n).step_by(nr) {
            let cols = nr.min(n - column);
            // SAFETY: the slices were measured, and the tile lies inside C.
            unsafe {
                if transposed {
                    (self.kernels.pack_rows)(b.as_ptr().add(column * k), k, cols, nr, k, panel.as_mut_ptr());
                } else {
                    (self.kernels.pack_cols)(b.as_ptr().add(column), n, cols, nr, k, panel.as_mut_ptr());
                }
                for tile in 0..self.rows.tiles {
                    let row = self.rows.start(tile);
                    (self.kernels.tile)(&Tile {
                        rows: self.rows.start(tile + 1) - row,
                        cols,
                        kc: k,
                        a: a.as_ptr().add(row * k),
                        b: panel.as_ptr(),
                        alpha: 1.0,
                        beta,
                        c: c.as_mut_ptr().add(row * ldc + column),
                        ldc,
                    });
                }
            }
        }
    }
}

/// Where a [`Serial`] product goes, and room for a panel.
pub(crate) struct Target<'a> {
    pub(crate) c: &'a mut [f32],
    pub(crate) ldc: usize,
    pub(crate) panel: &'a mut [f32],
}

/// `C = beta · C`, and zero for `beta == 0` whatever was there.
unsafe fn scale(g: &Gemm<'_>) {
    for row in 0..g.m {
        // SAFETY: the caller of `gemm` vouches for m rows of n values.
        let row = unsafe { std::slice::from_raw_parts_mut(g.c.get().add(row * g.ldc), g.n) };
        for v in row {
            *v = if g.beta == 0.0 { 0.0 } else { *v * g.beta };
        }
    }
}
