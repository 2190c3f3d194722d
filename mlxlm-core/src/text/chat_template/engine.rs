//! Compiling and rendering on a thread of its own.
//!
//! A template is foreign code: what it nests, it may nest deep, and what it counts is counted by the thread. So both run
//! on a thread with a large stack, and an error is all that a template can end in besides a prompt.

use std::thread;

use serde_json::{Map, Value as Json};

use crate::process;
use crate::text::TextError;

use super::ast::Template;
use super::fault::{Cause, Fault, Result};
use super::{eval, limits, parse};

/// The longest template that is compiled, in bytes; real ones stay below 100 kB.
const MAX_SOURCE: usize = 256 << 10;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Engine {
    template: Template,
}

impl Engine {
    pub(super) fn compile(source: &str) -> std::result::Result<Self, TextError> {
        if source.len() > MAX_SOURCE {
            return Err(TextError::TemplateLimit(format!("it is longer than {} kB", MAX_SOURCE >> 10)));
        }
        let parsed = apart(|| parse::parse(source));
        let template = parsed.map_err(|fault| match fault.into_parts() {
            (Cause::Limit, line, text) => limited(line, &text),
            (_, line, reason) => TextError::TemplateSyntax { line, reason },
        })?;
        Ok(Self { template })
    }

    pub(super) fn render(&self, variables: &Map<String, Json>) -> std::result::Result<String, TextError> {
        let rendered = apart(|| eval::render(&self.template, variables));
        rendered.map_err(|fault| match fault.into_parts() {
            (Cause::Raised, _, message) => TextError::TemplateRaised(message),
            (Cause::Limit, line, text) => limited(line, &text),
            (Cause::Failed, line, reason) => TextError::TemplateFailed { line, reason },
        })
    }
}

fn limited(line: Option<usize>, text: &str) -> TextError {
    let at = line.map_or(String::new(), |line| format!(" at line {line}"));
    TextError::TemplateLimit(format!("{text}{at}"))
}

/// Runs on a thread of its own, with its own accounts.
fn apart<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let work = || {
            limits::begin();
            run()
        };
        match process::thread("chat template", limits::STACK).and_then(|thread| thread.spawn_scoped(scope, work)) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(Fault::new(format!("no thread could be started for it: {error}"))),
        }
    })
}
