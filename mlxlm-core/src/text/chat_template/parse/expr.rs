//! Expressions.

use super::super::ast::{Arguments, Comparison, Expr, ExprKind, Filter, Operator};
use super::super::fault::Result;
use super::super::value::Order;
use super::Parser;
use super::lex::Kind;

impl Parser {
    /// An expression, or a tuple without brackets. `ends` are names that end it.
    pub(super) fn tuple(&mut self, with_if: bool, ends: &[&str]) -> Result<Expr> {
        let found = self.maybe_tuple(with_if, ends)?;
        match found {
            Some(expr) => Ok(expr),
            None => self.unexpected("an expression"),
        }
    }

    /// As [`tuple`](Self::tuple), or nothing.
    fn maybe_tuple(&mut self, with_if: bool, ends: &[&str]) -> Result<Option<Expr>> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if matches!(self.kind(), Kind::PrintEnd | Kind::BlockEnd)
                || self.is_sign(")")
                || ends.iter().any(|end| self.is_name(end))
            {
                break;
            }
            items.push(if with_if { self.expression()? } else { self.or()? });
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match items.len() {
            _ if is_tuple => Expr::new(line, ExprKind::Tuple(items)).map(Some),
            _ => Ok(items.pop()),
        }
    }

    /// An expression, with `if` and `else`.
    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.deeper(|parser| {
            let mut line = parser.line();
            let mut yes = parser.or()?;
            while parser.skip_name("if") {
                let test = parser.or()?;
                let no = if parser.skip_name("else") { Some(parser.expression()?) } else { None };
                yes = Expr::new(line, ExprKind::If { test, yes, no })?;
                line = parser.line();
            }
            Ok(yes)
        })
    }

    fn or(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.and()?;
        while self.skip_name("or") {
            left = Expr::new(line, ExprKind::Or(left, self.and()?))?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            left = Expr::new(line, ExprKind::And(left, self.not()?))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.deeper(Self::not)?;
            return Expr::new(line, ExprKind::Not(inner));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Sign("==") => Comparison::Equal,
                Kind::Sign("!=") => Comparison::NotEqual,
                Kind::Sign("<") => Comparison::Order(Order::Less),
                Kind::Sign("<=") => Comparison::Order(Order::LessOrEqual),
                Kind::Sign(">") => Comparison::Order(Order::Greater),
                Kind::Sign(">=") => Comparison::Order(Order::GreaterOrEqual),
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" && *self.look() == Kind::Name("in".into()) => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((comparison, self.sum()?));
        }
        if others.is_empty() { Ok(first) } else { Expr::new(line, ExprKind::Compare(first, others)) }
    }

    fn sum(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.concat()?;
        loop {
            let operator = match self.kind() {
                Kind::Sign("+") => Operator::Add,
                Kind::Sign("-") => Operator::Subtract,
                _ => return Ok(left),
            };
            self.next();
            left = Expr::new(line, ExprKind::Binary(operator, left, self.concat()?))?;
        }
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_sign("~") {
            parts.push(self.product()?);
        }
        Expr::new(line, ExprKind::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.power()?;
        loop {
            let operator = match self.kind() {
                Kind::Sign("*") => Operator::Multiply,
                Kind::Sign("/") => Operator::Divide,
                Kind::Sign("//") => Operator::FloorDivide,
                Kind::Sign("%") => Operator::Modulo,
                _ => return Ok(left),
            };
            self.next();
            left = Expr::new(line, ExprKind::Binary(operator, left, self.power()?))?;
        }
    }

    fn power(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.unary(true)?;
        // Unlike in Python, powers go from the left, and a sign goes before them.
        while self.skip_sign("**") {
            left = Expr::new(line, ExprKind::Binary(Operator::Power, left, self.unary(true)?))?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let line = self.line();
        let node = if self.skip_sign("-") {
            Expr::new(line, ExprKind::Negative(self.deeper(|parser| parser.unary(false))?))?
        } else if self.skip_sign("+") {
            Expr::new(line, ExprKind::Positive(self.deeper(|parser| parser.unary(false))?))?
        } else {
            self.primary()?
        };
        let node = self.postfix(node)?;
        if with_filters { self.filters_and_tests(node) } else { Ok(node) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.kind().clone() {
            Kind::Name(name) => {
                self.next();
                match name.as_str() {
                    "true" | "True" => ExprKind::Bool(true),
                    "false" | "False" => ExprKind::Bool(false),
                    "none" | "None" => ExprKind::None,
                    name => ExprKind::Name(self.symbol(name)),
                }
            }
            Kind::Str(mut text) => {
                self.next();
                while let Kind::Str(more) = self.kind() {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Str(text)
            }
            Kind::Int(n) => {
                self.next();
                ExprKind::Int(n)
            }
            Kind::Float(x) => {
                self.next();
                ExprKind::Float(x)
            }
            Kind::Sign("(") => {
                self.next();
                let inner = self.deeper(|parser| parser.maybe_tuple(true, &[]))?;
                self.expect_sign(")")?;
                return match inner {
                    Some(inner) => Ok(inner),
                    None => Expr::new(line, ExprKind::Tuple(Vec::new())),
                };
            }
            Kind::Sign("[") => {
                self.next();
                ExprKind::List(self.deeper(|parser| parser.items("]", Self::expression))?)
            }
            Kind::Sign("{") => {
                self.next();
                ExprKind::Dict(self.deeper(|parser| parser.items("}", Self::pair))?)
            }
            _ => return self.unexpected("an expression"),
        };
        Expr::new(line, kind)
    }

    /// Items with commas between them, and the bracket that closes them.
    fn items<T>(&mut self, close: &str, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_sign(close) {
            if !items.is_empty() {
                self.expect_sign(",")?;
                if self.is_sign(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect_sign(close)?;
        Ok(items)
    }

    fn pair(&mut self) -> Result<(Expr, Expr)> {
        let key = self.expression()?;
        self.expect_sign(":")?;
        Ok((key, self.expression()?))
    }

    /// Attributes, items and calls after a value.
    fn postfix(&mut self, mut node: Expr) -> Result<Expr> {
        loop {
            let line = self.line();
            if self.skip_sign(".") {
                node = self.attribute(node, line)?;
            } else if self.skip_sign("[") {
                node = self.deeper(|parser| parser.subscript(node, line))?;
            } else if self.is_sign("(") {
                node = Expr::new(line, ExprKind::Call(node, self.arguments()?))?;
            } else {
                return Ok(node);
            }
        }
    }

    fn attribute(&mut self, node: Expr, line: usize) -> Result<Expr> {
        match self.kind().clone() {
            Kind::Name(name) => {
                self.next();
                Expr::new(line, ExprKind::Attribute(node, name))
            }
            Kind::Int(n) => {
                self.next();
                let index = Expr::new(line, ExprKind::Int(n))?;
                Expr::new(line, ExprKind::Item(node, index))
            }
            _ => self.unexpected("a name or a number"),
        }
    }

    fn subscript(&mut self, node: Expr, line: usize) -> Result<Expr> {
        let first = if self.is_sign(":") { None } else { Some(self.expression()?) };
        if self.is_sign(":") {
            let mut parts = [first, None, None];
            for part in parts.iter_mut().skip(1) {
                if !self.skip_sign(":") {
                    break;
                }
                if !self.is_sign(":") && !self.is_sign("]") {
                    *part = Some(self.expression()?);
                }
            }
            self.expect_sign("]")?;
            return Expr::new(line, ExprKind::Slice(node, parts));
        }
        let Some(first) = first else { return self.unexpected("an index") };
        let mut keys = vec![first];
        while self.skip_sign(",") {
            keys.push(self.expression()?);
        }
        self.expect_sign("]")?;
        let key = match keys.len() {
            1 => keys.pop(),
            _ => Some(Expr::new(line, ExprKind::Tuple(keys))?),
        };
        let Some(key) = key else { return self.unexpected("an index") };
        Expr::new(line, ExprKind::Item(node, key))
    }

    fn filters_and_tests(&mut self, mut node: Expr) -> Result<Expr> {
        loop {
            let line = self.line();
            if self.skip_sign("|") {
                let filter = self.filter_call()?;
                node = Expr::new(filter.line, ExprKind::Filter(node, filter))?;
            } else if self.skip_name("is") {
                node = self.test(node, line)?;
            } else if self.is_sign("(") {
                node = Expr::new(line, ExprKind::Call(node, self.arguments()?))?;
            } else {
                return Ok(node);
            }
        }
    }

    /// Filters after a block tag; with `inline`, the first needs no `|`.
    pub(super) fn filter_chain(&mut self, inline: bool) -> Result<Vec<Filter>> {
        let mut filters = Vec::new();
        if inline {
            filters.push(self.filter_call()?);
        }
        while self.skip_sign("|") {
            filters.push(self.filter_call()?);
        }
        Ok(filters)
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.any_name()?;
        while self.skip_sign(".") {
            name = name + "." + &self.any_name()?;
        }
        Ok(name)
    }

    fn filter_call(&mut self) -> Result<Filter> {
        let line = self.line();
        let name = self.dotted_name()?;
        let args = if self.is_sign("(") { self.arguments()? } else { Arguments::default() };
        Ok(Filter { line, name, args })
    }

    fn test(&mut self, node: Expr, line: usize) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let takes_one = match self.kind() {
            Kind::Name(word) if word == "is" => return self.fail("You cannot chain multiple tests with is"),
            Kind::Name(word) => !matches!(word.as_str(), "else" | "or" | "and"),
            Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Sign("[" | "{") => true,
            _ => false,
        };
        let args = if self.is_sign("(") {
            self.arguments()?
        } else if takes_one {
            let argument = self.primary()?;
            Arguments { by_place: vec![self.postfix(argument)?], ..Arguments::default() }
        } else {
            Arguments::default()
        };
        let node = Expr::new(line, ExprKind::Test(node, Filter { line, name, args }))?;
        if negated { Expr::new(line, ExprKind::Not(node)) } else { Ok(node) }
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect_sign("(")?;
        self.deeper(|parser| {
            let mut args = Arguments::default();
            let mut first = true;
            while !parser.is_sign(")") {
                if !first {
                    parser.expect_sign(",")?;
                    if parser.is_sign(")") {
                        break;
                    }
                }
                first = false;
                parser.argument(&mut args)?;
            }
            parser.expect_sign(")")?;
            Ok(args)
        })
    }

    fn argument(&mut self, args: &mut Arguments) -> Result<()> {
        let named = matches!(self.kind(), Kind::Name(_)) && *self.look() == Kind::Sign("=");
        let in_order = if self.is_sign("*") {
            args.rest.is_none() && args.rest_by_name.is_none()
        } else if self.is_sign("**") || named {
            args.rest_by_name.is_none()
        } else {
            args.rest.is_none() && args.rest_by_name.is_none() && args.by_name.is_empty()
        };
        if !in_order {
            return self.fail("invalid syntax for function call expression");
        }
        if self.skip_sign("*") {
            args.rest = Some(self.expression()?);
        } else if self.skip_sign("**") {
            args.rest_by_name = Some(self.expression()?);
        } else if named {
            let name = self.any_name()?;
            self.next();
            if args.by_name.iter().any(|(known, _)| *known == name) {
                return self.fail(format!("keyword argument repeated: {name}"));
            }
            args.by_name.push((name, self.expression()?));
        } else {
            args.by_place.push(self.expression()?);
        }
        Ok(())
    }
}
