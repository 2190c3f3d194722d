//! What an answer must be: `response_format` of OpenAI's APIs, and the fields that vLLM has beside it.

use mlxlm_sample::grammar::{GrammarError, GrammarSpec, Part};
use serde_json::Value;

use super::error::{ApiError, Result};
use super::fields::{Fields, wrong};

/// What an answer must be, and the field that said so.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) spec: GrammarSpec,
    pub(crate) path: String,
}

/// `response_format`, the `guided_…` fields and `structured_outputs`; one of them at most.
pub(crate) fn read(fields: &mut Fields) -> Result<Option<Wanted>> {
    let mut found = Vec::new();
    if let Some(format) = fields.fields("response_format")? {
        found.extend(format_of(format, true)?);
    }
    for (name, kind) in
        [("guided_json", "json"), ("guided_regex", "regex"), ("guided_choice", "choice"), ("guided_grammar", "grammar")]
    {
        let path = fields.path(name);
        found.extend(one(fields.any(name), kind, path)?);
    }
    if let Some(mut outputs) = fields.fields("structured_outputs")? {
        for kind in ["json", "regex", "choice", "grammar"] {
            let path = outputs.path(kind);
            found.extend(one(outputs.any(kind), kind, path)?);
        }
        if outputs.boolean("json_object")?.unwrap_or(false) {
            found.push(Wanted { spec: GrammarSpec::JsonObject, path: outputs.path("json_object") });
        }
        outputs.pass_over(&["disable_fallback", "disable_any_whitespace", "disable_additional_properties"]);
        outputs.finish()?;
    }
    // Which program does it is this server's own affair.
    fields.pass_over(&["guided_decoding_backend", "guided_whitespace_pattern"]);
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(ApiError::field(&found[1].path, format!("cannot be combined with `{}`", found[0].path))),
    }
}

/// A format as `response_format` has it, or as `text.format` of the Responses API, where the schema stands beside the type.
pub(crate) fn format_of(mut format: Fields, is_nested: bool) -> Result<Option<Wanted>> {
    let kind = format.word("type", &["text", "json_object", "json_schema"])?;
    let spec = match format.required("type", kind)? {
        "json_schema" => {
            let path = if is_nested { format.path("json_schema.schema") } else { format.path("schema") };
            let nested = if is_nested { Some(format.fields("json_schema")?) } else { None };
            let schema = match nested {
                Some(nested) => schema(format.required("json_schema", nested)?)?,
                None => return Ok(Some(Wanted { spec: GrammarSpec::JsonSchema(schema(format)?), path })),
            };
            Some(Wanted { spec: GrammarSpec::JsonSchema(schema), path })
        }
        "json_object" => Some(Wanted { spec: GrammarSpec::JsonObject, path: format.path("type") }),
        _ => None,
    };
    format.finish()?;
    Ok(spec)
}

/// The schema of a format, which is kept whether it is strict or not.
fn schema(mut fields: Fields) -> Result<Value> {
    let schema = fields.object("schema")?;
    let schema = fields.required("schema", schema)?;
    fields.boolean("strict")?;
    fields.string("name")?;
    fields.string("description")?;
    fields.finish()?;
    Ok(Value::Object(schema))
}

fn one(value: Option<Value>, kind: &str, path: String) -> Result<Option<Wanted>> {
    let Some(value) = value else { return Ok(None) };
    let spec = match (kind, value) {
        ("json", Value::String(text)) => {
            GrammarSpec::json_schema(&text).map_err(|error| ApiError::field(&path, error))?
        }
        ("json", schema @ Value::Object(_)) => GrammarSpec::JsonSchema(schema),
        ("json", other) => return Err(wrong(&path, &other, "a JSON schema, as an object or a string")),
        ("regex", Value::String(text)) => GrammarSpec::Regex(text),
        ("grammar", Value::String(text)) => GrammarSpec::Lark(text),
        ("choice", Value::Array(items)) => {
            let text = |item: Value| match item {
                Value::String(text) => Ok(text),
                other => Err(wrong(&path, &other, "a list of strings")),
            };
            GrammarSpec::Choice(items.into_iter().map(text).collect::<Result<_>>()?)
        }
        ("choice", other) => return Err(wrong(&path, &other, "a list of strings")),
        (_, other) => return Err(wrong(&path, &other, "a string")),
    };
    Ok(Some(Wanted { spec, path }))
}

/// The parts of a grammar that stands alone.
pub(crate) fn parts(spec: GrammarSpec) -> Vec<Part> {
    match spec {
        GrammarSpec::JsonSchema(schema) => vec![Part::Json(schema)],
        GrammarSpec::JsonObject => vec![Part::Json(serde_json::json!({"type": "object"}))],
        GrammarSpec::Regex(source) => vec![Part::Regex(source)],
        GrammarSpec::Lark(source) => vec![Part::Lark(source)],
        GrammarSpec::Choice(choices) => {
            vec![Part::Either(choices.into_iter().map(|choice| vec![Part::Text(choice)]).collect())]
        }
        GrammarSpec::Parts(parts) => parts,
        _ => Vec::new(),
    }
}

/// What a grammar's error means to a client.
pub(crate) fn refused(error: &GrammarError, path: &str) -> ApiError {
    if let GrammarError::Busy { .. } = error {
        let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
        return ApiError::new(status, error.to_string()).code("grammars_busy").retry_after(5);
    }
    ApiError { code: Some("invalid_grammar"), ..ApiError::field(path, format!("cannot be compiled: {error}")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(value: Value) -> Result<Option<GrammarSpec>> {
        let mut fields = Fields::of_request(value)?;
        let wanted = read(&mut fields)?;
        fields.finish()?;
        Ok(wanted.map(|wanted| wanted.spec))
    }

    #[test]
    fn every_field_says_the_same() {
        let schema = json!({"type": "integer"});
        let expected = Some(GrammarSpec::JsonSchema(schema.clone()));
        for request in [
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}}}),
            json!({"guided_json": schema}),
            json!({"guided_json": schema.to_string()}),
            json!({"structured_outputs": {"json": schema}}),
        ] {
            assert_eq!(wanted(request.clone()).unwrap(), expected, "{request}");
        }
        assert_eq!(wanted(json!({"response_format": {"type": "text"}})).unwrap(), None);
        assert_eq!(wanted(json!({"response_format": {"type": "json_object"}})).unwrap(), Some(GrammarSpec::JsonObject));
        assert_eq!(
            wanted(json!({"guided_choice": ["a", "b"]})).unwrap(),
            Some(GrammarSpec::Choice(vec!["a".into(), "b".into()]))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |request: Value| wanted(request).unwrap_err().param.unwrap();
        assert_eq!(error(json!({"response_format": {"type": "xml"}})), "response_format.type");
        assert_eq!(error(json!({"response_format": {"type": "json_schema"}})), "response_format.json_schema");
        assert_eq!(error(json!({"guided_regex": 3})), "guided_regex");
        assert_eq!(error(json!({"guided_regex": "a", "guided_choice": ["a"]})), "guided_choice");
        assert_eq!(error(json!({"structured_outputs": {"ebnf": "a"}})), "structured_outputs.ebnf");
    }
}
