//! Scopes: the names that are set at a place.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::super::ast::{Body, Sym};
use super::super::value::Value;

/// The names of one scope, and the scope around it.
pub(in super::super) struct Scope {
    /// A name without a value is hidden: it is set here later.
    names: RefCell<Vec<(Sym, Option<Value>)>>,
    around: Option<Rc<Scope>>,
    /// A block sees the context, which has what was set at the top, but hides nothing.
    is_block: bool,
    kept: Cell<bool>,
}

impl Scope {
    pub(super) fn new(around: Option<&Rc<Self>>, body: &Body) -> Rc<Self> {
        Self::of(around, body, false)
    }

    /// The scope of a block, inside of that of the template.
    pub(super) fn block(top: &Rc<Self>, body: &Body) -> Rc<Self> {
        Self::of(Some(top), body, true)
    }

    fn of(around: Option<&Rc<Self>>, body: &Body, is_block: bool) -> Rc<Self> {
        let hidden = body.hidden.get().map_or(&[][..], Vec::as_slice);
        let names = hidden.iter().map(|name| (*name, None)).collect();
        Rc::new(Self { names: RefCell::new(names), around: around.cloned(), is_block, kept: Cell::new(false) })
    }

    pub(super) fn set(&self, name: Sym, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = Some(value),
            None => names.push((name, Some(value))),
        }
    }

    /// The value of a name, here or around, or in the context.
    pub(super) fn get(&self, name: Sym, context: impl Fn() -> Option<Value>) -> Option<Value> {
        let mut scope = self;
        let mut from_block = false;
        loop {
            let found = scope.names.borrow().iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            match found {
                Some(None) if from_block && scope.around.is_none() => return context(),
                Some(value) => return value,
                None => {}
            }
            from_block = from_block || scope.is_block;
            match &scope.around {
                Some(around) => scope = around,
                None => return context(),
            }
        }
    }

    /// Whether it is to be kept from now on, and was not so far.
    pub(super) fn kept(&self) -> bool {
        !self.kept.replace(true)
    }

    /// Forgets its names.
    pub(super) fn clear(&self) {
        self.names.take();
    }
}
