//! The door for checkpoints that other tools packed: what they hold becomes MLX's own packing where that is exact, and plain
//! floats where it is not.
//!
//! [`unpack`] runs before an architecture's rules and knows of no architecture. It looks at the tensors first, since they do
//! not lie: a matrix is packed when the tensors of its packing lie beside it, whatever lists of exceptions the configuration
//! has. The configuration tells apart what looks alike, and gives the method a name in errors.
//!
//! | packing | becomes |
//! | --- | --- |
//! | AWQ, GPTQ, compressed-tensors integers, int8 | affine, with the same codes; dense where groups are no runs of columns |
//! | `BitNet` | affine with 2 bits, with the same codes |
//! | fp8, scaled by tensor, row or block | dense bf16; blocks with powers of two that are MLX's: mxfp8 |
//! | mxfp4, mxfp8 | the same |
//! | NVFP4 | nvfp4 if its second scale goes into the first without rounding, else dense bf16 |
//! | bitsandbytes nf4, fp4, int8 | dense; int8: affine |
//!
//! Scales of activations and of KV caches are dropped: activations stay as they are here. All results are lazy.

mod affine;
mod awq;
mod bitnet;
mod bits;
mod bitsandbytes;
mod compressed;
mod error;
mod fp8;
mod gptq;
mod modelopt;
mod mxfp4;
mod scaled;
mod settings;
mod work;

pub use error::ForeignError;

use serde_json::Value;

use self::settings::Settings;
use self::work::Work;
use super::{Checkpoint, QuantizationConfig, Tensors};
use crate::quant::Mode;
use crate::{Dtype, Result};

/// A checkpoint in the form that models load.
#[derive(Debug)]
pub struct Unpacked {
    /// The tensors: `weight`, `scales` and `biases` of what is packed, by their old paths.
    pub tensors: Tensors,
    /// How they are packed, if any is; this replaces the `quantization_config` of the configuration.
    pub quantization: Option<QuantizationConfig>,
    /// What should be said to the user, one sentence each.
    pub warnings: Vec<String>,
}

/// Unpacks what other tools packed.
///
/// `config` is the whole `config.json`; `hf_quant_config` is the file of that name, where the folder has one. A checkpoint
/// with MLX's own `quantization` passes as it is, and so does one of plain floats, whatever `quantization_config` is left over.
///
/// # Errors
/// [`ForeignError`], with the tensor's name: a method that is not known, a tensor that is missing, of another type or of a
/// shape that does not fit those beside it.
pub fn unpack(checkpoint: Checkpoint, config: &Value, hf_quant_config: Option<&Value>) -> Result<Unpacked> {
    let settings = Settings::read(config, hf_quant_config);
    if let Some(own) = settings.own(config) {
        let quantization = QuantizationConfig::from_model_config(&serde_json::json!({"quantization": own}))?;
        let mut work = Work::new(checkpoint);
        // MLX's quantization leaves the layers of BitNet as they are.
        bitnet::unpack(&mut work, &settings)?;
        return Ok(Unpacked { tensors: work.tensors, quantization: Some(quantization), warnings: Vec::new() });
    }
    let mut work = Work::new(checkpoint);
    if work.holds_packed() {
        settings.refuse_unknown()?;
    }
    for step in [
        gptq::unpack,
        awq::unpack,
        compressed::unpack,
        modelopt::unpack,
        bitsandbytes::unpack,
        bitnet::unpack,
        mxfp4::unpack,
        scaled::unpack,
    ] {
        step(&mut work, &settings)?;
    }
    fp8::without_scales(&mut work)?;
    work.drop_activation_scales(&settings);
    finish(work, &settings)
}

/// What is said of the whole, after all that was found is unpacked.
fn finish(mut work: Work, settings: &Settings) -> Result<Unpacked> {
    let mut quantization = work.quantization();
    if work.widened > 0 {
        work.warnings.push(format!(
            "{} of {} packed matrices have a packing that MLX lacks: they were unpacked and take 16 bits for each weight",
            work.widened, work.unpacked
        ));
    }
    if work.unpacked == 0
        && let Some(method) = &settings.method
    {
        if work.is_packed_for_mlx() {
            quantization = Some(QuantizationConfig {
                default: method.parse().ok().map(Mode::default_scheme),
                ..QuantizationConfig::default()
            });
        } else if let Some(name) = work.first_packed() {
            return Err(ForeignError::NotFound { method: method.clone(), name }.into());
        }
        // Otherwise all are plain floats: the entry is left over from what they were made of.
    }
    Ok(Unpacked { tensors: work.tensors, quantization, warnings: work.warnings })
}

/// Whether a type is that of packed codes.
fn is_codes(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Uint8 | Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Uint32)
}
