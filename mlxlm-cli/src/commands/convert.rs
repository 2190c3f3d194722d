//! `convert`: one model folder to another.

use mlxlm_core::Dtype;
use mlxlm_core::hub::ModelCard;
use mlxlm_core::io;
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::watch_saving;
use mlxlm_models::ModelConfig;
use mlxlm_quant::{ConvertOptions, Form, Quantization, Recipe, convert};

use super::upload;
use crate::args::{ConvertArgs, MixedRecipe, QuantMode, WeightType};
use crate::failure::Result;
use crate::model::{self, Source};
use crate::output::{say, warn};
use crate::progress::{self, Busy};
use crate::{interrupt, memory, terminal, units};

/// Runs the command.
pub(super) fn run(args: &ConvertArgs) -> Result {
    let mut options = options(args)?;
    let repo = args.upload_repo.as_deref().map(upload::repo).transpose()?;
    repo.iter().try_for_each(upload::check)?;
    if args.mlx_path.exists() {
        return Err(mlxlm_models::Error::Exists { folder: args.mlx_path.clone() }.into());
    }
    if args.trust_remote_code {
        warn(model::CODE_IS_NEVER_RUN);
    }
    interrupt::clean_up_on_signals()?;
    say!("[INFO] Loading")?;
    let source = source(args, &options.form)?;
    memory::check(&source.folder)?;
    options.readme = Some(model_card(&source, args.revision.as_deref())?.render(repo.as_ref()));
    match options.form {
        Form::Keep => {}
        Form::Quantize(_) => say!("[INFO] Quantizing")?,
        Form::Dequantize => say!("[INFO] Dequantizing")?,
    }
    let busy = Busy::begin("reading the weights");
    let say_how_far = busy.teller();
    let watcher = move |done, total| say_how_far(format!("writing tensor {done}/{total}"));
    let converted = watch_saving(watcher, || convert(&source.folder, &args.mlx_path, &options))?;
    drop(busy);
    converted.warnings.iter().for_each(warn);
    let bits = format!("{:.3} bits per weight.", converted.bits_per_weight);
    match options.form {
        Form::Quantize(_) => say!("[INFO] Quantized model with {bits}")?,
        Form::Keep | Form::Dequantize => say!("[INFO] {bits}")?,
    }
    let target = terminal::name(&args.mlx_path.to_string_lossy());
    say!("[INFO] Wrote {target}, {} of weights.", units::bytes(memory::weight_bytes(&args.mlx_path)))?;
    repo.iter().try_for_each(|repo| upload::upload(repo, &args.mlx_path, "Upload of a model converted by mlxlm"))
}

/// The model that is converted.
fn source(args: &ConvertArgs, form: &Form) -> Result<Source> {
    match (&args.gguf_path, &args.model) {
        (Some(path), _) => {
            // A file that is not there is reported as such, and not as a folder.
            io::open(path)?;
            Ok(Source { folder: path.clone(), repo: None })
        }
        (None, model) => {
            let model = model.as_deref().unwrap_or_default();
            model::resolve_if(model, args.revision.as_deref(), &mut |config| fits(config, form))
        }
    }
}

/// Refuses what the configuration rules out, before any weights are fetched.
fn fits(config: &ModelConfig, form: &Form) -> Result {
    let is_packed = |key: &str| config.get(key).is_some_and(|entry| !entry.is_null());
    match form {
        Form::Quantize(_) if is_packed("quantization") => Err(mlxlm_quant::Error::Quantized.into()),
        Form::Dequantize if !is_packed("quantization") && !is_packed("quantization_config") => {
            Err(mlxlm_quant::Error::NotQuantized.into())
        }
        _ => Ok(()),
    }
}

/// The card of the original, as that of a model made from it. A download brings no card, so that is fetched here.
pub(super) fn model_card(source: &Source, revision: Option<&str>) -> Result<ModelCard> {
    let Some(repo) = &source.repo else {
        let base = io::own_file(&source.folder, "README.md")?.map(io::read_to_string).transpose()?;
        return Ok(ModelCard::derived(base.as_deref(), None));
    };
    let fetched = model::hub()?.file(repo.as_str(), revision, "README.md", &progress::shown());
    let base = fetched.and_then(|card| card.map(io::read_to_string).transpose()).unwrap_or_else(|error| {
        warn(format_args!("the original model card cannot be read: {error}"));
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
        let recipe = args.quant_predicate.map(recipe);
        if let Some(recipe) = recipe.filter(|_| mode != Mode::Affine) {
            return Err(mlxlm_quant::Error::RecipeMode { recipe: recipe.name(), mode }.into());
        }
        Form::Quantize(Quantization { scheme, recipe })
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
