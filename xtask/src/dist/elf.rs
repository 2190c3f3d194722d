//! The two things of a program for Linux that matter here: where it looks for libraries, and which glibc it needs.
//!
//! The place for libraries is changed in the bytes of the file, since linking anew with another one would compile everything anew.

use anyhow::{Result, bail};

/// Replaces the place for libraries that cargo's configuration gave to the linker. The new one must not be longer.
pub(super) fn set_runpath(program: &mut [u8], old: &str, new: &str) -> Result<()> {
    let (old, new) = (old.as_bytes(), new.as_bytes());
    // A string of the table of dynamic strings is between two zeros.
    let starts: Vec<usize> = program
        .windows(old.len() + 2)
        .enumerate()
        .filter(|(_, window)| window[0] == 0 && window[old.len() + 1] == 0 && &window[1..=old.len()] == old)
        .map(|(start, _)| start + 1)
        .collect();
    let [start] = starts[..] else {
        bail!(
            "the binary names `{}` {} times as the place for libraries, expected once",
            String::from_utf8_lossy(old),
            starts.len()
        );
    };
    if new.len() > old.len() {
        bail!("the path of this repository is too short to be replaced\nhint: move it to a folder with a longer name");
    }
    program[start..start + old.len()].fill(0);
    program[start..start + new.len()].copy_from_slice(new);
    Ok(())
}

/// The newest glibc whose symbols a program or library needs, as the minor version of `2.x`.
pub(super) fn glibc(program: &[u8]) -> u32 {
    const NAME: &[u8] = b"GLIBC_2.";
    let versions = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).map(|(start, _)| {
        let digits = program[start + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_u32, |version, digit| version.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    // A number without sense is no version.
    versions.filter(|version| *version < 1000).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_for_libraries_is_replaced_where_it_stands() {
        let mut program = b"\x7fELF..\0/opt/mlx/lib0\0GLIBC_2.34\0".to_vec();
        set_runpath(&mut program, "/opt/mlx/lib0", "$ORIGIN/lib").unwrap();
        assert_eq!(program, b"\x7fELF..\0$ORIGIN/lib\0\0\0GLIBC_2.34\0");
        assert!(set_runpath(&mut program, "/opt/mlx/lib0", "a").is_err());
        let mut twice = b"\0/a/b\0\0/a/b\0".to_vec();
        assert!(set_runpath(&mut twice, "/a/b", "c").unwrap_err().to_string().contains("2 times"));
        let mut short = b"\0/a\0".to_vec();
        assert!(set_runpath(&mut short, "/a", "$ORIGIN").is_err());
    }

    #[test]
    fn the_newest_glibc_counts() {
        assert_eq!(glibc(b"GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_2."), 34);
        assert_eq!(glibc(b""), 0);
    }
}
