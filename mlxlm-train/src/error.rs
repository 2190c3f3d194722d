//! What can go wrong while training.

use std::path::PathBuf;

use mlxlm_core::{Exception, Hint};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a checkpoint or an MLX operation.
    #[error(transparent)]
    Core(#[from] mlxlm_core::Error),
    /// A model or its folder.
    #[error(transparent)]
    Model(#[from] mlxlm_models::Error),
    /// A dataset.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// An evaluation.
    #[error(transparent)]
    Evaluate(#[from] crate::evaluate::EvaluateError),
    /// A merge.
    #[error(transparent)]
    Merge(#[from] crate::merge::MergeError),
    /// Text that is generated.
    #[error(transparent)]
    Sample(#[from] mlxlm_sample::Error),
    /// A line of a dataset is not a document.
    #[error("`{path}` line {line}: {why}", path = path.display())]
    Document {
        /// The dataset.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A dataset is too small to make a batch of.
    #[error("`{path}` makes {rows} rows of {len} tokens, fewer than one batch of {batch_size}", path = path.display())]
    TooFewRows {
        /// The dataset.
        path: PathBuf,
        /// Rows that its documents fill.
        rows: usize,
        /// Tokens in each row.
        len: usize,
        /// Rows in a batch.
        batch_size: usize,
    },
    /// A learning-rate schedule that does not exist or lacks arguments.
    #[error("the schedule `{name}` {why}")]
    Schedule {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An optimizer that does not exist or is set wrongly.
    #[error("the optimizer `{name}` {why}")]
    Optimizer {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A training state is not one that this training can continue.
    #[error("`{path}` cannot be continued: {why}", path = path.display())]
    Resume {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// More blocks are to be trained than there are.
    #[error("{wanted} layers are to be trained, and the model has {layers}")]
    TooManyLayers {
        /// How many are asked for.
        wanted: usize,
        /// How many there are.
        layers: usize,
    },
    /// A leaf that takes no adapter, or not this kind.
    #[error("`{path}` cannot be adapted: {why}")]
    CannotAdapt {
        /// The leaf.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// Keys that fit no leaf of the model.
    #[error("the model has no `{}`", keys.join("`, `"))]
    UnknownKeys {
        /// The keys.
        keys: Vec<String>,
    },
    /// A rank below 1, a scale that is no number, or a dropout of 1 or more.
    #[error("`rank` must be at least 1, `scale` finite, and `dropout` from 0 to below 1")]
    LoraParameters,
    /// A loss or a gradient is no number any more.
    #[error("the {what} is {value} at iteration {iteration}, batch {batch} of epoch {epoch}; {}", last(checkpoint.as_ref()))]
    NotFinite {
        /// What it is: the loss, or the norm of the gradient.
        what: &'static str,
        /// Its value.
        value: f32,
        /// The iteration, from 1.
        iteration: u64,
        /// The batch within the epoch, from 1.
        batch: u64,
        /// The pass over the dataset, from 1.
        epoch: u64,
        /// The adapters that were saved last.
        checkpoint: Option<PathBuf>,
    },
    /// A validation loss is no number any more.
    #[error("the validation loss is {value} after iteration {iteration}; {}", last(checkpoint.as_ref()))]
    Validation {
        /// Its value.
        value: f32,
        /// Iterations before it.
        iteration: u64,
        /// The adapters that were saved last.
        checkpoint: Option<PathBuf>,
    },
    /// No row has anything to learn within the longest sequence.
    #[error("none of the {rows} rows of `{split}` has a token to learn within {max_seq_length} tokens")]
    NothingToLearn {
        /// The part of the dataset.
        split: &'static str,
        /// Its rows.
        rows: usize,
        /// The tokens that are read of a row.
        max_seq_length: usize,
    },
    /// Rows of another kind than the objective needs.
    #[error("the objective `{objective}` learns from {needs}, and `{split}` has {got}")]
    WrongRows {
        /// The name of the objective.
        objective: &'static str,
        /// The part of the dataset.
        split: &'static str,
        /// The rows that it needs.
        needs: &'static str,
        /// The rows that there are.
        got: &'static str,
    },
    /// A number of a training is out of range.
    #[error("`{name}` is {value}, expected {expected}")]
    Setting {
        /// Its name, as in configurations.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// An adapter file that does not fit what is trained: every tensor that does not.
    #[error("`{path}` does not match the model and its trained parameters:{}", list(faults), path = path.display())]
    AdapterFile {
        /// The file.
        path: PathBuf,
        /// A tensor and what is wrong with it, each.
        faults: Vec<String>,
    },
    /// A picture of the losses could not be drawn.
    #[error("cannot draw `{path}`: {why}", path = path.display())]
    Picture {
        /// The picture.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Moments of another update rule.
    #[error("a parameter has {got} moments, and the optimizer keeps {expected} of its shape")]
    Moments {
        /// How many it has.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The parameters of a model are not those that were collected from it.
    #[error("the model has {got} of the {expected} parameters that are trained")]
    Parameters {
        /// How many were found.
        got: usize,
        /// How many were collected.
        expected: usize,
    },
}

/// Where to go on from.
fn last(checkpoint: Option<&PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is `{}`", path.display()),
        None => "no checkpoint was saved before".to_owned(),
    }
}

/// Each fault on a line of its own.
fn list(faults: &[String]) -> String {
    faults.iter().flat_map(|fault| ["\n  - ", fault]).collect()
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Core(exception.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Evaluate(error) => error.hint(),
            Self::Merge(error) => error.hint(),
            Self::Sample(error) => error.hint(),
            Self::TooFewRows { .. } => Some("use a smaller batch or shorter rows".into()),
            Self::Resume { .. } => Some("start again without `--resume`".into()),
            Self::UnknownKeys { .. } => {
                Some("keys are paths inside a block, as in `self_attn.q_proj`, or whole paths".into())
            }
            Self::TooManyLayers { .. } => Some("-1 trains all layers".into()),
            Self::NotFinite { .. } | Self::Validation { .. } => {
                Some("use a lower learning rate, a longer warmup, or clip gradients with `max_grad_norm`".into())
            }
            Self::NothingToLearn { .. } => Some("raise `max_seq_length`, or learn prompts too".into()),
            Self::WrongRows { .. } => {
                Some("rows with `chosen` and `rejected` are for `dpo` and `orpo`, all others for `sft`".into())
            }
            Self::AdapterFile { .. } => {
                Some("train with the model, the type, the layers, the keys and the rank of that fine-tune".into())
            }
            Self::Optimizer { .. }
            | Self::Setting { .. }
            | Self::Picture { .. }
            | Self::CannotAdapt { .. }
            | Self::LoraParameters
            | Self::Document { .. }
            | Self::Schedule { .. }
            | Self::Moments { .. }
            | Self::Parameters { .. } => None,
        }
    }
}
