//! Integer packings: AWQ, GPTQ, compressed-tensors, int8, `BitNet`.

use std::path::Path;

use mlxlm_core::quant::Mode;
use mlxlm_core::weights::{SafetensorsFile, Tensors};
use serde_json::{Value, json};

use super::*;

/// Codes `[out, in]` with a scale and a zero for each row and group.
struct Integers {
    out: usize,
    input: usize,
    group: usize,
    bits: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

impl Integers {
    fn new(out: usize, input: usize, group: usize, bits: usize) -> Self {
        let mut draw = Draw((out * input + bits) as u64);
        let groups = input / group;
        Self {
            out,
            input,
            group,
            bits,
            codes: draw.codes(out * input, 1 << bits),
            scales: draw.scales(out * groups),
            zeros: draw.codes(out * groups, 1 << bits),
        }
    }

    fn groups(&self) -> usize {
        self.input / self.group
    }

    /// All zeros in the middle.
    fn symmetric(mut self) -> Self {
        self.zeros.fill(1 << (self.bits - 1));
        self
    }

    /// The weights, where column `j` is in the group `group_of(j)`.
    fn weights_by(&self, group_of: impl Fn(usize) -> usize) -> Vec<f32> {
        let weight = |i: usize| {
            let at = i / self.input * self.groups() + group_of(i % self.input);
            (f32::from(self.codes[i]) - f32::from(self.zeros[at])) * self.scales[at]
        };
        (0..self.codes.len()).map(weight).collect()
    }

    fn weights(&self) -> Vec<f32> {
        self.weights_by(|column| column / self.group)
    }

    fn check(&self, unpacked: &Unpacked, scheme: Option<(i32, i32)>) {
        let (got, packed) = matrix(unpacked, "a", self.input as i32);
        assert_eq!(packed, scheme.map(|(bits, group)| Scheme::new(Mode::Affine, bits, group).unwrap()));
        assert_eq!(unpacked.quantization.as_ref().and_then(|q| q.default), packed);
        same(&got, &self.weights(), &format!("{} bits, groups of {}", self.bits, self.group));
        let left = unpacked.tensors.keys().filter(|name| name.starts_with("a."));
        let expected: &[&str] = if packed.is_some() { &["a.biases", "a.scales", "a.weight"] } else { &["a.weight"] };
        assert_eq!(left.collect::<Vec<_>>(), expected);
    }

    /// Codes of outputs in AWQ's order, for each row.
    fn awq(codes: &[u8]) -> Vec<u32> {
        let order = [0, 2, 4, 6, 1, 3, 5, 7];
        codes.chunks(8).map(|c| (0..8).map(|i| u32::from(c[order[i]]) << (4 * i)).sum()).collect()
    }

    fn as_awq(&self) -> Vec<Tensor> {
        let rows = transpose(&self.codes, self.out);
        let zeros = transpose(&self.zeros, self.out);
        vec![
            words("a.qweight", &[self.input, self.out / 8], &Self::awq(&rows)),
            words("a.qzeros", &[self.groups(), self.out / 8], &Self::awq(&zeros)),
            float16("a.scales", &[self.groups(), self.out], &transpose(&self.scales, self.out)),
        ]
    }

    /// GPTQ with the zeros less `less`, and columns in groups.
    fn as_gptq(&self, less: u8, group_of: impl Fn(usize) -> usize) -> Vec<Tensor> {
        let columns: Vec<u32> = self.codes.chunks(self.input).flat_map(|row| stream(row, self.bits)).collect();
        let zeros = transpose(&self.zeros, self.out);
        let zeros: Vec<u32> = zeros
            .chunks(self.out)
            .flat_map(|row| stream(&row.iter().map(|zero| zero - less).collect::<Vec<_>>(), self.bits))
            .collect();
        let index: Vec<u32> = (0..self.input).map(|column| group_of(column) as u32).collect();
        vec![
            words("a.qweight", &[columns.len() / self.out, self.out], &transpose(&columns, self.out)),
            words("a.qzeros", &[self.groups(), zeros.len() / self.groups()], &zeros),
            float16("a.scales", &[self.groups(), self.out], &transpose(&self.scales, self.out)),
            words("a.g_idx", &[self.input], &index),
        ]
    }

