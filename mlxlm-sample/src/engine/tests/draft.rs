//! What a draft model proposes changes how fast a text comes, and not the text.

use mlxlm_cache::Caches;
use mlxlm_models::CausalLm;
use serde_json::json;

use super::{chooser, options, penalties, plain};
use crate::GenerateOptions;
use crate::engine::{Decoding, make_prompt_cache};
use crate::propose::{Draft, DraftModel, Proposer};
use crate::testing::{drawing, ids, offset, tiny, tiny_with};

const PROMPT: [u32; 7] = [7, 2, 7, 1, 8, 2, 8];

fn drafting<'a>(
    model: &'a dyn CausalLm,
    draft: &'a dyn CausalLm,
    caches: Option<(&'a mut Caches, &'a mut Caches)>,
    options: &GenerateOptions,
) -> Decoding<'a> {
    let (own, others) = caches.unzip();
    go_on(model, &PROMPT, own, Draft { model: draft, caches: others }, options)
}

fn go_on<'a>(
    model: &'a dyn CausalLm,
    prompt: &[u32],
    caches: Option<&'a mut Caches>,
    draft: Draft<'a>,
    options: &GenerateOptions,
) -> Decoding<'a> {
    let proposer: Box<dyn Proposer> = Box::new(DraftModel::new(draft, options).unwrap());
    Decoding::new(model, prompt, caches, chooser(options), options).unwrap().with_proposer(Some(proposer))
}

/// Whatever the draft model proposes, the text is that of plain decoding.
#[track_caller]
fn check_same_as_plain(model: &dyn CausalLm, draft: &dyn CausalLm, options: &GenerateOptions) {
    let expected = plain(model, &PROMPT, options);
    for num_draft_tokens in 0..5 {
        let options = GenerateOptions { num_draft_tokens, ..options.clone() };
        let got = ids(drafting(model, draft, None, &options)).unwrap();
        assert_eq!(got, expected, "with {num_draft_tokens} proposals");
    }
}

#[test]
fn the_text_is_that_of_plain_decoding() {
    let (model, near, far) = (tiny(1), tiny(1), tiny(2));
    for draft in [near.as_ref(), far.as_ref()] {
        check_same_as_plain(model.as_ref(), draft, &options(20));
        check_same_as_plain(model.as_ref(), draft, &GenerateOptions { sampler: drawing(3), ..options(20) });
        let penalised = GenerateOptions { sampler: drawing(4), processors: penalties(), ..options(20) };
        check_same_as_plain(model.as_ref(), draft, &penalised);
        check_same_as_plain(model.as_ref(), draft, &GenerateOptions { prefill_step_size: 2, ..options(1) });
    }
}

/// Nothing is sized by the number that was asked for, nor does a text wait for so many proposals.
#[test]
fn more_proposals_than_anyone_needs_are_bounded() {
    let (model, draft) = (tiny(1), tiny(2));
    let options = GenerateOptions { max_tokens: None, num_draft_tokens: usize::MAX, ..options(20) };
    let got = ids(drafting(model.as_ref(), draft.as_ref(), None, &options).take(20)).unwrap();
    assert_eq!(got, plain(model.as_ref(), &PROMPT, &super::options(20)));
}

#[test]
fn vocabularies_may_be_padded_differently() {
    let (model, small, large) =
        (tiny(1), tiny_with(2, &json!({"vocab_size": 24})), tiny_with(2, &json!({"vocab_size": 40})));
    let drawn = GenerateOptions { sampler: drawing(3), ..options(20) };
    let unknown_to_small = plain(model.as_ref(), &PROMPT, &drawn).iter().any(|id| *id >= 24);
    assert!(unknown_to_small);
    for draft in [small, large] {
        check_same_as_plain(model.as_ref(), draft.as_ref(), &drawn);
    }
}

/// A full ring that keeps its first tokens shows others to tokens that come together.
#[test]
fn a_full_window_that_keeps_its_first_tokens_ends_the_proposals_but_not_the_text() {
    let model = tiny(1);
    let limited = GenerateOptions { max_kv_size: Some(14), num_draft_tokens: 3, ..options(20) };
    let tokens: Vec<_> = drafting(model.as_ref(), model.as_ref(), None, &limited).map(Result::unwrap).collect();
    assert!(tokens[1].from_draft);
    assert!(tokens[10..].iter().all(|token| !token.from_draft));
    assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), plain(model.as_ref(), &PROMPT, &limited));
}

#[test]
fn a_model_agrees_with_itself() {
    let (model, draft) = (tiny(1), tiny(1));
    for sampler in [options(9).sampler, drawing(8)] {
        let options = GenerateOptions { num_draft_tokens: 3, sampler, ..options(9) };
        let from_draft: Vec<bool> =
            drafting(model.as_ref(), draft.as_ref(), None, &options).map(|token| token.unwrap().from_draft).collect();
        assert_eq!(from_draft, [false, true, true, true, false, true, true, true, false]);
    }
}

#[test]
fn progress_is_that_of_the_large_model() {
    let (model, draft) = (tiny(1), tiny(2));
    let mut reported = Vec::new();
    let options = GenerateOptions { prefill_step_size: 4, ..options(2) };
    let decoding = drafting(model.as_ref(), draft.as_ref(), None, &options);
    let decoding = decoding.with_progress(Some(Box::new(|done, total| reported.push((done, total)))));
    assert_eq!(decoding.count(), 2);
    assert_eq!(reported, [(0, 7), (4, 7), (7, 7)]);
}

#[test]
fn lent_caches_are_settled_where_the_text_ends() {
    let model = tiny(1);
    let whole = plain(model.as_ref(), &PROMPT, &options(16));
    for draft in [tiny(1), tiny(2)] {
        for taken in 1..8 {
            let mut own = make_prompt_cache(model.as_ref(), None).unwrap();
            let mut others = make_prompt_cache(draft.as_ref(), None).unwrap();
            let three = GenerateOptions { num_draft_tokens: 3, ..options(16) };
            let mut decoding = drafting(model.as_ref(), draft.as_ref(), Some((&mut own, &mut others)), &three);
            assert_eq!(ids(decoding.by_ref().take(taken)).unwrap(), whole[..taken]);
            decoding.settle().unwrap();
            drop(decoding);
            assert_eq!(offset(&own) as usize, PROMPT.len() + taken);
            assert_eq!(offset(&others) as usize, PROMPT.len() + taken);

            let rest = GenerateOptions { num_draft_tokens: 2, ..options(16 - taken - 1) };
            let draft = Draft { model: draft.as_ref(), caches: Some(&mut others) };
            let prompt = &whole[taken..=taken];
            let next = go_on(model.as_ref(), prompt, Some(&mut own), draft, &rest);
            assert_eq!(ids(next).unwrap(), whole[taken + 1..]);
        }
    }
}
