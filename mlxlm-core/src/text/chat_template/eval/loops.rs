//! Loops, and what `loop` says of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::super::fault::{Fault, Result, fail};
use super::super::markup;
use super::super::value::{Object, Value, equal, items_of};
use super::stmt::Flow;
use super::{Args, Interp, Scope};

/// A loop that runs. The names follow `LoopContext` of Jinja2.
pub(in super::super) struct LoopState {
    /// Its place in the template.
    at: usize,
    items: RefCell<std::vec::IntoIter<Value>>,
    length: Cell<Option<usize>>,
    /// Whether all items that are left have passed the filter.
    passed: Cell<bool>,
    index0: Cell<usize>,
    before: RefCell<Option<Value>>,
    current: RefCell<Option<Value>>,
    after: RefCell<Option<Value>>,
    changed: RefCell<Option<Vec<Value>>>,
    depth0: usize,
    scope: Rc<Scope>,
    escape: bool,
    /// How deep its values are nested, itself included.
    pub(in super::super) nesting: u32,
}

impl LoopState {
    /// The number of items, where it is known without asking for them.
    pub(in super::super) fn known_length(&self) -> Option<usize> {
        self.length.get()
    }

    /// The number of the present item, from 1.
    pub(in super::super) fn index(&self) -> usize {
        self.index0.get() + 1
    }
}

