//! Texts to repeat and to edit: words in random order, names, numbers, words that do not exist, sentences and whole stories.
//! They teach the model to copy, which is what prompt-lookup decoding lives on.

use super::rng::Rng;
use super::stories::Library;
use super::words::{BOYS, GIRLS, PLAIN, SYLLABLES, TOYS, capitalised, listed};

/// An instruction with a text in it, and what comes out.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) instruction: String,
    pub(crate) result: String,
}

/// "Repeat after me: …".
pub(crate) fn repeat(library: &Library, rng: &mut Rng) -> Task {
    let text = passage(library, rng);
    let instruction = match rng.weighted(&[40, 20, 10, 10, 8, 6]) {
        0 => format!("Repeat after me: {text}"),
        1 => format!("Copy this text: {text}"),
        2 => format!("Repeat this: {text}"),
        3 => format!("Say: {text}"),
        4 => format!("Write this again: {text}"),
        _ => format!("Repeat the following text.\n{text}"),
    };
    Task { instruction, result: text }
}

/// A change to a given text.
pub(crate) fn edit(library: &Library, rng: &mut Rng) -> Task {
    match rng.weighted(&[45, 20, 20, 15]) {
        0 => replace(library, rng),
        1 => rename(library, rng),
        2 => append(library, rng),
        _ => undouble(library, rng),
    }
}

/// A row of words and the same row again: induction and nothing else.
pub(crate) fn echo(rng: &mut Rng) -> String {
    let row = row_of_words(rng, 3, 10);
    let times = if row.split(' ').count() < 6 { 3 } else { 2 };
    vec![row; times].join("\n")
}

fn passage(library: &Library, rng: &mut Rng) -> String {
    match rng.weighted(&[30, 12, 10, 12, 24, 12]) {
        0 => row_of_words(rng, 2, 14),
        1 => {
            let names: Vec<String> = [BOYS, GIRLS].concat().iter().map(ToString::to_string).collect();
            let count = rng.between(2, 6);
            listed(&rng.sample(&names, count))
        }
        2 => {
            let numbers: Vec<String> = (0..rng.between(3, 10)).map(|_| rng.below(100).to_string()).collect();
            numbers.join(if rng.chance(50) { " " } else { ", " })
        }
        3 => (0..rng.between(1, 6)).map(|_| made_up_word(rng)).collect::<Vec<_>>().join(" "),
        4 => sentence(library, rng),
        _ => some_sentences(library, rng, 5),
    }
}

fn row_of_words(rng: &mut Rng, least: usize, most: usize) -> String {
    let row: Vec<String> = (0..rng.between(least, most))
        .map(|_| if rng.chance(10) { made_up_word(rng) } else { rng.pick(PLAIN).to_owned() })
        .collect();
    row.join(" ")
}

fn made_up_word(rng: &mut Rng) -> String {
    let word: String = (0..rng.between(2, 4)).map(|_| rng.pick(SYLLABLES)).collect();
    if rng.chance(30) { capitalised(&word) } else { word }
}

/// One sentence of a story, without speech in it.
fn sentence(library: &Library, rng: &mut Rng) -> String {
    loop {
        let story = library.story(rng);
        let part = &story.parts[rng.below(story.parts.len())];
        let sentences: Vec<&str> = part.split_inclusive(['.', '!', '?']).map(str::trim).collect();
        let sentence = rng.pick(&sentences);
        if !sentence.contains('"') && sentence.contains(' ') {
            return sentence.to_owned();
        }
    }
}

/// The first parts of a story.
fn some_sentences(library: &Library, rng: &mut Rng, most: usize) -> String {
    let story = library.story(rng);
    story.parts[..rng.between(2, most)].join(" ")
}

fn replace(library: &Library, rng: &mut Rng) -> Task {
    let text = if rng.chance(50) { row_of_words(rng, 3, 10) } else { sentence(library, rng) };
    let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 2).collect();
    let old = rng.pick(&words);
    let mut new = rng.pick(PLAIN).to_string();
    if old.starts_with(char::is_uppercase) {
        new = capitalised(&new);
    }
    let result = with_word_replaced(&text, old, &new);
    let instruction = match rng.below(3) {
        0 => format!("Replace {old} with {new}: {text}"),
        1 => format!("Replace the word {old} with {new} in this text: {text}"),
        _ => format!("Change {old} to {new} in this text.\n{text}"),
    };
    Task { instruction, result }
}

