//! `strftime_now`: the date and the time of this place.

use std::fmt::Write as _;

use chrono::format::{Item, StrftimeItems};
use chrono::{Local, NaiveDateTime};

use super::fault::{Fault, Result, fail};

/// The longest format, in bytes.
const MAX_FORMAT: usize = 1000;
/// The directives that chrono and the C library write alike.
const DIRECTIVES: &str = "aAbBcCdDeFGghHIjklmMnpPrRStTuUVwWxXyYf%";

/// `datetime.now().strftime(format)`.
pub(super) fn now(format: &str) -> Result<String> {
    at(format, Local::now().naive_local())
}

/// The same for a local time without a zone, whose `%z` and `%Z` are empty.
fn at(format: &str, time: NaiveDateTime) -> Result<String> {
    if format.len() > MAX_FORMAT {
        return fail(format!("a date format of more than {MAX_FORMAT} bytes"));
    }
    let unknown = || Fault::new(format!("the date format `{}` is not supported", format.escape_debug()));
    let mut pattern = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            pattern.push(c);
            continue;
        }
        let mut directive = chars.next().ok_or_else(unknown)?;
        if matches!(directive, 'z' | 'Z') {
            continue;
        }
        pattern.push('%');
        if directive == '-' {
            directive = chars.next().filter(|c| "dmHIMSjyeklUWV".contains(*c)).ok_or_else(unknown)?;
            pattern.push('-');
        }
        match directive {
            'f' => pattern.push_str("6f"),
            'h' => pattern.push('b'),
            known if DIRECTIVES.contains(known) => pattern.push(known),
            _ => return Err(unknown()),
        }
    }
    let items: Vec<Item> = StrftimeItems::new(&pattern).collect();
    let mut out = String::new();
    write!(out, "{}", time.format_with_items(items.iter())).map_err(|_| unknown())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_c_library_does() {
        let time =
            chrono::NaiveDate::from_ymd_opt(2024, 7, 6).and_then(|date| date.and_hms_micro_opt(9, 5, 3, 42)).unwrap();
        for (format, expected) in [
            ("%d %b %Y", "06 Jul 2024"),
            ("%A, %B %-d, %H:%M:%S", "Saturday, July 6, 09:05:03"),
            ("%Y-%m-%d%z%Z|%%|%f|%j|%p", "2024-07-06|%|000042|188|AM"),
            ("%c|%x|%X", "Sat Jul  6 09:05:03 2024|07/06/24|09:05:03"),
        ] {
            assert_eq!(at(format, time).unwrap(), expected, "{format}");
        }
        for format in ["%Q", "%", "%9999999999d", "%+", "%-Q", &"%Y".repeat(600)] {
            assert!(at(format, time).is_err(), "{format}");
        }
    }
}
