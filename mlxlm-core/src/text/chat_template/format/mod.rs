//! Formatting: `%`, `str.format` and the form of numbers.

pub(super) mod braces;
pub(super) mod number;
pub(super) mod percent;
mod spec;

pub(super) use spec::format_value;
