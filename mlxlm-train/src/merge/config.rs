//! What is merged and how: a YAML file as mergekit's, or values.

use mlxlm_core::Dtype;
use serde_json::{Map, Value};

use super::{MergeError, number};

/// How tensors are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The weighted mean.
    Linear,
    /// Along the arc between two models.
    Slerp,
    /// Differences from a base, trimmed, of the sign that prevails.
    Ties,
    /// Differences from a base, dropped at random and scaled up.
    DareLinear,
    /// The same, of the sign that prevails.
    DareTies,
}

impl Method {
    /// The method with this name.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "linear" => Self::Linear,
            "slerp" => Self::Slerp,
            "ties" => Self::Ties,
            "dare_linear" => Self::DareLinear,
            "dare_ties" | "dare" => Self::DareTies,
            _ => return None,
        })
    }

    /// Whether differences from a base are merged.
    pub fn has_base(self) -> bool {
        matches!(self, Self::Ties | Self::DareLinear | Self::DareTies)
    }
}

/// A number for each layer: one for all, or some that are joined by straight lines over equal parts of the layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule(pub Vec<f64>);

impl Schedule {
    fn read(value: &Value, key: &str) -> Result<Self, MergeError> {
        match value {
            Value::Array(values) if !values.is_empty() => {
                Ok(Self(values.iter().map(|value| number(value, key)).collect::<Result<_, _>>()?))
            }
            value => Ok(Self(vec![number(value, key)?])),
        }
    }

    /// The number of each layer.
    pub(super) fn of_layers(&self, layers: usize) -> Vec<f64> {
        let [points @ .., last] = self.0.as_slice() else { return vec![0.0; layers] };
        if points.is_empty() {
            return vec![*last; layers];
        }
        let bins = points.len();
        let mut all = Vec::with_capacity(layers);
        for (i, pair) in self.0.windows(2).enumerate() {
            let size = if i + 1 == bins { layers - layers / bins * (bins - 1) } else { layers / bins };
            // As numpy's `linspace`: both ends included, and the first alone where there is one.
            let step = if size > 1 { (pair[1] - pair[0]) / (size - 1) as f64 } else { 0.0 };
            all.extend((0..size).map(|j| if j > 0 && j + 1 == size { pair[1] } else { pair[0] + step * j as f64 }));
        }
        all
    }
}

/// A model with its part in the whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighed {
    /// The folder or repository.
    pub model: String,
    /// Its weight.
    pub weight: f64,
    /// The share of its differences that is kept.
    pub density: f64,
}

/// What is merged and how.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeConfig {
    /// How.
    pub method: Method,
    /// The model from which differences are taken; for slerp the one at 0. The first one if there is none.
    pub base: Option<String>,
    /// The models. A base among them takes no part of its own in methods that merge differences.
    pub models: Vec<Weighed>,
    /// Slerp: where between the two models, from 0 to 1, by the part of a block; the last without a part is for all others.
    pub t: Vec<(Option<String>, Schedule)>,
    /// Whether weights are divided by their sum.
    pub normalize: bool,
    /// The factor of merged differences.
    pub lambda: f64,
    /// What DARE drops is drawn from this.
    pub seed: u64,
    /// The type of the result; that of the base if none.
    pub dtype: Option<Dtype>,
}

impl MergeConfig {
    /// A merge of these models with equal weights and the usual numbers of the method.
    pub fn new(method: Method, models: impl IntoIterator<Item = String>) -> Self {
        let models = models.into_iter().map(|model| Weighed { model, weight: 1.0, density: 1.0 }).collect();
        Self {
            method,
            base: None,
            models,
            t: vec![(None, Schedule(vec![0.5]))],
            normalize: method != Method::DareLinear && method != Method::DareTies,
            lambda: 1.0,
            seed: 0,
            dtype: None,
        }
    }

