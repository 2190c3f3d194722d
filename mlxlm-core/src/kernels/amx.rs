//! The matrix tiles of AMX: eight registers of 16 rows of 64 bytes, in assembly because std has no stable functions for them.
//!
//! The compiler knows nothing of tiles and never uses them, so between [`Tiles::configure`] and its drop they keep what these
//! functions put there, like memory that only this thread sees.
//!
//! Tests run kernels of tiles on every machine that has AVX-512: where there is no AMX, they take `emulated` tiles.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;

#[cfg(test)]
mod emulated;

/// Bytes in a row of a full tile; a full tile has 16 rows.
pub(crate) const ROW: usize = 64;

/// Whether the processor has tiles for bytes and bf16 and the system lets this process use them.
pub(super) fn available() -> bool {
    // Bits of leaf 7's edx: bf16, tiles, int8.
    const NEEDED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// Bits of XCR0: the tiles' configuration and their data.
    const SAVED: u64 = 1 << 17 | 1 << 18;
    /// Bit of leaf 1's ecx: the system uses XSAVE.
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 || __cpuid_count(7, 0).edx & NEEDED != NEEDED {
        return false;
    }
    // SAFETY: OSXSAVE says that this instruction is allowed.
    let saved = unsafe { xcr0() };
    saved & SAVED == SAVED && permitted()
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

/// Asks the system for the tiles' state, once for all threads of the process.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this request takes and returns numbers only.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// The shapes of the eight tiles.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Rows (at most 16) and bytes in a row (at most 64) of each tile.
    pub(crate) fn new(shapes: [(usize, usize); 8]) -> Self {
        let mut config = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
            assert!(
                (1..=16).contains(&rows) && (4..=ROW).contains(&bytes) && bytes.is_multiple_of(4),
                "no tile's shape"
            );
            config.rows[i] = rows as u8;
            config.row_bytes[i] = bytes as u16;
        }
        config
    }
}

/// The tiles of this thread, until this is dropped.
#[derive(Debug)]
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Gives the tiles their shapes; their contents are zero.
    ///
    /// # Safety
    /// The machine must have AMX ([`super::Isa::Amx`]), and no other `Tiles` may live on this thread.
    pub(crate) unsafe fn configure(config: &Config) -> Self {
        #[cfg(test)]
        if emulated::instead() {
            emulated::configure(config);
            return Self(PhantomData);
        }
        // SAFETY: the configuration is one that `Config::new` checked; the instruction reads its 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly, preserves_flags)) };
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(test)]
        if emulated::instead() {
            return emulated::release();
        }
        // SAFETY: the tiles were configured on this thread; without this, every switch of threads would save them.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Sets tile `T` to zero.
///
/// # Safety
/// [`Tiles`] must live on this thread; so for all functions here.
#[inline(always)]
pub(crate) unsafe fn zero<const T: u8>() {
    #[cfg(test)]
    if emulated::instead() {
        return emulated::zero(T.into());
    }
    // SAFETY: passed on from the caller.
    unsafe { asm!("tilezero tmm{}", const T, options(nostack, preserves_flags)) };
}

/// Reads tile `T` from rows that are `stride` bytes apart.
///
/// # Safety
/// The tile's rows must be readable there.
#[inline(always)]
pub(crate) unsafe fn load<const T: u8>(from: *const u8, stride: usize) {
    #[cfg(test)]
    if emulated::instead() {
        // SAFETY: passed on from the caller.
        return unsafe { emulated::load(T.into(), from, stride) };
    }
    // SAFETY: passed on from the caller.
    unsafe {
        asm!("tileloadd tmm{}, [{} + {}*1]", const T, in(reg) from, in(reg) stride, options(nostack, readonly, preserves_flags));
    }
}

