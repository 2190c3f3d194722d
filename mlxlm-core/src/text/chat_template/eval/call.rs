//! Calls: of macros, blocks, functions and methods.

use std::rc::Rc;

use super::super::ast::{Arguments, Expr, ExprKind};
use super::super::fault::{Fault, Result, fail};
use super::super::value::{Dict, Object, Value, defined, items_of};
use super::super::{globals, markup, methods};
use super::{Interp, Scope};

/// The arguments of a call.
#[derive(Clone, Default)]
pub(in super::super) struct Args {
    pub(in super::super) by_place: Vec<Value>,
    pub(in super::super) by_name: Vec<(String, Value)>,
}

impl Args {
    /// Puts the arguments in the places of the parameters.
    pub(in super::super) fn bind<const N: usize>(self, of: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.by_place.len() > N {
            return fail(format!("`{of}` takes at most {N} arguments, got {}", self.by_place.len()));
        }
        for (place, value) in bound.iter_mut().zip(self.by_place) {
            *place = Some(value);
        }
        for (name, value) in self.by_name {
            let place = parameters.iter().position(|parameter| *parameter == name).and_then(|at| bound.get_mut(at));
            match place {
                None => return fail(format!("`{of}` got an unexpected keyword argument '{name}'")),
                Some(Some(_)) => return fail(format!("`{of}` got multiple values for argument '{name}'")),
                Some(place) => *place = Some(value),
            }
        }
        Ok(bound)
    }

    /// The arguments of what takes no names.
    pub(in super::super) fn only_by_place(self, of: &str) -> Result<Vec<Value>> {
        match self.by_name.first() {
            Some(_) => fail(format!("`{of}` takes no keyword arguments")),
            None => Ok(self.by_place),
        }
    }

    /// The arguments in places that have no names.
    pub(in super::super) fn places<const N: usize>(self, of: &str) -> Result<[Option<Value>; N]> {
        let values = self.only_by_place(of)?;
        Self { by_place: values, by_name: Vec::new() }.bind(of, [""; N])
    }
}

impl<'t> Interp<'t> {
    pub(super) fn arguments(&mut self, args: &'t Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut made = Args::default();
        for value in &args.by_place {
            made.by_place.push(self.eval(value, scope)?);
        }
        if let Some(rest) = &args.rest {
            let rest = self.eval(rest, scope)?;
            made.by_place.extend(items_of(self, &rest)?);
        }
        for (name, value) in &args.by_name {
            made.by_name.push((name.clone(), self.eval(value, scope)?));
        }
        if let Some(rest) = &args.rest_by_name {
            let Value::Dict(dict) = self.eval(rest, scope)? else {
                return fail("the argument after ** must be a mapping");
            };
            for (name, value) in dict.keywords()? {
                if made.by_name.iter().any(|(known, _)| *known == name) {
                    return fail(format!("got multiple values for keyword argument '{name}'"));
                }
                made.by_name.push((name, value));
            }
        }
        Ok(made)
    }

    pub(super) fn call_with_caller(&mut self, call: &'t Expr, caller: Value, scope: &Rc<Scope>) -> Result<Value> {
        let ExprKind::Call(of, args) = &*call.kind else { return fail("expected call") };
        let of = self.eval(of, scope)?;
        let mut args = self.arguments(args, scope)?;
        if args.by_name.iter().any(|(name, _)| name == "caller") {
            return fail("got multiple values for keyword argument 'caller'");
        }
        args.by_name.push(("caller".into(), caller));
        self.call(&of, args).map_err(|fault| fault.at(call.line))
    }

    /// Calls a value.
    pub(in super::super) fn call(&mut self, of: &Value, args: Args) -> Result<Value> {
        defined(of)?;
        let Value::Object(object) = of else {
            return fail(format!("'{}' object is not callable", of.type_name()));
        };
        match &**object {
            Object::Macro { id, scope, escape, .. } => self.call_macro(*id, scope, *escape, args),
            Object::Method { of, name, .. } => match of {
                Value::Object(object) => match &**object {
                    Object::Loop(state) => Self::loop_method(state, name, args),
                    other => globals::method(self, other, name, args),
                },
                of => methods::call(self, of, name, args),
            },
            Object::Loop(state) => self.loop_again(state, args),
            Object::Global(global) => globals::call(self, *global, args),
            Object::Joiner { separator, used } => {
                args.places::<0>("joiner")?;
                if used.replace(true) { Ok(separator.clone()) } else { Value::str("") }
            }
            Object::Block(at) => {
                args.places::<0>("block")?;
                let text = self.captured_block(*at)?;
                Ok(markup::text(text, self.filters_escape))
            }
            Object::Namespace(_) | Object::Cycler { .. } | Object::Blocks => {
                fail(format!("'{}' object is not callable", of.type_name()))
            }
        }
    }

    fn captured_block(&mut self, at: usize) -> Result<super::Text> {
        self.captured(|interp| interp.run_block(at))
    }

