//! One decoding step of 64 sequences that each own their keys and values, through the 28 layers of a model with 8 kv-heads of 64
//! numbers: `cargo bench --package mlxlm-core --bench rows`.
//!
//! What the rows cost as one operation stands beside what they cost one after the other. Graphs are built anew for each step, as in
//! a decode loop.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use mlxlm_core::fast::{self, Causal, Row, RowsAttention, Stored, plain};
use mlxlm_core::{Array, Dtype, Exception, ops, random, transforms};

const LAYERS: usize = 28;
const BATCH: i32 = 64;
const HEADS: i32 = 32;
const KV_HEADS: i32 = 8;
const HEAD_DIM: i32 = 64;
const KEYS: i32 = 300;

fn main() {
    let short = Criterion::default().sample_size(20);
    let short = short.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let mut criterion = short.configure_from_args();
    writing(&mut criterion);
    attention(&mut criterion);
    criterion.final_summary();
}

fn normal(shape: &[i32]) -> Array {
    let drawn = random::normal::<f32>(shape, None, None, None).and_then(|drawn| drawn.as_dtype(Dtype::Bfloat16));
    let drawn = drawn.expect("any shape can be drawn");
    drawn.eval().expect("memory for the inputs");
    drawn
}

type Write = fn(&[&Array], &[i32], &Array) -> Result<Vec<Array>, Exception>;

/// The new keys and values of all layers, written over the last token of each row.
fn writing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    for (name, write) in
        [("writes, one operation", fast::write_rows as Write), ("writes, by updates", plain::write_rows)]
    {
        group.bench_function(name, |bencher| {
            let zeros = || ops::zeros_dtype(&[1, KV_HEADS, KEYS, HEAD_DIM], Dtype::Bfloat16).expect("a shape");
            let layer = || (0..BATCH).map(|_| zeros()).collect();
            let held: RefCell<Vec<Vec<Array>>> = RefCell::new((0..2 * LAYERS).map(|_| layer()).collect());
            transforms::eval(held.borrow().iter().flatten()).expect("memory for the caches");
            // By position first, as projections give them.
            let new = normal(&[BATCH, 1, KV_HEADS, HEAD_DIM]).transpose_axes(&[0, 2, 1, 3]).expect("four axes");
            let at = [KEYS - 1; BATCH as usize];
            bencher.iter(|| {
                let mut held = held.borrow_mut();
                for rows in held.iter_mut() {
                    *rows = write(&rows.iter().collect::<Vec<_>>(), &at, &new).expect("rows that fit");
                }
                transforms::eval(held.iter().flatten()).expect("rows that fit");
            });
        });
    }
    group.finish();
}

type Attend = fn(&Array, &[Row<'_>], &RowsAttention<'_>) -> Result<Array, Exception>;

/// One query of each row in every layer; rows of one length, and of lengths from one token to 4096.
fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    let even = vec![KEYS; BATCH as usize];
    let uneven = (0..16).map(|row| 1 + row * row * 4095 / 225).collect::<Vec<_>>();
    for (rows, lengths) in [("64 rows of 300", &even), ("16 rows of 1 to 4096", &uneven)] {
        let held: Vec<Array> = lengths.iter().map(|&s| normal(&[1, KV_HEADS, s, HEAD_DIM])).collect();
        let q = normal(&[lengths.len() as i32, HEADS, 1, HEAD_DIM]);
        let how = RowsAttention::scaled((HEAD_DIM as f32).sqrt().recip());
        for (name, attend) in [("one operation", fast::attend_rows as Attend), ("one by one", plain::attend_rows)] {
            group.bench_function(format!("attention, {rows}, {name}"), |bencher| {
                bencher.iter(|| {
                    let layer = |_| {
                        let row =
                            |kv| Row { keys: Stored::Plain(kv), values: Stored::Plain(kv), rule: Causal::default() };
                        attend(&q, &held.iter().map(row).collect::<Vec<_>>(), &how).expect("rows that fit")
                    };
                    let layers: Vec<Array> = (0..LAYERS).map(layer).collect();
                    transforms::eval(&layers).expect("rows that fit");
                    black_box(layers)
                });
            });
        }
    }
    group.finish();
}
