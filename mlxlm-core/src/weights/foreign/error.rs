//! What can be wrong with a checkpoint that another tool packed.

use crate::weights::WeightsError;
use crate::{Dtype, Error, Hint};

/// Why a packed checkpoint cannot be loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// The method, or a variety of it, is not known.
    #[error("config.json: weights quantized by `{method}` cannot be loaded{}", varied(.variety.as_ref()))]
    Method {
        /// The method as the configuration names it.
        method: String,
        /// The entry that makes it one that is not known, and its value.
        variety: Option<(&'static str, String)>,
    },
    /// The configuration names a method, and there are packed tensors, but none as the method names them.
    #[error("config.json names the method `{method}`, but `{name}` is not packed as that method does it")]
    NotFound {
        /// The method.
        method: String,
        /// The first tensor that holds integers.
        name: String,
    },
    /// A tensor of a packed matrix is not there.
    #[error("`{name}` is missing, which belongs to `{beside}`")]
    Missing {
        /// The tensor.
        name: String,
        /// The tensor that needs it.
        beside: String,
    },
    /// A tensor has a shape that does not fit another one or the configuration.
    #[error("`{name}` is {got:?}, expected {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<i32>,
        /// The shape, and what asks for it.
        expected: String,
    },
    /// A tensor has a type in which its packing does not come.
    #[error("`{name}` is of the type {got:?}, expected {expected}")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        got: Dtype,
        /// The types that it may have.
        expected: &'static str,
    },
    /// A number of the packing is none that can be loaded.
    #[error("`{name}`: {why}")]
    Number {
        /// The tensor.
        name: String,
        /// Which number, and which there may be.
        why: String,
    },
}

fn varied(variety: Option<&(&'static str, String)>) -> String {
    variety.map_or_else(String::new, |(key, value)| format!(" with `{key}` {value}"))
}

impl From<ForeignError> for Error {
    fn from(error: ForeignError) -> Self {
        Self::Weights(WeightsError::Foreign(error))
    }
}

impl Hint for ForeignError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Method { .. } => {
                "take the model in 16 bits, or quantized by mlx-lm, AWQ, GPTQ, compressed-tensors, modelopt or as fp8"
                    .into()
            }
            Self::NotFound { .. } => "check that `quantization_config` in config.json belongs to these weights".into(),
            Self::Missing { .. } => "download the model again; a shard may be missing".into(),
            Self::Shape { .. } | Self::Type { .. } | Self::Number { .. } => {
                "the weights are damaged, or `quantization_config` in config.json is not theirs".into()
            }
        })
    }
}
