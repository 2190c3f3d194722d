//! Limits, the cache, threads.

use std::time::Duration;

use mlxlm_core::Hint;

use super::*;

fn limited(limits: GrammarLimits) -> Grammars {
    Grammars::with_limits(&toy(), TOY_SIZE, limits)
}

#[test]
fn a_grammar_is_compiled_once_and_followed_many_times() {
    let grammars = limited(GrammarLimits { cached: 2, ..GrammarLimits::default() });
    let spec = |number: usize| regex(&format!("a{number}+"));
    let mut first = grammars.matcher(&spec(1)).unwrap();
    assert_eq!(take(&mut first, "a11"), 3);
    let mut second = grammars.matcher(&spec(1)).unwrap();
    assert_eq!((grammars.cached(), take(&mut second, "a1")), (1, 2), "a matcher begins at the beginning");
    for number in 2..6 {
        assert!(answers(&grammars, &spec(number), &format!("a{number}")));
        // The first is used in between, and stays.
        assert!(answers(&grammars, &spec(1), "a1"));
    }
    assert_eq!(grammars.cached(), 2);
    let kinds = [regex("x"), lark("start: \"x\""), GrammarSpec::Choice(vec!["x".into()])];
    assert!(kinds.iter().all(|spec| answers(&grammars, spec, "x")));
    let none = limited(GrammarLimits { cached_bytes: 10, ..GrammarLimits::default() });
    assert!(answers(&none, &spec(1), "a1"));
    assert_eq!(none.cached(), 0);
}

/// What one answer learns of a grammar, and how it fails, is nothing to others.
#[test]
fn an_answer_that_fails_leaves_others_alone() {
    let grammars = toy_grammars();
    let spec = regex("x|a((b{100}){100}){100}");
    let mut other = grammars.matcher(&spec).unwrap();
    let mut failing = grammars.matcher(&spec).unwrap();
    failing.accept(u32::from(b'a')).unwrap();
    let b = u32::from(b'b');
    let error = (0..100).find_map(|_| failing.mask().and_then(|_| failing.accept(b)).err()).unwrap();
    assert!(matches!(error, GrammarError::TooComplex { .. }), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(failing.accept(b).unwrap_err(), error, "what failed stays failed");
    assert_eq!(failing.clone().can_end().unwrap_err(), error);
    assert!(!failing.is_over());
    for matcher in [&mut other, &mut grammars.matcher(&spec).unwrap()] {
        matcher.accept(u32::from(b'x')).unwrap();
        assert!(matcher.is_over());
    }
}

#[test]
fn what_is_too_large_is_not_compiled() {
    let grammars = limited(GrammarLimits { schema_bytes: 1000, source_bytes: 100, ..GrammarLimits::default() });
    for (spec, what) in [
        (schema(json!({"title": "x".repeat(1000)})), "bytes"),
        (GrammarSpec::Choice(vec!["x".repeat(500); 2]), "bytes"),
        (regex(&"x".repeat(101)), "bytes"),
        (lark(&"x".repeat(101)), "bytes"),
        (schema(json!({"enum": vec![json!([]); 17_000]})), "objects and lists"),
        (schema(json!({"anyOf": vec![json!({"$ref": "#/$defs/a"}); 2100]})), "references"),
    ] {
        let error = grammars.matcher(&spec).unwrap_err();
        assert!(matches!(error, GrammarError::TooLarge { what: w, .. } if w == what), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn time_and_threads_are_limited() {
    let limit = Duration::from_millis(1);
    let slow = limited(GrammarLimits { time: limit, compiling: 1, ..GrammarLimits::default() });
    // It takes most of a second.
    let long = regex("((a{1000}){1000}){1000}");
    assert_eq!(slow.matcher(&long).unwrap_err(), GrammarError::TooSlow { kind: "regular expression", limit });
    assert_eq!(slow.matcher(&long).unwrap_err(), GrammarError::Busy { running: 1 }, "it goes on until it ends");
    let busy = limited(GrammarLimits { compiling: 0, ..GrammarLimits::default() });
    assert_eq!(busy.matcher(&GrammarSpec::JsonObject).unwrap_err(), GrammarError::Busy { running: 0 });
    assert_eq!(
        busy.matcher(&GrammarSpec::JsonObject).unwrap_err(),
        GrammarError::Busy { running: 0 },
        "it did not count"
    );
    let one = limited(GrammarLimits { compiling: 1, ..GrammarLimits::default() });
    for number in 0..200 {
        one.matcher(&regex(&format!("a{number}"))).unwrap();
    }
}

#[test]
fn threads_share_it() {
    fn sends<T: Send>(value: T) -> T {
        value
    }
    let grammars = toy_grammars();
    let texts: Vec<usize> = std::thread::scope(|scope| {
        let follow = |number: usize| {
            let mut matcher = sends(grammars.matcher(&regex("[0-9]+x")).unwrap());
            take(&mut matcher, &format!("{number}x"))
        };
        let threads: Vec<_> = (1..4).map(|number| scope.spawn(move || follow(number * number * 10))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(texts, [3, 3, 3]);
}

#[test]
fn tokens_that_make_no_text_cannot_follow_a_grammar() {
    let content = json!({
        "decoder": {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": false},
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
    });
    let tokenizer = Tokenizer::from_json("ctc", &content, &TokenizerOptions::default()).unwrap();
    for grammars in [Grammars::new(&tokenizer, 2), Grammars::new(&toy(), 0), Grammars::new(&toy(), 1 << 24)] {
        let error = grammars.matcher(&regex("a")).unwrap_err();
        assert!(matches!(error, GrammarError::Tokenizer { .. }), "{error}");
    }
}

#[test]
fn a_token_that_is_too_long_is_not_used() {
    let vocab = json!({"a": 0, "a".repeat(1000): 1, "a".repeat(1001): 2, "a".repeat(5000): 3});
    let content = json!({"decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    let tokenizer = Tokenizer::from_json("long", &content, &TokenizerOptions::default()).unwrap();
    let mut matcher = Grammars::new(&tokenizer, 4).matcher(&regex("a*b?")).unwrap();
    assert!(matcher.mask().unwrap().ids().eq([0, 1]));
}
