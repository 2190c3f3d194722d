//! What can be wrong with a checkpoint, reported all at once.

use std::fmt;
use std::path::PathBuf;

use super::gguf::GgufError;
use crate::Hint;
use crate::error::{LISTED, listed};

/// What can be wrong with the weights of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A safetensors file lies about itself or is cut short.
    #[error("`{path}` is not a valid safetensors file: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A folder without weights.
    #[error("`{folder}` has no `model*.safetensors`{instead}", folder = folder.display(), instead = instead(pytorch.as_deref()))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// A file of PyTorch that is there instead.
        pytorch: Option<String>,
    },
    /// The index names a file that is not there, or one outside the folder.
    #[error("`{index}` names the shard `{shard}`, {why}", index = index.display())]
    Shard {
        /// The index file.
        index: PathBuf,
        /// The name in it.
        shard: String,
        /// What is wrong with the name.
        why: &'static str,
    },
    /// Two files hold a tensor of the same name.
    #[error("`{name}` is in `{first}` and in `{second}`", first = first.display(), second = second.display())]
    Duplicate {
        /// The tensor.
        name: String,
        /// The file that was read first.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// The `quantization` of a configuration makes no sense.
    #[error("`quantization{at}` in config.json: {why}")]
    Quantization {
        /// Which entry, as in ".model.layers.0"; empty for the head.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// The adapter's configuration makes no sense.
    #[error("`{path}`: {why}", path = path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The weights were packed by another tool, in a way that cannot be loaded.
    #[error(transparent)]
    Foreign(#[from] super::foreign::ForeignError),
    /// A GGUF file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tensors are not those of the model.
    #[error("the weights do not fit the model:{}", list(.0))]
    Mismatch(Vec<Problem>),
}

/// One tensor that does not fit.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// The model needs it and the checkpoint lacks it.
    Missing {
        /// The tensor.
        name: String,
        /// Names in the checkpoint that are close to it.
        near: Vec<String>,
    },
    /// It has another shape.
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the checkpoint.
        got: Vec<i32>,
        /// The shape that the model's configuration asks for.
        expected: Vec<i32>,
    },
    /// It has a type that the model cannot take.
    Type {
        /// The tensor.
        name: String,
        /// What it is and what it should be.
        why: String,
    },
    /// The checkpoint has it and the model does not.
    LeftOver {
        /// The tensor.
        name: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, near } => {
                write!(f, "`{name}` is missing")?;
                if !near.is_empty() {
                    write!(f, " (near: {})", listed(near, LISTED))?;
                }
                Ok(())
            }
            Self::Shape { name, got, expected } => write!(f, "`{name}` is {got:?}, expected {expected:?}"),
            Self::Type { name, why } => write!(f, "`{name}` {why}"),
            Self::LeftOver { name } => write!(f, "`{name}` is not part of the model"),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let more = problems.len().checked_sub(LISTED).filter(|&more| more > 0);
    let listed = problems.iter().take(LISTED).map(ToString::to_string);
    let lines = listed.chain(more.map(|more| format!("and {more} more")));
    lines.flat_map(|line| ["\n  - ".to_owned(), line]).collect()
}

/// What is there in place of weights.
fn instead(pytorch: Option<&str>) -> String {
    pytorch.map(|name| format!(", only `{name}`")).unwrap_or_default()
}

impl Hint for WeightsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Damaged { .. } => "download or convert the model again; the file may be incomplete".into(),
            Self::NoWeights { pytorch: Some(_), .. } => {
                "files of PyTorch can run code when they are read; save the model as safetensors first: \
                 `save_pretrained` of transformers does that"
                    .into()
            }
            Self::NoWeights { .. } => {
                "the folder must hold a model in the Hugging Face layout (config.json, model.safetensors, tokenizer.json)"
                    .into()
            }
            Self::Shard { .. } => "download the model again; a shard may be missing".into(),
            Self::Duplicate { .. } => "remove the file that does not belong to the model".into(),
            Self::Quantization { .. } => return None,
            Self::Foreign(error) => return error.hint(),
            Self::Gguf(error) => return error.hint(),
            Self::Adapter { .. } => "the folder must hold adapter_config.json and adapters.safetensors, or adapter_model.safetensors of PEFT".into(),
            Self::Mismatch(problems) => match problems.first() {
                Some(Problem::Shape { .. }) => "config.json and the weights belong to different models".into(),
                _ => "check that config.json belongs to these weights and that `model_type` is right".into(),
            },
        })
    }
}
