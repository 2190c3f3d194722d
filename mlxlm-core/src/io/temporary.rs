//! What is in the making: files, links and folders under random names beside their place.
//!
//! Each file and folder is locked (`flock`) as long as its maker lives. Whoever makes the next one in the same place
//! removes those of the same user whose lock is free: their makers were killed. Where the file system has no locks,
//! nothing is ever removed.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile, TempDir};

use super::{WithPath, parent, rename};
use crate::Result;

const PREFIX: &str = ".mlxlm-";
const SUFFIX: &str = ".tmp";

/// Whether a name is that of something in the making.
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.ends_with(SUFFIX))
}

/// A folder in the making, which vanishes if it is not published.
///
/// It lies in a folder of a random name that only its user can enter, so that nobody sees it, and nothing can be put
/// into it, before it is whole.
#[derive(Debug)]
pub struct TemporaryFolder {
    place: TempDir,
    parents: Parents,
    folder: PathBuf,
    target: PathBuf,
    _lock: File,
}

impl TemporaryFolder {
    /// An empty folder that may become `target`; missing parents are made.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), if `target` does not end in a name, or the system refuses.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        const ACTION: &str = "create the folder";
        let target = target.as_ref();
        let Some(name) = target.file_name() else {
            let source = io::Error::new(io::ErrorKind::InvalidFilename, "it does not end in a name");
            return Err(source).with_path(ACTION, target);
        };
        // Whoever abandons waits until it is known what has been made.
        let mut under_way = under_way();
        let parents = Parents::make(parent(target))?;
        let (place, lock) = scratch_in(parent(target)).with_path(ACTION, target)?;
        let folder = place.path().join(name);
        // Its permissions are those of any new folder, which is why it is not the private one itself.
        fs::create_dir(&folder).with_path(ACTION, target)?;
        under_way.push(UnderWay { place: place.path().to_owned(), parents: parents.0.clone() });
        Ok(Self { place, parents, folder, target: target.to_owned(), _lock: lock })
    }

    /// Where to write until it is published.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Gives the folder its name, at which nothing may lie.
    pub fn publish(mut self) -> Result<()> {
        // Published or abandoned, and nothing between.
        let mut under_way = under_way();
        rename(&self.folder, &self.target)?;
        self.parents.0.clear();
        under_way.iter_mut().filter(|made| made.place == self.place.path()).for_each(|made| made.parents.clear());
        Ok(())
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Whoever abandons waits until nothing is left.
        let mut under_way = under_way();
        let _ = fs::remove_dir_all(self.place.path());
        drop(std::mem::take(&mut self.parents));
        under_way.retain(|made| made.place != self.place.path());
    }
}

/// A folder in the making, for [`abandon`].
struct UnderWay {
    place: PathBuf,
    parents: Vec<PathBuf>,
}

/// All that this process has in the making.
fn under_way() -> MutexGuard<'static, Vec<UnderWay>> {
    static UNDER_WAY: Mutex<Vec<UnderWay>> = Mutex::new(Vec::new());
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every folder that this process has in the making, and the parents that were made for it: for a process that is about to
/// end, whatever its other threads are doing. What they still write goes nowhere.
pub fn abandon() {
    // Whoever publishes a folder now waits here for the end.
    let mut under_way = under_way();
    for UnderWay { place, parents } in under_way.drain(..) {
        // Under another name, nobody can add to it while it is being removed.
        let doomed = place.with_extension("gone.tmp");
        let place = if fs::rename(&place, &doomed).is_ok() { doomed } else { place };
        // But a call that was under way may still add a file.
        let _is_gone = (0..ATTEMPTS).any(|_| fs::remove_dir_all(&place).is_ok());
        drop(Parents(parents));
    }
    std::mem::forget(under_way);
}

/// Parents that were not there before; they go when they are dropped, unless something lies in them.
#[derive(Debug, Default)]
struct Parents(Vec<PathBuf>);

