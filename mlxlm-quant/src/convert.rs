//! From one model folder to another: other types, packed or unpacked weights.
//!
//! Ports `mlx_lm/convert.py` and `quantize_model` of `mlx_lm/utils.py` @ 0.32.2. Unusual: a leaf whose rows the group does not
//! divide stays dense and is reported, configurations name the new type, and the entry `dtype` of newer configurations is read like `torch_dtype`.

use std::collections::BTreeSet;
use std::path::Path;

use mlxlm_core::error::{LISTED, listed};
use mlxlm_core::nn::{self, Precision};
use mlxlm_core::quant::{Mode, Scheme};
use mlxlm_core::weights::QuantizationConfig;
use mlxlm_core::{Dtype, Exception, io};
use mlxlm_models::{Built, CausalLm, LoadOptions, ModelConfig, NewFolder, check_companions, load_model, save};
use serde_json::Value;

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
    check_companions(source)?;
    let (Built { mut model, mut warnings }, mut config) =
        load_model(source, &LoadOptions { mtp: true, ..LoadOptions::default() })?;
    warnings.extend(left_over(source, &config)?);
    if let Some(dtype) = options.dtype.or_else(|| dtype_of(&config)) {
        cast(&mut *model, dtype)?;
    }
    if let Some(dtype) = options.dtype {
        set_dtype(&mut config, dtype);
    }
    match &options.form {
        Form::Keep => {}
        Form::Quantize(how) => {
            let dense = quantize_model(&mut *model, &mut config, how)?;
            warnings.extend((!dense.is_empty()).then(|| {
                let (paths, scheme) = (listed(&dense, LISTED), how.scheme);
                format!("{paths} are not quantized, because {scheme} cannot pack matrices of their shape")
            }));
        }
        Form::Dequantize => dequantize_model(&mut *model, &mut config)?,
    }
    save(folder.path(), &mut *model, &config, source)?;
    if let Some(readme) = &options.readme {
        io::write(folder.path().join("README.md"), readme)?;
    }
    folder.finish()?;
    let (count, bytes) = nn::size(&*model);
    Ok(Converted { bits_per_weight: bytes as f64 * 8.0 / count.max(1) as f64, warnings })
}

/// A `quantization_config` that is left over from what the weights were made from, and that the new folder does without.
fn left_over(source: &Path, config: &ModelConfig) -> Result<Option<String>> {
    if !source.is_dir() || config.get("quantization").is_some() {
        return Ok(None);
    }
    let before = ModelConfig::read(source)?;
    let method = before.get("quantization_config").and_then(|entry| entry.get("quant_method")).and_then(Value::as_str);
    Ok(method.map(|method| {
        format!("`quantization_config` is dropped from config.json: the weights are not quantized by `{method}`")
    }))
}

/// The type that the configuration names, if it is one that weights can have.
fn dtype_of(config: &ModelConfig) -> Option<Dtype> {
    let nested = config.get("text_config").and_then(|text| text.get("dtype"));
    let name = config.get("torch_dtype").or_else(|| config.get("dtype")).or(nested)?.as_str()?;
    DTYPES.iter().find(|(known, _)| *known == name).map(|&(_, dtype)| dtype)
}

/// The types that weights can have, by their names in a configuration.
const DTYPES: [(&str, Dtype); 3] =
    [("float16", Dtype::Float16), ("bfloat16", Dtype::Bfloat16), ("float32", Dtype::Float32)];

/// Lets the configuration name the type that the weights have now, wherever it named one, and at least at the top: what
/// is converted again would go back to the old type.
fn set_dtype(config: &mut ModelConfig, dtype: Dtype) {
    const KEYS: [&str; 2] = ["torch_dtype", "dtype"];
    let Some((name, _)) = DTYPES.iter().find(|(_, known)| *known == dtype) else { return };
    if let Some(Value::Object(mut text)) = config.get("text_config").cloned() {
        text.iter_mut()
            .filter(|(key, _)| KEYS.contains(&key.as_str()))
            .for_each(|(_, named)| *named = Value::from(*name));
        config.set("text_config", Some(Value::Object(text)));
    }
    let named: Vec<&str> = KEYS.into_iter().filter(|key| config.get(key).is_some()).collect();
    for key in if named.is_empty() { &KEYS[..1] } else { &named[..] } {
        config.set(key, Some(Value::from(*name)));
    }
}

