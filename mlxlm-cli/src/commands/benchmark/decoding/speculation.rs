//! Proposals from what the text has said before, and the choice that leaves them where they do not pay.

use std::time::{Duration, Instant};

use mlxlm_core::device;
use mlxlm_core::text::TemplateOptions;
use mlxlm_models::Loaded;
use mlxlm_sample::GenerateOptions;
use mlxlm_sample::engine::Decoding;
use mlxlm_sample::propose::{Auto, PromptLookup, Proposer};
use serde_json::{Map, Value, json};

use super::greedy;
use crate::failure::{Failure, Result};

const STORY: &str = "The lighthouse keeper climbed the stairs every evening at seven. He trimmed the wick, wiped the glass and wrote \
the weather into his book. On the third of March the wind came from the west and the sea was calm. A fishing boat named Annabel \
passed at a quarter past nine, and her captain waved with his yellow hat.";

const CODE: &str = "def total_price(items, tax):\n    result = 0\n    for item in items:\n        result = result + item.price * \
item.count\n    result = result * (1 + tax)\n    return result\n\n\ndef average_price(items):\n    result = 0\n    for item in \
items:\n        result = result + item.price\n    return result / len(items)\n";

const LIST: &str = "1. Wash two cups of rice.\n2. Boil four cups of water with a spoon of salt.\n3. Add the rice and stir once.\n4. \
Cover the pot and wait for eighteen minutes.\n5. Take the pot from the stove and let it rest.\n6. Serve the rice with butter.";

/// What is asked: texts to say again, texts to say again with a change, and texts of the model's own.
fn questions() -> [(&'static str, Vec<String>); 3] {
    let again = |text: &str| format!("Repeat the following text word for word.\n\n{text}");
    let changed = |what: &str, text: &str| format!("{what} Write the whole text again.\n\n{text}");
    [
        ("echo", vec![again(STORY), again(CODE), again(LIST)]),
        (
            "edit",
            vec![
                changed("Change the name of the boat from Annabel to Victoria in this text.", STORY),
                changed("Rename the variable `result` to `total` in this code.", CODE),
                changed("Replace rice by pasta in this list.", LIST),
            ],
        ),
        (
            "open",
            [
                "Why is the sky blue?",
                "Write a short story about a fox and a river.",
                "How do I learn to play the piano?",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
    ]
}

const TOKENS: usize = 128;
/// The most tokens that are proposed at once.
const PROPOSED: usize = 16;
const ROUNDS: usize = 3;

/// Who proposes.
#[derive(Clone, Copy)]
enum Who {
    Nobody,
    Suffix,
    Auto,
}

/// What all runs of one kind came to.
#[derive(Default)]
struct Sum {
    tokens: usize,
    time: Duration,
    proposed: usize,
    accepted: usize,
}

/// Tokens a second without proposals, with those of the suffix automaton, and with the automatic choice, by what was asked.
pub(super) fn measure(loaded: &Loaded) -> Result<Value> {
    let mut found = Map::new();
    for (kind, questions) in questions() {
        let mut sums: [Sum; 3] = Default::default();
        let prompts = questions.iter().map(|question| prompt(loaded, question)).collect::<Result<Vec<_>>>()?;
        for round in 0..=ROUNDS {
            for prompt in &prompts {
                let mut texts = Vec::new();
                for (sum, who) in sums.iter_mut().zip([Who::Nobody, Who::Suffix, Who::Auto]) {
                    // The first round warms up.
                    let mut warm = Sum::default();
                    texts.push(answer(loaded, prompt, who, if round == 0 { &mut warm } else { sum })?);
                }
                if texts.iter().any(|text| *text != texts[0]) {
                    return Err(Failure::new(format!(
                        "a proposal changed the answer to a question of the kind `{kind}`"
                    )));
                }
            }
        }
        let [plain, suffix, auto] = sums.map(|sum| {
            let tps = sum.tokens as f64 / sum.time.as_secs_f64().max(1e-9);
            json!({"tps": tps, "tokens": sum.tokens, "proposed": sum.proposed, "accepted": sum.accepted})
        });
        found.insert(kind.to_owned(), json!({"plain": plain, "suffix": suffix, "auto": auto}));
    }
    Ok(Value::Object(found))
}

fn prompt(loaded: &Loaded, question: &str) -> Result<Vec<u32>> {
    let options = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
    Ok(loaded.tokenizer.encode_chat(&[json!({"role": "user", "content": question})], &options)?)
}

/// Adds the time between the first token and the last to a sum, and gives the text.
fn answer(loaded: &Loaded, prompt: &[u32], who: Who, sum: &mut Sum) -> Result<Vec<u32>> {
    let options =
        GenerateOptions { max_tokens: Some(TOKENS), num_draft_tokens: PROPOSED, ..GenerateOptions::default() };
    let lookup = || Box::new(PromptLookup::new()) as Box<dyn Proposer>;
    let proposer = match who {
        Who::Nobody => None,
        Who::Suffix => Some(lookup()),
        Who::Auto => Some(Box::new(Auto::new(vec![lookup()])) as Box<dyn Proposer>),
    };
    let ends = loaded.tokenizer.eos_token_ids().iter().copied();
    let mut decoding = Decoding::new(&*loaded.model, prompt, None, greedy()?, &options)?
        .with_proposer(proposer)
        .with_stop_tokens(ends);
    let mut text = Vec::new();
    text.extend(decoding.next().transpose()?.map(|token| token.id));
    let since = Instant::now();
    for token in decoding.by_ref() {
        text.push(token?.id);
    }
    sum.time += since.elapsed();
    sum.tokens += text.len().saturating_sub(1);
    sum.proposed += decoding.counters().proposed_tokens;
    sum.accepted += decoding.counters().accepted_tokens;
    drop(decoding);
    device::synchronize()?;
    Ok(text)
}
