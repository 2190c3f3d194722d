//! The template engine, set up as transformers sets up Jinja2, and its limits.
//!
//! Unusual: a step is one instruction of the engine, which may itself work on a long value; strings that a template
//! doubles again and again are bounded by the steps only.

use std::fmt::Write as _;
use std::io;

use chrono::format::{Item, StrftimeItems};
use chrono::{Local, NaiveDateTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};

use crate::text::TextError;

use super::{filters, generation, methods, repr};

/// Steps that one prompt may take; a long conversation takes some hundred thousand.
const FUEL: u64 = 20_000_000;
/// The longest prompt that is written, in bytes.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// The longest template that is compiled, in bytes; real ones stay below 100 kB.
const MAX_SOURCE_BYTES: usize = 4 << 20;
/// How deep macros and loops may call themselves.
const MAX_DEPTH: usize = 200;

const NAME: &str = "chat_template";

/// A compiled template in its environment.
#[derive(Debug)]
pub(super) struct Engine {
    environment: Environment<'static>,
    max_output_bytes: usize,
}

impl Engine {
    pub(super) fn compile(source: &str) -> Result<Self, TextError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TextError::TemplateLimit(format!("it has more than {MAX_SOURCE_BYTES} bytes")));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| syntax_error(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_debug(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_formatter(write_value);
        environment.set_unknown_method_callback(methods::call);
        filters::add_to(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| strftime(format, Local::now().naive_local()));
        // Jinja2 reads a template with the line ends of Unix.
        let source = generation::replace_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"));
        environment.add_template_owned(NAME, source).map_err(|error| syntax_error(&error))?;
        Ok(Self { environment, max_output_bytes: MAX_OUTPUT_BYTES })
    }

    pub(super) fn render(&self, variables: Value) -> Result<String, TextError> {
        let mut out = Bounded { bytes: Vec::new(), limit: self.max_output_bytes };
        let template = self.environment.get_template(NAME).map_err(|error| self.failure(&error))?;
        template.render_captured_to(variables, &mut out).map_err(|error| self.failure(&error))?;
        String::from_utf8(out.bytes)
            .map_err(|error| TextError::TemplateFailed { line: None, reason: error.to_string() })
    }

    fn failure(&self, error: &Error) -> TextError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(Raised(message)) = current.downcast_ref() {
                return TextError::TemplateRaised(message.clone());
            }
            cause = current.source();
        }
        match error.kind() {
            ErrorKind::OutOfFuel => TextError::TemplateLimit(format!("it took more than {FUEL} steps")),
            ErrorKind::WriteFailure => {
                TextError::TemplateLimit(format!("it wrote more than {} bytes", self.max_output_bytes))
            }
            _ => TextError::TemplateFailed { line: error.line(), reason: reason(error) },
        }
    }
}

fn syntax_error(error: &Error) -> TextError {
    TextError::TemplateSyntax { line: error.line(), reason: reason(error) }
}

/// What went wrong, without the place, which the caller adds.
fn reason(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

/// The message of `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = repr::str(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Writes what `{{ value }}` gives.
fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if !matches!(state.auto_escape(), AutoEscape::None) {
        return Err(Error::new(ErrorKind::InvalidOperation, "`autoescape` is not supported"));
    }
    Ok(out.write_str(&repr::str(value))?)
}

/// `datetime.now().strftime(format)` of Python, for a local time without a zone, whose `%z` and `%Z` are empty.
fn strftime(format: &str, now: NaiveDateTime) -> Result<String, Error> {
    let mut pattern = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (_, true) => match chars.next() {
                Some('z' | 'Z') => {}
                Some('f') => pattern.push_str("%6f"),
                Some(directive) => pattern.extend(['%', directive]),
                None => pattern.push_str("%%"),
            },
            (c, false) => pattern.push(c),
        }
    }
    let items: Vec<Item> = StrftimeItems::new(&pattern).collect();
    let mut out = String::new();
    let written = write!(out, "{}", now.format_with_items(items.iter()));
    written
        .map(|()| out)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a date format")))
}

/// A buffer that refuses to grow above a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(source: &str) -> TextError {
        let engine = Engine::compile(source).unwrap();
        Engine { max_output_bytes: 1000, ..engine }.render(Value::UNDEFINED).unwrap_err()
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let nested = "{% for i in range(90000) %}".repeat(3) + &"{% endfor %}".repeat(3);
        assert!(matches!(failure(&nested), TextError::TemplateLimit(_)));
        let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(matches!(failure(recursive), TextError::TemplateFailed { .. }), "{}", failure(recursive));
    }

    #[test]
    fn a_template_that_writes_too_much_is_stopped() {
        let error = failure("{% for i in range(1001) %}x{% endfor %}");
        assert_eq!(error.to_string(), "the chat template was stopped: it wrote more than 1000 bytes");
        let error = Engine::compile(&" ".repeat(MAX_SOURCE_BYTES + 1)).unwrap_err();
        assert!(matches!(error, TextError::TemplateLimit(_)));
    }

    #[test]
    fn errors_have_their_line() {
        let error = failure("\n\n{{ a.b.c }}");
        assert!(matches!(error, TextError::TemplateFailed { line: Some(3), .. }), "{error}");
        let error = Engine::compile("\n{% if %}").unwrap_err();
        assert!(matches!(error, TextError::TemplateSyntax { line: Some(2), .. }), "{error}");
        let error = failure("{% macro m() %}{{ raise_exception('no ' ~ 1) }}{% endmacro %}{{ m() }}");
        assert_eq!(error.to_string(), "the chat template refuses these messages: no 1");
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for source in [
            "{{ 1|nothing }}",
            "{{ 1 is nothing }}",
            "{{ nothing() }}",
            "{{ [].append(1) }}",
            "{{ {}.update({}) }}",
            "{{ '%s' % 1 }}",
            "{{ 'a'.encode() }}",
            "{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1) }}",
            "{{ cycler('a', 'b').next() }}",
            "{{ 'http://a'|urlize }}",
            "{% autoescape true %}{{ 1 }}{% endautoescape %}",
            "{% include 'other' %}",
            "{% include 'chat_template' %}",
        ] {
            let error = failure(source);
            assert!(matches!(error, TextError::TemplateFailed { line: Some(1), .. }), "{source}: {error}");
        }
        assert!(Engine::compile("{% do [].append(1) %}{{ 1 }}").is_ok());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(Engine::compile(&deep).is_err());
        let blocks = "{% if 1 %}".repeat(100_000);
        assert!(Engine::compile(&blocks).is_err());
    }

    #[test]
    fn dates_are_written_as_in_python() {
        let now = chrono::NaiveDate::from_ymd_opt(2026, 3, 7).unwrap().and_hms_micro_opt(9, 5, 1, 42).unwrap();
        for (format, expected) in [
            ("%d %b %Y", "07 Mar 2026"),
            ("%B %-d, %Y", "March 7, 2026"),
            ("%A %H:%M:%S %p %I", "Saturday 09:05:01 AM 09"),
            ("%Y-%m-%d %f %j %y %%", "2026-03-07 000042 066 26 %"),
            ("%z|%Z|", "||"),
            ("100%", "100%"),
            ("日 %a", "日 Sat"),
        ] {
            assert_eq!(strftime(format, now).unwrap(), expected);
        }
        assert!(strftime("%Q", now).is_err());
    }
}