/// Another hero's name, or another toy, in the beginning of a story.
fn rename(library: &Library, rng: &mut Rng) -> Task {
    let text = some_sentences(library, rng, 4);
    let told_of =
        |words: &[&'static str]| words.iter().copied().find(|word| with_word_replaced(&text, word, "") != text);
    let (old, new) = match (told_of(TOYS), told_of(BOYS), told_of(GIRLS)) {
        (Some(toy), _, _) if rng.chance(50) => (toy, rng.pick(TOYS)),
        (_, Some(boy), _) => (boy, rng.pick(BOYS)),
        (_, _, girl) => (girl.unwrap_or(GIRLS[0]), rng.pick(GIRLS)),
    };
    let result = with_word_replaced(&text, old, new);
    Task { instruction: format!("Replace {old} with {new} in this story.\n{text}"), result }
}

fn append(library: &Library, rng: &mut Rng) -> Task {
    let (text, added) = (sentence(library, rng), sentence(library, rng));
    if rng.chance(60) {
        let instruction = format!("Add this sentence at the end: {added}\nText: {text}");
        Task { instruction, result: format!("{text} {added}") }
    } else {
        let instruction = format!("Add this sentence at the beginning: {added}\nText: {text}");
        Task { instruction, result: format!("{added} {text}") }
    }
}

fn undouble(library: &Library, rng: &mut Rng) -> Task {
    let result = sentence(library, rng);
    let mut words: Vec<&str> = result.split(' ').collect();
    let at = rng.below(words.len() - 1);
    words.insert(at, words[at]);
    Task { instruction: format!("Remove the doubled word: {}", words.join(" ")), result }
}

/// `text` with each whole word `old` as `new`.
fn with_word_replaced(text: &str, old: &str, new: &str) -> String {
    text.split_inclusive(|c: char| !c.is_alphabetic())
        .map(|piece| match piece.strip_prefix(old) {
            Some(rest) if !rest.starts_with(char::is_alphabetic) => format!("{new}{rest}"),
            _ => piece.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_replaced() {
        assert_eq!(with_word_replaced("The cat, a cat's catalog. cat", "cat", "dog"), "The dog, a dog's catalog. dog");
    }

    #[test]
    fn what_is_to_be_repeated_stands_in_the_instruction() {
        let (library, mut rng) = (Library::new(), Rng::new(3));
        for _ in 0..500 {
            let task = repeat(&library, &mut rng);
            assert!(task.instruction.ends_with(&task.result), "{task:?}");
            assert!(!task.result.is_empty());
        }
    }

    #[test]
    fn edits_do_what_they_say() {
        let (library, mut rng) = (Library::new(), Rng::new(4));
        for _ in 0..500 {
            let task = undouble(&library, &mut rng);
            let (_, doubled) = task.instruction.split_once(": ").expect("the text follows a colon");
            assert_eq!(doubled.split(' ').count(), task.result.split(' ').count() + 1);

            let task = replace(&library, &mut rng);
            let text = task.instruction.split_once([':', '\n']).expect("a text").1.trim();
            assert_eq!(text.split(' ').count(), task.result.split(' ').count(), "{task:?}");

            let task = rename(&library, &mut rng);
            let head: Vec<&str> = task.instruction.split(' ').take(4).collect();
            let (old, new) = (head[1], head[3]);
            let text = task.instruction.split_once('\n').expect("a text").1;
            assert_eq!(task.result, with_word_replaced(text, old, new));
            assert!(text.contains(old) && task.result.contains(new), "{task:?}");
        }
    }

    #[test]
    fn an_echo_says_its_row_twice_at_least() {
        let echo = echo(&mut Rng::new(5));
        let rows: Vec<&str> = echo.lines().collect();
        assert!(rows.len() >= 2 && rows.iter().all(|row| *row == rows[0]));
    }
}
