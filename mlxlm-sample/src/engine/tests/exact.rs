//! The text of a sequence is the same, bit by bit, alone and in any batch, whoever proposes whatever, for every kind of cache.

use mlxlm_models::CausalLm;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{chooser, plain};
use crate::engine::{Engine, EngineOptions, EventKind, Sequence};
use crate::propose::{Mtp, Proposer, Scene};
use crate::testing::{Joint, Silent, drawing, model_of, tiny_with, with_heads};
use crate::{GenerateOptions, KvQuantization, ProcessorOptions, Result, SamplerOptions};

/// Proposes the true text with some of it wrong, and sits out passes now and then.
struct Oracle {
    truth: Vec<u32>,
    /// Which of the proposals are wrong, in turns.
    wrong: Vec<bool>,
    proposed: usize,
    passes: usize,
}

impl Proposer for Oracle {
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>> {
        let rest = &self.truth[scene.text.len().min(self.truth.len())..];
        let guess = |(i, &id): (usize, &u32)| id ^ u32::from(self.wrong[(self.proposed + i) % self.wrong.len()]);
        let guesses: Vec<u32> = rest.iter().take(scene.most).enumerate().map(guess).collect();
        self.proposed += guesses.len();
        Ok(guesses)
    }

    fn rests(&mut self) -> bool {
        self.passes += 1;
        self.passes % 7 > 4
    }
}

/// A row of a batch.
#[derive(Debug, Clone)]
struct Case {
    prompt: Vec<u32>,
    sampler: SamplerOptions,
    penalised: bool,
    kv_bits: Option<[i32; 2]>,
    state_bf16: bool,
    max_kv_size: Option<usize>,
    max_tokens: usize,
    /// Nobody proposes, or somebody with these mistakes, so many tokens at a time; of a model with heads that predict further tokens, those.
    proposals: Option<(Vec<bool>, usize)>,
    /// The step at which it joins the others.
    joins: usize,
}

fn cases(may_quantize: bool, may_narrow: bool) -> impl Strategy<Value = Case> {
    let sampler = prop_oneof![Just(SamplerOptions::default()), any::<u64>().prop_map(drawing)];
    let kv_bits = if may_quantize {
        prop_oneof![3 => Just(None), 1 => Just(Some([8, 8])), 1 => Just(Some([8, 4])), 1 => Just(Some([4, 4]))].boxed()
    } else {
        Just(None).boxed()
    };
    let proposals = prop::option::weighted(0.7, (prop::collection::vec(prop::bool::weighted(0.3), 1..8), 1..9_usize));
    (
        prop::collection::vec(0..32_u32, 1..12),
        sampler,
        prop::bool::weighted(0.3),
        (kv_bits, any::<bool>()),
        prop::option::weighted(0.2, 8..16_usize),
        1..20_usize,
        proposals,
        0..6_usize,
    )
        .prop_map(
            move |(prompt, sampler, penalised, (kv_bits, narrow), max_kv_size, max_tokens, proposals, joins)| Case {
                prompt,
                sampler,
                penalised,
                kv_bits,
                state_bf16: narrow && may_narrow,
                max_kv_size,
                max_tokens,
                proposals,
                joins,
            },
        )
}

impl Case {
    fn options(&self) -> GenerateOptions {
        let processors = if self.penalised { super::penalties() } else { ProcessorOptions::default() };
        let kv_quantization = self.kv_bits.map(|bits| KvQuantization { bits, group_size: 32, rotate: None, start: 3 });
        let num_draft_tokens = self.proposals.as_ref().map_or(0, |(_, n)| *n);
        GenerateOptions {
            max_tokens: Some(self.max_tokens),
            sampler: self.sampler.clone(),
            processors,
            max_kv_size: self.max_kv_size,
            kv_quantization,
            state_bf16: self.state_bf16,
            num_draft_tokens,
            ..GenerateOptions::default()
        }
    }

    fn sequence<'p>(&self, model: &dyn CausalLm, truth: &[u32]) -> Sequence<'p> {
        let options = self.options();
        let mut sequence = Sequence::new(self.prompt.clone(), chooser(&options), &options);
        sequence.proposer = self.proposals.clone().map(|(wrong, depth)| {
            if model.mtp().is_some() {
                return Box::new(Mtp::new(model, depth).unwrap()) as Box<dyn Proposer>;
            }
            let truth = [&self.prompt, truth].concat();
            Box::new(Oracle { truth, wrong, proposed: 0, passes: 0 }) as Box<dyn Proposer>
        });
        sequence
    }
}

