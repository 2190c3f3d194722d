//! The page of architectures, `docs/architectures.md`, has all that are registered, and no others; README.md lists the same names.
//!
//! The page is made by `mlxlm models --markdown`, and a test of the binary compares the two to the letter. Here, where no
//! binary is built yet, the names in the sources of `mlxlm-models/src/arch` are compared with it. The list in README.md is made from
//! the page, by `cargo xtask tidy --write`.

use std::collections::BTreeSet;

use super::{File, Finding};

const PAGE: &str = "docs/architectures.md";
const SOURCES: &str = "mlxlm-models/src/arch/";
const README: &str = "README.md";
/// What stands before and after the list in README.md.
const LIST: [&str; 2] = ["<!-- model types: `cargo xtask tidy --write` -->\n", "<!-- end of model types -->"];
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
    let readme = files.iter().find(|file| file.path == README);
    let stale = readme.filter(|file| with_list(&file.text, &page.text).is_none_or(|text| text != file.text));
    let stale = stale.map(|file| {
        let line = file.text.split(LIST[0]).next().map_or(1, |before| before.lines().count() + 1);
        file.finding(
            line,
            "architectures",
            format!("the list of model types is not that of {PAGE}: run `cargo xtask tidy --write`"),
        )
    });
    missing.chain(unknown).chain(stale).collect()
}

/// README.md with a new list of model types; nothing if it is current, or if one of the files is missing.
pub(super) fn new_readme(files: &[File]) -> Option<(&str, String)> {
    let [readme, page] = [README, PAGE].map(|path| files.iter().find(|file| file.path == path));
    let (readme, page) = readme.zip(page)?;
    let text = with_list(&readme.text, &page.text)?;
    (text != readme.text).then_some((&readme.path, text))
}

/// The text with the list of model types of the page between the marks; nothing if the marks are missing.
fn with_list(text: &str, page: &str) -> Option<String> {
    let (before, rest) = text.split_once(LIST[0])?;
    let (_, after) = rest.split_once(LIST[1])?;
    Some([before, LIST[0], &list(page), LIST[1], after].concat())
}

/// The model types of the page in a paragraph.
fn list(page: &str) -> String {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let all = rows.flat_map(|row| quoted(row, '`')).map(|name| name.split(' ').next().unwrap_or(name));
    let names: BTreeSet<&str> = all.collect();
    let mut paragraph = format!("{} model types:", names.len());
    let mut width = paragraph.len();
    for (place, name) in names.iter().enumerate() {
        let word = format!("{name}{}", if place + 1 == names.len() { "." } else { "," });
        let is_next_line = width + 1 + word.len() > 118;
        paragraph += if is_next_line { "\n" } else { " " };
        width = if is_next_line { 0 } else { width + 1 } + word.len();
        paragraph += &word;
    }
    paragraph + "\n"
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
    fn the_readme_has_the_names_of_the_page() {
        let page = "| `b` | `a`, `c`, `c of C` |\n";
        let stale = format!("# X\n{}old\n{}\n", LIST[0], LIST[1]);
        let current = format!("# X\n{}3 model types: a, b, c.\n{}\n", LIST[0], LIST[1]);
        let files = |readme: &str| {
            let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
            let source =
                "//! A.\nconst ARCH: Architecture = Architecture::decoder::<Config>(&[\"a\", \"b\", \"c\"]);\n";
            [file(PAGE, page), file(README, readme), file("mlxlm-models/src/arch/a.rs", source)]
        };
        let findings = check(&files(&stale));
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
        assert_eq!(new_readme(&files(&stale)).unwrap().1, current);
        assert_eq!((check(&files(&current)), new_readme(&files(&current))), (Vec::new(), None));
        assert_eq!(check(&files("# X\n")).len(), 1, "a README without a list");
    }

    #[test]
    fn names_that_are_on_one_side_only_are_found() {
        let missing = found("| `a` | | x |\n", SOURCE);
        assert_eq!(missing, [format!("mlxlm-models/src/arch/a.rs:2: architectures: `b-c` is not in {PAGE}: {HOW}")]);
        let unknown = found("\n| `a` | `b-c`, `d` | x |\n", SOURCE);
        assert_eq!(unknown, [format!("{PAGE}:2: architectures: no architecture serves `d`: {HOW}")]);
    }
}
