//! `cargo xtask setup` on machines that lack something: the message, the exit code, and nothing left behind.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

/// Runs setup for an empty workspace on a machine with these programs only; `false` stands in for the failing ones.
fn setup(root: &Path, programs: &[(&str, &str)]) -> Output {
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for (name, target) in programs {
        symlink(target, bin.join(name)).unwrap();
    }
    std::fs::write(root.join("Cargo.lock"), "name = \"mlx-sys\"\nversion = \"0.7.0\"\n").unwrap();
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("setup")
        .env("CARGO_MANIFEST_DIR", root.join("xtask"))
        .env("PATH", &bin)
        .env_remove("MLX_DIR")
        .env_remove("LIBCLANG_PATH")
        .output()
        .unwrap()
}

#[track_caller]
fn check(programs: &[(&str, &str)], wanted: &str) {
    let root = tempfile::tempdir().unwrap();
    let output = setup(root.path(), programs);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(wanted), "{message}");
    assert!(!root.path().join(".mlx").exists());
    assert!(!root.path().join(".cargo").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let (there, fails) = ("/bin/true", "/bin/false");
    let hint = |package| format!("is missing\nhint: `apt-get install {package}` or `dnf install ");
    check(&[], &format!("error: g++ {}", hint("g++")));
    check(&[("g++", there)], &format!("error: ar {}", hint("binutils")));
    check(&[("g++", there), ("ar", there)], &format!("error: python3 {}", hint("python3 python3-pip")));
    let no_pip = [("g++", there), ("ar", there), ("python3", fails)];
    check(&no_pip, &format!("error: pip (as a module of python3) {}", hint("python3-pip")));
    let has_apt = [("apt-get", there)];
    check(&has_apt, "error: g++ is missing\nhint: `sudo apt-get install g++`\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_download_that_fails_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    // A pip that exists and downloads nothing.
    let python = root.path().join("python");
    std::fs::write(&python, "#!/bin/sh\ncase \"$*\" in *--version) exit 0;; *) echo no network >&2; exit 1;; esac\n")
        .unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&python, executable).unwrap();
    let python = python.to_string_lossy();
    let output = setup(root.path(), &[("g++", "/bin/true"), ("ar", "/bin/true"), ("python3", &python)]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("no network") && message.contains("hint: "), "{message}");
    assert!(!root.path().join(".mlx").exists(), "{message}");
}
