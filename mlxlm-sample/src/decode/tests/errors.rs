//! Every error, provoked.

use mlxlm_core::Hint;

use super::{chooser, options};
use crate::decode::{BatchDecoding, BatchRow, Draft, DraftDecoding, PlainDecoding, make_prompt_cache, prefill};
use crate::testing::{Counter, V, ids, tiny};
use crate::{Error, GenerateOptions, KvQuantization, ProcessorOptions, Result, SamplerOptions};

/// What decoding the prompt leads to, on the model of 32 tokens and 64 places.
fn decode(model: &Counter, prompt: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
    ids(PlainDecoding::new(model, prompt, None, chooser(options), options)?)
}

#[track_caller]
fn check<T: std::fmt::Debug>(refused: Result<T>, expected: &str, hint: Option<&str>) {
    let error = refused.unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.hint().as_deref(), hint);
}

#[test]
fn bad_prompts() {
    let model = Counter::new();
    check(decode(&model, &[], &options(1)), "the prompt is empty", Some("give a prompt of at least one token"));
    check(
        decode(&model, &[3, 32], &options(1)),
        "token id 32 in `prompt` is outside the vocabulary of 32 tokens",
        Some("the prompt was encoded with another model's tokenizer"),
    );
    assert!(decode(&model, &[1; 64], &options(1)).is_ok());
    check(
        decode(&model, &[1; 65], &options(1)),
        "the prompt has 65 tokens, and the model reads at most 64",
        Some("shorten the prompt, or raise `max_position_embeddings` in config.json if the model can read more"),
    );
}

#[test]
fn tokens_in_the_cache_count_for_the_context() {
    let model = tiny(1);
    let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
    prefill(model.as_ref(), &[1; 500], &mut caches, &options(1), &mut |_, _| {}).unwrap();
    let refused = PlainDecoding::new(model.as_ref(), &[1; 13], Some(&mut caches), chooser(&options(1)), &options(1));
    let error = refused.err().unwrap().to_string();
    assert_eq!(error, "the prompt has 13 tokens after 500 in the cache, and the model reads at most 512");
}

#[test]
fn bad_options() {
    let model = Counter::new();
    let with = |change: fn(&mut GenerateOptions)| {
        let mut options = options(4);
        change(&mut options);
        decode(&model, &[1], &options)
    };
    check(
        with(|o| o.max_tokens = Some(0)),
        "`max_tokens` is 0, expected a positive number, or none for no limit",
        None,
    );
    check(with(|o| o.prefill_step_size = 0), "`prefill_step_size` is 0, expected a positive number", None);
    check(
        with(|o| o.max_kv_size = Some(usize::MAX)),
        &format!("`max_kv_size` is {}, expected a positive 32-bit integer", usize::MAX),
        None,
    );
    check(
        with(|o| o.sampler = SamplerOptions { temp: 1.0, top_k: 32, ..Default::default() }),
        "`top_k` is 32, expected an integer between 0 and the 32 of the vocabulary",
        None,
    );
    check(
        with(|o| o.processors = ProcessorOptions { logit_bias: [(40, 1.0)].into(), ..Default::default() }),
        "token id 40 in `logit_bias` is outside the vocabulary of 32 tokens",
        Some("token ids count from 0; look them up with this model's tokenizer"),
    );
    assert!(matches!(with(|o| o.kv_quantization = Some(KvQuantization::with_bits(4))), Err(Error::Cache(_))));
}

#[test]
fn caches_that_are_given_have_a_size() {
    let model = tiny(1);
    let mut caches = make_prompt_cache(model.as_ref(), Some(100)).unwrap();
    let limited = GenerateOptions { max_kv_size: Some(100), ..options(1) };
    check(
        PlainDecoding::new(model.as_ref(), &[1], Some(&mut caches), chooser(&limited), &limited).map(drop),
        "`max_kv_size` is 100, expected nothing, as the given caches have a size of their own",
        None,
    );
    let other = Counter::new();
    let refused = PlainDecoding::new(&other, &[1], Some(&mut caches), chooser(&options(1)), &options(1));
    assert!(matches!(refused.err(), Some(Error::Cache(mlxlm_cache::Error::Misfit { .. }))));
}

#[test]
fn logits_that_are_no_numbers_end_the_text() {
    let model = Counter::poisoned(5);
    let mut decoding = PlainDecoding::new(&model, &[2], None, chooser(&options(9)), &options(9)).unwrap();
    assert_eq!(ids(decoding.by_ref().take(3)).unwrap(), [3, 4, 5]);
    check(
        decoding.next().unwrap().map(drop),
        "no token can be chosen as token 4 of the answer: the logits are not finite",
        Some("if no processor forbids all tokens, the weights are damaged or overflow; try them in another type"),
    );
    assert!(decoding.next().is_none());
}

#[test]
fn forbidding_every_token_is_told() {
    let logit_bias = (0..V as u32).map(|id| (id, f64::NEG_INFINITY)).collect();
    let all = GenerateOptions { processors: ProcessorOptions { logit_bias, ..Default::default() }, ..options(4) };
    assert!(matches!(decode(&Counter::new(), &[1], &all), Err(Error::NotNumbers { n: 0 })));
}

#[test]
fn recurrent_states_take_nothing_back() {
    let (model, plain) = (Counter::recurrent(), tiny(1));
    let expected = "decoding with a draft model takes tokens back, which these caches cannot: recurrent-state";
    let draft = || Draft { model: plain.as_ref(), caches: None };
    let refused = DraftDecoding::new(&model, &[1], None, draft(), chooser(&options(1)), &options(1));
    check(refused.map(drop), expected, Some("leave out the draft model"));
    let draft = Draft { model: &model, caches: None };
    let refused = DraftDecoding::new(plain.as_ref(), &[1], None, draft, chooser(&options(1)), &options(1));
    check(refused.map(drop), expected, Some("leave out the draft model"));
}

/// Which caches could not take tokens back is only seen when they have to, if they are of another kind than the model's.
#[test]
fn a_window_that_nobody_announced_is_told_when_it_is_full() {
    let (model, draft) = (tiny(1), tiny(2));
    let mut caches = make_prompt_cache(model.as_ref(), Some(8)).unwrap();
    let options = options(20);
    let draft = Draft { model: draft.as_ref(), caches: None };
    let decoding = DraftDecoding::new(model.as_ref(), &[1], Some(&mut caches), draft, chooser(&options), &options);
    let kinds = match ids(decoding.unwrap()).unwrap_err() {
        Error::NotTrimmable { kinds } => kinds,
        other => panic!("{other}"),
    };
    assert_eq!(kinds, "rotating");
}

#[test]
fn every_row_of_a_batch_is_checked() {
    let model = Counter::new();
    let row = |prompt: &[u32], max_tokens| BatchRow {
        prompt: prompt.to_vec(),
        max_tokens,
        caches: None,
        chooser: chooser(&options(1)),
    };
    let batch = |rows| BatchDecoding::new(&model, rows, &options(1), false).map(drop);
    check(
        batch(vec![row(&[1], None), row(&[], None)]),
        "the prompt is empty",
        Some("give a prompt of at least one token"),
    );
    let expected = "`max_tokens` is 0, expected a positive number, or none for no limit";
    check(batch(vec![row(&[1], None), row(&[1], Some(0))]), expected, None);
}