/// Gives every floating-point weight a type.
fn cast(model: &mut dyn CausalLm, dtype: Dtype) -> Result<()> {
    let mut failed: Option<Exception> = None;
    model.walk_mut("", &mut |path, leaf| {
        if leaf.as_ref().worth().pinned {
            return;
        }
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

/// How routers and their like are packed where no recipe says otherwise, as in mlx-lm; rows that 64 does not divide have the group
/// of all others.
pub(crate) const EIGHT_BITS: Scheme = Scheme { mode: Mode::Affine, bits: 8, group_size: 64 };

/// How a leaf of this path and precision is packed, if it is.
type Decide<'a> = Box<dyn Fn(&str, Precision) -> Result<Option<Scheme>> + 'a>;

/// Packs the leaves of a model, and says so in its configuration. The paths of those that stay dense, because their scheme
/// does not take matrices of their shape, come back.
pub fn quantize_model(model: &mut dyn CausalLm, config: &mut ModelConfig, how: &Quantization) -> Result<Vec<String>> {
    if config.get("quantization").is_some() {
        return Err(Error::Quantized);
    }
    let decide: Decide = match how.recipe {
        None => Box::new(|_, precision| {
            Ok(match precision {
                Precision::Any => Some(how.scheme),
                Precision::Eight => Some(EIGHT_BITS),
                Precision::Dense => None,
            })
        }),
        Some(recipe) if how.scheme.mode == Mode::Affine => {
            let schemes = recipe.schemes(&packable(model), model.info().num_layers, how.scheme.group_size)?;
            Box::new(move |path, _| schemes(path).map(Some))
        }
        Some(recipe) => return Err(Error::RecipeMode { recipe: recipe.name(), mode: how.scheme.mode }),
    };
    let mut written = QuantizationConfig { default: Some(how.scheme), ..QuantizationConfig::default() };
    let (mut dense, mut failed) = (Vec::new(), None::<Error>);
    let never = never_packed(model);
    model.walk_mut("", &mut |path, mut leaf| {
        let precision = leaf.as_ref().worth().precision;
        let Some(matrix) = leaf.matrix().filter(|_| !never.contains(path)) else { return };
        let packed = decide(path, precision).and_then(|scheme| {
            let Some(mut scheme) = scheme else { return Ok(()) };
            if scheme == EIGHT_BITS && !scheme.divides(matrix.input_dims()) {
                scheme.group_size = how.scheme.group_size;
            }
            if !scheme.takes(&matrix.shape()) {
                dense.push(path.to_owned());
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
    Ok(dense)
}

/// The paths of the leaves that a recipe leaves alone, though it packs all others: those of heads that predict further tokens which
/// are too small to matter and too important to be packed.
pub(crate) fn never_packed(model: &dyn CausalLm) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let Some(mtp) = model.mtp() else { return paths };
    model.walk("", &mut |path, leaf| {
        if leaf.worth().precision == Precision::Dense && mtp.owns(path) {
            paths.insert(path.to_owned());
        }
    });
    paths
}

/// Unpacks the leaves of a model, and says so in its configuration.
pub fn dequantize_model(model: &mut dyn CausalLm, config: &mut ModelConfig) -> Result<()> {
    if config.get("quantization").is_none() && config.get("quantization_config").is_none() {
        return Err(Error::NotQuantized);
    }
    let mut failed: Option<Exception> = None;
    model.walk_mut("", &mut |_, mut leaf| {
        if let Some(Err(exception)) = leaf.matrix().map(nn::Matrix::dequantize) {
            failed.get_or_insert(exception);
        }
    });
    config.set("quantization", None);
    config.set("quantization_config", None);
    failed.map_or(Ok(()), |exception| Err(exception.into()))
}

/// The paths of all leaves that can be packed.
fn packable(model: &dyn CausalLm) -> Vec<String> {
    let mut paths = Vec::new();
    model.walk("", &mut |path, leaf| paths.extend(leaf.matrix().map(|_| path.to_owned())));
    paths
}
