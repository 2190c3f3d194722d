//! Plain decoding is naive decoding made fast.
#![allow(clippy::float_cmp, reason = "values are kept as they are, or computed exactly")]

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, ops};

use super::{chooser, options, penalties, plain};
use crate::decode::{PlainDecoding, make_prompt_cache, prefill, row_of};
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
    let decoding =
        PlainDecoding::new(&Counter::new(), &[0], None, chooser(&forever), &forever).unwrap().take(600).count();
    assert_eq!(decoding, 600);
}

#[test]
fn log_probabilities_add_up_to_one() {
    let model = tiny(1);
    let options = options(3);
    for token in PlainDecoding::new(model.as_ref(), &PROMPT, None, chooser(&options), &options).unwrap() {
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
fn progress_is_told_from_zero_to_the_end() {
    let model = tiny(1);
    let mut told = Vec::new();
    let options = GenerateOptions { prefill_step_size: 3, ..options(2) };
    let decoding = PlainDecoding::new(model.as_ref(), &PROMPT, None, chooser(&options), &options).unwrap();
    let decoding = decoding.with_progress(Some(Box::new(|done, total| told.push((done, total)))));
    assert_eq!(decoding.count(), 2);
    assert_eq!(told, [(0, 9), (3, 9), (6, 9), (8, 9), (9, 9)]);
}

#[test]
fn lent_caches_hold_the_prompt_and_all_that_was_handed_out() {
    let model = tiny(1);
    let whole = plain(model.as_ref(), &PROMPT, &options(12));
    for (taken, max_tokens) in [(5, 5), (5, 12), (1, 12)] {
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        let told = options(max_tokens);
        let decoding = PlainDecoding::new(model.as_ref(), &PROMPT, Some(&mut caches), chooser(&told), &told).unwrap();
        assert_eq!(ids(decoding.take(taken)).unwrap(), whole[..taken]);
        assert_eq!(offset(&caches) as usize, PROMPT.len() + taken);

        // They can be gone on from, with the next tokens as prompt.
        let rest = options(12 - taken - 1);
        let next = PlainDecoding::new(model.as_ref(), &whole[taken..=taken], Some(&mut caches), chooser(&rest), &rest);
        assert_eq!(ids(next.unwrap()).unwrap(), whole[taken + 1..]);
    }
}

#[test]
fn a_prompt_can_be_read_without_an_answer() {
    let model = tiny(1);
    let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
    let mut told = Vec::new();
    let in_steps = GenerateOptions { prefill_step_size: 4, ..options(8) };
    prefill(model.as_ref(), &PROMPT[..6], &mut caches, &in_steps, &mut |done, total| told.push((done, total))).unwrap();
    assert_eq!(told, [(0, 6), (4, 6), (5, 6), (6, 6)]);
    assert_eq!(offset(&caches), 6);
    let decoding = PlainDecoding::new(model.as_ref(), &PROMPT[6..], Some(&mut caches), chooser(&in_steps), &in_steps);
    assert_eq!(ids(decoding.unwrap()).unwrap(), plain(model.as_ref(), &PROMPT, &options(8)));
}

#[test]
fn caches_are_quantized_once_they_have_read_enough() {
    let model = tiny(1);
    for (taken, quantized) in [(1, false), (3, true)] {
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        let kv = KvQuantization { bits: 8, group_size: 32, start: PROMPT.len() + 2 };
        let options = GenerateOptions { kv_quantization: Some(kv), ..options(6) };
        let decoding = PlainDecoding::new(model.as_ref(), &PROMPT, Some(&mut caches), chooser(&options), &options);
        assert_eq!(ids(decoding.unwrap().take(taken)).unwrap().len(), taken);
        assert_eq!(caches.scheme().is_some(), quantized, "after {taken} tokens");
    }
}

#[test]
fn eight_bits_say_what_thirty_two_do() {
    let model = tiny(1);
    let kv = KvQuantization { bits: 8, group_size: 32, start: 0 };
    let quantized = GenerateOptions { kv_quantization: Some(kv), ..options(4) };
    assert_eq!(plain(model.as_ref(), &PROMPT, &quantized), plain(model.as_ref(), &PROMPT, &options(4)));
}

#[test]
fn a_limited_cache_forgets() {
    let model = tiny(1);
    let limited = GenerateOptions { max_kv_size: Some(6), ..options(24) };
    let decoding = PlainDecoding::new(model.as_ref(), &PROMPT, None, chooser(&limited), &limited).unwrap();
    let (forgetful, whole) = (ids(decoding).unwrap(), plain(model.as_ref(), &PROMPT, &options(24)));
    assert_eq!(forgetful.len(), 24);
    assert_ne!(forgetful, whole);
    let roomy = GenerateOptions { max_kv_size: Some(100), ..options(24) };
    assert_eq!(plain(model.as_ref(), &PROMPT, &roomy), whole);
}
