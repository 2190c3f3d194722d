//! The notations of calls, and how a model's is recognized.

use super::{IdStyle, layout::Layout};

/// A notation of tool calls. Names in messages and in `tool_parser_type` are those of the parsers of mlx-lm, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Format {
    /// `json_tools`, Hermes, Qwen2.5, Qwen3: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
    Json,
    /// `mistral`: `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]name[ARGS]{…}`.
    Mistral,
    /// `llama3_json`, Llama 3.1 to 3.3: `{"name": …, "parameters": {…}}` and nothing else, or after `<|python_tag|>`.
    Llama3Json,
    /// `llama4_pythonic`, Llama 3.2 and 4: `[f(a=1), g()]` and nothing else, or between `<|python_start|>` and `<|python_end|>`.
    Llama4Pythonic,
    /// `pythonic`, LFM2: `<|tool_call_start|>[f(a=1), g()]<|tool_call_end|>`.
    Pythonic,
    /// `qwen3_coder`, Qwen3.5: `<tool_call><function=f><parameter=a>…</parameter></function></tool_call>`.
    Qwen3Coder,
    /// `seed_oss`: the same within `<seed:tool_call>`.
    SeedOss,
    /// `glm47`, GLM-4.5 on: `<tool_call>f<arg_key>a</arg_key><arg_value>…</arg_value></tool_call>`.
    Glm47,
    /// `laguna`: the same.
    Laguna,
    /// `longcat`: the same with tags of its own.
    Longcat,
    /// `minimax_m2`: `<minimax:tool_call><invoke name="f"><parameter name="a">…</parameter></invoke></minimax:tool_call>`.
    MinimaxM2,
    /// `minicpm5`: `<function name="f"><param name="a">…</param></function>`.
    Minicpm5,
    /// `muse_spark`: `<atem:function_calls><atem:invoke name="f">…` in messages with headers.
    MuseSpark,
    /// `deepseek_v32`, also V4: `<｜DSML｜function_calls><｜DSML｜invoke name="f">…`.
    DeepseekV32,
    /// `deepseek_v31`: `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`.
    DeepseekV31,
    /// `deepseek_v3`, also R1: the same with a kind before the name, and the arguments in a block of code.
    DeepseekV3,
    /// `kimi_k2`: `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
    KimiK2,
    /// `kimi_k3`: `<|open|>call tool="f"<|sep|>…<|close|>call<|sep|>`.
    KimiK3,
    /// `gemma4`: `<|tool_call>call:f{a:<|"|>…<|"|>}<tool_call|>`.
    Gemma4,
    /// `function_gemma`: `<start_function_call>call:f{a:<escape>…<escape>}<end_function_call>`.
    FunctionGemma,
    /// `harmony`, gpt-oss: `<|channel|>commentary to=functions.f<|message|>{…}<|call|>`.
    Harmony,
}

/// What tells a format besides the chat template.
#[derive(Clone, Copy, Default)]
pub struct Hints<'a> {
    /// `tool_parser_type` of `tokenizer_config.json`, or else what the architecture says.
    pub parser_type: Option<&'a str>,
    /// `chat_template_type` of `tokenizer_config.json`.
    pub template_type: Option<&'a str>,
    /// Whether a token is in the vocabulary.
    pub in_vocabulary: Option<&'a dyn Fn(&str) -> bool>,
}

/// A `tool_parser_type` that no format has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`tool_parser_type` is `{name}`, which is not known; known are {}", known())]
pub struct UnknownParser {
    /// The name.
    pub name: String,
}

