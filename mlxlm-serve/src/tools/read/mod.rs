//! The readers: one for each family of formats.
//!
//! A reader begins after the marker that starts calls and reads the calls, up to its own closing marker where it has one. What
//! it returns says whether that was read.

pub(super) mod arguments;
pub(super) mod braces;
pub(super) mod headed;
pub(super) mod json;
pub(super) mod pairs;
pub(super) mod python;
pub(super) mod tagged;
pub(super) mod value;

/// How a reader left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// After the closing marker.
    Closed,
    /// Before it, if it comes at all.
    Open,
}

/// Whether a character may stand in a tool's name.
pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':')
}
