//! What Python mlx-lm 0.32.2 generates with the same models, prompts and seeds: `fixtures/record_generation.py` records
//! it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use mlxlm_core::weights::Recipe;
use mlxlm_models::{CausalLm, ModelConfig, build};
use mlxlm_sample::engine::{Chooser, Decoding};
use mlxlm_sample::propose::DraftModel;
use mlxlm_sample::{Draft, GenerateOptions, KvQuantization, ProcessorOptions, SamplerOptions, make_prompt_cache};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Fixture {
    models: BTreeMap<String, Model>,
    prompt: Vec<u32>,
    cases: Vec<Case>,
    drafts: Vec<DraftCase>,
}

#[derive(Deserialize)]
struct Model {
    config: Value,
    recipe: Recipe,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    sampler: Map<String, Value>,
    processors: Map<String, Value>,
    seed: u64,
    max_kv_size: Option<usize>,
    options: Map<String, Value>,
    /// Of each turn; the caches go on.
    tokens: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct DraftCase {
    draft: String,
    num_draft_tokens: usize,
    tokens: Vec<u32>,
    from_draft: Vec<bool>,
}

impl Fixture {
    fn read() -> Self {
        serde_json::from_str(include_str!("fixtures/generation.json")).unwrap()
    }

    fn model(&self, name: &str) -> Box<dyn CausalLm> {
        let Model { config, recipe } = &self.models[name];
        build(&ModelConfig::new(config.clone()).unwrap(), recipe.tensors(), None).unwrap().model
    }
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn size(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn sampler(case: &Case) -> SamplerOptions {
    let mut options = SamplerOptions { seed: Some(case.seed), ..SamplerOptions::default() };
    for (name, value) in &case.sampler {
        match name.as_str() {
            "temp" => options.temp = float(value),
            "top_p" => options.top_p = float(value),
            "min_p" => options.min_p = float(value),
            "top_k" => options.top_k = size(value),
            "xtc_probability" => options.xtc_probability = float(value),
            "xtc_threshold" => options.xtc_threshold = float(value),
            "xtc_special_tokens" => options.xtc_special_tokens = serde_json::from_value(value.clone()).unwrap(),
            other => panic!("unknown parameter `{other}`"),
        }
    }
    options
}

fn processors(case: &Case) -> ProcessorOptions {
    let mut options = ProcessorOptions::default();
    for (name, value) in &case.processors {
        match name.as_str() {
            "logit_bias" => {
                let bias = value.as_object().unwrap().iter();
                options.logit_bias = bias.map(|(id, value)| (id.parse().unwrap(), float(value))).collect();
            }
            "repetition_penalty" => options.repetition_penalty = Some(float(value)),
            "repetition_context_size" => options.repetition_context_size = size(value),
            "presence_penalty" => options.presence_penalty = Some(float(value)),
            "frequency_penalty" => options.frequency_penalty = Some(float(value)),
            "frequency_context_size" => options.frequency_context_size = size(value),
            other => panic!("unknown parameter `{other}`"),
        }
    }
    options
}

fn options(case: &Case) -> GenerateOptions {
    let mut options = GenerateOptions {
        max_tokens: Some(case.tokens[0].len()),
        sampler: sampler(case),
        processors: processors(case),
        ..GenerateOptions::default()
    };
    for (name, value) in &case.options {
        let kv = options.kv_quantization.get_or_insert(KvQuantization::with_bits(8));
        match name.as_str() {
            "kv_bits" => (kv.bits, kv.rotate) = ([i32::try_from(size(value)).unwrap(); 2], Some(false)),
            "kv_group_size" => kv.group_size = i32::try_from(size(value)).unwrap(),
            "quantized_kv_start" => kv.start = size(value),
            "prefill_step_size" => {
                options.prefill_step_size = size(value);
                options.kv_quantization = None;
            }
            other => panic!("unknown parameter `{other}`"),
        }
    }
    options
}

#[test]
fn the_tokens_are_those_of_the_reference() {
    let fixture = Fixture::read();
    assert!(fixture.cases.len() >= 18);
    for (i, case) in fixture.cases.iter().enumerate() {
        let model = fixture.model(&case.model);
        let mut caches = make_prompt_cache(model.as_ref(), case.max_kv_size).unwrap();
        let options = options(case);
        for (turn, expected) in case.tokens.iter().enumerate() {
            let prompt = if turn == 0 { &fixture.prompt[..] } else { &fixture.prompt[..3 + turn] };
            let chooser = Chooser::from_options(&options.sampler, &options.processors).unwrap();
            let decoding = Decoding::new(model.as_ref(), prompt, Some(&mut caches), chooser, &options).unwrap();
            let got: Vec<u32> = decoding.map(|token| token.unwrap().id).collect();
            assert_eq!(&got, expected, "case {i} on {}, turn {turn}", case.model);
        }
    }
}

#[test]
fn the_proposals_taken_are_those_of_the_reference() {
    let fixture = Fixture::read();
    assert!(fixture.drafts.iter().any(|case| case.from_draft.contains(&true) && case.from_draft.contains(&false)));
    let model = fixture.model("plain");
    for case in &fixture.drafts {
        let what = format!("{} proposals of the {} model", case.num_draft_tokens, case.draft);
        let other = fixture.model(&case.draft);
        let options = GenerateOptions {
            max_tokens: Some(case.tokens.len()),
            num_draft_tokens: case.num_draft_tokens,
            ..GenerateOptions::default()
        };
        let chooser = Chooser::from_options(&options.sampler, &options.processors).unwrap();
        let draft = Draft { model: other.as_ref(), caches: None };
        let proposer = Box::new(DraftModel::new(draft, &options).unwrap());
        let decoding = Decoding::new(model.as_ref(), &fixture.prompt, None, chooser, &options).unwrap();
        let decoding = decoding.with_proposer(Some(proposer));
        let got: Vec<(u32, bool)> = decoding.map(|token| token.map(|t| (t.id, t.from_draft)).unwrap()).collect();
        assert_eq!(got.iter().map(|(id, _)| *id).collect::<Vec<_>>(), case.tokens, "{what}");
        // The first token comes with the last of the prompt here, where the reference proposes it; so all proposals are one token on.
        let flags: Vec<bool> = got.iter().map(|(_, from_draft)| *from_draft).collect();
        assert!(!flags[0], "{what}");
        assert_eq!(flags.contains(&true), case.from_draft.contains(&true), "{what}");
        if case.from_draft[..case.num_draft_tokens].iter().all(|taken| *taken) && case.draft == "plain" {
            let end = flags.len() - 1;
            assert_eq!(flags[1..end], case.from_draft[..end - 1], "{what}");
        }
    }
}
