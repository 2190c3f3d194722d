//! The corpus: documents of every kind, mixed by weight, all drawn from one seed. A document is raw text or a conversation in
//! the chat template, and ends with the end-of-text token.

use super::chat::{Conversation, END_OF_TEXT};
use super::copying::{self, Task};
use super::facts;
use super::objects;
use super::rng::Rng;
use super::stories::{Library, ONCE, Story};
use super::tools;
use super::words::{COLOURS, a};

/// One text to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

/// A document before it is text.
enum Draft {
    Raw(String),
    Chat(Conversation),
}

type Writer = fn(&Library, &mut Rng) -> Draft;

/// Each kind with its weight among the documents.
const KINDS: [(&str, usize, Writer); 13] = [
    ("story", 70, |library, rng| Draft::Raw(library.story(rng).text())),
    ("story told", 55, |library, rng| Draft::Chat(story_told(library, rng))),
    ("story continued", 75, |library, rng| Draft::Chat(story_continued(library, rng))),
    ("fact", 170, |_, rng| Draft::Chat(fact(rng))),
    ("sum", 140, |_, rng| Draft::Chat(sum(rng))),
    ("small talk", 40, |_, rng| Draft::Chat(small_talk(rng))),
    ("dialogue", 60, |_, rng| Draft::Chat(dialogue(rng))),
    ("repeat", 170, |library, rng| Draft::Chat(task(copying::repeat(library, rng), rng))),
    ("edit", 90, |library, rng| Draft::Chat(task(copying::edit(library, rng), rng))),
    ("echo", 80, |_, rng| Draft::Raw(copying::echo(rng))),
    ("json", 100, |_, rng| Draft::Chat(object(rng))),
    ("tool", 45, |_, rng| Draft::Chat(tools::conversation(rng))),
    ("no tool", 10, |_, rng| Draft::Chat(tools::without_tools(rng))),
];

/// `count` documents; the same seed gives the same ones, and more of them begin with the same.
pub(crate) fn documents(seed: u64, count: usize) -> Vec<Document> {
    let (library, mut rng) = (Library::new(), Rng::new(seed));
    (0..count)
        .map(|_| {
            let (kind, draft) = draft(&library, &mut rng);
            let text = match draft {
                Draft::Raw(text) => text,
                Draft::Chat(conversation) => conversation.render(),
            };
            Document { kind, text: text + END_OF_TEXT }
        })
        .collect()
}

/// The conversations among `count` documents.
#[cfg(test)]
pub(crate) fn conversations(seed: u64, count: usize) -> Vec<Conversation> {
    let (library, mut rng) = (Library::new(), Rng::new(seed));
    (0..count)
        .filter_map(|_| match draft(&library, &mut rng).1 {
            Draft::Raw(_) => None,
            Draft::Chat(conversation) => Some(conversation),
        })
        .collect()
}

fn draft(library: &Library, rng: &mut Rng) -> (&'static str, Draft) {
    let (kind, _, write) = KINDS[rng.weighted(&KINDS.map(|(_, weight, _)| weight))];
    (kind, write(library, rng))
}

fn chat(rng: &mut Rng) -> Conversation {
    if rng.chance(15) {
        Conversation::default().turn("system", "You are a helpful assistant.")
    } else {
        Conversation::default()
    }
}

fn story_told(library: &Library, rng: &mut Rng) -> Conversation {
    let story = library.story(rng);
    let Story { kind, name, topic, .. } = &story;
    let request = match rng.weighted(&[12, 30, 15, 15, 8, 5, 5]) {
        0 => rng.pick(&["Tell me a story.", "Please tell me a story.", "Tell me a short story."]).to_owned(),
        1 => format!("Tell me a story about {}.", a(kind)),
        2 => format!("Tell me a story about {} named {name}.", a(kind)),
        3 => format!("Tell me a story about {topic}."),
        4 => format!("Write a short story about {}.", a(kind)),
        5 => format!("Can you tell me a story about {}?", a(kind)),
        _ => format!("Tell me a story about {} and {topic}.", a(kind)),
    };
    chat(rng).exchange(request, story.text())
}

/// The user begins a story, and the answer goes on where they stopped.
fn story_continued(library: &Library, rng: &mut Rng) -> Conversation {
    let story = library.story(rng);
    let text = story.text();
    let after_once = text.strip_prefix(ONCE);
    let (begun, rest) = match (after_once, rng.below(10)) {
        (Some(rest), 0..5) => {
            let comma = rng.pick(&["", "", "", "", ",", "..."]);
            (format!("{ONCE}{comma}"), rest.trim_start().to_owned())
        }
        // Anywhere in the opening sentence.
        (_, 5) => {
            let words: Vec<&str> = text.split(' ').collect();
            let opening = story.parts[0].split(' ').count();
            let (begun, rest) = words.split_at(rng.between(3, opening));
            (begun.join(" "), rest.join(" "))
        }
        _ => {
            let (begun, rest) = story.parts.split_at(rng.between(1, 3));
            (begun.join(" "), rest.join(" "))
        }
    };
    let request = if rng.chance(20) { format!("Continue this story: {begun}") } else { begun };
    chat(rng).exchange(request, rest)
}

