//! Tensors of any type and shape under the names of packings: they are unpacked or refused, and nothing panics.

use mlxlm_core::weights::{Checkpoint, SmallFloat, Tensors};
use mlxlm_core::{Dtype, ops};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NAMES: [&str; 22] = [
    "a.qweight",
    "a.qzeros",
    "a.scales",
    "a.g_idx",
    "a.weight",
    "a.weight_packed",
    "a.weight_scale",
    "a.weight_scale_inv",
    "a.weight_scale_2",
    "a.weight_shape",
    "a.weight_zero_point",
    "a.weight_g_idx",
    "a.weight_global_scale",
    "a.pre_quant_scale",
    "a.scale",
    "a.SCB",
    "a_blocks",
    "a_scales",
    "a.weight.absmax",
    "a.weight.quant_map",
    "a.weight.quant_state.bitsandbytes__nf4",
    "a.input_scale",
];

const TYPES: [Dtype; 8] = [
    Dtype::Uint8,
    Dtype::Int8,
    Dtype::Int32,
    Dtype::Uint32,
    Dtype::Int64,
    Dtype::Float16,
    Dtype::Bfloat16,
    Dtype::Float32,
];

const SIZES: [i32; 14] = [0, 1, 2, 3, 4, 6, 8, 15, 16, 31, 32, 33, 64, 128];

fn named() -> impl Strategy<Value = (usize, usize, Vec<usize>, i32)> {
    (0..NAMES.len(), 0..TYPES.len(), prop::collection::vec(0..SIZES.len(), 0..4), -2..40_i32)
}

fn configs() -> [Value; 8] {
    [
        json!({}),
        json!({"quant_method": "awq", "bits": 4, "group_size": 32}),
        json!({"quant_method": "awq", "version": "gemv", "group_size": 16}),
        json!({"quant_method": "gptq", "bits": 3}),
        json!({"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"num_bits": -7}}}}),
        json!({"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [0, 2_000_000_000]}),
        json!({"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 2_000_000_000]}),
        json!({"quant_method": "bitnet"}),
    ]
}

/// Unpacks, and computes what came out.
fn survives(checkpoint: Checkpoint, settings: &Value) {
    if let Ok(unpacked) = unpack(checkpoint, &json!({"quantization_config": settings}), None) {
        for array in unpacked.tensors.values() {
            drop(array.eval());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_panics(drawn in prop::collection::vec(named(), 1..7), config in 0..8_usize, flags in any::<u32>()) {
        let mut tensors = Tensors::new();
        for (name, dtype, shape, value) in &drawn {
            let shape: Vec<i32> = shape.iter().map(|&size| SIZES[size]).collect();
            let array = ops::broadcast_to(Array::from_int(*value), &shape).unwrap();
            tensors.insert(NAMES[*name].to_owned(), array.as_dtype(TYPES[*dtype]).unwrap());
        }
        let mut checkpoint = Checkpoint::from(tensors);
        let bytes = checkpoint.tensors.iter().filter(|(_, array)| array.dtype() == Dtype::Uint8);
        let kinds = [SmallFloat::E4M3, SmallFloat::E5M2, SmallFloat::E8M0, SmallFloat::E2M1];
        let flagged = bytes.enumerate().filter(|(i, _)| flags >> i & 1 == 1);
        checkpoint.small_floats = flagged.map(|(i, (name, _))| (name.clone(), kinds[(flags as usize + i) % 4])).collect();
        survives(checkpoint, &configs()[config]);
    }

    /// Whole packings with one tensor of another size.
    #[test]
    fn a_wrong_size_is_no_panic(which in 0..4_usize, at in 0..3_usize, axis in 0..2_usize, size in 0..40_i32) {
        let shapes: [[(&str, Dtype, [i32; 2]); 3]; 4] = [
            [("qweight", Dtype::Int32, [64, 2]), ("qzeros", Dtype::Int32, [2, 2]), ("scales", Dtype::Float16, [2, 16])],
            [("qweight", Dtype::Int32, [8, 16]), ("qzeros", Dtype::Int32, [2, 2]), ("scales", Dtype::Float16, [2, 16])],
            [
                ("weight", Dtype::Uint8, [16, 32]),
                ("weight_scale", Dtype::Uint8, [16, 4]),
                ("weight_scale_2", Dtype::Float32, [1, 1]),
            ],
            [
                ("weight_packed", Dtype::Int32, [16, 8]),
                ("weight_scale", Dtype::Bfloat16, [16, 2]),
                ("weight_zero_point", Dtype::Int32, [2, 2]),
            ],
        ];
        let mut tensors = Tensors::new();
        for (i, (name, dtype, mut shape)) in shapes[which].into_iter().enumerate() {
            if i == at {
                shape[axis] = size;
            }
            tensors.insert(format!("a.{name}"), ops::zeros_dtype(&shape, dtype).unwrap());
        }
        for settings in configs() {
            survives(tensors.clone().into(), &settings);
        }
    }
}
