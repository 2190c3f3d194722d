//! The C layer of MLX: `mlx-c`, compiled from the sources that come with the `mlx-sys` package.
//!
//! Unusual:
//! - `native/linux.cpp` adds what mlx-c has on Arm or macOS only and mlx-rs calls everywhere;
//! - `native/format.h` stands in for `<format>` where the compiler has none.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::tool::{self, AR, CARGO, CXX};

/// Sources of our own that are compiled with those of mlx-c.
const NATIVE: [(&str, &str); 2] =
    [("linux.cpp", include_str!("native/linux.cpp")), ("format.h", include_str!("native/format.h"))];

/// The `mlx-c` folder of the `mlx-sys` that the workspace at `root` is locked to, which must bind MLX `version`.
pub(super) fn sources(root: &Path, version: &str) -> Result<PathBuf> {
    let mut cargo = tool::cargo(root);
    cargo.args(["metadata", "--format-version=1"]);
    let metadata = tool::succeed(&mut cargo, CARGO)?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cannot read cargo's metadata")?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mlx-sys")
        .and_then(|package| package["manifest_path"].as_str())
        .context("this project does not depend on MLX\nhint: add `mlxlm-core` to its dependencies first")?;
    let sources = Path::new(manifest).with_file_name("src").join("mlx-c");
    let cmake = sources.join("CMakeLists.txt");
    let text = std::fs::read_to_string(&cmake).with_context(|| format!("cannot read `{}`", cmake.display()))?;
    if !text.contains(&format!("GIT_TAG v{version})")) {
        bail!(
            "`{}` does not bind MLX {version}\nhint: raise MLX_VERSION in mlxlm-core/src/setup with mlx-sys",
            cmake.display()
        );
    }
    Ok(sources)
}

/// The version that MLX's headers in `include` tell, such as `0.32.2`.
pub(super) fn version(include: &Path) -> Result<String> {
    let path = include.join("mlx/version.h");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let part = |name| text.lines().find_map(|line| line.strip_prefix("#define MLX_VERSION_")?.strip_prefix(name));
    let parts = ["MAJOR ", "MINOR ", "PATCH "].map(|name| part(name).map(str::trim));
    let parts: Option<Vec<_>> = parts.into_iter().collect();
    Ok(parts.with_context(|| format!("`{}` tells no version", path.display()))?.join("."))
}

/// Compiles `libmlxc.a` into `out`.
pub(super) fn compile(sources: &Path, include: &Path, out: &Path) -> Result<()> {
    let objects = out.join("objects");
    std::fs::create_dir_all(&objects).with_context(|| format!("cannot create `{}`", objects.display()))?;
    let [linux, format] = NATIVE.map(|(name, text)| (objects.join(name), text));
    for (path, text) in [&linux, &format] {
        std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    let mut files = vec![linux.0];
    let folder = sources.join("mlx/c");
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cpp"));
    // The large ones first, so that no core waits for one file at the end.
    files.sort_by_key(|path| path.metadata().map_or(0, |file| file.len()));

    let object = |file: &Path| objects.join(file.file_name().unwrap_or_default()).with_extension("o");
    let mut made: Vec<_> = files.iter().map(|file| object(file)).collect();
    made.sort();
    let queue = Mutex::new(files);
    let next = || queue.lock().ok()?.pop();
    let worker = || -> Result<()> {
        while let Some(file) = next() {
            let mut cxx = Command::new("g++");
            cxx.args(["-c", "-std=c++20", "-O2", "-fPIC", "-w", "-include"]).arg(&format.0);
            cxx.arg("-I").arg(sources).arg("-isystem").arg(include).arg(&file).arg("-o").arg(object(&file));
            tool::succeed(&mut cxx, CXX)?;
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a worker returns its errors"))
    })?;
    tool::succeed(Command::new("ar").arg("crs").arg(out.join("libmlxc.a")).args(made), AR)?;
    std::fs::remove_dir_all(&objects).with_context(|| format!("cannot remove `{}`", objects.display()))
}

/// Copies mlx-c's headers, the private ones too, for those who compile C++ against them.
pub(super) fn copy_headers(sources: &Path, into: &Path) -> Result<()> {
    for folder in ["mlx/c", "mlx/c/private"] {
        let (from, to) = (sources.join(folder), into.join(folder));
        std::fs::create_dir_all(&to).with_context(|| format!("cannot create `{}`", to.display()))?;
        for entry in std::fs::read_dir(&from).with_context(|| format!("cannot read `{}`", from.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "h") {
                let copy = to.join(path.file_name().unwrap_or_default());
                std::fs::copy(&path, &copy).with_context(|| format!("cannot copy `{}`", path.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_the_version() {
        let include = tempfile::tempdir().unwrap();
        let header = include.path().join("mlx/version.h");
        std::fs::create_dir_all(header.parent().unwrap()).unwrap();
        assert!(version(include.path()).is_err());
        std::fs::write(&header, "#define MLX_VERSION_MAJOR 0\n#define MLX_VERSION_MINOR 32\n").unwrap();
        assert!(version(include.path()).unwrap_err().to_string().contains("tells no version"));
        let numeric = "#define MLX_VERSION_PATCH 2\n#define MLX_VERSION_NUMERIC \\\n  (1 + 2)\n";
        let text = std::fs::read_to_string(&header).unwrap() + numeric;
        std::fs::write(&header, text).unwrap();
        assert_eq!(version(include.path()).unwrap(), "0.32.2");
    }
}
