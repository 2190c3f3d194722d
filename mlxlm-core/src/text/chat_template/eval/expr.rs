//! Expressions.

use std::rc::Rc;

use super::super::ast::{Comparison, Expr, ExprKind, Filter};
use super::super::fault::{Fault, Result, fail};
use super::super::markup;
use super::super::sink::written;
use super::super::value::{Dict, Value, contains, equal, ordered, print};
use super::super::{access, filters, ops, tests};
use super::{Interp, Scope};

impl<'t> Interp<'t> {
    pub(super) fn eval(&mut self, expr: &'t Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.deeper(|interp| interp.eval_kind(&expr.kind, expr.line, scope)).map_err(|fault| fault.at(expr.line))
    }

    fn eval_kind(&mut self, kind: &'t ExprKind, line: usize, scope: &Rc<Scope>) -> Result<Value> {
        match kind {
            ExprKind::None => Ok(Value::None),
            ExprKind::Bool(b) => Ok(Value::Bool(*b)),
            ExprKind::Int(n) => Ok(Value::Int(*n)),
            ExprKind::Float(x) => Ok(Value::Float(*x)),
            ExprKind::Str(text) => Value::str(text.as_str()),
            ExprKind::Name(symbol) => Ok(self.lookup(*symbol, scope)),
            ExprKind::List(items) => Value::list(self.eval_all(items, scope)?),
            ExprKind::Tuple(items) => Value::tuple(self.eval_all(items, scope)?),
            ExprKind::Dict(pairs) => self.eval_dict(pairs, scope),
            ExprKind::Negative(a) => ops::negative(&self.eval(a, scope)?),
            ExprKind::Positive(a) => ops::positive(&self.eval(a, scope)?),
            ExprKind::Not(a) => Ok(Value::Bool(!self.eval(a, scope)?.truthy())),
            ExprKind::And(a, b) => {
                let a = self.eval(a, scope)?;
                if a.truthy() { self.eval(b, scope) } else { Ok(a) }
            }
            ExprKind::Or(a, b) => {
                let a = self.eval(a, scope)?;
                if a.truthy() { Ok(a) } else { self.eval(b, scope) }
            }
            ExprKind::Binary(operator, a, b) => {
                let a = self.eval(a, scope)?;
                let b = self.eval(b, scope)?;
                ops::binary(self, *operator, &a, &b)
            }
            ExprKind::Concat(parts) => self.concat(parts, scope),
            ExprKind::Compare(first, others) => self.compare(first, others, scope),
            ExprKind::If { test, yes, no } => match (self.eval(test, scope)?.truthy(), no) {
                (true, _) => self.eval(yes, scope),
                (false, Some(no)) => self.eval(no, scope),
                (false, None) => Ok(Value::undefined(format!(
                    "the inline if-expression on line {line} evaluated to false and no else section was defined."
                ))),
            },
            ExprKind::Attribute(of, name) => {
                let of = self.eval(of, scope)?;
                access::attribute(self, &of, name)
            }
            ExprKind::Item(of, key) => {
                let of = self.eval(of, scope)?;
                let key = self.eval(key, scope)?;
                access::item(self, &of, &key)
            }
            ExprKind::Slice(of, parts) => {
                let of = self.eval(of, scope)?;
                let mut values = [Value::None, Value::None, Value::None];
                for (value, part) in values.iter_mut().zip(parts) {
                    if let Some(part) = part {
                        *value = self.eval(part, scope)?;
                    }
                }
                access::slice(&of, &values)
            }
            ExprKind::Call(of, args) => {
                let of = self.eval(of, scope)?;
                let args = self.arguments(args, scope)?;
                self.call(&of, args)
            }
            ExprKind::Filter(of, filter) => {
                let of = self.eval(of, scope)?;
                self.filter(filter, of, scope)
            }
            ExprKind::Test(of, test) => {
                let of = self.eval(of, scope)?;
                let args = self.arguments(&test.args, scope)?;
                tests::call(self, &test.name, &of, args).map(Value::Bool)
            }
        }
    }

    fn eval_all(&mut self, items: &'t [Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.eval(item, scope)).collect()
    }

    fn eval_dict(&mut self, pairs: &'t [(Expr, Expr)], scope: &Rc<Scope>) -> Result<Value> {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            let key = self.eval(key, scope)?;
            dict.insert(key, self.eval(value, scope)?)?;
        }
        Ok(Value::Dict(Rc::new(dict)))
    }

    /// `a ~ b`. Where output is escaped, one safe part makes it all safe.
    fn concat(&mut self, parts: &'t [Expr], scope: &Rc<Scope>) -> Result<Value> {
        let values = self.eval_all(parts, scope)?;
        let safe = self.escape && values.iter().any(|value| value.as_text().is_some_and(|text| text.safe));
        if safe && !parts.iter().any(Expr::has_names) {
            // Jinja2 joins constants before it knows what is safe.
            return fail("`~` with safe constants is not supported inside of `autoescape`");
        }
        let text = written(|out| {
            values.iter().try_for_each(|value| out.push(&if safe { markup::escape(value)? } else { print(value)? }))
        })?;
        Ok(markup::text(text, safe))
    }

    fn compare(&mut self, first: &'t Expr, others: &'t [(Comparison, Expr)], scope: &Rc<Scope>) -> Result<Value> {
        let mut left = self.eval(first, scope)?;
        for (comparison, right) in others {
            let right = self.eval(right, scope)?;
            let holds = match comparison {
                Comparison::Equal => equal(&left, &right)?,
                Comparison::NotEqual => !equal(&left, &right)?,
                Comparison::Order(order) => ordered(*order, &left, &right)?,
                Comparison::In => contains(self, &right, &left)?,
                Comparison::NotIn => !contains(self, &right, &left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    pub(super) fn filter(&mut self, filter: &'t Filter, value: Value, scope: &Rc<Scope>) -> Result<Value> {
        let call = filters::find(&filter.name)
            .ok_or_else(|| Fault::new(format!("No filter named '{}' found.", filter.name)))?;
        let args = self.arguments(&filter.args, scope)?;
        call(self, value, args)
    }
}
