//! What takes long, on standard error: one line that fits the terminal, and elsewhere a line of a log now and then.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mlxlm_core::hub::{Event, Progress};
use mlxlm_quant::Event as Work;

use crate::output::note;
use crate::{terminal, units};

/// Something that takes a while, with a wheel that turns where somebody watches; it vanishes when it is done.
pub(crate) struct Busy(ProgressBar);

impl Busy {
    /// Begins, with what is being done.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_style(style("{spinner} {wide_msg}")).with_message(what.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Says how far it is.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// What says how far it is, for somebody else to call.
    pub(crate) fn teller(&self) -> impl Fn(String) + use<> {
        let bar = self.0.clone();
        move |what| bar.set_message(what)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A count of work that takes long: a bar at a terminal, and nothing elsewhere.
pub(crate) struct Counted(ProgressBar);

impl Counted {
    /// Begins to count to `total`.
    pub(crate) fn new(what: &str, total: usize) -> Self {
        let bar = if io::stderr().is_terminal() { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
        Self(bar.with_style(style("{prefix:20!} {bar:30} {pos}/{len} {eta}")).with_prefix(terminal::name(what)))
    }

    /// So much is done.
    pub(crate) fn set(&self, done: usize) {
        self.0.set_position(done as u64);
    }

    /// All is done; the bar goes away.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Shows how far files are that are moved, and says what is waited for and why.
pub(crate) fn shown() -> Progress {
    if io::stderr().is_terminal() { bar() } else { lines() }
}

/// Files under way, and when they were first heard of.
#[derive(Default)]
struct Moved {
    files: BTreeMap<String, File>,
    /// Bytes that were to be moved when the whole was known.
    total_bytes: u64,
    since: Option<Instant>,
}

struct File {
    first_bytes: u64,
    done_bytes: u64,
    total_bytes: u64,
}

impl Moved {
    fn note(&mut self, file: &str, done_bytes: u64, total_bytes: u64) {
        self.since.get_or_insert_with(Instant::now);
        let entry = self.files.entry(file.to_owned());
        let entry = entry.or_insert(File { first_bytes: done_bytes, done_bytes, total_bytes });
        entry.first_bytes = entry.first_bytes.min(done_bytes);
        (entry.done_bytes, entry.total_bytes) = (done_bytes, total_bytes);
    }

    fn done(&self) -> u64 {
        self.files.values().map(|file| file.done_bytes).sum()
    }

    fn total(&self) -> u64 {
        self.files.values().map(|file| file.total_bytes).sum::<u64>().max(self.total_bytes)
    }

    /// `1.2 GB of 4.5 GB, 35.0 MB/s, 1m 34s left`: the rate is that of this run.
    fn words(&self) -> String {
        let (done, total) = (self.done(), self.total());
        let moved: u64 = self.files.values().map(|file| file.done_bytes - file.first_bytes).sum();
        let took = self.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        let so_far = format!("{}/{}", units::bytes(done), units::bytes(total));
        if took < 1.0 || moved == 0 {
            return so_far;
        }
        let rate = moved as f64 / took;
        let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate).min(1e6));
        format!("{so_far} {}/s {}", units::bytes(rate as u64), units::time(left))
    }
}

/// One bar for all files together.
fn bar() -> Progress {
    let bar = ProgressBar::hidden();
    let moved: Mutex<Moved> = Mutex::default();
    Progress::new(move |event| {
        let Ok(mut moved) = moved.lock() else { return };
        match *event {
            Event::Start { repo, files, total_bytes } if files > 0 => {
                let before = moved.total();
                moved.total_bytes = before + total_bytes;
                let words = format!(
                    "downloading {} of {} ({})",
                    units::counted(files, "file"),
                    terminal::name(repo),
                    units::bytes(total_bytes)
                );
                bar.suspend(|| note(words));
            }
            Event::File { file, done_bytes, total_bytes } | Event::Check { file, done_bytes, total_bytes } => {
                moved.note(file, done_bytes, total_bytes);
                if bar.is_hidden() {
                    bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                    bar.set_style(style("{wide_bar} {msg}"));
                }
                bar.set_length(moved.total());
                bar.set_message(moved.words());
                bar.set_position(moved.done());
            }
            Event::Done => bar.finish_and_clear(),
            _ => {
                if let Some(words) = words(event) {
                    bar.suspend(|| note(words));
                }
            }
        }
    })
}

/// Where nobody watches a bar, a log should still say why a program takes its time.
fn lines() -> Progress {
    const EVERY: Duration = Duration::from_secs(5);
    let last = Mutex::new(Instant::now());
    Progress::new(move |event| {
        if let Some(words) = words(event) {
            return note(words);
        }
        let Ok(mut last) = last.lock() else { return };
        if last.elapsed() < EVERY {
            return;
        }
        let moved = |done: &dyn Display, file: &str, done_bytes: u64, total_bytes: u64| {
            note(format_args!(
                "{done} of `{file}`: {} of {} MB",
                done_bytes / 1_000_000,
                total_bytes.div_ceil(1_000_000)
            ));
        };
        match *event {
            Event::File { file, done_bytes, total_bytes } => moved(&"moved", file, done_bytes, total_bytes),
            Event::Check { file, done_bytes, total_bytes } => moved(&"checked", file, done_bytes, total_bytes),
            _ => return,
        }
        *last = Instant::now();
    })
}

/// Shows how far a long computation has come, and how long it still takes.
pub(crate) fn work() -> impl FnMut(Work<'_>) {
    const EVERY: Duration = Duration::from_secs(10);
    const STEPS: usize = 20;
    let bar = io::stderr()
        .is_terminal()
        .then(|| ProgressBar::no_length().with_style(style("{msg:14} {bar:30} {pos:>5}/{len:5} {eta} left")));
    let (mut began, mut last) = (Instant::now(), Instant::now());
    let mut now = String::new();
    let mut losses = Vec::new();
    move |event| {
        let say = |words: String| match &bar {
            Some(bar) => bar.suspend(|| note(words)),
            None => note(words),
        };
        match event {
            Work::Note(words) => say(words.to_owned()),
            Work::Loss { valid: true, step, loss } => say(format!("validation loss {loss:.4} after {step} steps")),
            Work::Loss { valid: false, step, loss } => {
                losses.push(loss);
                if losses.len() == STEPS {
                    say(format!(
                        "loss {:.4} over {STEPS} steps up to {step}",
                        losses.iter().sum::<f64>() / STEPS as f64
                    ));
                    losses.clear();
                }
            }
            Work::Step { what, done, of } => {
                if now != what {
                    what.clone_into(&mut now);
                    (began, last) = (Instant::now(), Instant::now());
                    bar.iter().for_each(|bar| bar.reset());
                }
                if let Some(bar) = &bar {
                    bar.set_message(now.clone());
                    bar.set_length(of as u64);
                    bar.set_position(done as u64);
                    if done >= of {
                        bar.finish_and_clear();
                    }
                } else if last.elapsed() >= EVERY && done > 0 {
                    last = Instant::now();
                    let left = began.elapsed().mul_f64(of.saturating_sub(done) as f64 / done as f64);
                    say(format!("{what}: {done} of {of}, {} s left", left.as_secs()));
                }
            }
        }
    }
}

/// The events that are said in words.
fn words(event: &Event<'_>) -> Option<String> {
    Some(match *event {
        Event::Waiting { file } => format!("waiting for another process that fetches `{file}`"),
        Event::Slow { what, waited } => format!("the hub sends {what} slowly: {} s so far", waited.as_secs()),
        Event::Retry { file: "", cause, pause } => {
            format!("asking the hub again in {:.1} s: {cause}", pause.as_secs_f32())
        }
        Event::Retry { file, cause, pause } => {
            format!("trying again to fetch `{file}` in {:.1} s: {cause}", pause.as_secs_f32())
        }
        Event::FromCache { repo, cause } => format!("`{repo}` is taken from the cache: {cause}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_said() {
        let pause = Duration::from_mins(1);
        let check = |event: Event<'_>, expected| assert_eq!(words(&event).as_deref(), expected);
        check(Event::Retry { file: "", cause: "slow down", pause }, Some("asking the hub again in 60.0 s: slow down"));
        check(Event::Retry { file: "a", cause: "cut", pause }, Some("trying again to fetch `a` in 60.0 s: cut"));
        check(Event::File { file: "a", done_bytes: 1, total_bytes: 2 }, None);
    }

    #[test]
    fn the_rate_is_that_of_what_was_moved_now() {
        let mut moved = Moved::default();
        moved.note("a", 900_000_000, 1_000_000_000);
        moved.note("a", 920_000_000, 1_000_000_000);
        moved.note("b", 0, 500_000_000);
        assert_eq!((moved.done(), moved.total()), (920_000_000, 1_500_000_000));
        moved.since = Instant::now().checked_sub(Duration::from_secs(10));
        let words = moved.words();
        assert!(
            words.starts_with("920.0 MB/1.5 GB ") && words.ends_with("m 50s") || words.contains(" MB/s "),
            "{words}"
        );
        let rate: f64 = words.split(' ').nth(3).unwrap().parse().unwrap();
        assert!((1.8..=2.0).contains(&rate), "{words}");
    }
}
