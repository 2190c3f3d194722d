//! A template as a tree.
//!
//! Names are numbers, and what is called from elsewhere (macros, loops, blocks) is in tables, so that values can refer to
//! it by its number.

use std::sync::OnceLock;

use super::fault::{Fault, Result};
use super::value::Order;

/// How deep one expression may be nested.
const MAX_EXPRESSION: usize = 400;

/// A name, as its place in [`Template::names`].
pub(super) type Sym = usize;

/// A parsed template.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub(super) body: Body,
    pub(super) names: Vec<String>,
    pub(super) macros: Vec<Macro>,
    pub(super) loops: Vec<For>,
    pub(super) blocks: Vec<Block>,
}

/// Statements with a scope of their own.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) nodes: Vec<Stmt>,
    /// Names that are set in this scope and hide those of the context even before; found when all is parsed.
    pub(super) hidden: OnceLock<Vec<Sym>>,
}

/// A macro, or the body of a `call` block, which has no name.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Option<Sym>,
    pub(super) parameters: Vec<(Sym, Option<Expr>)>,
    pub(super) body: Body,
    /// Found when all is parsed.
    pub(super) wants: OnceLock<Wants>,
}

/// Which of the special names a macro reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wants {
    pub(super) caller: bool,
    pub(super) kwargs: bool,
    pub(super) varargs: bool,
}

/// A loop.
#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) source: Expr,
    pub(super) filter: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A block: a part with a name.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) name: String,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: usize,
    pub(super) kind: StmtKind,
}

#[derive(Debug)]
pub(super) enum StmtKind {
    Text(String),
    Print(Expr),
    For(usize),
    If {
        branches: Vec<(Expr, Vec<Stmt>)>,
        otherwise: Vec<Stmt>,
    },
    Macro(usize),
    Block(usize),
    Set(Target, Expr),
    Capture {
        target: Target,
        filters: Vec<Filter>,
        body: Body,
    },
    With {
        pairs: Vec<(Target, Expr)>,
        body: Body,
    },
    Filter {
        filters: Vec<Filter>,
        body: Body,
    },
    Call {
        caller: usize,
        call: Expr,
    },
    Autoescape {
        on: Expr,
        body: Body,
    },
    Generation(Body),
    Break,
    Continue,
    /// A tag that needs other templates, of which there are none.
    Other(&'static str),
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Sym),
    Attribute(Sym, String),
    Tuple(Vec<Target>),
}

/// A filter or a test with its arguments.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) args: Arguments,
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) by_place: Vec<Expr>,
    pub(super) by_name: Vec<(String, Expr)>,
    pub(super) rest: Option<Expr>,
    pub(super) rest_by_name: Option<Expr>,
}

/// An expression and its line.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) line: usize,
    depth: usize,
    pub(super) kind: Box<ExprKind>,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Name(Sym),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Negative(Expr),
    Positive(Expr),
    Not(Expr),
    And(Expr, Expr),
    Or(Expr, Expr),
    Binary(Operator, Expr, Expr),
    Concat(Vec<Expr>),
    Compare(Expr, Vec<(Comparison, Expr)>),
    If { test: Expr, yes: Expr, no: Option<Expr> },
    Attribute(Expr, String),
    Item(Expr, Expr),
    Slice(Expr, [Option<Expr>; 3]),
    Call(Expr, Arguments),
    Filter(Expr, Filter),
    Test(Expr, Filter),
}

/// The operators of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

/// The operators of comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Order(Order),
    In,
    NotIn,
}

impl Expr {
    pub(super) fn new(line: usize, kind: ExprKind) -> Result<Self> {
        let mut depth = 0;
        kind.children(&mut |child| depth = depth.max(child.depth));
        if depth >= MAX_EXPRESSION {
            return Err(Fault::limit(format!("an expression is nested deeper than {MAX_EXPRESSION}")).at(line));
        }
        Ok(Self { line, depth: depth + 1, kind: Box::new(kind) })
    }

    /// Whether it reads any name; otherwise it is a constant.
    pub(super) fn has_names(&self) -> bool {
        let mut found = matches!(*self.kind, ExprKind::Name(_));
        self.kind.children(&mut |child| found = found || child.has_names());
        found
    }
}

impl Arguments {
    pub(super) fn children<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        self.by_place.iter().for_each(&mut *visit);
        self.by_name.iter().for_each(|(_, value)| visit(value));
        self.rest.iter().chain(&self.rest_by_name).for_each(&mut *visit);
    }
}

impl ExprKind {
    /// The expressions directly inside, in the order of Jinja2's fields.
    pub(super) fn children<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Str(_) | Self::Name(_) => {}
            Self::List(items) | Self::Tuple(items) | Self::Concat(items) => items.iter().for_each(visit),
            Self::Dict(pairs) => pairs.iter().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
            Self::Negative(a) | Self::Positive(a) | Self::Not(a) | Self::Attribute(a, _) => visit(a),
            Self::And(a, b) | Self::Or(a, b) | Self::Binary(_, a, b) | Self::Item(a, b) => {
                visit(a);
                visit(b);
            }
            Self::Compare(first, others) => {
                visit(first);
                for (_, other) in others {
                    visit(other);
                }
            }
            Self::If { test, yes, no } => {
                visit(test);
                visit(yes);
                no.iter().for_each(visit);
            }
            Self::Slice(of, parts) => {
                visit(of);
                parts.iter().flatten().for_each(visit);
            }
            Self::Call(of, args) => {
                visit(of);
                args.children(visit);
            }
            Self::Filter(of, filter) | Self::Test(of, filter) => {
                visit(of);
                filter.args.children(visit);
            }
        }
    }
}
