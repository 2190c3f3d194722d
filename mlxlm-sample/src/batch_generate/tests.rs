//! Batches of the counting model and of a real one.

use super::*;
use crate::testing::{Counter, drawing, offset, tiny, tokenizer};
use crate::{KvQuantization, ProcessorOptions, generate, make_prompt_cache, prefill, stream_generate};

fn options(max_tokens: usize) -> BatchOptions {
    let generate = GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() };
    BatchOptions { generate, ..BatchOptions::default() }
}

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![3, 1, 4, 1, 5], vec![10], vec![2, 6, 5, 3, 5, 8, 11, 7, 11], vec![3, 2], vec![20, 21, 22]]
}

#[test]
fn texts_come_in_the_order_of_the_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (Counter::new(), tokenizer(folder.path()));
    let prompts = [vec![5], vec![20, 10], vec![8], vec![1, 7]];
    let options = BatchOptions { max_tokens: vec![9, 2, 5, 2], return_logprobs: true, ..options(128) };
    let (texts, stats) = batch_generate(&model, &tokenizer, &prompts, &options).unwrap();
    let got: Vec<_> = texts.iter().map(|text| (text.text.as_str(), text.finish_reason)).collect();
    assert_eq!(
        got,
        [
            ("w6 w7 w8", FinishReason::Stop),
            ("w11 w12", FinishReason::Length),
            ("", FinishReason::Stop),
            ("w8", FinishReason::Stop),
        ]
    );
    assert_eq!(texts[0].token_ids, [6, 7, 8]);
    for text in &texts {
        assert_eq!(text.logprobs.as_ref().unwrap().len(), text.token_ids.len());
        assert!(text.logprobs.iter().flatten().all(|logprob| *logprob > -0.01 && *logprob <= 0.0));
        assert!(text.caches.is_none());
    }
    assert_eq!(stats.counters.prompt_tokens, 6);
    assert_eq!(stats.counters.generation_tokens, 4 + 2 + 1 + 2, "those that end a text are counted");
    assert!(stats.wall_time >= stats.counters.prompt_time + stats.counters.decode_time);
    assert!(stats.decode_tps() >= stats.generation_tps());
    assert!(stats.prompt_tps() > 0.0);
    assert_eq!(stats.generation_time(), stats.overhead_time() + stats.counters.decode_time);
    assert!(stats.peak_memory >= 0.0);
    assert_eq!(BatchStats::default().prompt_tps().to_bits(), 0, "a rate over no time is 0");
}

/// Each row of a batch is the text of its prompt alone, with the row's seed.
#[track_caller]
fn check_same_as_alone(options: &BatchOptions) {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (tiny(1), tokenizer(folder.path()));
    let (texts, _) = batch_generate(model.as_ref(), &tokenizer, &prompts(), options).unwrap();
    for (i, (text, prompt)) in texts.iter().zip(&prompts()).enumerate() {
        let sampler = &options.generate.sampler;
        let seed = sampler.seed.map(|seed| seed + i as u64);
        let sampler = SamplerOptions { seed, ..sampler.clone() };
        let alone = GenerateOptions { sampler, ..options.generate.clone() };
        assert_eq!(text.text, generate(model.as_ref(), &tokenizer, prompt, &alone).unwrap(), "row {i}");
        let last = stream_generate(model.as_ref(), &tokenizer, prompt, &alone).unwrap().last().unwrap().unwrap();
        assert_eq!(Some(text.finish_reason), last.finish_reason, "row {i}");
    }
}

#[test]
fn a_batch_is_its_rows() {
    let drawn = |max| GenerateOptions { sampler: drawing(7), ..options(max).generate };
    check_same_as_alone(&options(12));
    check_same_as_alone(&BatchOptions { generate: drawn(40), ..options(40) });
    check_same_as_alone(&BatchOptions { batch_size: 2, generate: drawn(12), ..options(12) });
    let processors = ProcessorOptions { repetition_penalty: Some(1.4), ..ProcessorOptions::default() };
    check_same_as_alone(&BatchOptions { generate: GenerateOptions { processors, ..drawn(12) }, ..options(12) });
}

#[test]
fn rows_keep_what_they_would_keep_alone() {
    let limited = GenerateOptions { max_kv_size: Some(7), ..options(12).generate };
    check_same_as_alone(&BatchOptions { generate: limited, ..options(12) });
    for start in [0, 8] {
        let kv = KvQuantization { bits: [8, 4], group_size: 32, start, rotate: Some(start == 0) };
        let kv_quantization = Some(kv);
        let quantized = GenerateOptions { kv_quantization, ..options(12).generate };
        check_same_as_alone(&BatchOptions { generate: quantized, ..options(12) });
    }
}

#[test]
fn caches_go_in_and_come_out() {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (tiny(1), tokenizer(folder.path()));
    let whole = batch_generate(model.as_ref(), &tokenizer, &prompts(), &options(8)).unwrap().0;
    let mut before = Vec::new();
    let mut rest = Vec::new();
    for prompt in prompts() {
        let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
        if prompt.len() > 2 {
            prefill(model.as_ref(), &prompt[..2], &mut caches, &options(1).generate, &mut |_, _| {}).unwrap();
        }
        rest.push(prompt[if prompt.len() > 2 { 2 } else { 0 }..].to_vec());
        before.push(caches);
    }
    let with_caches = BatchOptions { prompt_caches: before, return_prompt_caches: true, ..options(8) };
    let (texts, _) = batch_generate(model.as_ref(), &tokenizer, &rest, &with_caches).unwrap();
    for (((text, whole), prompt), before) in texts.iter().zip(&whole).zip(prompts()).zip(&with_caches.prompt_caches) {
        assert_eq!(text.token_ids, whole.token_ids);
        let ended = usize::from(text.finish_reason == FinishReason::Stop);
        let caches = text.caches.as_ref().unwrap();
        assert_eq!(offset(caches) as usize, prompt.len() + text.token_ids.len() + ended);
        assert!(offset(before) <= 2, "what was given is not changed");
    }
}

#[test]
fn no_prompts_give_no_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, stats) = batch_generate(&Counter::new(), &tokenizer(folder.path()), &[], &options(8)).unwrap();
    assert!(texts.is_empty());
    assert_eq!(stats.counters, Counters::default());
}

#[track_caller]
fn check_refused(prompts: &[Vec<u32>], options: &BatchOptions, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let refused = batch_generate(&Counter::new(), &tokenizer(folder.path()), prompts, options);
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

#[test]
fn what_is_refused() {
    let two = [vec![1], vec![2]];
    let base = options(8);
    check_refused(
        &two,
        &BatchOptions { max_tokens: vec![3], ..base.clone() },
        "`max_tokens` has 1 entries for 2 prompts",
    );
    let three = vec![make_prompt_cache(&Counter::new(), None).unwrap(); 3];
    let expected = "`prompt_caches` has 3 entries for 2 prompts";
    check_refused(&two, &BatchOptions { prompt_caches: three, ..base.clone() }, expected);
    let expected = "`batch_size` is 0, expected a positive number";
    check_refused(&two, &BatchOptions { batch_size: 0, ..base.clone() }, expected);
    check_refused(&[vec![1], vec![]], &base, "the prompt is empty");
}
