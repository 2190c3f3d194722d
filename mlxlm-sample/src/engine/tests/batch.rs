//! A batch of rows is what each of them is alone.

use mlxlm_cache::Caches;
use mlxlm_models::CausalLm;

use super::{chooser, options, penalties, plain};
use crate::engine::{
    Counters, Decoding, Engine, EngineOptions, EventKind, FinishReason, Kept, Sequence, make_prompt_cache, prefill,
};
use crate::testing::{Counter, drawing, ids, offset, tiny, tiny_with};
use crate::{Error, GenerateOptions, ProcessorOptions, SamplerOptions};

const PROMPTS: [&[u32]; 4] = [&[3, 1, 4, 1, 5], &[9], &[2, 6, 5, 3, 5, 8, 9, 7, 9], &[3, 2]];

fn row<'p>(prompt: &[u32], options: &GenerateOptions) -> Sequence<'p> {
    Sequence::new(prompt.to_vec(), chooser(options), options)
}

/// What became of a sequence.
#[derive(Debug, Default)]
struct Outcome {
    ids: Vec<u32>,
    finish: Option<FinishReason>,
    kept: Option<Kept>,
    error: Option<Error>,
}

/// What becomes of each row, and what was counted.
fn run_with(model: &dyn CausalLm, rows: Vec<Sequence>, options: EngineOptions) -> (Vec<Outcome>, Counters) {
    let mut outcomes: Vec<Outcome> = rows.iter().map(|_| Outcome::default()).collect();
    let mut engine = Engine::new(options).unwrap();
    for row in rows {
        engine.insert(model, row).unwrap();
    }
    while !engine.is_idle() {
        for event in engine.step(model).unwrap() {
            let outcome = &mut outcomes[event.id as usize];
            match event.kind {
                EventKind::Token { token, kept } => {
                    outcome.ids.push(token.id);
                    (outcome.finish, outcome.kept) = (token.finish, kept);
                }
                EventKind::Failed { error, kept } => (outcome.error, outcome.kept) = (Some(error), kept),
                EventKind::Read { .. } | EventKind::Checkpoint(_) => {}
            }
        }
    }
    (outcomes, engine.counters())
}

/// The tokens of each row, and its caches if they are kept.
fn run(model: &dyn CausalLm, mut rows: Vec<Sequence>, keep_caches: bool) -> (Vec<Vec<u32>>, Vec<Option<Caches>>) {
    for row in &mut rows {
        row.keep_caches = keep_caches;
    }
    let (outcomes, _) = run_with(model, rows, EngineOptions::default());
    outcomes.into_iter().map(|outcome| (outcome.ids, outcome.kept.map(|kept| kept.caches))).unzip()
}

/// Rows of all kinds: greedy, drawing, penalised, and each of another length.
fn all_kinds() -> Vec<GenerateOptions> {
    vec![
        options(9),
        GenerateOptions { sampler: drawing(1), ..options(3) },
        GenerateOptions { sampler: drawing(1), processors: penalties(), ..options(14) },
        GenerateOptions { sampler: SamplerOptions { top_k: 3, ..drawing(2) }, ..options(6) },
    ]
}

#[test]
fn rows_are_what_they_are_alone() {
    let model = tiny(1);
    let kinds = all_kinds();
    let rows = PROMPTS.iter().zip(&kinds).map(|(prompt, options)| row(prompt, options)).collect();
    let (got, kept) = run(model.as_ref(), rows, false);
    for ((prompt, options), got) in PROMPTS.iter().zip(&kinds).zip(got) {
        assert_eq!(got, plain(model.as_ref(), prompt, options));
    }
    assert!(kept.iter().all(Option::is_none));
}

#[test]
fn greedy_rows_are_what_they_are_alone() {
    let model = tiny(1);
    let (got, _) = run(model.as_ref(), PROMPTS.iter().map(|prompt| row(prompt, &options(10))).collect(), false);
    for (prompt, got) in PROMPTS.iter().zip(got) {
        assert_eq!(got, plain(model.as_ref(), prompt, &options(10)));
    }
}

#[test]
fn kept_caches_can_be_gone_on_from() {
    let model = tiny(1);
    for prompts in [&PROMPTS[..], &PROMPTS[..1]] {
        let lengths = [4, 9, 2, 9].map(options);
        let rows = prompts.iter().zip(&lengths).map(|(prompt, options)| row(prompt, options)).collect();
        let (got, kept) = run(model.as_ref(), rows, true);
        for ((prompt, got), caches) in prompts.iter().zip(got).zip(kept) {
            let mut caches = caches.unwrap();
            assert_eq!(offset(&caches) as usize, prompt.len() + got.len());
            let whole = plain(model.as_ref(), prompt, &options(got.len() + 6));
            let next = &whole[got.len()..=got.len()];
            let rest = options(5);
            let decoding = Decoding::new(model.as_ref(), next, Some(&mut caches), chooser(&rest), &rest);
            assert_eq!(ids(decoding.unwrap()).unwrap(), whole[got.len() + 1..]);
        }
    }
}

