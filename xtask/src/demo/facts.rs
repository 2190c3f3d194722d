//! What the demo model knows: capitals, colours, opposites, animals, days, numbers, sums. Each fact has one answer, so that
//! it can be learned by heart, and several ways to be asked for.

use super::knowledge::{CAPITALS, DAYS, LEGS, MONTHS, OPPOSITES, SMALL_TALK, SOUNDS, THING_COLOURS, YOUNG};
use super::rng::Rng;
use super::words::{BOYS, FOODS, GIRLS, HE, SHE, a, capitalised};

/// A question with its answer in a sentence and in as few words as possible.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) question: String,
    pub(crate) answer: String,
    pub(crate) short: String,
}

fn fact(question: impl Into<String>, answer: impl Into<String>, short: impl Into<String>) -> Fact {
    Fact { question: question.into(), answer: answer.into(), short: short.into() }
}

/// A fact of any sort but sums.
pub(crate) fn any(rng: &mut Rng) -> Fact {
    type Writer = fn(&mut Rng) -> Fact;
    const SORTS: [(Writer, usize); 8] = [
        (capital, 32),
        (colour, 22),
        (opposite, 12),
        (animal, 14),
        (calendar, 8),
        (next_number, 5),
        (counting, 3),
        (country, 4),
    ];
    SORTS[rng.weighted(&SORTS.map(|(_, weight)| weight))].0(rng)
}

pub(crate) fn capital(rng: &mut Rng) -> Fact {
    let (country, city) = rng.pick(CAPITALS);
    let question = match rng.weighted(&[40, 10, 8, 8, 8, 8, 5]) {
        0 => format!("What is the capital of {country}?"),
        1 => format!("What's the capital of {country}?"),
        2 => format!("Which city is the capital of {country}?"),
        3 => format!("Tell me the capital of {country}."),
        4 => format!("Capital of {country}?"),
        5 => format!("Do you know the capital of {country}?"),
        _ => format!("what is the capital of {}", country.to_lowercase()),
    };
    fact(question, format!("The capital of {country} is {city}."), city)
}

fn country(rng: &mut Rng) -> Fact {
    let (country, city) = rng.pick(CAPITALS);
    let question = match rng.below(2) {
        0 => format!("{city} is the capital of which country?"),
        _ => format!("Of which country is {city} the capital?"),
    };
    fact(question, format!("{city} is the capital of {country}."), country)
}

pub(crate) fn colour(rng: &mut Rng) -> Fact {
    let (thing, colour) = rng.pick(THING_COLOURS);
    let question = match rng.weighted(&[30, 30, 8, 8]) {
        0 => format!("What color is {thing}?"),
        1 => format!("What colour is {thing}?"),
        2 => format!("Which color does {thing} have?"),
        _ => format!("Tell me the color of {thing}."),
    };
    fact(question, format!("{} is {colour}.", capitalised(thing)), colour)
}

pub(crate) fn opposite(rng: &mut Rng) -> Fact {
    let (one, other) = rng.pick(OPPOSITES);
    let (word, answer) = if rng.chance(50) { (one, other) } else { (other, one) };
    let question = match rng.weighted(&[6, 2, 2]) {
        0 => format!("What is the opposite of {word}?"),
        1 => format!("Tell me the opposite of {word}."),
        _ => format!("Opposite of {word}?"),
    };
    fact(question, format!("The opposite of {word} is {answer}."), answer)
}

pub(crate) fn animal(rng: &mut Rng) -> Fact {
    match rng.weighted(&[5, 3, 2]) {
        0 => {
            let (animal, sound) = rng.pick(SOUNDS);
            let question = match rng.below(3) {
                0 => format!("What sound does {} make?", a(animal)),
                1 => format!("What does {} say?", a(animal)),
                _ => format!("Which sound does {} make?", a(animal)),
            };
            fact(question, format!("{} says {sound}.", capitalised(&a(animal))), sound)
        }
        1 => {
            let (animal, young) = rng.pick(YOUNG);
            let question = match rng.below(2) {
                0 => format!("What is a baby {animal} called?"),
                _ => format!("What do you call a baby {animal}?"),
            };
            fact(question, format!("A baby {animal} is called {}.", a(young)), young)
        }
        _ => {
            let (animal, legs) = rng.pick(LEGS);
            let question = format!("How many legs does {} have?", a(animal));
            fact(question, format!("{} has {legs} legs.", capitalised(&a(animal))), legs)
        }
    }
}

fn calendar(rng: &mut Rng) -> Fact {
    let (names, sort) = if rng.chance(60) { (DAYS, "day") } else { (MONTHS, "month") };
    match rng.below(10) {
        0 if sort == "day" => fact("What are the days of the week?", format!("{}.", DAYS.join(", ")), DAYS.join(", ")),
        0 => fact("What are the months of the year?", format!("{}.", MONTHS.join(", ")), MONTHS.join(", ")),
        1 if sort == "day" => fact("How many days are in a week?", "A week has 7 days.", "7"),
        1 => fact("How many months are in a year?", "A year has 12 months.", "12"),
        way => {
            let index = rng.below(names.len());
            let (before, after) = (names[index], names[(index + 1) % names.len()]);
            if way < 7 {
                let question = format!("What {sort} comes after {before}?");
                fact(question, format!("{after} comes after {before}."), after)
            } else {
                let question = format!("What {sort} comes before {after}?");
                fact(question, format!("{before} comes before {after}."), before)
            }
        }
    }
}

