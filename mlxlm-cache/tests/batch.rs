//! A batch of sequences gives each the answers that it would get alone, bit by bit where there are kernels.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{HEADS, Heads, Sequence, WIDE, assert_same, bits, by_token, feed, kv_formats, numbers};
use mlxlm_cache::{Attend, CacheKind, Caches, Error, KvFormat, LayerCache, Masks, Offset};
use mlxlm_core::{Array, ops};
use proptest::prelude::*;

/// Tokens that a test may read of a row.
const TOKENS: usize = 64;

/// What a row keeps, and how.
#[derive(Debug, Clone)]
struct Format {
    kind: CacheKind,
    format: Option<KvFormat>,
    read: usize,
}

/// A sequence, how much of it is read, the caches that read it alone, and those that read it beside others.
struct Row {
    sequence: Sequence,
    read: usize,
    alone: Caches,
    beside: Caches,
}

impl Row {
    fn new(format: &Format, heads: Heads, seed: u64, how: &Attend) -> Self {
        let sequence = Sequence::new(heads, TOKENS, seed);
        let mut alone = Caches::new(std::slice::from_ref(&format.kind));
        if let Some(format) = format.format {
            alone.quantize(format, 0).unwrap();
        }
        if format.read > 0 {
            feed(&mut alone.layers_mut()[0], &sequence, 0, &[format.read], how);
        }
        Self { sequence, read: format.read, beside: alone.clone(), alone }
    }
}

/// Every row reads `len` more tokens, alone and in one pass; both sides are compared.
fn step(rows: &mut [Row], len: usize, how: &Attend) {
    let mut parts: [Vec<Array>; 3] = Default::default();
    for row in &*rows {
        let (q, k, v) = row.sequence.part(row.read, row.read + len);
        parts.iter_mut().zip([q, k, v]).for_each(|(parts, array)| parts.push(array));
    }
    let [q, k, v] = parts.map(|arrays| ops::concatenate(&arrays, 0).unwrap());
    let lent = rows.iter_mut().map(|row| std::mem::replace(&mut row.beside, Caches::new(&[]))).collect();
    let mut batch = Caches::join(lent).unwrap();
    check_offsets(&batch, rows);
    let y = batch.layers_mut()[0].attend(&q, &k, &v, how, &Masks::default()).unwrap();
    for ((i, row), beside) in rows.iter_mut().enumerate().zip(batch.split()) {
        row.beside = beside;
        let expected = feed(&mut row.alone.layers_mut()[0], &row.sequence, row.read, &[len], how);
        assert_same(&by_token(&y, i as i32), &expected);
        row.read += len;
    }
}

fn check_offsets(batch: &Caches, rows: &[Row]) {
    let expected: Vec<i32> = rows.iter().map(|row| row.read as i32).collect();
    let got = match batch.offset() {
        Offset::Same(offset) => vec![offset; expected.len()],
        Offset::Rows(offsets) | Offset::Tokens(offsets) => offsets.to_vec_cast::<i32>().unwrap(),
    };
    assert_eq!(got, expected);
}

/// What happens to a batch.
#[derive(Debug, Clone)]
enum Event {
    Step(usize),
    Leave(usize),
    Join(Format),
    /// One row goes back by some tokens.
    Trim(usize, usize),
    /// One row reads some tokens and goes back to where it was.
    Retry(usize, usize),
}

fn formats(quantized: bool) -> impl Strategy<Value = Format> {
    let kind = prop_oneof![
        3 => Just(CacheKind::Kv),
        2 => (5..12_i32, 0..4_i32).prop_map(|(max_size, keep)| CacheKind::Rotating { max_size, keep }),
        1 => (2..9_i32).prop_map(|chunk_size| CacheKind::Chunked { chunk_size }),
    ];
    let some = prop_oneof![Just(bits(8)), Just(bits(4)), kv_formats()];
    let format = if quantized { prop::option::of(some).boxed() } else { Just(None).boxed() };
    (kind, format, 0..14_usize).prop_map(|(kind, format, read)| Format { kind, format, read })
}

fn events(quantized: bool) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => Just(Event::Step(1)),
        1 => (2..4_usize).prop_map(Event::Step),
        1 => (0..4_usize).prop_map(Event::Leave),
        1 => formats(quantized).prop_map(Event::Join),
        1 => (0..4_usize, 1..4_usize).prop_map(|(row, n)| Event::Trim(row, n)),
        1 => (0..4_usize, 2..5_usize).prop_map(|(row, n)| Event::Retry(row, n)),
    ];
    prop::collection::vec(event, 1..12)
}

