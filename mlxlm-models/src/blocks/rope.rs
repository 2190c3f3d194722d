//! Rotary positions (arXiv:2104.09864) and the ways in which they are stretched to longer sequences.
//!
//! Ports `mlx_lm/models/rope_utils.py` @ 0.32.2. Unusual: `longrope` always takes the long factors, and the base of
//! `dynamic` follows the length of the current call.

use std::f64::consts::PI;

use mlxlm_cache::Offset;
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::{Array, fast, ops};
use serde_json::Value;

use crate::common::within;
use crate::{Common, Error, Result};

/// What turns a position into angles.
#[derive(Debug, Clone)]
enum Frequencies {
    /// Powers of a base; positions are multiplied by `scale`.
    Base { base: f32, scale: f32 },
    /// As many wavelengths over 2π as there are pairs, `[dims / 2]`.
    Table(Array),
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
    /// Factor of the dimensions that are rotated.
    input_scale: f32,
}

impl Rope {
    /// No positions at all.
    pub fn none() -> Self {
        Self::plain(0, 1.0, false)
    }

    /// Powers of `base` over the first `dims` dimensions; neighbouring pairs rotate if `traditional`.
    pub fn plain(dims: i32, base: f32, traditional: bool) -> Self {
        Self { dims, traditional, frequencies: Frequencies::Base { base, scale: 1.0 }, input_scale: 1.0 }
    }

    /// What the configuration says, over the whole head.
    pub fn from(c: &Common) -> Result<Self> {
        let plain = Self::plain(c.head_dim(), c.rope_theta(), c.rope_traditional);
        match c.rope_scaling.as_ref().or(c.rope_parameters.as_ref()) {
            Some(scaling) => plain.scaled(scaling, c.max_position_embeddings),
            None => Ok(plain),
        }
    }

    /// Stretched as an entry `rope_scaling` says.
    pub fn scaled(self, scaling: &Value, max_positions: Option<i32>) -> Result<Self> {
        let kind =
            scaling.get("type").or_else(|| scaling.get("rope_type")).and_then(Value::as_str).unwrap_or("default");
        if !scaling.is_object() {
            return Err(Error::config("`rope_scaling` is not an object"));
        }
        if let Some(positions) = max_positions {
            within("max_position_embeddings", positions, i32::MAX)?;
        }
        let s = Scaling(scaling);
        match kind {
            "default" => Ok(self),
            "mrope" => match scaling.get("mrope_section").and_then(Value::as_array).map(Vec::len) {
                Some(3) => Ok(self),
                _ => Err(Error::config("`rope_scaling.mrope_section` must have three sections")),
            },
            "linear" => {
                let scale = (1.0 / s.number("factor")?) as f32;
                let base = self.base();
                Ok(Self { frequencies: Frequencies::Base { base, scale }, ..self })
            }
            "dynamic" => {
                let max_positions = max_positions.unwrap_or(2048) as f32;
                let (base, factor) = (self.base(), s.number("factor")? as f32);
                Ok(Self { frequencies: Frequencies::Dynamic { base, factor, max_positions }, ..self })
            }
            "llama3" => {
                let table = llama3(&self.wavelengths(), &s)?;
                Ok(self.with_table(&table))
            }
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => {
                let factor = s.number("factor")?;
                let table = yarn(&self, &s)?;
                let input_scale =
                    yarn_mscale(factor, s.or("mscale", 1.0)?) / yarn_mscale(factor, s.or("mscale_all_dim", 0.0)?);
                Ok(Self { input_scale: input_scale as f32, ..self.with_table(&table) })
            }
            "longrope" | "su" => {
                let original = s.number("original_max_position_embeddings")?;
                self.longrope(scaling, original, max_positions)
            }
            "proportional" => {
                let rotated = (f64::from(self.dims) * s.or("partial_rotary_factor", 1.0)?) as usize / 2;
                let factor = s.or("factor", 1.0)?;
                let table = self.wavelengths().into_iter().enumerate();
                let table =
                    table.map(|(i, w)| if i < rotated { factor * w } else { f64::INFINITY }).collect::<Vec<_>>();
                Ok(self.with_table(&table))
            }
            other => Err(Error::config(format!(
                "`rope_scaling` of the type `{other}` is not known; the types are default, linear, dynamic, llama3, \
                 yarn, longrope, proportional and mrope"
            ))),
        }
    }

