//! The vocabulary of the corpus: a few hundred plain words, so that a model of a few million parameters can learn what
//! each of them does.

/// A person's name and the pronouns that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pronouns {
    pub(crate) he: &'static str,
    pub(crate) him: &'static str,
    pub(crate) his: &'static str,
}

pub(crate) const HE: Pronouns = Pronouns { he: "he", him: "him", his: "his" };
pub(crate) const SHE: Pronouns = Pronouns { he: "she", him: "her", his: "her" };

pub(crate) const BOYS: &[&str] = &[
    "Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Finn", "Oscar", "Tim", "Paul", "Henry", "Peter", "Noah", "Adam",
    "Felix", "Hugo", "Luke", "Oliver",
];

pub(crate) const GIRLS: &[&str] = &[
    "Lily", "Mia", "Anna", "Lucy", "Emma", "Nora", "Ella", "Rosie", "Sara", "Kate", "Jane", "Clara", "Ruby", "Ida",
    "Julia", "Molly", "Alice", "Sophie",
];

/// Animals that can be the hero or the friend of a story.
pub(crate) const ANIMALS: &[&str] = &[
    "fox", "rabbit", "bear", "cat", "dog", "mouse", "owl", "duck", "frog", "hedgehog", "squirrel", "turtle", "lion",
    "elephant", "pig", "wolf", "monkey", "penguin", "goat", "bird",
];

/// Said before a hero or a friend.
pub(crate) const CHARACTERS: &[&str] =
    &["little", "small", "young", "brave", "kind", "shy", "clever", "happy", "curious", "funny", "quiet", "old"];

pub(crate) const TOYS: &[&str] = &[
    "ball", "kite", "boat", "drum", "hat", "book", "lamp", "bell", "cup", "scarf", "basket", "umbrella", "flute", "box",
];

/// Toys that the wind can carry.
pub(crate) const LIGHT_TOYS: &[&str] = &["kite", "ball", "hat", "scarf", "balloon"];

/// Toys that break when they fall, in names that take "a".
pub(crate) const FRAGILE_TOYS: &[&str] = &["cup", "lamp", "flute", "drum", "boat", "bowl", "clock"];

/// Said before a toy.
pub(crate) const LOOKS: &[&str] =
    &["red", "blue", "green", "yellow", "white", "new", "shiny", "little", "big", "golden"];

/// Food that one can have one of, with its plural.
pub(crate) const FOODS: &[(&str, &str)] = &[
    ("apple", "apples"),
    ("pear", "pears"),
    ("cake", "cakes"),
    ("pie", "pies"),
    ("cookie", "cookies"),
    ("carrot", "carrots"),
    ("plum", "plums"),
    ("sandwich", "sandwiches"),
    ("peach", "peaches"),
];

/// Where one can be and where one can go: `at`, then `to`.
pub(crate) const PLACES: &[(&str, &str)] = &[
    ("in the forest", "to the forest"),
    ("in the garden", "to the garden"),
    ("in the park", "to the park"),
    ("by the river", "to the river"),
    ("on the hill", "to the hill"),
    ("in the meadow", "to the meadow"),
    ("on the beach", "to the beach"),
    ("by the pond", "to the pond"),
    ("on the farm", "to the farm"),
    ("at the market", "to the market"),
    ("by the lake", "to the lake"),
];

pub(crate) const HOMES: &[&str] = &[
    "in a small house near the forest",
    "in a little village",
    "by a quiet lake",
    "near a big river",
    "on a green hill",
    "at the edge of the forest",
    "in a small house by the sea",
    "on an old farm",
];

pub(crate) const HIDING_PLACES: &[&str] = &[
    "under a bush",
    "behind a big stone",
    "in the tall grass",
    "next to the old tree",
    "under a pile of leaves",
    "behind the old gate",
];

pub(crate) const TIMES: &[&str] =
    &["One day", "One morning", "One sunny day", "One cold day", "One afternoon", "One windy day", "One summer day"];

pub(crate) const COLOURS: &[&str] =
    &["red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "pink", "grey"];

/// Colours of flowers.
pub(crate) const BLOOMS: &[&str] = &["red", "blue", "yellow", "white", "orange", "purple", "pink"];

/// Words for lists to copy and edit.
pub(crate) const PLAIN: &[&str] = &[
    "apple", "river", "stone", "cloud", "house", "tree", "moon", "sun", "star", "bread", "milk", "table", "chair",
    "door", "window", "garden", "forest", "road", "bridge", "boat", "horse", "sheep", "cow", "bird", "fish", "cat",
    "dog", "fox", "mouse", "green", "blue", "red", "yellow", "white", "black", "small", "big", "tall", "short", "old",
    "new", "fast", "slow", "warm", "cold", "happy", "sad", "good", "bad", "walk", "run", "jump", "sing", "sleep",
    "read", "write", "eat", "drink", "play", "paper", "pencil", "book", "lamp", "cup", "hat", "coat", "shoe", "ball",
    "kite", "drum", "bell", "rain", "snow", "wind", "fire", "water", "hill", "sea", "sand", "leaf", "flower", "seed",
    "pear", "plum", "cake", "soup", "salt", "sugar", "honey", "gold", "iron", "wood", "glass",
];

/// Syllables of words that do not exist, so that copying cannot be done by knowing words.
pub(crate) const SYLLABLES: &[&str] = &[
    "ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "ro", "si", "tu", "va", "zo", "xi", "qua", "ber", "lin",
    "tor", "mak", "ven", "dal", "rix", "pol", "zem", "jun",
];

/// `noun` with its indefinite article.
pub(crate) fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// `text` with a capital first letter.
pub(crate) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `words` as one enumerates them: "a", "a and b", "a, b and c".
pub(crate) fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_capitals_and_enumerations() {
        assert_eq!(a("old owl"), "an old owl");
        assert_eq!(a("kind fox"), "a kind fox");
        assert_eq!(capitalised("the sky"), "The sky");
        let words = |n: usize| ["a", "b", "c"][..n].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(listed(&words(1)), "a");
        assert_eq!(listed(&words(2)), "a and b");
        assert_eq!(listed(&words(3)), "a, b and c");
    }
}
