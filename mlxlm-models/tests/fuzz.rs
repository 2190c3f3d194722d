//! The readers of foreign bytes: inputs that once went wrong, and a short walk over changed ones.
//!
//! `cargo xtask fuzz` runs for as long as it is given; what it finds is put into `tests/fuzz/<target>` and read here from then
//! on. A panic fails the test; so does an input that takes longer than the deadline.

mod support;

use std::time::{Duration, Instant};

use support::fuzz::{TARGETS, corpus, input, inputs};

/// No input may take longer, on a busy machine and without optimization.
const DEADLINE: Duration = Duration::from_mins(1);

#[test]
fn what_once_went_wrong_is_read_or_refused() {
    for target in TARGETS {
        for (path, bytes) in inputs(&corpus(target.name)) {
            let folder = tempfile::tempdir().unwrap();
            let begin = Instant::now();
            (target.read)(folder.path(), &bytes);
            assert!(begin.elapsed() < DEADLINE, "{} took {:?}", path.display(), begin.elapsed());
        }
    }
}

#[test]
fn changed_inputs_are_read_or_refused() {
    for target in TARGETS {
        let folder = tempfile::tempdir().unwrap();
        let seeds = (target.seeds)(folder.path());
        // The seeds themselves are sound, so that changes begin behind the first check.
        assert!(!seeds.is_empty() && seeds.iter().all(|seed| !seed.is_empty()), "{}", target.name);
        let begin = Instant::now();
        for number in 0..60 {
            (target.read)(folder.path(), &input(&seeds, 1, number));
        }
        assert!(begin.elapsed() < DEADLINE, "{} took {:?}", target.name, begin.elapsed());
    }
}
