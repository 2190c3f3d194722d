//! Heads that predict further tokens see the states and tokens that they should, and change how fast a text comes, not the text.

use std::cell::Cell;
use std::rc::Rc;

use mlxlm_core::Array;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_models::CausalLm;
use serde_json::{Value, json};

use super::exact::{hybrid, mimo, two_heads};
use super::{chooser, options, plain};
use crate::engine::{Decoding, Token, row_of};
use crate::propose::{Mtp, Proposer, Scene};
use crate::testing::{Joint, Silent, drawing, tiny, with_heads};
use crate::{Error, GenerateOptions, Result};

const PROMPT: [u32; 9] = [7, 2, 7, 1, 8, 2, 8, 30, 4];

fn glm() -> Value {
    json!({
        "model_type": "glm4_moe", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "moe_intermediate_size": 32,
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0, "norm_topk_prob": true, "n_group": 1, "topk_group": 1, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "use_qk_norm": true, "attention_bias": false,
        "tie_word_embeddings": false, "max_position_embeddings": 512,
    })
}

/// A model of each family.
fn families() -> [Value; 4] {
    [hybrid(), mimo(), two_heads(), glm()]
}

fn decoding<'a>(model: &'a dyn CausalLm, proposer: Box<dyn Proposer + 'a>, options: &GenerateOptions) -> Decoding<'a> {
    Decoding::new(model, &PROMPT, None, chooser(options), options).unwrap().with_proposer(Some(proposer))
}

fn tokens(model: &dyn CausalLm, depth: usize, options: &GenerateOptions) -> Vec<Token> {
    let proposer = Box::new(Mtp::new(model, depth).unwrap());
    decoding(model, proposer, options).map(Result::unwrap).collect()
}

/// Where blocks add nothing, the next token depends on the last one alone, which a head that looks at it alone knows as well.
#[test]
fn a_head_that_knows_what_the_model_knows_is_always_right() {
    for config in families() {
        let model = with_heads(1, config.clone(), Joint::Token, Silent::All);
        for (depth, sampler) in [(1, options(1).sampler), (3, options(1).sampler), (3, drawing(8))] {
            let options = GenerateOptions { num_draft_tokens: 9, sampler, prefill_step_size: 4, ..options(9) };
            let got = tokens(model.as_ref(), depth, &options);
            let from_draft: Vec<bool> = got.iter().map(|token| token.from_draft).collect();
            let expected: Vec<bool> = (0..9).map(|i| i % (depth + 1) != 0).collect();
            assert_eq!(from_draft, expected, "{} at depth {depth}", config["model_type"]);
            let ids: Vec<u32> = got.iter().map(|token| token.id).collect();
            assert_eq!(ids, plain(model.as_ref(), &PROMPT, &options), "{}", config["model_type"]);
        }
    }
}

/// Sees to it that the first proposal is the last token of the text.
struct Repeats {
    mtp: Mtp,
    proposed: Rc<Cell<usize>>,
}

impl Proposer for Repeats {
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>> {
        let proposed = self.mtp.propose(scene)?;
        assert_eq!(proposed.first(), scene.text.last());
        assert!(proposed.len() <= scene.most);
        self.proposed.set(self.proposed.get() + proposed.len());
        Ok(proposed)
    }

    fn wants_states(&self) -> bool {
        self.mtp.wants_states()
    }

    fn observe(&mut self, model: &dyn CausalLm, from: usize, tokens: &[u32], states: &Array) -> Result<()> {
        self.mtp.observe(model, from, tokens, states)
    }
}

/// A head that looks at the state alone says what the model has said after it: the last token of a text without draws. After every
/// guess, right or wrong, it is the state of the token before the last.
#[test]
fn the_state_of_a_pair_is_that_of_the_token_before() {
    for config in families() {
        let model = with_heads(2, config.clone(), Joint::State, Silent::Heads);
        for depth in [1, 3] {
            let proposed = Rc::default();
            let proposer = Repeats { mtp: Mtp::new(model.as_ref(), depth).unwrap(), proposed: Rc::clone(&proposed) };
            let options = GenerateOptions { num_draft_tokens: 4, prefill_step_size: 4, ..options(20) };
            let got = decoding(model.as_ref(), Box::new(proposer), &options).map(|token| token.unwrap().id);
            assert_eq!(got.collect::<Vec<_>>(), plain(model.as_ref(), &PROMPT, &options), "{}", config["model_type"]);
            assert!(proposed.get() >= 10, "{} proposals", proposed.get());
        }
    }
}

/// What a head has read does not depend on how the prompt was cut, nor on the guesses in between: at the same place it proposes the same.
#[test]
fn what_is_proposed_does_not_depend_on_the_way_there() {
    for config in families() {
        let model = with_heads(3, config.clone(), Joint::Token, Silent::None);
        let text = plain(model.as_ref(), &PROMPT, &options(8));
        let at_end = |chunk: usize, depth: usize| {
            let whole: Vec<u32> = PROMPT.iter().chain(&text).copied().collect();
            let (read, last) = (&whole[..whole.len() - 1], &whole);
            let mut mtp = Mtp::new(model.as_ref(), depth).unwrap();
            let states = model.hidden(&row_of(read), None).unwrap();
            for (i, part) in read.chunks(chunk).enumerate() {
                let from = i * chunk;
                let own = states.try_index((.., from as i32..(from + part.len()) as i32, ..)).unwrap();
                mtp.observe(model.as_ref(), from, part, &own).unwrap();
                // A place that is shown again changes nothing.
                mtp.observe(model.as_ref(), from, part, &own).unwrap();
                let so_far = &last[..=from + part.len()];
                let chooser = chooser(&options(1));
                let scene = Scene { model: model.as_ref(), text: so_far, noted: 0, chooser: &chooser, most: depth };
                let proposed = mtp.propose(&scene).unwrap();
                assert_eq!(proposed.len(), depth);
                if so_far.len() == whole.len() {
                    return proposed;
                }
            }
            unreachable!("the last chunk ends the text")
        };
        let expected = at_end(usize::from(u8::MAX), 3);
        for chunk in [1, 2, 5] {
            assert_eq!(at_end(chunk, 3), expected, "{} in chunks of {chunk}", config["model_type"]);
        }
    }
}

#[test]
fn a_model_without_heads_is_refused_by_name() {
    let model = tiny(1);
    let error = Mtp::new(model.as_ref(), 1).unwrap_err();
    assert_eq!(error.to_string(), "the model (type `llama`) has no heads for multi-token prediction (MTP)");
    let with = with_heads(1, mimo(), Joint::Token, Silent::None);
    assert!(matches!(Mtp::new(with.as_ref(), 0), Err(Error::Parameter { name: "depth", .. })));
}
