//! What a user sees of a training run: a bar at a terminal, lines everywhere, and the files of the [`Recorder`].

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use mlxlm_train::report::Recorder;
use mlxlm_train::trainer::Event;

use crate::failure::{Failure, Result};
use crate::output::say;
use crate::terminal;

/// Shows a run, and writes it down.
pub(super) struct Screen {
    recorder: Recorder,
    bar: Option<ProgressBar>,
    adapters: PathBuf,
    failed: Option<Failure>,
}

impl Screen {
    /// A run into `folder` of `iters` iterations that begins after `iteration`.
    pub(super) fn new(folder: &Path, iteration: u64, iters: u64, tensorboard: bool) -> Result<Self> {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {per_sec}  {eta} left  {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(iters).with_style(style).with_position(iteration)
        });
        let recorder = Recorder::begin(folder, iteration, tensorboard)?;
        Ok(Self { recorder, bar, adapters: folder.join("adapters.safetensors"), failed: None })
    }

    /// Shows an event; `false` if that failed, which ends the run.
    pub(super) fn hear(&mut self, event: &Event) -> bool {
        let shown = self.show(event);
        let noted = shown.and_then(|()| self.recorder.note(event).map_err(Failure::from));
        if let Err(failure) = noted {
            self.failed.get_or_insert(failure);
        }
        self.failed.is_none()
    }

    /// Completes the files.
    ///
    /// # Errors
    /// What has failed since the run began.
    pub(super) fn finish(mut self) -> Result {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.recorder.finish()?;
        self.failed.map_or(Ok(()), Err)
    }

    fn show(&self, event: &Event) -> Result {
        let line = match event {
            Event::Iteration { iteration, loss, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(*iteration);
                    if bar.message().is_empty() {
                        bar.set_message(format!("loss {loss:.3}"));
                    }
                }
                return Ok(());
            }
            Event::Measured { done, total } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("validation {done}/{total}"));
                }
                return Ok(());
            }
            Event::Report(report) => {
                let memory = report.peak_memory_bytes as f64 / 1e9;
                let (loss, speed) = (report.train_loss, report.tokens_per_second);
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("loss {loss:.3}  {speed:.0} tokens/s  peak {memory:.2} GB"));
                }
                let measures = report.measures.iter().map(|(name, value)| format!(", {name} {value:.3}"));
                format!(
                    "Iter {}: Train loss {loss:.3}, Learning Rate {:.3e}, It/sec {:.3}, Tokens/sec {speed:.3}, Trained Tokens {}, \
                     Peak mem {memory:.3} GB{}",
                    report.iteration,
                    report.learning_rate,
                    report.iterations_per_second,
                    report.trained_tokens,
                    measures.collect::<String>(),
                )
            }
            Event::Validation { iteration, loss, seconds } => {
                format!("Iter {}: Val loss {loss:.3}, Val took {seconds:.3}s", iteration + 1)
            }
            Event::Saved { iteration, path } => {
                let [latest, own] = [&self.adapters, path].map(|path| terminal::name(&path.display().to_string()));
                format!("Iter {iteration}: Saved adapter weights to {latest} and {own}.")
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{line}")),
            None => say!("{line}"),
        }
    }
}
