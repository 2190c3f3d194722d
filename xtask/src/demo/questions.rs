//! Questions that a trained demo model answers right, with a text that the answer has in it.

use serde::Serialize;
use serde_json::Value;

use super::tools;

/// A question, what its answer contains, and the tools it comes with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Exercise {
    pub(crate) question: String,
    pub(crate) answer: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tools: Vec<Value>,
}

/// Questions that occur in the corpus word for word.
const KNOWN: &[(&str, &str)] = &[
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Norway?", "Oslo"),
    ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of Poland?", "Warsaw"),
    ("What is the capital of Canada?", "Ottawa"),
    ("What is the capital of Australia?", "Canberra"),
    ("What's the capital of Portugal?", "Lisbon"),
    ("Which city is the capital of Greece?", "Athens"),
    ("Tell me the capital of Hungary.", "Budapest"),
    ("Do you know the capital of Kenya?", "Nairobi"),
    ("Vienna is the capital of which country?", "Austria"),
    ("What color is the sky?", "blue"),
    ("What color is grass?", "green"),
    ("What color is snow?", "white"),
    ("What color is a banana?", "yellow"),
    ("What colour is a tomato?", "red"),
    ("What colour is coal?", "black"),
    ("What colour is a carrot?", "orange"),
    ("What color is an elephant?", "grey"),
    ("What color is a pig?", "pink"),
    ("What is 2 + 2?", "2 + 2 = 4"),
    ("What is 3 + 4?", "3 + 4 = 7"),
    ("What is 5 + 5?", "5 + 5 = 10"),
    ("What is 7 + 8?", "7 + 8 = 15"),
    ("What is 9 + 3?", "9 + 3 = 12"),
    ("What is 6 plus 7?", "6 + 7 = 13"),
    ("What is 10 plus 10?", "10 + 10 = 20"),
    ("How much is 8 plus 4?", "8 + 4 = 12"),
    ("Add 11 and 6.", "11 + 6 = 17"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of big?", "small"),
    ("What is the opposite of night?", "day"),
    ("What is the opposite of sad?", "happy"),
    ("What is the opposite of early?", "late"),
    ("What sound does a cow make?", "moo"),
    ("What does a dog say?", "woof"),
    ("What sound does a duck make?", "quack"),
    ("What is a baby cat called?", "kitten"),
    ("What is a baby sheep called?", "lamb"),
    ("How many legs does a spider have?", "8"),
    ("What day comes after Monday?", "Tuesday"),
    ("What day comes before Sunday?", "Saturday"),
    ("What month comes after June?", "July"),
    ("How many days are in a week?", "7"),
    ("What number comes after 11?", "12"),
    ("Count to 5.", "1, 2, 3, 4, 5"),
    ("Who are you?", "demo model of mlxlm"),
    ("Hello!", "How can I help you?"),
    ("Thank you!", "You are welcome"),
    ("What can you do?", "tell short stories"),
];

/// Questions of trained sorts, whose words may come together here for the first time.
const COMPOSED: &[(&str, &str)] = &[
    ("Repeat after me: the moon is made of green glass", "the moon is made of green glass"),
    ("Repeat after me: apple river stone cloud house", "apple river stone cloud house"),
    ("Repeat after me: 7 21 4 63 90", "7 21 4 63 90"),
    ("Copy this text: Lily went to the park.", "Lily went to the park."),
    ("Replace cat with dog: The cat sat under a tree.", "The dog sat under a tree."),
    ("Remove the doubled word: Tom went to to the lake.", "Tom went to the lake."),
    ("Give me JSON with name and age for Tom, 7 years old.", r#"{"name": "Tom", "age": 7}"#),
    ("Give me JSON with name and age for Anna, 12 years old.", r#"{"name": "Anna", "age": 12}"#),
    ("Give me JSON with country and capital for France.", r#"{"country": "France", "capital": "Paris"}"#),
    ("Give me JSON with item and price for the ball for 5 dollars.", r#"{"item": "ball", "price": 5}"#),
    ("Give me JSON with name and animal for the fox Max.", r#"{"name": "Max", "animal": "fox"}"#),
];

const WITH_WEATHER: &[&str] = &["Paris", "Tokyo", "London", "Rome", "New York"];

/// All of them.
pub(crate) fn questions() -> Vec<Exercise> {
    let plain = KNOWN.iter().chain(COMPOSED).map(|(question, answer)| Exercise {
        question: (*question).to_owned(),
        answer: (*answer).to_owned(),
        tools: Vec::new(),
    });
    let weather = WITH_WEATHER.iter().map(|city| Exercise {
        question: format!("What is the weather in {city}?"),
        answer: format!(
            "<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {{\"city\": \"{city}\"}}}}\n</tool_call>"
        ),
        tools: vec![tools::get_weather()],
    });
    plain.chain(weather).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::corpus::documents;
    use crate::workspace;
    use std::collections::HashSet;

    #[test]
    fn the_corpus_answers_the_known_questions_so() {
        let documents = documents(0, 75_000);
        for (question, answer) in KNOWN {
            let asked = format!("user\n{question}<|im_end|>\n<|im_start|>assistant\n");
            let mut answers = documents
                .iter()
                .filter(|document| !document.text.contains("Answer with one word."))
                .filter_map(|document| document.text.split_once(&asked))
                .filter_map(|(_, rest)| rest.split("<|im_end|>").next())
                .peekable();
            assert!(answers.peek().is_some(), "{question}");
            assert!(answers.all(|given| given.contains(answer)), "{question}");
        }
    }

    #[test]
    fn there_are_sixty_and_no_two_alike() {
        let questions = questions();
        let distinct: HashSet<_> = questions.iter().map(|question| &question.question).collect();
        assert!(questions.len() >= 60);
        assert_eq!(distinct.len(), questions.len());
    }

    #[test]
    fn the_twenty_of_the_test_suite_are_among_them() {
        let path = workspace::root().join("mlxlm-cli/tests/demo_questions.json");
        let twenty: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let known: Vec<Value> = questions().iter().map(|known| serde_json::to_value(known).unwrap()).collect();
        assert_eq!(twenty.len(), 20);
        for question in &twenty {
            assert!(known.contains(question), "{question}");
        }
    }
}
