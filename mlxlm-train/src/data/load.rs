//! Datasets as splits of token rows, checked as a whole before anything is learned.

use std::path::{Path, PathBuf};
use std::thread;

use mlxlm_core::hub::{Hub, Progress};
use mlxlm_core::text::Tokenizer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::error::Fault;
use super::files::{self, Files};
use super::format::{Format, Kind};
use super::read::{self, Record};
use super::split::Split;
use super::{DataError, DatasetOptions, Example, Preference, Rows, Source, Splits};
use crate::Result;

/// Reads the datasets, tokenizes all of their rows, and checks them.
///
/// A validation split that a dataset does not have is empty; so are the splits that `options` do not ask for.
///
/// # Errors
/// [`DataError::Faults`] lists every row that cannot be used, with its file and line.
pub fn load(options: &DatasetOptions, tokenizer: &Tokenizer, hub: &Hub, progress: &Progress) -> Result<Splits> {
    let mut splits = Splits::default();
    let mut faults = Vec::new();
    let mut first = None;
    for source in &options.sources {
        let files = files::find(source, hub, progress)?;
        let format = Format { tokenizer, keys: &source.keys, mask_prompt: options.mask_prompt };
        let wanted = [
            ("train", &source.train_split, options.train, true, &mut splits.train),
            ("valid", &source.valid_split, options.train, false, &mut splits.valid),
            ("test", &source.test_split, options.test, true, &mut splits.test),
        ];
        for (name, spec, is_wanted, is_needed, rows) in wanted {
            // A file alone has one split, which is there to be trained on unless the caller says otherwise.
            let usual = if files.is_file && name == "test" && !options.train { "train" } else { name };
            let spec = spec.as_deref().unwrap_or(usual);
            let is_there = files.of(Split::parse(spec)?.name).is_some() || (files.is_file && spec != name);
            if !is_wanted || (!is_needed && !is_there) {
                continue;
            }
            let records = records(source, &files, spec, &mut faults)?;
            let read = convert(records, format, &mut faults);
            let read = weighted(read, source.weight, options.seed, &source.path)?;
            if read.is_empty() {
                continue;
            }
            let kind = read.kind();
            match *first.get_or_insert(kind) {
                expected if expected == kind => append(rows, read),
                expected => return Err(DataError::Mixed { dataset: source.path.clone(), got: kind, expected }.into()),
            }
        }
    }
    if !faults.is_empty() {
        return Err(DataError::Faults(faults).into());
    }
    for (name, rows, is_needed) in
        [("train", &splits.train, options.train), ("valid", &splits.valid, false), ("test", &splits.test, options.test)]
    {
        if rows.is_empty() && is_needed {
            let dataset = options.sources.iter().map(|source| source.path.as_str()).collect::<Vec<_>>().join("`, `");
            return Err(DataError::NoRows { dataset, split: name.into(), found: String::new() }.into());
        }
        check_lengths(name, rows, options.max_len)?;
    }
    Ok(splits)
}

/// The rows of a split of one dataset as they stand there, for those that tokenize few of many.
///
/// # Errors
/// As [`load`]; the rows themselves are not looked at.
pub fn read_split(source: &Source, spec: &str, hub: &Hub, progress: &Progress) -> Result<Vec<Record>> {
    let mut faults = Vec::new();
    let records = records(source, &files::find(source, hub, progress)?, spec, &mut faults)?;
    match faults.is_empty() {
        true => Ok(records),
        false => Err(DataError::Faults(faults).into()),
    }
}

/// The rows of one file.
///
/// # Errors
/// [`DataError::Faults`] for what is no row.
pub fn read_file(path: impl AsRef<Path>) -> Result<Vec<Record>> {
    let mut faults = Vec::new();
    let records = read::read(path.as_ref(), &mut faults)?;
    match faults.is_empty() {
        true => Ok(records),
        false => Err(DataError::Faults(faults).into()),
    }
}

/// The rows of a split, of which there must be some.
fn records(source: &Source, files: &Files, spec: &str, faults: &mut Vec<Fault>) -> Result<Vec<Record>> {
    let split = Split::parse(spec)?;
    let none = |found| DataError::NoRows { dataset: source.path.clone(), split: spec.to_owned(), found };
    let found: &[PathBuf] = files.of(split.name).ok_or_else(|| none(files.found()))?;
    let (mut all, before) = (Vec::new(), faults.len());
    for file in found {
        all.extend(read::read(file, faults)?);
    }
    let range = split.range(all.len());
    all.truncate(range.end);
    let all = all.split_off(range.start);
    match all.is_empty() && faults.len() == before {
        true => Err(none(String::new()).into()),
        false => Ok(all),
    }
}

