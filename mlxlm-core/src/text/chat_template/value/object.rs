//! Objects: what has an identity, such as namespaces, loops, macros and methods.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::super::eval::{LoopState, Scope};
use super::super::fault::Result;
use super::{Dict, Value};

/// An object.
pub(in super::super) enum Object {
    Namespace(RefCell<Dict>),
    Loop(Box<LoopState>),
    /// A macro, or the body of a `call` block.
    Macro {
        id: usize,
        name: Option<Rc<str>>,
        scope: Rc<Scope>,
        escape: bool,
    },
    /// A method with what it is a method of.
    Method {
        of: Value,
        name: &'static str,
        depth: u32,
    },
    Global(Global),
    Cycler {
        items: Vec<Value>,
        at: Cell<usize>,
        depth: u32,
    },
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    /// `self`, whose attributes are the blocks.
    Blocks,
    Block(usize),
}

/// The functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Global {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

impl Global {
    pub(in super::super) const ALL: [(&'static str, Self); 8] = [
        ("range", Self::Range),
        ("dict", Self::Dict),
        ("namespace", Self::Namespace),
        ("cycler", Self::Cycler),
        ("joiner", Self::Joiner),
        ("lipsum", Self::Lipsum),
        ("raise_exception", Self::RaiseException),
        ("strftime_now", Self::StrftimeNow),
    ];
}

impl Object {
    pub(in super::super) fn method(of: &Value, name: &'static str) -> Result<Value> {
        let depth = super::deeper([of])?;
        Ok(Value::object(Self::Method { of: of.clone(), name, depth }))
    }

    pub(in super::super) fn cycler(items: Vec<Value>) -> Result<Value> {
        let depth = super::deeper(&items)?;
        Ok(Value::object(Self::Cycler { items, at: Cell::new(0), depth }))
    }

    /// How deep dropping it goes. Namespaces and what macros see are kept to the end, and emptied one by one.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Self::Loop(state) => state.nesting,
            Self::Method { depth, .. } | Self::Cycler { depth, .. } => *depth,
            _ => 0,
        }
    }

    pub(in super::super) fn type_name(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "TemplateNamespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro { .. } => "Macro",
            Self::Method { .. } => "builtin_function_or_method",
            Self::Global(Global::Dict) => "TemplateDict",
            Self::Global(Global::Namespace | Global::Cycler | Global::Joiner) => "type",
            Self::Global(_) => "function",
            Self::Cycler { .. } => "Cycler",
            Self::Joiner { .. } => "Joiner",
            Self::Blocks => "TemplateReference",
            Self::Block(_) => "BlockReference",
        }
    }
}
