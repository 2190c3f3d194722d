//! From events of an engine to updates of jobs.

use std::rc::Rc;

use mlxlm_cache::store::Checkpoint;
use mlxlm_sample::engine::{Event, EventKind, Kept, Token};
use mlxlm_sample::{Error, Result};

use super::start::{Origin, Part};
use super::{Row, RowId, Scheduler};
use crate::engine::job::{Finish, Scored, Update};
use crate::engine::score;

impl Scheduler<'_> {
    /// Takes an event of a lane. Sequences that have thought for long enough are added to `spent`.
    pub(super) fn handle(&mut self, lane: u64, event: Event, spent: &mut Vec<RowId>) {
        let id = (lane, event.id);
        match event.kind {
            EventKind::Read { done, total } => {
                if let Some(Row { asked, before, .. }) = self.rows.get(&id).filter(|row| row.is_reported) {
                    let cached = before.len();
                    asked.tell(Update::Read { done: cached + done, total: cached + total, cached });
                }
            }
            EventKind::Checkpoint(kept) => self.keep_checkpoint(id, kept),
            EventKind::Token { token, kept } => {
                self.failed_in_a_row = 0;
                if let Err(error) = self.add_token(id, &token, kept) {
                    return self.fail_row(id, &error);
                }
                let row = self.rows.get_mut(&id);
                if row.and_then(|row| row.watch.as_mut()).is_some_and(|watch| watch.push(token.id))
                    && !spent.contains(&id)
                {
                    spent.push(id);
                }
            }
            EventKind::Failed { error, .. } => self.fail_row(id, &error),
        }
    }

    /// Copies the caches for the other choices, and keeps what later ones will have lost.
    fn keep_checkpoint(&mut self, id: RowId, kept: Kept) {
        let Some(row) = self.rows.get_mut(&id).filter(|row| row.choice == 0) else { return };
        let asked = Rc::clone(&row.asked);
        let Some(generate) = asked.generate() else { return };
        let read = row.before.len() + kept.tokens.len();
        row.checkpoints.extend(self.reuse.checkpoint(&kept.caches, read));
        let Some(lane) = self.lanes.get(&id.0) else { return };
        let adapter = Rc::clone(&lane.adapter);
        if read + 1 == generate.prompt.len() {
            for choice in 1..generate.choices {
                let caches = Some(kept.caches.clone());
                let (adapter, before) = (Rc::clone(&adapter), generate.prompt[..read].to_vec());
                let from = Origin { adapter, caches, before, checkpoints: Vec::new() };
                if let Err(error) = self.insert_choice(&asked, generate, choice, from) {
                    return self.fail(&asked, &error);
                }
            }
        }
    }

    fn add_token(&mut self, id: RowId, token: &Token, kept: Option<Kept>) -> Result<()> {
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        let ends = token.finish.map(Finish::from);
        let is_text = ends != Some(Finish::Stop);
        let wanted = row.asked.generate().and_then(|generate| generate.logprobs).filter(|_| is_text);
        let scored = wanted.map(|top| score::of_token(token, top)).transpose()?;
        let stopped = row.say(token.id, is_text, scored);
        let finish = stopped.map(Finish::StopString).or(ends);
        if let Some(finish) = finish {
            self.finish(id, finish, kept);
        }
        Ok(())
    }

    /// Ends a choice whose last token was said. Its place in the server is free before its client hears of it, and its caches are put
    /// away after that.
    fn finish(&mut self, id: RowId, finish: Finish, kept: Option<Kept>) {
        let Some(mut row) = self.rows.remove(&id) else { return };
        let rest = if matches!(finish, Finish::StopString(_)) { None } else { Some(row.text.finish()) };
        let finish = rest.as_ref().and_then(|rest| rest.stopped).map_or(finish, Finish::StopString);
        let text = rest.map(|rest| rest.text).unwrap_or_default();
        self.close(&row.asked);
        let Row { asked, choice, before, checkpoints, generated: tokens, .. } = row;
        let updates = asked.job.updates.clone();
        drop(asked);
        // A client that is gone needs to hear nothing.
        drop(updates.send(Update::Finished { choice, finish, text, tokens }));
        self.put_away(id, choice, before, checkpoints, kept);
    }

    /// Ends the thinking of a sequence: it goes on from its caches with the tokens that end it.
    pub(super) fn end_thinking(&mut self, id: RowId) {
        let is_spent = |row: &Row| row.watch.as_ref().is_some_and(super::Watch::is_spent);
        if self.rows.get(&id).is_none_or(|row| !is_spent(row)) {
            return;
        }
        if let Err(error) = self.go_on_without_thinking(id) {
            self.fail_row(id, &error);
        }
    }

    fn go_on_without_thinking(&mut self, id: RowId) -> Result<()> {
        let Some(lane) = self.lanes.get_mut(&id.0) else { return Ok(()) };
        let adapter = Rc::clone(&lane.adapter);
        // What is not read yet is read with the adapter that the sequence has.
        self.adapters.put_on(&adapter, &mut *self.main.model);
        let removed = lane.engine.remove(&*self.main.model, id.1)?;
        let (Some(mut row), Some(Kept { tokens, caches })) = (self.rows.remove(&id), removed) else { return Ok(()) };
        let asked = Rc::clone(&row.asked);
        let (Some(generate), Some(watch)) = (asked.generate(), row.watch.as_mut()) else { return Ok(()) };
        let (mut close, matcher) = watch.close();
        close.truncate(generate.max_tokens.saturating_sub(row.generated));
        row.before.extend(tokens);
        let mut stopped = None;
        for &token in &close {
            // Nothing else could come, so that it is certain.
            let scored = generate.logprobs.map(|_| Scored { id: token, logprob: 0.0, top: Vec::new() });
            stopped = stopped.or(row.say(token, true, scored));
        }
        let left = generate.max_tokens - row.generated;
        let over = stopped.map(Finish::StopString).or((left == 0).then_some(Finish::Length));
        if let Some(finish) = over {
            let kept = Kept { tokens: Vec::new(), caches };
            self.rows.insert(id, row);
            self.finish(id, finish, Some(kept));
            return Ok(());
        }
        let (before, checkpoints) = (std::mem::take(&mut row.before), std::mem::take(&mut row.checkpoints));
        let from = Origin { adapter, caches: Some(caches), before, checkpoints };
        let (prompt, choice, max_tokens) = (close.as_slice(), row.choice, left);
        let part = Part { from, prompt, choice, max_tokens, matcher, reseed: 1, cuts: Vec::new() };
        match self.insert(generate, part) {
            Ok((id, before, checkpoints)) => {
                self.rows.insert(id, Row { before, checkpoints, is_reported: false, ..row });
            }
            Err(error) => self.fail(&asked, &error),
        }
        Ok(())
    }

    /// A sequence failed, and with it its job: the other choices end before the next step.
    pub(super) fn fail_row(&mut self, id: RowId, error: &Error) {
        let Some(row) = self.rows.remove(&id) else { return };
        if row.asked.open.get() > 0 {
            self.fail(&row.asked, error);
        }
        if let Some(lane) = self.lanes.get_mut(&id.0) {
            self.adapters.put_on(&lane.adapter, &mut *self.main.model);
            drop(lane.engine.remove(&*self.main.model, id.1));
        }
    }

    /// Takes a sequence out, and keeps its caches for prompts to come.
    pub(super) fn remove(&mut self, id: RowId) {
        if let Some(Row { choice, before, checkpoints, .. }) = self.rows.remove(&id) {
            self.put_away(id, choice, before, checkpoints, None);
        }
    }

    /// Keeps the caches of a sequence that is over: those that came with its last token, or those that the engine still has.
    fn put_away(
        &mut self,
        id: RowId,
        choice: usize,
        before: Vec<u32>,
        checkpoints: Vec<Checkpoint>,
        kept: Option<Kept>,
    ) {
        let Some(lane) = self.lanes.get_mut(&id.0) else { return };
        let kept = kept.or_else(|| {
            self.adapters.put_on(&lane.adapter, &mut *self.main.model);
            // What cannot be kept is read anew.
            lane.engine.remove(&*self.main.model, id.1).unwrap_or(None)
        });
        let Some(Kept { tokens, caches }) = kept.filter(|_| choice == 0) else { return };
        let tokens = [before, tokens].concat();
        if let Some(texts) = &self.texts {
            texts.borrow_mut().add(&tokens);
        }
        if let Err(error) = self.reuse.insert(&lane.adapter.key, &tokens, caches, checkpoints) {
            self.warn(&error);
        }
    }
}

impl Row {
    /// Says a token, and which stop string it completes.
    fn say(&mut self, id: u32, is_text: bool, scored: Option<Scored>) -> Option<usize> {
        self.generated += 1;
        let piece = is_text.then(|| self.text.push(id));
        let stopped = piece.as_ref().and_then(|piece| piece.stopped);
        let text = piece.map(|piece| piece.text).unwrap_or_default();
        self.asked.tell(Update::Token { choice: self.choice, text, scored });
        stopped
    }
}
