//! `/v1/responses`: what a request may say.

use serde_json::{Map, Value, json};

use super::{input, not_kept};
use crate::api::conversation::{Conversation, Rendered};
use crate::api::error::{ApiError, Result};
use crate::api::hold::{self, Wishes};
use crate::api::openai::chat::{self, ToolUse};
use crate::api::openai::{messages, model};
use crate::api::wanted::{self, Wanted};
use crate::api::{Fields, sampling};
use crate::app::App;
use crate::engine::{Card, Generate};
use crate::tools::Tools;

/// A request that was read.
#[derive(Debug)]
pub(super) struct ResponsesRequest {
    pub(super) generate: Generate,
    /// The prompt; its tokens are with the job.
    pub(super) prompt: Rendered,
    /// What was said before the answer, as templates take it, without instructions: they are for this answer only.
    pub(super) said: Vec<Value>,
    pub(super) tools: Tools,
    pub(super) parallel_calls: bool,
    pub(super) stream: bool,
    pub(super) store: bool,
    /// What of the request every answer repeats.
    pub(super) echo: Map<String, Value>,
}

impl ResponsesRequest {
    pub(super) fn read(mut fields: Fields, app: &App, card: &Card) -> Result<Self> {
        let options = &app.options;
        let named = fields.is_given("model");
        let model = model(&mut fields, options)?;
        fields.required("model", named.then_some(()))?;
        let mut generate = sampling::read(&mut fields, &options.defaults, card)?;
        let max_output_tokens = fields.count("max_output_tokens", 1..=u64::MAX)?;
        generate.max_tokens = max_output_tokens.unwrap_or(generate.max_tokens);
        let stream = fields.boolean("stream")?.unwrap_or(false);
        fields.only("stream_options", &[json!({"include_obfuscation": false})], "is not supported")?;
        let store = fields.boolean("store")?.unwrap_or(true);
        let previous = fields.string("previous_response_id")?;
        let mut said = match &previous {
            Some(id) => app.responses.get(id).ok_or_else(|| not_kept(id))?.messages.clone(),
            None => Vec::new(),
        };
        let instructions = fields.string("instructions")?;
        let given = fields.any("input");
        input::read(fields.required("input", given)?, &mut said)?;
        let mut kwargs = options.defaults.chat_template_args.clone();
        let reasoning = reasoning(&mut fields, &mut kwargs)?;
        kwargs.extend(fields.object("chat_template_kwargs")?.unwrap_or_default());
        let parallel_calls = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        let shown = fields.list("tools")?.unwrap_or_default();
        let tools = tools(shown.clone())?;
        let choice = fields.any("tool_choice").unwrap_or_else(|| "auto".into());
        let ToolUse { tools, must_call, .. } =
            chat::choose(tools, Some(choice.clone()), parallel_calls, "tool_choice")?;
        let metadata = fields.object("metadata")?.unwrap_or_default();
        let (user, key) = (fields.string("safety_identifier")?, fields.string("prompt_cache_key")?);
        let (shown_format, wanted) = format(&mut fields)?;
        let thinking_budget = hold::thinking_budget(&mut fields)?;
        refuse(&mut fields)?;
        fields.finish()?;

        let system = instructions.iter().map(|text| json!({"role": "system", "content": text}));
        let mut messages: Vec<Value> = system.chain(said.iter().cloned()).collect();
        join_systems(&mut messages);
        let known = Tools::new(tools.iter().flatten());
        let list = tools.clone().unwrap_or_default();
        let tools = tools.map(Value::from);
        let conversation = Conversation { messages, tools, kwargs, roles: None, continues: false, must_call };
        let mut prompt = conversation.rendered(card)?;
        (generate.prompt, generate.turns) = (std::mem::take(&mut prompt.tokens), std::mem::take(&mut prompt.turns));
        sampling::fit(&mut generate, card, "input")?;
        let wishes = Wishes { wanted, tools: &list, must_call, parallel_calls, thinking_budget };
        hold::hold(&mut generate, wishes, &mut prompt, card)?;
        let echo = json!({
            "model": model, "instructions": instructions, "previous_response_id": previous, "tools": whole(shown),
            "tool_choice": choice, "parallel_tool_calls": parallel_calls, "truncation": "disabled",
            "text": {"format": shown_format}, "temperature": generate.sampler.temp, "top_p": generate.sampler.top_p,
            "presence_penalty": generate.processors.presence_penalty.unwrap_or(0.0),
            "frequency_penalty": generate.processors.frequency_penalty.unwrap_or(0.0),
            "top_logprobs": 0, "reasoning": reasoning, "max_output_tokens": max_output_tokens, "max_tool_calls": null,
            "store": store, "background": false, "service_tier": "default", "metadata": metadata,
            "safety_identifier": user, "prompt_cache_key": key,
        });
        let echo = if let Value::Object(echo) = echo { echo } else { Map::new() };
        Ok(Self { generate, prompt, said, tools: known, parallel_calls, stream, store, echo })
    }
}

