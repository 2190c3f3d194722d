//! Layers with a state, and activations of pairs, against what Python mlx-lm makes of the same inputs.
//!
//! `fixtures/layers` holds inputs and results in f32; `record.py` beside them says what each is.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::path::Path;

use mlxlm_core::fast::{self, Activation, Scan, Wkv7, plain};
use mlxlm_core::weights::{SafetensorsFile, Tensors};
use mlxlm_core::{Array, Exception};

type Outcome = Result<(Array, Array), Exception>;

/// The arrays of one case.
struct Case<'a> {
    all: &'a Tensors,
    name: &'a str,
}

impl Case<'_> {
    fn get(&self, of: &str) -> &Array {
        let name = format!("{}/{of}", self.name);
        self.all.get(&name).unwrap_or_else(|| panic!("the fixture has no `{name}`"))
    }

    /// Holds a result against what was recorded.
    fn close(&self, got: &Array, of: &str) {
        let want = self.get(of);
        assert_eq!(got.shape(), want.shape(), "{}/{of}", self.name);
        assert!(got.all_close(want, 1e-5, 1e-5, None).unwrap(), "{}/{of}: {got:?} is not {want:?}", self.name);
    }

    fn check(&self, outcome: Outcome) {
        let (y, last) = outcome.unwrap();
        self.close(&y, "y");
        self.close(&last, "last");
    }
}

fn recorded() -> Tensors {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layers");
    SafetensorsFile::open(folder.join("expected.safetensors")).and_then(|file| file.arrays()).unwrap()
}

#[test]
fn layers_with_a_state_are_those_of_the_reference() {
    let all = recorded();
    for name in ["delta", "delta_columns"] {
        let case = Case { all: &all, name };
        let [q, k, v, g, beta, state] = ["q", "k", "v", "g", "beta", "state"].map(|of| case.get(of));
        case.check(fast::gated_delta(q, k, v, g, beta, Some(state), None));
        case.check(plain::gated_delta(q, k, v, g, beta, Some(state), None));
    }
    for name in ["mamba2", "mamba"] {
        let case = Case { all: &all, name };
        let [x, dt, a, b, c] = ["x", "dt", "a", "b", "c"].map(|of| case.get(of));
        let scan = Scan { x, dt, a, b, c, d: Some(case.get("d")), state: Some(case.get("state")), mask: None };
        let both = if name == "mamba" {
            [fast::selective_scan(&scan), plain::selective_scan(&scan)]
        } else {
            [fast::ssm_scan(&scan), plain::ssm_scan(&scan)]
        };
        for outcome in both {
            case.check(outcome);
        }
    }
    let case = Case { all: &all, name: "rwkv7" };
    let [r, w, k, v, a, b] = ["r", "w", "k", "v", "a", "b"].map(|of| case.get(of));
    let of = Wkv7 { r, w, k, v, a, b, state: Some(case.get("state")), mask: None };
    case.check(fast::wkv7(&of));
    case.check(plain::wkv7(&of));
    let case = Case { all: &all, name: "decay" };
    let [q, k, v, g, state] = ["q", "k", "v", "g", "state"].map(|of| case.get(of));
    case.check(fast::decay_attention(q, k, v, g, 0.25, Some(state), None));
    case.check(plain::decay_attention(q, k, v, g, 0.25, Some(state), None));
}

#[test]
fn activations_of_pairs_are_those_of_the_reference() {
    let all = recorded();
    for (name, activation) in [
        ("oai", Activation::SwigluOai { alpha: 1.702, limit: 2.0 }),
        ("clamped", Activation::SwigluClamped { limit: 1.5 }),
        ("limited", Activation::SwigluLimited { limit: 2.0 }),
        ("situ", Activation::Situ { beta: 1.5, linear_beta: Some(2.0) }),
        ("situ_open", Activation::Situ { beta: 1.5, linear_beta: None }),
    ] {
        let case = Case { all: &all, name };
        case.close(&fast::gated(activation, case.get("gate"), case.get("up")).unwrap(), "y");
        case.close(&plain::gated(activation, case.get("gate"), case.get("up")).unwrap(), "y");
    }
}