impl Parents {
    /// Makes what is missing of `folder`.
    fn make(folder: &Path) -> Result<Self> {
        const ACTION: &str = "create the folder";
        let mut missing = Vec::new();
        for ancestor in folder.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            match fs::metadata(ancestor) {
                Ok(_) => break,
                // `new/..` would need `new` for a moment only.
                Err(error) if error.kind() == io::ErrorKind::NotFound && ancestor.file_name().is_some() => {
                    missing.push(ancestor);
                }
                Err(error) => return Err(error).with_path(ACTION, folder),
            }
        }
        let mut made = Self(Vec::new());
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => made.0.push(folder.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_path(ACTION, folder),
            }
        }
        Ok(made)
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        while let Some(folder) = self.0.pop() {
            // It fails where somebody has put something into it, which is as it should be.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// How often something is tried that another thread or process can spoil.
const ATTEMPTS: usize = 16;

/// A new file in `folder`, for all to read whom the umask lets.
pub(super) fn file_in(folder: &Path) -> io::Result<NamedTempFile> {
    for _ in 0..ATTEMPTS {
        let made = named().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
        if hold(made.as_file(), made.path())? {
            sweep(folder, made.as_file())?;
            return Ok(made);
        }
    }
    Err(io::Error::other("other processes remove what is made there"))
}

/// A private folder in `folder`, with its lock.
fn scratch_in(folder: &Path) -> io::Result<(TempDir, File)> {
    for _ in 0..ATTEMPTS {
        let made = named().permissions(Permissions::from_mode(0o700)).tempdir_in(folder)?;
        match open_entry(made.path()) {
            Ok(lock) if hold(&lock, made.path())? => {
                sweep(folder, &lock)?;
                return Ok((made, lock));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Err(io::Error::other("other processes remove what is made there"))
}

/// A private folder in `folder` that vanishes with all that is in it, even after the process was killed: its lock is to be
/// kept as long as it is used.
#[cfg(feature = "hub")]
pub(crate) fn scratch(folder: &Path) -> Result<(TempDir, File)> {
    scratch_in(folder).with_path("create a folder in", folder)
}

/// Makes the link `path` to `target`, in place of what is there, with no gap in which there is none.
#[cfg(feature = "hub")]
pub(crate) fn link(target: &Path, path: &Path) -> Result<()> {
    let made = named().make_in(parent(path), |place| std::os::unix::fs::symlink(target, place));
    let made = made.with_path("link", path)?.into_temp_path();
    made.persist(path).map_err(|failed| failed.error).with_path("link", path)
}

fn named() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(12);
    builder
}

/// Opens what lies at `path` itself, never what a link leads to, and without waiting at a pipe.
fn open_entry(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

/// Locks what was just made; false if another process was faster and has removed it.
fn hold(made: &File, path: &Path) -> io::Result<bool> {
    match made.try_lock() {
        Ok(()) => is_at(made, path),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(_)) => Ok(true),
    }
}

/// Whether the open file still is what lies at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    let found = fs::symlink_metadata(path);
    Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino())))
}

/// Removes what killed processes of the user to whom `own` belongs have left in `folder`. In doubt it stays.
fn sweep(folder: &Path, own: &File) -> io::Result<()> {
    let user = own.metadata()?.uid();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_temporary) {
            let _ = remove_leftover(&entry.path(), user);
        }
    }
    Ok(())
}

fn remove_leftover(path: &Path, user: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.uid() != user || !(found.is_dir() || found.is_file()) {
        return Ok(());
    }
    let held = open_entry(path)?;
    if held.try_lock().is_err() || !is_at(&held, path)? {
        return Ok(());
    }
    if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::io::{read_dir, write};

    #[test]
    fn what_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for target in ["model", "new/deeper/model", "new/"] {
            let made = TemporaryFolder::create(folder.path().join(target)).unwrap();
            write(made.path().join("config.json"), "{}").unwrap();
            drop(made);
            assert_eq!(read_dir(folder.path()).unwrap(), [""; 0].map(PathBuf::from), "{target}");
        }
        for target in ["new/..", "new/../model", ".."] {
            let error = TemporaryFolder::create(folder.path().join(target)).unwrap_err().to_string();
            assert!(error.starts_with("cannot create the folder `"), "{error}");
            assert_eq!(read_dir(folder.path()).unwrap(), [""; 0].map(PathBuf::from), "{target}");
        }
    }

    #[test]
    fn it_is_private_until_it_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let usual = folder.path().join("usual");
        fs::create_dir(&usual).unwrap();
        let target = folder.path().join("new/model");
        let made = TemporaryFolder::create(&target).unwrap();
        write(made.path().join("config.json"), "{}").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(made.path().parent().unwrap()) & 0o777, 0o700);
        made.publish().unwrap();
        assert_eq!(mode(&target), mode(&usual));
        assert_eq!(read_dir(&target).unwrap(), [target.join("config.json")]);
        assert_eq!(read_dir(target.parent().unwrap()).unwrap(), std::slice::from_ref(&target));
        let second = TemporaryFolder::create(&target).unwrap();
        assert!(second.publish().is_err());
        assert_eq!(read_dir(&target).unwrap(), [target.join("config.json")], "what is there stays");
    }

    #[test]
    fn leftovers_go_and_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let left = [".mlxlm-killed.tmp", ".mlxlm-file.tmp"].map(at);
        fs::create_dir_all(left[0].join("model")).unwrap();
        fs::write(left[0].join("model/chat_template.jinja"), "left by another").unwrap();
        fs::write(&left[1], "half a file").unwrap();
        fs::create_dir(at("precious")).unwrap();
        symlink("precious", at(".mlxlm-link.tmp")).unwrap();
        let living = TemporaryFolder::create(at("one")).unwrap();
        assert!(left.iter().all(|path| !path.exists()));
        let another = TemporaryFolder::create(at("two")).unwrap();
        let file = file_in(folder.path()).unwrap();
        write(at("three"), "").unwrap();
        assert!(living.path().is_dir() && another.path().is_dir() && file.path().is_file());
        assert!(at("precious").is_dir() && at(".mlxlm-link.tmp").is_symlink());
    }

    #[cfg(feature = "hub")]
    #[test]
    fn a_link_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pointer");
        for target in ["one", "two"] {
            link(Path::new(target), &path).unwrap();
            assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
        }
        assert_eq!(read_dir(folder.path()).unwrap(), [path]);
    }
}