    /// Reads the text of a YAML file.
    ///
    /// # Errors
    /// [`MergeError::Config`] for everything that is not understood.
    pub fn from_yaml(text: &str) -> Result<Self, MergeError> {
        let wrong = |why: String| MergeError::Config { why };
        let file: Value = serde_saphyr::from_str(text).map_err(|error| wrong(format!("no YAML: {error}")))?;
        let Value::Object(mut entries) = file else { return Err(wrong("the file holds no entries".into())) };
        let method = entries.remove("merge_method").or_else(|| entries.remove("method"));
        let method =
            method.as_ref().and_then(Value::as_str).ok_or_else(|| wrong("`merge_method` is missing".into()))?;
        let method = Method::of(method).ok_or_else(|| {
            wrong(format!("`{method}` is no method; there are linear, slerp, ties, dare_linear and dare_ties"))
        })?;
        let sources = match (entries.remove("models"), entries.remove("slices")) {
            (Some(models), None) => models,
            (None, Some(slices)) => only_slice(&slices)?,
            _ => return Err(wrong("there must be `models`, or one slice".into())),
        };
        let Value::Array(sources) = sources else { return Err(wrong("`models` is no list".into())) };
        let mut config = Self::new(method, []);
        for source in &sources {
            config.models.push(weighed(source)?);
        }
        config.base = text_of(entries.remove("base_model"), "base_model")?;
        let parameters = entries.remove("parameters").unwrap_or_default();
        config.set_parameters(&parameters)?;
        config.dtype = match text_of(entries.remove("dtype"), "dtype")?.as_deref() {
            None => None,
            Some("float16") => Some(Dtype::Float16),
            Some("bfloat16") => Some(Dtype::Bfloat16),
            Some("float32") => Some(Dtype::Float32),
            Some(other) => return Err(wrong(format!("`dtype` is `{other}`, expected float16, bfloat16 or float32"))),
        };
        // Tokenizers are those of the base in any case.
        if let Some(source) = text_of(entries.remove("tokenizer_source"), "tokenizer_source")?
            && source != "base"
        {
            return Err(wrong(format!("`tokenizer_source` is `{source}`, and only `base` is supported")));
        }
        match entries.keys().next() {
            Some(key) => Err(wrong(format!("`{key}` is not supported"))),
            None => Ok(config),
        }
    }

    fn set_parameters(&mut self, parameters: &Value) -> Result<(), MergeError> {
        let Value::Object(parameters) = parameters else { return Ok(()) };
        for (key, value) in parameters {
            match key.as_str() {
                "t" => self.t = schedules(value)?,
                "normalize" => self.normalize = flag(value, key)?,
                "lambda" => self.lambda = number(value, key)?,
                "weight" => {
                    let weight = number(value, key)?;
                    self.models.iter_mut().for_each(|model| model.weight = weight);
                }
                "density" => {
                    let density = number(value, key)?;
                    self.models.iter_mut().for_each(|model| model.density = density);
                }
                _ => return Err(MergeError::Config { why: format!("`parameters.{key}` is not supported") }),
            }
        }
        Ok(())
    }

    /// The models in the order in which they are read: the base first.
    pub(super) fn names(&self) -> Vec<&str> {
        let models = self.models.iter().map(|model| model.model.as_str());
        match &self.base {
            None => models.collect(),
            Some(base) => std::iter::once(base.as_str()).chain(models.filter(|model| model != base)).collect(),
        }
    }

    /// The weight and the density of the models in the order of [`names`](Self::names).
    pub(super) fn weighed(&self) -> Vec<(f64, f64)> {
        let of = |name: &&str| self.models.iter().find(|model| model.model == *name);
        self.names().iter().map(|name| of(name).map_or((0.0, 1.0), |model| (model.weight, model.density))).collect()
    }

    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Result<(), MergeError> {
        let wrong = |why: String| Err(MergeError::Config { why });
        let names = self.names();
        if names.len() < 2 {
            return wrong("there must be at least two models".into());
        }
        let mut sorted = names.clone();
        sorted.sort_unstable();
        if let Some([twice, _]) = sorted.array_windows().find(|[a, b]| a == b) {
            return wrong(format!("`{twice}` is there twice"));
        }
        if self.method == Method::Slerp && names.len() != 2 {
            return wrong(format!("slerp goes between two models, and there are {}", names.len()));
        }
        if self.method.has_base() && self.base.is_none() {
            return wrong("this method merges differences from a model: name it as the base".into());
        }
        for Weighed { model, weight, density } in &self.models {
            if !weight.is_finite() {
                return wrong(format!("the weight of `{model}` is {weight}"));
            }
            if !(*density > 0.0 && *density <= 1.0) {
                return wrong(format!("the density of `{model}` is {density}, expected above 0 and up to 1"));
            }
        }
        let outside = |number: &&f64| !(0.0..=1.0).contains(*number);
        if let Some(t) = self.t.iter().flat_map(|(_, schedule)| &schedule.0).find(outside) {
            return wrong(format!("`t` is {t}, expected from 0 to 1"));
        }
        let sum: f64 = self.weighed().iter().map(|(weight, _)| weight).sum();
        if self.method == Method::Linear && self.normalize && sum.abs() < 1e-12 {
            return wrong("the weights add up to zero".into());
        }
        Ok(())
    }
}

