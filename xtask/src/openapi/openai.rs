//! What requests of OpenAI's APIs may say, and those of our own, as types. `null` stands for a field that is not there.

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `/v1/chat/completions`. It also takes what `Sampling` lists.
#[derive(ToSchema)]
pub(super) struct ChatRequest {
    /// What was said, the last at the end.
    #[schema(example = json!([{"role": "user", "content": "Tell me a story."}]))]
    messages: Vec<Message>,
    /// Strings that end the answer and are not part of it.
    #[schema(example = json!(["\n\n"]))]
    stop: Option<Value>,
    /// The most tokens of the answer.
    #[schema(example = 16, minimum = 1)]
    max_tokens: Option<u64>,
    /// The same under its newer name, which goes before.
    #[schema(example = 16, minimum = 1)]
    max_completion_tokens: Option<u64>,
    /// How many answers.
    #[schema(example = 1, minimum = 1, maximum = 128)]
    n: Option<u64>,
    /// Whether tokens come with their log-probabilities.
    #[schema(example = true)]
    logprobs: Option<bool>,
    /// How many of the best tokens come with theirs; needs `logprobs`.
    #[schema(example = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    /// Whether the answer comes as events.
    #[schema(example = false)]
    stream: Option<bool>,
    /// `include_usage`: whether the last event of a stream counts tokens. Only for streams.
    stream_options: Option<Map<String, Value>>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>, example = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]))]
    tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or a function.
    #[schema(example = "auto")]
    tool_choice: Option<Value>,
    /// Whether an answer may call several tools.
    #[schema(example = true)]
    parallel_tool_calls: Option<bool>,
    /// How much the model should think, for templates that know it; `none` switches thinking off.
    #[schema(example = "low")]
    reasoning_effort: Option<String>,
    /// Variables for the chat template.
    #[schema(example = json!({"enable_thinking": false}))]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the model goes on with the last message instead of answering it.
    #[schema(example = false)]
    continue_final_message: Option<bool>,
    /// The contrary of `continue_final_message`.
    #[schema(example = true)]
    add_generation_prompt: Option<bool>,
    /// What stands before messages of a role, for models without a chat template.
    #[schema(example = json!({"user": "USER: "}))]
    role_mapping: Option<Map<String, Value>>,
    /// Whom the request is for; changes nothing.
    #[schema(example = "me")]
    user: Option<String>,
    /// Changes nothing.
    #[schema(example = json!({"a": "b"}))]
    metadata: Option<Map<String, Value>>,
}

/// A message of a chat.
#[derive(ToSchema)]
pub(super) struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    #[schema(example = "user")]
    role: String,
    /// Text, or a list of parts of text.
    #[schema(example = "Tell me a story.")]
    content: Option<Value>,
    /// Calls that an assistant made.
    #[schema(value_type = Option<Vec<Object>>)]
    tool_calls: Option<Vec<Value>>,
    /// Which call a tool's message is the result of.
    tool_call_id: Option<String>,
    /// What an assistant thought.
    reasoning_content: Option<String>,
}

/// How tokens are chosen; every API that generates takes these, under these names.
#[derive(ToSchema)]
pub(super) struct Sampling {
    /// One of the names in `/v1/models`, or `default_model`.
    #[schema(example = "default_model")]
    model: Option<String>,
    /// 0 takes the best token.
    #[schema(example = 0.5, minimum = 0, maximum = 100)]
    temperature: Option<f64>,
    /// Keep the best tokens that together have this probability.
    #[schema(example = 0.9, minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Keep so many of the best tokens; 0 keeps all.
    #[schema(example = 40)]
    top_k: Option<u64>,
    /// Keep tokens of at least this share of the best one's probability.
    #[schema(example = 0.05, minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    /// How often XTC drops the best tokens.
    #[schema(example = 0.1, minimum = 0, maximum = 1)]
    xtc_probability: Option<f64>,
    /// What a token needs to be among those that XTC drops.
    #[schema(example = 0.1, minimum = 0, maximum = 0.5)]
    xtc_threshold: Option<f64>,
    /// Makes the draws repeat themselves.
    #[schema(example = 7)]
    seed: Option<i64>,
    /// What is added to the logits of tokens, by their ids.
    #[schema(example = json!({"1": -1.5}))]
    logit_bias: Option<Map<String, Value>>,
    /// Above 1, tokens of late are less likely.
    #[schema(example = 1.1, minimum = 0)]
    repetition_penalty: Option<f64>,
    /// How many tokens are of late.
    #[schema(example = 20)]
    repetition_context_size: Option<u64>,
    /// Taken off the logits of tokens that occurred.
    #[schema(example = 0.5)]
    presence_penalty: Option<f64>,
    /// For how many tokens.
    #[schema(example = 20)]
    presence_context_size: Option<u64>,
    /// Taken off the logits of tokens for each time that they occurred.
    #[schema(example = 0.5)]
    frequency_penalty: Option<f64>,
    /// For how many tokens.
    #[schema(example = 20)]
    frequency_context_size: Option<u64>,
    /// Whether tokens that end a text are tokens like others.
    #[schema(example = false)]
    ignore_eos: Option<bool>,
    /// Tokens that the draft model proposes at once.
    #[schema(example = 2)]
    num_draft_tokens: Option<u64>,
}

