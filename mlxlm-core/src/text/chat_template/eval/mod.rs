//! Runs a template.
//!
//! Reference: what Jinja2's `compiler.py` makes of a tree, and its `runtime.py`.
//!
//! Unusual: macros see the scopes around them, and namespaces can hold anything, so both can be part of a circle. They are
//! kept to the end and then emptied one by one, which also keeps dropping them shallow.

mod call;
mod expr;
mod loops;
mod scope;
mod stmt;

use std::rc::Rc;

use serde_json::{Map, Value as Json};

use super::ast::{Sym, Template};
use super::fault::{Fault, Result};
use super::limits;
use super::markup;
use super::value::{Dict, Global, Object, Text, Value, print};

pub(super) use call::{Args, needed};
pub(super) use loops::LoopState;
pub(super) use scope::Scope;

/// The longest prompt, in bytes.
const MAX_OUTPUT: usize = 64 << 20;

/// What counts for a scope or a namespace that is kept to the end, in bytes.
const KEPT: usize = 256;

/// A template while it runs.
pub(super) struct Interp<'t> {
    template: &'t Template,
    context: Vec<Option<Value>>,
    /// The text of the prompt, and of what is being captured.
    out: Vec<Out>,
    root: Rc<Scope>,
    /// Whether output is escaped here, and whether filters and macros take it so.
    escape: bool,
    filters_escape: bool,
    depth: usize,
    calls: usize,
    kept_scopes: Vec<Rc<Scope>>,
    kept_namespaces: Vec<Rc<Object>>,
}

struct Out {
    text: String,
    limit: usize,
    held: usize,
}

/// Renders a template with variables.
pub(super) fn render(template: &Template, variables: &Map<String, Json>) -> Result<String> {
    let mut context = Vec::with_capacity(template.names.len());
    for name in &template.names {
        let global = || Global::ALL.iter().find(|(known, _)| known == name).map(|(_, global)| *global);
        context.push(match variables.get(name) {
            Some(json) => Some(Value::from_json(json)?),
            None if name == "self" => Some(Value::object(Object::Blocks)),
            None => global().map(|global| Value::object(Object::Global(global))),
        });
    }
    let root = Scope::new(None, &template.body);
    let mut interp = Interp {
        template,
        context,
        out: vec![Out { text: String::new(), limit: MAX_OUTPUT, held: 0 }],
        root: root.clone(),
        escape: false,
        filters_escape: false,
        depth: 0,
        calls: 0,
        kept_scopes: vec![root.clone()],
        kept_namespaces: Vec::new(),
    };
    interp.exec(&template.body.nodes, &root)?;
    Ok(interp.out.pop().map_or(String::new(), |out| out.text))
}

impl Drop for Interp<'_> {
    fn drop(&mut self) {
        for scope in &self.kept_scopes {
            scope.clear();
        }
        for namespace in &self.kept_namespaces {
            if let Object::Namespace(fields) = &**namespace {
                fields.take();
            }
        }
    }
}

impl<'t> Interp<'t> {
    /// Writes text to the prompt, or to what is being captured.
    fn write(&mut self, text: &str) -> Result<()> {
        limits::pass(text.len())?;
        let captured = self.out.len() > 1;
        let Some(out) = self.out.last_mut() else { return Ok(()) };
        if text.len() > out.limit - out.text.len() {
            return Err(Fault::limit(format!("it wrote more than {} bytes", out.limit)));
        }
        if captured {
            limits::hold(text.len())?;
            out.held += text.len();
        }
        out.text.push_str(text);
        Ok(())
    }

    /// What `run` writes, as a text.
    fn captured(&mut self, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<Text> {
        self.out.push(Out { text: String::new(), limit: limits::MAX_RESULT, held: 0 });
        run(self)?;
        let Some(out) = self.out.pop() else { return Text::new("") };
        limits::release(out.held);
        Text::new(out.text)
    }

    /// Writes what `{{ value }}` gives.
    fn write_value(&mut self, value: &Value) -> Result<()> {
        let text = if self.escape { markup::escape(value)? } else { print(value)? };
        self.write(&text)
    }

    /// Goes one level deeper, and back.
    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= limits::MAX_DEPTH {
            return Err(Fault::limit("it calls itself too deep"));
        }
        limits::steps(1)?;
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// Counts a call of a macro, a block or a recursive loop.
    fn calling<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.calls >= limits::MAX_CALLS {
            return Err(Fault::limit(format!(
                "its macros or loops call themselves more than {} deep",
                limits::MAX_CALLS
            )));
        }
        self.calls += 1;
        let result = run(self);
        self.calls -= 1;
        result
    }

    /// Keeps a scope to the end, since something refers to it.
    fn keep(&mut self, scope: &Rc<Scope>) -> Result<()> {
        if scope.kept() {
            limits::hold(KEPT)?;
            self.kept_scopes.push(scope.clone());
        }
        Ok(())
    }

    /// Whether filters escape: Jinja2's `eval_ctx.autoescape`.
    pub(super) fn filters_escape(&self) -> bool {
        self.filters_escape
    }

    pub(super) fn namespace(&mut self, fields: Dict) -> Result<Value> {
        limits::hold(KEPT)?;
        let namespace = Rc::new(Object::Namespace(fields.into()));
        self.kept_namespaces.push(namespace.clone());
        Ok(Value::Object(namespace))
    }

    fn name(&self, symbol: Sym) -> &'t str {
        self.template.names.get(symbol).map_or("", String::as_str)
    }

    fn symbol(&self, name: &str) -> Option<Sym> {
        self.template.names.iter().position(|known| known == name)
    }

    fn lookup(&self, symbol: Sym, scope: &Scope) -> Value {
        let found = scope.get(symbol, || self.context.get(symbol).cloned().flatten());
        found.unwrap_or_else(|| Value::undefined(format!("'{}' is undefined", self.name(symbol))))
    }
}
