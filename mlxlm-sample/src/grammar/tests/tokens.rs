//! Tokens: those that end a text, those that mean something, those that are forced.

use super::*;

fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
    tokenizer.token_to_id(token).unwrap()
}

#[test]
fn a_text_ends_with_any_token_that_ends_texts() {
    let (tokenizer, grammars) = (toy(), toy_grammars());
    let ends = ["<end>", "<stop>"].map(|token| id(&tokenizer, token));
    let mut matcher = grammars.matcher(&regex("ab*")).unwrap();
    assert!(!matcher.can_end().unwrap());
    assert!(matcher.mask().unwrap().ids().eq([u32::from(b'a')]));
    matcher.accept(u32::from(b'a')).unwrap();
    assert!(matcher.can_end().unwrap() && !matcher.is_over());
    assert!(matcher.mask().unwrap().ids().eq([u32::from(b'b'), ends[0], ends[1]]));
    for end in ends {
        let mut copy = matcher.clone();
        assert_eq!(copy.accepted_prefix(&[u32::from(b'b'), end]).unwrap(), 2);
        copy.accept(end).unwrap();
        assert!(copy.is_over() && copy.can_end().unwrap());
        assert!(copy.mask().unwrap().ids().eq(ends), "nothing but an end comes after the end");
        assert_eq!(copy.accepted_prefix(&[ends[1], u32::from(b'b')]).unwrap(), 1);
        assert_eq!(copy.accepted_prefix(&[]).unwrap(), 0);
        copy.accept(ends[1]).unwrap();
        assert_eq!(copy.accept(u32::from(b'b')).unwrap_err(), GrammarError::Refused { id: u32::from(b'b') });
    }
    assert!(!matcher.is_over(), "copies go their own ways");
}