fn next_number(rng: &mut Rng) -> Fact {
    let number = rng.below(30);
    let next = (number + 1).to_string();
    if rng.chance(50) {
        fact(format!("What number comes after {number}?"), format!("{next} comes after {number}."), next)
    } else {
        let answer = format!("{number} comes before {next}.");
        fact(format!("What number comes before {next}?"), answer, number.to_string())
    }
}

fn counting(rng: &mut Rng) -> Fact {
    let first = if rng.chance(60) { 1 } else { rng.between(2, 9) };
    let last = rng.between(first + 2, first + 9);
    let numbers: Vec<String> = (first..=last).map(|number| number.to_string()).collect();
    let question = if first == 1 && rng.chance(50) {
        format!("Count to {last}.")
    } else {
        format!("Count from {first} to {last}.")
    };
    fact(question, format!("{}.", numbers.join(", ")), numbers.join(", "))
}

/// A sum of at most twenty.
pub(crate) fn sum(rng: &mut Rng) -> Fact {
    // All 231 pairs are equally likely.
    let (first, second) = loop {
        let (first, second) = (rng.below(21), rng.below(21));
        if first + second <= 20 {
            break (first, second);
        }
    };
    let total = first + second;
    let sentence = format!("{first} + {second} = {total}.");
    let question = match rng.weighted(&[30, 25, 10, 8, 8, 6]) {
        0 => format!("What is {first} + {second}?"),
        1 => format!("What is {first} plus {second}?"),
        2 => format!("{first} + {second} ="),
        3 => format!("How much is {first} plus {second}?"),
        4 => format!("Add {first} and {second}."),
        _ => return story_sum(first, second, rng),
    };
    fact(question, sentence, total.to_string())
}

/// A sum told as a little story.
fn story_sum(first: usize, second: usize, rng: &mut Rng) -> Fact {
    let (names, person) = if rng.chance(50) { (BOYS, HE) } else { (GIRLS, SHE) };
    let (name, (food, foods)) = (rng.pick(names), rng.pick(FOODS));
    let count = |number: usize| format!("{number} {}", if number == 1 { food } else { foods });
    let total = first + second;
    let question =
        format!("{name} has {} and gets {second} more. How many {foods} does {} have now?", count(first), person.he);
    fact(question, format!("{first} + {second} = {total}. {name} has {}.", count(total)), total.to_string())
}

/// Greetings, thanks, and who the model is.
pub(crate) fn small_talk(rng: &mut Rng) -> (&'static str, &'static str) {
    let (ways, answer) = rng.pick(SMALL_TALK);
    (rng.pick(ways), answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn numbers(text: &str) -> Vec<usize> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    }

    #[test]
    fn all_sums_up_to_twenty_occur_and_are_right() {
        let mut rng = Rng::new(0);
        let mut seen = HashSet::new();
        for _ in 0..20_000 {
            let sum = sum(&mut rng);
            let asked = numbers(&sum.question);
            let answered = numbers(&sum.answer);
            assert_eq!(asked, answered[..2], "{sum:?}");
            assert_eq!(asked[0] + asked[1], answered[2], "{sum:?}");
            assert_eq!(sum.short.parse(), Ok(answered[2]), "{sum:?}");
            assert!(answered[2] <= 20);
            seen.insert((asked[0], asked[1]));
        }
        assert_eq!(seen.len(), 231);
    }

    #[test]
    fn a_question_has_one_answer() {
        let mut rng = Rng::new(1);
        let mut known: HashMap<String, String> = HashMap::new();
        for _ in 0..20_000 {
            let fact = any(&mut rng);
            assert!(fact.answer.contains(&capitalised(&fact.short)) || fact.answer.contains(&fact.short), "{fact:?}");
            let before = known.insert(fact.question.clone(), fact.answer.clone());
            assert!(before.is_none_or(|before| before == fact.answer), "{fact:?}");
        }
    }

    #[test]
    fn a_word_has_one_opposite() {
        let words: Vec<&str> = OPPOSITES.iter().flat_map(|(one, other)| [*one, *other]).collect();
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    }

    #[test]
    fn numbers_and_lists_go_on_rightly() {
        let mut rng = Rng::new(2);
        for _ in 0..500 {
            let next = numbers(&next_number(&mut rng).answer);
            assert!(next[0].abs_diff(next[1]) == 1);
            let counted = numbers(&counting(&mut rng).answer);
            assert!(counted.windows(2).all(|pair| pair[1] == pair[0] + 1));
        }
    }
}
