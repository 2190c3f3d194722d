//! One step of the sequences that run: forward, then choose.
//!
//! Rows that read as many tokens go through the model together, as rows of one pass over caches that each of them owns.

use std::collections::BTreeMap;

use mlxlm_cache::Caches;
use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, transforms};
use mlxlm_models::CausalLm;

use super::check::Checked;
use super::choose::{Choice, Chooser, choose_rows};
use super::sequence::Row;
use super::{Engine, Event, EventKind, FinishReason, Kept, Token, row_of};
use crate::{Error, Result};

/// What a row reads in this step.
enum Input {
    /// Nothing: the token on its way is its last.
    Nothing,
    /// The token that is on its way, or the last of the text.
    Ahead,
    /// Tokens that are known, some of them proposed.
    Checked(Checked),
}

/// What was chosen for a row.
enum Chosen {
    Nothing,
    /// The token after the one on its way.
    Next(Choice),
    /// The tokens after each of those that were read, and the states of those, if somebody wants them.
    Each(Checked, Vec<(Choice, Chooser)>, Option<Array>),
    Failed(Error),
}

impl<'p> Engine<'p> {
    /// The next tokens of all rows.
    pub(super) fn decode(&mut self, model: &dyn CausalLm, events: &mut Vec<Event>) {
        let mut rows: Vec<Row<'p>> = Vec::with_capacity(self.running.len());
        let mut inputs = Vec::with_capacity(self.running.len());
        for mut row in std::mem::take(&mut self.running) {
            match plan(&mut row, model, events) {
                Ok(Some(input)) => {
                    inputs.push(input);
                    rows.push(row);
                }
                Ok(None) => self.finish(row, model, events),
                Err(error) => events.push(row.fail(error)),
            }
        }
        let chosen = forward_all(model, &mut rows, inputs);
        for (mut row, chosen) in rows.into_iter().zip(chosen) {
            let outcome = match chosen {
                Chosen::Failed(error) => Err(error),
                Chosen::Nothing => row.hand_out(None, events),
                Chosen::Next(next) => row.hand_out(Some(next), events),
                Chosen::Each(checked, choices, states) => {
                    self.counters.proposed_tokens += checked.drafts.len();
                    let accepted = row.accept(model, checked, choices, states.as_ref(), events);
                    self.counters.accepted_tokens += accepted.as_ref().map_or(0, |(accepted, _)| *accepted);
                    accepted.map(|(_, finish)| finish)
                }
            };
            match outcome {
                Ok(None) => self.running.push(row),
                Ok(Some(_)) => self.finish(row, model, events),
                Err(error) => events.push(row.fail(error)),
            }
        }
    }

    /// Takes a row that has ended out, with its caches if they are kept.
    fn finish(&mut self, row: Row<'p>, model: &dyn CausalLm, events: &mut [Event]) {
        if self.hold {
            self.ended.push(row);
            return;
        }
        let id = row.id;
        // What could not be read any more is not kept; the text is whole.
        let settled = row.settle(model).unwrap_or(None);
        let last = events.iter_mut().rev().find(|event| event.id == id);
        if let Some(Event { kind: EventKind::Token { kept, .. }, .. }) = last {
            *kept = settled;
        }
    }
}

/// What a row reads next; nothing if it has just ended.
fn plan(row: &mut Row, model: &dyn CausalLm, events: &mut Vec<Event>) -> Result<Option<Input>> {
    if !row.is_checked() || row.rests() {
        let needs_no_pass = row.pending.is_some() && row.wanted() == 1 && !row.keep_caches;
        return Ok(Some(if needs_no_pass { Input::Nothing } else { Input::Ahead }));
    }
    if row.pending.is_some() && row.hand_out(None, events)?.is_some() {
        return Ok(None);
    }
    Checked::plan(row, model).map(|checked| Some(Input::Checked(checked)))
}

/// Runs all rows through the model and dispatches their choices.
fn forward_all(model: &dyn CausalLm, rows: &mut [Row], inputs: Vec<Input>) -> Vec<Chosen> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, input) in inputs.iter().enumerate() {
        match input {
            Input::Nothing => {}
            Input::Ahead => groups.entry(1).or_default().push(i),
            Input::Checked(checked) => groups.entry(checked.tokens.len()).or_default().push(i),
        }
    }
    let mut inputs: Vec<Option<Input>> = inputs.into_iter().map(Some).collect();
    let mut chosen: Vec<Chosen> = inputs.iter().map(|_| Chosen::Nothing).collect();
    for members in groups.into_values() {
        let group = members.iter().filter_map(|&i| inputs[i].take()).collect();
        let mut own: Vec<&mut Row> = pick(rows, &members);
        match forward(model, &mut own, group) {
            Ok(choices) => members.iter().zip(choices).for_each(|(&i, choice)| chosen[i] = choice),
            Err(error) => {
                let text = error.to_string();
                let mut error = Some(error);
                for &i in &members {
                    let own = error.take().unwrap_or_else(|| mlxlm_core::Exception::custom(text.clone()).into());
                    chosen[i] = Chosen::Failed(own);
                }
            }
        }
    }
    chosen
}

/// The elements at ascending places.
fn pick<'a, T>(list: &'a mut [T], places: &[usize]) -> Vec<&'a mut T> {
    let mut places = places.iter().peekable();
    list.iter_mut()
        .enumerate()
        .filter(|(i, _)| places.next_if(|place| **place == *i).is_some())
        .map(|(_, x)| x)
        .collect()
}

