//! 4-bit floats: mxfp4, NVFP4, and the tables of bitsandbytes.

use half::bf16;
use mlxlm_core::quant::Mode;
use serde_json::json;

use super::*;

/// Two codes to a byte, the first in the lower half.
fn pairs(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect()
}

fn power(byte: u8) -> f32 {
    2_f32.powi(i32::from(byte) - 127)
}

#[test]
fn mxfp4_comes_under_several_names() {
    let mut draw = Draw(11);
    let codes = draw.codes(2 * 6 * 64, 16);
    let exponents: Vec<u8> = (0..2 * 6 * 2).map(|_| 120 + draw.below(10) as u8).collect();
    let expected: Vec<f32> = codes.iter().enumerate().map(|(i, &code)| e2m1(code) * power(exponents[i / 32])).collect();
    let check = |tensors: &[Tensor], config| {
        let unpacked = open(tensors, &config).unwrap();
        assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), ["a.scales", "a.weight"]);
        let (got, scheme) = matrix(&unpacked, "a", 64);
        assert_eq!(scheme, Some(Mode::Mxfp4.default_scheme()));
        assert_eq!(unpacked.quantization.unwrap().default, scheme);
        assert_eq!(got, expected);
    };
    let packed = pairs(&codes);
    let gpt_oss = json!({"quantization_config": {"quant_method": "mxfp4"}});
    check(&[bytes("a_blocks", &[2, 6, 2, 16], &packed), bytes("a_scales", &[2, 6, 2], &exponents)], gpt_oss);
    let compressed = json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}});
    check(&[bytes("a.weight_packed", &[12, 32], &packed), bytes("a.weight_scale", &[12, 2], &exponents)], compressed);
    let deepseek = json!({"quantization_config": {
        "quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}});
    let scale = || tensor("a.scale", FileDtype::F8_E8M0, &[12, 2], exponents.clone());
    check(&[tensor("a.weight", FileDtype::I8, &[12, 32], packed.clone()), scale()], deepseek.clone());
    check(&[tensor("a.weight", FileDtype::F4, &[12, 64], packed.clone()), scale()], deepseek);
}

/// NVFP4 codes with scales.
struct Nvfp4 {
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl Nvfp4 {
    fn new(scales: impl Fn(u64) -> u8) -> Self {
        let mut draw = Draw(12);
        let codes = draw.codes(6 * 64, 16);
        Self { codes, scales: (0..6 * 4).map(|_| scales(draw.next())).collect() }
    }

    /// modelopt's tensors, with a factor.
    fn tensors(&self, factor: f32) -> Vec<Tensor> {
        vec![
            bytes("a.weight", &[6, 32], &pairs(&self.codes)),
            float8("a.weight_scale", &[6, 4], &self.scales),
            float32("a.weight_scale_2", &[], &[factor]),
            float32("a.input_scale", &[], &[0.01]),
        ]
    }

    fn exact(&self, i: usize) -> f32 {
        e2m1(self.codes[i]) * e4m3(self.scales[i / 16])
    }
}

#[test]
fn a_factor_goes_into_the_scales_where_they_stay_exact() {
    let config = json!({"quantization_config": {"quant_algo": "NVFP4", "kv_cache_scheme": "FP8", "producer": {}}});
    // Scales from 1/4 to 15.
    let nvfp4 = Nvfp4::new(|draw| 40 + (draw % 48) as u8);
    for (factor, packed) in
        [(1.0, true), (0.25, true), (8.0, true), (64.0, false), (2_f32.powi(-12), false), (0.3, false)]
    {
        let unpacked = open(&nvfp4.tensors(factor), &config).unwrap();
        let (got, scheme) = matrix(&unpacked, "a", 64);
        assert_eq!(scheme, packed.then(|| Mode::Nvfp4.default_scheme()), "{factor}");
        let rounded = |v: f32| if packed { v } else { bf16::from_f32(v).to_f32() };
        assert_eq!(got, (0..384).map(|i| rounded(nvfp4.exact(i) * factor)).collect::<Vec<_>>(), "{factor}");
        let names: &[&str] = if packed { &["a.scales", "a.weight"] } else { &["a.weight"] };
        assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), names);
    }
}

#[test]
fn the_factor_of_compressed_tensors_divides() {
    let config =
        json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}});
    let nvfp4 = Nvfp4::new(|draw| 40 + (draw % 48) as u8);
    let mut tensors = vec![
        bytes("a.weight_packed", &[6, 32], &pairs(&nvfp4.codes)),
        float8("a.weight_scale", &[6, 4], &nvfp4.scales),
        float32("a.weight_global_scale", &[1], &[4.0]),
        float32("a.input_global_scale", &[1], &[3.0]),
    ];
    let (got, scheme) = matrix(&open(&tensors, &config).unwrap(), "a", 64);
    assert_eq!(scheme, Some(Mode::Nvfp4.default_scheme()));
    assert_eq!(got, (0..384).map(|i| nvfp4.exact(i) / 4.0).collect::<Vec<_>>());
    tensors[2] = float32("a.weight_global_scale", &[1], &[3.0]);
    let (got, scheme) = matrix(&open(&tensors, &config).unwrap(), "a", 64);
    assert_eq!(scheme, None);
    let third = |v: f32| bf16::from_f32(v * (1.0 / 3.0)).to_f32();
    assert_eq!(got, (0..384).map(|i| third(nvfp4.exact(i))).collect::<Vec<_>>());
}

