//! What can go wrong while a model is converted or quantized.

use std::path::PathBuf;

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

    /// Training failed.
    #[error(transparent)]
    Train(#[from] mlxlm_train::Error),

    /// A text to calibrate with cannot be used.
    #[error("`{path}` cannot be used for calibration: {why}", path = path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// A file of sensitivities that is not of this model.
    #[error("`{path}` does not have the sensitivities of this model: {why}", path = path.display())]
    Sensitivities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// Targets of a teacher that were kept, and do not fit.
    #[error("`{path}` does not have the targets of this run: {why}", path = path.display())]
    Targets {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// What an earlier run has kept, and this one cannot go on from.
    #[error("`{path}` is not a checkpoint of this run: {why}", path = path.display())]
    Kept {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// A number that makes no sense.
    #[error("`{name}` is {value}, expected {expected}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },

    /// A model that computes values that are no numbers.
    #[error("the values at `{path}` are not finite")]
    NotFinite {
        /// The first leaf that reads such values.
        path: String,
    },

    /// No choice of schemes meets a budget.
    #[error("no choice of bits reaches {wanted}; the nearest is {nearest}")]
    Budget {
        /// What was asked for.
        wanted: String,
        /// The nearest that can be reached.
        nearest: String,
    },

    /// A model that is not made of blocks that can be run one by one.
    #[error("models of the type `{model_type}` cannot be run block by block")]
    Stages {
        /// Its type.
        model_type: String,
    },

    /// Nothing of the model can be quantized so.
    #[error("no matrix of the model can be packed {scheme}")]
    NothingToPack {
        /// How.
        scheme: mlxlm_core::quant::Scheme,
    },

    /// The model is quantized already.
    #[error("the model is already quantized")]
    Quantized,

    /// The student should be quantized, and is not.
    #[error("the model has no affine weights of less than 8 bits to train")]
    NothingToTrain,

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

impl From<mlxlm_core::ConversionError> for Error {
    fn from(error: mlxlm_core::ConversionError) -> Self {
        Self::Models(mlxlm_core::Error::from(error).into())
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
            Self::RecipeMode { .. } => Some("omit `--q-mode`".into()),
            Self::Quantized => {
                Some("use the original model, or first dequantize this one with `mlxlm convert --dequantize`".into())
            }
            Self::NotQuantized => Some("omit `--dequantize`".into()),
            Self::Train(error) => error.hint(),
            Self::Calibration { .. } => Some(
                "name a file of text in UTF-8, or of JSON objects with `text`, `messages` or `prompt`, one a line"
                    .into(),
            ),
            Self::Sensitivities { .. } => Some("omit `--sensitivities` to estimate them".into()),
            Self::Targets { .. } => Some("use another `--target-dir`".into()),
            Self::Kept { .. } => Some("use another `--checkpoint`, or remove this one to start again".into()),
            Self::NotFinite { .. } => Some("`mlxlm check` finds NaN and infinite weights".into()),
            Self::NothingToPack { .. } => Some("take a smaller group".into()),
            Self::NothingToTrain => {
                Some("DWQ trains scales and biases: use a model with affine weights of 2 to 6 bits".into())
            }
            Self::UnknownRecipe { .. }
            | Self::RecipeModel { .. }
            | Self::Parameter { .. }
            | Self::Budget { .. }
            | Self::Stages { .. } => None,
        }
    }
}
