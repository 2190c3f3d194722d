//! Rotary positions (arXiv:2104.09864) and the ways in which they are stretched to longer sequences.
//!
//! Ports `mlx_lm/models/rope_utils.py` @ 0.32.2. Unusual: the base of `dynamic` follows the length of the current call.
//! Differences, after transformers: `longrope` takes its short factors up to the original length and its long ones beyond
//! (the reference always takes the long ones; so do we where there are no short ones), and yarn acts on `truncate` and
//! `attention_factor`.

use std::f64::consts::PI;

use mlxlm_cache::Offset;
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::{Array, fast, ops};

use crate::config::{Factors, RopeEntries, positive};
use crate::{Common, Error, Result, RopeConfig};

/// What turns a position into angles.
#[derive(Debug, Clone)]
enum Frequencies {
    /// Powers of a base; positions are multiplied by `scale`.
    Base { base: f32, scale: f32 },
    /// As many wavelengths over 2π as there are pairs, `[dims / 2]`, and a factor of the dimensions that are rotated.
    Table(Array, f32),
    /// One table for sequences of at most `original` tokens, and one for longer ones.
    ByLength { short: (Array, f32), long: (Array, f32), original: i32 },
    /// Powers of a base that grows with sequences beyond `max_positions`.
    Dynamic { base: f32, factor: f32, max_positions: f32 },
}

/// How heads learn their position.
#[derive(Debug, Clone)]
pub struct Rope {
    /// The first dimensions of a head, which are rotated; none if zero.
    dims: i32,
    traditional: bool,
    frequencies: Frequencies,
}

impl Rope {
    /// No positions at all.
    pub fn none() -> Self {
        Self::plain(0, 1.0, false)
    }

    /// No positions, whatever the configuration says of rotations.
    pub fn none_of(c: &Common) -> Self {
        c.rope();
        Self::none()
    }

    /// Powers of `base` over the first `dims` dimensions; neighbouring pairs rotate if `traditional`.
    pub fn plain(dims: i32, base: f32, traditional: bool) -> Self {
        Self { dims, traditional, frequencies: Frequencies::Base { base, scale: 1.0 } }
    }

    /// A table of wavelengths over 2π, one for each pair of the first `2 · table.len()` dimensions; a negative one turns the
    /// other way.
    pub fn of_wavelengths(table: &[f64], traditional: bool) -> Self {
        let dims = 2 * table.len() as i32;
        Self { dims, traditional, frequencies: Frequencies::Table(wavelengths_array(table), 1.0) }
    }

    /// As [`plain`](Self::plain) over halves, the other way round.
    pub fn backwards(dims: i32, rope: &RopeConfig) -> Result<Self> {
        if rope.is_scaled() {
            return Err(Error::config(
                "`rope_scaling` is set, which is not supported for a rotation that turns backwards",
            ));
        }
        let table: Vec<f64> = Self::plain(dims, rope.theta(), false).wavelengths().into_iter().map(|w| -w).collect();
        Ok(Self::of_wavelengths(&table, false))
    }

    /// What the configuration says, over the whole head.
    ///
    /// # Errors
    /// A configuration that rotates a part of each head only.
    pub fn from(c: &Common) -> Result<Self> {
        let rope = c.rope();
        match rope.partial() {
            Some(share) if share != 1.0 => Err(Error::config(format!(
                "`partial_rotary_factor` is {share}, and `{}` rotates whole heads",
                c.model_type
            ))),
            _ => Self::over(rope, c.heads()?.dim),
        }
    }

    /// What the configuration says, over its share of each head: `partial_rotary_factor`, all if there is none.
    pub fn partial(c: &Common) -> Result<Self> {
        Self::partial_of(c.rope(), c.heads()?.dim)
    }

    /// As [`partial`](Self::partial), of this configuration and heads of this width.
    pub fn partial_of(rope: &RopeConfig, head_dim: i32) -> Result<Self> {
        Self::share_of(rope, head_dim, rope.partial().unwrap_or(1.0))
    }

