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
    UNIT.with_borrow_mut(|unit| *unit = Unit { shapes, ..Unit::default() });
}

pub(super) fn zero(tile: usize) {
    UNIT.with_borrow_mut(|unit| unit.tiles[tile] = Tile::default());
}

/// # Safety
/// As [`super::load`].
pub(super) unsafe fn load(tile: usize, from: *const u8, stride: usize) {
    UNIT.with_borrow_mut(|unit| {
        let (rows, bytes) = unit.shapes[tile];
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
        let (rows, bytes) = unit.shapes[tile];
        for (i, row) in unit.tiles[tile].0.iter().enumerate().take(rows) {
            // SAFETY: passed on from the caller.
            unsafe { to.add(i * stride).copy_from_nonoverlapping(row.as_ptr(), bytes) };
        }
    });
}

/// `C += A · B`, where `add` adds the products of two groups of four bytes to a sum.
pub(super) fn dot(add: fn([u8; 4], [u8; 4], [u8; 4]) -> [u8; 4], c: usize, a: usize, b: usize) {
    UNIT.with_borrow_mut(|unit| {
        let ((rows, columns), (_, depth)) = (unit.shapes[c], unit.shapes[a]);
        assert_eq!((rows, depth / 4, columns), (unit.shapes[a].0, unit.shapes[b].0, unit.shapes[b].1), "tiles fit");
        let (left, right) = (unit.tiles[a], unit.tiles[b]);
        for (sums, left) in unit.tiles[c].0.iter_mut().zip(&left.0).take(rows) {
            for (right, left) in right.0.iter().zip(left.as_chunks().0).take(depth / 4) {
                for (sum, right) in sums.as_chunks_mut().0.iter_mut().zip(right.as_chunks().0).take(columns / 4) {
                    *sum = add(*sum, *left, *right);
                }
            }
        }
    });
}

/// Four signed bytes times four unsigned ones.
pub(super) fn bytes(sum: [u8; 4], left: [u8; 4], right: [u8; 4]) -> [u8; 4] {
    let products = left.iter().zip(right).map(|(a, b)| i32::from(*a as i8) * i32::from(b));
    i32::from_ne_bytes(sum).wrapping_add(products.sum()).to_ne_bytes()
}

/// Two bf16 times two bf16, added up in f32, the second pair first.
pub(super) fn halves(sum: [u8; 4], left: [u8; 4], right: [u8; 4]) -> [u8; 4] {
    let wide = |v: [u8; 4]| {
        let word = u32::from_ne_bytes(v);
        [f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000)]
    };
    let (a, b) = (wide(left), wide(right));
    a[0].mul_add(b[0], a[1].mul_add(b[1], f32::from_ne_bytes(sum))).to_ne_bytes()
}