    /// Writes a block.
    pub(super) fn run_block(&mut self, at: usize) -> Result<()> {
        let Some(block) = self.template.blocks.get(at) else { return Ok(()) };
        let scope = Scope::block(&self.root, &block.body);
        // A block is compiled as if it stood alone: what is around it does not escape for it.
        let outer = std::mem::replace(&mut self.escape, false);
        if self.filters_escape {
            return fail("a block inside of `autoescape` is not supported");
        }
        self.calling(|interp| interp.exec(&block.body.nodes, &scope))?;
        self.escape = outer;
        Ok(())
    }

    /// The macro as a value.
    pub(super) fn macro_object(&mut self, id: usize, scope: &Rc<Scope>) -> Result<Value> {
        self.keep(scope)?;
        let name = self.template.macros.get(id).and_then(|node| node.name).map(|name| Rc::from(self.name(name)));
        Ok(Value::object(Object::Macro { id, name, scope: scope.clone(), escape: self.escape }))
    }

    fn call_macro(&mut self, id: usize, around: &Rc<Scope>, escape: bool, args: Args) -> Result<Value> {
        let Some(node) = self.template.macros.get(id) else { return fail("a macro that is not there") };
        let inner = Scope::new(Some(around), &node.body);
        let bound = self.bind_macro(id, &inner, args)?;
        let outer = std::mem::replace(&mut self.escape, escape);
        let text = self.calling(|interp| {
            for ((name, default), value) in node.parameters.iter().zip(bound) {
                let value = match (value, default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => interp.eval(default, &inner)?,
                    (None, None) => Value::undefined(format!("parameter '{}' was not provided", interp.name(*name))),
                };
                inner.set(*name, value);
            }
            interp.captured(|interp| {
                interp.exec(&node.body.nodes, &inner)?;
                Ok(())
            })
        })?;
        self.escape = outer;
        Ok(markup::text(text, self.filters_escape))
    }

    /// The values of a macro's parameters, where given; the special names go into its scope.
    fn bind_macro(&mut self, id: usize, inner: &Scope, args: Args) -> Result<Vec<Option<Value>>> {
        let Some(node) = self.template.macros.get(id) else { return fail("a macro that is not there") };
        let name = node.name.map_or("caller", |name| self.name(name));
        let wants = node.wants.get().copied().unwrap_or_default();
        let Args { mut by_place, mut by_name } = args;
        let rest = by_place.split_off(by_place.len().min(node.parameters.len()));
        let mut bound: Vec<Option<Value>> = by_place.into_iter().map(Some).collect();
        for (parameter, _) in node.parameters.iter().skip(bound.len()) {
            let parameter = self.name(*parameter);
            let at = by_name.iter().position(|(given, _)| given == parameter);
            bound.push(at.map(|at| by_name.remove(at).1));
        }
        if wants.caller {
            let at = by_name.iter().position(|(given, _)| given == "caller");
            let caller = at.map_or_else(|| Value::undefined("No caller defined"), |at| by_name.remove(at).1);
            self.set_special(inner, "caller", caller);
        }
        if wants.kwargs {
            let pairs = by_name.drain(..).map(|(name, value)| Ok((Value::str(name)?, value)));
            let dict = Dict::from_pairs(pairs.collect::<Result<Vec<_>>>()?)?;
            self.set_special(inner, "kwargs", Value::Dict(Rc::new(dict)));
        } else if let Some((given, _)) = by_name.first() {
            return fail(format!("macro '{name}' takes no keyword argument '{given}'"));
        }
        if wants.varargs {
            self.set_special(inner, "varargs", Value::tuple(rest)?);
        } else if !rest.is_empty() {
            let limit = node.parameters.len();
            return fail(format!("macro '{name}' takes not more than {limit} argument(s)"));
        }
        Ok(bound)
    }

    fn set_special(&self, scope: &Scope, name: &str, value: Value) {
        if let Some(symbol) = self.symbol(name) {
            scope.set(symbol, value);
        }
    }

    /// An attribute of a macro.
    pub(in super::super) fn macro_attribute(&self, id: usize, name: &str) -> Result<Option<Value>> {
        let Some(node) = self.template.macros.get(id) else { return Ok(None) };
        let wants = node.wants.get().copied().unwrap_or_default();
        Ok(Some(match name {
            "name" => match node.name {
                Some(name) => Value::str(self.name(name))?,
                None => Value::None,
            },
            "arguments" => {
                let names = node.parameters.iter().map(|(name, _)| Value::str(self.name(*name)));
                Value::tuple(names.collect::<Result<_>>()?)?
            }
            "catch_kwargs" => Value::Bool(wants.kwargs),
            "catch_varargs" => Value::Bool(wants.varargs),
            "caller" => Value::Bool(wants.caller),
            "explicit_caller" => Value::Bool(false),
            _ => return Ok(None),
        }))
    }

    /// The block of this name, as an attribute of `self`.
    pub(in super::super) fn block_named(&self, name: &str) -> Option<Value> {
        let at = self.template.blocks.iter().position(|block| block.name == name)?;
        Some(Value::object(Object::Block(at)))
    }
}

/// An argument that must be there.
pub(in super::super) fn needed(value: Option<Value>, of: &str, parameter: &str) -> Result<Value> {
    value.ok_or_else(|| Fault::new(format!("`{of}` misses the argument '{parameter}'")))
}