/// Writes tile `T` to rows that are `stride` bytes apart.
///
/// # Safety
/// The tile's rows must be writable there.
#[inline(always)]
pub(crate) unsafe fn store<const T: u8>(to: *mut u8, stride: usize) {
    #[cfg(test)]
    if emulated::instead() {
        // SAFETY: passed on from the caller.
        return unsafe { emulated::store(T.into(), to, stride) };
    }
    // SAFETY: passed on from the caller.
    unsafe {
        asm!("tilestored [{} + {}*1], tmm{}", in(reg) to, in(reg) stride, const T, options(nostack, preserves_flags));
    }
}

/// `C += A · B` of tiles: rows of signed bytes in `A`, and in `B` rows of four unsigned bytes for each column; sums are `i32`.
///
/// # Safety
/// The tiles' shapes must fit each other.
#[inline(always)]
pub(crate) unsafe fn dot_signed_unsigned<const C: u8, const A: u8, const B: u8>() {
    #[cfg(test)]
    if emulated::instead() {
        return emulated::dot(emulated::bytes, C.into(), A.into(), B.into());
    }
    // SAFETY: passed on from the caller.
    unsafe { asm!("tdpbsud tmm{}, tmm{}, tmm{}", const C, const A, const B, options(nostack, preserves_flags)) };
}

/// `C += A · B` of tiles: rows of bf16 in `A`, and in `B` rows of two bf16 for each column; sums are `f32`.
///
/// # Safety
/// The tiles' shapes must fit each other.
#[inline(always)]
pub(crate) unsafe fn dot_bf16<const C: u8, const A: u8, const B: u8>() {
    #[cfg(test)]
    if emulated::instead() {
        return emulated::dot(emulated::halves, C.into(), A.into(), B.into());
    }
    // SAFETY: passed on from the caller.
    unsafe { asm!("tdpbf16ps tmm{}, tmm{}, tmm{}", const C, const A, const B, options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    #[test]
    fn tiles_multiply_bytes_and_halves() {
        if Isa::best() < Isa::Amx {
            return; // not even emulated
        }
        // A is 3 × 8, B 8 × 2, with four (or two) of its rows side by side.
        let config = Config::new([(3, 8), (3, 8), (2, 8), (3, 8), (3, 16), (4, 8), (1, 4), (1, 4)]);
        let a: [i8; 24] = std::array::from_fn(|i| i as i8 - 11);
        let b: [u8; 16] = std::array::from_fn(|i| 200 + i as u8);
        let half = |v: i32| (v as f32).to_bits() >> 16;
        let wide_a: [u16; 24] = std::array::from_fn(|i| half(i32::from(a[i])) as u16);
        let wide_b: [u16; 16] = std::array::from_fn(|i| half(i32::from(b[i]) - 200) as u16);
        let (mut bytes, mut halves) = ([[0_i32; 2]; 3], [[0.0_f32; 2]; 3]);
        // SAFETY: the level was checked, and the arrays have the tiles' shapes.
        unsafe {
            let _tiles = Tiles::configure(&config);
            load::<1>(a.as_ptr().cast(), 8);
            load::<2>(b.as_ptr(), 8);
            zero::<0>();
            dot_signed_unsigned::<0, 1, 2>();
            store::<0>(bytes.as_mut_ptr().cast(), 8);
            load::<4>(wide_a.as_ptr().cast(), 16);
            load::<5>(wide_b.as_ptr().cast(), 8);
            zero::<3>();
            dot_bf16::<3, 4, 5>();
            store::<3>(halves.as_mut_ptr().cast(), 8);
        }
        for row in 0..3 {
            for column in 0..2 {
                let byte = |k: usize| i32::from(a[8 * row + k]) * i32::from(b[k / 4 * 8 + 4 * column + k % 4]);
                assert_eq!(bytes[row][column], (0..8).map(byte).sum::<i32>());
                let half = |k: usize| i32::from(a[8 * row + k]) * (k as i32 / 2 * 4 + 2 * column as i32 + k as i32 % 2);
                assert_eq!(halves[row][column] as i32, (0..8).map(half).sum::<i32>());
            }
        }
    }
}
