//! Lets `mlxlm --version` say which commit it was built from.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MLXLM_COMMIT");
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // A build for release follows every commit; one for tests is not made anew for a commit alone.
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        for path in ["HEAD", "logs/HEAD"].iter().filter_map(|file| git(&["rev-parse", "--git-path", file])) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = std::env::var("MLXLM_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=9", "HEAD"]));
    println!("cargo:rustc-env=MLXLM_COMMIT={}", commit.unwrap_or_else(|| "unknown commit".to_owned()));
}
