//! Tiles in memory, by which tests run the kernels of AMX where there is none.

use std::cell::RefCell;
use std::sync::OnceLock;

use super::Config;

const ROW: usize = super::ROW;

#[derive(Default)]
struct Unit {
    /// Rows and bytes in a row of each tile.
    shapes: [(usize, usize); 8],
    tiles: [Tile; 8],
}

#[derive(Clone, Copy)]
struct Tile([[u8; ROW]; 16]);

impl Default for Tile {
    fn default() -> Self {
        Self([[0; ROW]; 16])
    }
}

thread_local!(static UNIT: RefCell<Unit> = RefCell::default());

/// Whether this machine lacks real tiles.
pub(in crate::kernels) fn instead() -> bool {
    static INSTEAD: OnceLock<bool> = OnceLock::new();
    *INSTEAD.get_or_init(|| !super::available())
}

pub(super) fn configure(config: &Config) {
    let shapes = std::array::from_fn(|i| (usize::from(config.rows[i]), usize::from(config.row_bytes[i])));
    UNIT.with_borrow_mut(|unit| {
        assert_eq!(unit.shapes, [(0, 0); 8], "the tiles are in use");
        *unit = Unit { shapes, ..Unit::default() };
    });
}

pub(super) fn release() {
    UNIT.with_borrow_mut(|unit| *unit = Unit::default());
}

impl Unit {
    /// Rows and bytes in a row; the instruction faults where there are none.
    fn shape(&self, tile: usize) -> (usize, usize) {
        assert_ne!(self.shapes[tile], (0, 0), "no tiles are configured");
        self.shapes[tile]
    }
}

pub(super) fn zero(tile: usize) {
    UNIT.with_borrow_mut(|unit| {
        unit.shape(tile);
        unit.tiles[tile] = Tile::default();
    });
}

/// # Safety
/// As [`super::load`].
pub(super) unsafe fn load(tile: usize, from: *const u8, stride: usize) {
    UNIT.with_borrow_mut(|unit| {
        let (rows, bytes) = unit.shape(tile);
        unit.tiles[tile] = Tile::default();
        for (i, row) in unit.tiles[tile].0.iter_mut().enumerate().take(rows) {
            // SAFETY: passed on from the caller.
            unsafe { row.as_mut_ptr().copy_from_nonoverlapping(from.add(i * stride), bytes) };
        }
    });
}

/// # Safety
/// As [`super::store`].
pub(super) unsafe fn store(tile: usize, to: *mut u8, stride: usize) {
    UNIT.with_borrow(|unit| {
        let (rows, bytes) = unit.shape(tile);
        for (i, row) in unit.tiles[tile].0.iter().enumerate().take(rows) {
            // SAFETY: passed on from the caller.
            unsafe { to.add(i * stride).copy_from_nonoverlapping(row.as_ptr(), bytes) };
        }
    });
}

/// `C += A · B`, where `add` adds to a sum the products of a row of `A` and a column of `B`, four bytes at a time.
pub(super) fn dot(add: impl Fn([u8; 4], &[[u8; 4]], &[[u8; 4]]) -> [u8; 4], c: usize, a: usize, b: usize) {
    UNIT.with_borrow_mut(|unit| {
        let ((rows, columns), (_, depth)) = (unit.shape(c), unit.shape(a));
        assert_eq!((rows, depth / 4, columns), (unit.shape(a).0, unit.shape(b).0, unit.shape(b).1), "tiles fit");
        let (left, right) = (unit.tiles[a], unit.tiles[b]);
        for n in 0..columns / 4 {
            let column: [[u8; 4]; 16] = std::array::from_fn(|k| right.0[k].as_chunks().0[n]);
            for (sums, left) in unit.tiles[c].0.iter_mut().zip(&left.0).take(rows) {
                let sum = &mut sums.as_chunks_mut().0[n];
                *sum = add(*sum, &left.as_chunks().0[..depth / 4], &column[..depth / 4]);
            }
        }
    });
}

/// Four signed bytes times four unsigned ones.
pub(super) fn bytes(sum: [u8; 4], left: &[[u8; 4]], right: &[[u8; 4]]) -> [u8; 4] {
    let four = |(a, b): (&[u8; 4], &[u8; 4])| -> i32 {
        a.iter().zip(b).map(|(a, b)| i32::from(*a as i8) * i32::from(*b)).sum()
    };
    i32::from_ne_bytes(sum).wrapping_add(left.iter().zip(right).map(four).sum()).to_ne_bytes()
}

/// Two bf16 times two bf16: the even columns in one sum and the odd ones in another, which meet in the end. What is smaller than
/// a normal number is zero, before and after.
pub(super) fn halves(sum: [u8; 4], left: &[[u8; 4]], right: &[[u8; 4]]) -> [u8; 4] {
    let flushed = |v: f32| if v.is_subnormal() { 0.0 } else { v };
    let wide = |v: &[u8; 4]| {
        let word = u32::from_ne_bytes(*v);
        [word << 16, word & 0xFFFF_0000].map(|bits| flushed(f32::from_bits(bits)))
    };
    let mut sums = [0.0; 2];
    for (a, b) in left.iter().zip(right) {
        for ((sum, a), b) in sums.iter_mut().zip(wide(a)).zip(wide(b)) {
            *sum = flushed(f32::mul_add(a, b, *sum));
        }
    }
    flushed(flushed(f32::from_ne_bytes(sum)) + flushed(sums[0] + sums[1])).to_ne_bytes()
}
