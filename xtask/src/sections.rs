//! Several checks in a row, each under a heading, with a summary at the end. A check that fails does not keep
//! the next one from running: one run tells all.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process;

/// The checks so far.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    done: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    title: &'static str,
    passed: bool,
    took: Duration,
}

impl Sections {
    /// Runs `check` under the heading `title`.
    pub(crate) fn check(&mut self, title: &'static str, check: impl FnOnce() -> Result<()>) {
        eprintln!("── {title} {}", "─".repeat(72_usize.saturating_sub(title.len())));
        let begin = Instant::now();
        let result = check();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        self.done.push(Section { title, passed: result.is_ok(), took: begin.elapsed() });
    }

    /// Runs a program, whose output goes where ours goes.
    pub(crate) fn command(&mut self, title: &'static str, command: &mut Command) {
        self.check(title, || {
            let status = command.status()?;
            if !status.success() {
                bail!("`{}` failed ({status})", process::shown(command));
            }
            Ok(())
        });
    }

    /// Prints the summary; an error if any check failed.
    pub(crate) fn finish(self) -> Result<()> {
        eprintln!("── summary {}", "─".repeat(65));
        for Section { title, passed, took } in &self.done {
            let verdict = if *passed { "ok" } else { "FAILED" };
            eprintln!("{verdict:>8}  {title} ({:.1} s)", took.as_secs_f32());
        }
        let failed: Vec<_> = self.done.iter().filter(|section| !section.passed).map(|section| section.title).collect();
        if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_runs_and_the_failed_ones_are_named() {
        let mut sections = Sections::default();
        let mut ran = 0;
        sections.check("one", || bail!("no"));
        sections.check("two", || {
            ran += 1;
            Ok(())
        });
        sections.command("three", Command::new("sh").args(["-c", "exit 4"]));
        assert_eq!(ran, 1);
        assert_eq!(sections.finish().unwrap_err().to_string(), "failed: one, three");
    }

    #[test]
    fn all_passed_is_no_error() {
        let mut sections = Sections::default();
        sections.command("one", &mut Command::new("true"));
        assert!(sections.finish().is_ok());
    }
}
