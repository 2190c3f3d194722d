//! `/v1/messages`: what a request may say.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::messages;
use crate::api::conversation::{Conversation, Rendered, only_tool};
use crate::api::error::{ApiError, Result};
use crate::api::fields::cut;
use crate::api::hold::{self, Wishes};
use crate::api::openai::chat::ToolUse;
use crate::api::openai::model;
use crate::api::wanted::{self, Wanted};
use crate::api::{Fields, sampling};
use crate::app::App;
use crate::engine::{Card, Generate};
use crate::tools::Tools;

/// A request that was read.
#[derive(Debug)]
pub(super) struct MessagesRequest {
    pub(super) model: String,
    pub(super) generate: Generate,
    /// The prompt; its tokens are with the job.
    pub(super) prompt: Rendered,
    pub(super) tools: Tools,
    pub(super) parallel_calls: bool,
    pub(super) stream: bool,
    pub(super) stop: Vec<String>,
    /// What the answer is kept with, if it is to be gone on from.
    pub(super) thread: Option<Thread>,
}

/// A conversation that the server keeps, so that the next request sends only what is new.
#[derive(Debug, Clone, Default)]
pub(super) struct Thread {
    /// What was said before the answer, as templates take it, the system prompt among it.
    pub(super) messages: Vec<Value>,
    /// The tools that it began with, in OpenAI's form.
    pub(super) tools: Value,
}

impl MessagesRequest {
    pub(super) fn read(mut fields: Fields, app: &App, card: &Card) -> Result<Self> {
        let options = &app.options;
        let model = model(&mut fields, options)?;
        let max_tokens = fields.count("max_tokens", 1..=u64::MAX)?;
        let max_tokens = fields.required("max_tokens", max_tokens)?;
        let mut generate = sampling::read(&mut fields, &options.defaults, card)?;
        generate.max_tokens = max_tokens;
        generate.stop = sampling::stop(&mut fields, "stop_sequences")?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let Asked { conversation, parallel_calls, wanted, thinking_budget, thread } = asked(&mut fields, app)?;
        fields.finish()?;
        let list: Vec<Value> = conversation.tools.iter().filter_map(Value::as_array).flatten().cloned().collect();
        let tools = Tools::new(conversation.tools.iter().filter_map(Value::as_array).flatten());
        let mut prompt = conversation.rendered(card)?;
        (generate.prompt, generate.turns) = (std::mem::take(&mut prompt.tokens), std::mem::take(&mut prompt.turns));
        sampling::fit(&mut generate, card, "messages")?;
        let must_call = conversation.must_call;
        let wishes = Wishes { wanted, tools: &list, must_call, parallel_calls, thinking_budget };
        hold::hold(&mut generate, wishes, &mut prompt, card)?;
        let stop = Vec::new();
        Ok(Self { model, generate, prompt, tools, parallel_calls, stream, stop, thread })
    }
}

/// The tokens that the prompt of a request has.
pub(super) fn count(mut fields: Fields, app: &App, card: &Card) -> Result<usize> {
    model(&mut fields, &app.options)?;
    let Asked { conversation, .. } = asked(&mut fields, app)?;
    fields.finish()?;
    Ok(conversation.rendered(card)?.tokens.len())
}

struct Asked {
    conversation: Conversation,
    parallel_calls: bool,
    wanted: Option<Wanted>,
    thinking_budget: Option<usize>,
    thread: Option<Thread>,
}