/// `/v1/completions`. It also takes what `Sampling` lists.
#[derive(ToSchema)]
pub(super) struct CompletionRequest {
    /// Text, token ids, or a list of either.
    #[schema(example = "Once upon a time")]
    prompt: Value,
    /// The most tokens of each text; 0 only with `echo`.
    #[schema(example = 16)]
    max_tokens: Option<u64>,
    /// How many texts for each prompt.
    #[schema(example = 1, minimum = 1, maximum = 128)]
    n: Option<u64>,
    /// Whether the prompt is part of the text.
    #[schema(example = false)]
    echo: Option<bool>,
    /// How many of the best tokens come with log-probabilities.
    #[schema(example = 1)]
    logprobs: Option<u64>,
    /// Strings that end a text and are not part of it.
    #[schema(example = json!(["\n\n"]))]
    stop: Option<Value>,
    /// Whether the answer comes as events.
    #[schema(example = false)]
    stream: Option<bool>,
    /// Whom the request is for; changes nothing.
    #[schema(example = "me")]
    user: Option<String>,
}

/// `/v1/responses`. It also takes what `Sampling` lists.
#[derive(ToSchema)]
pub(super) struct ResponsesRequest {
    /// The model; here it has to be named.
    #[schema(example = "default_model")]
    model: String,
    /// Text, or items of a conversation.
    #[schema(example = "Tell me a story.")]
    input: Value,
    /// A system prompt for this answer only.
    #[schema(example = "You are kind.")]
    instructions: Option<String>,
    /// The answer that this request goes on from.
    previous_response_id: Option<String>,
    /// The most tokens of the answer.
    #[schema(example = 16, minimum = 1)]
    max_output_tokens: Option<u64>,
    /// Whether the answer is kept, in memory.
    #[schema(example = false)]
    store: Option<bool>,
    /// Whether the answer comes as events.
    #[schema(example = false)]
    stream: Option<bool>,
    /// `effort` and `summary`.
    #[schema(example = json!({"effort": "low"}))]
    reasoning: Option<Map<String, Value>>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>, example = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]))]
    tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or a function.
    #[schema(example = "auto")]
    tool_choice: Option<Value>,
    /// Whether an answer may call several tools.
    #[schema(example = true)]
    parallel_tool_calls: Option<bool>,
    /// The form of the answer.
    #[schema(example = json!({"format": {"type": "text"}}))]
    text: Option<Map<String, Value>>,
    /// Comes back with the answer.
    #[schema(example = json!({"a": "b"}))]
    metadata: Option<Map<String, Value>>,
}

/// `/v1/responses/compact`.
#[derive(ToSchema)]
pub(super) struct CompactRequest {
    /// The model.
    #[schema(example = "default_model")]
    model: String,
    /// The conversation.
    #[schema(example = "Tell me a story.")]
    input: Value,
    /// A system prompt for the summary.
    #[schema(example = "You are kind.")]
    instructions: Option<String>,
    /// An answer whose conversation is compacted.
    previous_response_id: Option<String>,
}

/// `/v1/embeddings`.
#[derive(ToSchema)]
pub(super) struct EmbeddingsRequest {
    /// The model.
    #[schema(example = "default_model")]
    model: Option<String>,
    /// Text, token ids, or a list of either.
    #[schema(example = json!(["a dog"]))]
    input: Value,
    /// `float`, or `base64` of f32.
    #[schema(example = "float")]
    encoding_format: Option<String>,
    /// Changes nothing.
    #[schema(example = "me")]
    user: Option<String>,
}

/// `/tokenize`: `content`, or the `messages` and `tools` of a chat.
#[derive(ToSchema)]
pub(super) struct TokenizeRequest {
    /// The text.
    #[schema(example = "a dog")]
    content: String,
    /// Whether the tokens around every text are among them.
    #[schema(example = true)]
    add_special: Option<bool>,
    /// Whether each comes with its text.
    #[schema(example = true)]
    with_pieces: Option<bool>,
}

/// `/detokenize`.
#[derive(ToSchema)]
pub(super) struct DetokenizeRequest {
    /// The token ids.
    #[schema(example = json!([1, 2, 3]))]
    tokens: Vec<u32>,
}

/// `/apply-template`: what makes the prompt of a chat.
#[derive(ToSchema)]
pub(super) struct TemplateRequest {
    /// What was said.
    #[schema(example = json!([{"role": "user", "content": "Tell me a story."}]))]
    messages: Vec<Message>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>, example = json!([{"type": "function", "function": {"name": "f"}}]))]
    tools: Option<Vec<Value>>,
    /// Variables for the chat template.
    #[schema(example = json!({"enable_thinking": false}))]
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// `/v1/models/load` and `/v1/models/unload`.
#[derive(ToSchema)]
pub(super) struct ModelRequest {
    /// The model, by one of its names.
    model: String,
}

/// `/v1/adapters`.
#[derive(ToSchema)]
pub(super) struct AdapterRequest {
    /// The model that it is for; the first if there is none.
    model: Option<String>,
    /// What requests call it; the name of its folder if there is none.
    name: Option<String>,
    /// Its folder, within those that the server was given.
    path: String,
}

/// Why there is no answer.
#[derive(ToSchema)]
pub(super) struct OpenAiError {
    /// `message`, `type`, `param` (the field that is wrong) and `code` (a word for programs).
    #[schema(example = json!({"message": "`n` is 0", "type": "invalid_request_error", "param": "n", "code": null}))]
    error: Value,
}
