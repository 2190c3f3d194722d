//! The other programs: Python mlx-lm, and llama.cpp by way of llama-cpp-python. None of them has to be there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::machine;
use super::measure::ask;
use super::shape::Shape;
use crate::process::{self, PYTHON};
use crate::workspace;

/// A program that is measured beside ours.
#[derive(Debug)]
pub(super) struct Peer {
    /// As the report calls it, with its version.
    pub(super) title: String,
    python: PathBuf,
    script: PathBuf,
}

impl Peer {
    /// mlx-lm in this Python, if it is there.
    fn mlx_lm(python: &Path) -> Result<Self> {
        let (script, said) = version(python, "peer_mlx_lm.py")?;
        let title = format!("Python mlx-lm {}", machine::peer_version(&said));
        Ok(Self { title, python: python.to_owned(), script })
    }

    /// llama.cpp in this Python, called by what its build can do.
    fn llama(python: &Path) -> Result<Self> {
        let (script, said) = version(python, "peer_llama.py")?;
        let build = build(said["system"].as_str().unwrap_or_default());
        let title = format!("llama.cpp Q4_0, {build} build (llama-cpp-python {})", machine::peer_version(&said));
        Ok(Self { title, python: python.to_owned(), script })
    }

    /// Its script with a command.
    pub(super) fn command(&self, command: &str) -> Command {
        let mut python = Command::new(&self.python);
        python.arg(&self.script).arg(command);
        python
    }

    /// The model of a shape for llama.cpp, made if it is not there.
    pub(super) fn gguf(&self, home: &Path, shape: &Shape) -> Result<PathBuf> {
        let done = home.join(format!("{}-v1.gguf", shape.name));
        if !done.is_file() {
            eprintln!("making `{}`", done.display());
            let config = home.join(format!("{}.gguf.json", shape.name));
            std::fs::write(&config, shape.config().to_string())?;
            process::succeed(self.command("make").arg(&config).arg(&done), PYTHON)
                .context("the model for llama.cpp cannot be made\nhint: it needs the Python package `gguf`")?;
        }
        Ok(done)
    }
}

/// The peers that are there, and the reasons why others are not.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) mlx_lm: Option<Peer>,
    pub(super) llamas: Vec<Peer>,
    pub(super) absent: Vec<String>,
}

impl Peers {
    /// Looks in the Pythons that are named, else in those that [`install`] made below `home`.
    pub(super) fn find(python: Option<&Path>, llamas: &[PathBuf], home: &Path) -> Self {
        let mut peers = Self::default();
        let own = |name: &str| home.join(name).join("bin/python");
        let python = python.map_or_else(|| own("mlx-lm"), Path::to_owned);
        match Peer::mlx_lm(&python) {
            Ok(peer) => peers.mlx_lm = Some(peer),
            Err(_) => peers.absent.push(format!("Python mlx-lm: {}", Self::hint("--python"))),
        }
        let own_llamas = || BUILDS.iter().map(|(name, _)| own(name)).filter(|python| python.is_file()).collect();
        let llamas: Vec<PathBuf> = if llamas.is_empty() { own_llamas() } else { llamas.to_vec() };
        for python in llamas {
            match Peer::llama(&python) {
                Ok(peer) => peers.llamas.push(peer),
                Err(error) => peers.absent.push(format!("a llama.cpp: {error:#}")),
            }
        }
        if peers.llamas.is_empty() {
            peers.absent.push(format!("llama.cpp: {}", Self::hint("--llama-python")));
        }
        peers
    }

    /// The Pythons that have a llama.cpp.
    pub(super) fn pythons(&self) -> Vec<PathBuf> {
        self.llamas.iter().map(|peer| peer.python.clone()).collect()
    }

    fn hint(option: &str) -> String {
        format!("not found; `{option} PATH` names a Python that has it, `--install-peers` makes one")
    }
}

fn version(python: &Path, script: &str) -> Result<(PathBuf, Value)> {
    let script = workspace::root().join("xtask/src/bench").join(script);
    let said = ask(Command::new(python).arg(&script).arg("version"))?;
    Ok((script, said))
}

