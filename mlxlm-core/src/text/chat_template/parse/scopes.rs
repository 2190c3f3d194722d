//! Which names a scope hides, and what must be right before a template runs.
//!
//! Jinja2 decides before it runs which names are local to a scope: a name that a scope sets is its own from the start, so
//! before it is set it is undefined, also for what is inside, even where the context has such a name.
//! Reference: Jinja2's `idtracking.py` and the checks in `compiler.py`.

use std::collections::{HashMap, HashSet};

use super::super::ast::{
    Arguments, Body, Expr, ExprKind, Filter, For, Macro, Stmt, StmtKind, Sym, Target, Template, Wants,
};
use super::super::fault::{Fault, Result};
use super::super::{filters, tests};

/// Where a name of a scope comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// It is a parameter, or set outside, or of the context.
    Elsewhere,
    /// It is set here, and nothing until then.
    Nothing,
}

/// The names of one scope.
#[derive(Clone, Default)]
struct Names {
    loads: HashMap<Sym, Load>,
    stores: HashSet<Sym>,
}

/// What is around a statement.
#[derive(Clone, Copy, Default)]
struct Place {
    /// In an `if`, unknown filters fail only where they are reached.
    soft: bool,
    in_loop: bool,
}

/// Fills in what each scope hides and what each macro wants, and checks the rest.
pub(super) fn resolve(template: &Template) -> Result<()> {
    let mut walk = Walk { template, around: Vec::new() };
    walk.scope(&template.body, Names::default(), &[], Place::default())?;
    for block in &template.blocks {
        // A block sees the context only, not the scopes around it.
        walk.scope(&block.body, Names::default(), &[], Place::default())?;
    }
    Ok(())
}

struct Walk<'t> {
    template: &'t Template,
    /// The names of the scopes around, complete.
    around: Vec<Names>,
}

