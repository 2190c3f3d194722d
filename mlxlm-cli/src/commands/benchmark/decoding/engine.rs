//! Several sequences in one engine: prompts first or in turns, one that joins and leaves; and snapshots of caches.

use std::time::Instant;

use mlxlm_cache::Caches;
use mlxlm_core::{device, transforms};
use mlxlm_models::CausalLm;
use mlxlm_sample::GenerateOptions;
use mlxlm_sample::engine::{Engine, EngineOptions, EventKind, Sequence};
use serde_json::{Value, json};

use super::super::context;
use super::{against, greedy, median, timed, tokens};
use crate::failure::{Failure, Result};

/// Prompts that come together, their tokens, and the tokens of each answer.
const REQUESTS: (usize, usize, usize) = (3, 8192, 64);
/// Sequences that are under way, and what each has read.
const ROWS: (usize, u32) = (16, 4096);

/// Tokens of answers a second, until all are whole, with prompts that wait read first and in turns with decoding.
pub(super) fn prefill_first(model: &dyn CausalLm) -> Result<Value> {
    let (requests, prompt, answer) = REQUESTS;
    let run = |prefer_prefill_when_pending: bool| -> Result<f64> {
        let mut engine = Engine::new(EngineOptions { prefer_prefill_when_pending, ..EngineOptions::default() })?;
        let options = GenerateOptions { max_tokens: Some(answer), ..GenerateOptions::default() };
        for i in 0..requests {
            let sequence = Sequence::new(tokens(model, prompt, i as u64), greedy()?, &options);
            engine.insert(model, sequence)?;
        }
        let ((), took) = timed(|| {
            while !engine.is_idle() {
                step(&mut engine, model)?;
            }
            Ok(())
        })?;
        Ok((requests * answer) as f64 / took.as_secs_f64())
    };
    let ours = run(true)?;
    Ok(against(ours, run(false)?))
}

/// Seconds of a step of many sequences, and the longest gap between their tokens while another joins and while it leaves.
pub(super) fn joining(model: &dyn CausalLm) -> Result<Value> {
    let (rows, held) = ROWS;
    let mut engine = Engine::new(EngineOptions { max_running: rows + 1, ..EngineOptions::default() })?;
    let options = GenerateOptions { max_tokens: None, ..GenerateOptions::default() };
    let sequence = |salt: u64| -> Result<Sequence<'_>> {
        let mut sequence = Sequence::new(tokens(model, 1, salt), greedy()?, &options);
        sequence.caches = context::filled(model, held)?;
        Ok(sequence)
    };
    for i in 0..rows {
        engine.insert(model, sequence(i as u64)?)?;
    }
    while engine.waiting() > 0 {
        step(&mut engine, model)?;
    }
    let (mut steps, mut joins, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..6 {
        for _ in 0..6 {
            steps.push(gap(&mut engine, model, |_| Ok(()))?);
        }
        let guest = sequence(100 + round)?;
        let mut id = 0;
        // One that joins gets its first token in the step that reads its prompt, and goes along in the next.
        let join = gap(&mut engine, model, |engine| {
            id = engine.insert(model, guest)?;
            Ok(())
        })?;
        joins.push(join.max(gap(&mut engine, model, |_| Ok(()))?));
        let leave = gap(&mut engine, model, |engine| {
            engine.remove(model, id)?;
            Ok(())
        })?;
        leaves.push(leave.max(gap(&mut engine, model, |_| Ok(()))?));
    }
    Ok(json!({"step": median(steps), "join": median(joins), "leave": median(leaves)}))
}

/// Seconds of a step, with what is done before it.
fn gap<'p>(
    engine: &mut Engine<'p>,
    model: &dyn CausalLm,
    before: impl FnOnce(&mut Engine<'p>) -> Result,
) -> Result<f64> {
    let begin = Instant::now();
    before(engine)?;
    step(engine, model)?;
    Ok(begin.elapsed().as_secs_f64())
}

fn step(engine: &mut Engine, model: &dyn CausalLm) -> Result {
    for event in engine.step(model)? {
        if let EventKind::Failed { error, .. } = event.kind {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Seconds that a snapshot of one layer and going back to it take.
pub(super) fn snapshots(model: &dyn CausalLm) -> Result<Value> {
    const TIMES: u32 = 100_000;
    let Some(mut caches) = context::filled(model, ROWS.1)? else {
        return Err(Failure::usage("this model has no caches"));
    };
    transforms::eval(caches.arrays()).map_err(mlxlm_core::Error::from)?;
    let layers = caches.len();
    let ((), took) = timed(|| {
        for _ in 0..TIMES {
            let snapshot = caches.snap();
            caches.restore(&snapshot);
        }
        Ok(())
    })?;
    let copied = peak_rise(&mut caches)?;
    Ok(json!({"layer": took.as_secs_f64() / f64::from(TIMES) / layers.max(1) as f64, "copied_bytes": copied}))
}

/// The bytes that a snapshot and going back to it allocate.
fn peak_rise(caches: &mut Caches) -> Result<usize> {
    let before = device::active_memory_bytes()?;
    let snapshot = caches.snap();
    caches.restore(&snapshot);
    Ok(device::active_memory_bytes()?.saturating_sub(before))
}
