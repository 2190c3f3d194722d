//! The store in memory: what is found, that it goes on with the same bits, and that the limits hold.

use mlxlm_cache::store::{Checkpoint, Limits, PromptStore};
use mlxlm_cache::{CacheKind, Caches, Error};
use proptest::prelude::*;

use crate::common::assert_same;
use crate::toy::{Toy, key, models};

/// Prompts that share beginnings: paths through a small tree.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let turn = prop_oneof![Just(vec![1, 2, 3, 4, 5]), Just(vec![1, 2, 3, 9]), Just(vec![7; 8]), Just(vec![8])];
    prop::collection::vec(turn, 1..5).prop_map(|turns| turns.concat())
}

/// How many tokens of a prompt a store must know that keeps all: of caches that can go back to any token.
fn shared(known: &[Vec<u32>], prompt: &[u32]) -> usize {
    let common = |other: &Vec<u32>| other.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    known.iter().map(common).max().unwrap_or(0).min(prompt.len() - 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever was read before, a prompt goes on as if it were read whole.
    #[test]
    fn a_hit_goes_on_as_if_all_was_read(
        which in 0..models().len(),
        prompts in prop::collection::vec((prompt(), prompt()), 1..7),
        bytes in prop_oneof![Just(usize::MAX), 500..20_000_usize, 140_000..600_000_usize],
    ) {
        let toy = &models()[which];
        let limits = Limits { sequences: 4, bytes };
        let mut store = PromptStore::new(limits);
        let mut known: Vec<Vec<u32>> = Vec::new();
        for (prompt, answer) in prompts {
            let (hit, said) = toy.serve(&mut store, &key("m"), &prompt, &answer, &[]);
            prop_assert!(hit < prompt.len());
            assert_same(&[said], &[toy.fresh(&prompt)]);
            let stats = store.stats();
            prop_assert!(stats.bytes <= bytes && stats.sequences <= 4, "{stats:?}");
            if bytes == usize::MAX && !Checkpoint::are_needed(&toy.kinds) && known.len() < 4 {
                prop_assert_eq!(hit, shared(&known, &prompt));
            }
            known.push([prompt, answer].concat());
        }
    }
}

#[test]
fn a_prompt_that_is_known_whole_leaves_one_token() {
    for toy in models() {
        let mut store = PromptStore::new(Limits::default());
        let prompt: Vec<u32> = (0..40).collect();
        let first = toy.serve(&mut store, &key("m"), &prompt, &[50, 51], &[]);
        let again = toy.serve(&mut store, &key("m"), &prompt, &[50, 51], &[]);
        assert_eq!((first.0, again.0), (0, 39), "{toy:?}");
        assert_same(&[first.1], &[again.1]);
        assert_eq!(store.fetch(&key("m"), &[]).map(|hit| hit.tokens), None);
        assert_eq!(store.fetch(&key("m"), &prompt[..1]).map(|hit| hit.tokens), None);
        assert_eq!(store.stats().sequences, 1);
    }
}

#[test]
fn only_the_same_key_is_a_hit() {
    let toy = Toy::of(&[CacheKind::Kv]);
    let mut store = PromptStore::new(Limits::default());
    let prompt: Vec<u32> = (0..9).collect();
    toy.serve(&mut store, &key("m"), &prompt, &[], &[]);
    let mut adapted = key("m");
    adapted.adapter = "a".into();
    for other in [key("n"), adapted] {
        assert!(store.fetch(&other, &prompt).is_none());
    }
    assert_eq!(store.fetch(&key("m"), &prompt).unwrap().tokens, 8);
    assert_eq!((store.stats().hits, store.stats().misses), (1, 3));
}

/// The next prompt has the answer without its thinking, so that it leaves the sequence within the last tokens of the first prompt, which
/// announced the thinking.
#[test]
fn a_turn_whose_thinking_was_stripped_is_a_hit() {
    for toy in models() {
        let mut store = PromptStore::new(Limits::default());
        let start: Vec<u32> = (0..200).map(|i| i % 90).collect();
        let first = [&start[..], &[100, 101, 102]].concat();
        let answer: Vec<u32> = (110..160).collect();
        toy.serve(&mut store, &key("m"), &first, &answer, &[]);
        let second = [&start[..], &[100], &answer[40..], &[7, 100, 101, 102]].concat();
        let (hit, said) = toy.serve(&mut store, &key("m"), &second, &answer, &[]);
        assert!((185..=201).contains(&hit), "{hit} of {toy:?}");
        assert_same(&[said], &[toy.fresh(&second)]);
        // A third one, which leaves where the second did, finds the very place.
        let third = [&start[..], &[100], &answer[30..], &[7]].concat();
        let (hit, said) = toy.serve(&mut store, &key("m"), &third, &[], &[]);
        assert_eq!(hit, 201, "{toy:?}");
        assert_same(&[said], &[toy.fresh(&third)]);
    }
}

#[test]
fn the_ends_of_turns_are_kept() {
    for toy in models() {
        let mut store = PromptStore::new(Limits::default());
        let system: Vec<u32> = (0..50).collect();
        for (i, question) in (60..64).enumerate() {
            let prompt = [&system[..], &[question; 30]].concat();
            let (hit, said) = toy.serve(&mut store, &key("m"), &prompt, &[1, 2], &[50]);
            assert_eq!(hit, if i == 0 { 0 } else { 50 }, "{toy:?}");
            assert_same(&[said], &[toy.fresh(&prompt)]);
        }
        assert_eq!(store.stats().sequences, 4);
    }
}

#[test]
fn a_conversation_is_one_sequence() {
    for toy in models() {
        let mut store = PromptStore::new(Limits::default());
        let mut all: Vec<u32> = Vec::new();
        for turn in 0..6 {
            let before = all.len();
            all.extend((0..10).map(|i| 20 * turn + i));
            let (hit, said) = toy.serve(&mut store, &key("m"), &all, &[5, 6], &[]);
            assert_eq!(hit, before, "{toy:?}");
            assert_same(&[said], &[toy.fresh(&all)]);
            all.extend([5, 6]);
        }
        assert_eq!(store.stats().sequences, 1);
        // And its earlier turns are not lost.
        let earlier = [&all[..34], &[99; 9]].concat();
        let (hit, said) = toy.serve(&mut store, &key("m"), &earlier, &[], &[]);
        assert!(hit >= 24, "{hit} of {toy:?}");
        assert_same(&[said], &[toy.fresh(&earlier)]);
    }
}

#[test]
fn what_was_not_used_longest_goes_first() {
    let toy = Toy::of(&[CacheKind::Kv]);
    let mut store = PromptStore::new(Limits { sequences: 2, ..Limits::default() });
    let prompt = |first: u32| vec![first; 9];
    for first in [1, 2] {
        toy.serve(&mut store, &key("m"), &prompt(first), &[], &[]);
    }
    assert!(store.fetch(&key("m"), &prompt(1)).is_some());
    toy.serve(&mut store, &key("m"), &prompt(3), &[], &[]);
    let known: Vec<bool> = (1..4).map(|first| store.fetch(&key("m"), &prompt(first)).is_some()).collect();
    assert_eq!(known, [true, false, true]);
    store.limit(Limits { sequences: 1, bytes: usize::MAX });
    assert!(store.fetch(&key("m"), &prompt(3)).is_some() && store.fetch(&key("m"), &prompt(1)).is_none());
    store.limit(Limits { sequences: 1, bytes: 0 });
    assert_eq!((store.stats().sequences, store.stats().bytes), (0, 0));
}

#[test]
fn what_is_larger_than_the_store_is_not_kept() {
    let toy = Toy::of(&[CacheKind::Kv]);
    let mut store = PromptStore::new(Limits { sequences: 2, bytes: 1000 });
    let mut caches = toy.caches();
    toy.read(&mut caches, &[1, 2, 3], 0, 3);
    assert!(!store.insert(&key("m"), &[1, 2, 3], caches, Vec::new()).unwrap());
    assert_eq!(store.stats().bytes, 0);
    let empty = store.insert(&key("m"), &[], Caches::new(&toy.kinds), Vec::new());
    assert!(!empty.unwrap());
}

#[test]
fn checkpoints_cost_only_what_cannot_be_had_otherwise() {
    let toy = Toy::of(&[CacheKind::State { slots: 1 }, CacheKind::Kv]);
    let mut caches = toy.caches();
    let tokens: Vec<u32> = (0..300).collect();
    let mut checkpoints = Vec::new();
    for cut in [100, 200] {
        toy.read(&mut caches, &tokens, cut - 100, cut);
        checkpoints.push(Checkpoint::take(&caches, cut).unwrap());
    }
    toy.read(&mut caches, &tokens, 200, 300);
    // Four numbers, though they were a part of four thousand.
    assert_eq!(checkpoints[0].nbytes(), 16);
    let alone = caches.nbytes();
    let mut store = PromptStore::new(Limits::default());
    store.insert(&key("m"), &tokens, caches, checkpoints).unwrap();
    assert_eq!(store.stats().bytes, alone + 32);
    // Sequences that part share their checkpoints.
    let other = [&tokens[..210], &[7; 9]].concat();
    let (hit, _) = toy.serve(&mut store, &key("m"), &other, &[], &[]);
    assert_eq!(hit, 200);
    let hit = store.fetch(&key("m"), &[&tokens[..110], &[8]].concat()).unwrap();
    assert_eq!((hit.tokens, hit.checkpoints.len()), (100, 1));
}

#[test]
fn a_hit_far_back_does_not_hold_on_to_what_lies_behind() {
    let toy = Toy { step: 64, ..Toy::of(&[CacheKind::Kv]) };
    let mut store = PromptStore::new(Limits::default());
    let tokens: Vec<u32> = (0..2000).collect();
    toy.serve(&mut store, &key("m"), &tokens, &[], &[]);
    let prompt = [&tokens[..10], &[7, 8]].concat();
    let mut hit = store.fetch(&key("m"), &prompt).unwrap();
    let said = toy.read(&mut hit.caches, &prompt, 10, 12);
    assert_same(&[said], &[toy.fresh(&prompt)]);
    assert!(hit.caches.nbytes() * 7 < store.stats().bytes, "{} of {}", hit.caches.nbytes(), store.stats().bytes);
}

#[test]
fn caches_of_other_tokens_are_refused() {
    let toy = Toy::of(&[CacheKind::State { slots: 1 }, CacheKind::List(vec![CacheKind::Kv])]);
    let mut caches = toy.caches();
    toy.read(&mut caches, &[1, 2, 3], 0, 3);
    let mut store = PromptStore::new(Limits::default());
    let error = store.insert(&key("m"), &[1, 2], caches.clone(), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "caches that have read 3 tokens cannot be kept for 2");
    assert!(matches!(Checkpoint::take(&caches, 4), Err(Error::Read { read: 3, tokens: 4 })));
    assert!(store.fetch(&key("m"), &[1, 2, 3]).is_none());
}

#[test]
fn a_chunk_goes_back_no_further_than_it_is_held() {
    let toy = Toy { step: 1, ..Toy::of(&[CacheKind::Chunked { chunk_size: 5 }]) };
    let mut store = PromptStore::new(Limits::default());
    let tokens: Vec<u32> = (0..300).collect();
    let mut caches = toy.caches();
    toy.read(&mut caches, &tokens, 0, 300);
    store.insert(&key("m"), &tokens, caches, Vec::new()).unwrap();
    // What lies before 251 was dropped with the first buffer, in the middle of a chunk.
    for (common, known) in [(250, 0), (252, 0), (254, 0), (255, 255), (257, 257), (280, 280), (299, 299)] {
        let prompt = [&tokens[..common], &[7, 8, 9]].concat();
        let hit = store.fetch(&key("m"), &prompt);
        assert_eq!(hit.as_ref().map_or(0, |hit| hit.tokens), known);
        let Some(mut hit) = hit else { continue };
        let said = toy.read(&mut hit.caches, &prompt, hit.tokens, prompt.len());
        assert_same(&[said], &[toy.fresh(&prompt)]);
    }
}
