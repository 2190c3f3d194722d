//! `cargo xtask new-arch NAME`: the files that a new architecture begins with, and its two lines in the registry.
//!
//! What it writes is Llama under another name: it compiles, and is changed until the golden case of the new architecture passes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Add an architecture: its file, its lines in the registry, and a tiny configuration
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Its `model_type`
    name: String,
}

/// The file of an architecture, with `NAME` for its name.
const FILE: &str = include_str!("arch.rs.txt");
/// A configuration, with `NAME` for its name.
const CONFIG: &str = include_str!("config.json.txt");

pub(crate) fn run(args: &Args) -> Result<()> {
    create(&workspace::root(), &args.name)?;
    let (name, module) = (&args.name, module_of(&args.name));
    eprintln!(
        "written: mlxlm-models/src/arch/{module}.rs, two lines of arch/mod.rs, mlxlm-models/tests/golden/{name}/config.json\n\
         next: make config.json like a small one of {name}, then\n  \
         cargo xtask golden record mlxlm-models/tests/golden/{name}/config.json\n  \
         cargo xtask golden check mlxlm-models/tests/golden/{name}\n\
         and change the file until it says ok (CONTRIBUTING.md shows it on an example)"
    );
    Ok(())
}

/// Writes the files below the root of a workspace.
fn create(root: &Path, name: &str) -> Result<()> {
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !valid || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
        bail!("`{name}` is not a model type: letters, digits, `_` and `-` are possible, a letter first");
    }
    let module = module_of(name);
    let arch = root.join("mlxlm-models/src/arch");
    let (file, list) = (arch.join(format!("{module}.rs")), arch.join("mod.rs"));
    let config = root.join("mlxlm-models/tests/golden").join(name).join("config.json");
    if let Some(old) = [&file, &config].into_iter().find(|path| path.exists()) {
        bail!("`{}` is there already", old.display());
    }
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read `{}`", list.display()))?;
    let registered = registered(&text, &module, name).with_context(|| format!("`{}` has no list", list.display()))?;
    write(&file, &FILE.replace("NAME", name))?;
    write(&config, &CONFIG.replace("NAME", name))?;
    write(&list, &registered)
}

/// The name of the module of a `model_type`.
fn module_of(name: &str) -> String {
    name.replace('-', "_").to_lowercase()
}

/// `arch/mod.rs` with the two lines of a module, each in its place of a sorted list.
fn registered(text: &str, module: &str, name: &str) -> Option<String> {
    let declared = inserted(text, "mod ", &format!("mod {module};"))?;
    inserted(&declared, "    of!(", &format!("    of!({module}::ARCH, \"{name}\"),"))
}

/// The text with a line added to those that begin so, before the first that comes after it in the alphabet.
fn inserted(text: &str, start: &str, line: &str) -> Option<String> {
    // Without what follows the module, `qwen3` comes before `qwen3_moe`.
    let key = |line: &str| line.split([';', ':']).next().unwrap_or(line).to_owned();
    let lines: Vec<&str> = text.lines().collect();
    let after = |other: &&str| other.starts_with(start) && key(other) > key(line);
    let at = lines.iter().position(after);
    let at = at.or_else(|| lines.iter().rposition(|other| other.starts_with(start)).map(|last| last + 1))?;
    let (before, rest) = lines.split_at(at);
    Some([before, &[line], rest].concat().join("\n") + "\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_stays_sorted_wherever_a_line_goes() {
        let text = "//! Head.\n\nmod llama;\nmod qwen3;\nmod qwen3_moe;\n\nuse x;\n\npub static A: &[&B] = &[\n    \
                    of!(llama::ARCH, \"llama\"),\n    of!(qwen3::ARCH, \"qwen3\"),\n    \
                    of!(qwen3_moe::ARCH, \"qwen3_moe\"),\n];\n";
        for (module, before) in [("gemma", "llama"), ("qwen2", "qwen3"), ("qwen3_a", "qwen3_moe")] {
            let new = registered(text, module, module).unwrap();
            assert!(new.contains(&format!("mod {module};\nmod {before};\n")), "{new}");
            let line = |module| format!("    of!({module}::ARCH, \"{module}\"),\n");
            assert!(new.contains(&format!("{}{}", line(module), line(before))), "{new}");
        }
        let last = registered(text, "ze_bra", "ze-bra").unwrap();
        assert!(last.contains("mod qwen3_moe;\nmod ze_bra;\n"), "{last}");
        assert!(last.contains("of!(ze_bra::ARCH, \"ze-bra\"),\n];\n"), "{last}");
    }

    #[test]
    fn files_are_made_once_and_for_names_only() {
        let root = tempfile::tempdir().unwrap();
        let list = root.path().join("mlxlm-models/src/arch/mod.rs");
        write(&list, "mod llama;\n\n    of!(llama::ARCH, \"llama\"),\n").unwrap();
        create(root.path(), "lille-130m").unwrap();
        let file = fs::read_to_string(root.path().join("mlxlm-models/src/arch/lille_130m.rs")).unwrap();
        assert!(file.contains("decoder::<Config>(&[\"lille-130m\"])"), "{file}");
        let config = root.path().join("mlxlm-models/tests/golden/lille-130m/config.json");
        let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
        assert_eq!(config["model_type"], "lille-130m");
        assert_eq!(fs::read_to_string(&list).unwrap().matches("lille").count(), 3);
        for (name, what) in [("lille-130m", "there already"), ("../x", "not a model type"), ("", "not a model type")] {
            let error = create(root.path(), name).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
