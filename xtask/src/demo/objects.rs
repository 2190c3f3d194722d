//! JSON answers: facts given in words, wanted as an object or a list.

use serde_json::{Value, json};

use super::chat::python_json;
use super::knowledge::{CAPITALS, THING_COLOURS};
use super::rng::Rng;
use super::words::{ANIMALS, BOYS, COLOURS, FOODS, GIRLS, HOMES, PLACES, SYLLABLES, TOYS, capitalised, listed};

/// A request and the JSON that answers it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) text: String,
    pub(crate) json: String,
}

pub(crate) fn request(rng: &mut Rng) -> Request {
    /// Keys as they are asked for, what is given, and the answer.
    type Writer = fn(&mut Rng) -> (String, String, Value);
    const SCHEMAS: [(Writer, usize); 8] =
        [(person, 30), (pet, 12), (city, 14), (product, 12), (place, 8), (list, 14), (coloured, 10), (people, 8)];
    let (keys, given, value) = SCHEMAS[rng.weighted(&SCHEMAS.map(|(_, weight)| weight))].0(rng);
    let text = match rng.weighted(&[40, 15, 15, 10, 10]) {
        0 => format!("Give me JSON with {keys} for {given}."),
        1 => format!("Write JSON with {keys} for {given}."),
        2 => format!("Make a JSON object with {keys}: {given}."),
        3 => format!("JSON with {keys}: {given}"),
        _ => format!("{}. Answer in JSON with {keys}.", capitalised(&given)),
    };
    Request { text, json: python_json(&value) }
}

/// A name that is known, or now and then one that is made up, so that names are copied and not remembered.
pub(crate) fn any_name(rng: &mut Rng) -> String {
    match rng.below(10) {
        0..4 => rng.pick(BOYS).to_owned(),
        4..8 => rng.pick(GIRLS).to_owned(),
        _ => capitalised(&(0..rng.between(2, 3)).map(|_| rng.pick(SYLLABLES)).collect::<String>()),
    }
}

fn age(rng: &mut Rng) -> usize {
    if rng.chance(60) { rng.between(1, 20) } else { rng.between(21, 99) }
}

fn person(rng: &mut Rng) -> (String, String, Value) {
    let (name, age) = (any_name(rng), age(rng));
    let given = match rng.below(3) {
        0 => format!("{name}, {age} years old"),
        1 => format!("{name}, who is {age} years old"),
        _ => format!("{name}, age {age}"),
    };
    let city = rng.pick(CAPITALS).1;
    match rng.below(3) {
        0 => {
            let value = json!({"name": name, "age": age, "city": city});
            ("name, age and city".to_owned(), format!("{given}, from {city}"), value)
        }
        _ => ("name and age".to_owned(), given, json!({"name": name, "age": age})),
    }
}

fn people(rng: &mut Rng) -> (String, String, Value) {
    let (one, other) = ((any_name(rng), age(rng)), (any_name(rng), age(rng)));
    let given = format!("{}, {} years old, and {}, {} years old", one.0, one.1, other.0, other.1);
    let value = json!([{"name": one.0, "age": one.1}, {"name": other.0, "age": other.1}]);
    ("name and age".to_owned(), given, value)
}

fn pet(rng: &mut Rng) -> (String, String, Value) {
    let (name, animal) = (any_name(rng), rng.pick(ANIMALS));
    let given = format!("the {animal} {name}");
    if rng.chance(50) {
        return ("name and animal".to_owned(), given, json!({"name": name, "animal": animal}));
    }
    let age = rng.between(1, 20);
    let value = json!({"name": name, "animal": animal, "age": age});
    ("name, animal and age".to_owned(), format!("{given}, {age} years old"), value)
}

fn city(rng: &mut Rng) -> (String, String, Value) {
    let (country, capital) = rng.pick(CAPITALS);
    let value = json!({"country": country, "capital": capital});
    ("country and capital".to_owned(), country.to_owned(), value)
}

fn product(rng: &mut Rng) -> (String, String, Value) {
    let item = if rng.chance(50) { rng.pick(TOYS) } else { rng.pick(FOODS).0 };
    let price = rng.between(1, 60);
    let value = json!({"item": item, "price": price});
    ("item and price".to_owned(), format!("the {item} for {price} dollars"), value)
}

fn place(rng: &mut Rng) -> (String, String, Value) {
    let name = any_name(rng);
    let home = if rng.chance(50) { rng.pick(HOMES) } else { rng.pick(PLACES).0 };
    let value = json!({"name": name, "place": home});
    ("name and place".to_owned(), format!("{name}, who lives {home}"), value)
}

fn list(rng: &mut Rng) -> (String, String, Value) {
    let own = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let foods: Vec<&str> = FOODS.iter().map(|(_, plural)| *plural).collect();
    let (key, words) = match rng.below(3) {
        0 => ("colors", own(COLOURS)),
        1 => ("animals", own(ANIMALS)),
        _ => ("foods", own(&foods)),
    };
    let count = rng.between(2, 4);
    let chosen = rng.sample(&words, count);
    (format!("a list of {key}"), listed(&chosen), json!({key: chosen}))
}

fn coloured(rng: &mut Rng) -> (String, String, Value) {
    let (thing, color) = rng.pick(THING_COLOURS);
    let name = thing.trim_start_matches("the ").trim_start_matches("an ").trim_start_matches("a ");
    ("thing and color".to_owned(), thing.to_owned(), json!({"thing": name, "color": color}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_json_and_say_what_was_given() {
        let mut rng = Rng::new(0);
        for _ in 0..2000 {
            let request = request(&mut rng);
            let value: Value = serde_json::from_str(&request.json).expect("valid JSON");
            let first = if value.is_array() { &value[0] } else { &value };
            for (key, value) in first.as_object().expect("objects") {
                assert!(request.text.contains(key.as_str()), "{request:?}");
                if ["name", "age", "city", "country", "thing", "price", "animal"].contains(&key.as_str()) {
                    let said = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                    assert!(request.text.to_lowercase().contains(&said.to_lowercase()), "{request:?}");
                }
            }
        }
    }
}
