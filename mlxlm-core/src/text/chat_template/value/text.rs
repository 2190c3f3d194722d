//! Strings, and `Markup`: strings that are safe in HTML.

use std::ops::Deref;
use std::rc::Rc;

use super::super::fault::Result;
use super::super::limits;

/// What a text counts for besides its bytes.
const TEXT: usize = 64;

/// A string.
#[derive(Clone, Debug)]
pub(in super::super) struct Text {
    body: Rc<Body>,
    /// Whether it is markupsafe's `Markup`.
    pub(in super::super) safe: bool,
}

#[derive(Debug)]
struct Body(Box<str>);

impl Drop for Body {
    fn drop(&mut self) {
        limits::release(TEXT + self.0.len());
    }
}

impl Text {
    pub(in super::super) fn new(text: impl Into<Box<str>>) -> Result<Self> {
        let text = text.into();
        limits::hold(TEXT + text.len())?;
        Ok(Self { body: Rc::new(Body(text)), safe: false })
    }

    /// The same text, marked as safe or not.
    pub(in super::super) fn marked(self, safe: bool) -> Self {
        Self { safe, ..self }
    }

    /// Whether both are one object.
    pub(in super::super) fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.body, &other.body)
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.body.0
    }
}