fn live(formats: &[Format], events: Vec<Event>, heads: Heads, window: Option<i32>, seed: u64) {
    let how = Attend { window, ..Attend::scaled(0.3) };
    let mut made = 0;
    let mut new = |format: &Format| {
        made += 1;
        Row::new(format, heads, seed.wrapping_add(made), &how)
    };
    let mut rows: Vec<Row> = formats.iter().map(&mut new).collect();
    for event in events {
        let count = rows.len();
        match event {
            Event::Step(len) => step(&mut rows, len, &how),
            Event::Leave(row) if count > 1 => {
                rows.remove(row % count);
                // The others change places.
                rows.reverse();
            }
            Event::Join(format) if count < 5 => rows.push(new(&format)),
            Event::Leave(_) | Event::Join(_) => {}
            Event::Trim(row, n) => {
                let row = &mut rows[row % count];
                if n <= row.read && row.alone.is_trimmable() {
                    assert_eq!(row.alone.trim(n as i32), n as i32);
                    assert_eq!(row.beside.trim(n as i32), n as i32);
                    row.read -= n;
                }
            }
            Event::Retry(row, n) => {
                let row = &mut rows[row % count];
                let mark = row.beside.mark(n as i32);
                feed(&mut row.beside.layers_mut()[0], &row.sequence, row.read, &[n], &how);
                row.beside.rewind(mark);
            }
        }
    }
    step(&mut rows, 1, &how);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_of_any_kind(
        first in prop::collection::vec(formats(false), 1..4),
        events in events(false),
        window in prop::option::of(1..9_i32),
        seed: u64,
    ) {
        live(&first, events, HEADS, window, seed);
    }

    #[test]
    fn rows_of_any_format(first in prop::collection::vec(formats(true), 1..4), events in events(true), seed: u64) {
        live(&first, events, WIDE, None, seed);
    }
}

fn state(value: f32) -> LayerCache {
    let mut layer = LayerCache::new(&CacheKind::State { slots: 2 });
    layer.keep(0, Array::from_slice(&[value], &[1, 1]), None).unwrap();
    layer
}

fn with(kind: CacheKind, layer: LayerCache) -> Caches {
    let mut caches = Caches::new(&[kind]);
    caches.layers_mut()[0] = layer;
    caches
}

fn states(values: &[Option<f32>]) -> Vec<Caches> {
    let kind = CacheKind::State { slots: 2 };
    values.iter().map(|value| with(kind.clone(), value.map_or_else(|| LayerCache::new(&kind), state))).collect()
}

#[test]
fn rows_of_states_stay_together_while_the_batch_is_the_same() {
    let mut batch = Caches::join(states(&[Some(1.0), Some(2.0), Some(3.0)])).unwrap();
    let layer = &mut batch.layers_mut()[0];
    assert_eq!(numbers(&layer.recall(0).unwrap().unwrap()), [1.0, 2.0, 3.0]);
    layer.keep(0, Array::from_slice(&[4_f32, 5.0, 6.0], &[3, 1]), None).unwrap();
    let mut rows = batch.split();
    assert_eq!(numbers(&rows[1].layers()[0].recall(0).unwrap().unwrap()), [5.0]);
    assert_eq!(rows[1].nbytes(), 4);
    let batch = Caches::join(vec![rows.remove(2), rows.remove(0)]).unwrap();
    assert_eq!(numbers(&batch.layers()[0].recall(0).unwrap().unwrap()), [6.0, 4.0]);
}

#[test]
fn a_state_that_is_not_set_yet_is_zero_beside_others() {
    let batch = Caches::join(states(&[None, Some(5.0)])).unwrap();
    assert_eq!(numbers(&batch.layers()[0].recall(0).unwrap().unwrap()), [0.0, 5.0]);
    assert!(Caches::join(states(&[None, None])).unwrap().layers()[0].recall(0).unwrap().is_none());
}

#[test]
fn lists_become_lists_of_rows() {
    let kind = CacheKind::List(vec![CacheKind::State { slots: 2 }, CacheKind::Kv]);
    let row = |value| with(kind.clone(), LayerCache::List(vec![state(value), LayerCache::new(&CacheKind::Kv)]));
    let mut batch = Caches::join(vec![row(1.0), row(2.0)]).unwrap();
    let parts = batch.layers_mut()[0].list_mut().unwrap();
    assert_eq!(numbers(&parts[0].recall(0).unwrap().unwrap()), [1.0, 2.0]);
    let rows = batch.split();
    assert_eq!(rows.len(), 2);
    assert!(!rows[1].is_trimmable());
}

#[test]
fn rows_that_cannot_be_read_together_are_refused() {
    #[track_caller]
    fn check<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
    let of = |kind| Caches::new(&[kind]);
    check(Caches::join(Vec::new()), "a batch needs at least one row");
    check(
        Caches::join(vec![of(CacheKind::Kv), of(CacheKind::State { slots: 1 })]),
        "the caches of the rows differ: KV against recurrent-state",
    );
    check(Caches::join(vec![of(CacheKind::Kv), Caches::new(&[])]), "the caches of the rows differ: 1 layers against 0");
    check(Caches::join(vec![of(CacheKind::Compressed)]), "a compressed cache cannot become a row of a batch");
    let mut batch = Caches::join(vec![of(CacheKind::Kv), of(CacheKind::Kv)]).unwrap();
    let (q, k, v) = Sequence::new(HEADS, 1, 0).part(0, 1);
    let refused = batch.layers_mut()[0].attend(&q, &k, &v, &Attend::scaled(1.0), &Masks::default());
    check(refused, "keys of the shape [1, 2, 1, 8] do not fit a cache of [2, K, L, d]");
}
