//! What `test --clients` needs: Python environments with the programs of others that ask the server.
//!
//! In `target/clients` are OpenAI's and Anthropic's packages and a suite of compliance, in `target/routers` what stands before replicas.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, PYTHON};
use crate::sections::Sections;
use crate::workspace;

/// The environments, and the lists of what is in them.
const ENVIRONMENTS: [(&str, &str); 2] = [("clients", "packages.txt"), ("routers", "routers.txt")];
/// With the features of the other tests, so that nothing is compiled again.
const TESTS: [&str; 8] =
    ["test", "--workspace", "--exclude", "xtask", "--features", "mlxlm-cli/clients", "--test", "clients"];

/// The tests with the programs of others, as sections: packages, suites, a browser, routers.
pub(crate) fn add(sections: &mut Sections) {
    sections.check("programs of others", || ENVIRONMENTS.iter().try_for_each(ensure));
    sections.command("tests with programs of others", workspace::cargo().args(TESTS).arg("--no-fail-fast"));
}

/// Those of them that need packages only: no browser, no routers.
pub(crate) fn add_small(sections: &mut Sections) {
    sections.check("packages of others", || ensure(&ENVIRONMENTS[0]));
    let only = ["--", "packages", "suites"];
    sections.command("tests with packages of others", workspace::cargo().args(TESTS).args(only));
}

/// Makes an environment that is not there, or not as its list has it.
fn ensure((name, list): &(&str, &str)) -> Result<()> {
    let root = workspace::root();
    let list = root.join("mlxlm-serve/tests/clients").join(list);
    make(&root.join("target").join(name), &list)
}

fn make(home: &Path, list: &Path) -> Result<()> {
    let wanted = fs::read_to_string(list).with_context(|| format!("cannot read `{}`", list.display()))?;
    let done = home.join("packages.txt");
    if fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    let packages: Vec<&str> = wanted.lines().filter(|line| !line.is_empty()).collect();
    eprintln!("clients: getting {} with pip", packages.join(", "));
    process::succeed(Command::new("python3").args(["-m", "venv"]).arg(home), PYTHON)?;
    let mut pip = Command::new(home.join("bin/python"));
    pip.args(["-m", "pip", "--disable-pip-version-check", "--quiet", "install"]).args(&packages);
    let status = pip.status().with_context(|| format!("cannot run `{}`", process::shown(&pip)))?;
    if !status.success() {
        bail!("`{}` failed ({status})\nhint: it needs a network and Python 3.10 or newer", process::shown(&pip));
    }
    fs::write(&done, wanted).with_context(|| format!("cannot write `{}`", done.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_as_listed_is_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (home, list) = (folder.path().join("home"), folder.path().join("list.txt"));
        fs::create_dir(&home).unwrap();
        for path in [&list, &home.join("packages.txt")] {
            fs::write(path, "one==1\n").unwrap();
        }
        make(&home, &list).unwrap();
        assert!(!home.join("bin").exists());
    }

    #[test]
    fn the_lists_are_there() {
        for (_, list) in ENVIRONMENTS {
            let text = fs::read_to_string(workspace::root().join("mlxlm-serve/tests/clients").join(list)).unwrap();
            assert!(text.contains("pytest"));
        }
    }
}
