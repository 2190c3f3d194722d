//! Rounding to floats of 8 and 4 bits and back, in blocks with a scale: what caches held in training.

use mlxlm_core::{nn, stop_gradient};

use crate::prelude::*;

/// The floats of 4 bits, without their sign.
const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Between which neighbours of [`E2M1`] lies what; ties go to the even one.
const BELOW: [f32; 4] = [0.25, 1.25, 2.5, 5.0];
const FROM: [f32; 3] = [0.75, 1.75, 3.5];

/// Cuts rows into blocks of `size`, rounds those and puts them together; rows that are no multiple of it stay as they are. In
/// training the gradient goes past the rounding (arXiv:1308.3432).
fn in_blocks(x: &Array, size: i32, round: impl FnOnce(&Array) -> Result<Array>) -> Result<Array> {
    if x.dim(-1) % size != 0 {
        return Ok(x.clone());
    }
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.extend([-1, size]);
    let blocks = x.as_dtype(Dtype::Float32)?.reshape(&shape)?;
    let mut rounded = round(&blocks)?;
    if nn::is_training() {
        rounded = blocks.add(stop_gradient(rounded.subtract(&blocks)?)?)?;
    }
    Ok(rounded.reshape(x.shape())?.as_dtype(x.dtype())?)
}

/// The largest of each block without its sign, at least `floor`.
fn largest(blocks: &Array, floor: f32) -> Result<Array> {
    Ok(ops::maximum(blocks.abs()?.max_axis(-1, true)?, Array::from_f32(floor))?)
}

/// The power of two that brings `largest` to at most `most`.
fn power_of_two(largest: &Array, most: f32) -> Result<Array> {
    let exponent = ops::ceil(largest.divide(Array::from_f32(most))?.log2()?)?;
    Ok(ops::power(Array::from_f32(2.0), exponent)?)
}

/// To e4m3 with a power of two for each block of 32.
///
/// # Shapes
/// - `x`: `[…, D]`, and the same comes back
pub(crate) fn to_eight_bits(x: &Array) -> Result<Array> {
    const MOST: f32 = 448.0;
    in_blocks(x, 32, |blocks| {
        let scale = power_of_two(&largest(blocks, 1e-4)?, MOST)?;
        let small = ops::clip(blocks.divide(&scale)?, (-MOST, MOST))?;
        Ok(small.to_fp8()?.from_fp8(Dtype::Float32)?.multiply(scale)?)
    })
}

/// To e2m1 with a power of two for each block of 32.
///
/// # Shapes
/// - `x`: `[…, D]`, and the same comes back
pub(crate) fn to_four_bits(x: &Array) -> Result<Array> {
    in_blocks(x, 32, |blocks| {
        let scale = power_of_two(&largest(blocks, 6.0 * f32::MIN_POSITIVE)?, 6.0)?;
        nearest_e2m1(blocks, &scale)
    })
}

/// To e2m1 with a scale in e4m3 for each block of 16.
///
/// # Shapes
/// - `x`: `[…, D]`, and the same comes back
pub(crate) fn to_four_bits_finely(x: &Array) -> Result<Array> {
    in_blocks(x, 16, |blocks| {
        let scale = largest(blocks, 6.0 * (-9.0_f32).exp2())?.divide(Array::from_f32(6.0))?;
        nearest_e2m1(blocks, &scale.to_fp8()?.from_fp8(Dtype::Float32)?)
    })
}

fn nearest_e2m1(blocks: &Array, scale: &Array) -> Result<Array> {
    let small = ops::clip(blocks.divide(scale)?, (-6.0, 6.0))?;
    let size = small.abs()?;
    let mut place = ops::zeros::<i32>(size.shape())?;
    for bound in BELOW {
        place = place.add(size.gt(Array::from_f32(bound))?.as_dtype(Dtype::Int32)?)?;
    }
    for bound in FROM {
        place = place.add(size.ge(Array::from_f32(bound))?.as_dtype(Dtype::Int32)?)?;
    }
    let rounded = Array::from_slice(&E2M1, &[8]).take_axis(place, 0)?;
    Ok(ops::sign(&small)?.multiply(rounded)?.multiply(scale)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(round: fn(&Array) -> Result<Array>, values: &[f32]) -> Vec<f32> {
        let array = Array::from_slice(values, &[1, values.len() as i32]);
        round(&array).unwrap().to_vec_exact::<f32>().unwrap()
    }

    #[test]
    fn what_four_bits_hold_stays_and_the_rest_goes_to_its_neighbour() {
        let mut values = [0.0_f32; 32];
        values[..8].copy_from_slice(&E2M1);
        assert_eq!(rounded(to_four_bits, &values), values);
        values[8..14].copy_from_slice(&[0.25, 0.75, 1.25, 1.75, -2.5, 5.1]);
        assert_eq!(&rounded(to_four_bits, &values)[8..14], &[0.0, 1.0, 1.0, 2.0, -2.0, 6.0]);
        // The largest is brought to six by a scale of eight bits.
        let fine =
            rounded(to_four_bits_finely, &[12.0, 1.0, -3.0, 0.9, 0.0, 2.0, 4.0, 8.0, 0., 0., 0., 0., 0., 0., 0., 0.]);
        assert_eq!(&fine[..8], &[12.0, 1.0, -3.0, 1.0, 0.0, 2.0, 4.0, 8.0]);
    }

    #[test]
    fn eight_bits_keep_three_of_the_fraction() {
        let mut values = [0.0_f32; 32];
        values[..4].copy_from_slice(&[448.0, 1.06, -1.19, 300.0]);
        assert_eq!(&rounded(to_eight_bits, &values)[..4], &[448.0, 1.0, -1.25, 288.0]);
        assert_eq!(rounded(to_eight_bits, &[1.06]), [1.06]);
    }
}
