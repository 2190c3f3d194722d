//! What becomes of the tensors of one name.

use mlxlm_core::random::{self, RandomState};
use mlxlm_core::{Array, Dtype, ops};

use super::{MergeConfig, MergeError, Method};
use crate::Result;

/// A merge, worked out for a number of layers.
pub(super) struct Plan<'c> {
    config: &'c MergeConfig,
    /// Slerp: where each layer stands, by the part of a block.
    t: Vec<(Option<&'c str>, Vec<f64>)>,
    /// The weight and the density of each model.
    weighed: Vec<(f64, f64)>,
}

impl<'c> Plan<'c> {
    pub(super) fn new(config: &'c MergeConfig, layers: usize) -> Result<Self, MergeError> {
        for (_, schedule) in &config.t {
            let bins = schedule.0.len().saturating_sub(1);
            if bins > layers {
                let why = format!("`t` has {} values for {layers} layers", schedule.0.len());
                return Err(MergeError::Config { why });
            }
        }
        let t = config.t.iter().map(|(filter, schedule)| (filter.as_deref(), schedule.of_layers(layers))).collect();
        Ok(Self { config, t, weighed: config.weighed() })
    }

    /// The merged tensor, in `f32` or the type of the first. `place` is its layer and its name inside of it.
    pub(super) fn merged(&self, name: &str, place: Option<(usize, &str)>, all: &[&Array]) -> Result<Array> {
        match self.config.method {
            Method::Slerp => {
                // What is in no block stays that of the first model.
                let Some((layer, inside)) = place else { return Ok(all[0].clone()) };
                let part = inside.split('.').next().unwrap_or(inside);
                let found = self.t.iter().find(|(filter, _)| filter.is_none_or(|filter| filter == part));
                slerp(all[0], all[1], found.map_or(0.5, |(_, t)| t[layer]))
            }
            Method::Linear => self.linear(all),
            Method::Ties | Method::DareLinear | Method::DareTies => self.differences(name, all),
        }
    }

    fn linear(&self, all: &[&Array]) -> Result<Array> {
        let sum: f64 = self.weighed.iter().map(|(weight, _)| weight).sum();
        let divisor = if self.config.normalize { sum } else { 1.0 };
        let mut total: Option<Array> = None;
        for (array, (weight, _)) in all.iter().zip(&self.weighed) {
            let part = wide(array)?.multiply(scalar(weight / divisor))?;
            total = Some(match total {
                None => part,
                Some(total) => total.add(part)?,
            });
        }
        Ok(total.unwrap_or_else(|| all[0].clone()))
    }

    fn differences(&self, name: &str, all: &[&Array]) -> Result<Array> {
        let base = wide(all[0])?;
        let (mut parts, mut weights) = (Vec::new(), Vec::new());
        for (i, (array, &(weight, density))) in all.iter().zip(&self.weighed).enumerate().skip(1) {
            let difference = wide(array)?.subtract(&base)?;
            let thinned = match self.config.method {
                Method::Ties => trimmed(&difference, density)?,
                _ => dropped(&difference, density, self.config.seed, name, i)?,
            };
            parts.push(thinned.multiply(scalar(weight))?);
            weights.push(weight);
        }
        let agreeing = match self.config.method {
            Method::DareLinear => None,
            _ => {
                let sign = ops::sign(sum(&parts)?)?;
                Some(
                    parts
                        .iter()
                        .map(|part| ops::sign(part)?.eq(&sign)?.as_dtype(Dtype::Float32))
                        .collect::<Result<Vec<_>, _>>()?,
                )
            }
        };
        let mut total = match &agreeing {
            None => sum(&parts)?,
            Some(masks) => {
                let kept = parts.iter().zip(masks).map(|(part, mask)| part.multiply(mask));
                sum(&kept.collect::<Result<Vec<_>, _>>()?)?
            }
        };
        if self.config.normalize {
            let divisor = match &agreeing {
                None => scalar(weights.iter().sum()),
                Some(masks) => {
                    let weighed = masks.iter().zip(&weights).map(|(mask, &weight)| mask.multiply(scalar(weight)));
                    sum(&weighed.collect::<Result<Vec<_>, _>>()?)?
                }
            };
            // Where no weight is left there is nothing to divide.
            let is_zero = divisor.abs()?.lt(scalar(1e-8))?;
            total = total.divide(ops::select(&is_zero, scalar(1.0), &divisor)?)?;
        }
        Ok(base.add(total.multiply(scalar(self.config.lambda))?)?)
    }
}

fn scalar(number: f64) -> Array {
    Array::from_f32(number as f32)
}

fn wide(array: &Array) -> Result<Array> {
    Ok(array.as_dtype(Dtype::Float32)?)
}

fn sum(parts: &[Array]) -> Result<Array> {
    let mut total = parts.first().cloned().unwrap_or_else(|| scalar(0.0));
    for part in parts.iter().skip(1) {
        total = total.add(part)?;
    }
    Ok(total)
}

/// Along the arc between two tensors, seen as vectors.
fn slerp(first: &Array, second: &Array, t: f64) -> Result<Array> {
    const EPS: f64 = 1e-5;
    if t == 0.0 {
        return Ok(first.clone());
    }
    if t == 1.0 {
        return Ok(second.clone());
    }
    let (a, b) = (wide(first)?, wide(second)?);
    let norm = |x: &Array| ops::sqrt(&ops::square(x)?.sum(None)?);
    let (unit_a, unit_b) = (a.divide(norm(&a)?)?, b.divide(norm(&b)?)?);
    let dot = ops::clip(&unit_a.multiply(&unit_b)?.sum(None)?, (0.0_f32, 1.0_f32))?;
    let theta = ops::acos(&dot)?;
    let sine = theta.add(scalar(EPS))?.sin()?;
    let share = |t: f64| theta.multiply(scalar(t))?.sin()?.divide(&sine);
    Ok(a.multiply(share(1.0 - t)?)?.add(b.multiply(share(t)?)?)?)
}

/// Without all but the greatest: TIES.
fn trimmed(difference: &Array, density: f64) -> Result<Array> {
    let count = difference.size();
    let kept = (density * count as f64) as usize;
    if kept >= count {
        return Ok(difference.clone());
    }
    if kept == 0 {
        return Ok(difference.multiply(scalar(0.0))?);
    }
    let sizes = difference.abs()?.reshape(&[-1])?;
    let place = (count - kept) as i32;
    let least = ops::partition_axis(&sizes, place, 0)?.take_axis(Array::from_int(place), 0)?;
    let mask = difference.abs()?.ge(&least)?.as_dtype(Dtype::Float32)?;
    Ok(difference.multiply(mask)?)
}

/// With a share dropped at random, and the rest scaled up by as much: DARE.
fn dropped(difference: &Array, density: f64, seed: u64, name: &str, model: usize) -> Result<Array> {
    if density >= 1.0 {
        return Ok(difference.clone());
    }
    // Another draw for each tensor of each model, whatever else there is (FNV-1a).
    let bytes = name.bytes().chain([0, model as u8]);
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let key = RandomState::with_seed(seed ^ hash)?.next_key()?;
    let kept = random::bernoulli(&Array::from_f32(density as f32), difference.shape(), &key)?;
    Ok(difference.multiply(kept.as_dtype(Dtype::Float32)?)?.multiply(scalar(1.0 / density))?)
}
