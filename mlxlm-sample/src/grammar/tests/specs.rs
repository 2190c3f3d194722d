//! What every kind of grammar takes and refuses.

use super::*;

/// Texts that are answers, and texts that are not.
fn check(spec: &GrammarSpec, right: &[&str], wrong: &[&str]) {
    let grammars = toy_grammars();
    for text in right {
        assert!(answers(&grammars, spec, text), "{spec:?}: {text:?}");
    }
    for text in wrong {
        assert!(!answers(&grammars, spec, text), "{spec:?}: {text:?}");
    }
}

#[test]
fn choices() {
    let spec = |choices: &[&str]| GrammarSpec::Choice(choices.iter().map(|choice| (*choice).to_owned()).collect());
    check(&spec(&["yes", "no", "nobody"]), &["yes", "no", "nobody"], &["", "y", "nob", "yes ", "maybe"]);
    check(&spec(&["a.c", "日/\n\"\\"]), &["a.c", "日/\n\"\\"], &["abc", "日"]);
    check(&spec(&["", "a"]), &["", "a"], &["b"]);
    check(&spec(&["<end>"]), &["<end>"], &["<"]);
}

#[test]
fn regular_expressions() {
    check(&regex("[0-9]{2}:[0-9]{2}"), &["12:59"], &["1:59", "12:599", "12-59"]);
    check(&regex("a|b*"), &["a", "", "bbb"], &["ab"]);
    check(&regex("^a/b\\.$"), &["a/b."], &["a/b", "xa/b."]);
    check(&regex(r"(?i)yes|\p{Greek}+"), &["YES", "yEs", "αβ"], &["abc"]);
    check(&regex(""), &[""], &["a"]);
    check(&regex("a\nb"), &["a\nb"], &["a b"]);
}

