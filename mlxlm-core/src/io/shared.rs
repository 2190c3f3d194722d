//! A folder that several processes keep files in: what lies there, locks, and files that are written in pieces.
//!
//! Files appear by rename here too ([`NewFile`]), so that a reader sees a whole one or none. Reading needs no lock; whoever decides
//! from a listing what to remove holds a [`FolderLock`].

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempPath;

use super::{WithPath, check_regular, parent, temporary};
use crate::Result;

/// A regular file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length. A file with holes takes less of the disk.
    pub len_bytes: u64,
    /// When it was written, or [touched](touch).
    pub modified: SystemTime,
}

/// The regular files of a folder, in no order; links, folders and names that are no UTF-8 are left out, and so is what goes away
/// meanwhile.
pub fn list_files(folder: impl AsRef<Path>) -> Result<Vec<Listed>> {
    let folder = folder.as_ref();
    let listed = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        let name = entry.file_name().into_string().ok()?;
        Some(Listed { name, len_bytes: found.len(), modified: found.modified().ok()? })
    };
    Ok(fs::read_dir(folder).with_path("list", folder)?.filter_map(listed).collect())
}

/// Makes a folder that only its user can enter, and its parents; one that is there already stays as it is.
pub fn create_private_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_path("create the folder", path)
}

/// A folder in the system's place for temporary files that belongs to this user alone, and stays there for the next process.
///
/// # Errors
/// If it cannot be made, or somebody else has put something else in its place.
pub fn private_temporary_dir(name: &str) -> Result<PathBuf> {
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: it takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    let path = std::env::temp_dir().join(format!("{name}-{user}"));
    create_private_dir(&path)?;
    let found = fs::symlink_metadata(&path).with_path("read", &path)?;
    if found.is_dir() && found.uid() == user && found.mode().trailing_zeros() >= 6 {
        return Ok(path);
    }
    let source = io::Error::new(io::ErrorKind::PermissionDenied, "it is not a folder that only this user may enter");
    Err(source).with_path("use", &path)
}

/// Removes a file; false if there is none.
pub fn remove_file(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_path("remove", path),
    }
}

/// Says that a file was used just now: its time of change becomes the present.
pub fn touch(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    super::open(path)?.set_modified(SystemTime::now()).with_path("touch", path)
}

/// That no other process, and nobody else in this one, decides over a folder now. It ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Waits until the folder is free, but no longer than `most`: who holds it may be stopped. The lock is one of `path`, an empty file
    /// that stays.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) of the kind `TimedOut` if it is not free by then, and where the system refuses.
    pub fn wait(path: impl AsRef<Path>, most: Duration) -> Result<Self> {
        const ACTION: &str = "lock";
        const PAUSE: Duration = Duration::from_millis(5);
        let path = path.as_ref();
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o666);
        let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).with_path(ACTION, path)?;
        check_regular(file.metadata().with_path(ACTION, path)?.file_type(), ACTION, path)?;
        let start = Instant::now();
        loop {
            let error = match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => error,
                Err(TryLockError::WouldBlock) if start.elapsed() < most => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(TryLockError::WouldBlock) => io::Error::new(io::ErrorKind::TimedOut, "another process holds it"),
            };
            return Err(error).with_path(ACTION, path);
        }
    }
}

/// A file in the making beside its place, which vanishes if it is not published. Killed makers' files are removed by the next one.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    temporary: TempPath,
    target: PathBuf,
}

impl NewFile {
    /// An empty file that may become `target`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where the system refuses.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        let (file, temporary) = temporary::file_in(parent(target)).with_path("create", target)?.into_parts();
        Ok(Self { file, temporary, target: target.to_owned() })
    }

    /// Gives it its length; what is not written later is zeros, which take no place where the file system has holes.
    pub fn set_len(&self, len_bytes: u64) -> Result<()> {
        self.file.set_len(len_bytes).with_path("write", &self.target)
    }

    /// Writes at a place.
    pub fn write_at(&self, start: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, start).with_path("write", &self.target)
    }

    /// Waits until what was written is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_path("write", &self.target)
    }

    /// Gives the file its name, in place of what lies there, once all of it is on the disk.
    pub fn publish(self) -> Result<()> {
        // The system's own time of the last write is some milliseconds behind, and the present where a file is touched.
        let dated = self.file.set_modified(SystemTime::now());
        dated.and_then(|()| self.file.sync_all()).with_path("write", &self.target)?;
        self.temporary.persist(&self.target).map_err(|failed| failed.error).with_path("write", &self.target)
    }

    /// The name that it has until it is published.
    pub fn temporary_name(&self) -> Option<&str> {
        self.temporary.file_name()?.to_str()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::io::{is_temporary, read, write};

    #[test]
    fn a_file_in_pieces_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, "old").unwrap();
        let half = NewFile::create(&path).unwrap();
        half.set_len(8).unwrap();
        half.write_at(6, b"xy").unwrap();
        let names: Vec<String> = list_files(folder.path()).unwrap().into_iter().map(|file| file.name).collect();
        assert!(names.len() == 2 && names.iter().any(|name| is_temporary(name)), "{names:?}");
        assert!(is_temporary(half.temporary_name().unwrap()));
        drop(half);
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(list_files(folder.path()).unwrap().len(), 1);

        let whole = NewFile::create(&path).unwrap();
        whole.set_len(6).unwrap();
        whole.write_at(4, b"xy").unwrap();
        whole.sync().unwrap();
        whole.publish().unwrap();
        assert_eq!(read(&path).unwrap(), b"\0\0\0\0xy");
        assert_eq!(list_files(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn only_files_are_listed_and_a_touch_shows() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        create_private_dir(at("sub/deeper")).unwrap();
        create_private_dir(at("sub/deeper")).unwrap();
        assert_eq!(fs::metadata(at("sub")).unwrap().permissions().mode() & 0o777, 0o700);
        write(at("a"), "12345").unwrap();
        symlink("a", at("link")).unwrap();
        let old = SystemTime::now() - Duration::from_secs(1000);
        File::open(at("a")).unwrap().set_modified(old).unwrap();
        let listed = || list_files(folder.path()).unwrap();
        assert_eq!(listed(), [Listed { name: "a".into(), len_bytes: 5, modified: old }]);
        touch(at("a")).unwrap();
        assert!(listed()[0].modified > old + Duration::from_mins(15));
        assert!(remove_file(at("a")).unwrap());
        assert!(!remove_file(at("a")).unwrap());
        assert!(touch(at("a")).is_err() && list_files(at("no")).is_err());
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let wait = |name: &str| FolderLock::wait(folder.path().join(name), Duration::from_millis(20));
        let held = wait(".lock").unwrap();
        let error = wait(".lock").unwrap_err().to_string();
        assert!(error.starts_with("cannot lock `") && error.ends_with("`: another process holds it"), "{error}");
        drop(held);
        wait(".lock").unwrap();
        assert!(wait("no/lock").is_err());
        symlink(".lock", folder.path().join("link")).unwrap();
        assert!(wait("link").is_err());
    }
}
