//! AWQ, as `AutoAWQ` packs it: four bits, eight codes in each word.
//!
//! `gemm` (and `exllama`, which is stored likewise): `qweight i32 [in, out / 8]` along the outputs in the order
//! 0 2 4 6 1 3 5 7, `qzeros i32 [G, out / 8]` likewise, `scales f16 [G, out]`. `gemv`: `qweight i32 [out, in / 8]` in order,
//! with `qzeros` and `scales` by rows, padded. Source: `AutoAWQ`'s `packing_utils.py` and `gemv.py`; reference:
//! `_transform_awq_weights` in `mlx_lm/utils.py`.

use mlx_rs::ops::indexing::TryIndexOp;

use super::ForeignError;
use super::affine::Integers;
use super::bits::{IN_ORDER, and, byte, codes_at, or, shift_left, shift_right};
use super::settings::Settings;
use super::work::{Work, check_float, check_shape, misshapen, rows_and_columns, words_of};
use crate::{Array, Dtype, Result, ops};

const BITS: i32 = 4;
/// Codes in a word.
const CODES: i32 = 32 / BITS;
/// Where the code of each output lies in its word.
const PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The tensors of one matrix.
struct Matrix<'a> {
    /// The name of `qweight`.
    name: &'a str,
    qweight: Array,
    qzeros: Option<Array>,
    scales: Array,
}

/// Unpacks every matrix that has a `qweight`.
pub(super) fn unpack(work: &mut Work, settings: &Settings) -> Result<()> {
    let paths = work.stems(".qweight");
    if paths.is_empty() {
        return Ok(());
    }
    let by_rows = settings.text("version").is_some_and(|version| version.eq_ignore_ascii_case("gemv"));
    let mut dtype = Dtype::Float16;
    for path in &paths {
        let [name, zeros, scales] = ["qweight", "qzeros", "scales"].map(|part| format!("{path}.{part}"));
        if let Some(bits) = settings.number("bits").filter(|&bits| bits != BITS) {
            return Err(
                ForeignError::Number { name, why: format!("AWQ with {bits} bits, there is only {BITS}") }.into()
            );
        }
        let matrix = Matrix {
            name: &name,
            qweight: work.need(&name, &name)?,
            qzeros: work.get(&zeros).cloned(),
            scales: work.need(&scales, &name)?,
        };
        check_float(&scales, &matrix.scales)?;
        dtype = matrix.scales.dtype();
        let integers = if by_rows { matrix.by_rows(settings) } else { matrix.by_columns(settings) }?;
        work.forget(&[&name, &zeros, &scales]);
        integers.put(work, &format!("{path}.weight"))?;
    }
    // As in the reference: a model of this kind computes in the type of its scales.
    work.cast(dtype)
}

impl Matrix<'_> {
    /// The layout of `gemm`.
    fn by_columns(&self, settings: &Settings) -> Result<Integers> {
        let words = words_of(self.name, &self.qweight)?;
        let (input, columns) = rows_and_columns(self.name, &words)?;
        let (groups, output) = rows_and_columns(&self.beside("scales"), &self.scales)?;
        if words.ndim() != 2 || input % CODES != 0 {
            return Err(misshapen(self.name, &words, format!("[in, out / {CODES}], in a multiple of {CODES}")).into());
        }
        if Some(output) != columns.checked_mul(CODES) {
            return Err(self.misfit(&format!("[{groups}, {}]", i64::from(columns) * i64::from(CODES))));
        }
        self.check_group(input, groups, settings)?;
        let zeros = match &self.qzeros {
            Some(zeros) => {
                check_shape(&self.beside("qzeros"), zeros, &[groups, columns], (self.name, &self.qweight))?;
                Some(codes_at(&words_of(&self.beside("qzeros"), zeros)?, BITS, &PLACES)?.transpose()?)
            }
            None => None,
        };
        let words = transpose_codes(&words, input, columns)?;
        Ok(Integers { words, bits: BITS, scales: self.scales.transpose()?, zeros, group_of: None })
    }

    /// The layout of `gemv`, whose zeros and scales are padded to whole words.
    fn by_rows(&self, settings: &Settings) -> Result<Integers> {
        let words = words_of(self.name, &self.qweight)?;
        let (output, columns) = rows_and_columns(self.name, &words)?;
        let (rows, padded) = rows_and_columns(&self.beside("scales"), &self.scales)?;
        let input = columns.checked_mul(CODES).unwrap_or(0);
        let group = settings.number("group_size").filter(|&group| group > 0).unwrap_or(128);
        let groups = input / group;
        if words.ndim() != 2 || rows != output || padded < groups || input % group != 0 {
            return Err(self.misfit(&format!("[{output}, {groups}] or wider")));
        }
        let zeros = match &self.qzeros {
            Some(zeros) => {
                let name = self.beside("qzeros");
                check_shape(&name, zeros, &[output, padded / CODES], (self.name, &self.qweight))?;
                Some(codes_at(&words_of(&name, zeros)?, BITS, &IN_ORDER[..8])?.try_index((.., ..groups))?)
            }
            None => None,
        };
        let scales = self.scales.try_index((.., ..groups))?;
        Ok(Integers { words, bits: BITS, scales, zeros, group_of: None })
    }

    fn beside(&self, part: &str) -> String {
        format!("{}{part}", self.name.trim_end_matches("qweight"))
    }

    /// The error for scales that do not fit.
    fn misfit(&self, expected: &str) -> crate::Error {
        let expected = format!("{expected} beside `{}` {:?}", self.name, self.qweight.shape());
        misshapen(&self.beside("scales"), &self.scales, expected).into()
    }

    /// Holds the groups that there are against those of the configuration.
    fn check_group(&self, input: i32, groups: i32, settings: &Settings) -> Result<()> {
        match settings.number("group_size").filter(|&group| group > 0 && !settings.has_overrides()) {
            Some(group) if i64::from(group) * i64::from(groups) != i64::from(input) => {
                Err(self.misfit(&format!("{} rows, for groups of {group},", input / group)))
            }
            _ => Ok(()),
        }
    }
}

/// Words along the outputs as words along the inputs: `u32 [in, out / 8]` in AWQ's order to `u32 [out, in / 8]`.
///
/// Bytes are paired, so that nothing grows on the way: the codes of an even and an odd input go into one byte.
fn transpose_codes(words: &Array, input: i32, columns: i32) -> Result<Array> {
    let bytes = words.view_dtype(Dtype::Uint8)?.reshape(&[input / 2, 2, columns, 2, 2])?;
    let (even, odd) = (bytes.try_index((.., 0))?, bytes.try_index((.., 1))?);
    let (low, high, four) = (byte(0x0F), byte(0xF0), byte(4));
    let first = or(&and(&even, &low)?, &shift_left(&and(&odd, &low)?, &four)?)?;
    let second = or(&shift_right(&even, &four)?, &and(&odd, &high)?)?;
    // Output 4 a + 2 b + c of a word lies in half b of its byte 2 c + a.
    let both = ops::stack(&[first, second], 2)?;
    let rows = both.transpose_axes(&[1, 4, 2, 3, 0])?.reshape(&[columns * CODES, input / 2])?;
    Ok(rows.contiguous()?.view_dtype(Dtype::Uint32)?)
}
