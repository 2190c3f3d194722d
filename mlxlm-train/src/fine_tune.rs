//! What a fine-tune trains: adapters of low rank, or the weights of the last blocks.

use std::path::Path;

use mlxlm_core::Array;
use mlxlm_core::nn::Module;
use mlxlm_core::weights::{AdapterConfig, FineTuneType, LoraParameters, SafetensorsFile};

use crate::lora::{self, Lora};
use crate::{Error, Result, Trainable};

/// What a fine-tune trains.
#[derive(Debug, Clone, PartialEq)]
pub struct FineTune {
    /// Adapters, adapters with magnitudes, or the weights themselves.
    pub fine_tune_type: FineTuneType,
    /// How many of the last blocks; all if it is not positive.
    pub num_layers: i32,
    /// The numbers of adapters.
    pub parameters: LoraParameters,
    /// What adapters are drawn from.
    pub seed: u64,
}

impl FineTune {
    /// Gives the model what it needs, and collects what is trained.
    ///
    /// # Errors
    /// Those of [`Lora::adapt`].
    pub fn begin<M: Module + ?Sized>(&self, model: &mut M) -> Result<Trainable> {
        let dora = self.fine_tune_type == FineTuneType::Dora;
        if self.fine_tune_type != FineTuneType::Full {
            let lora = Lora { num_layers: self.num_layers, parameters: self.parameters.clone(), dora, seed: self.seed };
            lora.adapt(model)?;
        }
        let chosen = lora::trained(model, self.fine_tune_type, self.num_layers)?;
        Ok(Trainable::collect(model, chosen))
    }

    /// What `adapter_config.json` says of it. As in Python, the numbers of adapters are absent if there are none.
    pub fn config(&self) -> AdapterConfig {
        let is_full = self.fine_tune_type == FineTuneType::Full;
        AdapterConfig {
            fine_tune_type: self.fine_tune_type,
            num_layers: self.num_layers,
            lora_parameters: (!is_full).then(|| self.parameters.clone()),
        }
    }
}

/// Rank-stabilized LoRA (arXiv:2312.03732): the scale for a rank whose additions stay of one size however large it is,
/// `alpha / √rank` where `scale` is `alpha / rank`.
pub fn rank_stabilized(scale: f32, rank: i32) -> f32 {
    scale * (rank.max(1) as f32).sqrt()
}

/// Puts the tensors of an `adapters.safetensors` into what is trained, and returns how many parameters the file has not.
///
/// # Errors
/// [`Error::AdapterFile`] with every tensor that is not trained, has another shape, or values that are not finite.
pub fn load_adapters<M: Module + ?Sized>(
    path: impl AsRef<Path>,
    model: &mut M,
    trainable: &mut Trainable,
) -> Result<usize> {
    let path = path.as_ref();
    let mut tensors = SafetensorsFile::open(path)?.arrays()?;
    let (mut arrays, mut faults, mut absent) = (Vec::new(), Vec::new(), 0);
    for (name, now) in trainable.names().iter().zip(trainable.arrays()) {
        match tensors.remove(name) {
            None => {
                absent += 1;
                arrays.push(now.clone());
            }
            Some(found) if found.shape() != now.shape() => {
                faults.push(format!("`{name}` is {:?}, and {:?} here", found.shape(), now.shape()));
            }
            Some(found) if !is_finite(&found)? => faults.push(format!("`{name}` has values that are not finite")),
            Some(found) => arrays.push(found.as_dtype(now.dtype())?),
        }
    }
    faults.extend(tensors.into_keys().map(|name| format!("`{name}` is not trained here")));
    if !faults.is_empty() {
        return Err(Error::AdapterFile { path: path.to_owned(), faults });
    }
    trainable.replace(model, arrays)?;
    Ok(absent)
}

fn is_finite(array: &Array) -> Result<bool> {
    let all = array.is_finite()?.all(None)?;
    Ok(all.try_item_exact::<bool>().map_err(mlxlm_core::Error::from)?)
}
