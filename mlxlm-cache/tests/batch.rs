//! A batch of sequences gives each the answers that it would get alone, bit by bit where there are kernels.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{HEADS, Heads, Sequence, WIDE, assert_same, by_token, feed, numbers};
use mlxlm_cache::{Attend, CacheKind, Caches, Error, LayerCache, Masks, Offset};
use mlxlm_core::{Array, ops};
use proptest::prelude::*;

/// Tokens that a test may read of a row.
const TOKENS: usize = 64;

/// A sequence, how much of it is read, and the caches that read it alone.
struct Row {
    sequence: Sequence,
    read: usize,
    alone: Caches,
}

/// Rows that read the same tokens alone and in a batch.
struct Pair {
    rows: Vec<Row>,
    batch: Caches,
    how: Attend,
}

impl Pair {
    fn new(kind: &CacheKind, heads: Heads, bits: Option<i32>, prompts: &[usize], seed: u64) -> Self {
        let how = Attend::scaled(0.3);
        let rows: Vec<Row> = prompts
            .iter()
            .enumerate()
            .map(|(i, &read)| {
                let sequence = Sequence::new(heads, TOKENS, seed.wrapping_add(i as u64));
                let mut alone = Caches::new(std::slice::from_ref(kind));
                if let Some(bits) = bits {
                    alone.quantize(32, bits, 0).unwrap();
                }
                if read > 0 {
                    feed(&mut alone.layers_mut()[0], &sequence, 0, &[read], &how);
                }
                Row { sequence, read, alone }
            })
            .collect();
        let batch = Caches::merge(&rows.iter().map(|row| row.alone.clone()).collect::<Vec<_>>()).unwrap();
        Self { rows, batch, how }
    }

    /// Every row reads `len` more tokens; both sides are compared.
    fn step(&mut self, len: usize) {
        self.check_offsets();
        let mut parts: [Vec<Array>; 3] = Default::default();
        for row in &self.rows {
            let (q, k, v) = row.sequence.part(row.read, row.read + len);
            parts.iter_mut().zip([q, k, v]).for_each(|(parts, array)| parts.push(array));
        }
        let [q, k, v] = parts.map(|arrays| ops::concatenate(&arrays, 0).unwrap());
        let layer = &mut self.batch.layers_mut()[0];
        let y = layer.attend(&q, &k, &v, &self.how, &Masks::default()).unwrap();
        for (i, row) in self.rows.iter_mut().enumerate() {
            let expected = feed(&mut row.alone.layers_mut()[0], &row.sequence, row.read, &[len], &self.how);
            assert_same(&by_token(&y, i as i32), &expected);
            row.read += len;
        }
    }

    fn check_offsets(&self) {
        let expected: Vec<i32> = self.rows.iter().map(|row| row.read as i32).collect();
        let got = match self.batch.offset() {
            Offset::Same(offset) => vec![offset; expected.len()],
            Offset::Rows(offsets) => offsets.to_vec_cast::<i32>().unwrap(),
        };
        assert_eq!(got, expected);
    }

    fn filter(&mut self, keep: &[usize]) {
        self.batch.filter(&keep.iter().map(|&row| row as i32).collect::<Vec<_>>()).unwrap();
        let mut rows: Vec<Option<Row>> = std::mem::take(&mut self.rows).into_iter().map(Some).collect();
        self.rows = keep.iter().map(|&row| rows[row].take().unwrap()).collect();
    }

    fn extend(&mut self, other: Self) {
        self.batch.extend(&other.batch).unwrap();
        self.rows.extend(other.rows);
    }

    fn trim(&mut self, n: usize) {
        let shortest = self.rows.iter().map(|row| row.read).min().unwrap();
        let alone = self.rows.iter().all(|row| row.alone.is_trimmable());
        if n > shortest || !alone || !self.batch.is_trimmable() {
            return;
        }
        assert_eq!(self.batch.trim(n as i32), n as i32);
        for row in &mut self.rows {
            assert_eq!(row.alone.trim(n as i32), n as i32);
            row.read -= n;
        }
    }

    /// Takes every row out and lets it go on alone.
    fn part(self) {
        for (i, mut row) in self.rows.into_iter().enumerate() {
            let mut extracted = self.batch.extract(i as i32).unwrap();
            for len in [1, 2, 1, 1] {
                let got = feed(&mut extracted.layers_mut()[0], &row.sequence, row.read, &[len], &self.how);
                let expected = feed(&mut row.alone.layers_mut()[0], &row.sequence, row.read, &[len], &self.how);
                assert_same(&got, &expected);
                row.read += len;
            }
        }
    }
}

/// What happens to a batch.
#[derive(Debug, Clone)]
enum Event {
    Step(usize),
    Leave(usize),
    Join(Vec<usize>),
    Trim(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => Just(Event::Step(1)),
        1 => (2..4_usize).prop_map(Event::Step),
        1 => (0..4_usize).prop_map(Event::Leave),
        1 => prop::collection::vec(0..9_usize, 1..3).prop_map(Event::Join),
        1 => (1..4_usize).prop_map(Event::Trim),
    ];
    prop::collection::vec(event, 1..12)
}

