//! Bars for what takes long: downloads and uploads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mlxlm_core::hub::{Event, Progress};

/// A bar for each file that is moved, on standard error; nothing where that is no terminal.
pub(crate) fn bars() -> Progress {
    let all = MultiProgress::new();
    let files: Mutex<BTreeMap<String, ProgressBar>> = Mutex::default();
    Progress::new(move |event| {
        let Ok(mut files) = files.lock() else { return };
        match *event {
            Event::File { file, done_bytes, total_bytes } => {
                let bar = files.entry(file.to_owned()).or_insert_with(|| all.add(bar(file, total_bytes)));
                bar.set_length(total_bytes);
                bar.set_position(done_bytes);
                if done_bytes >= total_bytes {
                    bar.finish();
                }
            }
            Event::Waiting { file } => drop(all.println(format!("waiting for another process to fetch `{file}`"))),
            Event::Retry { file, cause } => drop(all.println(format!("trying again to fetch `{file}`: {cause}"))),
            Event::FromCache { repo, cause } => {
                drop(all.println(format!("taking `{repo}` from the cache, because the hub cannot be asked: {cause}")));
            }
            Event::Done => files.values().for_each(ProgressBar::finish),
            _ => {}
        }
    })
}

fn bar(file: &str, total_bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:30!} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style).with_prefix(file.to_owned())
}
