//! The page of architectures, `docs/architectures.md`, has all that are registered, and no others.
//!
//! The page itself is made by `mlxlm models --markdown`, and a test of the binary compares the two to the letter. Here, where no
//! binary is built yet, the names in the sources of `mlxlm-models/src/arch` are held against it.

use std::collections::BTreeSet;

use super::{File, Finding};

const PAGE: &str = "docs/architectures.md";
const SOURCES: &str = "mlxlm-models/src/arch/";
const HOW: &str = "run `cargo run -p mlxlm-cli -- models --markdown > docs/architectures.md`";

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let sources = files.iter().filter(|file| file.path.starts_with(SOURCES));
    let registered: Vec<(&File, usize, &str, bool)> = sources
        .flat_map(|file| names(file).into_iter().map(move |(line, name, may_lack)| (file, line, name, may_lack)))
        .collect();
    if registered.is_empty() {
        return Vec::new();
    }
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        let file = File { path: PAGE.to_owned(), text: String::new() };
        return vec![file.finding(1, "architectures", format!("the page is missing: {HOW}"))];
    };
    let rows = page.text.lines().enumerate().filter(|(_, line)| line.starts_with("| `"));
    let listed: Vec<(usize, &str)> =
        rows.flat_map(|(line, row)| quoted(row, '`').map(move |name| (line, name))).collect();
    let on_page: BTreeSet<&str> = listed.iter().map(|(_, name)| *name).collect();
    let known: BTreeSet<&str> = registered.iter().map(|(_, _, name, _)| *name).collect();
    let missing = registered.iter().filter(|(_, _, name, may_lack)| !may_lack && !on_page.contains(name)).map(
        |(file, line, name, _)| file.finding(line + 1, "architectures", format!("`{name}` is not in {PAGE}: {HOW}")),
    );
    // `bailing_hybrid of BailingMoeV3ForCausalLM` is a name with a class.
    let unknown = listed.iter().filter(|(_, name)| !known.contains(name.split(' ').next().unwrap_or(name)));
    let unknown = unknown
        .map(|(line, name)| page.finding(line + 1, "architectures", format!("no architecture serves `{name}`: {HOW}")));
    missing.chain(unknown).collect()
}

/// The names that the architectures of a file serve, with their lines, and whether the page may lack them: `Architecture::decoder::<Config>(&["a", "b"])`.
fn names(file: &File) -> Vec<(usize, &str, bool)> {
    let mut found = Vec::new();
    for kind in ["Architecture::decoder::<", "Architecture::text_of(", "Architecture::model("] {
        for (at, _) in file.text.match_indices(kind) {
            let (before, rest) = file.text.split_at(at);
            // A text model inside another may be registered under a name of its own, or not.
            let may_lack = before.rsplit_once(": Architecture").is_some_and(|(declared, _)| declared.ends_with("TEXT"));
            let list = rest.split_once("&[").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
            let line = before.matches('\n').count();
            found.extend(quoted(list, '"').map(|name| (line, name, may_lack)));
        }
    }
    found
}

/// What stands between pairs of a character.
fn quoted(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.split(quote).skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str, source: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [file(PAGE, page), file("mlxlm-models/src/arch/a.rs", source)];
        check(&files).into_iter().map(|finding| finding.to_string()).collect()
    }

    const SOURCE: &str =
        "//! A.\nconst ARCH: Architecture = Architecture::decoder::<Config>(&[\"a\", \"b-c\"])\n    .x();\n";

    #[test]
    fn a_page_with_all_names_is_current() {
        assert_eq!(found("| `a` | `b-c`, `a of A` | x |\n", SOURCE), Vec::<String>::new());
        assert_eq!(found("", "//! Nothing.\n"), Vec::<String>::new());
    }

    #[test]
    fn names_that_are_on_one_side_only_are_found() {
        let missing = found("| `a` | | x |\n", SOURCE);
        assert_eq!(missing, [format!("mlxlm-models/src/arch/a.rs:2: architectures: `b-c` is not in {PAGE}: {HOW}")]);
        let unknown = found("\n| `a` | `b-c`, `d` | x |\n", SOURCE);
        assert_eq!(unknown, [format!("{PAGE}:2: architectures: no architecture serves `d`: {HOW}")]);
    }
}
