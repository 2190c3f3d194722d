//! Suffix automata: `cargo bench --package mlxlm-sample --bench propose`. The rate is in tokens.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use mlxlm_sample::propose::{Cursor, SharedIndex, SuffixIndex};

/// The tokens of a text.
const TOKENS: usize = 100_000;

fn main() {
    let short = Criterion::default().sample_size(10);
    let short = short.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let mut criterion = short.configure_from_args();
    for (name, text) in [("words", words()), ("period", (0..TOKENS as u32).map(|at| at % 1000).collect())] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(TOKENS as u64));
        let pushed = |text: &[u32]| {
            let mut index = SuffixIndex::new();
            index.extend(text.iter().copied());
            index
        };
        group.bench_function("push", |bencher| {
            bencher.iter_batched(|| (), |()| pushed(&text), BatchSize::PerIteration);
        });
        let mut shared = SharedIndex::new(4 * TOKENS);
        shared.add(&text);
        group.bench_function("advance", |bencher| {
            bencher.iter(|| {
                let mut cursor = Cursor::default();
                for token in &text {
                    shared.advance(&mut cursor, *token);
                }
                cursor
            });
        });
        let index = pushed(&text);
        group.throughput(Throughput::Elements(1));
        group.bench_function("propose", |bencher| bencher.iter(|| black_box(&index).propose(16, 1)));
        group.finish();
    }
    criterion.final_summary();
}

/// A text whose words are as frequent as in a language (Zipf), and of which parts come again.
fn words() -> Vec<u32> {
    let mut state = 7u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31)
    };
    let mut text: Vec<u32> = Vec::with_capacity(TOKENS);
    while text.len() < TOKENS {
        if !text.is_empty() && draw() < 0.02 {
            let start = (draw() * text.len() as f64) as usize;
            let end = text.len().min(start + 40);
            text.extend_from_within(start..end);
        } else {
            text.push((20_000_f64.powf(draw()) - 1.0) as u32);
        }
    }
    text.truncate(TOKENS);
    text
}