/// The best instructions in what llama.cpp says of its build.
fn build(system: &str) -> &'static str {
    let names = [("AMX_INT8 = 1", "AMX"), ("AVX512 = 1", "AVX-512"), ("AVX2 = 1", "AVX2"), ("NEON = 1", "NEON")];
    names.iter().find(|(flag, _)| system.contains(flag)).map_or("plain", |(_, name)| name)
}

/// The builds of llama.cpp: a folder, and what it is compiled with. Its own choice would be made at run time or by the
/// compiler's machine; here each build has the instructions that it is named for.
const BUILDS: [(&str, &[&str]); 3] = [
    ("llama-avx2", &["AVX", "AVX2", "FMA", "F16C", "BMI2"]),
    ("llama-avx512", AVX512),
    (
        "llama-amx",
        &[
            "AVX",
            "AVX2",
            "FMA",
            "F16C",
            "BMI2",
            "AVX512",
            "AVX512_VBMI",
            "AVX512_VNNI",
            "AVX512_BF16",
            "AMX_TILE",
            "AMX_INT8",
            "AMX_BF16",
        ],
    ),
];
const AVX512: &[&str] = &["AVX", "AVX2", "FMA", "F16C", "BMI2", "AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16"];

/// Makes virtual environments below `home` with mlx-lm and, for this CPU, the builds of llama.cpp.
pub(super) fn install(home: &Path) -> Result<()> {
    let mlx = if cfg!(target_os = "linux") { "mlx[cpu]" } else { "mlx" };
    environment(home, "mlx-lm", &[], &["mlx-lm", mlx])?;
    // Where there are tiles, the comparison without them is worth the time.
    let builds = match (machine::has("amx_int8"), machine::has("avx512_bf16")) {
        (true, _) => &BUILDS[1..],
        (false, true) => &BUILDS[1..2],
        (false, false) => &BUILDS[..1],
    };
    for (name, flags) in builds {
        let mut cmake = vec!["-DGGML_NATIVE=OFF".to_owned(), "-DLLAVA_BUILD=OFF".to_owned()];
        for flag in BUILDS[2].1 {
            cmake.push(format!("-DGGML_{flag}={}", if flags.contains(flag) { "ON" } else { "OFF" }));
        }
        let mut variables = vec![("CMAKE_ARGS", cmake.join(" ")), ("FORCE_CMAKE", "1".to_owned())];
        if flags.contains(&"AMX_TILE") {
            let tiles = workspace::root().join("xtask/src/bench/tiles.h");
            variables.push(("CXXFLAGS", format!("-include {}", tiles.display())));
        }
        eprintln!("compiling llama.cpp for `{name}`; this takes some minutes");
        let packages = ["--no-cache-dir", "--no-binary", "llama-cpp-python", "llama-cpp-python", "gguf"];
        environment(home, name, &variables, &packages)?;
    }
    Ok(())
}

/// A virtual environment with packages, unless it is there.
fn environment(home: &Path, name: &str, variables: &[(&str, String)], packages: &[&str]) -> Result<()> {
    let folder = home.join(name);
    if folder.join("done").is_file() {
        return Ok(());
    }
    eprintln!("installing into `{}`", folder.display());
    process::succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder), PYTHON)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "--disable-pip-version-check", "--quiet", "install"]).args(packages);
    pip.envs(variables.iter().map(|(name, value)| (name, value)));
    process::succeed(&mut pip, PYTHON)?;
    std::fs::write(folder.join("done"), json!(packages).to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_called_by_what_they_can_do() {
        assert_eq!(build("CPU : AVX2 = 1 | AVX512 = 1 | AMX_INT8 = 1 | "), "AMX");
        assert_eq!(build("CPU : AVX2 = 1 | AVX512 = 1 | "), "AVX-512");
        assert_eq!(build("CPU : SSE3 = 1 | AVX = 1 | "), "plain");
        assert!(BUILDS.iter().all(|(_, flags)| flags.iter().all(|flag| BUILDS[2].1.contains(flag))));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let home = tempfile::tempdir().unwrap();
        let peers = Peers::find(None, &[], home.path());
        assert!(peers.mlx_lm.is_none() && peers.llamas.is_empty());
        assert_eq!(peers.absent.len(), 2);
        assert!(peers.absent[1].starts_with("llama.cpp: not found; `--llama-python PATH`"), "{:?}", peers.absent);
    }
}
