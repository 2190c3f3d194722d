//! Statements.

use std::sync::OnceLock;

use super::super::ast::{Block, Body, Expr, ExprKind, For, Macro, Stmt, StmtKind, Sym, Target};
use super::super::fault::Result;
use super::Parser;
use super::lex::Kind;

impl Parser {
    /// Statements up to a tag with one of the names, which stays; without names, up to the end of the template.
    pub(super) fn body(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            match self.kind().clone() {
                Kind::End if ends.is_empty() => return Ok(nodes),
                Kind::End => return self.unexpected(&format!("`{}`", ends.join("` or `"))),
                Kind::Text(text) => {
                    self.next();
                    nodes.push(Stmt { line, kind: StmtKind::Text(text) });
                }
                Kind::PrintBegin => {
                    self.next();
                    let value = self.tuple(true, &[])?;
                    self.expect(&Kind::PrintEnd, "end of print statement")?;
                    nodes.push(Stmt { line, kind: StmtKind::Print(value) });
                }
                _ => {
                    self.expect(&Kind::BlockBegin, "a tag")?;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(nodes);
                    }
                    let kinds = self.deeper(Self::statement)?;
                    nodes.extend(kinds.into_iter().map(|kind| Stmt { line, kind }));
                    self.expect(&Kind::BlockEnd, "end of statement block")?;
                }
            }
        }
    }

    /// The body of a tag, after the tag's words; what ends it stays unless there is one end only.
    fn inner(&mut self, tag: &'static str, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.skip_sign(":");
        self.expect(&Kind::BlockEnd, "end of statement block")?;
        self.open.push(tag);
        let nodes = self.body(ends)?;
        self.open.pop();
        if ends.len() == 1 {
            self.next();
        }
        Ok(nodes)
    }

    fn scope(&mut self, tag: &'static str, end: &str) -> Result<Body> {
        Ok(Body { nodes: self.inner(tag, &[end])?, hidden: OnceLock::new() })
    }

    fn statement(&mut self) -> Result<Vec<StmtKind>> {
        let Kind::Name(tag) = self.kind().clone() else { return self.unexpected("the name of a tag") };
        self.next();
        let kind = match tag.as_str() {
            "for" => self.for_loop()?,
            "if" => self.if_chain()?,
            "macro" => self.macro_tag()?,
            "block" => self.block()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "filter" => {
                let filters = self.filter_chain(true)?;
                StmtKind::Filter { filters, body: self.scope("filter", "endfilter")? }
            }
            "call" => self.call()?,
            "autoescape" => {
                let on = self.expression()?;
                StmtKind::Autoescape { on, body: self.scope("autoescape", "endautoescape")? }
            }
            "generation" => StmtKind::Generation(self.scope("generation", "endgeneration")?),
            "break" => StmtKind::Break,
            "continue" => StmtKind::Continue,
            "print" => return self.print(),
            "include" | "import" | "from" | "extends" => self.other(&tag)?,
            _ => {
                let open = self.open.last().map_or(String::new(), |open| format!("; `{open}` is open"));
                self.at -= 1;
                return self.fail(format!("the tag `{tag}` is not known{open}"));
            }
        };
        Ok(vec![kind])
    }

    fn print(&mut self) -> Result<Vec<StmtKind>> {
        let mut kinds = Vec::new();
        while *self.kind() != Kind::BlockEnd {
            if !kinds.is_empty() {
                self.expect_sign(",")?;
            }
            kinds.push(StmtKind::Print(self.expression()?));
        }
        Ok(kinds)
    }

    /// A tag that reads another template. There is none, so it fails when it is reached, as in transformers.
    fn other(&mut self, tag: &str) -> Result<StmtKind> {
        while *self.kind() != Kind::BlockEnd {
            if *self.kind() == Kind::End {
                return self.unexpected("end of statement block");
            }
            self.next();
        }
        Ok(StmtKind::Other(match tag {
            "include" => "include",
            "extends" => "extends",
            _ => "import",
        }))
    }

    fn for_loop(&mut self) -> Result<StmtKind> {
        let target = self.targets(&["in"], false)?;
        self.expect_name("in")?;
        let source = self.tuple(false, &["recursive"])?;
        let filter = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        let body = Body { nodes: self.inner("for", &["endfor", "else"])?, hidden: OnceLock::new() };
        let otherwise = if self.any_name()? == "else" { self.scope("for", "endfor")? } else { Body::default() };
        self.template.loops.push(For { target, source, filter, recursive, body, otherwise });
        Ok(StmtKind::For(self.template.loops.len() - 1))
    }

    fn if_chain(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            branches.push((test, self.inner("if", &["elif", "else", "endif"])?));
            match self.any_name()?.as_str() {
                "elif" => {}
                "else" => {
                    otherwise = self.inner("if", &["endif"])?;
                    break;
                }
                _ => break,
            }
        }
        Ok(StmtKind::If { branches, otherwise })
    }

    /// The name of a macro or a parameter.
    fn assigned_name(&mut self) -> Result<Sym> {
        let name = self.any_name()?;
        if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("can't assign to '{name}'"));
        }
        Ok(self.symbol(&name))
    }

    fn signature(&mut self) -> Result<Vec<(Sym, Option<Expr>)>> {
        let mut parameters: Vec<(Sym, Option<Expr>)> = Vec::new();
        self.expect_sign("(")?;
        while !self.is_sign(")") {
            if !parameters.is_empty() {
                self.expect_sign(",")?;
            }
            let name = self.assigned_name()?;
            let default = if self.skip_sign("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("non-default argument follows default argument");
            }
            if parameters.iter().any(|(known, _)| *known == name) {
                return self.fail("a parameter is there twice");
            }
            parameters.push((name, default));
        }
        self.expect_sign(")")?;
        Ok(parameters)
    }

    fn macro_tag(&mut self) -> Result<StmtKind> {
        let name = self.assigned_name()?;
        let parameters = self.signature()?;
        let body = self.scope("macro", "endmacro")?;
        Ok(StmtKind::Macro(self.add_macro(Macro { name: Some(name), parameters, body, wants: OnceLock::new() })))
    }

    fn add_macro(&mut self, made: Macro) -> usize {
        self.template.macros.push(made);
        self.template.macros.len() - 1
    }

    fn call(&mut self) -> Result<StmtKind> {
        let parameters = if self.is_sign("(") { self.signature()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(*call.kind, ExprKind::Call(..)) {
            return self.fail("expected call");
        }
        let body = self.scope("call", "endcall")?;
        let caller = self.add_macro(Macro { name: None, parameters, body, wants: OnceLock::new() });
        Ok(StmtKind::Call { caller, call })
    }

    fn block(&mut self) -> Result<StmtKind> {
        let name = self.any_name()?;
        if self.is_name("scoped") || self.is_name("required") {
            return self.fail("`scoped` and `required` blocks are not supported");
        }
        if self.template.blocks.iter().any(|block| block.name == name) {
            return self.fail(format!("block '{name}' defined twice"));
        }
        let place = self.template.blocks.len();
        self.template.blocks.push(Block { name: name.clone(), body: Body::default() });
        let body = self.scope("block", "endblock")?;
        self.skip_name(&name);
        if let Some(block) = self.template.blocks.get_mut(place) {
            block.body = body;
        }
        Ok(StmtKind::Block(place))
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.targets(&[], true)?;
        if self.skip_sign("=") {
            return Ok(StmtKind::Set(target, self.tuple(true, &[])?));
        }
        let filters = self.filter_chain(false)?;
        Ok(StmtKind::Capture { target, filters, body: self.scope("set", "endset")? })
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut pairs = Vec::new();
        while *self.kind() != Kind::BlockEnd {
            if !pairs.is_empty() {
                self.expect_sign(",")?;
            }
            let target = self.targets(&[], false)?;
            self.expect_sign("=")?;
            pairs.push((target, self.expression()?));
        }
        Ok(StmtKind::With { pairs, body: self.scope("with", "endwith")? })
    }

    /// What is assigned to, with commas for a tuple.
    fn targets(&mut self, ends: &[&str], attributes: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if matches!(self.kind(), Kind::BlockEnd) || self.is_sign(")") || ends.iter().any(|end| self.is_name(end)) {
                break;
            }
            targets.push(self.target(attributes)?);
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(only) if targets.is_empty() && !is_tuple => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => self.unexpected("a name to assign to"),
        }
    }

    fn target(&mut self, attributes: bool) -> Result<Target> {
        if self.skip_sign("(") {
            let inner = self.deeper(|parser| parser.targets(&[], false))?;
            self.expect_sign(")")?;
            return Ok(inner);
        }
        let symbol = self.assigned_name()?;
        if attributes && self.skip_sign(".") {
            return Ok(Target::Attribute(symbol, self.any_name()?));
        }
        Ok(Target::Name(symbol))
    }
}
