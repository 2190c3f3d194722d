//! Models with recurrent states: what proposals gain where states have to be gone back to, and what states in bf16 cost and gain.

use std::time::{Duration, Instant};

use mlxlm_cache::Caches;
use mlxlm_core::{Array, device, ops};
use mlxlm_models::CausalLm;
use mlxlm_quant::divergence;
use mlxlm_sample::engine::Decoding;
use mlxlm_sample::propose::{Proposer, Scene};
use mlxlm_sample::{GenerateOptions, Result as SampleResult};
use serde_json::{Value, json};

use super::{against, greedy, tokens};
use crate::failure::{Failure, Result};

const PROMPT: usize = 256;
const TOKENS: usize = 128;
const ROUNDS: usize = 3;
/// The most tokens that are proposed at once, and how many in a row are right.
const PROPOSED: usize = 16;
const RIGHT: usize = 12;

/// Tokens a second of plain decoding against proposals, and of states in `f32` against bf16; and how far the two kinds of states lead
/// apart, as the mean divergence of the next token in nats.
///
/// A model with random weights repeats nothing, so that what it will say is proposed from an earlier run of it, with a wrong token
/// after every [`RIGHT`] right ones.
pub(super) fn measure(model: &dyn CausalLm) -> Result<Value> {
    let prompt = tokens(model, PROMPT, 1);
    let answer = run(model, &prompt, &[], false)?.0;
    let mut seconds = [0.0; 3];
    for _ in 0..ROUNDS {
        for (sum, (known, bf16)) in seconds.iter_mut().zip([(&[][..], false), (&answer[..], false), (&[][..], true)]) {
            let (text, took) = run(model, &prompt, known, bf16)?;
            if !bf16 && text != answer {
                return Err(Failure::new("a proposal changed the answer"));
            }
            *sum += took.as_secs_f64();
        }
    }
    let [plain, proposals, bf16] = seconds.map(|seconds| (ROUNDS * (TOKENS - 1)) as f64 / seconds);
    let states = against(bf16, plain);
    Ok(json!({"proposals": against(proposals, plain), "states": states, "divergence": divergence(model, &prompt)?}))
}

/// An answer, and the time between its first token and the last.
fn run(model: &dyn CausalLm, prompt: &[u32], known: &[u32], state_bf16: bool) -> Result<(Vec<u32>, Duration)> {
    let options = GenerateOptions {
        max_tokens: Some(TOKENS),
        num_draft_tokens: PROPOSED,
        state_bf16,
        ..GenerateOptions::default()
    };
    let known = (!known.is_empty())
        .then(|| Box::new(Known { from: prompt.len(), answer: known.to_vec() }) as Box<dyn Proposer>);
    let mut decoding = Decoding::new(model, prompt, None, greedy()?, &options)?.with_proposer(known);
    let mut text = Vec::new();
    text.extend(decoding.next().transpose()?.map(|token| token.id));
    let since = Instant::now();
    for token in decoding.by_ref() {
        text.push(token?.id);
    }
    let took = since.elapsed();
    drop(decoding);
    device::synchronize()?;
    Ok((text, took))
}

/// Proposes an answer that is known, but for every so many tokens.
struct Known {
    from: usize,
    answer: Vec<u32>,
}

impl Proposer for Known {
    fn propose(&mut self, scene: &Scene) -> SampleResult<Vec<u32>> {
        let at = scene.text.len() - self.from;
        let next = self.answer.iter().enumerate().skip(at).take(scene.most.min(PROPOSED));
        Ok(next.map(|(i, token)| if (i + 1) % (RIGHT + 1) == 0 { u32::from(*token == 0) } else { *token }).collect())
    }
}

/// The mean divergence of the next token after each of the prompt, read token by token with states of both kinds.
fn divergence(model: &dyn CausalLm, prompt: &[u32]) -> Result<f64> {
    let read = |state_bf16: bool| -> Result<Vec<Array>> {
        let mut caches = Caches::new(&model.cache_kinds());
        caches.narrow_states(state_bf16);
        let mut logits = |token| Ok(model.forward(&Array::from_slice(&[token], &[1, 1]), Some(&mut caches))?);
        prompt.iter().map(|token| logits(*token)).collect()
    };
    let (exact, narrow) = (read(false)?, read(true)?);
    Ok(mean(&exact, &narrow)?)
}

fn mean(exact: &[Array], narrow: &[Array]) -> mlxlm_core::Result<f64> {
    let (exact, narrow) = (ops::concatenate(exact, 1)?, ops::concatenate(narrow, 1)?);
    let nats = divergence::kl(&narrow, &exact, 1.0)?.mean(None)?;
    Ok(f64::from(nats.try_item_exact::<f32>()?))
}
