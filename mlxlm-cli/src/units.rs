//! Numbers as people read them.

use std::time::Duration;

/// Bytes in decimal units: `34.1 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB"])
}

/// A count as it is spoken of: `7.2B`.
pub(crate) fn short(count: u64) -> String {
    scaled(count, &["", "K", "M", "B", "T"])
}

fn scaled(number: u64, units: &[&str]) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit != 0);
    format!("{value:.digits$}{}", units[unit])
}

/// A number of things: `1 token`, `2 tokens`.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A time: `0.31 s`, `42 s`, `3m 20s`, `2h 5m`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 34_100_000].map(bytes), ["0 B", "999 B", "34.1 MB"]);
        assert_eq!(short(7_240_000_000), "7.2B");
        assert_eq!([counted(0, "token"), counted(1, "token")], ["0 tokens", "1 token"]);
        let times = [0.307, 42.9, 200.0, 7500.0].map(|s| time(Duration::from_secs_f64(s)));
        assert_eq!(times, ["0.31 s", "42 s", "3m 20s", "2h 5m"]);
    }
}