impl Walk<'_> {
    /// A scope with the names it begins with, and expressions that are read in it before its body.
    fn scope(&mut self, body: &Body, mut names: Names, before: &[&Expr], place: Place) -> Result<()> {
        for expr in before {
            self.expr(expr, &mut names);
        }
        self.names_of(&body.nodes, &mut names);
        let mut hidden: Vec<Sym> =
            names.loads.iter().filter(|(_, load)| **load == Load::Nothing).map(|(name, _)| *name).collect();
        hidden.sort_unstable();
        // It is set once: a body is in one place.
        let _ = body.hidden.set(hidden);
        self.around.push(names);
        let result = self.nodes(&body.nodes, place);
        self.around.pop();
        result
    }

    fn known_around(&self, name: Sym) -> bool {
        self.around.iter().any(|names| names.loads.contains_key(&name))
    }

    fn load(&self, name: Sym, names: &mut Names) {
        if !self.known_around(name) {
            names.loads.entry(name).or_insert(Load::Elsewhere);
        }
    }

    fn store(&self, name: Sym, names: &mut Names) {
        names.stores.insert(name);
        let load = if self.known_around(name) { Load::Elsewhere } else { Load::Nothing };
        names.loads.entry(name).or_insert(load);
    }

    fn parameter(name: Sym, names: &mut Names) {
        names.stores.insert(name);
        names.loads.insert(name, Load::Elsewhere);
    }

    fn parameters(target: &Target, names: &mut Names) {
        match target {
            Target::Name(name) => Self::parameter(*name, names),
            Target::Attribute(..) => {}
            Target::Tuple(targets) => targets.iter().for_each(|target| Self::parameters(target, names)),
        }
    }

    fn target(&self, target: &Target, names: &mut Names) {
        match target {
            Target::Name(name) => self.store(*name, names),
            Target::Attribute(name, _) => self.load(*name, names),
            Target::Tuple(targets) => targets.iter().for_each(|target| self.target(target, names)),
        }
    }

    fn expr(&self, expr: &Expr, names: &mut Names) {
        if let ExprKind::Name(name) = *expr.kind {
            self.load(name, names);
        }
        expr.kind.children(&mut |child| self.expr(child, names));
    }

    fn args(&self, args: &Arguments, names: &mut Names) {
        args.children(&mut |child| self.expr(child, names));
    }

    /// The names that statements read and set in their own scope, without the scopes inside.
    fn names_of(&self, nodes: &[Stmt], names: &mut Names) {
        for node in nodes {
            match &node.kind {
                StmtKind::Print(value) => self.expr(value, names),
                StmtKind::Set(target, value) => {
                    self.expr(value, names);
                    self.target(target, names);
                }
                StmtKind::Capture { target, .. } => self.target(target, names),
                StmtKind::With { pairs, .. } => pairs.iter().for_each(|(_, value)| self.expr(value, names)),
                StmtKind::Filter { filters, .. } => filters.iter().for_each(|filter| self.args(&filter.args, names)),
                StmtKind::Call { call, .. } => self.expr(call, names),
                StmtKind::For(place) => {
                    if let Some(node) = self.template.loops.get(*place) {
                        self.expr(&node.source, names);
                    }
                }
                StmtKind::Macro(place) => {
                    if let Some(name) = self.template.macros.get(*place).and_then(|node| node.name) {
                        self.store(name, names);
                    }
                }
                StmtKind::If { branches, otherwise } => self.names_of_if(branches, otherwise, names),
                StmtKind::Text(_)
                | StmtKind::Block(_)
                | StmtKind::Autoescape { .. }
                | StmtKind::Generation(_)
                | StmtKind::Break
                | StmtKind::Continue
                | StmtKind::Other(_) => {}
            }
        }
    }

    /// A name that not all branches set comes from elsewhere where it is not set. An `elif` counts as a branch of its own,
    /// also where there is none.
    fn names_of_if(&self, branches: &[(Expr, Vec<Stmt>)], otherwise: &[Stmt], names: &mut Names) {
        let Some(((test, body), others)) = branches.split_first() else { return };
        self.expr(test, names);
        let mut first = names.clone();
        self.names_of(body, &mut first);
        let mut middle = names.clone();
        for branch in others {
            self.names_of_if(std::slice::from_ref(branch), &[], &mut middle);
        }
        let mut last = names.clone();
        self.names_of(otherwise, &mut last);
        Self::join([first, middle, last], names);
    }

    fn join(branches: [Names; 3], names: &mut Names) {
        let mut counts: HashMap<Sym, usize> = HashMap::new();
        for name in branches.iter().flat_map(|branch| &branch.stores).filter(|name| !names.stores.contains(name)) {
            *counts.entry(*name).or_default() += 1;
        }
        let all = branches.len();
        for branch in branches {
            names.loads.extend(branch.loads);
            names.stores.extend(branch.stores);
        }
        for (name, _) in counts.into_iter().filter(|(_, count)| *count < all) {
            names.loads.insert(name, Load::Elsewhere);
        }
    }

    /// The scopes inside of statements, and the checks.
    fn nodes(&mut self, nodes: &[Stmt], place: Place) -> Result<()> {
        for node in nodes {
            self.node(node, place).map_err(|fault| fault.at(node.line))?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Stmt, place: Place) -> Result<()> {
        let inner = Place { soft: false, ..place };
        match &node.kind {
            StmtKind::Text(_) | StmtKind::Block(_) | StmtKind::Other(_) => Ok(()),
            StmtKind::Break | StmtKind::Continue if place.in_loop => Ok(()),
            StmtKind::Break | StmtKind::Continue => Err(Fault::new("`break` or `continue` outside of a loop")),
            StmtKind::Print(value) | StmtKind::Set(_, value) => check(value, place.soft),
            StmtKind::Capture { filters, body, .. } | StmtKind::Filter { filters, body } => {
                filters.iter().try_for_each(|filter| check_filter(filter, place.soft))?;
                self.scope(body, Names::default(), &[], inner)
            }
            StmtKind::With { pairs, body } => {
                let mut names = Names::default();
                for (target, value) in pairs {
                    check(value, place.soft)?;
                    Self::parameters(target, &mut names);
                }
                self.scope(body, names, &[], inner)
            }
            StmtKind::Autoescape { on, body } => {
                check(on, place.soft)?;
                self.scope(body, Names::default(), &[on], inner)
            }
            StmtKind::Generation(body) => self.scope(body, Names::default(), &[], Place::default()),
            StmtKind::If { branches, otherwise } => {
                let soft = Place { soft: true, ..place };
                for (test, body) in branches {
                    check(test, true)?;
                    self.nodes(body, soft)?;
                }
                self.nodes(otherwise, soft)
            }
            StmtKind::For(at) => match self.template.loops.get(*at) {
                Some(node) => self.for_loop(node, place),
                None => Ok(()),
            },
            StmtKind::Macro(at) => match self.template.macros.get(*at) {
                Some(node) => self.macro_body(node),
                None => Ok(()),
            },
            StmtKind::Call { caller, call } => {
                check(call, place.soft)?;
                match self.template.macros.get(*caller) {
                    Some(node) => self.macro_body(node),
                    None => Ok(()),
                }
            }
        }
    }

    fn for_loop(&mut self, node: &For, place: Place) -> Result<()> {
        check(&node.source, place.soft)?;
        let mut names = Names::default();
        Self::parameters(&node.target, &mut names);
        if let Some(filter) = &node.filter {
            check(filter, false)?;
        }
        if let Some(name) = self.symbol("loop") {
            if names.stores.contains(&name) || sets(self.template, &node.body.nodes, name) {
                return Err(Fault::new("Can't assign to special loop variable in for-loop"));
            }
            Self::parameter(name, &mut names);
        }
        self.scope(&node.body, names, &[], Place { soft: false, in_loop: true })?;
        self.scope(&node.otherwise, Names::default(), &[], Place { soft: false, ..place })
    }

    fn macro_body(&mut self, node: &Macro) -> Result<()> {
        let mut names = Names::default();
        let mut wants = Wants::default();
        for (name, default) in &node.parameters {
            Self::parameter(*name, &mut names);
            if let Some(default) = default {
                check(default, false)?;
            }
        }
        for (special, wanted) in
            [("caller", &mut wants.caller), ("kwargs", &mut wants.kwargs), ("varargs", &mut wants.varargs)]
        {
            let Some(name) = self.symbol(special) else { continue };
            let is_parameter = node.parameters.iter().any(|(parameter, _)| *parameter == name);
            if special == "caller" && is_parameter {
                return Err(Fault::new("a parameter named `caller` is not supported"));
            }
            *wanted = !is_parameter && first_use(self.template, &node.body.nodes, name) == Some(Use::Read);
            if *wanted {
                Self::parameter(name, &mut names);
            }
        }
        // It is set once: a macro is in one place.
        let _ = node.wants.set(wants);
        let defaults: Vec<&Expr> = node.parameters.iter().filter_map(|(_, default)| default.as_ref()).collect();
        self.scope(&node.body, names, &defaults, Place::default())
    }

    fn symbol(&self, name: &str) -> Option<Sym> {
        self.template.names.iter().position(|known| known == name)
    }
}

