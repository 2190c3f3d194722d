//! Short stories from a grammar: a plot is a row of stages, a stage is told in one of several ways (`data/plots.txt`), and
//! a cast fills the names, pronouns, things and places, the same ones from the first sentence to the last.

use super::rng::Rng;
use super::words::{
    ANIMALS, BLOOMS, BOYS, CHARACTERS, FOODS, FRAGILE_TOYS, GIRLS, HE, HIDING_PLACES, HOMES, LIGHT_TOYS, LOOKS, PLACES,
    Pronouns, SHE, TIMES, TOYS, a, capitalised,
};

/// The beginning that most stories share.
pub(crate) const ONCE: &str = "Once upon a time";

/// One story, in the parts between which it can be cut.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    /// `fox` or `girl`.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// What it is about: `a lost kite`.
    pub(crate) topic: String,
    /// The opening sentence, then one part per stage.
    pub(crate) parts: Vec<String>,
}

impl Story {
    pub(crate) fn text(&self) -> String {
        self.parts.join(" ")
    }
}

/// The plots and endings of `data/plots.txt`.
#[derive(Debug)]
pub(crate) struct Library {
    plots: Vec<Section>,
    endings: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    title: &'static str,
    stages: Vec<Vec<&'static str>>,
}

impl Library {
    pub(crate) fn new() -> Self {
        let (mut plots, mut endings) = (Vec::new(), Vec::new());
        for paragraph in include_str!("data/plots.txt").split("\n\n") {
            let mut stage = Vec::new();
            for line in paragraph.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                if let Some(title) = line.strip_prefix("plot: ") {
                    plots.push(Section { title, stages: Vec::new() });
                } else if let Some(title) = line.strip_prefix("ends: ") {
                    endings.push(Section { title, stages: Vec::new() });
                } else {
                    stage.push(line);
                }
            }
            let current = if endings.is_empty() { plots.last_mut() } else { endings.last_mut() };
            if let Some(section) = current.filter(|_| !stage.is_empty()) {
                section.stages.push(stage);
            }
        }
        Self { plots, endings }
    }

    /// A story with everything in it drawn from `rng`.
    pub(crate) fn story(&self, rng: &mut Rng) -> Story {
        let plot = &self.plots[rng.below(self.plots.len())];
        let cast = Cast::draw(rng);
        let mut parts = vec![cast.fill(opening(rng))];
        for stage in &plot.stages {
            let mut telling = rng.pick(stage);
            if let Some(title) = telling.strip_prefix('@') {
                let ending = self.endings.iter().find(|ending| ending.title == title);
                telling = ending.map_or("", |ending| rng.pick(&ending.stages[0]));
            }
            parts.push(cast.fill(telling));
        }
        Story { kind: cast.kind.to_owned(), name: cast.name.to_owned(), topic: cast.fill(plot.title), parts }
    }
}

fn opening(rng: &mut Rng) -> &'static str {
    const OPENINGS: [(&str, usize); 9] = [
        ("Once upon a time there was {a_hero} named {name}.", 40),
        ("Once upon a time there was {a_hero} named {name} who lived {home}.", 10),
        ("Once upon a time there lived {a_hero} named {name} {home}.", 12),
        ("Once upon a time {a_hero} named {name} lived {home}.", 5),
        ("Long ago there was {a_hero} named {name}.", 8),
        ("There once was {a_hero} named {name}.", 8),
        ("There was {a_hero} named {name} who lived {home}.", 7),
        ("{name} was {a_hero} who lived {home}.", 6),
        ("{name} was {a_hero}.", 4),
    ];
    OPENINGS[rng.weighted(&OPENINGS.map(|(_, weight)| weight))].0
}

/// Who and what a story is about; everything a template can name.
#[derive(Debug)]
struct Cast {
    name: &'static str,
    kind: &'static str,
    slots: Vec<(&'static str, String)>,
}

impl Cast {
    fn draw(rng: &mut Rng) -> Self {
        // The friend has the other pronoun, so that "he" and "she" always say who is meant.
        let boy = rng.chance(50);
        let (hero, friend) = if boy { (HE, SHE) } else { (SHE, HE) };
        let (name, friend_name) = (name_for(hero, rng), name_for(friend, rng));
        let kind = if rng.chance(30) { human(hero) } else { rng.pick(ANIMALS) };
        let friend_kind = if rng.chance(25) { human(friend) } else { rng.pick(ANIMALS) };
        let parent = if rng.chance(50) { ("mother", SHE) } else { ("father", HE) };
        let thing = rng.pick(TOYS);
        let toy = format!("{} {thing}", rng.pick(LOOKS));
        let (food, foods) = rng.pick(FOODS);
        let places = rng.sample(PLACES, 3);
        let bloom = rng.pick(BLOOMS);
        let (light, fragile) = (rng.pick(LIGHT_TOYS), rng.pick(FRAGILE_TOYS));
        let himself = if boy { "himself" } else { "herself" };
        let a_friend = a(&format!("{} {friend_kind}", rng.pick(CHARACTERS)));
        let own = str::to_owned;
        let slots = vec![
            ("name", own(name)),
            ("a_hero", a(&format!("{} {kind}", rng.pick(CHARACTERS)))),
            ("he", own(hero.he)),
            ("him", own(hero.him)),
            ("his", own(hero.his)),
            ("He", capitalised(hero.he)),
            ("His", capitalised(hero.his)),
            ("himself", own(himself)),
            ("friend", own(friend_name)),
            ("fkind", own(friend_kind)),
            ("A_friend", capitalised(&a_friend)),
            ("a_friend", a_friend),
            ("fhe", own(friend.he)),
            ("fhim", own(friend.him)),
            ("fHe", capitalised(friend.he)),
            ("parent", own(parent.0)),
            ("phe", own(parent.1.he)),
            ("thing", own(thing)),
            ("a_toy", a(&toy)),
            ("toy", toy),
            ("food", own(food)),
            ("foods", own(foods)),
            ("a_food", a(food)),
            ("at", own(places[0].0)),
            ("to", own(places[0].1)),
            ("at2", own(places[1].0)),
            ("to2", own(places[1].1)),
            ("at3", own(places[2].0)),
            ("to3", own(places[2].1)),
            ("hidden", own(rng.pick(HIDING_PLACES))),
            ("home", own(rng.pick(HOMES))),
            ("when", own(rng.pick(TIMES))),
            ("bloom", own(bloom)),
            ("Bloom", capitalised(bloom)),
            ("light", own(light)),
            ("a_light", a(&format!("{} {light}", rng.pick(LOOKS)))),
            ("fragile", own(fragile)),
            ("a_fragile", a(&format!("{} {fragile}", rng.pick(LOOKS)))),
        ];
        Self { name, kind, slots }
    }

