//! What a training run leaves to look at, beside its adapters: `metrics.jsonl`, the curve of its losses as `loss.png` and
//! `loss.svg`, and a file of events for TensorBoard.
//!
//! All files appear whole, and are written anew at most once a second, so that a run which ends at any moment leaves good ones.

mod curve;
mod letters;
mod metrics;
mod tensorboard;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mlxlm_core::io;
use serde_json::{Map, Value};

pub use curve::{Curve, draw_png, draw_svg};
pub use tensorboard::EventFile;

use crate::Result;
use crate::trainer::Event;

/// The file of all reports, one JSON object a line.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The pictures of the losses.
pub const CURVE_FILES: [&str; 2] = ["loss.png", "loss.svg"];
/// How often files are written anew at most.
const EVERY: Duration = Duration::from_secs(1);

/// Writes down what a run says.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    lines: Vec<String>,
    curve: Curve,
    events: Option<(PathBuf, EventFile)>,
    written: Option<Instant>,
}

impl Recorder {
    /// A recorder of a run in `folder` that is to begin after `iteration`: what is there of earlier iterations stays, as for a run that
    /// is resumed.
    ///
    /// With `tensorboard` there is a file of events, too.
    pub fn begin(folder: impl AsRef<Path>, iteration: u64, tensorboard: bool) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        io::create_dir_all(&folder)?;
        let path = folder.join(METRICS_FILE);
        let mut recorder = Self { folder, lines: Vec::new(), curve: Curve::default(), events: None, written: None };
        if iteration > 0 && path.is_file() {
            for line in io::lines(&path)? {
                let line = line?;
                // A line that somebody else wrote is none of this run.
                let Ok(fields) = serde_json::from_str::<Map<String, Value>>(&line) else { continue };
                if metrics::iteration(&fields).is_some_and(|at| at <= iteration) {
                    metrics::remember(&fields, &mut recorder.curve);
                    recorder.lines.push(line);
                }
            }
        }
        if tensorboard {
            let now = now();
            let path = recorder.folder.join(format!("events.out.tfevents.{:010}.mlxlm", now as u64));
            recorder.events = Some((path, EventFile::new(now)));
        }
        Ok(recorder)
    }

    /// Notes an event.
    pub fn note(&mut self, event: &Event) -> Result<()> {
        let Some((iteration, fields)) = metrics::fields(event) else { return Ok(()) };
        metrics::remember(&fields, &mut self.curve);
        if let Some((_, events)) = &mut self.events {
            for (name, value) in fields.iter().filter(|(name, _)| *name != "iteration") {
                if let Some(value) = value.as_f64() {
                    events.push(now(), iteration, &metrics::tag(name), value as f32);
                }
            }
        }
        self.lines.push(Value::Object(fields).to_string());
        if self.written.is_none_or(|written| written.elapsed() >= EVERY) {
            self.write()?;
        }
        Ok(())
    }

    /// Writes all that was noted, and draws the losses.
    pub fn finish(&mut self) -> Result<()> {
        self.write()?;
        if !self.curve.is_empty() {
            let [png, svg] = CURVE_FILES.map(|name| self.folder.join(name));
            draw_png(&png, &self.curve)?;
            draw_svg(&svg, &self.curve)?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        io::write(
            self.folder.join(METRICS_FILE),
            self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>(),
        )?;
        if let Some((path, events)) = &self.events {
            io::write(path, events.bytes())?;
        }
        self.written = Some(Instant::now());
        Ok(())
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::Report;

    fn report(iteration: u64, train_loss: f32) -> Event {
        Event::Report(Report {
            iteration,
            train_loss,
            learning_rate: 1e-5,
            grad_norm: Some(2.0),
            iterations_per_second: 4.0,
            tokens_per_second: 100.0,
            trained_tokens: 25 * iteration,
            peak_memory_bytes: 2_500_000_000,
            measures: vec![("rewards_margin", 0.25)],
        })
    }

    fn lines(folder: &Path) -> Vec<Value> {
        io::lines(folder.join(METRICS_FILE))
            .unwrap()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn a_run_leaves_lines_pictures_and_events() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::begin(folder.path(), 0, true).unwrap();
        recorder.note(&Event::Iteration { iteration: 1, loss: 3.0, trained_tokens: 25 }).unwrap();
        recorder.note(&Event::Validation { iteration: 0, loss: 3.5, seconds: 0.5 }).unwrap();
        recorder.note(&report(10, 2.5)).unwrap();
        recorder.note(&report(20, 2.0)).unwrap();
        recorder.finish().unwrap();
        let lines = lines(folder.path());
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["iteration"], &lines[0]["val_loss"]), (&Value::from(0), &Value::from(3.5)));
        assert_eq!((&lines[1]["train_loss"], &lines[1]["peak_memory"]), (&Value::from(2.5), &Value::from(2.5)));
        assert_eq!((&lines[2]["rewards_margin"], &lines[2]["grad_norm"]), (&Value::from(0.25), &Value::from(2.0)));
        let png = io::read(folder.path().join("loss.png")).unwrap();
        let decoder = png::Decoder::new(std::io::Cursor::new(png));
        assert_eq!(decoder.read_info().unwrap().info().size(), (curve::SIZE.0, curve::SIZE.1));
        let svg = io::read_to_string(folder.path().join("loss.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("validation") && svg.contains("polyline"), "{svg}");
        let events = io::read_dir(folder.path()).unwrap();
        let events = events.iter().find(|path| path.to_string_lossy().contains("tfevents")).unwrap();
        let scalars = tensorboard::tests::scalars(&io::read(events).unwrap());
        assert!(scalars.contains(&(0, "validation/loss".into(), 3.5)), "{scalars:?}");
        assert!(scalars.contains(&(20, "train/loss".into(), 2.0)), "{scalars:?}");
    }

    #[test]
    fn a_resumed_run_keeps_what_was_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Recorder::begin(folder.path(), 0, false).unwrap();
        for iteration in [10, 20, 30] {
            first.note(&report(iteration, 2.0)).unwrap();
        }
        first.finish().unwrap();
        let mut second = Recorder::begin(folder.path(), 20, false).unwrap();
        second.note(&report(30, 1.0)).unwrap();
        second.finish().unwrap();
        let found: Vec<_> = lines(folder.path()).iter().map(|line| line["train_loss"].as_f64().unwrap()).collect();
        assert_eq!(found, [2.0, 2.0, 1.0]);
        Recorder::begin(folder.path(), 0, false).unwrap().finish().unwrap();
        assert!(lines(folder.path()).is_empty());
    }
}
