//! How much room a disk has left.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes that this user may still write to the disk of a folder, which need not exist yet; none where the system does not say.
pub fn free_disk_bytes(folder: impl AsRef<Path>) -> Option<u64> {
    folder.as_ref().ancestors().find_map(|ancestor| {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        of(ancestor)
    })
}

#[allow(unsafe_code, reason = "a call of the C library")]
#[allow(clippy::useless_conversion, clippy::cast_lossless, reason = "the fields have other types on other systems")]
fn of(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero, and the place for the answer is as large as it says.
    let status = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if status != 0 {
        return None;
    }
    // SAFETY: a call that succeeds has written the answer.
    let found = unsafe { found.assume_init() };
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_has_the_room_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_disk_bytes(folder.path().join("a/b")).is_some_and(|bytes| bytes > 0));
        assert!(free_disk_bytes("not-there").is_some());
    }
}
