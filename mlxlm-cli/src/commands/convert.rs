//! `convert`: one model folder to another.

use mlxlm_core::Dtype;
use mlxlm_core::hub::{ModelCard, RepoId, Upload};
use mlxlm_core::io;
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_quant::{ConvertOptions, Form, Quantization, Recipe, convert};

use crate::args::{ConvertArgs, MixedRecipe, QuantMode, WeightType};
use crate::failure::{Failure, Result};
use crate::model::{self, Source};
use crate::output::{say, warn};
use crate::progress;

/// Runs the command.
pub(super) fn run(args: &ConvertArgs) -> Result {
    let mut options = options(args)?;
    let repo = args.upload_repo.as_deref().map(upload_repo).transpose()?;
    if args.mlx_path.exists() {
        return Err(mlxlm_models::Error::Exists { folder: args.mlx_path.clone() }.into());
    }
    if args.trust_remote_code {
        warn(model::CODE_IS_NEVER_RUN);
    }
    say!("[INFO] Loading")?;
    let source = model::resolve(&args.model, args.revision.as_deref())?;
    options.readme = Some(model_card(&source, args.revision.as_deref())?.render(repo.as_ref()));
    match options.form {
        Form::Keep => {}
        Form::Quantize(_) => say!("[INFO] Quantizing")?,
        Form::Dequantize => say!("[INFO] Dequantizing")?,
    }
    let converted = convert(&source.folder, &args.mlx_path, &options)?;
    converted.warnings.iter().for_each(warn);
    say!("[INFO] {:.3} bits per weight.", converted.bits_per_weight)?;
    if let Some(repo) = &repo {
        let message = "Upload of a model converted by mlxlm";
        let upload = Upload { repo: repo.as_str(), folder: &args.mlx_path, private: false, message };
        say!("[INFO] Uploaded to {}", model::hub()?.upload_folder(&upload, &progress::bars())?)?;
    }
    Ok(())
}

/// A name that cannot be uploaded to is told before anything is done.
fn upload_repo(name: &str) -> Result<RepoId> {
    RepoId::parse(name).map_err(|error| Failure::from(mlxlm_core::Error::from(error)).into_usage())
}

/// The card of the original, as that of a model made from it. A download brings no card, so that is fetched here.
fn model_card(source: &Source, revision: Option<&str>) -> Result<ModelCard> {
    let Some(repo) = &source.repo else {
        let own = source.folder.join("README.md");
        let base = own.is_file().then(|| io::read_to_string(own)).transpose()?;
        return Ok(ModelCard::derived(base.as_deref(), None));
    };
    let fetched = model::hub()?.file(repo.as_str(), revision, "README.md", &progress::bars());
    let base = fetched.and_then(|card| card.map(io::read_to_string).transpose()).unwrap_or_else(|error| {
        warn(format_args!("the new model card has nothing of the old one: {error}"));
        None
    });
    Ok(ModelCard::derived(base.as_deref(), Some(repo)))
}

fn options(args: &ConvertArgs) -> Result<ConvertOptions> {
    let form = if args.quantize {
        let mode = match args.q_mode {
            QuantMode::Affine => Mode::Affine,
            QuantMode::Mxfp4 => Mode::Mxfp4,
            QuantMode::Nvfp4 => Mode::Nvfp4,
            QuantMode::Mxfp8 => Mode::Mxfp8,
        };
        let usual = mode.default_scheme();
        let (bits, group) = (args.q_bits.unwrap_or(usual.bits), args.q_group_size.unwrap_or(usual.group_size));
        let scheme = Scheme::new(mode, bits, group)?;
        Form::Quantize(Quantization { scheme, recipe: args.quant_predicate.map(recipe) })
    } else if args.dequantize {
        Form::Dequantize
    } else {
        Form::Keep
    };
    let dtype = args.dtype.map(|dtype| match dtype {
        WeightType::Float16 => Dtype::Float16,
        WeightType::Bfloat16 => Dtype::Bfloat16,
        WeightType::Float32 => Dtype::Float32,
    });
    Ok(ConvertOptions { dtype, form, readme: None })
}

fn recipe(recipe: MixedRecipe) -> Recipe {
    match recipe {
        MixedRecipe::Mixed2_6 => Recipe::Mixed2_6,
        MixedRecipe::Mixed3_4 => Recipe::Mixed3_4,
        MixedRecipe::Mixed3_6 => Recipe::Mixed3_6,
        MixedRecipe::Mixed4_6 => Recipe::Mixed4_6,
    }
}