fn live(mut pair: Pair, events: Vec<Event>, join: impl Fn(&[usize]) -> Pair) {
    for event in events {
        match event {
            Event::Step(len) => pair.step(len),
            Event::Leave(row) if pair.rows.len() > 1 => {
                let leaves = row % pair.rows.len();
                // The others change places.
                let keep: Vec<usize> = (0..pair.rows.len()).rev().filter(|&row| row != leaves).collect();
                pair.filter(&keep);
            }
            Event::Join(prompts) if pair.rows.len() < 5 => pair.extend(join(&prompts)),
            Event::Leave(_) | Event::Join(_) => {}
            Event::Trim(n) => pair.trim(n),
        }
    }
    pair.step(1);
    pair.part();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_of_kv(prompts in prop::collection::vec(0..9_usize, 1..4), events in events(), seed: u64) {
        let new = |prompts: &[usize]| Pair::new(&CacheKind::Kv, HEADS, None, prompts, seed);
        live(new(&prompts), events, |prompts| new(prompts));
    }

    #[test]
    fn rows_with_a_window(prompts in prop::collection::vec(0..9_usize, 1..4), events in events(), seed: u64) {
        let new = |prompts: &[usize]| {
            let mut pair = Pair::new(&CacheKind::Kv, HEADS, None, prompts, seed);
            pair.how.window = Some(4);
            pair
        };
        live(new(&prompts), events, |prompts| new(prompts));
    }

    #[test]
    fn rows_of_rotating(
        prompts in prop::collection::vec(0..12_usize, 1..4),
        events in events(),
        max_size in 2..9_i32,
        seed: u64,
    ) {
        let kind = CacheKind::Rotating { max_size, keep: 0 };
        let new = |prompts: &[usize]| Pair::new(&kind, HEADS, None, prompts, seed);
        live(new(&prompts), events, |prompts| new(prompts));
    }

    #[test]
    fn rows_of_quantized(prompts in prop::collection::vec(1..9_usize, 1..4), events in events(), ring: bool, seed: u64) {
        let kind = if ring { CacheKind::Rotating { max_size: 6, keep: 0 } } else { CacheKind::Kv };
        let new = |prompts: &[usize]| Pair::new(&kind, WIDE, Some(8), prompts, seed);
        live(new(&prompts), events, |prompts| new(prompts));
    }

    /// Prompts of different lengths read together, the shorter ones behind padding.
    #[test]
    fn left_padding(lengths in prop::collection::vec(1..9_usize, 2..4), ring: bool, seed: u64) {
        let kind = if ring { CacheKind::Rotating { max_size: 5, keep: 0 } } else { CacheKind::Kv };
        let longest = *lengths.iter().max().unwrap();
        let padding: Vec<i32> = lengths.iter().map(|&n| (longest - n) as i32).collect();
        let mut pair = Pair::new(&kind, HEADS, None, &vec![0; lengths.len()], seed);
        pair.batch = Caches::left_padded(&[kind], &padding).unwrap();
        let mut parts: [Vec<Array>; 3] = Default::default();
        for (row, &n) in pair.rows.iter().zip(&lengths) {
            // What lies in the padding must not matter.
            let junk = Sequence::new(HEADS, TOKENS, seed ^ 0x77).part(0, longest - n);
            let real = row.sequence.part(0, n);
            let joined = [(junk.0, real.0), (junk.1, real.1), (junk.2, real.2)];
            parts.iter_mut().zip(joined).for_each(|(parts, (junk, real))| {
                parts.push(ops::concatenate(&[junk, real], 2).unwrap());
            });
        }
        let [q, k, v] = parts.map(|arrays| ops::concatenate(&arrays, 0).unwrap());
        let y = pair.batch.layers_mut()[0].attend(&q, &k, &v, &pair.how, &Masks::default()).unwrap();
        for (i, (row, &n)) in pair.rows.iter_mut().zip(&lengths).enumerate() {
            let expected = feed(&mut row.alone.layers_mut()[0], &row.sequence, 0, &[n], &pair.how);
            assert_same(&by_token(&y, i as i32)[longest - n..], &expected);
            row.read = n;
        }
        for len in [1, 1, 2, 1] {
            pair.step(len);
        }
        pair.part();
    }
}

/// A recurrent state whose one array holds `values`, a row each.
fn state(values: &[f32]) -> LayerCache {
    let mut layer = LayerCache::new(&CacheKind::State { slots: 2 });
    layer.state_mut().unwrap().set(0, Array::from_slice(values, &[values.len() as i32, 1])).unwrap();
    layer
}

fn rows_of(layer: &LayerCache) -> Vec<f32> {
    numbers(layer.arrays()[0])
}