impl Interp<'_> {
    /// Runs the loop at this place of the template over `source`.
    pub(super) fn run_loop(&mut self, at: usize, source: &Value, scope: &Rc<Scope>, depth0: usize) -> Result<Flow> {
        let Some(node) = self.template.loops.get(at) else { return Ok(Flow::On) };
        let items = match source {
            Value::Iter(iter) => iter.for_loop(self)?,
            other => items_of(self, other)?,
        };
        let has_length = node.filter.is_none() && !matches!(source, Value::Iter(_));
        if node.filter.is_some() || node.recursive {
            self.keep(scope)?;
        }
        let state = LoopState {
            at,
            length: Cell::new(has_length.then_some(items.len())),
            passed: Cell::new(node.filter.is_none()),
            nesting: source.depth() + 1,
            items: RefCell::new(items.into_iter()),
            index0: Cell::new(0),
            before: RefCell::new(None),
            current: RefCell::new(None),
            after: RefCell::new(None),
            changed: RefCell::new(None),
            depth0,
            scope: scope.clone(),
            escape: self.escape,
        };
        let object = Rc::new(Object::Loop(Box::new(state)));
        let Object::Loop(state) = &*object else { return Ok(Flow::On) };
        let loop_name = self.symbol("loop");
        let mut count = 0;
        let mut left_early = false;
        while let Some(item) = self.advance(state, count)? {
            count += 1;
            let inner = Scope::new(Some(scope), &node.body);
            self.assign(&node.target, item, &inner, scope)?;
            if let Some(name) = loop_name {
                inner.set(name, Value::Object(object.clone()));
            }
            if self.exec(&node.body.nodes, &inner)? == Flow::Break {
                left_early = true;
                break;
            }
        }
        state.changed.take();
        if let Value::Iter(iter) = source
            && !left_early
        {
            iter.looped_to_end();
        }
        if count == 0 {
            return self.exec(&node.otherwise.nodes, &Scope::new(Some(scope), &node.otherwise));
        }
        Ok(Flow::On)
    }

    /// The next item, which becomes the present one.
    fn advance(&mut self, state: &LoopState, index: usize) -> Result<Option<Value>> {
        let next = match state.after.take() {
            Some(after) => Some(after),
            None => self.pull(state)?,
        };
        if let Some(item) = &next {
            state.index0.set(index);
            let current = state.current.replace(Some(item.clone()));
            state.before.replace(current);
        }
        Ok(next)
    }

    /// The next item that passes the loop's filter.
    fn pull(&mut self, state: &LoopState) -> Result<Option<Value>> {
        let Some(node) = self.template.loops.get(state.at) else { return Ok(None) };
        loop {
            let Some(item) = state.items.borrow_mut().next() else { return Ok(None) };
            let Some(filter) = node.filter.as_ref().filter(|_| !state.passed.get()) else { return Ok(Some(item)) };
            let inner = Scope::new(Some(&state.scope), &super::super::ast::Body::default());
            self.assign(&node.target, item.clone(), &inner, &state.scope)?;
            if self.eval(filter, &inner)?.truthy() {
                return Ok(Some(item));
            }
        }
    }

    fn peek(&mut self, state: &LoopState) -> Result<Option<Value>> {
        if state.after.borrow().is_none() {
            let next = self.pull(state)?;
            state.after.replace(next);
        }
        Ok(state.after.borrow().clone())
    }

    pub(in super::super) fn loop_length(&mut self, state: &LoopState) -> Result<usize> {
        if let Some(length) = state.length.get() {
            return Ok(length);
        }
        let mut rest = Vec::new();
        while let Some(item) = self.pull(state)? {
            rest.push(item);
        }
        let length = rest.len() + state.index0.get() + 1 + usize::from(state.after.borrow().is_some());
        state.items.replace(rest.into_iter());
        state.passed.set(true);
        state.length.set(Some(length));
        Ok(length)
    }

    /// An attribute of `loop`; `None` where it has none of this name.
    pub(in super::super) fn loop_attribute(&mut self, object: &Rc<Object>, name: &str) -> Result<Option<Value>> {
        let Object::Loop(state) = &**object else { return Ok(None) };
        let index0 = state.index0.get();
        Ok(Some(match name {
            "index" => Value::from(index0 + 1),
            "index0" => Value::from(index0),
            "length" => Value::from(self.loop_length(state)?),
            "revindex" => Value::from(self.loop_length(state)?.saturating_sub(index0)),
            "revindex0" => Value::from(self.loop_length(state)?.saturating_sub(index0 + 1)),
            "first" => Value::Bool(index0 == 0),
            "last" => Value::Bool(self.peek(state)?.is_none()),
            "depth" => Value::from(state.depth0 + 1),
            "depth0" => Value::from(state.depth0),
            "previtem" => match state.before.borrow().clone() {
                Some(before) if index0 > 0 => before,
                _ => Value::undefined("there is no previous item"),
            },
            "nextitem" => self.peek(state)?.unwrap_or_else(|| Value::undefined("there is no next item")),
            "cycle" => Object::method(&Value::Object(object.clone()), "cycle")?,
            "changed" => Object::method(&Value::Object(object.clone()), "changed")?,
            _ => return Ok(None),
        }))
    }

    pub(super) fn loop_method(state: &LoopState, name: &str, args: Args) -> Result<Value> {
        let values = args.only_by_place(name)?;
        if name == "cycle" {
            let count = values.len();
            let value = values.into_iter().nth(state.index0.get().checked_rem(count).unwrap_or(0));
            return value.ok_or_else(|| Fault::new("no items for cycling given"));
        }
        let same = match &*state.changed.borrow() {
            Some(last) if last.len() == values.len() => {
                let mut same = true;
                for (a, b) in last.iter().zip(&values) {
                    same = same && equal(a, b)?;
                }
                same
            }
            _ => false,
        };
        if !same {
            state.changed.replace(Some(values));
        }
        Ok(Value::Bool(!same))
    }

    /// `loop(items)` in a recursive loop.
    pub(super) fn loop_again(&mut self, state: &LoopState, args: Args) -> Result<Value> {
        if !self.template.loops.get(state.at).is_some_and(|node| node.recursive) {
            return fail("The loop must have the 'recursive' marker to be called recursively.");
        }
        let [source] = args.bind("loop", ["iterable"])?;
        let source = source.ok_or_else(|| Fault::new("`loop` takes what to loop over"))?;
        let outer = std::mem::replace(&mut self.escape, state.escape);
        let text = self.calling(|interp| {
            interp.captured(|interp| {
                interp.run_loop(state.at, &source, &state.scope, state.depth0 + 1)?;
                Ok(())
            })
        })?;
        let safe = self.escape;
        self.escape = outer;
        Ok(markup::text(text, safe))
    }
}
