//! From a grammar to a matcher before its first token, within a time.
//!
//! The parser counts its steps and its states, but it calls itself as deeply as a grammar is nested or its rules are chained.
//! So it compiles on a thread of its own with a large stack, which is left behind if it takes too long.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use llguidance::earley::{CGrammar, CSymIdx};
use llguidance::{ParserFactory, panic_utils};
use mlxlm_core::process;

use super::error::{GrammarError, short};
use super::limits::{GrammarLimits, STACK_BYTES};
use super::matcher::Matcher;
use super::spec::GrammarSpec;
use super::vocabulary::Vocabulary;

/// The parser with what it knows of the vocabulary.
pub(super) struct Engine {
    pub(super) factory: ParserFactory,
    pub(super) vocabulary: Arc<Vocabulary>,
}

/// One of the threads that compile, until it ends.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Compiles `spec`, which was checked; `running` counts the threads that do so.
pub(super) fn compile(
    engine: &Arc<Engine>,
    spec: &GrammarSpec,
    limits: &GrammarLimits,
    running: &Arc<AtomicUsize>,
) -> Result<Matcher, GrammarError> {
    let kind = spec.kind();
    let others = running.fetch_add(1, Ordering::SeqCst);
    let guard = Running(Arc::clone(running));
    if others >= limits.compiling {
        return Err(GrammarError::Busy { running: others });
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let (engine, spec) = (Arc::clone(engine), spec.clone());
    let work = move || {
        let result = start(&engine, &spec);
        // Before the result is known: whoever waits for it may come with the next grammar at once.
        drop(guard);
        // Nobody listens any more if the time is over.
        drop(sender.send(result));
    };
    process::thread("grammar", STACK_BYTES)
        .and_then(|thread| thread.spawn(work))
        .map_err(|error| GrammarError::Failed { reason: format!("the system does not start a thread: {error}") })?;
    receiver.recv_timeout(limits.time).unwrap_or_else(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Err(GrammarError::TooSlow { kind, limit: limits.time }),
        mpsc::RecvTimeoutError::Disconnected => Err(GrammarError::Failed { reason: "its thread ended".into() }),
    })
}

/// A matcher whose first mask is known, so that nothing is left that the first token would find out.
fn start(engine: &Engine, spec: &GrammarSpec) -> Result<Matcher, GrammarError> {
    let source = spec.source()?;
    let parser = guarded(|| {
        let parser = engine.factory.create_parser(source).map_err(|error| error.to_string())?;
        let endless = endless_rule(parser.parser.grammar());
        Ok((parser, endless))
    });
    let (parser, endless) = parser.map_err(|failure| match failure {
        Failure::Panic(reason) => GrammarError::Failed { reason },
        Failure::Error(reason) => reason_of(spec, &reason),
    })?;
    if let Some(rule) = endless {
        return Err(GrammarError::Unsatisfiable { reason: format!("its part `{rule}` never ends") });
    }
    let mut matcher = Matcher::new(parser, Arc::clone(&engine.vocabulary));
    if !matcher.can_end()? {
        matcher.mask()?;
    }
    Ok(matcher)
}

/// What the parser says of a grammar that it does not take.
fn reason_of(spec: &GrammarSpec, reason: &str) -> GrammarError {
    const UNSATISFIABLE: &str = "Unsatisfiable schema: ";
    const PANIC: &str = "panic: ";
    match (reason.strip_prefix(UNSATISFIABLE), reason.strip_prefix(PANIC)) {
        (Some(reason), _) => GrammarError::Unsatisfiable { reason: short(reason) },
        (_, Some(reason)) => GrammarError::Failed { reason: short(reason) },
        _ if reason.contains("fuel") => GrammarError::TooComplex { reason: short(reason) },
        _ => GrammarError::Bad { kind: spec.kind(), reason: short(reason) },
    }
}

/// How the parser failed.
pub(super) enum Failure {
    Error(String),
    Panic(String),
}

/// Runs the parser; its panics become errors and print nothing.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    match panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(work()))) {
        Ok(result) => result.map_err(Failure::Error),
        Err(panic) => Err(Failure::Panic(short(panic.to_string().trim_start_matches("panic: ")))),
    }
}

/// A rule that can be reached and only ever leads to itself again, so that no text ends it.
fn endless_rule(grammar: &CGrammar) -> Option<String> {
    let mut reached = vec![grammar.start()];
    let mut seen = HashSet::from([grammar.start()]);
    let mut rules: Vec<(CSymIdx, &[CSymIdx])> = Vec::new();
    let mut at = 0;
    while let Some(&symbol) = reached.get(at) {
        at += 1;
        for rule in grammar.rules_of(symbol) {
            let (parts, ..) = grammar.rule_rhs(*rule);
            rules.push((symbol, parts));
            reached.extend(parts.iter().copied().filter(|part| seen.insert(*part)));
        }
    }
    let ends_by_itself = |symbol: &CSymIdx| {
        let symbol = grammar.sym_data(*symbol);
        symbol.is_terminal || symbol.is_nullable || !symbol.cond_nullable.is_empty()
    };
    let mut ending: Vec<CSymIdx> = reached.iter().copied().filter(ends_by_itself).collect();
    let mut ends: HashSet<CSymIdx> = ending.iter().copied().collect();
    // For each symbol the rules that wait for it, and for each rule how many symbols it waits for.
    let mut waiting: HashMap<CSymIdx, Vec<usize>> = HashMap::new();
    for (number, (_, parts)) in rules.iter().enumerate() {
        parts.iter().for_each(|part| waiting.entry(*part).or_default().push(number));
    }
    let mut missing: Vec<usize> = rules.iter().map(|(_, parts)| parts.len()).collect();
    while let Some(symbol) = ending.pop() {
        for number in waiting.remove(&symbol).unwrap_or_default() {
            missing[number] -= 1;
            let whole = rules[number].0;
            if missing[number] == 0 && ends.insert(whole) {
                ending.push(whole);
            }
        }
    }
    let endless = reached.into_iter().find(|symbol| !ends.contains(symbol));
    endless.map(|symbol| grammar.sym_data(symbol).name.clone())
}
