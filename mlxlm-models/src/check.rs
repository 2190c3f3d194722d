//! Looking through the weights of a model for values that no computation survives.
//!
//! A model with such values loads, and answers with nonsense: one of them in a block's way out reaches every logit. Packed
//! matrices are looked at as they are unpacked, since a scale that is not a number spoils its whole group.

use mlxlm_core::{Array, Dtype, Exception, nn};

use crate::{CausalLm, Result};

/// A tensor with values that are not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its name in the checkpoint; that of a packed matrix without `scales` or `biases`.
    pub name: String,
    /// How many values are not numbers (NaN).
    pub nan: u64,
    /// How many values are infinite.
    pub infinite: u64,
    /// How many values there are.
    pub values: u64,
}

/// What [`check`] saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many tensors were looked at, a packed matrix as one.
    pub tensors: u64,
    /// Those with values that are not finite, in the order of the model.
    pub faults: Vec<Fault>,
}

/// Looks at every weight of a model once, one tensor at a time.
pub fn check(model: &dyn CausalLm) -> Result<Checked> {
    let (mut checked, mut result) = (Checked::default(), Ok(()));
    model.walk("", &mut |path, leaf| {
        let mut look = |name: &str, array: Result<Array, Exception>| {
            if result.is_ok() {
                let fault = array.map_err(Into::into).and_then(|array| fault(nn::join(path, name), &array));
                checked.tensors += 1;
                result = fault.map(|fault| checked.faults.extend(fault));
            }
        };
        if let Some(matrix) = leaf.matrix() {
            look("weight", matrix.dense());
        }
        for (name, array) in leaf.others() {
            look(name, Ok(array.clone()));
        }
    });
    Ok(result.map(|()| checked)?)
}

fn fault(name: String, array: &Array) -> mlxlm_core::Result<Option<Fault>> {
    if !array.dtype().is_float() || array.size() == 0 {
        return Ok(None);
    }
    // One pass over most tensors: a sum of zeros is zero unless a value is not finite.
    let zeros = array.multiply(Array::from_f32(0.0).as_dtype(array.dtype())?)?;
    if zeros.sum(None)?.as_dtype(Dtype::Float32)?.try_item_exact::<f32>()? == 0.0 {
        return Ok(None);
    }
    let count = |flags: Array| -> mlxlm_core::Result<u64> {
        Ok(flags.as_dtype(Dtype::Int64)?.sum(None)?.try_item_exact::<i64>()?.unsigned_abs())
    };
    let (nan, infinite) = (count(array.is_nan()?)?, count(array.is_inf()?)?);
    Ok(Some(Fault { name, nan, infinite, values: array.size() as u64 }))
}

#[cfg(test)]
mod tests {
    use mlxlm_core::nn::LeafMut;
    use mlxlm_core::quant::Mode;
    use serde_json::json;

    use super::*;
    use crate::{ModelConfig, build_random};

    fn model() -> Box<dyn CausalLm> {
        let config = json!({
            "model_type": "qwen2", "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        });
        build_random(&ModelConfig::new(config).unwrap(), 1).unwrap().model
    }

    /// The model with some of its values, of all leaves at this path, replaced.
    fn spoiled(at: &str, values: &[f32]) -> Box<dyn CausalLm> {
        let mut model = model();
        model.walk_mut("", &mut |path, leaf| {
            leaf.parameters(path, &mut |name, array| {
                if name == at {
                    let mut all = array.to_vec_exact::<f32>().unwrap();
                    all[..values.len()].copy_from_slice(values);
                    *array = Array::from_slice(&all, array.shape());
                }
            });
        });
        model
    }

    #[test]
    fn a_sound_model_has_no_faults() {
        // A table, a norm, and in each block seven matrices, three biases and two norms.
        assert_eq!(check(&*model()).unwrap(), Checked { tensors: 26, faults: Vec::new() });
    }

    #[test]
    fn values_that_are_not_finite_are_counted_by_name() {
        let name = "model.layers.1.self_attn.q_proj.bias";
        let model = spoiled(name, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX]);
        let fault = Fault { name: name.into(), nan: 2, infinite: 2, values: 64 };
        assert_eq!(check(&*model).unwrap().faults, [fault]);
        let name = "model.embed_tokens.weight";
        let fault = Fault { name: name.into(), nan: 0, infinite: 1, values: 64 * 64 };
        assert_eq!(check(&*spoiled(name, &[f32::INFINITY])).unwrap().faults, [fault]);
    }

    #[test]
    fn a_scale_that_is_no_number_spoils_its_group() {
        let mut model = model();
        model.walk_mut("", &mut |path, mut leaf| {
            let LeafMut::Linear(linear) = &mut leaf else { return };
            if path != "model.layers.0.mlp.up_proj" {
                return;
            }
            linear.weight.quantize(Mode::Affine.default_scheme()).unwrap();
            leaf.parameters(path, &mut |name, array| {
                if name.ends_with(".scales") {
                    let mut scales = array.to_vec_exact::<f32>().unwrap();
                    scales[3] = f32::NAN;
                    *array = Array::from_slice(&scales, array.shape());
                }
            });
        });
        let fault = Fault { name: "model.layers.0.mlp.up_proj.weight".into(), nan: 64, infinite: 0, values: 64 * 64 };
        assert_eq!(check(&*model).unwrap().faults, [fault]);
    }
}
