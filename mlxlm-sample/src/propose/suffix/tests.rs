//! Suffix automata against a search through the text.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Every earlier place of the longest end of `text` that has one, the most recent first.
fn search(text: &[u32]) -> Vec<Place> {
    let common = |end: usize| text.iter().rev().zip(text[..end].iter().rev()).take_while(|(a, b)| a == b).count();
    let places: Vec<Place> = (1..text.len()).rev().map(|end| Place { len: common(end), end }).collect();
    let longest = places.iter().map(|place| place.len).max().unwrap_or(0);
    places.into_iter().filter(|place| place.len == longest && longest > 0).collect()
}

/// What comes after a place, the text going on with the guess itself.
fn after(text: &[u32], place: Place, most: usize) -> Vec<u32> {
    let mut all = text.to_vec();
    (0..most.min(place.len)).for_each(|at| all.push(all[place.end + at]));
    all.split_off(text.len())
}

/// Texts that repeat themselves, over few tokens or many.
fn texts() -> impl Strategy<Value = Vec<u32>> {
    let random = |tokens: u32| vec(0..tokens, 0..60);
    let repeated = (vec(0u32..3, 1..8), vec(0u32..4, 0..6), 1usize..6)
        .prop_map(|(part, other, times)| [vec![part; times].concat(), other].concat().repeat(2));
    let wide = vec(prop_oneof![Just(0), Just(1), any::<u32>()], 0..60);
    prop_oneof![random(2), random(4), random(1), repeated, wide]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_longest_end_is_found_at_its_most_recent_place(text in texts(), most in 0usize..20, min_match in 0usize..5) {
        let mut index = SuffixIndex::new();
        for at in 0..text.len() {
            index.push(text[at]);
            let text = &text[..=at];
            let places = search(text);
            let len = places.first().map_or(0, |place| place.len);
            prop_assert_eq!((index.match_len(), index.tokens()), (len, text));
            let (guess, matched) = index.propose(most, min_match);
            prop_assert_eq!(matched, len);
            if len == 0 || len < min_match {
                prop_assert_eq!(guess, Vec::<u32>::new());
            } else {
                // Long runs of one token nest more deeply than places are learned.
                let exact = text.len() <= 32;
                let mut right = places.iter().take(if exact { 1 } else { places.len() });
                prop_assert!(right.any(|place| guess == after(text, *place, most)), "{:?} after {:?}", guess, text);
            }
        }
    }

    /// Texts of the past are searched, without what crosses from one to the next. What comes later is found as far as the text
    /// goes on with it, and what was found before is not lost.
    #[test]
    fn other_texts_are_searched(
        others in vec(vec(0u32..3, 0..20), 0..6),
        own in vec(0u32..4, 1..30),
        early in 0usize..6,
        before in 0usize..30,
        min_match in 0usize..4,
    ) {
        let early = early.min(others.len());
        let mut shared = SharedIndex::new(10_000);
        for text in &others[..early] {
            shared.add(text);
        }
        let mut cursor = Cursor::default();
        for at in 0..own.len() {
            if at == before {
                for text in &others[early..] {
                    shared.add(text);
                }
            }
            shared.advance(&mut cursor, own[at]);
            let longest = |texts: &[Vec<u32>]| {
                let ends = texts.iter().flat_map(|text| (1..=text.len()).map(move |end| &text[..end]));
                let common = |end: &[u32]| own[..=at].iter().rev().zip(end.iter().rev()).take_while(|(a, b)| a == b).count();
                ends.map(common).max().unwrap_or(0)
            };
            let known = if at < before { &others[..early] } else { &others[..] };
            let (guess, matched) = shared.propose(&cursor, 6, min_match);
            prop_assert!((longest(&others[..early])..=longest(known)).contains(&matched), "{matched}");
            let part = &own[at + 1 - matched..=at];
            let goes_on = |text: &Vec<u32>| {
                let mut ends = (matched..=text.len()).filter(|end| text[end - matched..*end] == *part);
                ends.any(|end| guess == text[end..].iter().take(6.min(matched)).copied().collect::<Vec<_>>())
            };
            prop_assert!(guess.is_empty() || (matched >= min_match && known.iter().any(goes_on)), "{guess:?}");
        }
        let added = if before < own.len() { others.len() } else { early };
        prop_assert_eq!(shared.len(), others[..added].iter().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn a_period_goes_on() {
    let mut index = SuffixIndex::new();
    index.extend([1, 2, 3, 1, 2, 3, 1, 2]);
    assert_eq!(index.propose(9, 1), (vec![3, 1, 2, 3, 1], 5));
    index.extend([9]);
    assert_eq!(index.propose(9, 0), (vec![], 0));
    assert_eq!(SuffixIndex::new().propose(9, 0), (vec![], 0));
}

#[test]
fn the_most_recent_place_is_taken() {
    let mut index = SuffixIndex::new();
    index.extend([1, 2, 7, 1, 2, 8, 1, 2]);
    assert_eq!(index.propose(1, 1), (vec![8], 2));
}

#[test]
fn the_oldest_texts_are_dropped() {
    let mut shared = SharedIndex::new(1000);
    let text = |number: u32| (0..99).map(|at| 1000 * number + at).collect::<Vec<u32>>();
    for number in 0..100 {
        shared.add(&text(number));
        assert!(shared.len() <= 1000);
        let finds = |number: u32| {
            let mut cursor = Cursor::default();
            text(number)[..10].iter().for_each(|token| shared.advance(&mut cursor, *token));
            shared.propose(&cursor, 5, 2).0 == text(number)[10..15]
        };
        let first_kept = (0..=number).find(|number| finds(*number)).unwrap();
        assert!(
            (first_kept..=number).all(finds) && number - first_kept + 1 >= 5.min(number + 1),
            "{number}: {first_kept}"
        );
    }
    // Of a text that is longer than a half, the end is kept.
    shared.add(&(0..5000).collect::<Vec<u32>>());
    let mut cursor = Cursor::default();
    (4900..4910).for_each(|token| shared.advance(&mut cursor, token));
    assert_eq!(shared.propose(&cursor, 3, 2), (vec![4910, 4911, 4912], 10));
    let mut none = SharedIndex::new(1);
    none.add(&[1, 2, 3]);
    assert!(none.is_empty() && !shared.is_empty());
}

/// A text that grows meanwhile does not lose what it had found when a half is dropped.
#[test]
fn a_cursor_moves_to_new_halves() {
    let mut shared = SharedIndex::new(400);
    let text: Vec<u32> = (0..100).collect();
    let mut cursor = Cursor::default();
    for round in 0..10u32 {
        shared.add(&text);
        shared.add(&[1000 + round; 60]);
        let token = round * 5;
        (token..token + 5).for_each(|token| shared.advance(&mut cursor, token));
        let expected = (token + 5..token + 8).collect::<Vec<u32>>();
        assert_eq!(shared.propose(&cursor, 3, 2), (expected, 5 * round as usize + 5));
    }
}

/// A linear congruence, for texts with few repetitions.
fn noise(tokens: usize, vocabulary: u64) -> impl Iterator<Item = u32> {
    let mut state = 1u64;
    (0..tokens).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocabulary) as u32
    })
}

#[test]
fn time_and_memory_grow_with_the_text() {
    let count = 200_000;
    let texts: [(&str, Vec<u32>); 5] = [
        ("one token", vec![5; count]),
        ("two tokens", noise(count, 2).collect()),
        ("many tokens", noise(count, 100_000).collect()),
        ("a period", (0..count as u32).map(|at| at % 1000).collect()),
        ("new tokens", (0..count as u32).collect()),
    ];
    for (name, text) in texts {
        let begun = Instant::now();
        let mut index = SuffixIndex::new();
        index.extend(text);
        // It takes a tenth of a second; with quadratic work it would be hours.
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
        let bytes = index.bytes() / count;
        // 57 to 122 when this was written, the spare room of what grows included.
        assert!(bytes <= 150, "{name}: {bytes} bytes a token");
    }
}