#[test]
fn without_a_token_that_ends_texts_an_answer_ends_by_itself() {
    let content =
        json!({"decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
    let tokenizer = Tokenizer::from_json("letters", &content, &TokenizerOptions::default()).unwrap();
    let mut matcher = Grammars::new(&tokenizer, 2).matcher(&regex("ab")).unwrap();
    matcher.accept(0).unwrap();
    matcher.accept(1).unwrap();
    assert!(matcher.is_over());
    assert_eq!(matcher.mask().unwrap().count(), 0);
}

#[test]
fn special_tokens_are_no_text() {
    let (tokenizer, grammars) = (toy(), toy_grammars());
    let special = SPECIAL.map(|token| id(&tokenizer, token));
    let mut matcher = grammars.matcher(&schema(json!({"type": "string"}))).unwrap();
    assert_eq!(take(&mut matcher, "\"a"), 2);
    let mask = matcher.mask().unwrap();
    assert!(special.iter().all(|id| !mask.allows(*id)));
    assert_eq!(mask.ids().filter(|id| *id as usize >= 256 + WORDS.len()).count(), 0, "nor are ids without a token");
    let mut any = grammars.matcher(&regex("(.|\n)*")).unwrap();
    let mask = any.mask().unwrap();
    assert!(special.iter().filter(|id| mask.allows(**id)).eq(&special[..2]), "only the ends are allowed");
    assert_eq!(any.accepted_prefix(&[special[2]]).unwrap(), 0);

    let mut called = grammars.matcher(&lark("start: \"x\" <|tool|> /[a-z]/")).unwrap();
    called.accept(u32::from(b'x')).unwrap();
    assert!(called.mask().unwrap().ids().eq([special[2]]));
    assert!(called.accept(u32::from(b'<')).is_err());
    called.accept(special[2]).unwrap();
    assert_eq!(called.mask().unwrap().count(), 26);
    let mut any_token = grammars.matcher(&lark("start: <[*]>")).unwrap();
    let mask = any_token.mask().unwrap();
    assert_eq!(mask.count(), 256 + WORDS.len() + SPECIAL.len() - 1, "ids without a token are none, nor is byte 255");
    let mut named = grammars.matcher(&lark(&format!("start: <[{}]> \"a\"", special[4]))).unwrap();
    assert!(named.mask().unwrap().ids().eq([special[4]]), "a token named `[7]` is not token 7");
}

/// The marks around thinking are plain added tokens in real vocabularies.
#[test]
fn marks_around_thinking_are_no_text() {
    let added: Vec<Value> = [("<think>", 3), ("</think>", 4), ("<b>", 5)]
        .map(|(token, id)| {
            json!({"id": id, "content": token, "special": false, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false})
        })
        .to_vec();
    let vocab = json!({"a": 0, "<": 1, "end": 2, "<think>": 3, "</think>": 4, "<b>": 5});
    let content = json!({"added_tokens": added, "decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    let options = TokenizerOptions { eos_token_ids: Some(vec![2, 77]), ..TokenizerOptions::default() };
    let tokenizer = Tokenizer::from_json("thinking", &content, &options).unwrap();
    let mut matcher = Grammars::new(&tokenizer, 6).matcher(&regex("[a-z<>/]+")).unwrap();
    assert!(matcher.mask().unwrap().ids().eq([0, 1, 5]), "a token that ends texts is none either");
}

#[test]
fn tokens_beyond_the_logits_do_not_come() {
    let mut matcher = Grammars::new(&toy(), 40).matcher(&regex(".*")).unwrap();
    let mask = matcher.mask().unwrap();
    assert_eq!((mask.vocab_size(), mask.words().len()), (40, 2));
    assert!(mask.allows(39) && !mask.allows(40) && !mask.allows(u32::MAX));
    for id in [40, 500, u32::MAX] {
        assert_eq!(matcher.accepted_prefix(&[33, id]).unwrap(), 1);
        assert_eq!(matcher.accept(id).unwrap_err(), GrammarError::Refused { id });
    }
    matcher.accept(33).unwrap();
}

#[test]
fn a_token_that_is_refused_changes_nothing() {
    let mut matcher = toy_grammars().matcher(&regex("ab+c")).unwrap();
    assert_eq!(matcher.accept(u32::from(b'b')).unwrap_err(), GrammarError::Refused { id: u32::from(b'b') });
    assert_eq!(take(&mut matcher, "abb"), 3);
    let before = matcher.mask().unwrap();
    assert!(matcher.accept(u32::from(b'a')).is_err());
    assert_eq!(matcher.accepted_prefix(&[u32::from(b'b'), u32::from(b'c'), u32::from(b'c')]).unwrap(), 2);
    assert_eq!(matcher.mask().unwrap(), before);
    assert_eq!(take(&mut matcher, "bc"), 2);
}

#[test]
fn what_is_forced_is_what_the_tokenizer_makes_of_it() {
    let named = json!({"type": "object", "required": ["temperature", "unit"], "additionalProperties": false,
        "properties": {"temperature": {"type": "integer"}, "unit": {"enum": ["celsius"]}}});
    for folder in TRAINED {
        let tokenizer = trained(folder);
        let mut matcher = Grammars::new(&tokenizer, 2000).matcher(&schema(named.clone())).unwrap();
        let spelled =
            |ids: &[u32]| -> Vec<u8> { ids.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).collect() };
        let word = "celsius";
        let Ok(mut choice) = Grammars::new(&tokenizer, 2000).matcher(&GrammarSpec::Choice(vec![word.into()])) else {
            panic!("{folder}");
        };
        let forced = choice.forced().unwrap();
        let all_bytes =
            (0..=0x7f).all(|byte| (0..2000).any(|id| tokenizer.token_bytes(id).is_some_and(|b| b == [byte])));
        // A vocabulary that cannot spell every text is never forced.
        assert_eq!(forced.is_empty(), !all_bytes, "{folder}");
        if all_bytes {
            assert!(word.as_bytes().starts_with(&spelled(&forced)), "{folder}");
            assert_eq!(choice.fast_forward().unwrap(), forced);
            let behind = tokenizer.encode(&format!("\n{word}"), false).unwrap();
            assert!(behind.windows(forced.len()).any(|part| part == forced), "{folder}: {forced:?} of {behind:?}");
        }
        let mut ids = Vec::new();
        while !matcher.can_end().unwrap() {
            let forced = matcher.fast_forward().unwrap();
            ids.extend(&forced);
            if forced.is_empty() {
                let mask = matcher.mask().unwrap();
                // No white space, and one digit: the shortest.
                let next = mask.ids().min_by_key(|id| {
                    let bytes = tokenizer.token_bytes(*id).unwrap();
                    (bytes.iter().any(u8::is_ascii_whitespace), bytes.last() != Some(&b'"'), bytes.len())
                });
                matcher.accept(next.unwrap()).unwrap();
                ids.push(next.unwrap());
            }
            assert!(ids.len() < 200, "{folder}: {:?}", String::from_utf8(spelled(&ids)));
        }
        let value: Value = serde_json::from_slice(&spelled(&ids)).unwrap();
        assert_eq!(value["unit"], "celsius", "{folder}");
    }
}
