//! Plain decoding is naive decoding made fast.
#![allow(clippy::float_cmp, reason = "values are kept as they are, or computed exactly")]

use mlxlm_cache::SnapKv;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, ops};

use super::{chooser, options, penalties, plain};
use crate::engine::{Decoding, make_prompt_cache, prefill, row_of};
use crate::testing::{Counter, drawing, ids, offset, tiny};
use crate::{GenerateOptions, KvQuantization, Sampler, logits_processors};

const PROMPT: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

/// Decoding in the plainest way: the whole text again for every token, without caches.
fn naive(seed: u64, prompt: &[u32], options: &GenerateOptions) -> Vec<u32> {
    let model = tiny(seed);
    let mut sampler = Sampler::new(&options.sampler).unwrap();
    let processors = logits_processors(&options.processors).unwrap();
    let mut text = prompt.to_vec();
    for _ in 0..options.max_tokens.unwrap() {
        let history = Array::from_slice(&text, &[text.len() as i32]);
        let mut logits = model.forward(&row_of(&text), None).unwrap().try_index((.., -1, ..)).unwrap();
        for processor in &processors {
            logits = processor.process(&history, &logits).unwrap();
        }
        let logprobs = logits.subtract(ops::logsumexp_axis(&logits, -1, true).unwrap()).unwrap();
        text.push(sampler.sample(&logprobs).unwrap().try_item_exact().unwrap());
    }
    text.split_off(prompt.len())
}

#[track_caller]
fn check_naive(options: &GenerateOptions) {
    let expected = naive(1, &PROMPT, options);
    for prefill_step_size in [1, 3, 8, 2048] {
        let options = GenerateOptions { prefill_step_size, ..options.clone() };
        assert_eq!(plain(tiny(1).as_ref(), &PROMPT, &options), expected, "in steps of {prefill_step_size}");
    }
}

#[test]
fn it_is_naive_decoding_made_fast() {
    check_naive(&options(24));
    check_naive(&GenerateOptions { sampler: drawing(5), ..options(24) });
    check_naive(&GenerateOptions { sampler: drawing(6), processors: penalties(), ..options(24) });
}

#[test]
fn a_prompt_of_one_token_is_enough() {
    assert_eq!(plain(&Counter::new(), &[30], &options(4)), [31, 0, 1, 2]);
}

#[test]
fn without_a_limit_it_goes_on() {
    let forever = GenerateOptions { max_tokens: None, ..GenerateOptions::default() };
    let decoding = Decoding::new(&Counter::new(), &[0], None, chooser(&forever), &forever).unwrap().take(600).count();
    assert_eq!(decoding, 600);
}

#[test]
fn log_probabilities_add_up_to_one() {
    let model = tiny(1);
    let options = options(3);
    for token in Decoding::new(model.as_ref(), &PROMPT, None, chooser(&options), &options).unwrap() {
        let token = token.unwrap();
        let logprobs = token.logprobs.to_vec_exact::<f32>().unwrap();
        assert!((logprobs.iter().map(|x| x.exp()).sum::<f32>() - 1.0).abs() < 1e-4);
        let best = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(token.logprob().unwrap(), best, "greedy decoding takes the most likely");
        assert_eq!(logprobs[token.id as usize], best);
        assert!(!token.from_draft);
    }
}

#[test]
fn progress_is_reported_from_zero_to_the_end() {
    let model = tiny(1);
    let mut reported = Vec::new();
    let options = GenerateOptions { prefill_step_size: 3, ..options(2) };
    let decoding = Decoding::new(model.as_ref(), &PROMPT, None, chooser(&options), &options).unwrap();
    let decoding = decoding.with_progress(Some(Box::new(|done, total| reported.push((done, total)))));
    assert_eq!(decoding.count(), 2);
    assert_eq!(reported, [(0, 9), (3, 9), (6, 9), (9, 9)]);
}

#[test]
fn lent_caches_hold_the_prompt_and_all_that_was_handed_out() {
    let model = tiny(1);
    let whole = plain(model.as_ref(), &PROMPT, &options(12));
    for (taken, max_tokens) in [(5, 5), (5, 12), (1, 12)] {
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        let limited = options(max_tokens);
        let decoding = Decoding::new(model.as_ref(), &PROMPT, Some(&mut caches), chooser(&limited), &limited).unwrap();
        assert_eq!(ids(decoding.take(taken)).unwrap(), whole[..taken]);
        assert_eq!(offset(&caches) as usize, PROMPT.len() + taken);

        // They can be gone on from, with the next tokens as prompt.
        let rest = options(12 - taken - 1);
        let next = Decoding::new(model.as_ref(), &whole[taken..=taken], Some(&mut caches), chooser(&rest), &rest);
        assert_eq!(ids(next.unwrap()).unwrap(), whole[taken + 1..]);
    }
}

