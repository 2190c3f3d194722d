//! Integers with scales and zero points, which is what AWQ, GPTQ, compressed-tensors and int8 have in common, as MLX's affine
//! packing.

use super::ForeignError;
use super::bits::{codes, repeat};
use super::work::Work;
use crate::quant::{Mode, Packed, Scheme};
use crate::{Array, Dtype, Result};

/// A matrix of codes without a sign: `w = (code - zero) * scale`, with a scale and a zero for each row and group.
#[derive(Debug)]
pub(super) struct Integers {
    /// Rows as little-endian streams of bits, `u32 [.., out, in * bits / 32]`.
    pub(super) words: Array,
    /// Bits of a code: 2, 3, 4 or 8.
    pub(super) bits: i32,
    /// Floats, `[.., out, G]`.
    pub(super) scales: Array,
    /// `f32 [.., out, G]`; without them the code in the middle is zero.
    pub(super) zeros: Option<Array>,
    /// The group of each column, where groups are no runs of columns.
    pub(super) group_of: Option<Vec<i32>>,
}

/// The groups of the columns as `g_idx` has them, unless they are runs.
pub(super) fn act_order(name: &str, index: Vec<i32>, input: i32, groups: i32) -> Result<Option<Vec<i32>>> {
    if let Some(wrong) = index.iter().find(|&&group| group < 0 || group >= groups) {
        let why = format!("it names group {wrong}, there are {groups}");
        return Err(ForeignError::Number { name: name.to_owned(), why }.into());
    }
    if index.len() as i64 != i64::from(input) {
        let why = format!("it has the groups of {} inputs, there are {input}", index.len());
        return Err(ForeignError::Number { name: name.to_owned(), why }.into());
    }
    let runs = input % groups == 0 && index.iter().zip(0..).all(|(&group, column)| group == column / (input / groups));
    Ok((!runs).then_some(index))
}

impl Integers {
    /// Puts the matrix in: packed if MLX has such groups, else dense in the type of the scales.
    pub(super) fn put(self, work: &mut Work, name: &str) -> Result<()> {
        let refuse = |why| Err(ForeignError::Number { name: name.to_owned(), why }.into());
        let input = self.words.dim(-1).checked_mul(32).map_or(0, |stream| stream / self.bits);
        let groups = self.scales.dim(-1);
        if groups <= 0 || input <= 0 {
            return refuse(format!("rows of {input} weights in {groups} groups"));
        }
        if self.group_of.is_none() && input % groups != 0 {
            return refuse(format!("{groups} groups do not divide rows of {input} weights"));
        }
        // A group that MLX does not have is several that it has, with the same scale.
        let group = input / groups;
        let size = [128, 64, 32].into_iter().find(|size| group % size == 0);
        match size {
            Some(size) if self.group_of.is_none() => {
                let (packed, scheme) = self.pack(group / size, size)?;
                work.put_packed(name, packed, scheme);
            }
            _ if 32 % self.bits != 0 && input % 32 != 0 => {
                return refuse(format!("rows of {input} weights with {} bits are not whole groups of 32", self.bits));
            }
            _ => {
                let weight = self.dense(input, group)?;
                work.put_dense(name, weight);
                work.widened += 1;
            }
        }
        Ok(())
    }

    /// The zeros in `f32`, or the one that all have.
    fn zero_points(&self) -> Array {
        self.zeros.clone().unwrap_or_else(|| Array::from_f32((1 << (self.bits - 1)) as f32))
    }

    fn pack(&self, copies: i32, size: i32) -> Result<(Packed, Scheme)> {
        let biases = self.zero_points().negative()?.multiply(&self.scales)?.as_dtype(self.scales.dtype())?;
        let (mut scales, mut biases) = (self.scales.clone(), biases);
        if copies > 1 {
            (scales, biases) = (repeat(&scales, copies, -1)?, repeat(&biases, copies, -1)?);
        }
        let packed = Packed {
            weight: self.words.contiguous()?,
            scales: scales.contiguous()?,
            biases: Some(biases.contiguous()?),
        };
        Ok((packed, Scheme::new(Mode::Affine, self.bits, size)?))
    }

    fn dense(&self, input: i32, group: i32) -> Result<Array> {
        let group_of = match &self.group_of {
            Some(groups) => groups.clone(),
            None => (0..input).map(|column| column / group).collect(),
        };
        let group_of = Array::from_slice(&group_of, &[input]);
        let by_column = |array: &Array| array.as_dtype(Dtype::Float32)?.take_axis(&group_of, -1);
        let mut codes = codes(&self.words, self.bits)?;
        codes = match &self.zeros {
            Some(zeros) => codes.subtract(by_column(zeros)?)?,
            None => codes.subtract(self.zero_points())?,
        };
        Ok(codes.multiply(by_column(&self.scales)?)?.as_dtype(self.scales.dtype())?)
    }
}
