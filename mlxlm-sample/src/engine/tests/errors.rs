//! Every error, provoked.

use mlxlm_cache::Caches;
use mlxlm_core::Hint;
use serde_json::json;

use super::{chooser, options};
use crate::engine::{Decoding, Engine, EngineOptions, Sequence, check_room, make_prompt_cache, prefill};
use crate::testing::{Counter, V, ids, tiny, tiny_with};
use crate::{Error, GenerateOptions, KvQuantization, ProcessorOptions, Result, SamplerOptions};

/// What decoding the prompt leads to, on the model of 32 tokens and 64 places.
fn decode(model: &Counter, prompt: &[u32], options: &GenerateOptions) -> Result<Vec<u32>> {
    ids(Decoding::new(model, prompt, None, chooser(options), options)?)
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
    check(decode(&model, &[], &options(1)), "the prompt is empty", Some("use a prompt of at least one token"));
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
    let refused = Decoding::new(model.as_ref(), &[1; 13], Some(&mut caches), chooser(&options(1)), &options(1));
    let error = refused.err().unwrap().to_string();
    assert_eq!(error, "the prompt has 13 tokens after 500 in the cache, and the model reads at most 512");
}

/// A ring that has dropped tokens has room again, however long the talk is.
#[test]
fn what_a_ring_has_dropped_does_not_count_for_the_context() {
    let model = tiny(1);
    for (size, fits) in [(100, true), (512, true), (600, false)] {
        let mut caches = make_prompt_cache(model.as_ref(), Some(size)).unwrap();
        let read =
            |caches: &mut Caches, n: usize| prefill(model.as_ref(), &vec![1; n], caches, &options(1), &mut |_, _| {});
        read(&mut caches, 500).unwrap();
        let next = read(&mut caches, 200);
        assert_eq!(next.is_ok(), fits, "a ring of {size}");
        if let Err(error) = next {
            let expected = "the prompt has 200 tokens after 500 in the cache, and the model reads at most 512";
            assert_eq!(error.to_string(), expected);
        }
    }
}

/// Heads that are 96 wide use groups of 32 only. That is found before the first token, though it would matter much later.
#[test]
fn a_quantization_that_does_not_fit_is_refused_before_the_first_token() {
    let model = tiny_with(1, &json!({"head_dim": 96}));
    let quantized = |group_size, start| {
        let kv = KvQuantization { group_size, start, ..KvQuantization::with_bits(8) };
        GenerateOptions { kv_quantization: Some(kv), ..options(4) }
    };
    let model = model.as_ref();
    for start in [0, 3, 5000] {
        let expected = "keys and values of the widths 96 and 96 cannot be quantized in groups of 64";
        let hint = Some("use groups of 32, or do not quantize the cache");
        let late = quantized(64, start);
        check(Decoding::new(model, &[1, 2], None, chooser(&late), &late).map(drop), expected, hint);
        let mut engine = Engine::new(EngineOptions::default()).unwrap();
        check(engine.insert(model, Sequence::new(vec![1], chooser(&late), &late)).map(drop), expected, hint);
        let mut caches = make_prompt_cache(model, None).unwrap();
        check(prefill(model, &[1], &mut caches, &late, &mut |_, _| {}), expected, hint);
        let fits = quantized(32, start);
        assert_eq!(ids(Decoding::new(model, &[1, 2], None, chooser(&fits), &fits).unwrap()).unwrap().len(), 4);
    }
    let mut caches = make_prompt_cache(model, None).unwrap();
    prefill(model, &[1], &mut caches, &quantized(32, 0), &mut |_, _| {}).unwrap();
    let other = GenerateOptions {
        kv_quantization: Some(KvQuantization { bits: [8, 4], group_size: 32, start: 5000, rotate: None }),
        ..options(1)
    };
    check(
        Decoding::new(model, &[1], Some(&mut caches), chooser(&other), &other).map(drop),
        "the cache is already quantized: 8 bits in groups of 32, not 8 bits for keys and 4 for values in groups of 32, values rotated",
        Some("use 8 bits in groups of 32, as in the cache"),
    );
}

