//! What can be looped over: ranges, generators, and the items of any value.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::eval::Interp;
use super::super::fault::{Result, fail};
use super::super::limits;
use super::{Dict, Object, Value, View};

/// `range(start, stop, step)`, at most 100,000 long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Range {
    pub(in super::super) start: i128,
    pub(in super::super) stop: i128,
    pub(in super::super) step: i128,
    len: usize,
}

/// The longest range of Jinja2's sandbox.
const MAX_RANGE: i128 = 100_000;

impl Range {
    pub(in super::super) fn new(start: i128, stop: i128, step: i128) -> Result<Self> {
        let distance = match step.signum() {
            0 => return fail("range() arg 3 must not be zero"),
            1 => stop.saturating_sub(start),
            _ => start.saturating_sub(stop),
        };
        let step_size = step.unsigned_abs().try_into().unwrap_or(i128::MAX);
        let len = if distance <= 0 { 0 } else { (distance - 1) / step_size + 1 };
        if len > MAX_RANGE {
            return fail(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."));
        }
        Ok(Self { start, stop, step, len: len as usize })
    }

    pub(in super::super) fn len(&self) -> usize {
        self.len
    }

    /// The part of places from `first` on to before `stop`, `step` apart.
    pub(in super::super) fn part(&self, [first, stop, step]: [i128; 3]) -> Result<Self> {
        let value = |at: i128| self.step.checked_mul(at).and_then(|offset| self.start.checked_add(offset));
        match (value(first), value(stop), self.step.checked_mul(step)) {
            (Some(start), Some(stop), Some(step)) => Self::new(start, stop, step),
            _ => fail("a range of integers of more than 38 digits"),
        }
    }

    pub(in super::super) fn get(&self, at: usize) -> Option<Value> {
        (at < self.len).then(|| Value::Int(self.start + self.step * at as i128))
    }
}

/// What a generator does when it is first read.
type Work = Box<dyn FnOnce(&mut Interp) -> Result<Vec<Value>>>;

/// A generator: it works when it is first read, and can be read once.
pub(in super::super) struct Iter {
    state: RefCell<State>,
    depth: u32,
}

enum State {
    Waiting(Work),
    Left(std::vec::IntoIter<Value>),
    /// A loop reads it, or left it before its end.
    Looped,
}

impl Iter {
    /// A generator over what `work` makes from values as deep as `source`.
    pub(in super::super) fn lazy(
        source: &[&Value],
        work: impl FnOnce(&mut Interp) -> Result<Vec<Value>> + 'static,
    ) -> Result<Value> {
        let depth = super::deeper(source.iter().copied())?;
        limits::hold(0)?;
        Ok(Value::Iter(Rc::new(Self { state: RefCell::new(State::Waiting(Box::new(work))), depth })))
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// All that is left.
    fn drain(&self, interp: &mut Interp) -> Result<Vec<Value>> {
        let state = self.state.replace(State::Left(Vec::new().into_iter()));
        match state {
            State::Waiting(work) => work(interp),
            State::Left(items) => Ok(items.collect()),
            State::Looped => fail("a generator is read while a loop reads it, or after the loop left it"),
        }
    }

    /// The next item.
    pub(in super::super) fn next(&self, interp: &mut Interp) -> Result<Option<Value>> {
        if !matches!(*self.state.borrow(), State::Left(_)) {
            let items = self.drain(interp)?;
            self.state.replace(State::Left(items.into_iter()));
        }
        Ok(if let State::Left(items) = &mut *self.state.borrow_mut() { items.next() } else { None })
    }

    /// All that is left, for a loop that may leave early.
    pub(in super::super) fn for_loop(&self, interp: &mut Interp) -> Result<Vec<Value>> {
        let items = self.drain(interp)?;
        self.state.replace(State::Looped);
        Ok(items)
    }

    /// The loop that read it came to its end.
    pub(in super::super) fn looped_to_end(&self) {
        self.state.replace(State::Left(Vec::new().into_iter()));
    }
}

/// The characters of a text, as values.
fn chars(text: &str) -> Result<Vec<Value>> {
    limits::check_size(text.chars().count().saturating_mul(super::ITEM))?;
    text.chars().map(Value::str).collect()
}

/// The items that `iter(value)` gives; a generator is read to its end.
pub(in super::super) fn items_of(interp: &mut Interp, value: &Value) -> Result<Vec<Value>> {
    let items = match value {
        Value::Undefined(_) => Vec::new(),
        Value::Str(text) => chars(text)?,
        Value::List(items) | Value::Tuple(items) => items.to_vec(),
        Value::Dict(dict) => view_items(View::Keys, dict)?,
        Value::View(view, dict) => view_items(*view, dict)?,
        Value::Range(range) => (0..range.len()).filter_map(|at| range.get(at)).collect(),
        Value::Iter(iter) => iter.drain(interp)?,
        Value::Object(object) if matches!(**object, Object::Loop(_)) => return fail("a loop over a loop is refused"),
        other => return fail(format!("'{}' object is not iterable", other.type_name())),
    };
    limits::steps(items.len() as u64)?;
    Ok(items)
}

fn view_items(view: View, dict: &Dict) -> Result<Vec<Value>> {
    let pairs = dict.pairs().iter().map(|(key, value)| (key.clone(), value.clone()));
    match view {
        View::Keys => Ok(pairs.map(|(key, _)| key).collect()),
        View::Values => Ok(pairs.map(|(_, value)| value).collect()),
        View::Items => pairs.map(|(key, value)| Value::tuple(vec![key, value])).collect(),
    }
}

/// The pairs that `dict(value)` takes.
pub(in super::super) fn pairs_of(interp: &mut Interp, value: &Value) -> Result<Vec<(Value, Value)>> {
    if let Value::Dict(dict) = value {
        return Ok(dict.pairs().to_vec());
    }
    let mut pairs = Vec::new();
    for item in items_of(interp, value)? {
        let parts = items_of(interp, &item)?;
        let Ok([key, value]) = <[Value; 2]>::try_from(parts) else {
            return fail("a dict is made of pairs");
        };
        pairs.push((key, value));
    }
    Ok(pairs)
}
