//! Images in messages, where the model should read that there was one.

use serde_json::{Value, json};

use super::Fields;
use crate::options::Images;

/// What a model reads where an image was.
const MENTION: &str = "[image]";

/// A request as it is read: with images it is refused later on, by the path of the first, unless they are only mentioned.
pub(crate) fn apply(mut fields: Fields, images: Images) -> Fields {
    if images == Images::Mention {
        // Messages of chats and of Anthropic's API, and items of responses.
        for name in ["messages", "input"] {
            let items = fields.get_mut(name).and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(mention);
        }
    }
    fields
}

/// Puts text in the place of the images of a message, or of an item or a block that has content or output of its own.
fn mention(holder: &mut Value) {
    for name in ["content", "output"] {
        let parts = holder.get_mut(name).and_then(Value::as_array_mut);
        for part in parts.into_iter().flatten() {
            match part["type"].as_str() {
                Some("image_url" | "input_image" | "image") => *part = json!({"type": "text", "text": MENTION}),
                Some("tool_result") => mention(part),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_every_api_are_mentioned() {
        let shown = json!({"type": "text", "text": "[image]"});
        let request = json!({
            "messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "x"}},
                {"type": "text", "text": "what is it?"},
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {}}]},
            ]}],
            "input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": "x"}]}],
        });
        let given = |images| apply(Fields::of_request(request.clone()).unwrap(), images).rest();
        let read = given(Images::Mention);
        let content = &read["messages"][0]["content"];
        assert_eq!(
            (&content[0], &content[1]["text"], &content[2]["content"][0]),
            (&shown, &json!("what is it?"), &shown)
        );
        assert_eq!(read["input"][0]["output"][0], shown);
        assert_eq!(Value::from(given(Images::Refuse)), request);
    }
}
