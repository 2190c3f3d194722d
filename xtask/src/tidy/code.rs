//! Rust text without what is not code: comments, strings and characters become spaces, and tests can be told
//! apart. Lines and columns stay. It knows as much of Rust as that needs, and no more.

/// `text` with comments and literals blanked.
pub(super) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` if none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let word_before = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |c| c == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => string_end(chars, at),
        'r' if !word_before || chars[at - 1] == 'b' || chars[at - 1] == 'c' => raw_string_end(chars, at),
        '\'' => char_end(chars, at),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|c| wanted(*c)).map_or(chars.len(), |offset| from + offset)
}

/// Block comments nest.
fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut here) = (0, at);
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => (depth, here) = (depth + 1, here + 2),
            ('*', '/') => (depth, here) = (depth - 1, here + 2),
            _ => here += 1,
        }
        if depth == 0 {
            return here;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut here = at + 1;
    while here < chars.len() && chars[here] != '"' {
        here += if chars[here] == '\\' { 2 } else { 1 };
    }
    (here + 1).min(chars.len())
}

/// `r"…"`, `r#"…"#`; `r#name` is no string.
fn raw_string_end(chars: &[char], at: usize) -> usize {
    let quote = find(chars, at + 1, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return at;
    }
    let mut close = vec!['"'];
    close.resize(quote - at, '#');
    let body = &chars[quote + 1..];
    let length = body.windows(close.len()).position(|window| window == close);
    length.map_or(chars.len(), |length| quote + 1 + length + close.len())
}

/// `'x'`, `'\n'`, `'\u{1f600}'`; `'a` alone is a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => (find(chars, at + 3, |c| c == '\'') + 1).min(chars.len()),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The offsets at which `word` stands in `line` as a whole word; `word` may end in punctuation.
pub(super) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let cut = |edge: Option<char>, c: Option<char>| !(edge.is_some_and(is_word) && c.is_some_and(is_word));
        cut(word.chars().next(), before) && cut(word.chars().next_back(), after)
    })
}

/// For each line of `code` whether it belongs to an item under `#[cfg(test)]`.
pub(super) fn test_lines(code: &str) -> Vec<bool> {
    let mut marks = Vec::new();
    // `None` outside; else the depth of braces since the attribute.
    let mut inside: Option<i32> = None;
    for line in code.lines() {
        if inside.is_none() && line.contains("#[cfg(test)]") {
            inside = Some(0);
        }
        marks.push(inside.is_some());
        let after = line.split_once("#[cfg(test)]").map_or(line, |(_, rest)| rest);
        for c in after.chars() {
            inside = match (inside, c) {
                (Some(depth), '{') => Some(depth + 1),
                (Some(1), '}') | (Some(0), ';') => None,
                (Some(depth), '}') => Some(depth - 1),
                (same, _) => same,
            };
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, wanted: &str) {
        assert_eq!(code(text), wanted);
    }

    #[test]
    fn comments_go() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check("a /* b", "a     ");
    }

    #[test]
    fn literals_go() {
        check(r#"f("x\"y", z)"#, "f(      , z)");
        check("f(r#\"x\"y\"#, z)", "f(        , z)");
        check("r#type", "r#type");
        check("f('\"', '\\'', 'a')", "f(   ,     ,    )");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("\"two\nlines\"", "    \n      ");
    }

    #[test]
    fn whole_words_only() {
        assert_eq!(words("unsafe_code unsafe", "unsafe").collect::<Vec<_>>(), [12]);
        assert_eq!(words("eprintln!() println!()", "println!").collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn tests_are_told_apart() {
        let text =
            "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        assert_eq!(test_lines(text), [false, true, true, true, true, false, true, true, false]);
    }
}
