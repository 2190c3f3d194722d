//! What a run leaves on disk: adapters as mlx-lm's trainer names them, and the state that resuming needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::weights::AdapterConfig;
use serde_json::{Map, Value};

use std::ops::ControlFlow;

use super::{Event, Listener, Trainer};
use crate::{Result, RunDetails, TrainingState, save_adapter_config, save_adapters};

/// The file of a run's state, beside its adapters.
pub const STATE_FILE: &str = "training_state.safetensors";

/// Where a run is saved, and how it is described there.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoints {
    /// The folder of the adapters.
    pub folder: PathBuf,
    /// What loading needs.
    pub config: AdapterConfig,
    /// All other arguments of the training, for `adapter_config.json`.
    pub arguments: Map<String, Value>,
}

impl Checkpoints {
    /// Writes `adapter_config.json`: what a run begins with, so that an unusable folder is known before the first step.
    pub fn begin(&self) -> Result<()> {
        save_adapter_config(&self.folder, &self.config, &self.arguments)
    }
}

impl Trainer<'_> {
    /// Goes on where the run of this state was saved, bit by bit; call it before [`run`](Trainer::run).
    ///
    /// # Errors
    /// [`Error::Resume`](crate::Error::Resume) if the state is of another model, another optimizer or other settings.
    pub fn resume(&mut self, path: impl AsRef<Path>) -> Result<TrainingState> {
        let settings = self.settings();
        let (state, pending) = TrainingState::load_with(
            path.as_ref(),
            &mut *self.model,
            &mut self.trainable,
            &mut self.optimizer,
            &settings,
        )?;
        (self.state, self.pending) = (state, pending);
        self.last_saved = Some(path.as_ref().to_owned());
        Ok(state)
    }

    /// Saves adapters and state; the state last, so that it is never ahead of the adapters.
    pub(super) fn save(&mut self, listener: &mut Listener) -> Result<ControlFlow<()>> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(ControlFlow::Continue(())) };
        let (folder, iteration) = (&checkpoints.folder, self.state.iteration);
        save_adapters(folder, &self.trainable, Some(iteration))?;
        let details = RunDetails { pending: self.pending.clone(), settings: self.settings() };
        self.state.save_with(folder.join(STATE_FILE), &self.trainable, &self.optimizer, &details)?;
        let path = folder.join(format!("{iteration:07}_adapters.safetensors"));
        self.last_saved = Some(path.clone());
        Ok(listener(&Event::Saved { iteration, path }))
    }

    /// What must stay the same for a run to go on as if it had not stopped.
    fn settings(&self) -> BTreeMap<String, String> {
        let options = &self.options;
        let optional = |value: Option<f32>| value.map_or("absent".to_owned(), |value| value.to_string());
        BTreeMap::from([
            ("batch_size".to_owned(), options.batch_size.to_string()),
            ("max_seq_length".to_owned(), options.max_seq_length.to_string()),
            ("seed".to_owned(), options.seed.to_string()),
            ("grad_accumulation_steps".to_owned(), options.grad_accumulation_steps.to_string()),
            ("objective".to_owned(), options.objective.name().to_owned()),
            ("beta".to_owned(), optional(options.objective.beta())),
            ("max_grad_norm".to_owned(), optional(options.max_grad_norm)),
            ("lora_plus_ratio".to_owned(), optional(options.lora_plus_ratio)),
        ])
    }
}
