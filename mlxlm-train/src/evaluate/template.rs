//! The templates of tasks: names of fields, or Jinja2 as lm-evaluation-harness sets it up (`lm_eval/utils.py`).

use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use regex::Regex;
use serde_json::{Map, Value};

fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut environment = Environment::new();
        // It cannot fail: no delimiter is changed.
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // A task is a file that somebody else may have written.
        environment.set_fuel(Some(1_000_000));
        environment.add_filter("regex_replace", |text: String, pattern: String, with: String| {
            let invalid =
                |error: regex::Error| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, error.to_string());
            Ok::<_, minijinja::Error>(Regex::new(&pattern).map_err(invalid)?.replace_all(&text, with).into_owned())
        });
        environment
    })
}

/// The text that a template makes of a document.
pub(super) fn render(template: &str, document: &Map<String, Value>) -> Result<String, String> {
    environment().render_str(template, Serde(document)).map_err(|error| error.to_string())
}

/// The value of a template: that of the field that it names, that of the expression if it is one alone, else its text.
pub(super) fn value(template: &str, document: &Map<String, Value>) -> Result<Value, String> {
    if let Some(field) = document.get(template) {
        return Ok(field.clone());
    }
    let alone = template.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    let alone = alone.filter(|inside| !inside.contains("{{") && !inside.contains("}}"));
    match alone.and_then(|expression| environment().compile_expression(expression).ok()) {
        Some(expression) => {
            let value = expression.eval(Serde(document)).map_err(|error| error.to_string())?;
            if value.is_undefined() {
                return Err(format!("`{template}` has no value"));
            }
            serde_json::to_value(&value).map_err(|error| error.to_string())
        }
        None => Ok(Value::String(render(template, document)?)),
    }
}
