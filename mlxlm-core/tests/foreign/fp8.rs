//! 8-bit floats: scales of every shape, powers of two, and floats without a scale.

use half::bf16;
use mlxlm_core::Dtype;
use mlxlm_core::quant::Mode;
use serde_json::{Value, json};

use super::*;

/// A matrix of 8-bit floats `[rows, columns]` whose element `(i, j)` is multiplied by `scale(i, j)`, as bf16.
fn check(config: &Value, shape: [usize; 2], scale: Tensor, of: impl Fn(usize, usize) -> f32) {
    let codes = finite(&mut Draw(3), shape[0] * shape[1]);
    let at = (shape, scale.name.clone(), scale.shape.clone());
    let unpacked = open(&[float8("a.weight", &shape, &codes), scale], config).unwrap();
    assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), ["a.weight"], "{at:?}");
    assert_eq!((unpacked.quantization, unpacked.warnings), (None, vec![]), "{at:?}");
    let weight = &unpacked.tensors["a.weight"];
    assert_eq!((weight.dtype(), weight.shape()), (Dtype::Bfloat16, &[shape[0] as i32, shape[1] as i32][..]), "{at:?}");
    let expected = |i: usize| bf16::from_f32(e4m3(codes[i]) * of(i / shape[1], i % shape[1])).to_f32();
    same(&values(weight), &(0..codes.len()).map(expected).collect::<Vec<_>>(), &format!("{at:?}"));
}

fn blocks_of(rows: usize, columns: usize) -> Value {
    json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [rows, columns]}})
}

#[test]
fn blocks_are_cut_off_at_the_edges() {
    let scales = Draw(1).scales(64).into_iter().map(|s| s * 0.37).collect::<Vec<_>>();
    for (shape, block) in [([256_usize, 128], 128), ([129, 130], 128), ([7, 5], 128), ([70, 33], 16), ([64, 64], 8)] {
        let grid = [shape[0].div_ceil(block), shape[1].div_ceil(block)];
        let scale = float32("a.weight_scale_inv", &grid, &scales[..grid[0] * grid[1]]);
        check(&blocks_of(block, block), shape, scale, |i, j| scales[i / block * grid[1] + j / block]);
    }
}

#[test]
fn a_tensor_a_row_and_a_column_may_have_a_scale() {
    let scales = Draw(2).scales(64).into_iter().map(|s| s * 0.37).collect::<Vec<_>>();
    let config = json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}});
    let scale = |shape: &[usize]| float32("a.weight_scale", shape, &scales[..shape.iter().product()]);
    check(&config, [12, 40], scale(&[]), |_, _| scales[0]);
    check(&config, [12, 40], scale(&[1]), |_, _| scales[0]);
    check(&config, [12, 40], scale(&[12, 1]), |i, _| scales[i]);
    check(&config, [12, 40], scale(&[12]), |i, _| scales[i]);
    check(&config, [40, 40], scale(&[40]), |i, _| scales[i]);
    check(&config, [12, 40], scale(&[1, 40]), |_, j| scales[j]);
    // Blocks whose size nobody says, as modelopt leaves them.
    check(&json!({}), [12, 40], scale(&[3, 1, 5, 1]), |i, j| scales[i / 4 * 5 + j / 8]);
    check(&json!({}), [12, 40], scale(&[3, 5]), |i, j| scales[i / 4 * 5 + j / 8]);
}

#[test]
fn scales_of_one_byte_are_powers_of_two() {
    let exponents: Vec<u8> = vec![120, 127, 130, 0, 1, 125];
    let power = |byte: u8| if byte == 0 { 2_f32.powi(-127) } else { 2_f32.powi(i32::from(byte) - 127) };
    let scale = tensor("a.scale", FileDtype::F8_E8M0, &[2, 3], exponents.clone());
    check(&blocks_of(128, 128), [200, 300], scale, |i, j| power(exponents[i / 128 * 3 + j / 128]));
}

