//! Reading numbers and strings from foreign bytes, none of which is believed.

use super::header::Fault;

/// The bytes of a file and how far they were read.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next bytes, which are those of `what`.
    pub(super) fn take(&mut self, length: usize, what: &str) -> Result<&'b [u8], Fault> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            let (at, left) = (self.at, self.left());
            Fault::damaged(format!("{what} at byte {at} takes {length} bytes, and {left} are left"))
        })?;
        self.at += length;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each: one for which there are not enough bytes is refused before
    /// anything is allocated.
    pub(super) fn count(&mut self, least: usize, what: &str) -> Result<usize, Fault> {
        let (at, count) = (self.at, self.u64(what)?);
        let room = self.left() / least.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(Fault::damaged(format!("{what} at byte {at} is {count}, and there is room for {room}"))),
        }
    }

    /// A string of UTF-8 of at most `most` bytes.
    pub(super) fn text(&mut self, most: usize, what: &str) -> Result<String, Fault> {
        let at = self.at;
        let length = self.count(1, &format!("the length of {what}"))?;
        if length > most {
            return Err(Fault::damaged(format!("{what} at byte {at} has {length} bytes, expected at most {most}")));
        }
        let bytes = self.take(length, what)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Fault::damaged(format!("{what} at byte {at} is not UTF-8 ({error})")))?;
        Ok(text.to_owned())
    }
}
