//! Update rules by the names and the settings that mlx-lm's configurations have (`optimizer`, `optimizer_config`).

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Adam, Rule, Sgd};
use crate::{Error, Result};

impl Rule {
    /// The names of [`from_name`](Self::from_name).
    pub const NAMES: [&str; 5] = ["adam", "adamw", "muon", "sgd", "adafactor"];

    /// The rule of this name with the settings that MLX's class takes, all of them optional.
    ///
    /// # Errors
    /// [`Error::Optimizer`] for a name or a setting that does not exist, and for values out of range.
    pub fn from_name(name: &str, settings: &Map<String, Value>) -> Result<Self> {
        let wrong = |why: String| Error::Optimizer { name: name.to_owned(), why };
        let rule = match name {
            "adam" if settings.contains_key("weight_decay") => {
                return Err(wrong("has no setting `weight_decay`; `adamw` does".into()));
            }
            "adam" => Self::Adam(read(settings).map_err(wrong)?),
            "adamw" => {
                let mut settings = settings.clone();
                settings.entry("weight_decay").or_insert_with(|| 0.01.into());
                Self::Adam(read(&settings).map_err(wrong)?)
            }
            "muon" => Self::Muon(read(settings).map_err(wrong)?),
            "sgd" => Self::Sgd(read(settings).map_err(wrong)?),
            "adafactor" => Self::Adafactor(read(settings).map_err(wrong)?),
            _ => return Err(wrong(format!("is not known; the optimizers are {}", Self::NAMES.join(", ")))),
        };
        match rule {
            Self::Adam(Adam { betas, .. }) if betas.iter().any(|beta| !(0.0..1.0).contains(beta)) => {
                Err(wrong("needs betas from 0 to below 1".into()))
            }
            Self::Adam(Adam { eps, .. }) if eps.is_nan() || eps < 0.0 => Err(wrong("needs an eps of 0 or more".into())),
            Self::Sgd(Sgd { momentum, dampening, nesterov: true, .. }) if momentum <= 0.0 || dampening != 0.0 => {
                Err(wrong("takes `nesterov` only with a momentum and without dampening".into()))
            }
            rule => Ok(rule),
        }
    }
}

fn read<T: DeserializeOwned>(settings: &Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(settings.clone())).map_err(|error| format!("is set wrongly: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Adafactor, Muon};
    use super::*;

    fn rule(name: &str, settings: Value) -> Result<Rule, String> {
        Rule::from_name(name, settings.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_settings_are_those_of_mlx() {
        assert_eq!(rule("adam", json!({})), Ok(Rule::Adam(Adam::default())));
        assert_eq!(rule("adamw", json!({})), Ok(Rule::Adam(Adam::with_weight_decay())));
        let own = Adam { betas: [0.8, 0.95], eps: 1e-6, bias_correction: true, weight_decay: 0.5 };
        let settings = json!({"betas": [0.8, 0.95], "eps": 1e-6, "bias_correction": true, "weight_decay": 0.5});
        assert_eq!(rule("adamw", settings), Ok(Rule::Adam(own)));
        assert_eq!(rule("sgd", json!({"momentum": 0.5})), Ok(Rule::Sgd(Sgd { momentum: 0.5, ..Sgd::default() })));
        assert_eq!(rule("muon", json!({"ns_steps": 3})), Ok(Rule::Muon(Muon { ns_steps: 3, ..Muon::default() })));
        let own = Adafactor { beta_1: Some(0.9), relative_step: false, ..Adafactor::default() };
        assert_eq!(rule("adafactor", json!({"beta_1": 0.9, "relative_step": false})), Ok(Rule::Adafactor(own)));
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let wrong = |name: &str, settings: Value| rule(name, settings).unwrap_err();
        assert!(wrong("lion", json!({})).starts_with("the optimizer `lion` is not known; the optimizers are adam, "));
        assert!(wrong("adam", json!({"beta1": 0.9})).contains("unknown field `beta1`"));
        assert!(wrong("adam", json!({"weight_decay": 0.1})).contains("`adamw` does"));
        assert!(wrong("adam", json!({"betas": [0.9, 1.0]})).contains("below 1"));
        assert!(wrong("muon", json!({"momentum": "much"})).contains("invalid type"));
        assert!(wrong("sgd", json!({"nesterov": true})).contains("only with a momentum"));
    }
}
