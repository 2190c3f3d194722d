//! The examples of `docs/server.md`, as they stand there.

use std::sync::Arc;

use mlxlm_serve::{Models, OtherModel, ServerOptions};

use crate::house::{House, demo, options};

/// The words of a command line in which nothing but single quotes is special.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    assert!(!is_quoted, "{line}");
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_examples_of_the_documentation_are_answered() {
    let root = tempfile::tempdir().unwrap();
    crate::adapters::write(&root.path().join("pirate"), 3);
    let loader = || -> mlxlm_serve::Loader { Arc::new(|| Ok(Models { main: demo(), draft: None })) };
    let second = OtherModel { names: vec!["second".into()], loader: loader(), bytes: 1 };
    let options = ServerOptions { adapter_roots: vec![root.path().to_owned()], models: vec![second], ..options() };
    let house = House::with(options, loader());
    let mut asked = 0;
    for line in include_str!("../../../docs/server.md").lines().filter(|line| line.starts_with("curl ")) {
        let words = words(line);
        let after = |option: &str| words.iter().position(|word| word == option).map(|at| words[at + 1].as_str());
        let address =
            words.iter().find_map(|word| word.strip_prefix("localhost:8080")).unwrap_or_else(|| panic!("{line}"));
        let data = after("-d");
        let method = after("-X").unwrap_or(if data.is_some() { "POST" } else { "GET" });
        let answer = house.ask(method, address, &[], data.unwrap_or_default().as_bytes());
        assert_eq!(answer.status, 200, "{line}\n{answer:?}");
        asked += 1;
    }
    assert!(asked >= 15, "{asked}");
}
