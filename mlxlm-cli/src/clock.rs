//! The time of a line of a log, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-29T04:38:07.250Z`.
pub(crate) fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The date so many days after the first of January 1970. Years are counted from March, so that the day that some have more is their last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From the first of March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds: u64| utc(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 5));
        assert_eq!(at(0), "1970-01-01T00:00:00.005Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.005Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.005Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.005Z");
    }
}