    /// Phi's stretching: one factor for each pair, and a factor for the input that grows with the stretch.
    pub fn longrope(self, scaling: &Value, original: f64, max_positions: Option<i32>) -> Result<Self> {
        let factors: Vec<f64> = match scaling.get("long_factor") {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_f64).collect(),
            Some(Value::Number(one)) => vec![one.as_f64().unwrap_or(1.0); self.dims as usize / 2],
            _ => return Err(Error::config("`rope_scaling.long_factor` is missing")),
        };
        if factors.len() != self.dims as usize / 2 || factors.iter().any(|&f| !f.is_finite() || f <= 0.0) {
            let (got, expected) = (factors.len(), self.dims / 2);
            return Err(Error::config(format!(
                "`rope_scaling.long_factor` holds {got} numbers, expected {expected} positive ones"
            )));
        }
        let stretch = f64::from(max_positions.unwrap_or(131_072)) / original;
        let growth = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
        let input_scale = Scaling(scaling).or("long_mscale", growth)? as f32;
        let table: Vec<f64> = self.wavelengths().iter().zip(&factors).map(|(w, f)| w * f).collect();
        Ok(Self { input_scale, ..self.with_table(&table) })
    }

    /// # Shapes
    /// - `x`: `[B, heads, L, d]`, and the same comes back
    pub fn forward(&self, x: &Array, offset: &Offset) -> Result<Array> {
        if self.dims == 0 {
            return Ok(x.clone());
        }
        let x = self.scale_input(x)?;
        let (base, scale, table) = match &self.frequencies {
            Frequencies::Base { base, scale } => (Some(*base), *scale, None),
            Frequencies::Table(table) => (None, 1.0, Some(table)),
            Frequencies::Dynamic { base, factor, max_positions } => {
                let seen = (x.dim(-2) + greatest(offset)?) as f32;
                let stretch = factor * seen.max(*max_positions) / max_positions - (factor - 1.0);
                let dims = self.dims as f32;
                (Some(base * stretch.powf(dims / (dims - 2.0))), 1.0, None)
            }
        };
        Ok(match offset {
            Offset::Same(offset) => fast::rope(&x, self.dims, self.traditional, base, scale, *offset, table)?,
            Offset::Rows(offsets) => fast::rope_dynamic(&x, self.dims, self.traditional, base, scale, offsets, table)?,
        })
    }

    fn scale_input(&self, x: &Array) -> Result<Array> {
        if self.input_scale == 1.0 {
            return Ok(x.clone());
        }
        let scale = Array::from_f32(self.input_scale).as_dtype(x.dtype())?;
        if self.dims == x.dim(-1) {
            return Ok(x.multiply(scale)?);
        }
        let rotated = x.try_index((Ellipsis, ..self.dims))?.multiply(scale)?;
        Ok(ops::concatenate(&[rotated, x.try_index((Ellipsis, self.dims..))?], -1)?)
    }

    fn base(&self) -> f32 {
        match self.frequencies {
            Frequencies::Base { base, .. } | Frequencies::Dynamic { base, .. } => base,
            Frequencies::Table(_) => 1.0,
        }
    }

    /// `base^(2i / dims)`: the wavelength of each pair over 2π.
    fn wavelengths(&self) -> Vec<f64> {
        let (base, dims) = (f64::from(self.base()), f64::from(self.dims));
        (0..self.dims / 2).map(|i| base.powf(2.0 * f64::from(i) / dims)).collect()
    }

    fn with_table(self, table: &[f64]) -> Self {
        let table: Vec<f32> = table.iter().map(|&w| w as f32).collect();
        let frequencies = Frequencies::Table(Array::from_slice(&table, &[table.len() as i32]));
        Self { frequencies, ..self }
    }
}

/// The position of the row that is farthest.
fn greatest(offset: &Offset) -> Result<i32> {
    match offset {
        Offset::Same(offset) => Ok(*offset),
        Offset::Rows(offsets) => {
            Ok(offsets.to_vec_cast::<i32>().map_err(mlxlm_core::Error::from)?.into_iter().max().unwrap_or(0))
        }
    }
}

/// An entry `rope_scaling`.
struct Scaling<'a>(&'a Value);

impl Scaling<'_> {
    /// A positive number that must be there.
    fn number(&self, key: &str) -> Result<f64> {
        match self.0.get(key) {
            None | Some(Value::Null) => Err(Error::config(format!("`rope_scaling.{key}` is missing"))),
            Some(_) => self.positive_or(key, 0.0),
        }
    }

    /// A positive number, or `default` if there is none.
    fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.or(key, default)? {
            number if number > 0.0 => Ok(number),
            number => Err(Error::config(format!("`rope_scaling.{key}` is {number}, expected a positive number"))),
        }
    }

    /// Any number, or `default` if there is none.
    fn or(&self, key: &str, default: f64) -> Result<f64> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                value.as_f64().ok_or_else(|| Error::config(format!("`rope_scaling.{key}` is {value}, not a number")))
            }
        }
    }
}

/// Llama 3.1: long wavelengths are stretched, short ones are not, and those between are blended.
fn llama3(wavelengths: &[f64], s: &Scaling) -> Result<Vec<f64>> {
    let factor = s.number("factor")?;
    let (low, high) = (s.positive_or("low_freq_factor", 1.0)?, s.positive_or("high_freq_factor", 4.0)?);
    let original = s.positive_or("original_max_position_embeddings", 8192.0)?;
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

/// YaRN (arXiv:2309.00071): a ramp between pairs that turn often and those that hardly turn.
fn yarn(rope: &Rope, s: &Scaling) -> Result<Vec<f64>> {
    let factor = s.number("factor")?;
    let original = s.positive_or("original_max_position_embeddings", 4096.0)?;
    let (dims, base) = (f64::from(rope.dims), f64::from(rope.base()));
    let pair_of_turns = |turns: f64| dims * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
    let low = pair_of_turns(s.positive_or("beta_fast", 32.0)?).floor().max(0.0);
    let high = pair_of_turns(s.positive_or("beta_slow", 1.0)?).ceil().min(dims - 1.0);
    let high = if low == high { high + 0.001 } else { high };
    let blend = |(i, &w): (usize, &f64)| {
        let stretched = factor * w;
        let kept = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        stretched * w / (stretched * kept + w * (1.0 - kept))
    };
    Ok(rope.wavelengths().iter().enumerate().map(blend).collect())
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
