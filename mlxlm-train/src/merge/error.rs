//! What can go wrong when models are merged.

use mlxlm_core::Hint;

/// How many tensors of a mismatch are printed.
const LISTED: usize = 20;

/// What can go wrong when models are merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The configuration of a merge makes no sense.
    #[error("this merge cannot be done: {why}")]
    Config {
        /// What is wrong.
        why: String,
    },
    /// A model whose weights are packed.
    #[error("the weights of `{model}` are quantized, and only plain ones can be merged")]
    Quantized {
        /// The model.
        model: String,
    },
    /// Models of different types.
    #[error("`{other}` is a model of the type `{other_type}`, and the first one is of the type `{base_type}`")]
    Types {
        /// The type of the first.
        base_type: String,
        /// The type of the other.
        other_type: String,
        /// The other.
        other: String,
    },
    /// Tensors that do not fit.
    #[error("the tensors of `{model}` are not those of the first model:{}", list(.differing))]
    Tensors {
        /// The model.
        model: String,
        /// Each tensor that differs, and how.
        differing: Vec<String>,
    },
    /// A model without layers.
    #[error("no tensor of `{model}` is in a layer")]
    NoLayers {
        /// The model.
        model: String,
    },
}

fn list(lines: &[String]) -> String {
    let more = lines.len().checked_sub(LISTED).filter(|&more| more > 0).map(|more| format!("and {more} more"));
    lines.iter().take(LISTED).cloned().chain(more).flat_map(|line| ["\n  - ".to_owned(), line]).collect()
}

impl Hint for MergeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Quantized { .. } => Some("dequantize them with `mlxlm convert --dequantize`".into()),
            Self::Types { .. } | Self::Tensors { .. } => Some("merge fine-tunes of one and the same model".into()),
            Self::Config { .. } | Self::NoLayers { .. } => None,
        }
    }
}
