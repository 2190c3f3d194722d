//! Files: every error names its path, and what is written appears whole, by rename, or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Names the action and the path of a failed file operation.
trait WithPath<T> {
    fn with_path(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> WithPath<T> for io::Result<T> {
    fn with_path(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}

/// Opens a file for reading.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    File::open(path).with_path("open", path)
}

/// Reads a whole file.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    fs::read(path).with_path("read", path)
}

/// Reads a whole file of UTF-8 text.
pub fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_path("read", path)
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    serde_json::from_slice(&read(path)?).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// The entries of a folder, sorted by name.
pub fn read_dir(path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let path = path.as_ref();
    let mut entries = fs::read_dir(path)
        .and_then(|dir| dir.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
        .with_path("list", path)?;
    entries.sort();
    Ok(entries)
}

/// Makes a folder and its parents; one that is there already is fine.
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).with_path("create the folder", path)
}

/// Copies a file; the copy appears by rename.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let mut source = open(from)?;
    write_with(to, |out| io::copy(&mut source, out).map(drop))
}

/// Removes a folder with all that is in it.
pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::remove_dir_all(path).with_path("remove", path)
}

/// Moves a file or folder to a new name on the same disk.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let to = to.as_ref();
    fs::rename(from, to).with_path("rename to", to)
}

/// Writes a file through a temporary one beside it, renamed at the end: a failure leaves the old file as it was.
pub fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
    write_with(path, |out| out.write_all(contents.as_ref()))
}

/// As [`write`], for contents that are produced piece by piece.
pub fn write_with(path: impl AsRef<Path>, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".mlxlm-")
        .suffix(".tmp")
        .permissions(default_permissions())
        .tempfile_in(folder)
        .with_path("create", path)?;
    let (file, temporary) = temporary.into_parts();
    let mut out = BufWriter::new(file);
    fill(&mut out).and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all()).with_path("write", path)?;
    temporary.persist(path).map_err(|failed| failed.error).with_path("write", path)
}

/// Temporary files are private by default; a model folder is to be read by all whom the umask lets.
fn default_permissions() -> fs::Permissions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::Permissions::from_mode(0o666)
    }
    #[cfg(not(unix))]
    {
        unreachable!("MLX runs on unix systems only")
    }
}

/// Writes a value as JSON with an indent of four spaces, as Python mlx-lm does.
pub fn write_json(path: impl AsRef<Path>, value: &serde_json::Value) -> Result<()> {
    write_with(path, |out| {
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(out, formatter);
        serde::Serialize::serialize(value, &mut serializer).map_err(io::Error::other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path() {
        let error = read("no/such/file").unwrap_err().to_string();
        assert!(error.starts_with("cannot read `no/such/file`: "), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        write(&path, "old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(b"half of the new")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(failed.is_err());
        assert_eq!(read_to_string(&path).unwrap(), "old");
        assert_eq!(read_dir(folder.path()).unwrap(), [path]);
    }

    #[test]
    fn json_is_indented_by_four() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &serde_json::json!({"a": [1]})).unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "{\n    \"a\": [\n        1\n    ]\n}");
        assert_eq!(read_json::<serde_json::Value>(&path).unwrap(), serde_json::json!({"a": [1]}));
    }
}
