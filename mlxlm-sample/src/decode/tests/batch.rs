//! A batch of rows is what each of them is alone.

use mlxlm_cache::Caches;
use mlxlm_models::CausalLm;

use super::{chooser, options, penalties, plain};
use crate::decode::{BatchDecoding, BatchRow, PlainDecoding, make_prompt_cache, prefill};
use crate::testing::{drawing, ids, offset, tiny};
use crate::{GenerateOptions, ProcessorOptions, SamplerOptions};

const PROMPTS: [&[u32]; 4] = [&[3, 1, 4, 1, 5], &[9], &[2, 6, 5, 3, 5, 8, 9, 7, 9], &[3, 2]];

fn row(prompt: &[u32], options: &GenerateOptions) -> BatchRow {
    BatchRow { prompt: prompt.to_vec(), max_tokens: options.max_tokens, caches: None, chooser: chooser(options) }
}

/// The tokens of each row, and its caches if they are kept.
fn run(model: &dyn CausalLm, rows: Vec<BatchRow>, keep_caches: bool) -> (Vec<Vec<u32>>, Vec<Option<Caches>>) {
    let mut ids = vec![Vec::new(); rows.len()];
    let mut kept = vec![None; rows.len()];
    let mut batch = BatchDecoding::new(model, rows, &GenerateOptions::default(), keep_caches).unwrap();
    loop {
        let tokens = batch.step().unwrap();
        if tokens.is_empty() {
            return (ids, kept);
        }
        for token in tokens {
            ids[token.row].push(token.token.id);
            kept[token.row] = token.caches;
        }
    }
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
            let decoding = PlainDecoding::new(model.as_ref(), next, Some(&mut caches), chooser(&rest), &rest);
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
        BatchRow { caches: Some(caches), ..row(rest, &options(8)) }
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
    let rows = PROMPTS
        .iter()
        .zip(&kinds)
        .map(|(prompt, options)| row(prompt, &GenerateOptions { max_tokens: Some(8), ..options.clone() }));
    let mut batch = BatchDecoding::new(model.as_ref(), rows.collect(), &GenerateOptions::default(), true).unwrap();
    let mut got = vec![Vec::new(); 4];
    for step in 0.. {
        let tokens = batch.step().unwrap();
        if tokens.is_empty() {
            break;
        }
        for token in &tokens {
            got[token.row].push(token.token.id);
        }
        if step == 2 {
            let kept = batch.remove(&[2, 0]).unwrap();
            let offsets: Vec<i32> = kept.iter().map(|caches| offset(caches.as_ref().unwrap())).collect();
            assert_eq!(offsets, [9 + 3, 5 + 3]);
            assert!(batch.remove(&[0, 77]).unwrap().iter().all(Option::is_none));
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
    let rows = PROMPTS.iter().zip(&lengths).map(|(prompt, options)| row(prompt, options)).collect();
    let mut batch = BatchDecoding::new(model.as_ref(), rows, &GenerateOptions::default(), false).unwrap();
    while !batch.step().unwrap().is_empty() {}
    let counters = batch.counters();
    assert_eq!(counters.prompt_tokens, 5 + 1 + 9 + 2);
    assert_eq!((counters.generation_tokens, counters.generation_steps), (4 + 9 + 2 + 9, 9));
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