/// Runs rows that read as many tokens through the model, and dispatches their choices.
fn forward(model: &dyn CausalLm, rows: &mut [&mut Row], inputs: Vec<Input>) -> Result<Vec<Chosen>> {
    let tokens = rows.iter().zip(&inputs).map(|(row, input)| match (input, row.pending_token()) {
        (Input::Checked(checked), _) => Ok(row_of(&checked.tokens)),
        (_, Some(token)) => Ok(token.reshape(&[1, 1])?),
        (_, None) => row.text.last().map(|&id| row_of(&[id])).ok_or(Error::EmptyPrompt),
    });
    let tokens = ops::concatenate(&tokens.collect::<Result<Vec<_>>>()?, 0)?;
    let hidden = hidden(model, rows, &tokens)?;
    let logits = model.head(&hidden)?;
    let mut chosen = Vec::with_capacity(rows.len());
    if inputs.iter().all(|input| matches!(input, Input::Ahead)) {
        let mut choosers = Vec::with_capacity(rows.len());
        for row in rows.iter_mut() {
            row.read_ahead()?;
            choosers.push(&mut row.chooser);
        }
        let choices = choose_rows(&mut choosers, &logits.try_index((.., -1, ..))?)?;
        chosen.extend(choices.into_iter().map(Chosen::Next));
    } else {
        for ((row, input), i) in rows.iter_mut().zip(inputs).zip(0..) {
            let logits = logits.try_index(i..i + 1)?;
            match input {
                Input::Checked(checked) => {
                    let choices = row.choose_each(&checked, &logits)?;
                    let wants = row.proposer.as_ref().is_some_and(|proposer| proposer.wants_states());
                    let states = wants.then(|| hidden.try_index(i..i + 1)).transpose()?;
                    chosen.push(Chosen::Each(checked, choices, states));
                }
                Input::Ahead | Input::Nothing => {
                    row.read_ahead()?;
                    chosen.push(Chosen::Next(row.chooser.choose(&logits.try_index((.., -1, ..))?)?));
                }
            }
        }
    }
    let mut arrays: Vec<&Array> = Vec::new();
    for (row, chosen) in rows.iter().zip(&chosen) {
        match chosen {
            Chosen::Next(choice) => arrays.extend(choice.arrays()),
            Chosen::Each(_, choices, states) => {
                arrays.extend(choices.iter().flat_map(|(choice, _)| choice.arrays()).chain(states));
            }
            Chosen::Nothing | Chosen::Failed(_) => {}
        }
        arrays.extend(row.chooser.arrays());
    }
    transforms::async_eval(arrays)?;
    for row in rows.iter_mut() {
        row.quantize()?;
    }
    Ok(chosen)
}

/// The states after the last block, `[B, L, D]`; the rows' caches are lent to the pass.
fn hidden(model: &dyn CausalLm, rows: &mut [&mut Row], tokens: &Array) -> Result<Array> {
    if let [row] = rows {
        return Ok(model.hidden(tokens, Some(&mut row.caches))?);
    }
    if Caches::check_joins(&rows.iter().map(|row| &row.caches).collect::<Vec<_>>()).is_err() {
        let alone = rows
            .iter_mut()
            .zip(0..)
            .map(|(row, i)| Ok(model.hidden(&tokens.try_index(i..i + 1)?, Some(&mut row.caches))?));
        return Ok(ops::concatenate(&alone.collect::<Result<Vec<_>>>()?, 0)?);
    }
    let lent = rows.iter_mut().map(|row| std::mem::replace(&mut row.caches, Caches::new(&[]))).collect();
    let mut batch = Caches::join(lent)?;
    let hidden = model.hidden(tokens, Some(&mut batch));
    rows.iter_mut().zip(batch.split()).for_each(|(row, caches)| row.caches = caches);
    Ok(hidden?)
}

impl Row<'_> {
    /// Whether plain decoding may go on, as its proposer sits out: one token at most is not read yet.
    fn rests(&mut self) -> bool {
        let is_plain = self.pending.is_some() || self.read + 1 == self.text.len();
        let rests =
            is_plain && self.matcher.is_none() && self.proposer.as_mut().is_some_and(|proposer| proposer.rests());
        if rests {
            self.undo = None;
        }
        rests
    }

    /// Counts the token that a pass reads ahead.
    fn read_ahead(&mut self) -> Result<()> {
        match &self.pending {
            Some(choice) => {
                self.chooser.note(&choice.token)?;
                self.noted += 1;
            }
            None => {
                if self.noted < self.text.len() {
                    self.chooser.note(&row_of(&self.text[self.noted..]))?;
                }
                self.noted = self.text.len();
            }
        }
        self.read += 1;
        Ok(())
    }

    /// Hands out the token on its way, after which `next` is.
    fn hand_out(&mut self, next: Option<Choice>, events: &mut Vec<Event>) -> Result<Option<FinishReason>> {
        let Some(current) = std::mem::replace(&mut self.pending, next) else { return Ok(None) };
        let token = current.read(self.generated(), false)?;
        self.emit(token, events)
    }

    /// Adds a token to the text and to the events.
    pub(super) fn emit(&mut self, mut token: Token, events: &mut Vec<Event>) -> Result<Option<FinishReason>> {
        token.finish = self.push(token.id)?;
        let finish = token.finish;
        events.push(Event { id: self.id, kind: EventKind::Token { token, kept: None } });
        Ok(finish)
    }

    /// The event of an error that ended the row.
    pub(super) fn fail(self, error: Error) -> Event {
        let tokens = || self.text[..self.read.min(self.text.len())].to_vec();
        let kept = || Kept { tokens: tokens(), caches: self.caches.clone() };
        Event { id: self.id, kind: EventKind::Failed { error, kept: self.keep_caches.then(kept) } }
    }
}
