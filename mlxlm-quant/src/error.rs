//! What can go wrong while a model is converted.

use mlxlm_core::quant::{Mode, QuantError};
use mlxlm_core::{Exception, Hint};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be read or written.
    #[error(transparent)]
    Models(#[from] mlxlm_models::Error),

    /// A quantization that MLX does not have.
    #[error(transparent)]
    Quant(#[from] QuantError),

    /// Recipes are made of affine schemes.
    #[error("the recipe `{recipe}` is for the mode affine, not {mode}")]
    RecipeMode {
        /// The recipe.
        recipe: &'static str,
        /// The mode that was asked for.
        mode: Mode,
    },

    /// No recipe has this name.
    #[error("there is no recipe `{name}`; the recipes are mixed_2_6, mixed_3_4, mixed_3_6 and mixed_4_6")]
    UnknownRecipe {
        /// The name.
        name: String,
    },

    /// A recipe looks for down projections, and the model has none.
    #[error("the recipe `{recipe}` needs a model with layers that have a `down_proj`")]
    RecipeModel {
        /// The recipe.
        recipe: &'static str,
    },

    /// The model is quantized already.
    #[error("the model is quantized already")]
    Quantized,

    /// The model is not quantized.
    #[error("the model is not quantized")]
    NotQuantized,
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Models(exception.into())
    }
}

impl From<mlxlm_core::Error> for Error {
    fn from(error: mlxlm_core::Error) -> Self {
        Self::Models(error.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Models(error) => error.hint(),
            Self::Quant(error) => error.hint(),
            Self::RecipeMode { .. } => Some("leave `--q-mode` out".into()),
            Self::Quantized => Some("convert the original model, or unpack this one with `--dequantize` first".into()),
            Self::NotQuantized => Some("leave `--dequantize` out".into()),
            Self::UnknownRecipe { .. } | Self::RecipeModel { .. } => None,
        }
    }
}