/// How a name is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Set,
}

fn expr_reads(expr: &Expr, name: Sym) -> bool {
    let mut found = matches!(*expr.kind, ExprKind::Name(read) if read == name);
    expr.kind.children(&mut |child| found = found || expr_reads(child, name));
    found
}

fn args_read(args: &Arguments, name: Sym) -> bool {
    let mut found = false;
    args.children(&mut |child| found = found || expr_reads(child, name));
    found
}

fn read(found: bool) -> Option<Use> {
    found.then_some(Use::Read)
}

fn target_use(target: &Target, name: Sym) -> Option<Use> {
    match target {
        Target::Name(set) => (*set == name).then_some(Use::Set),
        Target::Attribute(of, _) => read(*of == name),
        Target::Tuple(targets) => targets.iter().find_map(|target| target_use(target, name)),
    }
}

/// How statements use a name first, also in the scopes inside, but not in blocks.
fn first_use(template: &Template, nodes: &[Stmt], name: Sym) -> Option<Use> {
    nodes.iter().find_map(|node| stmt_use(template, &node.kind, name))
}

fn stmt_use(template: &Template, node: &StmtKind, name: Sym) -> Option<Use> {
    let inside = |nodes: &[Stmt]| first_use(template, nodes, name);
    let filters_use = |filters: &[Filter]| read(filters.iter().any(|filter| args_read(&filter.args, name)));
    match node {
        StmtKind::Print(value) => read(expr_reads(value, name)),
        StmtKind::Set(target, value) => target_use(target, name).or_else(|| read(expr_reads(value, name))),
        StmtKind::Capture { target, filters, body } => {
            target_use(target, name).or_else(|| filters_use(filters)).or_else(|| inside(&body.nodes))
        }
        StmtKind::With { pairs, body } => {
            let targets = pairs.iter().find_map(|(target, _)| target_use(target, name));
            targets
                .or_else(|| read(pairs.iter().any(|(_, value)| expr_reads(value, name))))
                .or_else(|| inside(&body.nodes))
        }
        StmtKind::Filter { filters, body } => inside(&body.nodes).or_else(|| filters_use(filters)),
        StmtKind::Autoescape { on, body } => read(expr_reads(on, name)).or_else(|| inside(&body.nodes)),
        StmtKind::Generation(body) => inside(&body.nodes),
        StmtKind::If { branches, otherwise } => branches
            .iter()
            .find_map(|(test, body)| read(expr_reads(test, name)).or_else(|| inside(body)))
            .or_else(|| inside(otherwise)),
        StmtKind::For(at) => template.loops.get(*at).and_then(|node| {
            target_use(&node.target, name)
                .or_else(|| read(expr_reads(&node.source, name)))
                .or_else(|| inside(&node.body.nodes))
                .or_else(|| inside(&node.otherwise.nodes))
                .or_else(|| read(node.filter.as_ref().is_some_and(|filter| expr_reads(filter, name))))
        }),
        StmtKind::Macro(at) => template.macros.get(*at).and_then(|node| macro_use(template, node, name)),
        StmtKind::Call { caller, call } => read(expr_reads(call, name))
            .or_else(|| template.macros.get(*caller).and_then(|node| macro_use(template, node, name))),
        StmtKind::Text(_) | StmtKind::Block(_) | StmtKind::Break | StmtKind::Continue | StmtKind::Other(_) => None,
    }
}

