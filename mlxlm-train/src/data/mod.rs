//! Token documents and the batches that they fill; datasets of texts, conversations and preferences.
//!
//! [`load()`] reads datasets and gives [`Splits`] of [`Rows`], which [`SortedBatches`] makes batches of.

mod documents;
mod error;
mod files;
mod format;
mod load;
mod options;
mod packed;
mod packing;
mod parquet;
mod read;
mod rows;
mod sorted;
mod split;

pub use documents::Documents;
pub use error::{DataError, Fault, Place};
pub use format::{Format, Kind};
pub use load::{load, read_file, read_split};
pub use options::{DatasetOptions, Keys, Source};
pub use packed::{Packed, pack_examples};
pub use packing::{Batch, Batches, pack};
pub use read::Record;
pub use rows::{Example, Preference, Rows, Splits};
pub use sorted::{PreferenceBatch, Row, SortedBatches, once};
