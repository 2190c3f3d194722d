//! What a leaf is worth, said where it is loaded: how it is cut across devices, how far it may be packed, and whether it
//! keeps its type. Sharding, quantizing and casting are walks that read it.

use std::ops::Range;

/// How a weight is cut when a model is spread over several devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Every device has all of it.
    #[default]
    Whole,
    /// Each device has some of the outputs, and goes on with those: projections into heads and into an MLP.
    Columns,
    /// Each device has some of the inputs, and the results are added up: projections out of heads and out of an MLP.
    Rows,
}

/// How far `convert -q` may pack a weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the user asks.
    #[default]
    Any,
    /// To 8 bits at most: routers, whose choices a few bits would turn.
    Eight,
    /// Not at all.
    Dense,
}

/// The most pieces that the outputs of one weight may lie in.
pub const MAX_PIECES: usize = 4;

/// What a leaf is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Worth {
    /// How it is cut.
    pub role: Role,
    /// Outputs that are cut each by itself, such as queries, keys and values of one projection: how many there are of each, in
    /// order. Without any, all outputs are cut as one.
    pub pieces: [i32; MAX_PIECES],
    /// How far it may be packed.
    pub precision: Precision,
    /// Whether it keeps its type when a model is cast to another: correction biases, decay rates.
    pub pinned: bool,
}

impl Worth {
    /// Which places along the axis that is cut, of `size`, a device has: that with this number, of so many. Every device has all of
    /// what is not cut.
    #[expect(clippy::single_range_in_vec_init, reason = "a list of ranges, of which there may be one")]
    pub fn part(&self, size: i32, device: i32, devices: i32) -> Vec<Range<i32>> {
        let share = |start: i32, size: i32| {
            let at = |device: i32| start + (i64::from(size) * i64::from(device) / i64::from(devices.max(1))) as i32;
            at(device)..at(device + 1)
        };
        match self.role {
            Role::Whole => vec![0..size],
            Role::Columns if self.pieces.iter().sum::<i32>() == size => {
                let starts = self.pieces.iter().scan(0, |end, piece| {
                    *end += piece;
                    Some(*end - piece)
                });
                starts
                    .zip(self.pieces)
                    .filter(|(_, piece)| *piece > 0)
                    .map(|(start, piece)| share(start, piece))
                    .collect()
            }
            Role::Columns | Role::Rows => vec![share(0, size)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of ranges, of which there may be one")]
    fn devices_share_each_piece_and_all_of_it() {
        let worth = Worth { role: Role::Columns, pieces: [8, 4, 4, 0], ..Worth::default() };
        assert_eq!(worth.part(16, 0, 2), [0..4, 8..10, 12..14]);
        assert_eq!(worth.part(16, 1, 2), [4..8, 10..12, 14..16]);
        assert_eq!(Worth { role: Role::Rows, ..worth }.part(16, 1, 2), [8..16]);
        assert_eq!(Worth { role: Role::Whole, ..worth }.part(16, 1, 2), [0..16]);
        for devices in 1..6 {
            let all: Vec<i32> = (0..devices).flat_map(|device| worth.part(16, device, devices)).flatten().collect();
            assert_eq!(all.len(), 16, "{devices}");
        }
    }
}