    fn fill(&self, template: &str) -> String {
        fill(template, &self.slots)
    }
}

fn name_for(person: Pronouns, rng: &mut Rng) -> &'static str {
    rng.pick(if person == HE { BOYS } else { GIRLS })
}

fn human(person: Pronouns) -> &'static str {
    if person == HE { "boy" } else { "girl" }
}

/// `template` with each `{slot}` replaced; a slot that is not known stays, and the corpus tests look for those.
fn fill(template: &str, slots: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let known = after
            .split_once('}')
            .and_then(|(slot, tail)| slots.iter().find(|(name, _)| *name == slot).map(|(_, value)| (value, tail)));
        if let Some((value, tail)) = known {
            text.push_str(value);
            rest = tail;
        } else {
            text.push('{');
            rest = after;
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stories(count: usize) -> Vec<Story> {
        let (library, mut rng) = (Library::new(), Rng::new(7));
        (0..count).map(|_| library.story(&mut rng)).collect()
    }

    #[test]
    fn every_stage_of_every_plot_is_filled() {
        let library = Library::new();
        assert!(library.plots.len() >= 15);
        assert_eq!(library.endings.len(), 2);
        let cast = Cast::draw(&mut Rng::new(1));
        for section in library.plots.iter().chain(&library.endings) {
            for telling in section.stages.iter().flatten().filter(|telling| !telling.starts_with('@')) {
                let text = cast.fill(telling);
                assert!(!text.contains(['{', '}', '@']), "{}: {text}", section.title);
                assert!(text.ends_with(['.', '!', '"', '?']), "{text}");
            }
        }
    }

    #[test]
    fn stories_have_six_sentences_or_more_and_most_begin_as_stories_do() {
        let stories = stories(2000);
        for story in &stories {
            let text = story.text();
            assert!(text.matches(['.', '!', '?']).count() >= 6, "{text}");
            assert!(!text.contains("  ") && !text.contains('{'), "{text}");
        }
        let once = stories.iter().filter(|story| story.text().starts_with(ONCE)).count();
        assert!((1100..1600).contains(&once), "{once}");
    }

    /// Pronouns are slots everywhere, but for the snowman's, and the friend's come after the friend.
    #[test]
    fn templates_say_no_pronoun_of_their_own() {
        let library = Library::new();
        for plot in library.plots.iter().chain(&library.endings) {
            let mut introduced = plot.title == "together";
            for stage in &plot.stages {
                introduced |= stage.iter().all(|telling| telling.contains("{friend}"));
                for telling in stage {
                    let bare = fill(telling, &SLOTS.map(|slot| (slot, String::new())));
                    let words = bare.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
                    let own = words.filter(|word| PRONOUNS.contains(&word.as_str())).count();
                    assert!(own == 0 || plot.title == "the snow", "{telling}");
                    let early = ["{fhe}", "{fhim}", "{fHe}"].iter().any(|slot| telling.contains(slot));
                    assert!(introduced || !early, "{telling}");
                }
            }
        }
    }

    const PRONOUNS: [&str; 8] = ["he", "she", "him", "her", "his", "hers", "himself", "herself"];
    const SLOTS: [&str; 10] = ["he", "He", "him", "his", "His", "himself", "fhe", "fhim", "fHe", "phe"];

    #[test]
    fn pronouns_agree_with_names() {
        for seed in 0..500 {
            let cast = Cast::draw(&mut Rng::new(seed));
            let boy = BOYS.contains(&cast.name);
            let expected = if boy { "he him his He His himself" } else { "she her her She Her herself" };
            assert_eq!(cast.fill("{he} {him} {his} {He} {His} {himself}"), expected);
            let friend = if boy { "she her She" } else { "he him He" };
            assert_eq!(cast.fill("{fhe} {fhim} {fHe}"), friend);
            assert_eq!(GIRLS.contains(&cast.fill("{friend}").as_str()), boy);
            assert!(["father he", "mother she"].contains(&cast.fill("{parent} {phe}").as_str()));
            assert!(!(boy && cast.kind == "girl" || !boy && cast.kind == "boy"));
        }
    }

    #[test]
    fn an_unknown_slot_stays_visible() {
        assert_eq!(fill("a {b} {c}", &[("b", "x".to_owned())]), "a x {c}");
    }
}
