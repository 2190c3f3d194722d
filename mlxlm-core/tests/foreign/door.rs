//! The door itself: which checkpoints pass as they are, which are refused by name, and where settings are found.

use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::Tensors;
use serde_json::json;

use super::*;

fn dense() -> Vec<Tensor> {
    vec![bfloat16("a.weight", &[2, 2], &[1.0; 4]), bfloat16("a.bias", &[2], &[0.0; 2])]
}

#[test]
fn plain_floats_pass_under_any_method() {
    for method in ["bitsandbytes", "hqq", "fp8", "torchao"] {
        let unpacked = open(&dense(), &json!({"quantization_config": {"quant_method": method}})).unwrap();
        assert_eq!(unpacked.tensors.len(), 2);
        assert_eq!(unpacked.quantization, None);
        assert!(unpacked.warnings.is_empty(), "{:?}", unpacked.warnings);
    }
    let unpacked = open(&dense(), &json!({})).unwrap();
    assert_eq!((unpacked.tensors.len(), unpacked.warnings.len()), (2, 0));
}

#[test]
fn methods_that_are_not_known_are_refused_by_name() {
    let codes = || vec![bytes("a.W_q", &[4, 4], &[0; 16])];
    let check = |settings: Value, expected: &str| {
        let message = refused(&codes(), &json!({"quantization_config": settings}));
        assert_eq!(message, format!("config.json: weights quantized by {expected}"));
    };
    for method in ["hqq", "aqlm", "quip", "vptq", "eetq", "spqr", "quanto", "torchao", "higgs"] {
        check(json!({"quant_method": method}), &format!("`{method}` cannot be loaded"));
    }
    check(json!({"quant_method": "awq", "version": "gemv_fast"}), "`awq` cannot be loaded with `version` `gemv_fast`");
    check(
        json!({"quant_method": "gptq", "checkpoint_format": "marlin"}),
        "`gptq` cannot be loaded with `checkpoint_format` `marlin`",
    );
    check(
        json!({"quant_method": "compressed-tensors", "format": "marlin-24"}),
        "`compressed-tensors` cannot be loaded with `format` `marlin-24`",
    );
    check(
        json!({"quant_method": "compressed-tensors", "version": "0.12.2", "format": "pack-quantized",
            "transform_config": {"config_groups": {"R4": {"type": "hadamard"}}}}),
        "`compressed-tensors` cannot be loaded with `transform_config` `R4`",
    );
    check(
        json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}),
        "`compressed-tensors` cannot be loaded with `sparsity_config` \"sparse-bitmask\"",
    );
    check(json!({"quant_algo": "INT4_AWQ"}), "`modelopt` cannot be loaded with `quant_algo` `INT4_AWQ`");
    let online = json!({"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}});
    assert_eq!(
        refused(&dense(), &online),
        "config.json: weights quantized by `bitnet` cannot be loaded with `quantization_mode` `online`"
    );
}

#[test]
fn a_method_whose_tensors_are_not_there_is_named() {
    let message = refused(&[bytes("a.b", &[2, 2], &[0; 4])], &json!({"quantization_config": {"quant_method": "gptq"}}));
    assert_eq!(message, "config.json names the method `gptq`, but `a.b` is not packed as that method does it");
}

#[test]
fn the_own_packing_passes() {
    let head = json!({"bits": 4, "group_size": 32});
    for config in [json!({"quantization": head, "quantization_config": head}), json!({"quantization_config": head})] {
        let tensors = [words("a.weight", &[2, 4], &[0; 8]), float16("a.scales", &[2, 1], &[1.0; 2])];
        let unpacked = open(&tensors, &config).unwrap();
        assert_eq!(unpacked.quantization.unwrap().default, Some(Scheme::new(Mode::Affine, 4, 32).unwrap()));
        assert_eq!((unpacked.tensors.len(), unpacked.warnings.len()), (2, 0));
    }
    // A method of another tool over tensors that are MLX's.
    let mut tensors = Tensors::new();
    tensors.insert("a.weight".into(), Array::from_slice(&[0_u32; 8], &[2, 4]));
    tensors.insert("a.scales".into(), Array::from_slice(&[0_u8; 2], &[2, 1]));
    let config = json!({"quantization_config": {"quant_method": "mxfp4"}});
    let unpacked = unpack(tensors.into(), &config, None).unwrap();
    assert_eq!(unpacked.quantization.unwrap().default, Some(Mode::Mxfp4.default_scheme()));
}

#[test]
fn the_separate_file_stands_for_a_missing_entry() {
    let tensors = || Tensors::from([("a.W_q".to_owned(), Array::from_slice(&[0_u8; 4], &[2, 2]))]);
    let file = json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A8_AWQ"}});
    let message = unpack(tensors().into(), &json!({}), Some(&file)).unwrap_err().to_string();
    assert_eq!(message, "config.json: weights quantized by `modelopt` cannot be loaded with `quant_algo` `W4A8_AWQ`");
    let config = json!({"quantization_config": {"quant_method": "hqq"}});
    let message = unpack(tensors().into(), &config, Some(&file)).unwrap_err().to_string();
    assert_eq!(message, "config.json: weights quantized by `hqq` cannot be loaded");
}

/// A mixed checkpoint: what is packed is seen by its tensors, and the rest stays.
#[test]
fn each_matrix_is_taken_as_it_is() {
    let config = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}});
    let tensors = [
        bytes("a.weight", &[2, 16], &[0x21; 32]),
        float8("a.weight_scale", &[2, 2], &[56; 4]),
        float32("a.weight_scale_2", &[], &[1.0]),
        float8("b.weight", &[2, 2], &[56; 4]),
        float32("b.weight_scale", &[], &[0.5]),
        float32("b.k_scale", &[], &[0.5]),
        bfloat16("c.weight", &[2, 2], &[1.0; 4]),
        bfloat16("router.scale", &[2], &[1.0; 2]),
        bfloat16("router.weight", &[2, 2], &[1.0; 4]),
    ];
    let unpacked = open(&tensors, &config).unwrap();
    let names = ["a.scales", "a.weight", "b.weight", "c.weight", "router.scale", "router.weight"];
    assert_eq!(unpacked.tensors.keys().collect::<Vec<_>>(), names);
    assert_eq!(values(&unpacked.tensors["b.weight"]), [0.5; 4]);
    assert_eq!(matrix(&unpacked, "a", 32).0, [0.5, 1.0].repeat(32));
    assert_eq!(unpacked.quantization.unwrap().default, Some(Mode::Nvfp4.default_scheme()));
}
