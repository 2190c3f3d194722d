//! Statements.

use std::rc::Rc;

use super::super::ast::{Body, Filter, Stmt, StmtKind, Sym, Target};
use super::super::fault::{Result, fail};
use super::super::value::{Object, Text, Value, items_of};
use super::{Interp, Scope};

/// How statements end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

impl<'t> Interp<'t> {
    pub(super) fn exec(&mut self, nodes: &'t [Stmt], scope: &Rc<Scope>) -> Result<Flow> {
        self.deeper(|interp| {
            for node in nodes {
                let flow = interp.statement(node, scope).map_err(|fault| fault.at(node.line))?;
                if flow != Flow::On {
                    return Ok(flow);
                }
            }
            Ok(Flow::On)
        })
    }

    /// A body in a scope of its own.
    fn inner(&mut self, body: &'t Body, scope: &Rc<Scope>) -> Result<Flow> {
        self.exec(&body.nodes, &Scope::new(Some(scope), body))
    }

    fn statement(&mut self, node: &'t Stmt, scope: &Rc<Scope>) -> Result<Flow> {
        match &node.kind {
            StmtKind::Text(text) => self.write(text)?,
            StmtKind::Print(value) => {
                let value = self.eval(value, scope)?;
                self.write_value(&value)?;
            }
            StmtKind::For(at) => {
                let Some(node) = self.template.loops.get(*at) else { return Ok(Flow::On) };
                let source = self.eval(&node.source, scope)?;
                return self.run_loop(*at, &source, scope, 0);
            }
            StmtKind::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truthy() {
                        return self.exec(body, scope);
                    }
                }
                return self.exec(otherwise, scope);
            }
            StmtKind::Macro(id) => {
                let made = self.macro_object(*id, scope)?;
                if let Some(name) = self.template.macros.get(*id).and_then(|node| node.name) {
                    scope.set(name, made);
                }
            }
            StmtKind::Block(at) => {
                self.run_block(*at)?;
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope, scope)?;
            }
            StmtKind::Capture { target, filters, body } => return self.capture(target, filters, body, scope),
            StmtKind::With { pairs, body } => {
                let inner = Scope::new(Some(scope), body);
                for (target, value) in pairs {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner, scope)?;
                }
                return self.exec(&body.nodes, &inner);
            }
            StmtKind::Filter { filters, body } => {
                let inner = Scope::new(Some(scope), body);
                let (flow, text) = self.captured_flow(&body.nodes, &inner)?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                let text = text.marked(self.escape);
                let value = self.filtered(filters, Value::Str(text), &inner)?;
                self.write_text(&value)?;
            }
            StmtKind::Call { caller, call } => {
                let caller = self.macro_object(*caller, scope)?;
                let value = self.call_with_caller(call, caller, scope)?;
                self.write_text(&value)?;
            }
            StmtKind::Autoescape { on, body } => return self.autoescape(on, body, scope),
            StmtKind::Generation(body) => {
                self.inner(body, scope)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
            StmtKind::Other(tag) => return fail(format!("`{tag}`: a chat template has no other templates to read")),
        }
        Ok(Flow::On)
    }

    /// Writes the text that a filter or a call gave.
    fn write_text(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Str(text) => self.write(text),
            other => fail(format!("expected str instance, {} found", other.type_name())),
        }
    }

    fn captured_flow(&mut self, nodes: &'t [Stmt], scope: &Rc<Scope>) -> Result<(Flow, Text)> {
        let mut flow = Flow::On;
        let text = self.captured(|interp| {
            flow = interp.exec(nodes, scope)?;
            Ok(())
        })?;
        Ok((flow, text))
    }

    fn capture(
        &mut self,
        target: &'t Target,
        filters: &'t [Filter],
        body: &'t Body,
        scope: &Rc<Scope>,
    ) -> Result<Flow> {
        let inner = Scope::new(Some(scope), body);
        let (flow, text) = self.captured_flow(&body.nodes, &inner)?;
        if flow != Flow::On {
            return Ok(flow);
        }
        let value = if filters.is_empty() {
            Value::Str(text)
        } else {
            let text = text.marked(self.escape);
            self.filtered(filters, Value::Str(text), &inner)?
        };
        let value = match value {
            Value::Str(text) if self.filters_escape => Value::Str(text.marked(true)),
            value if self.filters_escape => super::super::markup::mark(&value)?,
            value => value,
        };
        self.assign(target, value, scope, scope)?;
        Ok(Flow::On)
    }

    fn filtered(&mut self, filters: &'t [Filter], mut value: Value, scope: &Rc<Scope>) -> Result<Value> {
        for filter in filters {
            value = self.filter(filter, value, scope).map_err(|fault| fault.at(filter.line))?;
        }
        Ok(value)
    }

    fn autoescape(&mut self, on: &'t super::super::ast::Expr, body: &'t Body, scope: &Rc<Scope>) -> Result<Flow> {
        let inner = Scope::new(Some(scope), body);
        let on = self.eval(on, &inner)?.truthy();
        let before = (self.escape, self.filters_escape);
        (self.escape, self.filters_escape) = (on, on);
        let flow = self.exec(&body.nodes, &inner);
        (self.escape, self.filters_escape) = before;
        flow
    }

    /// Assigns; names go into `into`, and namespaces are looked up from `from`.
    pub(super) fn assign(&mut self, target: &Target, value: Value, into: &Rc<Scope>, from: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => {
                into.set(*name, value);
                Ok(())
            }
            Target::Attribute(name, attribute) => self.assign_attribute(*name, attribute, value, from),
            Target::Tuple(targets) => {
                let items = items_of(self, &value)?;
                if items.len() != targets.len() {
                    let much = if items.len() > targets.len() { "too many" } else { "not enough" };
                    return fail(format!("{much} values to unpack (expected {}, got {})", targets.len(), items.len()));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, into, from)?;
                }
                Ok(())
            }
        }
    }

    fn assign_attribute(&mut self, name: Sym, attribute: &str, value: Value, scope: &Rc<Scope>) -> Result<()> {
        let found = self.lookup(name, scope);
        let Value::Object(object) = &found else {
            return fail("cannot assign attribute on non-namespace object");
        };
        let Object::Namespace(fields) = &**object else {
            return fail("cannot assign attribute on non-namespace object");
        };
        if attribute.starts_with('_') {
            return fail(format!(
                "a namespace cannot have the attribute '{attribute}', which begins with an underscore"
            ));
        }
        let key = Value::str(attribute)?;
        fields.borrow_mut().insert(key, value)
    }
}