    /// As [`partial_of`](Self::partial_of), over this share of each head.
    pub fn share_of(rope: &RopeConfig, head_dim: i32, share: f64) -> Result<Self> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::config(format!("`partial_rotary_factor` is {share}, expected above 0 and at most 1")));
        }
        // `proportional` rotates whole heads, of which a share stands still.
        match rope.entries.kind() {
            "proportional" => Self::over(rope, head_dim),
            _ => Self::over(rope, (f64::from(head_dim) * share) as i32),
        }
    }

    /// What the configuration says for layers that slide, or for those that attend to everything: their own object of
    /// `rope_parameters`, or, for the former, the base `local` without any stretching.
    pub fn of_kind(c: &Common, dims: i32, slides: bool, local: f32) -> Result<Self> {
        let rope = c.rope();
        match (slides, rope.has_types()) {
            (false, _) => Self::over(&rope.of_type("full_attention"), dims),
            (true, true) => Self::over(&rope.of_type("sliding_attention"), dims),
            (true, false) => Ok(Self::plain(dims, local, false)),
        }
    }

    /// What the configuration says, over the first `dims` dimensions of each head.
    pub fn over(rope: &RopeConfig, dims: i32) -> Result<Self> {
        if dims % 2 != 0 || dims < 0 {
            return Err(Error::config(format!(
                "{dims} dimensions of each head are to be rotated, expected an even number"
            )));
        }
        let s = Stretch(&rope.entries);
        let base = rope.theta();
        positive("rope_theta", base)?;
        let plain = Self::plain(dims, base, rope.traditional);
        let frequencies = match rope.entries.kind() {
            "default" | "none" => return Ok(plain),
            "mrope" => match rope.entries.mrope_section.as_ref().map(Vec::len) {
                Some(3) => return Ok(plain),
                _ => return Err(Error::config("`rope_scaling.mrope_section` must have three sections")),
            },
            "linear" => {
                Frequencies::Base { base, scale: (1.0 / Stretch::required("factor", rope.entries.factor)?) as f32 }
            }
            // Hunyuan's way of the same name has the growth of the base as a number.
            "dynamic" if rope.entries.alpha.is_some_and(|alpha| alpha > 0.0) => {
                let growth = rope.entries.alpha.unwrap_or(1.0).powf(f64::from(dims) / f64::from(dims - 2));
                Frequencies::Base { base: (f64::from(base) * growth) as f32, scale: 1.0 }
            }
            "dynamic" => Frequencies::Dynamic {
                base,
                factor: Stretch::required("factor", rope.entries.factor)? as f32,
                max_positions: rope.max_positions.unwrap_or(2048) as f32,
            },
            "llama3" => Frequencies::Table(wavelengths_array(&llama3(&plain.wavelengths(), &s)?), 1.0),
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => {
                let (table, scale) = yarn(&plain, rope, &s)?;
                Frequencies::Table(wavelengths_array(&table), scale)
            }
            "longrope" | "su" => longrope(&plain, rope, &s)?,
            "proportional" => {
                let rotated = (f64::from(dims) * rope.partial().unwrap_or(1.0)) as usize / 2;
                let factor = rope.entries.factor.unwrap_or(1.0);
                let table = plain.wavelengths().into_iter().enumerate();
                let table: Vec<f64> =
                    table.map(|(i, w)| if i < rotated { factor * w } else { f64::INFINITY }).collect();
                Frequencies::Table(wavelengths_array(&table), 1.0)
            }
            other => {
                return Err(Error::config(format!(
                    "`rope_scaling` of the type `{other}` is not known; the types are default, linear, dynamic, llama3, \
                     yarn, longrope, proportional and mrope"
                )));
            }
        };
        Ok(Self { frequencies, ..plain })
    }

    /// The rotation that takes this one back.
    ///
    /// # Errors
    /// Of rotations that change with the length of a sequence.
    pub fn reversed(&self) -> Result<Self> {
        let table = match &self.frequencies {
            Frequencies::Base { scale, .. } => {
                let scale = f64::from(*scale);
                wavelengths_array(&self.wavelengths().iter().map(|w| -w / scale).collect::<Vec<_>>())
            }
            Frequencies::Table(table, 1.0) => table.negative()?,
            _ => return Err(Error::config("`rope_scaling` has a type that cannot be turned back")),
        };
        Ok(Self { frequencies: Frequencies::Table(table, 1.0), ..self.clone() })
    }

    /// The same with positions multiplied by `pace`, if it is not stretched in another way.
    #[must_use]
    pub fn paced(mut self, pace: f32) -> Self {
        if let Frequencies::Base { scale, .. } = &mut self.frequencies {
            *scale *= pace;
        }
        self
    }

    /// The dimensions of each head that are rotated.
    pub fn dims(&self) -> i32 {
        self.dims
    }

    /// # Shapes
    /// - `x`: `[B, heads, L, d]`, and the same comes back
    pub fn forward(&self, x: &Array, offset: &Offset) -> Result<Array> {
        self.turn(x, offset, 1.0)
    }

    /// As [`forward`](Self::forward), with positions multiplied by `pace`.
    pub fn turn(&self, x: &Array, offset: &Offset, pace: f32) -> Result<Array> {
        if self.dims == 0 {
            return Ok(x.clone());
        }
        let (base, scale, table, input_scale) = match &self.frequencies {
            Frequencies::Base { base, scale } => (Some(*base), *scale, None, 1.0),
            Frequencies::Table(table, input_scale) => (None, 1.0, Some(table), *input_scale),
            Frequencies::ByLength { .. } | Frequencies::Dynamic { .. } if matches!(offset, Offset::Tokens(_)) => {
                return Err(Error::packing("its rotation depends on how long a sequence is"));
            }
            Frequencies::ByLength { short, long, original } => {
                let (table, input_scale) = if length(x, offset)? <= *original { short } else { long };
                (None, 1.0, Some(table), *input_scale)
            }
            Frequencies::Dynamic { base, factor, max_positions } => {
                let seen = length(x, offset)? as f32;
                let stretch = factor * seen.max(*max_positions) / max_positions - (factor - 1.0);
                let dims = self.dims as f32;
                (Some(base * stretch.powf(dims / (dims - 2.0))), 1.0, None, 1.0)
            }
        };
        let x = self.scale_input(x, input_scale)?;
        let scale = scale * pace;
        Ok(match offset {
            // Each token becomes a row of one.
            Offset::Tokens(places) => {
                let &[rows, heads, len, dims] = x.shape() else {
                    return Err(Error::packing("positions are not those of heads"));
                };
                let alone = x.transpose_axes(&[0, 2, 1, 3])?.reshape(&[rows * len, heads, 1, dims])?;
                let (places, traditional) = (places.reshape(&[-1])?, self.traditional);
                let turned = fast::rope_dynamic(&alone, self.dims, traditional, base, scale, &places, table)?;
                turned.reshape(&[rows, len, heads, dims])?.transpose_axes(&[0, 2, 1, 3])?
            }
            Offset::Same(offset) => fast::rope(&x, self.dims, self.traditional, base, scale, *offset, table)?,
            Offset::Rows(offsets) => fast::rope_dynamic(&x, self.dims, self.traditional, base, scale, offsets, table)?,
        })
    }

    fn scale_input(&self, x: &Array, scale: f32) -> Result<Array> {
        if scale == 1.0 {
            return Ok(x.clone());
        }
        let scale = Array::from_f32(scale).as_dtype(x.dtype())?;
        if self.dims == x.dim(-1) {
            return Ok(x.multiply(scale)?);
        }
        let rotated = x.try_index((Ellipsis, ..self.dims))?.multiply(scale)?;
        Ok(ops::concatenate(&[rotated, x.try_index((Ellipsis, self.dims..))?], -1)?)
    }

    /// `base^(2i / dims)`: the wavelength of each pair over 2π.
    fn wavelengths(&self) -> Vec<f64> {
        let base = match self.frequencies {
            Frequencies::Base { base, .. } | Frequencies::Dynamic { base, .. } => f64::from(base),
            Frequencies::Table(..) | Frequencies::ByLength { .. } => 1.0,
        };
        let dims = f64::from(self.dims);
        (0..self.dims / 2).map(|i| base.powf(2.0 * f64::from(i) / dims)).collect()
    }
}

