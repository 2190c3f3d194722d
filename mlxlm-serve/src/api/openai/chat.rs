//! `/v1/chat/completions`: what a request may say.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};

use super::{amounts, chat_answer, common, messages, model, streaming};
use crate::api::conversation::{Conversation, Rendered, RoleMapping, only_tool};
use crate::api::error::{ApiError, Result};
use crate::api::hold::{self, Wishes};
use crate::api::{Fields, adapters, sampling, wanted};
use crate::app::{App, blocking};
use crate::engine::{Card, Generate, Work};
use crate::options::ServerOptions;
use crate::tools::Tools;

/// A request that was read: the prompt is made, and everything in it can be done.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) generate: Generate,
    /// The prompt; its tokens are with the job.
    pub(crate) prompt: Rendered,
    pub(crate) tools: Tools,
    /// Whether an answer may call more than one tool.
    pub(crate) parallel_calls: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

pub(crate) async fn handle(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    let adapter = adapters::requested(&app, &mut fields).await?;
    let (own, facts) = (Arc::clone(&app), Arc::clone(&card));
    let mut request = blocking(move || ChatRequest::read(fields, &own.options, &facts)).await?;
    let generate = Generate { adapter, ..std::mem::take(&mut request.generate) };
    let (choices, tokens) = (generate.choices, generate.prompt.len());
    let wants_logprobs = generate.logprobs.is_some();
    let job = app.engine.submit_one(Work::Generate(Box::new(generate)))?;
    chat_answer::answer(&card, request, job, choices, tokens, wants_logprobs).await
}

impl ChatRequest {
    /// Reads a request, and makes the prompt of it.
    pub(crate) fn read(mut fields: Fields, options: &ServerOptions, card: &Card) -> Result<Self> {
        let model = model(&mut fields, options)?;
        let mut generate = sampling::read(&mut fields, &options.defaults, card)?;
        amounts(&mut fields, &mut generate, 1)?;
        generate.stop = sampling::stop(&mut fields, "stop")?;
        generate.logprobs = logprobs(&mut fields)?;
        let (stream, include_usage) = streaming(&mut fields)?;
        let ToolUse { tools, parallel, must_call } = tool_use(&mut fields)?;
        let known = Tools::new(tools.iter().flatten());
        let wanted = wanted::read(&mut fields)?;
        let thinking_budget = hold::thinking_budget(&mut fields)?;
        let conversation = Conversation { must_call, ..conversation(&mut fields, options, tools.clone())? };
        common(&mut fields)?;
        refuse(&mut fields)?;
        fields.finish()?;
        let mut prompt = conversation.rendered(card)?;
        (generate.prompt, generate.turns) = (std::mem::take(&mut prompt.tokens), std::mem::take(&mut prompt.turns));
        sampling::fit(&mut generate, card, "messages")?;
        let tools = tools.unwrap_or_default();
        let wishes = Wishes { wanted, tools: &tools, must_call, parallel_calls: parallel, thinking_budget };
        hold::hold(&mut generate, wishes, &mut prompt, card)?;
        Ok(Self { model, generate, prompt, tools: known, parallel_calls: parallel, stream, include_usage })
    }
}

/// The fields that make the prompt; `/apply-template` has them too.
pub(crate) fn conversation(
    fields: &mut Fields,
    options: &ServerOptions,
    tools: Option<Vec<Value>>,
) -> Result<Conversation> {
    let given = fields.list("messages")?;
    let messages = messages::read(fields.required("messages", given)?, "messages")?;
    let mut kwargs = options.defaults.chat_template_args.clone();
    if let Some(effort) = fields.string("reasoning_effort")? {
        if effort == "none" {
            kwargs.insert("enable_thinking".into(), false.into());
        }
        kwargs.insert("reasoning_effort".into(), effort.into());
    }
    kwargs.extend(fields.object("chat_template_kwargs")?.unwrap_or_default());
    let continues = fields.boolean("continue_final_message")?.unwrap_or(false);
    let answers = fields.boolean("add_generation_prompt")?.unwrap_or(!continues);
    if answers == continues {
        let message = "must be the contrary of `continue_final_message`";
        return Err(fields.error("add_generation_prompt", message));
    }
    let roles = fields.object("role_mapping")?.map(RoleMapping::new);
    Ok(Conversation { messages, tools: tools.map(Value::from), kwargs, roles, continues, must_call: false })
}

/// The tools of a request, and how they may be used.
pub(crate) struct ToolUse {
    /// Those that the model may call.
    pub(crate) tools: Option<Vec<Value>>,
    /// Whether it may call several at once.
    pub(crate) parallel: bool,
    /// Whether it has to call one.
    pub(crate) must_call: bool,
}

/// `tools`, `tool_choice` and `parallel_tool_calls`.
pub(crate) fn tool_use(fields: &mut Fields) -> Result<ToolUse> {
    let tools = messages::tools(fields.list("tools")?, "tools")?;
    let choice = fields.any("tool_choice");
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    choose(tools, choice, parallel, &fields.path("tool_choice"))
}

/// What a `tool_choice` leaves of the tools. The function is named in an object of its own, or beside the type.
pub(crate) fn choose(tools: Option<Vec<Value>>, choice: Option<Value>, parallel: bool, path: &str) -> Result<ToolUse> {
    let choice = choice.unwrap_or_else(|| "auto".into());
    let named = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str());
    let (tools, must_call) = match (choice.as_str(), choice["type"].as_str(), named) {
        (Some("auto"), ..) => (tools, false),
        (Some("none"), ..) => (None, false),
        (Some("required"), ..) if tools.is_some() => (tools, true),
        (_, Some("function"), Some(name)) => (Some(only_tool(tools, name, path)?), true),
        (Some("required"), ..) => return Err(ApiError::field(path, "is `required`, and there are no tools")),
        _ => return Err(ApiError::unsupported(path, "can be `auto`, `none`, `required` or a function")),
    };
    Ok(ToolUse { tools, parallel, must_call })
}

/// `logprobs` and `top_logprobs`.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=20)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(fields.error("top_logprobs", "needs `logprobs` to be true")),
    }
}

/// What this server does not do, by name.
fn refuse(fields: &mut Fields) -> Result<()> {
    fields.only("modalities", &[json!(["text"])], "can be `[\"text\"]` only")?;
    fields.only("audio", &[], "is not supported: no model that can be loaded speaks")?;
    fields.only("functions", &[], "is not supported; use `tools`")?;
    fields.only("function_call", &[], "is not supported; use `tool_choice`")?;
    fields.only("verbosity", &["medium".into()], "is not supported")?;
    fields.only("web_search_options", &[], "is not supported")?;
    // A guess at the answer, to be faster.
    fields.pass_over(&["prediction"]);
    Ok(())
}
