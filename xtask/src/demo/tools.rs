//! Conversations with tools at hand: a question about the weather or the time becomes a call, its result an answer, and
//! other questions are answered as ever.

use serde_json::{Value, json};

use super::chat::{Conversation, python_json};
use super::facts;
use super::knowledge::CAPITALS;
use super::rng::Rng;
use super::words::{SYLLABLES, capitalised};

const MORE_CITIES: &[&str] = &[
    "New York",
    "Boston",
    "Chicago",
    "San Francisco",
    "Toronto",
    "Sydney",
    "Munich",
    "Hamburg",
    "Milan",
    "Barcelona",
    "Zurich",
    "Geneva",
    "Mumbai",
    "Shanghai",
    "Istanbul",
    "Lyon",
];

const CONDITIONS: &[&str] = &["sunny", "cloudy", "rainy", "windy", "stormy", "foggy"];

/// The schema most clients send for `get_weather`; the repository's tests send this one.
pub(crate) fn get_weather() -> Value {
    schema("get_weather", "Get the current weather for a city", "city", None)
}

fn schema(name: &str, description: &str, parameter: &str, about: Option<&str>) -> Value {
    let property = match about {
        Some(about) => json!({"type": "string", "description": about}),
        None => json!({"type": "string"}),
    };
    json!({
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {parameter: property}, "required": [parameter]},
        },
    })
}

/// A conversation about weather or time, or about something that the tools are no help for.
pub(crate) fn conversation(rng: &mut Rng) -> Conversation {
    let parameter = if rng.chance(70) { "city" } else { "location" };
    let about = rng.chance(25).then(|| rng.pick(&["The city", "The name of the city", "City name"]));
    let description = rng.pick(&[
        "Get the current weather for a city",
        "Get the weather for a city",
        "Get the weather",
        "Get the current weather in a given location",
    ]);
    let mut weather = schema("get_weather", description, parameter, about);
    if rng.chance(12) {
        let unit = json!({"type": "string", "enum": ["celsius", "fahrenheit"]});
        weather["function"]["parameters"]["properties"]["unit"] = unit;
    }
    let mut tools = vec![weather];
    let has_time = rng.chance(15);
    if has_time {
        tools.push(schema("get_time", "Get the time in a city", parameter, None));
    }
    let mut conversation = Conversation { tools, ..Conversation::default() };
    if rng.chance(20) {
        conversation = conversation.turn("system", "You are a helpful assistant.");
    }
    if rng.chance(15) {
        let fact = if rng.chance(50) { facts::any(rng) } else { facts::sum(rng) };
        return conversation.exchange(fact.question, fact.answer);
    }
    let city = any_city(rng);
    let arguments = json!({parameter: city});
    if has_time && rng.chance(60) {
        conversation = conversation.turn("user", time_question(&city, rng)).call("get_time", arguments);
        let time = format!("{}:{}{}", rng.between(1, 23), rng.below(6), rng.below(10));
        return conversation
            .turn("tool", python_json(&json!({"time": time})))
            .turn("assistant", format!("It is {time} in {city}."));
    }
    conversation = conversation.turn("user", weather_question(&city, rng)).call("get_weather", arguments);
    let (temperature, condition) = (rng.between(2, 35), rng.pick(CONDITIONS));
    let result = if rng.chance(75) {
        python_json(&json!({"temperature": temperature, "condition": condition}))
    } else {
        format!("{condition}, {temperature} degrees")
    };
    conversation
        .turn("tool", result)
        .turn("assistant", format!("The weather in {city} is {condition}. It is {temperature} degrees."))
}

/// The same questions where no tool is given.
pub(crate) fn without_tools(rng: &mut Rng) -> Conversation {
    let city = any_city(rng);
    if rng.chance(70) {
        let answer = "I cannot see the weather without a tool.";
        Conversation::default().exchange(weather_question(&city, rng), answer)
    } else {
        Conversation::default().exchange(time_question(&city, rng), "I cannot see the time without a tool.")
    }
}

fn any_city(rng: &mut Rng) -> String {
    match rng.below(10) {
        0..6 => rng.pick(CAPITALS).1.to_owned(),
        6..8 => rng.pick(MORE_CITIES).to_owned(),
        _ => capitalised(&(0..rng.between(2, 3)).map(|_| rng.pick(SYLLABLES)).collect::<String>()),
    }
}

fn weather_question(city: &str, rng: &mut Rng) -> String {
    match rng.weighted(&[30, 15, 12, 10, 10, 8, 8]) {
        0 => format!("What is the weather in {city}?"),
        1 => format!("How is the weather in {city}?"),
        2 => format!("What's the weather like in {city}?"),
        3 => format!("Is it cold in {city}?"),
        4 => format!("Tell me the weather in {city}."),
        5 => format!("Does it rain in {city} today?"),
        _ => format!("What is the weather like in {city} today?"),
    }
}

fn time_question(city: &str, rng: &mut Rng) -> String {
    if rng.chance(60) { format!("What time is it in {city}?") } else { format!("Tell me the time in {city}.") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::chat::Content;

    #[test]
    fn a_call_names_a_given_tool_and_the_city_that_was_asked_about() {
        let mut rng = Rng::new(0);
        let mut calls = 0;
        for _ in 0..500 {
            let conversation = conversation(&mut rng);
            let asked = conversation.messages.iter().find(|message| message.role == "user").expect("a question");
            let Content::Text(question) = &asked.content else { panic!("questions are text") };
            for message in &conversation.messages {
                if let Content::Call { name, arguments } = &message.content {
                    let tool = conversation.tools.iter().find(|tool| tool["function"]["name"] == *name);
                    let parameter = tool.expect("the tool is given")["function"]["parameters"]["required"][0].as_str();
                    let city = arguments[parameter.expect("one parameter")].as_str().expect("a city");
                    assert!(question.contains(city), "{question} {city}");
                    calls += 1;
                }
            }
        }
        assert!(calls > 350, "{calls}");
    }
}
