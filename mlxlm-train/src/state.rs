//! A training run on disk, so that it can go on after a stop: parameters, moments and how far it came, in one safetensors
//! file that appears by rename. The numbers are metadata of the file.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::Array;
use mlxlm_core::nn::Module;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};

use crate::optim::Optimizer;
use crate::{Error, Result, Trainable};

/// How far a run came.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrainingState {
    /// Steps of the optimizer.
    pub step: u64,
    /// Time spent.
    pub elapsed_s: f64,
    /// Batches learned from: more than steps where gradients are gathered over several.
    pub iteration: u64,
    /// Targets learned.
    pub trained_tokens: u64,
}

/// What a run needs besides its numbers to go on as if it had not stopped.
#[derive(Debug, Clone, Default)]
pub struct RunDetails {
    /// Gradients that were gathered and not used yet, one for each parameter; none right after a step of the optimizer.
    pub pending: Vec<Array>,
    /// What must not change over the run, by name.
    pub settings: BTreeMap<String, String>,
}

impl TrainingState {
    /// Writes the run.
    pub fn save(self, path: impl AsRef<Path>, trainable: &Trainable, optimizer: &Optimizer) -> Result<()> {
        self.save_with(path, trainable, optimizer, &RunDetails::default())
    }

    /// Writes the run with its details.
    pub fn save_with(
        self,
        path: impl AsRef<Path>,
        trainable: &Trainable,
        optimizer: &Optimizer,
        details: &RunDetails,
    ) -> Result<()> {
        let mut arrays = trainable.named();
        for (name, moments) in trainable.names().iter().zip(optimizer.moments()) {
            arrays.extend(moments.iter().enumerate().map(|(i, moment)| (moment_name(name, i), moment.clone())));
        }
        let pending = trainable.names().iter().zip(&details.pending);
        arrays.extend(pending.map(|(name, gradient)| (pending_name(name), gradient.clone())));
        let mut metadata = BTreeMap::from([
            ("step".to_owned(), self.step.to_string()),
            ("elapsed_s".to_owned(), self.elapsed_s.to_string()),
            ("iteration".to_owned(), self.iteration.to_string()),
            ("trained_tokens".to_owned(), self.trained_tokens.to_string()),
        ]);
        metadata.extend(details.settings.iter().map(|(name, value)| (setting_name(name), value.clone())));
        Ok(save_safetensors(path, &arrays, &metadata)?)
    }

    /// Puts a run back into a model, its parameters and their optimizer.
    ///
    /// # Errors
    /// [`Error::Resume`] if the file is of another model or of another optimizer.
    pub fn load<M: Module + ?Sized>(
        path: impl AsRef<Path>,
        model: &mut M,
        trainable: &mut Trainable,
        optimizer: &mut Optimizer,
    ) -> Result<Self> {
        Ok(Self::load_with(path, model, trainable, optimizer, &BTreeMap::new())?.0)
    }