/// The tokens of rows, on all cores; rows that have none go to the faults.
fn convert(records: Vec<Record>, format: Format<'_>, faults: &mut Vec<Fault>) -> Rows {
    let Some(first) = records.first().and_then(|record| Kind::of(&record.fields, format.keys)) else {
        let faulty = records.iter().filter_map(|record| Some(fault(record, format.example(record).err()?)));
        faults.extend(faulty);
        return Rows::default();
    };
    let same_kind = |record: &Record| match Kind::of(&record.fields, format.keys) {
        Some(kind) if kind != first => Err(format!("it is {}, and the first row is {}", kind.name(), first.name())),
        _ => Ok(()),
    };
    match first {
        Kind::Preference => Rows::Preferences(gathered(&records, faults, |record| {
            same_kind(record).and_then(|()| format.preference(record))
        })),
        _ => {
            Rows::Examples(gathered(&records, faults, |record| same_kind(record).and_then(|()| format.example(record))))
        }
    }
}

fn gathered<T: Send>(
    records: &[Record],
    faults: &mut Vec<Fault>,
    work: impl Fn(&Record) -> Result<T, String> + Sync,
) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let piece = records.len().div_ceil(threads).max(1);
    let piece_of = |records: &[Record]| -> Vec<Result<T, Fault>> {
        records.iter().map(|record| work(record).map_err(|why| fault(record, why))).collect()
    };
    let piece_of = &piece_of;
    let done: Vec<Vec<Result<T, Fault>>> = thread::scope(|scope| {
        let workers: Vec<_> = records.chunks(piece).map(|records| scope.spawn(move || piece_of(records))).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    let mut rows = Vec::with_capacity(records.len());
    for row in done.into_iter().flatten() {
        match row {
            Ok(row) => rows.push(row),
            Err(fault) => faults.push(fault),
        }
    }
    rows
}

fn fault(record: &Record, why: String) -> Fault {
    Fault { place: record.place.clone(), column: None, why }
}

impl Rows {
    /// What they are, in words.
    fn kind(&self) -> &'static str {
        match self {
            Self::Examples(_) => "texts",
            Self::Preferences(_) => "preferences",
        }
    }
}

fn append(rows: &mut Rows, more: Rows) {
    match (rows, more) {
        (Rows::Examples(rows), Rows::Examples(more)) => rows.extend(more),
        (Rows::Preferences(rows), Rows::Preferences(more)) => rows.extend(more),
        (rows, more) => *rows = more,
    }
}

/// Each row as often as the weight says; of what is left over, rows that are drawn.
fn weighted(rows: Rows, weight: f64, seed: u64, dataset: &str) -> Result<Rows> {
    if !weight.is_finite() || weight <= 0.0 || weight > 1000.0 {
        let why = format!("has the weight {weight}, expected a number above 0 and up to 1000");
        return Err(DataError::Source { dataset: dataset.to_owned(), why }.into());
    }
    Ok(match rows {
        Rows::Examples(rows) => Rows::Examples(repeat(rows, weight, seed)),
        Rows::Preferences(rows) => Rows::Preferences(repeat(rows, weight, seed)),
    })
}

/// The rows as often as the weight says.
fn repeat<T: Clone>(rows: Vec<T>, weight: f64, seed: u64) -> Vec<T> {
    if weight == 1.0 {
        return rows;
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let drawn = ((weight - weight.floor()) * rows.len() as f64).round() as usize;
    order.truncate(drawn);
    order.sort_unstable();
    let whole = (0..weight as usize).flat_map(|_| 0..rows.len());
    whole.chain(order).map(|i| rows[i].clone()).collect()
}

fn check_lengths(split: &'static str, rows: &Rows, max_len: Option<usize>) -> Result<()> {
    let Some(max_len) = max_len else { return Ok(()) };
    let length = |example: &Example| example.tokens.len();
    let longest = |pair: &Preference| length(&pair.chosen).max(length(&pair.rejected));
    let shortest = match rows {
        Rows::Examples(rows) => rows.iter().map(length).min(),
        Rows::Preferences(rows) => rows.iter().map(longest).min(),
    };
    match shortest {
        Some(shortest) if shortest > max_len => {
            Err(DataError::AllTooLong { split, rows: rows.len(), max_len, shortest }.into())
        }
        _ => Ok(()),
    }
}
