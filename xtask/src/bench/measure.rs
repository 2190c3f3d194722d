//! Runs the measured programs, each measurement in a process of its own, and keeps what they say.
//!
//! Unusual: every result is a line of `measured.jsonl` as soon as it is there. A run that was interrupted goes on with
//! `--resume`, if the binary and the machine are the same.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::process;

/// What came of a measurement: the program's JSON object, or why there is none.
pub(super) type Outcome = Result<Value, String>;

/// What was measured so far, in memory and on disk.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// What all results depend on.
    basis: String,
    known: RefCell<Map<String, Value>>,
}

impl Journal {
    /// Begins anew, or goes on where `resume` says so and the basis is the same.
    pub(super) fn open(path: &Path, basis: &str, resume: bool) -> Result<Self> {
        let before = if resume { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        let known = parse(&before, basis);
        if known.is_empty() {
            fs::write(path, "").with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(Self { path: path.to_owned(), basis: basis.to_owned(), known: RefCell::new(known) })
    }

    /// Sees to it that there is a result called `key`: known from before, or what `command` prints on its last line. Only a
    /// disk that cannot be written to is an error.
    pub(super) fn measure(&self, key: &str, command: &mut Command) -> Result<()> {
        if self.known.borrow().contains_key(key) {
            return Ok(());
        }
        eprintln!("  {key}");
        let entry = match said(command) {
            Ok(value) => json!({"ok": value}),
            Err(why) => json!({"failed": why}),
        };
        let line = json!({"basis": self.basis, "key": key, "entry": entry});
        let written = OpenOptions::new().append(true).open(&self.path).and_then(|mut file| writeln!(file, "{line}"));
        written.with_context(|| format!("cannot write `{}`", self.path.display()))?;
        self.known.borrow_mut().insert(key.to_owned(), entry);
        Ok(())
    }

    /// The results whose keys begin with `prefix`, in the order in which they came.
    pub(super) fn outcomes(&self, prefix: &str) -> Vec<Outcome> {
        let known = self.known.borrow();
        known.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| outcome(entry)).collect()
    }

    /// Everything that went wrong, with its key.
    pub(super) fn failures(&self) -> Vec<(String, String)> {
        let known = self.known.borrow();
        known.iter().filter_map(|(key, entry)| Some((key.clone(), outcome(entry).err()?))).collect()
    }
}

fn parse(journal: &str, basis: &str) -> Map<String, Value> {
    // The last line may have been cut off.
    let lines = journal.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = lines.filter(|line| line["basis"] == basis);
    ours.filter_map(|line| Some((line["key"].as_str()?.to_owned(), line["entry"].clone()))).collect()
}

fn outcome(entry: &Value) -> Outcome {
    match entry.get("ok") {
        Some(value) => Ok(value.clone()),
        None => Err(entry["failed"].as_str().unwrap_or("no reason was kept").to_owned()),
    }
}

/// The JSON object that a program prints on its last line, or in a few words why it did not.
fn said(command: &mut Command) -> Outcome {
    let output = command.output().map_err(|error| format!("cannot be started: {error}"))?;
    if let Some(signal) = output.status.signal() {
        return Err(match signal {
            4 => "crashed: illegal instruction".to_owned(),
            6 => "crashed: aborted".to_owned(),
            9 => "killed, perhaps for want of memory".to_owned(),
            11 => "crashed: segmentation fault".to_owned(),
            signal => format!("crashed with signal {signal}"),
        });
    }
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let error = errors.lines().find(|line| line.starts_with("error: ")).or(errors.lines().last());
        return Err(error.unwrap_or("it failed and did not say why").trim_start_matches("error: ").to_owned());
    }
    let object = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    object.ok_or_else(|| "it printed no JSON object".to_owned())
}

/// Runs a program and takes its JSON object, or fails with its words.
pub(super) fn ask(command: &mut Command) -> Result<Value> {
    match said(command) {
        Ok(value) => Ok(value),
        Err(why) => bail!("`{}`: {why}", process::shown(command)),
    }
}

/// The middle one, or the mean of the middle two; nothing of nothing.
pub(super) fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        count if count % 2 == 1 => Some(numbers[middle]),
        _ => Some(f64::midpoint(numbers[middle - 1], numbers[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_last_line_counts() {
        assert_eq!(said(&mut shell("echo hello; echo '{\"a\": 1}'")).unwrap(), json!({"a": 1}));
        assert_eq!(said(&mut shell("echo hello")).unwrap_err(), "it printed no JSON object");
        let failed = said(&mut shell("printf 'error: no such model\\nhint: look\\n' >&2; exit 1"));
        assert_eq!(failed.unwrap_err(), "no such model");
        assert_eq!(said(&mut shell("kill -ILL $$")).unwrap_err(), "crashed: illegal instruction");
    }

    #[test]
    fn a_run_goes_on_where_it_was_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("measured.jsonl");
        let first = Journal::open(&path, "a", false).unwrap();
        first.measure("x 1", &mut shell("echo '{\"v\": 1}'")).unwrap();
        first.measure("y", &mut shell("exit 3")).unwrap();
        assert_eq!(first.outcomes("x "), [Ok(json!({"v": 1}))]);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"basis\": \"a\", \"key").unwrap();

        let again = Journal::open(&path, "a", true).unwrap();
        again.measure("x 1", &mut shell("exit 1")).unwrap();
        assert_eq!(again.outcomes("x "), [Ok(json!({"v": 1}))], "it is not run again");
        assert_eq!(again.failures().len(), 1);
        assert!(Journal::open(&path, "b", true).unwrap().outcomes("").is_empty(), "another binary");
        assert!(Journal::open(&path, "a", false).unwrap().outcomes("").is_empty());
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