    fn as_compressed(&self) -> Vec<Tensor> {
        let packed: Vec<u32> = self.codes.chunks(self.input).flat_map(|row| stream(row, self.bits)).collect();
        vec![
            words("a.weight_packed", &[self.out, packed.len() / self.out], &packed),
            float16("a.weight_scale", &[self.out, self.groups()], &self.scales),
            integers_64("a.weight_shape", &[self.out as i64, self.input as i64]),
        ]
    }
}

fn awq(bits: i32, group: i32) -> Value {
    json!({"quantization_config": {
        "quant_method": "awq", "bits": bits, "group_size": group, "version": "gemm", "zero_point": true,
        "modules_to_not_convert": ["a"]}})
}

fn gptq(bits: usize, group: i32) -> Value {
    json!({"quantization_config": {
        "quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": "gptq", "desc_act": true}})
}

fn compressed(bits: usize) -> Value {
    json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": bits, "type": "int"}}}}})
}

#[test]
fn awq_keeps_its_codes() {
    for (group, scheme) in
        [(32, Some((4, 32))), (64, Some((4, 64))), (128, Some((4, 128))), (256, Some((4, 128))), (16, None)]
    {
        let integers = Integers::new(24, 256, group, 4);
        integers.check(&open(&integers.as_awq(), &awq(4, group as i32)).unwrap(), scheme);
    }
}

#[test]
fn awq_is_what_the_reference_makes_of_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/foreign/awq.safetensors");
    let all = SafetensorsFile::open(path).unwrap().arrays().unwrap();
    let under = |start: &str| -> Tensors {
        all.iter().filter_map(|(name, array)| Some((name.strip_prefix(start)?.to_owned(), array.clone()))).collect()
    };
    let config = json!({"quantization_config": {"quant_method": "awq", "bits": 4}});
    let got = unpack(under("in.").into(), &config, None).unwrap().tensors;
    let expected = under("out.");
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, array) in &expected {
        assert_eq!((got[name].dtype(), got[name].shape()), (array.dtype(), array.shape()), "{name}");
        assert_eq!(got[name].eq(array).unwrap().all(None).unwrap().try_item_exact::<bool>().ok(), Some(true), "{name}");
    }
}

#[test]
fn awq_by_rows_has_padded_zeros() {
    let integers = Integers::new(16, 128, 32, 4);
    let padded = |values: &[f32]| values.chunks(4).flat_map(|row| [row, &[0.0; 12]].concat()).collect::<Vec<_>>();
    let zeros: Vec<u32> = integers.zeros.chunks(4).flat_map(|row| [stream(row, 4)[0], 0]).collect();
    let tensors = [
        words("a.qweight", &[16, 16], &integers.codes.chunks(128).flat_map(|row| stream(row, 4)).collect::<Vec<_>>()),
        words("a.qzeros", &[16, 2], &zeros),
        float16("a.scales", &[16, 16], &padded(&integers.scales)),
    ];
    let config =
        json!({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "GEMV"}});
    integers.check(&open(&tensors, &config).unwrap(), Some((4, 32)));
}

#[test]
fn all_floats_take_the_type_of_the_scales() {
    let mut tensors = Integers::new(8, 32, 32, 4).as_awq();
    tensors.push(bfloat16("norm.weight", &[2], &[1.0, 2.0]));
    let unpacked = open(&tensors, &awq(4, 32)).unwrap();
    assert_eq!(unpacked.tensors["norm.weight"].dtype(), Dtype::Float16);
    assert_eq!(unpacked.tensors["a.biases"].dtype(), Dtype::Float16);
}

#[test]
fn gptq_keeps_its_codes_in_every_number_of_bits() {
    for bits in [2, 3, 4, 8] {
        for (group, scheme) in [(32, 32), (128, 128), (256, 128)] {
            let mut integers = Integers::new(32, 256, group, bits);
            integers.zeros.iter_mut().for_each(|zero| *zero = (*zero).max(1));
            let unpacked = open(&integers.as_gptq(1, |j| j / group), &gptq(bits, group as i32)).unwrap();
            integers.check(&unpacked, Some((bits as i32, scheme)));
        }
    }
}

