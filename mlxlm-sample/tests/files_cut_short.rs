//! A model that is loaded runs on whatever becomes of its files. In a binary of its own, as the system would end it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::OpenOptions;
use std::path::Path;

use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::save_model;
use mlxlm_core::{Dtype, io, nn};
use mlxlm_models::{CausalLm, LoadOptions, ModelConfig, build_random, load_model};
use mlxlm_sample::GenerateOptions;
use mlxlm_sample::engine::{Chooser, Decoding};
use serde_json::json;

/// Writes a model with biases, dense or quantized; the path of its weights.
fn write(folder: &Path, scheme: Option<Scheme>) {
    let mut config = json!({
        "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "attention_bias": true,
        "tie_word_embeddings": false,
    });
    let mut model = build_random(&ModelConfig::new(config.clone()).unwrap(), 3).unwrap().model;
    if let Some(scheme) = scheme {
        model.walk_mut("", &mut |_, mut leaf| {
            leaf.matrix().into_iter().for_each(|matrix| matrix.quantize(scheme).unwrap());
        });
        let Scheme { mode, bits, group_size } = scheme;
        config["quantization"] = json!({"mode": mode.to_string(), "bits": bits, "group_size": group_size});
    }
    let dtype = |array: &mlxlm_core::Array| match array.dtype() {
        Dtype::Float32 => array.as_dtype(Dtype::Bfloat16).unwrap(),
        _ => array.clone(),
    };
    let tensors = nn::parameters(&mut *model).iter().map(|(name, array)| (name.clone(), dtype(array))).collect();
    save_model(folder, tensors, 0).unwrap();
    io::write_json(folder.join("config.json"), &config).unwrap();
}

fn tokens(model: &dyn CausalLm) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::default() };
    let chooser = Chooser::from_options(&options.sampler, &options.processors).unwrap();
    let decoding = Decoding::new(model, &[5, 6, 7], None, chooser, &options).unwrap();
    decoding.map(|token| token.unwrap().id).collect()
}

#[test]
fn a_file_that_is_cut_short_in_place_stops_no_model() {
    let affine = |bits, group_size| Some(Scheme::new(Mode::Affine, bits, group_size).unwrap());
    let schemes = [None, affine(4, 64), affine(3, 32), affine(8, 32), Some(Mode::Mxfp4.default_scheme())];
    for scheme in schemes {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), scheme);
        let mut model = load_model(folder.path(), &LoadOptions::default()).unwrap().0.model;
        nn::arrange(&mut *model).unwrap();
        let expected = tokens(model.as_ref());

        let weights = folder.path().join("model.safetensors");
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains(folder.path().to_str().unwrap()), "{scheme:?}: the file is still mapped");
        OpenOptions::new().write(true).open(&weights).unwrap().set_len(0).unwrap();
        assert_eq!(tokens(model.as_ref()), expected, "{scheme:?}");
    }
}
