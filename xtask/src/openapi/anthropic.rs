//! What requests of Anthropic's API may say, as types.

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `/v1/messages`. It also takes what `Sampling` lists.
#[derive(ToSchema)]
pub(super) struct MessagesRequest {
    /// What was said: by `user`, `assistant`, or by `system` in the middle.
    #[schema(value_type = Vec<Object>, example = json!([{"role": "user", "content": "Tell me a story."}]))]
    messages: Vec<Value>,
    /// The most tokens of the answer.
    #[schema(example = 16, minimum = 1)]
    max_tokens: u64,
    /// The system prompt: text, or blocks of it.
    #[schema(example = "You are kind.")]
    system: Option<Value>,
    /// Strings that end the answer.
    #[schema(example = json!(["\n\n"]))]
    stop_sequences: Option<Vec<String>>,
    /// Whether the answer comes as events.
    #[schema(example = false)]
    stream: Option<bool>,
    /// Whether the model thinks first, for templates that know it.
    #[schema(example = json!({"type": "disabled"}))]
    thinking: Option<Map<String, Value>>,
    /// Tools that the model may use.
    #[schema(value_type = Option<Vec<Object>>, example = json!([{"name": "f", "input_schema": {"type": "object"}}]))]
    tools: Option<Vec<Value>>,
    /// `auto`, `none`, `any`, or a tool.
    #[schema(example = json!({"type": "auto"}))]
    tool_choice: Option<Map<String, Value>>,
    /// `create` keeps the conversation, in memory; `continue` goes on from the message `previous_message_id`.
    #[schema(example = json!({"type": "create"}))]
    thread: Option<Map<String, Value>>,
    /// Changes nothing.
    #[schema(example = json!({"user_id": "me"}))]
    metadata: Option<Map<String, Value>>,
}

/// `/v1/messages/count_tokens`.
#[derive(ToSchema)]
pub(super) struct CountTokensRequest {
    /// What was said.
    #[schema(value_type = Vec<Object>, example = json!([{"role": "user", "content": "Tell me a story."}]))]
    messages: Vec<Value>,
    /// The system prompt.
    #[schema(example = "You are kind.")]
    system: Option<Value>,
    /// Tools that the model may use.
    #[schema(value_type = Option<Vec<Object>>, example = json!([{"name": "f", "input_schema": {"type": "object"}}]))]
    tools: Option<Vec<Value>>,
}

/// Why there is no answer.
#[derive(ToSchema)]
pub(super) struct AnthropicError {
    /// Always `error`.
    #[schema(example = "error")]
    r#type: String,
    /// `type` and `message`.
    #[schema(example = json!({"type": "invalid_request_error", "message": "`max_tokens` is missing"}))]
    error: Value,
}