fn known() -> String {
    let names: Vec<_> = Format::ALL.iter().map(|format| format!("`{}`", format.name())).collect();
    names.join(", ")
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 21] = [
        Self::Json,
        Self::Mistral,
        Self::Llama3Json,
        Self::Llama4Pythonic,
        Self::Pythonic,
        Self::Qwen3Coder,
        Self::SeedOss,
        Self::Glm47,
        Self::Laguna,
        Self::Longcat,
        Self::MinimaxM2,
        Self::Minicpm5,
        Self::MuseSpark,
        Self::DeepseekV32,
        Self::DeepseekV31,
        Self::DeepseekV3,
        Self::KimiK2,
        Self::KimiK3,
        Self::Gemma4,
        Self::FunctionGemma,
        Self::Harmony,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json_tools",
            Self::Mistral => "mistral",
            Self::Llama3Json => "llama3_json",
            Self::Llama4Pythonic => "llama4_pythonic",
            Self::Pythonic => "pythonic",
            Self::Qwen3Coder => "qwen3_coder",
            Self::SeedOss => "seed_oss",
            Self::Glm47 => "glm47",
            Self::Laguna => "laguna",
            Self::Longcat => "longcat",
            Self::MinimaxM2 => "minimax_m2",
            Self::Minicpm5 => "minicpm5",
            Self::MuseSpark => "muse_spark",
            Self::DeepseekV32 => "deepseek_v32",
            Self::DeepseekV31 => "deepseek_v31",
            Self::DeepseekV3 => "deepseek_v3",
            Self::KimiK2 => "kimi_k2",
            Self::KimiK3 => "kimi_k3",
            Self::Gemma4 => "gemma4",
            Self::FunctionGemma => "function_gemma",
            Self::Harmony => "harmony",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Result<Self, UnknownParser> {
        let format = Self::ALL.into_iter().find(|format| format.name() == name);
        format.ok_or_else(|| UnknownParser { name: name.to_owned() })
    }

    /// The format of a model: by name, else by what its chat template writes, else by its vocabulary; none where nothing tells.
    ///
    /// The order is that of `_infer_tool_parser` of `mlx_lm/tokenizer_utils.py` 0.32.2; after it come the formats it does not have.
    pub fn detect(template: Option<&str>, hints: &Hints<'_>) -> Result<Option<Self>, UnknownParser> {
        if let Some(name) = hints.parser_type {
            return Self::named(name).map(Some);
        }
        let by_type = match hints.template_type {
            Some("deepseek_v32") => Some(Self::DeepseekV32),
            Some("muse_spark") => Some(Self::MuseSpark),
            _ => None,
        };
        let by_template = || template.and_then(Self::of_template);
        Ok(by_type.or_else(by_template).or_else(|| Self::of_vocabulary(hints.in_vocabulary?)))
    }

    fn of_template(template: &str) -> Option<Self> {
        let all = |marks: &[&str]| marks.iter().all(|mark| template.contains(mark));
        let any = |marks: &[&str]| marks.iter().any(|mark| template.contains(mark));
        let rules = [
            (any(&["<minimax:tool_call>"]), Self::MinimaxM2),
            (all(&["<|tool_call>", "<tool_call|>"]), Self::Gemma4),
            (any(&["<start_function_call>"]), Self::FunctionGemma),
            (any(&["<longcat_tool_call>"]), Self::Longcat),
            (any(&["<arg_key>"]), Self::Glm47),
            (any(&["<|tool_list_start|>", "<|tool_call_start|>"]), Self::Pythonic),
            (any(&["<tool_call>\\n<function=", "<tool_call>\n<function="]), Self::Qwen3Coder),
            (any(&["<|tool_calls_section_begin|>"]), Self::KimiK2),
            (all(&["<function name=\"", "<param name=\""]), Self::Minicpm5),
            (any(&["[TOOL_CALLS]"]), Self::Mistral),
            (any(&["<atem:function_calls>"]), Self::MuseSpark),
            // MiniMax M3 has these too, between tokens of its own, and calls of another kind.
            (all(&["<tool_call>", "tool_call.name"]) && !any(&["]<]minimax[>["]), Self::Json),
            (any(&["<seed:tool_call>"]), Self::SeedOss),
            (any(&["｜DSML｜"]), Self::DeepseekV32),
            (all(&["<｜tool▁sep｜>", "```json"]), Self::DeepseekV3),
            (any(&["<｜tool▁sep｜>"]), Self::DeepseekV31),
            (all(&["<|channel|>", "<|message|>", "<|start|>"]), Self::Harmony),
            (any(&["<|python_start|>"]), Self::Llama4Pythonic),
            (all(&["<|start_header_id|>", "ipython", "\"parameters\": "]), Self::Llama3Json),
        ];
        rules.into_iter().find_map(|(found, format)| found.then_some(format))
    }

    fn of_vocabulary(has: &dyn Fn(&str) -> bool) -> Option<Self> {
        if ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"].iter().all(|token| has(token)) {
            Some(Self::KimiK3)
        } else if has("<|tool_call_start|>") && has("<|tool_call_end|>") {
            Some(Self::Pythonic)
        } else {
            None
        }
    }

    /// The markers that begin calls, for a grammar that waits for one.
    pub fn starts(self) -> Vec<&'static str> {
        match self {
            Self::Harmony => vec![" to=functions.", "<|channel|>commentary to=functions."],
            _ => [Layout::of(self).starts, Layout::of(self).kept].concat(),
        }
    }

    /// The markers that end calls; none where nothing marks it.
    pub fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Harmony => &["<|call|>"],
            _ => Layout::of(self).ends,
        }
    }

    pub(super) fn id_style(self) -> IdStyle {
        if self == Self::Mistral { IdStyle::Nine } else { IdStyle::Call }
    }
}