#[test]
fn rows_can_go_on_from_caches_of_different_lengths() {
    let model = tiny(1);
    let rows = PROMPTS.iter().map(|prompt| {
        let (before, rest) = prompt.split_at(prompt.len() / 2);
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        if !before.is_empty() {
            prefill(model.as_ref(), before, &mut caches, &options(1), &mut |_, _| {}).unwrap();
        }
        let mut sequence = row(rest, &options(8));
        sequence.caches = Some(caches);
        sequence
    });
    let (got, _) = run(model.as_ref(), rows.collect(), false);
    for (prompt, got) in PROMPTS.iter().zip(got) {
        assert_eq!(got, plain(model.as_ref(), prompt, &options(8)));
    }
}

#[test]
fn a_row_that_is_removed_leaves_the_others_alone() {
    let model = tiny(1);
    let kinds = all_kinds();
    let mut engine = Engine::new(EngineOptions::default()).unwrap();
    for (prompt, options) in PROMPTS.iter().zip(&kinds) {
        let mut sequence = row(prompt, &GenerateOptions { max_tokens: Some(8), ..options.clone() });
        sequence.keep_caches = true;
        engine.insert(model.as_ref(), sequence).unwrap();
    }
    let mut got = vec![Vec::new(); 4];
    let mut removed = [false; 4];
    while !engine.is_idle() {
        for event in engine.step(model.as_ref()).unwrap() {
            if let EventKind::Token { token, .. } = event.kind {
                got[event.id as usize].push(token.id);
            }
        }
        for i in [2, 0] {
            if got[i].len() == 3 && !removed[i] {
                let kept = engine.remove(model.as_ref(), i as u64).unwrap().unwrap();
                assert_eq!(kept.tokens, [PROMPTS[i], &got[i]].concat());
                assert_eq!(offset(&kept.caches) as usize, kept.tokens.len());
                assert!(engine.remove(model.as_ref(), i as u64).unwrap().is_none());
                removed[i] = true;
            }
        }
    }
    for (i, (prompt, kind)) in PROMPTS.iter().zip(&kinds).enumerate() {
        let max_tokens = Some(if i % 2 == 0 { 3 } else { 8 });
        assert_eq!(got[i], plain(model.as_ref(), prompt, &GenerateOptions { max_tokens, ..kind.clone() }), "row {i}");
    }
}

#[test]
fn what_is_counted() {
    let model = tiny(1);
    let lengths = [4, 9, 2, 9].map(options);
    let rows = || PROMPTS.iter().zip(&lengths).map(|(prompt, options)| row(prompt, options)).collect();
    let prefer = EngineOptions { prefer_prefill_when_pending: true, ..EngineOptions::default() };
    let (_, counters) = run_with(model.as_ref(), rows(), prefer);
    assert_eq!(counters.prompt_tokens, 5 + 1 + 9 + 2);
    assert_eq!((counters.generation_tokens, counters.generation_steps), (4 + 9 + 2 + 9, 9));
    // One prompt is read before each of the first steps.
    let (_, counters) = run_with(model.as_ref(), rows(), EngineOptions::default());
    assert_eq!((counters.generation_tokens, counters.generation_steps), (4 + 9 + 2 + 9, 3 + 9));
}

/// No sequence waits for more than one chunk of another's prompt.
#[test]
fn a_long_prompt_is_read_between_the_tokens_of_others() {
    let model = tiny(1);
    let options = EngineOptions { prefill_step_size: 2, ..EngineOptions::default() };
    let mut engine = Engine::new(options).unwrap();
    let own = super::options(9);
    engine.insert(model.as_ref(), row(PROMPTS[1], &own)).unwrap();
    engine.step(model.as_ref()).unwrap();
    engine.insert(model.as_ref(), row(PROMPTS[2], &own)).unwrap();
    for step in 1..=5 {
        let events = engine.step(model.as_ref()).unwrap();
        let of = |id: u64| events.iter().filter(|event| event.id == id).collect::<Vec<_>>();
        assert!(matches!(of(0)[..], [event] if matches!(event.kind, EventKind::Token { .. })), "step {step}");
        let done = of(1).iter().find_map(|event| match event.kind {
            EventKind::Read { done, .. } if done > 0 => Some(done),
            _ => None,
        });
        assert_eq!(done, Some((2 * step).min(9)));
    }
}

