//! What a prompt costs that was read before: `cargo bench --package mlxlm-cache --bench restore -- [TOKENS…]`.
//!
//! The caches are those of Llama-3.2-1B (16 layers, 8 heads of 64 numbers, bf16: 32 KiB for each token). Measured are: to have them from
//! disk; the first token after that, and one further on, through the attention of all layers; and the same for caches that were in
//! memory. A model's weights, which a real token reads besides, are left out, so that what a restore adds weighs more here.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for the developer who runs it")]

use std::time::{Duration, Instant};

use mlxlm_cache::store::{DiskOptions, DiskStore, Hit, Key, Limits, PromptStore};
use mlxlm_cache::{Attend, CacheKind, Caches, Masks};
use mlxlm_core::{Array, Dtype, random, transforms};

const LAYERS: usize = 16;
const HEADS: i32 = 32;
const KV_HEADS: i32 = 8;
const WIDTH: i32 = 64;

fn main() {
    let given: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let lengths = if given.is_empty() { vec![4096, 32_768] } else { given };
    println!("  tokens   write  restore   first    next  |  memory   first    next  (ms)");
    for tokens in lengths {
        measure(tokens);
    }
}

fn measure(tokens: usize) {
    let folder = tempfile::tempdir().unwrap();
    let key = Key { model: "bench".into(), adapter: String::new() };
    let prompt: Vec<u32> = (0..=tokens as u32).collect();
    let read = &prompt[..tokens];
    let options = DiskOptions { limit_bytes: u64::MAX, ..DiskOptions::default() };
    let mut caches = filled(tokens);

    let mut disk = DiskStore::open(folder.path(), options).unwrap();
    let start = Instant::now();
    assert!(disk.insert(&key, read, &caches, &[]).unwrap());
    let write = start.elapsed();
    let usual = median(|| step(&mut caches));

    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..5 {
        let start = Instant::now();
        let mut disk = DiskStore::open(folder.path(), options).unwrap();
        let Hit { mut caches, .. } = disk.fetch(&key, &prompt).unwrap();
        rows[0].push(start.elapsed());
        rows[1].push(step(&mut caches));
        rows[2].push(step(&mut caches));
    }
    let [restore, first, next] = rows.map(middle);

    let mut store = PromptStore::new(Limits::default());
    caches.trim(caches_len(&caches) - tokens as i32);
    store.insert(&key, read, caches, Vec::new()).unwrap();
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..5 {
        let start = Instant::now();
        let Hit { mut caches, .. } = store.fetch(&key, &prompt).unwrap();
        rows[0].push(start.elapsed());
        rows[1].push(step(&mut caches));
        rows[2].push(step(&mut caches));
    }
    let [memory, copy, after] = rows.map(middle);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{tokens:8} {:7.0} {:8.2} {:7.1} {:7.1}  | {:7.2} {:7.1} {:7.1}   usual step {:.1}, first/usual {:.2}",
        ms(write),
        ms(restore),
        ms(first),
        ms(next),
        ms(memory),
        ms(copy),
        ms(after),
        ms(usual),
        ms(first) / ms(usual),
    );
}

fn caches_len(caches: &Caches) -> i32 {
    match caches.offset() {
        mlxlm_cache::Offset::Same(offset) => offset,
        mlxlm_cache::Offset::Rows(_) | mlxlm_cache::Offset::Tokens(_) => 0,
    }
}

fn normal(heads: i32, len: i32) -> Array {
    let numbers = random::normal::<f32>(&[1, heads, len, WIDTH], None, None, None).unwrap();
    numbers.as_dtype(Dtype::Bfloat16).unwrap()
}

/// Caches that have read so many tokens.
fn filled(tokens: usize) -> Caches {
    let mut caches = Caches::new(&vec![CacheKind::Kv; LAYERS]);
    for layer in caches.layers_mut() {
        for from in (0..tokens).step_by(2048) {
            let x = normal(KV_HEADS, 2048.min(tokens - from) as i32);
            layer.remember(&x, &x, &Attend::scaled(0.125)).unwrap();
            transforms::eval(layer.arrays()).unwrap();
        }
    }
    caches
}

/// One token through the attention of all layers.
fn step(caches: &mut Caches) -> Duration {
    let (q, k) = (normal(HEADS, 1), normal(KV_HEADS, 1));
    transforms::eval([&q, &k]).unwrap();
    let start = Instant::now();
    let mut q = q;
    for layer in caches.layers_mut() {
        q = layer.attend(&q, &k, &k, &Attend::scaled(0.125), &Masks::default()).unwrap();
    }
    transforms::eval(caches.arrays().into_iter().chain([&q])).unwrap();
    start.elapsed()
}

fn median(mut measured: impl FnMut() -> Duration) -> Duration {
    middle((0..9).map(|_| measured()).collect())
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