#[test]
fn stacks_and_inputs_have_factors_too() {
    let nvfp4 = Nvfp4::new(|draw| 40 + (draw % 48) as u8);
    let factors = [0.3, 0.7, 1.1, 1.3];
    let tensors = [
        bytes("e.gate_up_proj", &[2, 3, 32], &pairs(&nvfp4.codes)),
        float8("e.gate_up_proj_weight_scale", &[2, 3, 4], &nvfp4.scales),
        float32("e.gate_up_proj_weight_scale_2", &[2], &factors[..2]),
        float32("e.gate_up_proj_input_scale", &[], &[1.0]),
    ];
    let config = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}});
    let unpacked = open(&tensors, &config).unwrap();
    let expected = (0..384).map(|i| bf16::from_f32(nvfp4.exact(i) * factors[i / 192]).to_f32()).collect::<Vec<_>>();
    assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), ["e.gate_up_proj"]);
    assert_eq!(values(&unpacked.tensors["e.gate_up_proj"]), expected);
    let mut tensors = nvfp4.tensors(1.0);
    let columns: Vec<f32> = (0..64).map(|j| 1.0 + j as f32 / 64.0).collect();
    tensors.push(bfloat16("a.pre_quant_scale", &[64], &columns));
    let (got, _) = matrix(&open(&tensors, &config).unwrap(), "a", 64);
    let expected = |i: usize| bf16::from_f32(nvfp4.exact(i) * bf16::from_f32(columns[i % 64]).to_f32()).to_f32();
    assert_eq!(got, (0..384).map(expected).collect::<Vec<_>>());
}

#[test]
fn tables_of_bitsandbytes_are_looked_up() {
    let mut draw = Draw(13);
    let (rows, columns, block) = (6, 50, 64);
    let codes = draw.codes(rows * columns, 16);
    let upper_first: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let table: Vec<f32> = (0..16).map(|i| (i as f32 - 7.5) / 7.5).collect();
    let blocks = codes.len().div_ceil(block);
    let largest = draw.scales(blocks);
    let state = |more: Value| {
        let mut state = json!({"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]});
        state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let json = state.to_string().into_bytes();
        bytes("a.weight.quant_state.bitsandbytes__nf4", &[json.len()], &json)
    };
    let check = |tensors: Vec<Tensor>, largest: &dyn Fn(usize) -> f32| {
        let mut tensors = tensors;
        tensors.push(bytes("a.weight", &[codes.len() / 2, 1], &upper_first));
        tensors.push(float32("a.weight.quant_map", &[16], &table));
        let config = json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
        let unpacked = open(&tensors, &config).unwrap();
        assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), ["a.weight"]);
        assert_eq!(unpacked.tensors["a.weight"].shape(), [rows as i32, columns as i32]);
        let expected = |i: usize| bf16::from_f32(table[usize::from(codes[i])] * largest(i / block)).to_f32();
        assert_eq!(values(&unpacked.tensors["a.weight"]), (0..codes.len()).map(expected).collect::<Vec<_>>());
    };
    check(vec![state(json!({})), float32("a.weight.absmax", &[blocks], &largest)], &|block| largest[block]);
    let nested: Vec<f32> = (0..256).map(|i| i as f32 / 256.0).collect();
    let second = draw.codes(blocks, 255);
    let scales = [0.5, 0.75, 1.0];
    check(
        vec![
            state(json!({"nested_blocksize": 2, "nested_offset": 0.125, "nested_dtype": "float32"})),
            bytes("a.weight.absmax", &[blocks], &second),
            float32("a.weight.nested_quant_map", &[256], &nested),
            float32("a.weight.nested_absmax", &[3], &scales),
        ],
        &|block| nested[usize::from(second[block])] * scales[block / 2] + 0.125,
    );
}

#[test]
fn groups_that_do_not_fit_are_named_with_both() {
    let nvfp4 = Nvfp4::new(|_| 56);
    let config = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}});
    let mut tensors = nvfp4.tensors(1.0);
    tensors[1] = float8("a.weight_scale", &[6, 2], &[0; 12]);
    assert_eq!(refused(&tensors, &config), "`a.weight_scale` is [6, 2], expected [6, 4] beside `a.weight` [6, 32]");
    tensors.remove(1);
    assert_eq!(refused(&tensors, &config), "`a.weight_scale` is missing, which belongs to `a.weight_scale_2`");
    let tensors = [bytes("a_blocks", &[2, 3, 2, 15], &[0; 180]), bytes("a_scales", &[2, 3, 2], &[0; 12])];
    assert_eq!(refused(&tensors, &json!({})), "`a_blocks` is [2, 3, 2, 15], expected [.., out, in / 32, 16]");
}
