//! The memory that our allocator keeps for later arrays: alone in its process, since MLX counts for all threads together.
#![cfg(all(feature = "mlx", target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "tests")]

use mlxlm_core::{Array, device, ops};

const MB: usize = 1 << 20;

/// An array of ones that is there.
fn array(bytes: usize) -> Array {
    let array = ops::ones::<f32>(&[(bytes / 4) as i32]).unwrap();
    array.eval().unwrap();
    device::synchronize().unwrap();
    array
}

/// Bytes that are kept; MLX keeps a few of its own.
fn kept() -> usize {
    device::cache_memory_bytes().unwrap()
}

/// Pages that the system has given to this process so far.
fn pages_given() -> i64 {
    let stat = mlxlm_core::io::read_to_string("/proc/self/stat").unwrap();
    // The field after state, ppid, pgrp, session, tty_nr, tpgid and flags, which follow the name in parentheses.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse().unwrap()
}

#[test]
fn freed_arrays_serve_later_ones() {
    if !device::description().starts_with("CPU") {
        return;
    }
    drop(array(64 * MB));
    assert!(kept() < MB, "nobody has asked for it");
    device::keep_memory(512 * MB);
    device::reset_peak_memory().unwrap();
    let before = device::active_memory_bytes().unwrap();
    drop(array(64 * MB));
    assert!(kept() >= 64 * MB);
    assert!(device::active_memory_bytes().unwrap() < before + MB);

    let (pages, rounds) = (pages_given(), 20);
    for _ in 0..rounds {
        drop(array(64 * MB));
    }
    let each = (pages_given() - pages) / rounds;
    assert!(each < 1000, "{each} pages for an array of {} pages that were kept", 64 * MB / 4096);

    // Buffers of another size go before the process grows beyond what it once took.
    let most = device::peak_memory_bytes().unwrap();
    let (a, b) = (array(24 * MB), array(32 * MB));
    assert!(device::peak_memory_bytes().unwrap() <= most, "{most}");
    assert!(kept() < MB, "no place for 64 MB beside 56 where 64 was the most");
    drop((a, b));
    assert!(kept() >= 56 * MB);

    device::clear_cache().unwrap();
    assert!(kept() < MB);

    // The limit, and none.
    drop(array(600 * MB));
    assert!(kept() < MB, "512 MB are kept at most");
    device::keep_memory(usize::MAX);
    drop(array(600 * MB));
    assert!(kept() >= 600 * MB);
}