    /// Puts a run back that was saved with these settings, and returns the gradients that wait for the optimizer's next step.
    ///
    /// # Errors
    /// [`Error::Resume`] if the file is of another model, of another optimizer, or has other settings.
    pub fn load_with<M: Module + ?Sized>(
        path: impl AsRef<Path>,
        model: &mut M,
        trainable: &mut Trainable,
        optimizer: &mut Optimizer,
        settings: &BTreeMap<String, String>,
    ) -> Result<(Self, Vec<Array>)> {
        let path = path.as_ref();
        let wrong = |why: String| Error::Resume { path: path.to_owned(), why };
        let file = SafetensorsFile::open(path)?;
        let metadata = file.metadata();
        let number = |key: &str| {
            let number = metadata.get(key).and_then(|text| text.parse::<f64>().ok());
            number.ok_or_else(|| wrong(format!("the metadata has no number `{key}`")))
        };
        let (step, elapsed_s) = (number("step")?, number("elapsed_s")?);
        let (iteration, trained_tokens) =
            (number("iteration").unwrap_or(step), number("trained_tokens").unwrap_or(0.0));
        for (name, now) in settings {
            let before = metadata.get(&setting_name(name)).map_or("absent", String::as_str);
            if before != now {
                return Err(wrong(format!("`{name}` was {before} and is {now} now")));
            }
        }
        let mut arrays = file.arrays()?;
        let (mut parameters, mut moments, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        for (name, now) in trainable.names().iter().zip(trainable.arrays()) {
            let is_like = |array: &Array| array.shape() == now.shape() && array.dtype() == now.dtype();
            let found = arrays.remove(name).filter(is_like);
            parameters.push(found.ok_or_else(|| wrong(format!("`{name}` is missing or of another shape")))?);
            moments.push((0..).map_while(|i| arrays.remove(&moment_name(name, i))).collect());
            pending.extend(arrays.remove(&pending_name(name)).filter(is_like));
        }
        if let Some(name) = arrays.into_keys().next() {
            return Err(wrong(format!("`{name}` is not trained now")));
        }
        if !pending.is_empty() && pending.len() != parameters.len() {
            return Err(wrong("some of the gathered gradients are missing".into()));
        }
        if step > 0.0 {
            optimizer.resume(trainable.arrays(), step as u64, moments).map_err(|error| wrong(error.to_string()))?;
        }
        trainable.replace(model, parameters)?;
        let state =
            Self { step: step as u64, elapsed_s, iteration: iteration as u64, trained_tokens: trained_tokens as u64 };
        Ok((state, pending))
    }
}

fn pending_name(parameter: &str) -> String {
    format!("{parameter}/gradient")
}

fn setting_name(setting: &str) -> String {
    format!("setting.{setting}")
}

fn moment_name(parameter: &str, i: usize) -> String {
    format!("{parameter}/moment.{i}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::{Adam, Rule, Sgd};
    use crate::testing::tiny_llama;

    fn adam() -> Optimizer {
        Optimizer::new(Rule::Adam(Adam::default()))
    }

    /// A step along gradients of ones.
    fn step(trainable: &Trainable, optimizer: &mut Optimizer) -> Vec<f32> {
        let ones: Vec<Array> = trainable.arrays().iter().map(|p| mlxlm_core::ops::ones_like(p).unwrap()).collect();
        let updated = optimizer.update(trainable.arrays(), &ones, 0.01).unwrap();
        updated.iter().flat_map(|p| p.try_as_slice::<f32>().unwrap().to_vec()).collect()
    }

    #[test]
    fn a_run_goes_on_as_if_it_had_not_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let mut model = tiny_llama(1);
        let trainable = Trainable::collect(&mut *model, |_, _| true);
        let mut optimizer = adam();
        step(&trainable, &mut optimizer);
        let state = TrainingState { step: 1, elapsed_s: 12.5, iteration: 1, trained_tokens: 9 };
        state.save(&path, &trainable, &optimizer).unwrap();
        let expected = step(&trainable, &mut optimizer);

        let mut other = tiny_llama(2);
        let (mut resumed, mut optimizer) = (Trainable::collect(&mut *other, |_, _| true), adam());
        assert_eq!(TrainingState::load(&path, &mut *other, &mut resumed, &mut optimizer).unwrap(), state);
        assert_eq!(step(&resumed, &mut optimizer), expected);
        assert_eq!(optimizer.step(), 2);

        let why = |chosen: fn(&str) -> bool, rule: Rule| {
            let mut other = tiny_llama(3);
            let mut fewer = Trainable::collect(&mut *other, |name, _| chosen(name));
            match TrainingState::load(&path, &mut *other, &mut fewer, &mut Optimizer::new(rule)) {
                Err(Error::Resume { why, .. }) => why,
                other => panic!("{other:?}"),
            }
        };
        assert!(why(|name| name.contains("norm"), Rule::Adam(Adam::default())).ends_with("is not trained now"));
        let sgd = Rule::Sgd(Sgd::default());
        assert_eq!(why(|_| true, sgd), "a parameter has 2 moments, and the optimizer keeps 0 of its shape");
    }
}