fn macro_use(template: &Template, node: &Macro, name: Sym) -> Option<Use> {
    let set = node.parameters.iter().any(|(parameter, _)| *parameter == name).then_some(Use::Set);
    let mut defaults = node.parameters.iter().filter_map(|(_, default)| default.as_ref());
    set.or_else(|| read(defaults.any(|default| expr_reads(default, name))))
        .or_else(|| first_use(template, &node.body.nodes, name))
}

/// Whether statements assign to a name anywhere.
fn sets(template: &Template, nodes: &[Stmt], name: Sym) -> bool {
    let target_sets = |target: &Target| target_use(target, name) == Some(Use::Set);
    nodes.iter().any(|node| match &node.kind {
        StmtKind::Set(target, _) => target_sets(target),
        StmtKind::Capture { target, body, .. } => target_sets(target) || sets(template, &body.nodes, name),
        StmtKind::With { body, .. }
        | StmtKind::Filter { body, .. }
        | StmtKind::Autoescape { body, .. }
        | StmtKind::Generation(body) => sets(template, &body.nodes, name),
        StmtKind::If { branches, otherwise } => {
            branches.iter().any(|(_, body)| sets(template, body, name)) || sets(template, otherwise, name)
        }
        StmtKind::For(at) => template.loops.get(*at).is_some_and(|node| {
            target_sets(&node.target)
                || sets(template, &node.body.nodes, name)
                || sets(template, &node.otherwise.nodes, name)
        }),
        _ => false,
    })
}

/// Refuses filters and tests that are not known.
fn check(expr: &Expr, soft: bool) -> Result<()> {
    let soft = soft || matches!(*expr.kind, ExprKind::If { .. });
    match &*expr.kind {
        ExprKind::Filter(_, filter) if !soft => known(filter, filters::find(&filter.name).is_some(), "filter")?,
        ExprKind::Test(_, test) if !soft => known(test, tests::exists(&test.name), "test")?,
        _ => {}
    }
    let mut result = Ok(());
    expr.kind.children(&mut |child| {
        if result.is_ok() {
            result = check(child, soft);
        }
    });
    result
}

fn check_filter(filter: &Filter, soft: bool) -> Result<()> {
    if !soft {
        known(filter, filters::find(&filter.name).is_some(), "filter")?;
    }
    let mut result = Ok(());
    filter.args.children(&mut |child| {
        if result.is_ok() {
            result = check(child, soft);
        }
    });
    result
}

fn known(named: &Filter, is_known: bool, what: &str) -> Result<()> {
    if is_known { Ok(()) } else { Err(Fault::new(format!("No {what} named '{}'.", named.name)).at(named.line)) }
}
