//! Names of answers, and the time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no other answer has: the prefix and 24 hexadecimal digits.
pub(crate) fn fresh(prefix: &str) -> String {
    let [a, b] = rand::random::<[u64; 2]>();
    format!("{prefix}{a:016x}{:08x}", b as u32)
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