#[test]
fn the_second_version_of_gptq_has_zeros_as_they_are() {
    let integers = Integers::new(16, 64, 32, 4);
    let mut config = gptq(4, 32);
    config["quantization_config"]["checkpoint_format"] = "gptq_v2".into();
    integers.check(&open(&integers.as_gptq(0, |j| j / 32), &config).unwrap(), Some((4, 32)));
    let config = json!({"quantization_config": {
        "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32}});
    let integers = integers.symmetric();
    integers.check(&open(&integers.as_gptq(1, |j| j / 32), &config).unwrap(), Some((4, 32)));
    // Without zeros the middle is zero, and without the groups of columns they are runs.
    let mut tensors = integers.as_gptq(1, |j| j / 32);
    tensors.retain(|t| t.name == "a.qweight" || t.name == "a.scales");
    integers.check(&open(&tensors, &config).unwrap(), Some((4, 32)));
}

#[test]
fn act_order_makes_the_matrix_dense() {
    for bits in [2, 3, 4, 8] {
        let mut integers = Integers::new(32, 64, 32, bits);
        integers.zeros.iter_mut().for_each(|zero| *zero = (*zero).max(1));
        let group_of = |column: usize| column * 5 % 7 % 2;
        let unpacked = open(&integers.as_gptq(1, group_of), &gptq(bits, 32)).unwrap();
        assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), ["a.weight"]);
        assert_eq!(unpacked.quantization, None);
        assert_eq!(
            unpacked.warnings,
            [
                "1 of 1 packed matrices have a packing that MLX lacks: they were unpacked and take 16 bits for each weight"
            ]
        );
        same(&values(&unpacked.tensors["a.weight"]), &integers.weights_by(group_of), "act-order");
    }
}

#[test]
fn compressed_tensors_keep_their_codes() {
    for bits in [4, 8] {
        for (group, scheme) in [(32, 32), (128, 128), (256, 128)] {
            let integers = Integers::new(24, 256, group, bits).symmetric();
            let unpacked = open(&integers.as_compressed(), &compressed(bits)).unwrap();
            integers.check(&unpacked, Some((bits as i32, scheme)));
        }
        // Zeros of their own, packed along the rows or as they are, and columns in groups.
        let integers = Integers::new(24, 64, 32, bits);
        let zeros: Vec<u32> = transpose(&integers.zeros, 24).chunks(24).flat_map(|row| stream(row, bits)).collect();
        let rows = zeros.len() / 2;
        let mut tensors = integers.as_compressed();
        tensors.push(words("a.weight_zero_point", &[rows, 2], &transpose(&zeros, 2)));
        integers.check(&open(&tensors, &compressed(bits)).unwrap(), Some((bits as i32, 32)));
        tensors.pop();
        let signed = integers.zeros.iter().map(|zero| zero.wrapping_sub(1 << (bits - 1))).collect();
        tensors.push(tensor("a.weight_zero_point", FileDtype::I8, &[24, 2], signed));
        integers.check(&open(&tensors, &compressed(bits)).unwrap(), Some((bits as i32, 32)));
        tensors.push(words("a.weight_g_idx", &[64], &(0..64).map(|column| column % 2).collect::<Vec<u32>>()));
        let unpacked = open(&tensors, &compressed(bits)).unwrap();
        same(&values(&unpacked.tensors["a.weight"]), &integers.weights_by(|column| column % 2), "act-order");
    }
}

#[test]
fn bytes_with_a_sign_are_affine() {
    let config = json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized"}});
    for group in [128, 64] {
        let integers = Integers::new(12, 128, group, 8).symmetric();
        let signed = integers.codes.iter().map(|code| code ^ 0x80).collect();
        let tensors = [
            tensor("a.weight", FileDtype::I8, &[12, 128], signed),
            bfloat16("a.weight_scale", &[12, 128 / group], &integers.scales),
            bfloat16("a.input_scale", &[1], &[0.5]),
        ];
        integers.check(&open(&tensors, &config).unwrap(), Some((8, group as i32)));
    }
    // bitsandbytes: a row's largest stands for 127.
    let integers = Integers::new(12, 64, 64, 8).symmetric();
    let signed = integers.codes.iter().map(|code| code ^ 0x80).collect();
    let largest: Vec<f32> = integers.scales.iter().map(|scale| scale * 127.0).collect();
    let tensors = [
        tensor("a.weight", FileDtype::I8, &[12, 64], signed),
        float32("a.SCB", &[12], &largest),
        bytes("a.weight_format", &[], &[0]),
    ];
    let config = json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}});
    integers.check(&open(&tensors, &config).unwrap(), Some((8, 64)));
}

