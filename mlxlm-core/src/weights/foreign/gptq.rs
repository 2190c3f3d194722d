//! GPTQ, as `AutoGPTQ`, `GPTQModel` and auto-round pack it: 2, 3, 4 or 8 bits along the inputs.
//!
//! `qweight i32 [in * bits / 32, out]`, `qzeros i32 [G, out * bits / 32]`, `scales f16 [G, out]`, and `g_idx i32 [in]`, the
//! group of each input. Columns of `qweight` are little-endian streams of bits, which is MLX's packing of rows, transposed.
//! The first version of the format stores zeros less one. With act-order (`desc_act`) groups are no runs of inputs, and the
//! matrix becomes dense. Source: `AutoGPTQ`'s `qlinear_cuda_old.py`. The reference reads all as AWQ, and refuses `g_idx`.

use super::ForeignError;
use super::affine::{Integers, act_order};
use super::bits::{codes, integers};
use super::settings::Settings;
use super::work::{Work, check_float, check_shape, misshapen, rows_and_columns, words_of};
use crate::{Array, Dtype, Result};

/// Unpacks every matrix that has a `qweight`, unless they are AWQ's.
pub(super) fn unpack(work: &mut Work, settings: &Settings) -> Result<()> {
    let paths = work.stems(".qweight");
    let ours = settings.packs_as("gptq") || !settings.packs_as("awq") && paths.iter().any(|path| is_gptq(work, path));
    if paths.is_empty() || !ours {
        return Ok(());
    }
    let mut dtype = Dtype::Float16;
    for path in &paths {
        let names = ["qweight", "qzeros", "scales", "g_idx"].map(|part| format!("{path}.{part}"));
        let integers = read(work, &names, settings)?;
        dtype = integers.scales.dtype();
        work.forget(&names.each_ref().map(String::as_str));
        integers.put(work, &format!("{path}.weight"))?;
    }
    // As with AWQ.
    work.cast(dtype)
}

/// Whether a matrix is packed along its inputs, as far as its shapes show.
fn is_gptq(work: &Work, path: &str) -> bool {
    let columns = |part: &str| work.get(&format!("{path}.{part}")).and_then(|array| array.shape().last().copied());
    columns("qweight") == columns("scales")
}

fn read(
    work: &Work,
    [name, zeros_name, scales_name, index_name]: &[String; 4],
    settings: &Settings,
) -> Result<Integers> {
    let (qweight, scales) = (work.need(name, name)?, work.need(scales_name, name)?);
    let words = words_of(name, &qweight)?;
    check_float(scales_name, &scales)?;
    let (rows, output) = rows_and_columns(name, &qweight)?;
    let (groups, _) = rows_and_columns(scales_name, &scales)?;
    if qweight.ndim() != 2 {
        return Err(misshapen(name, &qweight, "[in * bits / 32, out]".into()).into());
    }
    check_shape(scales_name, &scales, &[groups, output], (name, &qweight))?;
    let index = work.get(index_name).map(integers).transpose()?;
    let bits = bits(name, rows, index.as_ref().map(Vec::len), settings)?;
    let input = (i64::from(rows) * 32 / i64::from(bits)) as i32;
    let group_of = match index {
        Some(index) => act_order(index_name, index, input, groups)?,
        None => None,
    };
    check_group(scales_name, &scales, input, settings)?;
    let zeros = match work.get(zeros_name) {
        Some(zeros) => {
            let columns = (i64::from(output) * i64::from(bits) / 32) as i32;
            check_shape(zeros_name, zeros, &[groups, columns], (name, &qweight))?;
            let stored = codes(&words_of(zeros_name, zeros)?, bits)?;
            let less = Array::from_f32(if is_second_version(settings) { 0.0 } else { 1.0 });
            Some(stored.add(less)?.transpose()?)
        }
        None => None,
    };
    Ok(Integers { words: words.transpose()?, bits, scales: scales.transpose()?, zeros, group_of })
}

/// Whether zeros are stored as they are.
fn is_second_version(settings: &Settings) -> bool {
    settings.method.as_deref() == Some("gptq_v2") || settings.text("checkpoint_format") == Some("gptq_v2")
}

/// The bits of a code, by the rows that so many inputs take; without `g_idx`, those of the configuration.
fn bits(name: &str, rows: i32, inputs: Option<usize>, settings: &Settings) -> Result<i32> {
    let refuse = |why| Err(ForeignError::Number { name: name.to_owned(), why }.into());
    let said = settings.number("bits");
    let bits = match inputs {
        Some(inputs) if inputs > 0 => {
            let stream = i64::from(rows) * 32;
            if stream % inputs as i64 != 0 {
                return refuse(format!("{rows} words do not hold {inputs} inputs"));
            }
            stream / inputs as i64
        }
        Some(_) => return refuse("`g_idx` is empty".into()),
        None => said.unwrap_or(4).into(),
    };
    match (said, bits) {
        (Some(said), bits) if i64::from(said) != bits && !settings.has_overrides() => {
            refuse(format!("packed with {bits} bits, config.json says {said}"))
        }
        (_, 2 | 3 | 4 | 8) => Ok(bits as i32),
        _ => refuse(format!("GPTQ with {bits} bits, expected 2, 3, 4 or 8")),
    }
}

/// Holds the groups that there are against those of the configuration.
fn check_group(name: &str, scales: &Array, input: i32, settings: &Settings) -> Result<()> {
    match settings.number("group_size").filter(|&group| group > 0 && !settings.has_overrides()) {
        Some(group) if (i64::from(input) + i64::from(group) - 1) / i64::from(group) != i64::from(scales.dim(0)) => {
            Err(misshapen(name, scales, format!("{} rows, for {input} inputs in groups of {group}", input / group))
                .into())
        }
        _ => Ok(()),
    }
}
