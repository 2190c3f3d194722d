//! A file of events as TensorBoard reads it: records in the framing of TFRecord, each a protobuf message `Event`
//! (`tensorflow/core/util/event.proto`) with one number.

/// The messages of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFile {
    bytes: Vec<u8>,
}

impl EventFile {
    /// A file that begins with its version, as TensorBoard asks for; times are seconds since 1970.
    pub fn new(wall_time: f64) -> Self {
        let mut file = Self::default();
        let mut event = Vec::new();
        double(&mut event, 1, wall_time);
        bytes(&mut event, 3, b"brain.Event:2");
        file.record(&event);
        file
    }

    /// Adds a number under a tag.
    pub fn push(&mut self, wall_time: f64, step: u64, tag: &str, value: f32) {
        let mut of_value = Vec::new();
        bytes(&mut of_value, 1, tag.as_bytes());
        of_value.push(2 << 3 | 5);
        of_value.extend(value.to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &of_value);
        let mut event = Vec::new();
        double(&mut event, 1, wall_time);
        event.push(2 << 3);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event);
    }

    /// The file so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length, checksum of the length, message, checksum of the message.
    fn record(&mut self, message: &[u8]) {
        let len = (message.len() as u64).to_le_bytes();
        self.bytes.extend(len);
        self.bytes.extend(masked_crc(&len).to_le_bytes());
        self.bytes.extend(message);
        self.bytes.extend(masked_crc(message).to_le_bytes());
    }
}

/// The checksum of TFRecord: CRC-32C, turned and moved, so that a checksum of checksums is no simple one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Reads the numbers of a file back: step, tag, value.
    pub(in crate::report) fn scalars(mut file: &[u8]) -> Vec<(u64, String, f32)> {
        let mut all = Vec::new();
        while !file.is_empty() {
            let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(file[8..12].try_into().unwrap()), masked_crc(&file[..8]));
            let message = &file[12..12 + len];
            assert_eq!(u32::from_le_bytes(file[12 + len..16 + len].try_into().unwrap()), masked_crc(message));
            file = &file[16 + len..];
            // Behind the time: the step, and the summary with one value.
            if message[9] == 2 << 3 {
                let (step, rest) = number(&message[10..]);
                let value = &rest[2..][2..];
                let tag = String::from_utf8(value[2..2 + value[1] as usize].to_vec()).unwrap();
                let at = value.len() - 4;
                all.push((step, tag, f32::from_le_bytes(value[at..].try_into().unwrap())));
            }
        }
        all
    }

    fn number(bytes: &[u8]) -> (u64, &[u8]) {
        let len = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let value = bytes[..len].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
        (value, &bytes[len..])
    }

    #[test]
    fn checksums_are_those_of_tfrecord() {
        // CRC-32C of "123456789" is 0xe3069283 (RFC 3720), masked as in `tensorflow/core/lib/hash/crc32c.h`.
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_come_back() {
        let mut file = EventFile::new(1.5);
        file.push(2.5, 300, "train/loss", 0.25);
        file.push(3.5, 7, "a", -1.0);
        assert_eq!(scalars(file.bytes()), [(300, "train/loss".to_owned(), 0.25), (7, "a".to_owned(), -1.0)]);
    }
}
