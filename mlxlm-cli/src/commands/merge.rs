//! `merge`: one model of several.

use mlxlm_core::hub::Upload;
use mlxlm_core::io;
use mlxlm_train::merge::{MergeConfig, MergeError, Method, Schedule, merge};

use crate::args::{MergeArgs, MergeMethod};
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::say;
use crate::progress;
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &MergeArgs) -> Result {
    let config = config(args)?;
    if let Some(repo) = &args.upload_repo {
        model::hub()?.check_upload(repo)?;
    }
    say!("[INFO] Merging {} models", config.models.len())?;
    let mut failed = None;
    let merged = merge(&config, &args.mlx_path, &mut |name| {
        model::resolve(name, None).map(|source| source.folder).map_err(|failure| {
            // What the user sees is the failure itself.
            let why = format!("`{name}` cannot be had");
            failed = Some(failure);
            MergeError::Config { why }.into()
        })
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    merged?;
    say!("[INFO] Wrote {}", terminal::name(&args.mlx_path.display().to_string()))?;
    if let Some(repo) = &args.upload_repo {
        let message = "Upload of a model merged by mlxlm";
        let upload = Upload { repo, folder: &args.mlx_path, private: false, message };
        say!("[INFO] Uploaded to {}", model::hub()?.upload_folder(&upload, &progress::shown())?)?;
    }
    Ok(())
}

fn config(args: &MergeArgs) -> Result<MergeConfig> {
    if let Some(path) = &args.config {
        let text = io::read_to_string(path)?;
        let mut config = MergeConfig::from_yaml(&text).map_err(mlxlm_train::Error::from)?;
        config.seed = args.seed;
        return Ok(config);
    }
    let method = match args.method {
        MergeMethod::Slerp => Method::Slerp,
        MergeMethod::Linear => Method::Linear,
        MergeMethod::Ties => Method::Ties,
        MergeMethod::DareLinear => Method::DareLinear,
        MergeMethod::DareTies => Method::DareTies,
    };
    let mut config = MergeConfig::new(method, args.models.iter().cloned());
    if !args.weights.is_empty() && args.weights.len() != args.models.len() {
        let (weights, models) = (args.weights.len(), args.models.len());
        return Err(Failure::usage(format!("there are {weights} weights for {models} models")));
    }
    for (model, &weight) in config.models.iter_mut().zip(&args.weights) {
        model.weight = weight;
    }
    for model in &mut config.models {
        model.density = args.density;
    }
    config.base.clone_from(&args.base);
    config.t = vec![(None, Schedule(vec![args.t]))];
    config.normalize &= !args.no_normalize;
    config.seed = args.seed;
    Ok(config)
}
