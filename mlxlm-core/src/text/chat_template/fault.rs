//! What stops a template, with its place.

use std::fmt;

/// The outcome of a step of a template.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Why a template stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// An operation failed, as it does in Jinja2, or is one that this engine refuses.
    Failed,
    /// `raise_exception` was called.
    Raised,
    /// A bound on steps, sizes, depth or time.
    Limit,
}

/// An error of a template. It is boxed, so that results stay small.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    cause: Cause,
    line: Option<usize>,
    text: String,
}

impl Fault {
    /// A failed operation.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self::of(Cause::Failed, text.into())
    }

    /// The message of `raise_exception`.
    pub(super) fn raised(text: String) -> Self {
        Self::of(Cause::Raised, text)
    }

    /// A bound that was reached.
    pub(super) fn limit(text: impl Into<String>) -> Self {
        Self::of(Cause::Limit, text.into())
    }

    fn of(cause: Cause, text: String) -> Self {
        Self(Box::new(Inner { cause, line: None, text }))
    }

    /// Notes the line where it happened; the innermost one stays.
    pub(super) fn at(mut self, line: usize) -> Self {
        self.0.line.get_or_insert(line);
        self
    }

    /// Why, where and what.
    pub(super) fn into_parts(self) -> (Cause, Option<usize>, String) {
        let Inner { cause, line, text } = *self.0;
        (cause, line, text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// A failed operation as a result.
pub(super) fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(Fault::new(text))
}
