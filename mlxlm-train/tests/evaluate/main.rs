//! Evaluation through the library: draws as Python makes them, tasks against lm-evaluation-harness with Python mlx-lm's model.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod tasks;

use mlxlm_train::evaluate::{permutation, sample};

/// `numpy.random.RandomState(123).permutation(12)`; `random.Random(1234).sample(range(n), k)`.
#[test]
fn draws_are_those_of_numpy_and_python() {
    assert_eq!(permutation(12, 123), [5, 0, 4, 9, 8, 7, 10, 3, 1, 6, 11, 2]);
    assert_eq!(sample(10, 3, 1234), [7, 1, 0]);
    assert_eq!(sample(1000, 7, 1234), [989, 796, 451, 119, 7, 92, 932]);
    assert_eq!((permutation(0, 1), permutation(1, 1), sample(2, 5, 1).len()), (vec![], vec![0], 2));
}
