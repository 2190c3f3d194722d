//! Parts of a split, as Hugging Face's `datasets` writes them: `train`, `train[:80%]`, `train[-10%:]`, `train[100:200]`.

use std::ops::Range;

use super::DataError;

/// A split and which of its rows are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split<'s> {
    pub(super) name: &'s str,
    from: Option<Bound>,
    to: Option<Bound>,
}

/// A row, counted from the end if it is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Row(i64),
    Percent(i64),
}

impl Bound {
    /// Nothing for an empty text, which leaves that side open.
    fn parse(text: &str) -> Result<Option<Self>, ()> {
        let text = text.trim();
        match text.strip_suffix('%') {
            _ if text.is_empty() => Ok(None),
            None => text.parse().map(|row| Some(Self::Row(row))).map_err(drop),
            Some(percent) => match percent.trim().parse() {
                Ok(percent) if (-100..=100).contains(&percent) => Ok(Some(Self::Percent(percent))),
                _ => Err(()),
            },
        }
    }

    fn of(self, rows: usize) -> usize {
        let row = match self {
            Self::Row(row) => row,
            // Rounded to the nearest row, as there.
            Self::Percent(percent) => (percent as f64 / 100.0 * rows as f64).round() as i64,
        };
        let row = if row < 0 { row.saturating_add(rows as i64) } else { row };
        row.clamp(0, rows as i64) as usize
    }
}

impl<'s> Split<'s> {
    pub(super) fn parse(spec: &'s str) -> Result<Self, DataError> {
        let wrong = |why| DataError::Split { spec: spec.to_owned(), why };
        let Some((name, range)) = spec.split_once('[') else {
            return Ok(Self { name: spec.trim(), from: None, to: None });
        };
        let range = range.trim_end().strip_suffix(']').ok_or_else(|| wrong("the bracket is not closed"))?;
        let (from, to) = range.split_once(':').ok_or_else(|| wrong("the range has no `:`"))?;
        let bound = |text| Bound::parse(text).map_err(|()| wrong("a bound is neither a row nor a percentage"));
        Ok(Self { name: name.trim(), from: bound(from)?, to: bound(to)? })
    }

    /// Which of so many rows are meant.
    pub(super) fn range(&self, rows: usize) -> Range<usize> {
        let from = self.from.map_or(0, |bound| bound.of(rows));
        from..self.to.map_or(rows, |bound| bound.of(rows)).max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_datasets() {
        let range = |spec, rows| Split::parse(spec).map(|split| split.range(rows));
        assert_eq!(range("train", 10).unwrap(), 0..10);
        assert_eq!(range("train[:80%]", 11).unwrap(), 0..9);
        assert_eq!(range("train[-10%:]", 25).unwrap(), 22..25);
        assert_eq!(range("train[2:4]", 10).unwrap(), 2..4);
        assert_eq!(range("train[8:40]", 10).unwrap(), 8..10);
        assert_eq!(range("train[5:2]", 10).unwrap(), 5..5);
        assert_eq!(Split::parse(" test [1:]").unwrap().name, "test");
        for spec in ["train[", "train[3]", "train[a:]", "train[:101%]"] {
            assert!(Split::parse(spec).is_err(), "{spec}");
        }
    }
}