#[test]
fn rows_of_states_in_lists() {
    let caches = |value: f32| {
        let mut caches = Caches::new(&[CacheKind::List(vec![CacheKind::State { slots: 2 }, CacheKind::Kv])]);
        caches.layers_mut()[0].list_mut().unwrap()[0] = state(&[value]);
        caches
    };
    let mut batch = Caches::merge(&[caches(1.0), caches(2.0), caches(3.0)]).unwrap();
    assert_eq!(rows_of(&batch.layers()[0]), [1.0, 2.0, 3.0]);
    batch.filter(&[2, 0]).unwrap();
    batch.extend(&Caches::merge(&[caches(4.0)]).unwrap()).unwrap();
    assert_eq!(rows_of(&batch.layers()[0]), [3.0, 1.0, 4.0]);
    assert_eq!(rows_of(&batch.extract(1).unwrap().layers()[0]), [1.0]);
    assert!(!batch.is_trimmable());
    assert_eq!(batch.trim(1), 0);
}

#[test]
fn a_state_that_is_not_set_yet_joins_as_zero() {
    let empty = LayerCache::new(&CacheKind::State { slots: 2 });
    let caches = |layer: LayerCache| {
        let mut caches = Caches::new(&[CacheKind::State { slots: 2 }]);
        caches.layers_mut()[0] = layer;
        caches
    };
    let batch = Caches::merge(&[caches(empty.clone()), caches(state(&[5.0]))]).unwrap();
    assert_eq!(rows_of(&batch.layers()[0]), [0.0, 5.0]);
    let mut unset = Caches::merge(&[caches(empty.clone()), caches(empty)]).unwrap();
    unset.extend(&batch).unwrap();
    assert_eq!(rows_of(&unset.layers()[0]), [0.0, 0.0, 0.0, 5.0]);
}

#[test]
fn a_padded_state_says_where_its_tokens_are() {
    let mut caches = Caches::left_padded(&[CacheKind::State { slots: 1 }], &[0, 2]).unwrap();
    let state = caches.layers_mut()[0].state_mut().unwrap();
    let mask = |len: i32, state: &mlxlm_cache::StateCache| state.mask(len).unwrap().map(|mask| numbers(&mask));
    assert_eq!(mask(3, state), Some(vec![1.0, 1.0, 1.0, 0.0, 0.0, 1.0]));
    state.advance(1);
    assert_eq!(mask(2, state), Some(vec![1.0, 1.0, 0.0, 1.0]));
    state.advance(2);
    assert_eq!(mask(2, state), None);
}

#[test]
fn a_batch_without_padding_needs_no_mask() {
    let mut batch = Caches::left_padded(&[CacheKind::Kv], &[0, 0]).unwrap();
    let x = ops::ones::<f32>(&[2, 2, 3, 4]).unwrap();
    let seen = batch.layers_mut()[0].append(&x, &x, &Attend::scaled(1.0), &Masks::default()).unwrap();
    assert!(matches!(seen.mask, mlxlm_cache::Mask::Causal));
    assert!(matches!(batch.offset(), Offset::Same(3)));
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn rows_that_do_not_go_together_are_told() {
    let kv = || Caches::new(&[CacheKind::Kv]);
    let rotating = |max_size| Caches::new(&[CacheKind::Rotating { max_size, keep: 0 }]);
    check(Caches::merge(&[]), "a batch needs at least one row");
    check(Caches::left_padded(&[CacheKind::Kv], &[]), "a batch needs at least one row");
    check(Caches::merge(&[kv(), rotating(4)]), "the caches of the rows differ: KV against rotating");
    check(
        Caches::merge(&[rotating(4), rotating(5)]),
        "the caches of the rows differ: rotating caches of 4 and of 5 tokens",
    );
    check(Caches::merge(&[kv(), Caches::new(&[])]), "the caches of the rows differ: 1 layers against 0");
    let chunked = CacheKind::Chunked { chunk_size: 4 };
    check(
        Caches::merge(&[Caches::new(std::slice::from_ref(&chunked))]),
        "a chunked cache cannot become a row of a batch",
    );
    check(Caches::left_padded(&[chunked], &[0]), "a chunked cache cannot pad a batch");
    check(kv().filter(&[0]), "a KV cache cannot be taken apart by rows");
    check(kv().extract(0), "a KV cache cannot be taken apart by rows");
    let mut batch = Caches::merge(&[kv(), kv()]).unwrap();
    check(batch.filter(&[0, 2]), "row 2 is not in a batch of 2");
    check(batch.filter(&[-1]), "row -1 is not in a batch of 2");
    check(batch.filter(&[]), "a batch needs at least one row");
    check(batch.extract(7), "row 7 is not in a batch of 2");
    check(
        batch.extend(&Caches::merge(&[rotating(4)]).unwrap()),
        "the caches of the rows differ: batched KV against batched rotating",
    );
    let read = |heads: Heads| {
        let mut caches = kv();
        feed(&mut caches.layers_mut()[0], &Sequence::new(heads, 3, 0), 0, &[3], &Attend::scaled(1.0));
        caches
    };
    check(
        Caches::merge(&[read(HEADS), read(WIDE)]),
        "the caches of the rows differ: 2 heads of the widths 8 and 8, Float32 against 2 heads of the widths 32 and 32, Float32",
    );
}
