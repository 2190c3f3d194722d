//! From one model folder to another: other types, packed or unpacked weights.
//!
//! Ports `mlx_lm/convert.py` and `quantize_model` of mlx_lm/utils.py @ 0.32.2. Unusual: a leaf whose rows the group does not
//! divide stays dense, and the entry `dtype` of newer configurations is read like `torch_dtype`.

use std::path::Path;

use mlxlm_core::nn;
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::QuantizationConfig;
use mlxlm_core::{Dtype, Exception, io};
use mlxlm_models::{Architecture, CausalLm, LoadOptions, ModelConfig, NewFolder, load_model, save};

use crate::{Error, Recipe, Result};

/// Which leaf gets which scheme.
#[derive(Debug, Clone, Copy)]
pub struct Quantization {
    /// The scheme of every leaf, and the head of the configuration.
    pub scheme: Scheme,
    /// A recipe that decides for each leaf instead; its group is that of `scheme`.
    pub recipe: Option<Recipe>,
}

/// What becomes of the weights.
#[derive(Debug, Clone, Copy, Default)]
pub enum Form {
    /// They stay as they are.
    #[default]
    Keep,
    /// They are packed.
    Quantize(Quantization),
    /// They are unpacked.
    Dequantize,
}

/// What is to be done to a model.
#[derive(Debug, Clone, Default)]
pub struct ConvertOptions {
    /// The type of floating-point weights; that of the configuration if absent.
    pub dtype: Option<Dtype>,
    /// What becomes of the weights.
    pub form: Form,
    /// The text of `README.md`, the model card; there is none without it.
    pub readme: Option<String>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Converted {
    /// Bits for each weight, all scales and biases included.
    pub bits_per_weight: f64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Reads the model folder `source` and writes `target`, which must not exist.
pub fn convert(source: &Path, target: &Path, options: &ConvertOptions) -> Result<Converted> {
    let folder = NewFolder::create(target)?;
    let (mut model, mut config, warnings) = load_model(source, &LoadOptions::default())?;
    if let Some(dtype) = options.dtype.or_else(|| dtype_of(&config)) {
        cast(&mut *model, dtype)?;
    }
    match &options.form {
        Form::Keep => {}
        Form::Quantize(quantization) => quantize_model(&mut *model, &mut config, quantization)?,
        Form::Dequantize => dequantize_model(&mut *model, &mut config)?,
    }
    save(folder.path(), &mut *model, &config, source)?;
    if let Some(readme) = &options.readme {
        io::write(folder.path().join("README.md"), readme)?;
    }
    folder.finish()?;
    let (count, bytes) = nn::size(&mut *model);
    Ok(Converted { bits_per_weight: bytes as f64 * 8.0 / count.max(1) as f64, warnings })
}

/// The type that the configuration names, if it is one that weights can have.
fn dtype_of(config: &ModelConfig) -> Option<Dtype> {
    let nested = config.get("text_config").and_then(|text| text.get("dtype"));
    let name = config.get("torch_dtype").or_else(|| config.get("dtype")).or(nested)?.as_str()?;
    match name {
        "float16" => Some(Dtype::Float16),
        "bfloat16" => Some(Dtype::Bfloat16),
        "float32" => Some(Dtype::Float32),
        _ => None,
    }
}

/// Gives every floating-point weight a type.
fn cast(model: &mut dyn CausalLm, dtype: Dtype) -> Result<()> {
    let mut failed: Option<Exception> = None;
    model.walk("", &mut |path, leaf| {
        leaf.parameters(path, &mut |_, array| {
            if array.dtype().is_float() {
                match array.as_dtype(dtype) {
                    Ok(cast) => *array = cast,
                    Err(exception) => failed = Some(exception),
                }
            }
        });
    });
    failed.map_or(Ok(()), |exception| Err(exception.into()))
}

/// How routers are packed where no recipe says otherwise, as in mlx-lm; rows that 64 does not divide have the group of all others.
const ROUTER: Scheme = Scheme { mode: Mode::Affine, bits: 8, group_size: 64 };

/// Packs the leaves of a model, and says so in its configuration.
pub fn quantize_model(model: &mut dyn CausalLm, config: &mut ModelConfig, how: &Quantization) -> Result<()> {
    if config.get("quantization").is_some() {
        return Err(Error::Quantized);
    }
    let routers = Architecture::find(config.model_type()?)?.routers;
    let decide: Box<dyn Fn(&str) -> Result<Scheme>> = match how.recipe {
        None => Box::new(|path| {
            let is_router = routers.iter().any(|router| path == *router || path.ends_with(&format!(".{router}")));
            Ok(if is_router { ROUTER } else { how.scheme })
        }),
        Some(recipe) if how.scheme.mode == Mode::Affine => {
            Box::new(recipe.schemes(&packable(model), model.info().num_layers, how.scheme.group_size)?)
        }
        Some(recipe) => return Err(Error::RecipeMode { recipe: recipe.name(), mode: how.scheme.mode }),
    };
    let mut written = QuantizationConfig { default: Some(how.scheme), ..QuantizationConfig::default() };
    let mut failed: Option<Error> = None;
    model.walk("", &mut |path, mut leaf| {
        let Some(matrix) = leaf.matrix() else { return };
        let packed = decide(path).and_then(|mut scheme| {
            if scheme == ROUTER && !scheme.divides(matrix.input_dims()) {
                scheme.group_size = how.scheme.group_size;
            }
            if !scheme.divides(matrix.input_dims()) {
                return Ok(());
            }
            if how.recipe.is_some() || scheme != how.scheme {
                written.paths.insert(path.to_owned(), Some(scheme));
            }
            Ok(matrix.quantize(scheme)?)
        });
        if let Err(error) = packed {
            failed.get_or_insert(error);
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    config.set("quantization", written.to_json());
    config.set("quantization_config", written.to_json());
    Ok(())
}

/// Unpacks the leaves of a model, and says so in its configuration.
pub fn dequantize_model(model: &mut dyn CausalLm, config: &mut ModelConfig) -> Result<()> {
    if config.get("quantization").is_none() && config.get("quantization_config").is_none() {
        return Err(Error::NotQuantized);
    }
    let mut failed: Option<Exception> = None;
    model.walk("", &mut |_, mut leaf| {
        if let Some(Err(exception)) = leaf.matrix().map(nn::Matrix::dequantize) {
            failed.get_or_insert(exception);
        }
    });
    config.set("quantization", None);
    config.set("quantization_config", None);
    failed.map_or(Ok(()), |exception| Err(exception.into()))
}

/// The paths of all leaves that can be packed.
fn packable(model: &mut dyn CausalLm) -> Vec<String> {
    let mut paths = Vec::new();
    model.walk("", &mut |path, mut leaf| paths.extend(leaf.matrix().map(|_| path.to_owned())));
    paths
}