#[test]
fn keys_and_values_that_no_memory_can_hold_are_refused() {
    let model = tiny(1);
    let refused = check_room(model.as_ref(), &options(1), 1 << 20, 1 << 30).unwrap_err();
    assert!(matches!(refused, Error::NoRoom { rows: 1_048_576, needed, free, .. } if needed > free), "{refused}");
    let said = refused.to_string();
    assert!(said.starts_with("the KV cache of 1048576 sequences of 1073741824 tokens needs "), "{said}");
    assert!(refused.hint().unwrap().contains("max_kv_size"));
    assert!(check_room(model.as_ref(), &options(1), usize::MAX, usize::MAX).is_err());
    let ring = GenerateOptions { max_kv_size: Some(64), ..options(1) };
    check_room(model.as_ref(), &ring, 1, 1 << 30).unwrap();
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
    check(
        with(|o| o.state_bf16 = true),
        "this model has no gated delta nets, so it has no state to keep in bf16",
        Some("omit `--gdn-state-bf16`"),
    );
}

#[test]
fn caches_that_are_given_have_a_size() {
    let model = tiny(1);
    let mut caches = make_prompt_cache(model.as_ref(), Some(100)).unwrap();
    let limited = GenerateOptions { max_kv_size: Some(100), ..options(1) };
    check(
        Decoding::new(model.as_ref(), &[1], Some(&mut caches), chooser(&limited), &limited).map(drop),
        "`max_kv_size` is 100, expected nothing, as the given caches have a size of their own",
        None,
    );
    let other = Counter::new();
    let refused = Decoding::new(&other, &[1], Some(&mut caches), chooser(&options(1)), &options(1));
    assert!(matches!(refused.err(), Some(Error::Cache(mlxlm_cache::Error::Misfit { .. }))));
}

#[test]
fn logits_that_are_no_numbers_end_the_text() {
    let model = Counter::poisoned(5);
    let mut decoding = Decoding::new(&model, &[2], None, chooser(&options(9)), &options(9)).unwrap();
    assert_eq!(ids(decoding.by_ref().take(3)).unwrap(), [3, 4, 5]);
    check(
        decoding.next().unwrap().map(drop),
        "no token can be chosen as token 4 of the answer: the logits are not finite",
        Some(
            "if no processor forbids all tokens, the weights overflow, or are damaged; try another type, and `mlxlm check`",
        ),
    );
    assert!(decoding.next().is_none());
}

#[test]
fn forbidding_every_token_is_reported() {
    let logit_bias = (0..V as u32).map(|id| (id, f64::NEG_INFINITY)).collect();
    let all = GenerateOptions { processors: ProcessorOptions { logit_bias, ..Default::default() }, ..options(4) };
    assert!(matches!(decode(&Counter::new(), &[1], &all), Err(Error::NotNumbers { n: 0 })));
}

#[test]
fn every_row_of_a_batch_is_checked() {
    let model = Counter::new();
    let row = |prompt: &[u32], max_tokens| {
        let options = GenerateOptions { max_tokens, ..options(1) };
        Sequence::new(prompt.to_vec(), chooser(&options), &options)
    };
    let batch = |rows: Vec<Sequence<'static>>| {
        let mut engine = Engine::new(EngineOptions::default())?;
        rows.into_iter().try_for_each(|row| engine.insert(&model, row).map(drop))
    };
    check(
        batch(vec![row(&[1], None), row(&[], None)]),
        "the prompt is empty",
        Some("use a prompt of at least one token"),
    );
    let expected = "`max_tokens` is 0, expected a positive number, or none for no limit";
    check(batch(vec![row(&[1], None), row(&[1], Some(0))]), expected, None);
}