fn wavelengths_array(table: &[f64]) -> Array {
    let table: Vec<f32> = table.iter().map(|&w| w as f32).collect();
    Array::from_slice(&table, &[table.len() as i32])
}

/// The length of the longest sequence after this call.
///
/// # Shapes
/// - `x`: `[…, L, d]`
pub(crate) fn length(x: &Array, offset: &Offset) -> Result<i32> {
    let before = match offset {
        Offset::Same(offset) => *offset,
        Offset::Rows(offsets) => {
            offsets.to_vec_cast::<i32>().map_err(mlxlm_core::Error::from)?.into_iter().max().unwrap_or(0)
        }
        Offset::Tokens(places) => {
            let last = places.to_vec_cast::<i32>().map_err(mlxlm_core::Error::from)?.into_iter().max();
            return Ok(last.unwrap_or(0).saturating_add(1));
        }
    };
    Ok(before.saturating_add(x.dim(-2)))
}

/// The numbers of an entry `rope_scaling`.
struct Stretch<'a>(&'a RopeEntries);

impl Stretch<'_> {
    /// A positive number that must be there.
    fn required(key: &str, value: Option<f64>) -> Result<f64> {
        match value {
            None => Err(Error::config(format!("`rope_scaling.{key}` is missing"))),
            Some(_) => positive_or(key, value, 0.0),
        }
    }

    /// The length before stretching, or `default` if nothing names it.
    fn original(&self, default: f64) -> Result<f64> {
        positive_or("original_max_position_embeddings", self.0.original_max_position_embeddings, default)
    }
}

