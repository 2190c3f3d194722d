//! Rows of Parquet files, with the cargo feature `parquet`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DataError;
use super::read::Record;
use crate::Result;

/// The rows of a file.
#[cfg(feature = "parquet")]
pub(super) fn read(path: &Path, shared: &Arc<PathBuf>) -> Result<Vec<Record>> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::Value;

    use super::error::Place;

    let wrong =
        |error: parquet::errors::ParquetError| DataError::File { path: path.to_owned(), why: error.to_string() };
    let file = mlxlm_core::io::open(path)?;
    // The lengths and offsets of a damaged file are followed without a check in places.
    let rows = std::panic::catch_unwind(|| -> Result<Vec<Record>, parquet::errors::ParquetError> {
        let reader = SerializedFileReader::new(file)?;
        let mut records = Vec::new();
        for (i, row) in reader.get_row_iter(None)?.enumerate() {
            let Value::Object(fields) = row?.to_json_value() else { continue };
            let place = Place { path: Arc::clone(shared), number: i + 1, is_line: false };
            records.push(Record { fields, place });
        }
        Ok(records)
    });
    let rows = rows.map_err(|_| DataError::File { path: path.to_owned(), why: "it is damaged".into() })?;
    Ok(rows.map_err(wrong)?)
}

/// Without the feature, the file is named and refused.
#[cfg(not(feature = "parquet"))]
pub(super) fn read(path: &Path, _: &Arc<PathBuf>) -> Result<Vec<Record>> {
    let why = "this program was built without the feature `parquet`".into();
    Err(DataError::File { path: path.to_owned(), why }.into())
}
