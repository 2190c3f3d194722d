//! `manage`: the models in the Hugging Face cache.

use std::time::SystemTime;

use mlxlm_core::hub::CachedRepo;

use crate::args::ManageArgs;
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::{print, say, warn};
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &ManageArgs) -> Result {
    if !args.scan && !args.delete {
        return Err(Failure::usage("`manage` needs `--scan` or `--delete`"));
    }
    if args.scan {
        scan(&args.pattern)?;
    }
    if args.delete {
        delete(&args.pattern)?;
    }
    Ok(())
}

/// The repositories whose name contains `pattern`.
fn matching(pattern: &str) -> Result<Vec<CachedRepo>> {
    let scan = model::hub()?.scan()?;
    scan.warnings.iter().for_each(warn);
    Ok(scan.repos.into_iter().filter(|repo| repo.id.contains(pattern)).collect())
}

fn scan(pattern: &str) -> Result {
    say!("Scanning Hugging Face cache for models with pattern \"{}\".", terminal::name(pattern))?;
    let headers = ["REPO ID", "REPO TYPE", "SIZE ON DISK", "NB FILES", "LAST_ACCESSED", "LAST_MODIFIED", "LOCAL PATH"];
    let row = |repo: &CachedRepo| {
        vec![
            terminal::name(&repo.id),
            repo.kind.to_owned(),
            format!("{:>12}", size(repo.size_bytes)),
            format!("{:>8}", repo.files),
            ago(repo.last_accessed),
            ago(repo.last_modified),
            terminal::name(&repo.path.to_string_lossy()),
        ]
    };
    let repos = matching(pattern)?;
    match repos.is_empty() {
        true => say!("No models found matching pattern \"{}\"", terminal::name(pattern)),
        false => say!("{}", table(&headers, &repos.iter().map(row).collect::<Vec<_>>())),
    }
}

fn delete(pattern: &str) -> Result {
    let shown = terminal::name(pattern);
    say!("Deleting models matching pattern \"{shown}\"")?;
    let repos = matching(pattern)?;
    if repos.is_empty() {
        say!("No models found matching pattern \"{shown}\"")?;
        return Ok(());
    }
    say!("\nFound the following models:")?;
    let row = |repo: &CachedRepo| {
        vec![terminal::name(&repo.id), size(repo.size_bytes), terminal::name(&repo.path.to_string_lossy())]
    };
    say!("{}", table(&["REPO ID", "SIZE", "LOCAL PATH"], &repos.iter().map(row).collect::<Vec<_>>()))?;
    if !confirmed("\nAre you sure you want to delete these models?")? {
        say!("\nDeletion cancelled - no changes made.")?;
        return Ok(());
    }
    let hub = model::hub()?;
    for repo in &repos {
        say!("\nDeleting {}...", terminal::name(&repo.id))?;
        hub.delete(repo)?;
    }
    say!("\nModel(s) deleted successfully.")?;
    Ok(())
}

/// Asks until the answer is yes or no; nothing, or the end of the input, is no.
fn confirmed(question: &str) -> Result<bool> {
    loop {
        print(format_args!("{question} (y/n) "))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|error| Failure::input(&error))?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" | "1" => return Ok(true),
            "n" | "no" | "0" | "" => return Ok(false),
            _ => say!("Invalid input. Must be one of: yes/no/y/n or empty for no")?,
        }
    }
}

/// Columns as wide as their widest cell.
fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headers[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$} ")).collect();
        padded.concat().trim_end().to_owned()
    };
    let head = line(headers.iter().map(|&header| header.to_owned()).collect());
    let rule = line(widths.iter().map(|&width| "-".repeat(width)).collect());
    [head, rule].into_iter().chain(rows.iter().cloned().map(line)).collect::<Vec<_>>().join("\n")
}

/// A number of bytes in decimal units, as in `1.5G`.
fn size(bytes: u64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")];
    let found = units.into_iter().find(|&(unit, _)| bytes as f64 >= unit);
    found.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{:.1}{name}", bytes as f64 / unit))
}

/// How long ago, as in `3 days ago`.
fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let units = [(31_536_000, "year"), (2_592_000, "month"), (604_800, "week"), (86_400, "day"), (3600, "hour")];
    let units = units.into_iter().chain([(60, "minute")]);
    match units.into_iter().find(|&(unit, _)| seconds >= unit) {
        None => "a few seconds ago".to_owned(),
        Some((unit, name)) if seconds / unit == 1 => format!("1 {name} ago"),
        Some((unit, name)) => format!("{} {name}s ago", seconds / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a/b".to_owned(), "1".to_owned()], vec!["c".to_owned(), "1000".to_owned()]];
        assert_eq!(table(&["ID", "N"], &rows), "ID  N\n--- ----\na/b 1\nc   1000");
    }

    #[test]
    fn sizes_and_ages_are_rounded() {
        assert_eq!(size(999), "999");
        assert_eq!(size(1_550_000_000), "1.6G");
        assert_eq!(ago(SystemTime::now()), "a few seconds ago");
        assert_eq!(ago(SystemTime::now() - Duration::from_hours(72)), "3 days ago");
    }
}