/// The fields that make the prompt.
fn asked(fields: &mut Fields, app: &App) -> Result<Asked> {
    let before = thread(fields, app)?;
    let given = fields.list("messages")?;
    let mut messages = messages::read(fields.required("messages", given)?)?;
    // An answer that was begun is gone on with.
    let continues = messages.last().is_some_and(|last| last["role"] == "assistant" && last.get("tool_calls").is_none());
    if let Some(system) = messages::system(fields.any("system"))? {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
    let mut kwargs = app.options.defaults.chat_template_args.clone();
    let mut thinking_budget = None;
    if let Some(mut thinking) = fields.fields("thinking")? {
        let kind = thinking.word("type", &["enabled", "disabled", "adaptive"])?;
        let kind = thinking.required("type", kind)?;
        kwargs.insert("enable_thinking".into(), (kind != "disabled").into());
        thinking_budget = thinking.count("budget_tokens", 0..=u64::MAX)?.filter(|_| kind == "enabled");
        thinking.pass_over(&["display"]);
        thinking.finish()?;
    }
    let wanted = output(fields, &mut kwargs)?;
    kwargs.extend(fields.object("chat_template_kwargs")?.unwrap_or_default());
    let mut tools = tools(fields.list("tools")?)?;
    let thread = before.map(|before| {
        if let Value::Array(known) = before.tools
            && tools.is_none()
        {
            tools = Some(known);
        }
        messages.splice(0..0, before.messages);
        Thread { messages: messages.clone(), tools: tools.clone().into() }
    });
    let ToolUse { tools, parallel: parallel_calls, must_call } = choice(fields, tools)?;
    fields.pass_over(&["metadata", "service_tier", "cache_control", "context_management", "speed"]);
    fields.only("container", &[], "is not supported")?;
    fields.only("mcp_servers", &[json!([])], "is not supported")?;
    let tools = tools.map(Value::from);
    let continues = continues && !must_call;
    let conversation = Conversation { messages, tools, kwargs, roles: None, continues, must_call };
    Ok(Asked { conversation, parallel_calls, wanted, thinking_budget, thread })
}

/// `output_config`, and `output_format` as it was called before: the format of the answer, and how much the model should think.
fn output(fields: &mut Fields, kwargs: &mut Map<String, Value>) -> Result<Option<Wanted>> {
    let mut format = fields.fields("output_format")?;
    if let Some(mut config) = fields.fields("output_config")? {
        if let Some(effort) = config.string("effort")? {
            kwargs.insert("reasoning_effort".into(), effort.into());
        }
        format = config.fields("format")?.or(format);
        config.finish()?;
    }
    format.map_or(Ok(None), |format| wanted::format_of(format, false))
}

/// `thread`: the conversation is to be kept, and may go on from one that was. `None` where it is not.
fn thread(fields: &mut Fields, app: &App) -> Result<Option<Thread>> {
    let Some(mut thread) = fields.fields("thread")? else { return Ok(None) };
    let (kind, id) = (thread.word("type", &["create", "continue"])?, thread.string("previous_message_id")?);
    let before = match thread.required("type", kind)? {
        "continue" => {
            let id = thread.required("previous_message_id", id)?;
            let kept = app.threads.get(&id).ok_or_else(|| {
                let message = format!("no thread ends at the message `{}`, or it was dropped", cut(&id));
                ApiError::new(StatusCode::NOT_FOUND, message).code("thread_not_found")
            })?;
            Thread { messages: kept.messages.clone(), tools: kept.response.clone() }
        }
        _ => Thread::default(),
    };
    thread.finish()?;
    Ok(Some(before))
}

/// Tools in OpenAI's form, which is that of templates.
fn tools(items: Option<Vec<Value>>) -> Result<Option<Vec<Value>>> {
    let Some(items) = items.filter(|items| !items.is_empty()) else { return Ok(None) };
    let tool = |(i, item): (usize, Value)| {
        let mut tool = Fields::at(format!("tools[{i}]"), item)?;
        let kind = tool.string("type")?.unwrap_or_else(|| "custom".into());
        if kind != "custom" {
            return Err(ApiError::unsupported(tool.path("type"), "can be `custom` only: this server runs no tools"));
        }
        let (name, schema) = (tool.string("name")?, tool.object("input_schema")?);
        let (name, schema) = (tool.required("name", name)?, tool.required("input_schema", schema)?);
        let mut function = json!({"name": name, "parameters": schema});
        if let Some(description) = tool.string("description")? {
            function["description"] = description.into();
        }
        if let Some(strict) = tool.boolean("strict")? {
            function["strict"] = strict.into();
        }
        Ok(json!({"type": "function", "function": function}))
    };
    items.into_iter().enumerate().map(tool).collect::<Result<_>>().map(Some)
}

/// `tool_choice`: which tools the model may call, whether it has to, and whether several at once.
fn choice(fields: &mut Fields, tools: Option<Vec<Value>>) -> Result<ToolUse> {
    let auto = |tools| ToolUse { tools, parallel: true, must_call: false };
    let Some(mut choice) = fields.fields("tool_choice")? else { return Ok(auto(tools)) };
    let (kind, name) = (choice.string("type")?, choice.string("name")?);
    let parallel = !choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    let (tools, must_call) = match (choice.required("type", kind)?.as_str(), name) {
        ("auto", _) => (tools, false),
        ("none", _) => (None, false),
        ("any", _) if tools.is_some() => (tools, true),
        ("tool", Some(name)) => (Some(only_tool(tools, &name, &choice.path("name"))?), true),
        _ => {
            return Err(
                choice.error("type", "can be `auto`, `none`, `any` where there are tools, or `tool` with a name")
            );
        }
    };
    choice.finish()?;
    Ok(ToolUse { tools, parallel, must_call })
}