/// Holds the texts of rows that run together against those that each would have alone.
fn check(model: &dyn CausalLm, cases: &[Case], prefill_step_size: usize) -> Result<(), TestCaseError> {
    // A full ring that keeps its first tokens remembers a prompt by the steps in which it was read.
    let alone = |case: &Case| plain(model, &case.prompt, &GenerateOptions { prefill_step_size, ..case.options() });
    let expected: Vec<Vec<u32>> = cases.iter().map(alone).collect();
    let options = EngineOptions { prefill_step_size, max_running: 3, ..EngineOptions::default() };
    let mut engine = Engine::new(options).unwrap();
    let mut got = vec![Vec::new(); cases.len()];
    let mut rows = Vec::new();
    for step in 0.. {
        for (i, case) in cases.iter().enumerate().filter(|(_, case)| case.joins == step) {
            engine.insert(model, case.sequence(model, &expected[i])).unwrap();
            rows.push(i);
        }
        if engine.is_idle() && rows.len() == cases.len() {
            break;
        }
        for event in engine.step(model).unwrap() {
            match event.kind {
                EventKind::Token { token, .. } => got[rows[event.id as usize]].push(token.id),
                EventKind::Failed { error, .. } => panic!("{error}"),
                EventKind::Read { .. } | EventKind::Checkpoint(_) => {}
            }
        }
    }
    prop_assert_eq!(got, expected);
    Ok(())
}

/// Models with each kind of cache.
pub(super) fn latent() -> Value {
    json!({
        "model_type": "deepseek_v2", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 48,
        "moe_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "kv_lora_rank": 32, "q_lora_rank": null, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32,
        "n_routed_experts": null, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "attention_bias": false,
        "max_position_embeddings": 512,
    })
}

pub(super) fn hybrid() -> Value {
    json!({
        "model_type": "qwen3_next", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "linear_num_value_heads": 2,
        "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 3,
        "full_attention_interval": 2, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32, "mlp_only_layers": [], "moe_intermediate_size": 16, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 512, "norm_topk_prob": true,
        "tie_word_embeddings": false,
    })
}

fn states() -> Value {
    json!({
        "model_type": "mamba2", "vocab_size": 32, "hidden_size": 32, "num_heads": 4, "head_dim": 16, "intermediate_size": 64,
        "state_size": 16, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-5, "conv_kernel": 3, "n_groups": 1,
        "use_bias": false, "use_conv_bias": true, "tie_word_embeddings": true, "time_step_limit": [0.0, 10.0],
        "time_step_rank": "auto",
    })
}

pub(super) fn mimo() -> Value {
    json!({
        "model_type": "mimo", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "max_position_embeddings": 512, "num_nextn_predict_layers": 1,
    })
}

/// Two heads that predict further tokens, and experts.
pub(super) fn two_heads() -> Value {
    let mut config = latent();
    let more = json!({
        "model_type": "deepseek_v3", "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 2,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn windows() -> Value {
    json!({
        "model_type": "gemma3_text", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rms_norm_eps": 1e-6, "sliding_window": 6,
        "sliding_window_pattern": 2, "rope_theta": 10000.0, "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": 32, "max_position_embeddings": 512,
    })
}

/// How many cases of each kind are tried: few in every run, `PROPTEST_CASES` when one wants to know.
fn cases_of_each() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16)
}

/// Makes a property of a model: its texts do not depend on the company.
macro_rules! exact {
    ($($name:ident: $model:expr, $may_quantize:literal, $may_narrow:literal;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(cases_of_each()))]
            $(
                #[test]
                fn $name(rows in prop::collection::vec(cases($may_quantize, $may_narrow), 1..5), prefill_step_size in 1..12_usize) {
                    let model = $model;
                    check(model.as_ref(), &rows, prefill_step_size)?;
                }
            )*
        }
    };
}

exact! {
    with_all_keys_and_values: tiny_with(1, &json!({})), true, false;
    with_windows: model_of(1, windows()), true, false;
    with_latents: model_of(1, latent()), false, false;
    with_states: model_of(1, states()), false, false;
    with_states_beside_keys_and_values: model_of(1, hybrid()), false, true;
    with_a_head_beside_states: with_heads(1, hybrid(), Joint::Token, Silent::None), false, true;
    with_a_head_of_mimo: with_heads(1, mimo(), Joint::Token, Silent::None), true, false;
    with_two_heads_and_latents: with_heads(1, two_heads(), Joint::Token, Silent::None), false, false;
}