/// Blocks of 32 by 32, or rows by 32, with powers of two: the codes stay.
#[test]
fn powers_of_two_over_32_columns_are_mxfp8() {
    let config = json!({"quantization_config": {
        "quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]}});
    let codes = finite(&mut Draw(4), 40 * 64);
    for (rows, as_floats) in [(2, false), (2, true), (40, false)] {
        let exponents: Vec<u8> = (0..rows * 2).map(|i| 120 + (i % 9) as u8).collect();
        let powers: Vec<f32> = exponents.iter().map(|&e| 2_f32.powi(i32::from(e) - 127)).collect();
        let scale = match as_floats {
            true => float32("a.weight_scale_inv", &[rows, 2], &powers),
            false => bytes("a.weight_scale_inv", &[rows, 2], &exponents),
        };
        let unpacked = open(&[float8("a.weight", &[40, 64], &codes), scale], &config).unwrap();
        let (got, scheme) = matrix(&unpacked, "a", 64);
        assert_eq!(scheme, Some(Mode::Mxfp8.default_scheme()));
        assert_eq!(unpacked.quantization.unwrap().default, scheme);
        let power = |i: usize| powers[i / 64 / (40_usize.div_ceil(rows).next_power_of_two()) * 2 + i % 64 / 32];
        assert_eq!(got, (0..codes.len()).map(|i| e4m3(codes[i]) * power(i)).collect::<Vec<_>>());
    }
    // The same blocks with a scale that is none: dense.
    let scales = [0.3, 0.5, 0.25, 1.0];
    check(&config, [40, 64], float32("a.weight_scale_inv", &[2, 2], &scales), |i, j| scales[i / 32 * 2 + j / 32]);
}

#[test]
fn stacks_have_a_scale_for_each_matrix_or_its_blocks() {
    let config = json!({"text_config": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 8]}}});
    let codes = finite(&mut Draw(5), 3 * 8 * 16);
    let scales = Draw(6).scales(12);
    let check = |shape: &[usize], of: &dyn Fn(usize, usize, usize) -> f32| {
        let count = shape.iter().product();
        let tensors = [
            float8("e.down_proj", &[3, 8, 16], &codes),
            float32("e.down_proj_scale_inv", shape, &scales[..count]),
            float32("e.down_proj_activation_scale", &[], &[0.5]),
        ];
        let unpacked = open(&tensors, &config).unwrap();
        assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), ["e.down_proj"]);
        let expected = (0..codes.len()).map(|i| e4m3(codes[i]) * of(i / 128, i / 16 % 8, i % 16));
        assert_eq!(values(&unpacked.tensors["e.down_proj"]), expected.collect::<Vec<_>>(), "{shape:?}");
    };
    check(&[3], &|e, _, _| scales[e]);
    check(&[3, 1, 1], &|e, _, _| scales[e]);
    check(&[3, 2, 2], &|e, i, j| scales[e * 4 + i / 4 * 2 + j / 8]);
}

#[test]
fn floats_without_a_scale_are_floats() {
    let codes: Vec<u8> = (0..=255_u8).filter(|code| code & 0x7C != 0x7C).collect();
    let five = |code: u8| f16::from_bits(u16::from(code) << 8).to_f32();
    let tensors = [
        tensor("five.weight", FileDtype::F8_E5M2, &[2, codes.len() / 2], codes.clone()),
        float8("four.weight", &[4, 2], &[0, 1, 8, 126, 128, 129, 136, 254]),
    ];
    let unpacked = open(&tensors, &json!({})).unwrap();
    assert_eq!(values(&unpacked.tensors["five.weight"]), codes.iter().map(|&c| five(c)).collect::<Vec<_>>());
    let four = [0, 1, 8, 126, 128, 129, 136, 254].map(e4m3);
    assert_eq!(values(&unpacked.tensors["four.weight"]), four);
}

#[test]
fn a_scale_that_does_not_fit_is_named_with_both_shapes() {
    let codes = finite(&mut Draw(7), 200 * 8);
    let weight = || float8("a.weight", &[200, 8], &codes);
    let scale = |shape: &[usize]| float32("a.weight_scale_inv", shape, &vec![1.0; shape.iter().product()]);
    assert_eq!(
        refused(&[weight(), scale(&[3, 1])], &blocks_of(128, 128)),
        "`a.weight_scale_inv` is [3, 1], expected one number for each block of 128 by 128 of `a.weight` [200, 8]"
    );
    assert_eq!(
        refused(&[scale(&[2, 1])], &blocks_of(128, 128)),
        "`a.weight` is missing, which belongs to `a.weight_scale_inv`"
    );
    let dense = bfloat16("a.weight", &[2, 2], &[0.0; 4]);
    assert_eq!(
        refused(&[dense, scale(&[1, 1])], &blocks_of(128, 128)),
        "`a.weight` is of the type Bfloat16, expected bytes"
    );
}
