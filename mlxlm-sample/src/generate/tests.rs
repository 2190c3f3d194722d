//! Texts of the counting model, whose tokens are words: `w4` is followed by `w5`, and `w9` ends a text.

use mlxlm_core::Array;

use super::*;
use crate::testing::{Counter, drawing, offset, tiny, tokenizer};
use crate::{Prompt, make_prompt_cache};

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() }
}

/// All responses to a prompt.
fn responses(prompt: &str, max_tokens: usize) -> Vec<GenerationResponse> {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (Counter::new(), tokenizer(folder.path()));
    stream_generate(&model, &tokenizer, prompt, &options(max_tokens)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_model_ends_the_text() {
    let all = responses("w4 w5", 100);
    let given: Vec<_> = all.iter().map(|r| (r.text.as_str(), r.token, r.generation_tokens, r.finish_reason)).collect();
    assert_eq!(
        given,
        [("w6", 6, 1, None), (" w7", 7, 2, None), (" w8", 8, 3, None), ("", 9, 4, Some(FinishReason::Stop))]
    );
    assert_eq!(FinishReason::Stop.name(), "stop");
}

#[test]
fn the_limit_ends_the_text() {
    let all = responses("w10", 2);
    let given: Vec<_> = all.iter().map(|r| (r.text.as_str(), r.token, r.finish_reason)).collect();
    assert_eq!(given, [("w11", 11, None), (" w12", 12, Some(FinishReason::Length))]);
    assert_eq!(FinishReason::Length.name(), "length");
}

#[test]
fn an_end_at_the_limit_is_an_end() {
    let last = responses("w7", 2).pop().unwrap();
    assert_eq!((last.token, last.finish_reason), (9, Some(FinishReason::Stop)));
}

#[test]
fn what_a_response_tells() {
    for response in responses("w1 w2 w3", 4) {
        assert_eq!(response.generation_tps > 0.0, response.generation_tokens > 1, "there is no rate of one token");
        assert_eq!(response.prompt_tokens, 3);
        assert!(response.prompt_tps > 0.0 && response.prompt_tps.is_finite());
        assert!(response.generation_tps.is_finite());
        assert!(response.peak_memory >= 0.0);
        assert_eq!(response.logprobs.shape(), [32]);
        assert!(!response.from_draft);
    }
}

#[test]
fn prompts_are_text_or_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (Counter::new(), tokenizer(folder.path()));
    let text = |prompt: Prompt| generate(&model, &tokenizer, prompt, &options(3)).unwrap();
    let owned = String::from("w20 w21");
    assert_eq!(text("w20 w21".into()), "w22 w23 w24");
    assert_eq!(text((&owned).into()), "w22 w23 w24");
    assert_eq!(text([20, 21].as_slice().into()), "w22 w23 w24");
    assert_eq!(text((&vec![20, 21]).into()), "w22 w23 w24");
    assert_eq!(text(vec![20, 21].into()), "w22 w23 w24");
    let error = generate(&model, &tokenizer, "", &options(3)).unwrap_err();
    assert!(matches!(error, Error::EmptyPrompt));
}

#[test]
fn an_error_ends_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (Counter::poisoned(12), tokenizer(folder.path()));
    let mut stream = stream_generate(&model, &tokenizer, "w10", &options(9)).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().token, 11);
    assert_eq!(stream.next().unwrap().unwrap().token, 12);
    assert!(matches!(stream.next(), Some(Err(Error::NotNumbers { n: 2 }))));
    assert!(stream.next().is_none());
}

#[test]
fn progress_and_processors_of_ones_own() {
    /// Allows one token only.
    #[derive(Debug)]
    struct Only(u32);

    impl LogitsProcessor for Only {
        fn process(&self, history: &Array, logits: &Array) -> Result<Array> {
            assert!(history.size() >= 2);
            let allowed: Vec<f32> =
                (0..logits.size() as u32).map(|id| if id == self.0 { 0.0 } else { f32::NEG_INFINITY }).collect();
            Ok(logits.add(Array::from_slice(&allowed, logits.shape()))?)
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (Counter::new(), tokenizer(folder.path()));
    let mut seen = Vec::new();
    let generator = Generator::new(&model, &tokenizer)
        .on_progress(|done, total| seen.push((done, total)))
        .logits_processor(Box::new(Only(5)));
    assert_eq!(generator.generate("w1 w2", &options(3)).unwrap(), "w5 w5 w5");
    assert_eq!(seen, [(0, 2), (2, 2)]);
}

#[test]
fn a_conversation_goes_on_in_its_caches() {
    let folder = tempfile::tempdir().unwrap();
    let (model, draft, tokenizer) = (tiny(1), tiny(2), tokenizer(folder.path()));
    let sampled = GenerateOptions { sampler: drawing(2), ..options(6) };
    let turns: [&[u32]; 3] = [&[1, 2, 3], &[4, 5], &[6]];

    let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
    let mut plain = Vec::new();
    for turn in turns {
        let generator = Generator::new(model.as_ref(), &tokenizer).prompt_cache(&mut caches);
        plain.extend(generator.stream(turn, &sampled).unwrap().map(|response| response.unwrap().token));
    }
    let (mut own, mut others) =
        (make_prompt_cache(model.as_ref(), None).unwrap(), make_prompt_cache(draft.as_ref(), None).unwrap());
    let mut drafted = Vec::new();
    for turn in turns {
        let draft = Draft { model: draft.as_ref(), caches: Some(&mut others) };
        let generator = Generator::new(model.as_ref(), &tokenizer).prompt_cache(&mut own).draft_model(draft);
        drafted.extend(generator.stream(turn, &sampled).unwrap().map(|response| response.unwrap().token));
    }
    assert_eq!(plain, drafted);
    assert_eq!(offset(&caches) as usize, 6 + plain.len());
    assert_eq!((offset(&own), offset(&others)), (offset(&caches), offset(&caches)));
}

#[test]
fn a_generation_that_is_left_can_be_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (model, tokenizer) = (tiny(1), tokenizer(folder.path()));
    let mut caches = make_prompt_cache(model.as_ref(), None).unwrap();
    let draft = Draft { model: model.as_ref(), caches: None };
    let generator = Generator::new(model.as_ref(), &tokenizer).prompt_cache(&mut caches).draft_model(draft);
    let asked = GenerateOptions { num_draft_tokens: 4, sampler: drawing(1), ..options(50) };
    let mut stream = generator.stream(vec![1, 2, 3], &asked).unwrap();
    stream.next().unwrap().unwrap();
    stream.settle().unwrap();
    drop(stream);
    assert_eq!(offset(&caches), 4);
}
