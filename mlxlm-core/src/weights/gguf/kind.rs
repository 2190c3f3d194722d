//! The types of tensors in GGUF: their numbers, names and the size of their blocks.

use super::header::Fault;

/// The type of a tensor that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the format")]
#[allow(non_camel_case_types, reason = "the names are those of the format")]
pub enum TensorType {
    F32,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    MXFP4,
}

/// Types that are refused, by the number that files have for them.
const REFUSED: [(u32, &str); 17] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
];

impl TensorType {
    /// All types that are read.
    pub const ALL: [Self; 18] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::MXFP4,
    ];

    /// Its number in files, its name, the weights of a block and the bytes of a block.
    const fn facts(self) -> (u32, &'static str, usize, usize) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::BF16 => (30, "BF16", 1, 2),
            Self::I8 => (24, "I8", 1, 1),
            Self::I16 => (25, "I16", 1, 2),
            Self::I32 => (26, "I32", 1, 4),
            Self::I64 => (27, "I64", 1, 8),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2_K => (10, "Q2_K", 256, 84),
            Self::Q3_K => (11, "Q3_K", 256, 110),
            Self::Q4_K => (12, "Q4_K", 256, 144),
            Self::Q5_K => (13, "Q5_K", 256, 176),
            Self::Q6_K => (14, "Q6_K", 256, 210),
            Self::MXFP4 => (39, "MXFP4", 32, 17),
        }
    }

    /// The number that files have for it.
    pub const fn number(self) -> u32 {
        self.facts().0
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.facts().1
    }

    /// The weights that lie in one block; a row is a whole number of blocks.
    pub const fn block(self) -> usize {
        self.facts().2
    }

    /// The bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.facts().3
    }

    /// The type with this number, for the tensor `name`.
    pub(super) fn of(number: u32, name: &str) -> Result<Self, Fault> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.number() == number) {
            return Ok(kind);
        }
        match REFUSED.iter().find(|(refused, _)| *refused == number) {
            Some((_, kind)) => Err(Fault::Unsupported(format!("`{name}` is of the type {kind}"))),
            None => Err(Fault::Unsupported(format!("`{name}` is of the type {number}, which is not known"))),
        }
    }
}