#[test]
fn ternary_weights_are_affine_with_two_bits() {
    let (rows, input) = (6, 64);
    let codes = Draw(8).codes(4 * rows * input, 3);
    let packed: Vec<u8> =
        (0..rows * input).map(|i| (0..4).map(|q| codes[q * rows * input + i] << (2 * q)).sum()).collect();
    let named = |class: &str| json!({"quant_method": "bitnet", "linear_class": class});
    let quantized = json!({"bits": 4, "group_size": 64});
    for (path, config, factor) in [
        ("a", json!({"quantization_config": named("bitlinear")}), 1.0 / 0.25),
        ("a", json!({"quantization_config": named("autobitlinear")}), 0.25),
        // The blocks of BitNet's own models are multiplied, and stay so beside what MLX packed.
        ("m.layers.0.a", json!({"model_type": "bitnet", "quantization_config": named("bitlinear")}), 0.25),
        ("a", json!({"model_type": "bitnet", "quantization_config": named("bitlinear")}), 1.0 / 0.25),
        ("m.layers.0.a", json!({"model_type": "bitnet", "quantization": quantized}), 0.25),
    ] {
        let name = |part: &str| format!("{path}.{part}");
        let tensors = [bytes(&name("weight"), &[rows, input], &packed), bfloat16(&name("weight_scale"), &[1], &[0.25])];
        let unpacked = open(&tensors, &config).unwrap();
        let (got, scheme) = matrix(&unpacked, path, input as i32);
        assert_eq!(scheme, Some(Scheme::new(Mode::Affine, 2, 64).unwrap()));
        assert_eq!(got, codes.iter().map(|&code| (f32::from(code) - 1.0) * factor).collect::<Vec<_>>());
    }
}

#[test]
fn numbers_that_do_not_fit_are_named_with_both() {
    let integers = Integers::new(16, 64, 32, 4);
    let check = |tensors: &[Tensor], config: Value, expected: &str| assert_eq!(refused(tensors, &config), expected);
    check(&integers.as_awq(), awq(3, 32), "`a.qweight`: AWQ with 3 bits, there is only 4");
    check(
        &integers.as_awq(),
        awq(4, 64),
        "`a.scales` is [2, 16], expected 1 rows, for groups of 64, beside `a.qweight` [64, 2]",
    );
    check(&integers.as_awq()[..2], awq(4, 32), "`a.scales` is missing, which belongs to `a.qweight`");
    check(
        &integers.as_gptq(0, |j| j / 32),
        awq(4, 32),
        "`a.scales` is [2, 16], expected [2, 128] beside `a.qweight` [8, 16]",
    );
    check(&integers.as_gptq(0, |j| j / 32), gptq(8, 32), "`a.qweight`: packed with 4 bits, config.json says 8");
    check(
        &integers.as_gptq(0, |j| j / 32),
        gptq(4, 16),
        "`a.scales` is [2, 16], expected 4 rows, for 64 inputs in groups of 16",
    );
    check(&integers.as_gptq(0, |j| j / 16), gptq(4, 32), "`a.g_idx`: it names group 2, there are 2");
    let mut tensors = integers.as_gptq(0, |j| j / 32);
    tensors[1] = words("a.qzeros", &[1, 2], &[0; 2]);
    check(&tensors, gptq(4, 32), "`a.qzeros` is [1, 2], expected [2, 2] beside `a.qweight` [8, 16]");
    check(&integers.as_compressed(), compressed(8), "`a.weight_packed`: packed with 4 bits, config.json says 8");
    let mut tensors = integers.as_compressed();
    tensors[1] = bfloat16("a.weight_scale", &[15, 2], &[1.0; 30]);
    check(
        &tensors,
        compressed(4),
        "`a.weight_scale` is [15, 2], expected [16] and groups, beside `a.weight_packed` [16, 8]",
    );
}
