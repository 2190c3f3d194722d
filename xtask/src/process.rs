//! Running other programs, and saying how to install those that are missing.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Command, Output};

use anyhow::{Result, anyhow, bail};

/// A program or Python module that `setup` needs, with its package names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// What is missing, as the message names it.
    pub(crate) name: &'static str,
    apt: &'static str,
    dnf: &'static str,
    pacman: &'static str,
    brew: &'static str,
}

pub(crate) const PYTHON: Tool = Tool {
    name: "python3",
    apt: "python3 python3-pip",
    dnf: "python3 python3-pip",
    pacman: "python python-pip",
    brew: "python",
};
/// Part of every way to install Rust, and it runs us; so this is never seen.
pub(crate) const CARGO: Tool = Tool { name: "cargo", apt: "cargo", dnf: "cargo", pacman: "rust", brew: "rustup" };
pub(crate) const PIP: Tool = Tool {
    name: "pip (as a module of python3)",
    apt: "python3-pip",
    dnf: "python3-pip",
    pacman: "python-pip",
    brew: "python",
};
pub(crate) const CXX: Tool = Tool { name: "g++", apt: "g++", dnf: "gcc-c++", pacman: "gcc", brew: "gcc" };
pub(crate) const AR: Tool = Tool { name: "ar", apt: "binutils", dnf: "binutils", pacman: "binutils", brew: "binutils" };
pub(crate) const GIT: Tool = Tool { name: "git", apt: "git", dnf: "git", pacman: "git", brew: "git" };
pub(crate) const LIBCLANG: Tool =
    Tool { name: "libclang", apt: "libclang-dev", dnf: "clang-devel", pacman: "clang", brew: "llvm" };

impl Tool {
    /// A program whose packages are called like it.
    pub(crate) const fn named(name: &'static str) -> Self {
        Self { name, apt: name, dnf: name, pacman: name, brew: name }
    }

    /// The error for a machine that lacks this tool, with the command that installs it.
    pub(crate) fn missing(self) -> anyhow::Error {
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
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Runs `command` and returns what it printed; `tool` is named when the program does not exist.
pub(crate) fn output(command: &mut Command, tool: Tool) -> Result<Output> {
    command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => tool.missing(),
        _ => anyhow!("cannot run `{}`: {error}", command.get_program().display()),
    })
}

/// Like [`output`], with an error that quotes the program's own words when it fails.
pub(crate) fn succeed(command: &mut Command, tool: Tool) -> Result<String> {
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
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
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
}
