//! Opening and reading files that somebody else may have made.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{WithPath, check_regular};
use crate::{Error, Result};

/// The most that is read of a JSON or text file: real ones have some megabytes.
pub const MOST_BYTES: u64 = 64 << 20;

/// Opens a regular file for reading.
///
/// # Errors
/// [`Error::NotAFile`] for pipes, devices, sockets and folders, without waiting for anything; [`Error::LfsPointer`] for
/// what git-lfs leaves in place of a file; [`Error::Io`] where the system refuses.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    open_to(path.as_ref(), "open")
}

fn open_to(path: &Path, action: &'static str) -> Result<File> {
    // Looked at before it is opened, because opening alone may do something to a device, and again afterwards, because
    // another file may have taken its place.
    check_regular(fs::metadata(path).with_path(action, path)?.file_type(), action, path)?;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).with_path(action, path)?;
    let found = file.metadata().with_path(action, path)?;
    check_regular(found.file_type(), action, path)?;
    if is_lfs_pointer(&file, found.len()) {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
    Ok(file)
}

/// Whether a file is the pointer that git-lfs puts in place of a large one
/// (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
fn is_lfs_pointer(file: &File, len_bytes: u64) -> bool {
    const START: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
    const LONGEST: u64 = 1024;
    let mut start = [0; START.len()];
    len_bytes <= LONGEST && file.read_exact_at(&mut start, 0).is_ok() && start == START
}

/// Reads a whole file of at most [`MOST_BYTES`].
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    read_within(path, MOST_BYTES)
}

/// Reads a whole file of at most `limit_bytes`.
///
/// # Errors
/// As [`open`], and [`Error::TooLarge`].
pub fn read_within(path: impl AsRef<Path>, limit_bytes: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let mut bytes = Vec::new();
    open_to(path, "read")?.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes).with_path("read", path)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::TooLarge { path: path.to_owned(), limit_bytes });
    }
    Ok(bytes)
}

/// Reads a whole file of UTF-8 text of at most [`MOST_BYTES`].
pub fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = String::from_utf8(read(path)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8")).with_path("read", path)
}

/// Reads a JSON file of at most [`MOST_BYTES`].
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    serde_json::from_slice(&read(path)?).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// The lines of a file of UTF-8 text, one after the other: the file may be of any size.
pub fn lines(path: impl AsRef<Path>) -> Result<impl Iterator<Item = Result<String>>> {
    let path = path.as_ref().to_owned();
    let lines = BufReader::new(open_to(&path, "read")?).lines();
    Ok(lines.map(move |line| line.with_path("read", &path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::pipe;
    use crate::{Hint, io};

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        pipe(&fifo);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("fifo", &link).unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let places = [(&*fifo, "a pipe"), (&link, "a pipe"), (folder.path(), "a folder"), (&socket, "a socket")];
        for (path, kind) in places.into_iter().chain([(Path::new("/dev/zero"), "a device")]) {
            let error = io::read(path).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot read `{}`: it is {kind}, not a file", path.display()));
            assert!(error.hint().is_some());
            assert!(io::open(path).unwrap_err().to_string().starts_with("cannot open"));
        }
    }

    #[test]
    fn more_than_the_limit_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        io::write(&path, "12345").unwrap();
        assert_eq!(io::read_within(&path, 5).unwrap(), b"12345");
        let error = io::read_within(&path, 4).unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit_bytes: 4, .. }), "{error}");
    }

    #[test]
    fn a_pointer_of_git_lfs_is_called_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
        io::write(&path, pointer).unwrap();
        let error = io::open(&path).unwrap_err();
        assert!(error.to_string().contains("git-lfs") && error.hint().unwrap().contains("git lfs pull"), "{error}");
        // A text that speaks of it at length is not one.
        io::write(&path, pointer.repeat(40)).unwrap();
        io::open(&path).unwrap();
    }

    #[test]
    fn lines_come_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        io::write(&path, b"one\ntwo\n\xff\n").unwrap();
        let read: Vec<Result<String>> = io::lines(&path).unwrap().collect();
        assert_eq!((read[0].as_ref().unwrap().as_str(), read[1].as_ref().unwrap().as_str()), ("one", "two"));
        assert!(read[2].as_ref().unwrap_err().to_string().starts_with("cannot read `"));
    }
}
