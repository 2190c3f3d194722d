//! What can be wrong with a dataset.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use mlxlm_core::Hint;

/// How many faults of a dataset are printed.
const LISTED: usize = 20;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<PathBuf>,
    /// The line or the row in it, from 1.
    pub number: usize,
    /// Whether the number is that of a line; files of other formats than JSON have rows.
    pub is_line: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.is_line { "line" } else { "row" };
        write!(f, "`{}` {unit} {}", self.path.display(), self.number)
    }
}

/// One thing that is wrong in a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The row.
    pub place: Place,
    /// The byte in the line, from 1, where that is known.
    pub column: Option<usize>,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What can be wrong with a dataset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Fewer rows than one batch has.
    #[error("the dataset has {rows} rows, fewer than one batch of {batch_size}")]
    TooFewRows {
        /// Rows of the dataset.
        rows: usize,
        /// Rows in a batch.
        batch_size: usize,
    },
    /// Rows that cannot be used, each with its place.
    #[error("the dataset has {} {}:{}", .0.len(), if .0.len() == 1 { "fault" } else { "faults" }, list(.0))]
    Faults(Vec<Fault>),
    /// No such split, or one without rows.
    #[error("`{dataset}` has no rows in the split `{split}`{found}")]
    NoRows {
        /// The dataset.
        dataset: String,
        /// The split.
        split: String,
        /// The splits that it has, as words.
        found: String,
    },
    /// Every row would be cut.
    #[error("all {rows} rows of the split `{split}` have more than {max_len} tokens; the shortest has {shortest}")]
    AllTooLong {
        /// The split.
        split: &'static str,
        /// Its rows.
        rows: usize,
        /// The tokens that a row may have.
        max_len: usize,
        /// The tokens of the shortest row.
        shortest: usize,
    },
    /// Texts beside preferences.
    #[error("`{dataset}` has {got}, and the datasets before it have {expected}: they cannot be learned together")]
    Mixed {
        /// The dataset.
        dataset: String,
        /// What its rows are.
        got: &'static str,
        /// What the others are.
        expected: &'static str,
    },
    /// Neither a file, a folder nor a repository.
    #[error("`{dataset}` {why}")]
    Source {
        /// The dataset.
        dataset: String,
        /// What is wrong with it.
        why: String,
    },
    /// A split that is written wrong.
    #[error("`{spec}` is no split: {why}")]
    Split {
        /// As it was given.
        spec: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file that is no Parquet.
    #[error("`{path}` cannot be read: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

fn list(faults: &[Fault]) -> String {
    let more = faults.len().checked_sub(LISTED).filter(|&more| more > 0);
    let lines = faults.iter().take(LISTED).map(ToString::to_string).chain(more.map(|more| format!("and {more} more")));
    lines.flat_map(|line| ["\n  - ".to_owned(), line]).collect()
}

impl Hint for DataError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::TooFewRows { .. } => Some("use a smaller batch".into()),
            Self::NoRows { .. } => Some("name a split that has rows, or add the file".into()),
            Self::AllTooLong { .. } => {
                Some("raise the maximum sequence length, or cut the texts into shorter ones".into())
            }
            Self::Split { .. } => Some("splits are written as `train`, `train[:80%]` or `train[100:200]`".into()),
            Self::Source { .. } => Some(
                "a dataset is a folder with `train.jsonl`, a `.jsonl`, `.json` or `.parquet` file, or the id of a \
                 dataset of the Hugging Face hub"
                    .into(),
            ),
            Self::Faults(_) | Self::Mixed { .. } | Self::File { .. } => None,
        }
    }
}
