//! A folder of its own for each test, in which the binary runs without anything of the user's.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tiny;

/// A place to run the binary in.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with the model `tiny` in it.
    pub fn new() -> Self {
        let bench = Self::empty();
        tiny::make(&bench.path("tiny"), 7);
        bench
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The names in the folder, sorted, without those that every test has.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "tiny" && name != "home");
        names.sort();
        names
    }

    /// The binary, about to run here.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxlm"));
        let foreign = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for name in foreign.filter(|name| name.starts_with("HF_") || name.starts_with("XDG_")) {
            command.env_remove(name);
        }
        command
            .current_dir(self.folder.path())
            .env("HOME", self.path("home"))
            .env("HF_HUB_OFFLINE", "1")
            .env("COLUMNS", "100")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the binary to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        Ran::from(self.command().args(args).output().unwrap())
    }

    /// Runs the binary with something to read.
    pub fn run_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Ran {
        let mut child = self.command().args(args).stdin(Stdio::piped()).spawn().unwrap();
        // A binary that ends without reading has its reasons.
        drop(child.stdin.take().unwrap().write_all(stdin));
        Ran::from(child.wait_with_output().unwrap())
    }

    /// What `generate` prints for these options, and nothing else.
    pub fn text(&self, options: &[&str]) -> String {
        self.shown(options).ok()
    }

    /// The same with what it warns of.
    pub fn shown(&self, options: &[&str]) -> Ran {
        self.run(&[&["generate", "--model", "tiny", "--verbose", "false"], options].concat())
    }
}

/// What the binary did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    /// Standard output of a run in which nothing went wrong.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// The message and the hint of a run that failed as it should.
    #[track_caller]
    pub fn refused(&self, code: i32) -> (&str, &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let is_before = |line: &str| line.starts_with("warning: ") || line.starts_with("note: ");
        let before: usize = self.stderr.split_inclusive('\n').take_while(|line| is_before(line)).map(str::len).sum();
        let text = self.stderr[before..].strip_prefix("error: ").expect(&self.stderr).trim_end_matches('\n');
        let (message, hint) = text.split_once("\nhint: ").unwrap_or((text, ""));
        // Further lines of a message are the items of a list.
        assert!(message.lines().skip(1).all(|line| line.starts_with("  - ")), "{}", self.stderr);
        assert!(!hint.contains('\n'), "{}", self.stderr);
        assert!(!message.contains("panicked"), "{message}");
        (message, hint)
    }
}
