//! Decoding after SnapKV dropped most of a long context, against the whole.

use mlxlm_cache::SnapKv;
use mlxlm_core::{Array, transforms};
use mlxlm_models::CausalLm;
use serde_json::{Map, Value};

use super::super::context;
use super::{against, gaps, median};
use crate::failure::{Failure, Result};

const CONTEXTS: [u32; 2] = [32_768, 98_304];
const TOKENS: usize = 16;
const ROUNDS: usize = 3;

/// Tokens a second by context.
pub(super) fn measure(model: &dyn CausalLm) -> Result<Value> {
    let mut found = Map::new();
    for context in CONTEXTS {
        let Some(mut whole) = context::filled(model, context)? else { continue };
        let options = SnapKv::default();
        // The queries that decide what is kept are those of some more tokens.
        let mut kept = whole.clone();
        kept.watch(&options);
        let queries: Vec<u32> = (0..options.queries as u32).collect();
        model.hidden(&Array::from_slice(&queries, &[1, options.queries]), Some(&mut kept))?;
        if kept.evict(&options)? == 0 {
            return Err(Failure::usage("SnapKV has nothing to drop in this model"));
        }
        transforms::eval(kept.arrays()).map_err(mlxlm_core::Error::from)?;
        let mut times: [Vec<f64>; 2] = Default::default();
        for round in 0..=ROUNDS {
            for (times, caches) in times.iter_mut().zip([&mut kept, &mut whole]) {
                let gaps = gaps(model, caches, &[1], TOKENS)?;
                // The first round copies what was shared.
                if round > 0 {
                    times.extend(&gaps[1..]);
                }
            }
        }
        let [ours, plain] = times.map(|times| 1.0 / median(times));
        found.insert(context.to_string(), against(ours, plain));
    }
    Ok(Value::Object(found))
}
