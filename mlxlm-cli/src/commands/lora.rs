//! `lora`: fine-tunes a model, or measures a fine-tune.

mod data;
mod screen;
mod settings;

use std::ops::ControlFlow;

use mlxlm_core::device::{self, WiredLimit};
use mlxlm_core::nn;
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_models::{Built, LoadOptions, gguf, load_model};
use mlxlm_train::data::Splits;
use mlxlm_train::trainer::{Checkpoints, Ending, STATE_FILE};
use mlxlm_train::{Objective, Trainable, Trainer};

use self::screen::Screen;
use self::settings::Settings;
use crate::args::LoraArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::model;
use crate::output::{say, warn};
use crate::progress;

/// Runs the command.
pub(super) fn run(args: &LoraArgs) -> Result {
    let settings = Settings::gather(args)?;
    if !settings.train && !settings.test {
        return Err(Failure::usage("there is nothing to do").hint("give `--train`, `--test` or both"));
    }
    let (options, rule) = (settings.trainer()?, settings.rule()?);
    if settings.test && !settings.train && matches!(options.objective, Objective::Dpo { .. }) {
        return Err(Failure::usage("`--test` alone cannot measure DPO, which compares with the model before training"));
    }
    if settings.trust_remote_code {
        warn(model::CODE_IS_NEVER_RUN);
    }
    let interrupt = Interrupt::install()?;
    say!("Loading pretrained model")?;
    let source = model::resolve(&settings.model, settings.revision.as_deref())?;
    let laid_over = !settings.train && !settings.adapter_path.as_os_str().is_empty();
    let adapter_path = laid_over.then(|| settings.adapter_path.clone());
    let loading = LoadOptions { adapter_path, ..LoadOptions::default() };
    let (Built { mut model, warnings }, _) = load_model(&source.folder, &loading)?;
    let (_, bytes) = nn::size(&*model);
    warnings.iter().chain(&WiredLimit::warning(bytes)).for_each(warn);
    let tokenizer = match gguf::is_file(&source.folder) {
        true => gguf::tokenizer(&source.folder)?.load(&TokenizerOptions::default())?,
        false => Tokenizer::from_folder(&source.folder, &TokenizerOptions::default())?,
    };
    say!("Loading datasets")?;
    let splits = mlxlm_train::data::load(&data::options(&settings)?, &tokenizer, &model::hub()?, &progress::shown())?;
    let _wired = WiredLimit::raise()?;
    device::keep_memory(usize::MAX);
    interrupt.loaded();
    let test = |trainer: &mut Trainer<'_>| -> Result {
        if settings.test { measure(trainer, &settings, &splits, &interrupt) } else { Ok(()) }
    };
    if !settings.train {
        let nothing = Trainable::collect(&mut *model, |_, _| false);
        return test(&mut Trainer::new(&mut *model, nothing, rule, options, None)?);
    }
    let tune = settings.fine_tune()?;
    let trainable = tune.begin(&mut *model)?;
    if trainable.names().is_empty() {
        return Err(Failure::usage("there is nothing to train").hint("quantized weights are trained by adapters only"));
    }
    let (trained, all) = (trainable.count() as f64 / 1e6, nn::size(&*model).0 as f64 / 1e6);
    say!("Trainable parameters: {:.3}% ({trained:.3}M/{all:.3}M)", trained * 100.0 / all)?;
    let folder = settings.adapter_path.clone();
    let checkpoints = Checkpoints { folder: folder.clone(), config: tune.config(), arguments: settings.arguments()? };
    let mut trainer = Trainer::new(&mut *model, trainable, rule, options, Some(checkpoints.clone()))?;
    if let Some(path) = &settings.resume_adapter_file {
        say!("Loading fine-tuned weights from {}", crate::terminal::name(&path.display().to_string()))?;
        let absent = trainer.load_adapters(path)?;
        if absent > 0 {
            warn(format_args!("`{}` lacks {absent} of the trained tensors, which begin anew", path.display()));
        }
    }
    if settings.resume {
        let state = trainer.resume(folder.join(STATE_FILE))?;
        say!("Resuming after iteration {}", state.iteration)?;
    }
    checkpoints.begin()?;
    say!("Starting training..., iters: {}", settings.iters)?;
    let mut screen = Screen::new(&folder, trainer.state().iteration, settings.iters, settings.tensorboard())?;
    let ending = interrupt.during(|stop| {
        trainer.run(&splits, &mut |event| match screen.hear(event) {
            true if !stop() => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
    });
    // What was reported is kept, also where the run failed.
    screen.finish()?;
    let iteration = trainer.state().iteration;
    match ending? {
        Ending::Stopped => return say!("Stopped after iteration {iteration}; `--resume` goes on from there."),
        Ending::Finished => say!("Saved final weights to {}.", shown(&folder.join("adapters.safetensors")))?,
    }
    test(&mut trainer)
}

/// The loss on the test rows.
fn measure(trainer: &mut Trainer<'_>, settings: &Settings, splits: &Splits, interrupt: &Interrupt) -> Result {
    say!("Testing")?;
    let most = usize::try_from(settings.test_batches).ok();
    let loss = interrupt.during(|stop| {
        trainer.evaluate(&splits.test, most, &mut |_| match stop() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    match loss {
        Some(loss) => say!("Test loss {loss:.3}, Test ppl {:.3}.", loss.exp()),
        None => say!("Stopped."),
    }
}

fn shown(path: &std::path::Path) -> String {
    crate::terminal::name(&path.display().to_string())
}