fn fact(rng: &mut Rng) -> Conversation {
    let fact = facts::any(rng);
    if rng.chance(8) {
        return Conversation::default().turn("system", "Answer with one word.").exchange(fact.question, fact.short);
    }
    chat(rng).exchange(fact.question, fact.answer)
}

fn sum(rng: &mut Rng) -> Conversation {
    let sum = facts::sum(rng);
    chat(rng).exchange(sum.question, sum.answer)
}

fn small_talk(rng: &mut Rng) -> Conversation {
    let (question, answer) = facts::small_talk(rng);
    chat(rng).exchange(question, answer)
}

fn task(task: Task, rng: &mut Rng) -> Conversation {
    chat(rng).exchange(task.instruction, task.result)
}

fn object(rng: &mut Rng) -> Conversation {
    let request = objects::request(rng);
    chat(rng).exchange(request.text, request.json)
}

/// Several questions one after the other, or something told first and asked for later.
fn dialogue(rng: &mut Rng) -> Conversation {
    let mut conversation = chat(rng);
    if rng.chance(30) {
        conversation = conversation.exchange("Hello!", "Hello! How can I help you?");
    }
    let remembered = rng.chance(50).then(|| remember(rng));
    if let Some((told, reply, _, _)) = &remembered {
        conversation = conversation.exchange(told.as_str(), reply.as_str());
    }
    for _ in 0..rng.between(1, 3) {
        let fact = if rng.chance(65) { facts::any(rng) } else { facts::sum(rng) };
        conversation = conversation.exchange(fact.question, fact.answer);
    }
    if let Some((_, _, question, answer)) = remembered {
        conversation = conversation.exchange(question, answer);
    }
    if rng.chance(20) {
        conversation = conversation.exchange("Thank you!", "You are welcome!");
    }
    conversation
}

/// Something the user tells, the reply, and a later question with its answer.
fn remember(rng: &mut Rng) -> (String, String, &'static str, String) {
    if rng.chance(70) {
        let name = objects::any_name(rng);
        let told = match rng.below(3) {
            0 => format!("My name is {name}."),
            1 => format!("I am {name}."),
            _ => format!("Hi, I am {name}."),
        };
        let reply = format!("Nice to meet you, {name}! How can I help you?");
        (told, reply, "What is my name?", format!("Your name is {name}."))
    } else {
        let color = rng.pick(COLOURS);
        let told = format!("My favorite color is {color}.");
        let reply = format!("I like {color} too.");
        (told, reply, "What is my favorite color?", format!("Your favorite color is {color}."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_corpus() {
        let first = documents(5, 300);
        assert_eq!(first, documents(5, 300));
        assert_eq!(first[..100], documents(5, 100));
        assert_ne!(first, documents(6, 300));
    }

    #[test]
    fn every_kind_occurs_and_nothing_is_left_to_fill_in() {
        let documents = documents(0, 5000);
        let all: usize = KINDS.iter().map(|(_, weight, _)| weight).sum();
        for (kind, weight, _) in KINDS {
            let count = documents.iter().filter(|document| document.kind == kind).count();
            let expected = 5000 * weight / all;
            assert!(count.abs_diff(expected) < expected / 2 + 20, "{kind}: {count} of {expected}");
        }
        for Document { text, .. } in &documents {
            let slot = text.match_indices('{').any(|(at, _)| text[at + 1..].starts_with(char::is_alphabetic));
            assert!(!slot, "{text}");
            assert!(text.is_ascii() && text.ends_with(END_OF_TEXT));
            assert_eq!(text.matches(END_OF_TEXT).count(), 1);
        }
    }

    #[test]
    fn once_upon_a_time_is_answered_by_what_comes_next() {
        let begun = format!("<|im_start|>user\n{ONCE}<|im_end|>\n<|im_start|>assistant\n");
        let documents = documents(0, 4000);
        let answers: Vec<&str> = documents.iter().filter_map(|document| document.text.strip_prefix(&begun)).collect();
        assert!(answers.len() > 30, "{}", answers.len());
        assert!(answers.iter().all(|answer| answer.starts_with(|c: char| c.is_lowercase())), "{answers:?}");
    }
}
