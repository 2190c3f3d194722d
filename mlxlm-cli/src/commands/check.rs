//! `check`: whether a model loads whole, and whether all its weights are finite numbers.

use mlxlm_core::nn;
use mlxlm_core::text::Tokenizer;
use mlxlm_models::{Checked, Fault, LoadOptions, check, gguf, load_model};
use serde_json::{Value, json};

use crate::args::CheckArgs;
use crate::failure::{Failure, Result};
use crate::model::{self, Source};
use crate::output::{say, warn};
use crate::terminal;

/// Runs the command.
pub(super) fn run(args: &CheckArgs) -> Result {
    let Source { folder, .. } = model::resolve(&args.model, args.revision.as_deref())?;
    let options = LoadOptions { adapter_path: args.adapter_path.clone(), ..LoadOptions::default() };
    let (built, _) = load_model(&folder, &options)?;
    match gguf::is_file(&folder) {
        true => drop(gguf::tokenizer(&folder)?.load(&options.tokenizer)?),
        false => drop(Tokenizer::from_folder(&folder, &options.tokenizer)?),
    }
    let checked = check(&*built.model)?;
    let (parameters, _) = nn::size(&*built.model);
    let model_type = &built.model.info().model_type;
    if args.json {
        say!("{:#}", report(model_type, parameters, &checked, &built.warnings))?;
    } else {
        built.warnings.iter().for_each(warn);
        checked.faults.iter().try_for_each(|fault| say!("{}", line(fault)))?;
        say!("{}: {parameters} parameters in {} tensors", terminal::name(model_type), checked.tensors)?;
    }
    match checked.faults.len() {
        0 => Ok(()),
        1 => Err(faulty("a tensor of the model has")),
        count => Err(faulty(&format!("{count} tensors of the model have"))),
    }
}

fn faulty(what: &str) -> Failure {
    Failure::new(format!("{what} values that are not finite"))
        .hint("download or convert the model again; if the original has them too, no program can run it correctly")
}

/// One line for a tensor: `model.norm.weight: 3 of 64 values are not numbers, 1 is infinite`.
fn line(fault: &Fault) -> String {
    let Fault { name, nan, infinite, values } = fault;
    let is = |count: u64| if count == 1 { "is" } else { "are" };
    let nan = (*nan > 0).then(|| format!("{nan} {} not a number", is(*nan)));
    let infinite = (*infinite > 0).then(|| format!("{infinite} {} infinite", is(*infinite)));
    let parts: Vec<String> = nan.into_iter().chain(infinite).collect();
    format!("{}: of {values} values {}", terminal::name(name), parts.join(", "))
}

fn report(model_type: &str, parameters: u64, checked: &Checked, warnings: &[String]) -> Value {
    let faults: Vec<Value> = checked
        .faults
        .iter()
        .map(|fault| json!({"name": fault.name, "nan": fault.nan, "infinite": fault.infinite, "values": fault.values}))
        .collect();
    json!({
        "model_type": model_type,
        "parameters": parameters,
        "tensors": checked.tensors,
        "faults": faults,
        "warnings": warnings,
    })
}