/// `reasoning`: how much the model should think, which is a variable of its template.
fn reasoning(fields: &mut Fields, kwargs: &mut Map<String, Value>) -> Result<Value> {
    let Some(mut reasoning) = fields.fields("reasoning")? else { return Ok(json!({"effort": null, "summary": null})) };
    let (effort, summary) = (reasoning.string("effort")?, reasoning.string("summary")?);
    reasoning.pass_over(&["generate_summary"]);
    reasoning.finish()?;
    if let Some(effort) = &effort {
        if effort == "none" {
            kwargs.insert("enable_thinking".into(), false.into());
        }
        kwargs.insert("reasoning_effort".into(), effort.as_str().into());
    }
    Ok(json!({"effort": effort, "summary": summary}))
}

/// Tools in the form of chats, which is that of templates; here name and parameters stand beside the type.
fn tools(items: Vec<Value>) -> Result<Option<Vec<Value>>> {
    let nested = |(i, item): (usize, Value)| {
        let mut tool = Fields::at(format!("tools[{i}]"), item)?;
        let kind = tool.string("type")?;
        if tool.required("type", kind)? != "function" {
            return Err(ApiError::unsupported(tool.path("type"), "can be `function` only"));
        }
        Ok(json!({"type": "function", "function": tool.rest()}))
    };
    let tools: Vec<Value> = items.into_iter().enumerate().map(nested).collect::<Result<_>>()?;
    messages::tools(Some(tools), "tools")
}

/// `text`: the format of the answer, as it is shown and as it is held.
fn format(fields: &mut Fields) -> Result<(Value, Option<Wanted>)> {
    let plain = json!({"type": "text"});
    let Some(mut text) = fields.fields("text")? else { return Ok((plain, None)) };
    text.only("verbosity", &["medium".into()], "is not supported")?;
    let given = text.object("format")?;
    let path = text.path("format");
    text.finish()?;
    let Some(given) = given.map(Value::Object) else { return Ok((plain, None)) };
    let wanted = wanted::format_of(Fields::at(path, given.clone())?, false)?;
    Ok((given, wanted))
}

/// Tools as answers repeat them: with every entry, given or not.
fn whole(mut tools: Vec<Value>) -> Vec<Value> {
    for tool in tools.iter_mut().filter_map(Value::as_object_mut) {
        for (name, value) in [("description", Value::Null), ("parameters", Value::Null), ("strict", false.into())] {
            tool.entry(name).or_insert(value);
        }
    }
    tools
}

/// What this server does not do, by name, and what changes no answer.
fn refuse(fields: &mut Fields) -> Result<()> {
    fields.only("truncation", &["disabled".into()], "can be `disabled` only")?;
    fields.only("background", &[false.into()], "is not supported")?;
    fields.only("service_tier", &["auto".into(), "default".into()], "can be `auto` only")?;
    fields.only("top_logprobs", &[0.into()], "is not supported")?;
    fields.only("priority", &[0.into()], "is not supported: requests are answered as they come")?;
    fields.only("max_tool_calls", &[], "is not supported: this server runs no tools")?;
    fields.only("conversation", &[], "is not supported; use `previous_response_id`")?;
    fields.only("prompt", &[], "is not supported")?;
    fields.only("context_management", &[], "is not supported")?;
    // Everything that can be included is.
    fields.pass_over(&["include", "user", "prompt_cache_retention"]);
    Ok(())
}

/// Puts system prompts at the beginning together: templates know one.
pub(super) fn join_systems(messages: &mut Vec<Value>) {
    while let [first, second, ..] = messages.as_mut_slice()
        && first["role"] == "system"
        && second["role"] == "system"
    {
        let text = |message: &Value| message["content"].as_str().unwrap_or_default().to_owned();
        first["content"] = format!("{}\n\n{}", text(first), text(second)).into();
        messages.remove(1);
    }
}