#[test]
fn lark_grammars() {
    let sum = "start: sum\nsum: sum \"+\" product | product\nproduct: NUMBER | \"(\" sum \")\"\nNUMBER: /[0-9]+/";
    check(&lark(sum), &["1", "1+2", "(1+2)+30"], &["", "1+", "(1", "1 + 2"]);
    check(&lark("start: A B?\nA: \"a\"\nB: \"b\"\n%ignore / /"), &["a", "ab", "a b"], &["b"]);
    check(&lark(r#"start: "x" %json {"type": "integer"}"#), &["x12"], &["x", "12"]);
}

#[test]
fn json_objects() {
    let right = ["{}", r#"{"a":1}"#, r#"{"a": [1, -2.5e3, "x\n"], "b": {"c": null}}"#, "{\n  \"a\": true\n}"];
    check(&GrammarSpec::JsonObject, &right, &["", "[]", "1", "{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":01}"#, " {}"]);
}

#[test]
fn json_schemas() {
    let person = json!({
        "type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    });
    let right = [r#"{"name":"Anna"}"#, r#"{"name": "日本", "age": 120}"#];
    let wrong = ["{}", r#"{"age":1}"#, r#"{"name":"Annas"}"#, r#"{"name":"A","age":121}"#, r#"{"name":"A","x":1}"#];
    check(&schema(person), &right, &wrong);
    check(&schema(json!(true)), &["1", "\"a\"", "[1, 2]"], &["[1 2]", "a"]);
    check(&schema(json!({"enum": ["a", 1, null]})), &["\"a\"", "1", "null"], &["a", "2"]);
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["next"], "additionalProperties": false,
    }}});
    check(&schema(tree), &[r#"{"next":null}"#, r#"{"next":{"next":null}}"#], &[r#"{"next":1}"#, "{}"]);
    let kinds = json!({"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}, "required": ["kind", "n"]},
        {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
    ]});
    check(&schema(kinds), &[r#"{"kind":"a","n":1}"#, r#"{"kind":"b"}"#], &[r#"{"kind":"c"}"#]);
}

#[test]
fn what_cannot_be_kept_is_named() {
    let grammars = toy_grammars();
    let check = |spec: GrammarSpec, words: &[&str]| {
        let error = grammars.matcher(&spec).unwrap_err();
        assert!(matches!(error, GrammarError::Bad { .. }), "{spec:?}: {error}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)) && text.lines().count() == 1, "{spec:?}: {text}");
    };
    check(schema(json!({"not": {"type": "string"}})), &["JSON schema", "not"]);
    check(schema(json!({"type": "array", "uniqueItems": true})), &["uniqueItems"]);
    check(schema(json!({"type": "object", "properties": {"a": {"if": true}}})), &["if"]);
    check(schema(json!({"type": "strin"})), &["strin"]);
    check(schema(json!({"type": "string", "format": "poem"})), &["poem"]);
    check(schema(json!({"oneOf": [{"type": "string"}, {"type": "string"}]})), &["oneOf"]);
    check(schema(json!({"$ref": "#/$defs/none"})), &["none"]);
    check(schema(json!({"$ref": "https://example.org/schema.json"})), &["example.org"]);
    check(schema(json!({"type": "object", "x-guidance": {"whitespace_pattern": "\\s*"}})), &["x-guidance"]);
    check(schema(json!([1])), &["no object"]);
    check(regex("(a"), &["regular expression", "unclosed"]);
    check(regex("a\\"), &["incomplete"]);
    check(regex("a(?=b)"), &["look-around"]);
    check(regex(r"(a)\1"), &["backreference"]);
    check(lark("start: a"), &["Lark grammar", "a"]);
    check(lark("rule: \"a\""), &["start"]);
    check(lark("start: <|nothing|>"), &["nothing"]);
    check(lark(""), &["Lark"]);
    let error = GrammarSpec::json_schema("{\"type\": ").unwrap_err();
    assert!(error.to_string().contains("EOF"), "{error}");
    assert_eq!(GrammarSpec::json_schema("{}").unwrap(), schema(json!({})));
}

#[test]
fn what_nothing_satisfies_is_said() {
    let grammars = toy_grammars();
    let endless = json!({"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]});
    let end = json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/e"}}, "required": ["x"]});
    let inner = json!({"type": "object", "properties": {"y": {"$ref": "#/$defs/e"}}, "$defs": {"e": end}});
    for spec in [
        schema(json!(false)),
        schema(json!({"type": "integer", "minimum": 5, "maximum": 3})),
        schema(json!({"type": "string", "pattern": "^a$", "minLength": 5})),
        schema(json!({"type": "object", "properties": {"a": false}, "required": ["a"]})),
        schema(json!({"allOf": [{"type": "string"}, {"type": "integer"}]})),
        schema(json!({"enum": []})),
        schema(json!({"$ref": "#"})),
        schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})),
        schema(endless),
        schema(inner),
        lark("start: A\nA: /a/ & /b/"),
        lark("start: start"),
        lark("start: \"a\" start"),
        lark("start: a | \"x\"\na: b \"x\"\nb: a"),
        GrammarSpec::Choice(vec![]),
    ] {
        let result = grammars.matcher(&spec);
        assert!(matches!(result, Err(GrammarError::Unsatisfiable { .. })), "{spec:?}: {result:?}");
    }
}

/// What cannot be seen before is an error of the answer.
#[test]
fn an_answer_that_cannot_go_on_is_an_error() {
    let grammars = toy_grammars();
    let mut matcher = grammars.matcher(&lark("start: \"a\" A | \"b\"\nA: /c/ & /d/")).unwrap();
    if matcher.accept(u32::from(b'a')).is_ok() {
        let error = matcher.mask().unwrap_err();
        assert!(matches!(error, GrammarError::Unsatisfiable { .. }), "{error}");
        assert_eq!(matcher.accept(u32::from(b'c')).unwrap_err(), error, "what failed stays failed");
    }
    let mut matcher = grammars.matcher(&lark("start: \"a\" A | \"b\"\nA: /c/ & /d/")).unwrap();
    matcher.accept(u32::from(b'b')).unwrap();
    assert!(matcher.is_over());
}
