//! Writing files: through a temporary one beside the place, renamed at the end.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{WithPath, check_regular, open, parent, temporary};
use crate::Result;

/// Writes a file through a temporary one beside it, renamed at the end: a failure leaves the old file as it was.
///
/// # Errors
/// As [`target`], and where the system refuses.
pub fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
    write_with(path, |out| out.write_all(contents.as_ref()))
}

/// As [`write()`], for contents that are produced piece by piece.
pub fn write_with(path: impl AsRef<Path>, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let target = target(path)?;
    let (file, temporary) = temporary::file_in(parent(&target)).with_path("create", path)?.into_parts();
    let mut out = BufWriter::new(file);
    fill(&mut out).and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all()).with_path("write", path)?;
    if let Ok(old) = fs::metadata(&target) {
        // What was private stays so.
        out.get_ref().set_permissions(old.permissions()).with_path("write", path)?;
    }
    temporary.persist(&target).map_err(|failed| failed.error).with_path("write", path)
}

/// Where a file that is written to `path` comes to lie: at the end of all links, be there something or not.
///
/// # Errors
/// [`Error::NotAFile`](crate::Error::NotAFile) if something is there that is no file, which a rename would destroy;
/// [`Error::Io`](crate::Error::Io) for a path that cannot be one of a file.
pub fn target(path: impl AsRef<Path>) -> Result<PathBuf> {
    const MOST_LINKS: usize = 40;
    let path = path.as_ref();
    if path.file_name().is_none() {
        let source = io::Error::new(io::ErrorKind::InvalidFilename, "it does not end in the name of a file");
        return Err(source).with_path("write", path);
    }
    let mut place = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::symlink_metadata(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(place),
            found => {
                let found = found.with_path("write", path)?.file_type();
                if !found.is_symlink() {
                    return check_regular(found, "write", path).map(|()| place);
                }
                place = parent(&place).join(fs::read_link(&place).with_path("write", path)?);
            }
        }
    }
    Err(io::Error::other("there are too many links one after the other")).with_path("write", path)
}

/// Copies a file; the copy appears by rename.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let mut source = open(from)?;
    write_with(to, |out| io::copy(&mut source, out).map(drop))
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
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    use super::*;
    use crate::io::tests::pipe;
    use crate::io::{read_dir, read_json, read_to_string};

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

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        pipe(&fifo);
        symlink("fifo", folder.path().join("link")).unwrap();
        for name in ["fifo", "link", "."] {
            let error = write(folder.path().join(name).join(""), "new").unwrap_err().to_string();
            assert!(error.starts_with("cannot write `"), "{error}");
        }
        let message = write(&fifo, "new").unwrap_err().to_string();
        assert!(message.ends_with("it is a pipe, not a file"), "{message}");
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
        for nowhere in ["", "..", "/"] {
            let message = write(nowhere, "new").unwrap_err().to_string();
            assert_eq!(message, format!("cannot write `{nowhere}`: it does not end in the name of a file"));
        }
    }

    #[test]
    fn links_are_followed_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        symlink("sub/second", at("first")).unwrap();
        symlink("../third", at("sub/second")).unwrap();
        for text in ["new", "newer"] {
            write(at("first"), text).unwrap();
            assert_eq!(read_to_string(at("third")).unwrap(), text);
            assert!(at("first").is_symlink() && at("sub/second").is_symlink() && !at("third").is_symlink());
        }
        symlink("round", at("round")).unwrap();
        assert!(write(at("round"), "x").unwrap_err().to_string().contains("too many links"));
    }

    #[test]
    fn what_was_private_stays_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write(&path, "new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
