//! Source to tree.
//!
//! Reference: Jinja2's `parser.py`, with the extension `loopcontrols` and transformers' tag `generation`.

mod expr;
mod lex;
mod literals;
mod names;
mod scopes;
mod stmt;

use std::collections::HashMap;

use super::ast::{Sym, Template};
use super::fault::{Fault, Result, fail};
use lex::{Kind, Token};

/// How deep tags and brackets may be nested.
const MAX_DEPTH: usize = 150;

/// Parses a template.
pub(super) fn parse(source: &str) -> Result<Template> {
    let mut parser = Parser {
        tokens: lex::tokens(source)?,
        at: 0,
        depth: 0,
        template: Template::default(),
        symbols: HashMap::new(),
        open: Vec::new(),
    };
    let nodes = parser.body(&[])?;
    parser.template.body.nodes = nodes;
    scopes::resolve(&parser.template)?;
    Ok(parser.template)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    template: Template,
    symbols: HashMap<String, Sym>,
    /// The tags that are open, for what to say at the end of a template.
    open: Vec<&'static str>,
}

impl Parser {
    fn kind(&self) -> &Kind {
        self.tokens.get(self.at).map_or(&Kind::End, |token| &token.kind)
    }

    fn look(&self) -> &Kind {
        self.tokens.get(self.at + 1).map_or(&Kind::End, |token| &token.kind)
    }

    fn line(&self) -> usize {
        let last = || self.tokens.last().map_or(1, |token| token.line);
        self.tokens.get(self.at).map_or_else(last, |token| token.line)
    }

    fn next(&mut self) {
        self.at += 1;
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.kind(), Kind::Sign(found) if *found == sign)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    fn expect_sign(&mut self, sign: &str) -> Result<()> {
        if self.skip_sign(sign) { Ok(()) } else { self.unexpected(&format!("'{sign}'")) }
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(&format!("'{name}'")) }
    }

    fn expect(&mut self, kind: &Kind, what: &str) -> Result<()> {
        if self.kind() == kind {
            self.next();
            return Ok(());
        }
        self.unexpected(what)
    }

    fn any_name(&mut self) -> Result<String> {
        if let Kind::Name(name) = self.kind() {
            let name = name.clone();
            self.next();
            return Ok(name);
        }
        self.unexpected("a name")
    }

    /// An error at the present word.
    fn fail<T>(&self, text: impl Into<String>) -> Result<T> {
        fail(text).map_err(|fault: Fault| fault.at(self.line()))
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.kind() {
            Kind::Text(_) => "template data".to_owned(),
            Kind::BlockBegin => "begin of statement block".to_owned(),
            Kind::BlockEnd => "end of statement block".to_owned(),
            Kind::PrintBegin => "begin of print statement".to_owned(),
            Kind::PrintEnd => "end of print statement".to_owned(),
            Kind::Name(name) => format!("'{name}'"),
            Kind::Str(_) => "a string".to_owned(),
            Kind::Int(_) => "an integer".to_owned(),
            Kind::Float(_) => "a float".to_owned(),
            Kind::Sign(sign) => format!("'{sign}'"),
            Kind::End => match self.open.last() {
                Some(tag) => format!("the end of the template, with `{tag}` still open"),
                None => "the end of the template".to_owned(),
            },
        };
        self.fail(format!("expected {expected}, got {found}"))
    }

    /// The number of a name.
    fn symbol(&mut self, name: &str) -> Sym {
        if let Some(symbol) = self.symbols.get(name) {
            return *symbol;
        }
        let symbol = self.template.names.len();
        self.template.names.push(name.to_owned());
        self.symbols.insert(name.to_owned(), symbol);
        symbol
    }

    /// Goes one level deeper, and back.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(
                Fault::limit(format!("its tags or brackets are nested deeper than {MAX_DEPTH}")).at(self.line())
            );
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }
}