#[test]
fn one_bad_row_ends_alone() {
    let model = Counter::poisoned(5);
    let rows = vec![row(&[1], &options(9)), row(&[20], &options(9))];
    let (outcomes, _) = run_with(&model, rows, EngineOptions::default());
    assert_eq!(outcomes[0].ids, [2, 3, 4, 5]);
    assert!(matches!(outcomes[0].error, Some(Error::NotNumbers { n: 4 })));
    assert_eq!(outcomes[1].ids, (21..30).collect::<Vec<_>>());
    assert_eq!(outcomes[1].finish, Some(FinishReason::Length));
}

#[test]
fn stop_tokens_end_their_own_row() {
    let model = Counter::new();
    let mut stopping = row(&[1], &options(9));
    stopping.stop_tokens = vec![4, 30];
    let (outcomes, _) = run_with(&model, vec![stopping, row(&[2], &options(4))], EngineOptions::default());
    assert_eq!((&outcomes[0].ids[..], outcomes[0].finish), (&[2, 3, 4][..], Some(FinishReason::Stop)));
    assert_eq!((&outcomes[1].ids[..], outcomes[1].finish), (&[3, 4, 5, 6][..], Some(FinishReason::Length)));
}

/// Rows with caches of other kinds, lengths and formats, in one batch.
#[test]
fn rows_may_keep_what_they_want() {
    let model = tiny_with(1, &serde_json::json!({"hidden_size": 128, "num_attention_heads": 2}));
    let kv = |bits, start| Some(crate::KvQuantization { start, ..crate::KvQuantization::with_bits(bits) });
    let kinds = [
        options(20),
        GenerateOptions { max_kv_size: Some(8), ..options(20) },
        GenerateOptions { kv_quantization: kv(8, 0), ..options(20) },
        GenerateOptions { kv_quantization: kv(4, 12), sampler: drawing(4), ..options(20) },
    ];
    let rows = PROMPTS.iter().zip(&kinds).map(|(prompt, options)| row(prompt, options)).collect();
    let (got, _) = run(model.as_ref(), rows, false);
    for ((prompt, options), got) in PROMPTS.iter().zip(&kinds).zip(got) {
        assert_eq!(got, plain(model.as_ref(), prompt, options));
    }
}

#[test]
fn checkpoints_hold_what_was_read_by_then() {
    let model = tiny(1);
    let mut sequence = row(PROMPTS[2], &options(3));
    sequence.checkpoints = vec![4, 7];
    let mut engine = Engine::new(EngineOptions::default()).unwrap();
    engine.insert(model.as_ref(), sequence).unwrap();
    let (mut kept, mut got) = (Vec::new(), Vec::new());
    while !engine.is_idle() {
        for event in engine.step(model.as_ref()).unwrap() {
            match event.kind {
                EventKind::Checkpoint(checkpoint) => kept.push(checkpoint),
                EventKind::Token { token, .. } => got.push(token.id),
                _ => {}
            }
        }
    }
    assert_eq!(got, plain(model.as_ref(), PROMPTS[2], &options(3)));
    assert_eq!(kept.iter().map(|kept| kept.tokens.len()).collect::<Vec<_>>(), [4, 7]);
    for Kept { tokens, mut caches, .. } in kept {
        assert_eq!(tokens, PROMPTS[2][..tokens.len()]);
        let rest = &PROMPTS[2][tokens.len()..];
        let decoding = Decoding::new(model.as_ref(), rest, Some(&mut caches), chooser(&options(3)), &options(3));
        assert_eq!(ids(decoding.unwrap()).unwrap(), got);
    }
}

#[test]
fn no_rows_give_no_tokens() {
    let model = tiny(1);
    let (got, _) = run(model.as_ref(), Vec::new(), false);
    assert!(got.is_empty());
}

#[test]
fn processors_are_the_rows_own() {
    let model = tiny(1);
    let forbid =
        |id: u32| ProcessorOptions { logit_bias: [(id, f64::NEG_INFINITY)].into(), ..ProcessorOptions::default() };
    let first = plain(model.as_ref(), PROMPTS[0], &options(1))[0];
    let forbidding = GenerateOptions { processors: forbid(first), ..options(1) };
    let (got, _) = run(model.as_ref(), vec![row(PROMPTS[0], &options(1)), row(PROMPTS[0], &forbidding)], false);
    assert_eq!(got[0], [first]);
    assert_ne!(got[1], [first]);
}
