//! The two hashes by which the hub names the bytes of a file.

use std::fmt::Write as _;
use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The hash of a file, which is also its name among the cache's blobs, and its `ETag` on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hash {
    /// SHA-1 over git's blob header and the contents: files that git itself holds.
    Git(String),
    /// SHA-256 of the contents: large files.
    Sha256(String),
}

impl Hash {
    /// The hash that a blob of the cache has for its name, if it is one.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let hash = match name.len() {
            40 => Self::Git(name.to_owned()),
            64 => Self::Sha256(name.to_owned()),
            _ => return None,
        };
        hash.is_sound().then_some(hash)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Git(hex) | Self::Sha256(hex) => hex,
        }
    }

    /// Whether it has as many hexadecimal digits as it should.
    pub(super) fn is_sound(&self) -> bool {
        let digits = match self {
            Self::Git(_) => 40,
            Self::Sha256(_) => 64,
        };
        let hex = self.as_str();
        hex.len() == digits && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }
}

/// Computes a [`enum@Hash`] as the bytes come.
pub(super) enum Hasher {
    Git(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    /// For a file of `size_bytes` that should have the hash `expected`.
    pub(super) fn new(expected: &Hash, size_bytes: u64) -> Self {
        match expected {
            Hash::Git(_) => Self::Git(Sha1::new().chain_update(format!("blob {size_bytes}\0"))),
            Hash::Sha256(_) => Self::Sha256(Sha256::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Git(sha) => sha.update(bytes),
            Self::Sha256(sha) => sha.update(bytes),
        }
    }

    /// Hashes all that is left of `input`, and reports each piece's length.
    pub(super) fn update_all(&mut self, input: &mut impl Read, read: &mut dyn FnMut(u64)) -> io::Result<()> {
        const PIECE_BYTES: usize = 1 << 20;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match input.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.update(&piece[..n]);
                    read(n as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn hex(&self) -> String {
        let digest = match self {
            Self::Git(sha) => sha.clone().finalize().to_vec(),
            Self::Sha256(sha) => sha.clone().finalize().to_vec(),
        };
        digest.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_git_and_sha256sum() {
        let check = |name: &str| {
            let hash = Hash::of_name(name).unwrap();
            let mut hasher = Hasher::new(&hash, 6);
            let mut bytes = 0;
            hasher.update_all(&mut &b"hello\n"[..], &mut |n| bytes += n).unwrap();
            assert_eq!((hasher.hex().as_str(), bytes), (name, 6));
        };
        check("ce013625030ba8dba906f756967f9e9ca394464a");
        check("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        for name in ["", "etag", &"g".repeat(40), &"A".repeat(64)] {
            assert_eq!(Hash::of_name(name), None);
        }
    }
}
