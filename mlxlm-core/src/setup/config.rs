//! `.cargo/mlx-native.toml`: what cargo knows about MLX.
//!
//! The first table replaces `mlx-sys`'s build script. The second lets the programs that cargo builds, tests and
//! documentation examples included, find `libmlx.so` when they run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::source::{CUDA, Mlx, Source};

/// Begins the line that names the folder of the setup.
const SETUP: &str = "# setup: ";

/// Writes the configuration for the setup in `dir`.
pub(super) fn write(root: &Path, source: &Source, mlx: &Mlx, dir: &Path) -> Result<()> {
    let path = path(root);
    let draft = path.with_extension("toml.tmp");
    std::fs::write(&draft, text(source, mlx, dir))
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Whether the configuration is what `write` would write.
pub(super) fn is_written(root: &Path, source: &Source, mlx: &Mlx, dir: &Path) -> bool {
    std::fs::read_to_string(path(root)).is_ok_and(|found| found == text(source, mlx, dir))
}

/// The folder of the setup that the configuration was written for.
pub(super) fn setup_dir(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(path(root)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(SETUP)).map(PathBuf::from)
}

/// The folder of `libmlx.so` that programs built here look into, and those of the libraries that it needs.
pub(super) fn libraries(root: &Path) -> Option<(PathBuf, Vec<PathBuf>)> {
    libraries_in(&std::fs::read_to_string(path(root)).ok()?)
}

fn libraries_in(text: &str) -> Option<(PathBuf, Vec<PathBuf>)> {
    let line = text.lines().find(|line| line.starts_with("rustflags = "))?;
    let of = |option: &str| {
        let start = format!("\"link-arg=-Wl,{option},");
        let paths = line.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).map(PathBuf::from);
        paths.collect::<Vec<_>>()
    };
    Some((of("-rpath").into_iter().next()?, of("-rpath-link")))
}

/// Lets the configuration of the project at `root` include ours.
pub(super) fn include(root: &Path) -> Result<()> {
    const LINE: &str = "include = [{ path = \"mlx-native.toml\", optional = true }]\n";
    let folder = root.join(".cargo");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    // Cargo reads the older name first.
    let path = ["config", "config.toml"].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    let path = path.unwrap_or_else(|| folder.join("config.toml"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    };
    if text.contains("mlx-native.toml") {
        return Ok(());
    }
    if text.lines().any(|line| line.trim_start().starts_with("include")) {
        bail!(
            "`{}` includes other files\nhint: add `{{ path = \"mlx-native.toml\", optional = true }}` to its `include`",
            path.display()
        );
    }
    let draft = folder.join("config.tmp");
    std::fs::write(&draft, format!("{LINE}{text}"))
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    eprintln!("setup: `{}` includes mlx-native.toml; keep that file and .mlx out of your repository", path.display());
    Ok(())
}

fn path(root: &Path) -> PathBuf {
    root.join(".cargo/mlx-native.toml")
}

fn text(source: &Source, mlx: &Mlx, dir: &Path) -> String {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = dir.join("out");
    let search = [native(&out), native(&mlx.lib)];
    let mut flags = vec![link_arg("-rpath", &mlx.lib)];
    flags.extend(mlx.needed.iter().map(|needed| link_arg("-rpath-link", needed)));
    if *source == CUDA {
        // NVIDIA's libraries are needed to run, not to build.
        flags.push("link-arg=-Wl,--allow-shlib-undefined".to_owned());
    }
    let flags: Vec<_> = flags.into_iter().flat_map(|flag| ["-C".to_owned(), flag]).collect();
    let include = format!("{}:{}", mlx.include.display(), dir.join("mlx-c").display());
    format!(
        "# Written by mlxlm's setup for this machine; not to be committed.\n\
         {SETUP}{}\n\
         [target.{triple}.mlx]\n\
         rustc-link-search = {search:?}\n\
         rustc-link-lib = [\"static=mlxc\", \"dylib=mlx\", \"dylib=stdc++\"]\n\
         rustc-env = {{ OUT_DIR = {:?} }}\n\
         include = {include:?}\n\
         \n\
         [target.{triple}]\n\
         rustflags = {flags:?}\n\
         rustdocflags = {flags:?}\n",
        dir.display(),
        out.to_string_lossy()
    )
}

fn native(dir: &Path) -> String {
    format!("native={}", dir.display())
}

fn link_arg(option: &str, dir: &Path) -> String {
    format!("link-arg=-Wl,{option},{}", dir.display())
}

#[cfg(test)]
mod tests {
    use super::super::source::CPU;
    use super::*;

    #[test]
    fn the_libraries_are_those_of_the_flags() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("wheel/mlx_cpu.libs")).unwrap();
        let mlx = CPU.folders(dir.path()).unwrap();
        assert_eq!(libraries_in(&text(&CPU, &mlx, dir.path())), Some((mlx.lib, mlx.needed)));
    }

    fn mlx() -> Mlx {
        Mlx { include: "/m/include".into(), lib: "/m/lib".into(), needed: vec!["/m/libs".into()] }
    }

    #[test]
    fn cargo_knows_where_everything_is() {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let text = text(&CPU, &mlx(), Path::new("/s"));
        for part in [
            &format!("[target.{triple}.mlx]\n"),
            r#"rustc-link-search = ["native=/s/out", "native=/m/lib"]"#,
            r#"rustc-link-lib = ["static=mlxc", "dylib=mlx", "dylib=stdc++"]"#,
            r#"rustc-env = { OUT_DIR = "/s/out" }"#,
            r#"include = "/m/include:/s/mlx-c""#,
            &format!("[target.{triple}]\n"),
            r#"rustflags = ["-C", "link-arg=-Wl,-rpath,/m/lib", "-C", "link-arg=-Wl,-rpath-link,/m/libs"]"#,
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn the_configuration_is_written_and_recognized() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join(".cargo")).unwrap();
        assert_eq!(setup_dir(root), None);
        write(root, &CPU, &mlx(), Path::new("/s")).unwrap();
        assert!(is_written(root, &CPU, &mlx(), Path::new("/s")));
        assert!(!is_written(root, &CPU, &mlx(), Path::new("/t")));
        assert_eq!(setup_dir(root), Some("/s".into()));
    }

    #[test]
    fn the_configuration_of_a_project_includes_ours_once() {
        let root = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(root.path().join(".cargo").join(name)).unwrap();
        include(root.path()).unwrap();
        let made = read("config.toml");
        assert_eq!(made, "include = [{ path = \"mlx-native.toml\", optional = true }]\n");
        include(root.path()).unwrap();
        assert_eq!(read("config.toml"), made);

        let path = root.path().join(".cargo/config.toml");
        std::fs::write(&path, "[build]\njobs = 1\n").unwrap();
        include(root.path()).unwrap();
        assert_eq!(read("config.toml"), made + "[build]\njobs = 1\n");

        std::fs::write(&path, "include = [\"other.toml\"]\n").unwrap();
        let error = include(root.path()).unwrap_err().to_string();
        assert!(error.contains("hint: add `{ path = \"mlx-native.toml\""), "{error}");
        assert_eq!(read("config.toml"), "include = [\"other.toml\"]\n");
    }
}