#[test]
fn a_prompt_can_be_read_without_an_answer() {
    let model = tiny(1);
    let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
    let mut reported = Vec::new();
    let in_steps = GenerateOptions { prefill_step_size: 4, ..options(8) };
    prefill(model.as_ref(), &PROMPT[..6], &mut caches, &in_steps, &mut |done, total| reported.push((done, total)))
        .unwrap();
    assert_eq!(reported, [(0, 6), (4, 6), (6, 6)]);
    assert_eq!(offset(&caches), 6);
    let decoding = Decoding::new(model.as_ref(), &PROMPT[6..], Some(&mut caches), chooser(&in_steps), &in_steps);
    assert_eq!(ids(decoding.unwrap()).unwrap(), plain(model.as_ref(), &PROMPT, &options(8)));
}

#[test]
fn caches_are_quantized_once_they_have_read_enough() {
    let model = tiny(1);
    for (taken, quantized) in [(1, false), (3, true)] {
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        let kv = KvQuantization { group_size: 32, start: PROMPT.len() + 2, ..KvQuantization::with_bits(8) };
        let options = GenerateOptions { kv_quantization: Some(kv), ..options(6) };
        let decoding = Decoding::new(model.as_ref(), &PROMPT, Some(&mut caches), chooser(&options), &options);
        assert_eq!(ids(decoding.unwrap().take(taken)).unwrap().len(), taken);
        assert_eq!(caches.format().is_some(), quantized, "after {taken} tokens");
    }
}

#[test]
fn processors_know_what_was_read_before() {
    let model = tiny(1);
    let options = GenerateOptions { processors: penalties(), ..options(16) };
    let (before, rest) = PROMPT.split_at(PROMPT.len() - 1);
    let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
    prefill(model.as_ref(), before, &mut caches, &options, &mut |_, _| {}).unwrap();
    let mut knowing = chooser(&options);
    knowing.note_before(before).unwrap();
    let decoding = Decoding::new(model.as_ref(), rest, Some(&mut caches), knowing, &options).unwrap();
    assert_eq!(ids(decoding).unwrap(), plain(model.as_ref(), &PROMPT, &options));
}

#[test]
fn eight_bits_say_what_thirty_two_do() {
    let model = tiny(1);
    let kv = KvQuantization { group_size: 32, start: 0, ..KvQuantization::with_bits(8) };
    let quantized = GenerateOptions { kv_quantization: Some(kv), ..options(4) };
    assert_eq!(plain(model.as_ref(), &PROMPT, &quantized), plain(model.as_ref(), &PROMPT, &options(4)));
}

#[test]
fn a_limited_cache_forgets() {
    let model = tiny(1);
    let limited = GenerateOptions { max_kv_size: Some(6), ..options(24) };
    let decoding = Decoding::new(model.as_ref(), &PROMPT, None, chooser(&limited), &limited).unwrap();
    let (forgetful, whole) = (ids(decoding).unwrap(), plain(model.as_ref(), &PROMPT, &options(24)));
    assert_eq!(forgetful.len(), 24);
    assert_ne!(forgetful, whole);
    let roomy = GenerateOptions { max_kv_size: Some(100), ..options(24) };
    assert_eq!(plain(model.as_ref(), &PROMPT, &roomy), whole);
}

/// A prompt keeps what its end looks at, positions go on, and several sequences may do so at once.
#[test]
fn a_long_prompt_keeps_what_its_end_looks_at() {
    let model = tiny(1);
    let prompt: Vec<u32> = (0..60).map(|i| i * 7 % 32).collect();
    let snapkv = SnapKv { top_k: 9, sink: 3, window: 5, queries: 4, pool: 3, min_tokens: 40, while_reading: false };
    for while_reading in [false, true] {
        let snapkv = SnapKv { while_reading, ..snapkv };
        let with_snapkv = GenerateOptions { snapkv: Some(snapkv), prefill_step_size: 16, ..options(8) };
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        let decoding = Decoding::new(model.as_ref(), &prompt, Some(&mut caches), chooser(&with_snapkv), &with_snapkv);
        assert_eq!(ids(decoding.unwrap()).unwrap().len(), 8);
        assert_eq!(offset(&caches), 68);
        let held: Vec<i32> = caches.layers().iter().map(|layer| layer.arrays()[0].dim(2)).collect();
        assert!(held.iter().all(|&held| held <= 17 + 8 + 256), "{held:?}");
        assert_eq!(caches.trim(20), 5 + 8, "only tokens that lie together are taken back");
        let error = caches.save(std::env::temp_dir().join("never.safetensors"), &std::collections::BTreeMap::new());
        assert_eq!(error.unwrap_err().to_string(), "a KV cache cannot be written, as it dropped tokens");
    }
    // What is kept whole changes nothing.
    for whole in [SnapKv { min_tokens: 61, ..snapkv }, SnapKv { top_k: 52, ..snapkv }] {
        let with_snapkv = GenerateOptions { snapkv: Some(whole), ..options(8) };
        assert_eq!(plain(model.as_ref(), &prompt, &with_snapkv), plain(model.as_ref(), &prompt, &options(8)));
    }
    let wrong = GenerateOptions { snapkv: Some(SnapKv { queries: 0, ..snapkv }), ..options(8) };
    let refused = Decoding::new(model.as_ref(), &prompt, None, chooser(&wrong), &wrong).map(drop).unwrap_err();
    assert_eq!(refused.to_string(), "`queries` of SnapKV is 0, expected a positive number");
}