/// The sources of the only slice, which mergekit's own examples of slerp have; of all layers.
fn only_slice(slices: &Value) -> Result<Value, MergeError> {
    let wrong = |why: &str| MergeError::Config { why: why.to_owned() };
    let [slice] = slices.as_array().map(Vec::as_slice).unwrap_or_default() else {
        return Err(wrong("several slices make another architecture, which is not supported"));
    };
    let sources = slice.get("sources").and_then(Value::as_array).ok_or_else(|| wrong("a slice has no `sources`"))?;
    let ranges: Vec<Option<&Value>> = sources.iter().map(|source| source.get("layer_range")).collect();
    if ranges.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(wrong("the sources of the slice have different `layer_range`s"));
    }
    if ranges.iter().flatten().any(|range| range.get(0).and_then(Value::as_i64) != Some(0)) {
        return Err(wrong("a `layer_range` does not begin at layer 0, which is not supported"));
    }
    let plain = sources.iter().cloned().map(|mut source| {
        if let Value::Object(source) = &mut source {
            source.remove("layer_range");
        }
        source
    });
    Ok(plain.collect())
}

fn weighed(source: &Value) -> Result<Weighed, MergeError> {
    let wrong = |why: String| MergeError::Config { why };
    if let Value::String(model) = source {
        return Ok(Weighed { model: model.clone(), weight: 1.0, density: 1.0 });
    }
    let model = source.get("model").and_then(Value::as_str).ok_or_else(|| wrong("a model has no name".into()))?;
    let mut weighed = Weighed { model: model.to_owned(), weight: 1.0, density: 1.0 };
    let none = Map::new();
    for (key, value) in source.as_object().unwrap_or(&none).iter().filter(|(key, _)| *key != "model") {
        let Value::Object(parameters) = value else {
            return Err(wrong(format!("`{key}` of a model is not supported")));
        };
        for (parameter, value) in parameters {
            match (key.as_str(), parameter.as_str()) {
                ("parameters", "weight") => weighed.weight = number(value, parameter)?,
                ("parameters", "density") => weighed.density = number(value, parameter)?,
                _ => return Err(wrong(format!("`{key}.{parameter}` of a model is not supported"))),
            }
        }
    }
    Ok(weighed)
}

fn schedules(value: &Value) -> Result<Vec<(Option<String>, Schedule)>, MergeError> {
    let is_list = value.as_array().is_some_and(|list| list.iter().any(Value::is_object));
    if !is_list {
        return Ok(vec![(None, Schedule::read(value, "t")?)]);
    }
    let wrong = |why: String| MergeError::Config { why };
    let mut all = Vec::new();
    for entry in value.as_array().into_iter().flatten() {
        let filter = text_of(entry.get("filter").cloned(), "filter")?;
        let value = entry.get("value").ok_or_else(|| wrong("an entry of `t` has no `value`".into()))?;
        all.push((filter, Schedule::read(value, "t")?));
    }
    match all.last() {
        Some((None, _)) => Ok(all),
        _ => Err(wrong("the last entry of `t` must be one without a `filter`, for all other parts".into())),
    }
}

fn text_of(value: Option<Value>, key: &str) -> Result<Option<String>, MergeError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(MergeError::Config { why: format!("`{key}` is {other}, expected a string") }),
    }
}

fn flag(value: &Value, key: &str) -> Result<bool, MergeError> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) => Ok(number.as_f64() != Some(0.0)),
        other => Err(MergeError::Config { why: format!("`{key}` is {other}, expected true or false") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_straight_lines_over_equal_parts() {
        let of = |values: &[f64], layers| Schedule(values.to_vec()).of_layers(layers);
        assert_eq!(of(&[0.25], 3), [0.25; 3]);
        assert_eq!(of(&[0.0, 1.0], 5), [0.0, 0.25, 0.5, 0.75, 1.0]);
        // numpy: concatenate([linspace(0, .5, 2), linspace(.5, 1, 3)])
        assert_eq!(of(&[0.0, 0.5, 1.0], 5), [0.0, 0.5, 0.5, 0.75, 1.0]);
        assert_eq!(of(&[0.0, 0.5, 0.2, 1.0], 3), [0.0, 0.5, 0.2]);
    }
}
