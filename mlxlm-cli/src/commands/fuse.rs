//! `fuse`: puts a fine-tune into the weights of its model.

use mlxlm_core::io;
use mlxlm_models::{Built, LoadOptions, NewFolder, check_companions, gguf, load_model, save};
use mlxlm_quant::dequantize_model;
use mlxlm_train::lora;

use super::convert::model_card;
use super::upload;
use crate::args::FuseArgs;
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::{say, warn};
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &FuseArgs) -> Result {
    let repo = args.upload_repo.as_deref().map(upload::repo).transpose()?;
    if let Some(repo) = &repo {
        upload::check(repo)?;
    }
    if args.trust_remote_code {
        warn(model::CODE_IS_NEVER_RUN);
    }
    // What cannot be written is known before the work.
    let folder = NewFolder::create(&args.save_path)?;
    say!("[INFO] Loading")?;
    let source = model::resolve(&args.model, args.revision.as_deref())?;
    check_companions(&source.folder)?;
    let options = LoadOptions { adapter_path: Some(args.adapter_path.clone()), mtp: true, ..LoadOptions::default() };
    let (Built { mut model, warnings }, mut config) = load_model(&source.folder, &options)?;
    warnings.iter().for_each(warn);
    let fused = lora::fuse(&mut *model, args.dequantize)?;
    say!("[INFO] Fusing {fused} adapters")?;
    if args.dequantize {
        if config.get("quantization").is_some() || config.get("quantization_config").is_some() {
            say!("[INFO] Dequantizing")?;
            dequantize_model(&mut *model, &mut config)?;
        } else {
            warn("`--dequantize` has no effect: the model is not quantized");
        }
    }
    save(folder.path(), &mut *model, &config, &source.folder)?;
    if args.export_gguf {
        let path = folder.path().join(&args.gguf_path);
        say!("[INFO] Writing {}", terminal::name(&args.gguf_path.to_string_lossy()))?;
        gguf::export_model(&mut *model, &config, &source.folder, &path, args.gguf_type.tensors())?;
    }
    let card = model_card(&source, args.revision.as_deref())?.render(repo.as_ref());
    io::write(folder.path().join("README.md"), card).map_err(Failure::from)?;
    folder.finish()?;
    match &repo {
        Some(repo) => upload::upload(repo, &args.save_path, "Upload of a model fine-tuned and fused by mlxlm"),
        None => Ok(()),
    }
}
