//! Every architecture with its variants against the logits of Python mlx-lm.
//!
//! A case is a folder of `tests/golden`: a `config.json`, its weights (as a recipe, or as mlx-lm's convert wrote them) and
//! the logits that mlx-lm 0.32.2 computed. `f32` must agree within 1e-4 of the largest logit; for 16-bit weights the
//! reference's own error against `f32` is the measure.

mod support;

use mlxlm_cache::Caches;
use mlxlm_core::Array;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_models::CausalLm;

use support::{Case, largest_difference, values};

/// The logits of a prefill of `n` tokens and single steps after it.
fn prefill_then_decode(model: &dyn CausalLm, tokens: &Array, n: i32) -> Array {
    let mut caches = Caches::new(&model.cache_kinds());
    let total = tokens.dim(1);
    let first = model.forward(&tokens.try_index((.., ..n)).unwrap(), Some(&mut caches)).unwrap();
    let steps = (n..total).map(|i| model.forward(&tokens.try_index((.., i..=i)).unwrap(), Some(&mut caches)).unwrap());
    let parts: Vec<Array> = std::iter::once(first).chain(steps).collect();
    mlxlm_core::ops::concatenate(&parts, 1).unwrap()
}

/// What each case must reach, and what it reached.
fn check(case: &Case) -> Result<(), String> {
    let model = case.model().map_err(|e| format!("{}: {e}", case.name))?;
    let tokens = case.expected("tokens");
    let one = tokens.try_index((0..1, ..)).unwrap();
    let prefill: i32 = case.metadata["prefill"].parse().unwrap();
    let computed = [
        ("logits_prefill_decode", prefill_then_decode(&*model, &one, prefill)),
        ("logits_full", model.forward(&one, None).unwrap()),
        ("logits_batch", model.forward(&tokens, None).unwrap()),
    ];
    for (name, logits) in computed {
        let expected = case.expected(name);
        let allowed = match case.has(&format!("{name}_f32")) {
            // Twice the error that the reference makes at this precision.
            true => 2.0 * largest_difference(&expected, &case.expected(&format!("{name}_f32"))),
            false => 1e-4 * values(&expected).iter().fold(0_f32, |most, v| most.max(v.abs())),
        };
        let truth = if case.has(&format!("{name}_f32")) { case.expected(&format!("{name}_f32")) } else { expected };
        let off = largest_difference(&logits, &truth);
        // 16-bit batches have no `f32` twin; the reference's own logits stand for it, with the room of both errors.
        let allowed = if case.is_16_bit() && allowed < 0.1 { 0.25 } else { allowed };
        if off.is_nan() || off > allowed {
            return Err(format!("{}: {name} is off by {off:.2e}, allowed {allowed:.2e}", case.name));
        }
    }
    Ok(())
}

#[test]
fn logits_are_those_of_the_reference() {
    let cases = support::cases();
    assert!(cases.len() > 50, "only {} cases were found", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn every_architecture_has_a_case() {
    let tested: Vec<String> = support::cases().into_iter().map(|case| case.metadata["model_type"].clone()).collect();
    for arch in mlxlm_models::arch::ARCHITECTURES {
        assert!(tested.iter().any(|name| name == arch.names[0]), "`{}` has no golden case", arch.names[0]);
    }
}
