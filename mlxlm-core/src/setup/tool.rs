//! Running other programs, and saying how to install those that are missing.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail};

/// A program or Python module that `setup` needs, with its package names.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// What is missing, as the message names it.
    pub name: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
    brew: &'static str,
}

/// Gets wheels and unpacks them.
pub const PYTHON: Tool = Tool {
    name: "python3",
    apt: "python3 python3-pip",
    dnf: "python3 python3-pip",
    pacman: "python python-pip",
    brew: "python",
};
/// Part of every way to install Rust, and it runs us; so this is never seen.
pub const CARGO: Tool = Tool { name: "cargo", apt: "cargo", dnf: "cargo", pacman: "rust", brew: "rustup" };
/// Downloads wheels.
pub const PIP: Tool = Tool {
    name: "pip (as a module of python3)",
    apt: "python3-pip",
    dnf: "python3-pip",
    pacman: "python-pip",
    brew: "python",
};
/// Compiles mlx-c.
pub const CXX: Tool = Tool { name: "g++", apt: "g++", dnf: "gcc-c++", pacman: "gcc", brew: "gcc" };
/// Makes a library of what was compiled.
pub const AR: Tool = Tool { name: "ar", apt: "binutils", dnf: "binutils", pacman: "binutils", brew: "binutils" };
/// Lists the files of a repository.
pub const GIT: Tool = Tool { name: "git", apt: "git", dnf: "git", pacman: "git", brew: "git" };
/// Reads the headers of mlx-c.
pub const LIBCLANG: Tool =
    Tool { name: "libclang", apt: "libclang-dev", dnf: "clang-devel", pacman: "clang", brew: "llvm" };

impl Tool {
    /// A program whose packages are called like it.
    pub const fn named(name: &'static str) -> Self {
        Self { name, apt: name, dnf: name, pacman: name, brew: name }
    }

    /// The error for a machine that lacks this tool, with the command that installs it.
    pub fn missing(self) -> anyhow::Error {
        anyhow!("{} is missing\nhint: {}", self.name, self.install_command(on_path))
    }

    fn install_command(self, has: impl Fn(&str) -> bool) -> String {
        let managers = [
            ("apt-get", "sudo apt-get install", self.apt),
            ("dnf", "sudo dnf install", self.dnf),
            ("pacman", "sudo pacman -S", self.pacman),
            ("brew", "brew install", self.brew),
        ];
        match managers.iter().find(|(program, ..)| has(program)) {
            Some((_, install, packages)) => format!("`{install} {packages}`"),
            None => format!("`apt-get install {}` or `dnf install {}`", self.apt, self.dnf),
        }
    }
}

/// Whether `program` can be started by its name.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Runs `command` and returns what it printed; `tool` is named when the program does not exist.
pub fn output(command: &mut Command, tool: Tool) -> Result<Output> {
    command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => tool.missing(),
        _ => anyhow!("cannot run `{}`: {error}", command.get_program().display()),
    })
}

/// Like [`output`], with an error that quotes the program's own words when it fails.
pub fn succeed(command: &mut Command, tool: Tool) -> Result<String> {
    let output = output(command, tool)?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({})\n{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The cargo that runs us, or the first one on the path, in `dir`.
pub fn cargo(dir: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir);
    cargo
}

/// The version of `package` in `Cargo.lock` at `root`.
///
/// # Errors
/// No lock file, or none that names `package`.
pub fn locked_version(root: &Path, package: &str) -> Result<String> {
    let path = root.join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    version_in_lock(&lock, package).with_context(|| format!("`{}` names no `{package}`", path.display()))
}

fn version_in_lock(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.next()?;
    Some(lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_follows_the_package_manager() {
        assert_eq!(CXX.install_command(|p| p == "apt-get"), "`sudo apt-get install g++`");
        assert_eq!(CXX.install_command(|p| p == "dnf"), "`sudo dnf install gcc-c++`");
        assert_eq!(PYTHON.install_command(|p| p == "brew"), "`brew install python`");
        assert_eq!(CXX.install_command(|_| false), "`apt-get install g++` or `dnf install gcc-c++`");
    }

    #[test]
    fn absent_program_is_named_with_its_remedy() {
        let error = output(&mut Command::new("mlxlm-no-such-program"), CXX).unwrap_err().to_string();
        assert!(error.starts_with("g++ is missing\nhint: "), "{error}");
    }

    #[test]
    fn failure_quotes_the_program() {
        let error = succeed(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]), CXX).unwrap_err();
        assert!(error.to_string().contains("no luck"), "{error}");
    }

    #[test]
    fn lock_is_read_by_whole_names() {
        let lock = "[[package]]\nname = \"mlx-sys-x\"\nversion = \"9.0.0\"\n\n[[package]]\nname = \"mlx-sys\"\nversion = \"0.7.0\"\n";
        assert_eq!(version_in_lock(lock, "mlx-sys").as_deref(), Some("0.7.0"));
        assert_eq!(version_in_lock(lock, "mlx"), None);
    }
}