/// A positive number, or `default` if there is none.
fn positive_or(key: &str, value: Option<f64>, default: f64) -> Result<f64> {
    match value.unwrap_or(default) {
        number if number > 0.0 && number.is_finite() => Ok(number),
        number => Err(Error::config(format!("`rope_scaling.{key}` is {number}, expected a positive number"))),
    }
}

/// Llama 3.1: long wavelengths are stretched, short ones are not, and those between are blended.
fn llama3(wavelengths: &[f64], s: &Stretch) -> Result<Vec<f64>> {
    let factor = Stretch::required("factor", s.0.factor)?;
    let low = positive_or("low_freq_factor", s.0.low_freq_factor, 1.0)?;
    let high = positive_or("high_freq_factor", s.0.high_freq_factor, 4.0)?;
    let original = s.original(8192.0)?;
    let stretch = |w: &f64| {
        let length = 2.0 * PI * w;
        if length > original / low {
            w * factor
        } else if length > original / high {
            let smooth = (original / length - low) / (high - low);
            w / ((1.0 - smooth) / factor + smooth)
        } else {
            *w
        }
    };
    Ok(wavelengths.iter().map(stretch).collect())
}

/// `YaRN` (arXiv:2309.00071): a ramp between pairs that turn often and those that hardly turn. The table, and a factor of what
/// is rotated.
fn yarn(plain: &Rope, rope: &RopeConfig, s: &Stretch) -> Result<(Vec<f64>, f32)> {
    let e = s.0;
    let original = s.original(4096.0)?;
    let by_length = rope.max_positions.map(|positions| f64::from(positions) / original);
    let factor =
        Stretch::required("factor", e.factor.or(by_length.filter(|_| e.original_max_position_embeddings.is_some())))?;
    let (dims, base) = (f64::from(plain.dims), f64::from(rope.theta()));
    let pair_of_turns = |turns: f64| dims * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
    let low = pair_of_turns(positive_or("beta_fast", e.beta_fast, 32.0)?);
    let high = pair_of_turns(positive_or("beta_slow", e.beta_slow, 1.0)?);
    let (low, high) = if e.truncate == Some(false) { (low, high) } else { (low.floor(), high.ceil()) };
    let (low, high) = (low.max(0.0), high.min(dims - 1.0));
    let high = if low == high { high + 0.001 } else { high };
    let blend = |(i, &w): (usize, &f64)| {
        let stretched = factor * w;
        let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        stretched * w / (stretched * kept + w * (1.0 - kept))
    };
    let scale = e.attention_factor.unwrap_or_else(|| {
        yarn_mscale(factor, e.mscale.unwrap_or(1.0)) / yarn_mscale(factor, e.mscale_all_dim.unwrap_or(0.0))
    });
    Ok((plain.wavelengths().iter().enumerate().map(blend).collect(), scale as f32))
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Phi's stretching: one factor for each pair, for short and for long sequences, and a factor of what is rotated that grows
/// with the stretch.
fn longrope(plain: &Rope, rope: &RopeConfig, s: &Stretch) -> Result<Frequencies> {
    let e = s.0;
    let original = Stretch::required("original_max_position_embeddings", e.original_max_position_embeddings)?;
    let stretch = f64::from(rope.max_positions.unwrap_or(131_072)) / original;
    let growth = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
    let growth = e.attention_factor.unwrap_or(growth);
    let table = |key: &str, factors: &Factors, mscale: Option<f64>| -> Result<(Array, f32)> {
        let pairs = plain.dims as usize / 2;
        let factors = match factors {
            Factors::One(one) => vec![*one; pairs],
            Factors::Each(list) => list.clone(),
        };
        if factors.len() != pairs || factors.iter().any(|&f| !f.is_finite() || f <= 0.0) {
            let got = factors.len();
            return Err(Error::config(format!(
                "`rope_scaling.{key}` holds {got} numbers, expected {pairs} positive ones"
            )));
        }
        let table: Vec<f64> = plain.wavelengths().iter().zip(&factors).map(|(w, f)| w * f).collect();
        Ok((wavelengths_array(&table), mscale.unwrap_or(growth) as f32))
    };
    let Some(long) = &e.long_factor else { return Err(Error::config("`rope_scaling.long_factor` is missing")) };
    let long = table("long_factor", long, e.long_mscale)?;
    Ok(match &e.short_factor {
        None => Frequencies::Table(long.0, long.1),
        Some(short) => {
            let short = table("short_factor", short, e.short_mscale)?;
            Frequencies::ByLength { short, long, original: original as i32 }
        }
    })
}
