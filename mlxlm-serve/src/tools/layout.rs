//! The formats as data: their markers, and which reader reads what is between them.

use super::Format;
use super::read::headed::{DEEPSEEK, KIMI};
use super::read::pairs;
use super::read::tagged::{Tags, Typing};
use super::schema::Untyped;

/// How calls stand in an answer.
pub(super) struct Layout {
    /// The markers that begin calls.
    pub(super) starts: &'static [&'static str],
    /// Likewise, if they belong to the first call.
    pub(super) kept: &'static [&'static str],
    /// A tool's name between these begins calls too.
    pub(super) around_name: Option<[&'static str; 2]>,
    /// What ends calls; nothing where nothing marks it.
    pub(super) ends: &'static [&'static str],
    /// Markup of the answer.
    pub(super) skipped: &'static [&'static str],
    /// What calls begin with that no marker announces.
    pub(super) bare: Option<char>,
    pub(super) reader: Reader,
}

/// Who reads the calls.
pub(super) enum Reader {
    Json,
    /// Python, or JSON where it begins with a brace.
    Python,
    Braces(&'static str),
    Tagged(&'static Tags),
    Pairs(&'static pairs::Tags),
    Kimi,
    DeepSeek,
    Mistral,
}

impl Layout {
    const fn new(starts: &'static [&'static str], ends: &'static [&'static str], reader: Reader) -> Self {
        Self { starts, kept: &[], around_name: None, ends, skipped: &[], bare: None, reader }
    }

    pub(super) fn of(format: Format) -> &'static Self {
        match format {
            Format::Json => &JSON,
            Format::Mistral => &MISTRAL,
            Format::Llama3Json => &LLAMA3_JSON,
            Format::Llama4Pythonic => &LLAMA4_PYTHONIC,
            Format::Pythonic => &PYTHONIC,
            Format::Qwen3Coder => &QWEN3_CODER,
            Format::SeedOss => &SEED_OSS,
            Format::Glm47 | Format::Laguna => &GLM47,
            Format::Longcat => &LONGCAT,
            Format::MinimaxM2 => &MINIMAX_M2,
            Format::Minicpm5 => &MINICPM5,
            Format::MuseSpark | Format::Harmony => &MUSE_SPARK,
            Format::DeepseekV32 => &DEEPSEEK_V32,
            Format::DeepseekV3 | Format::DeepseekV31 => &DEEPSEEK_V3,
            Format::KimiK2 => &KIMI_K2,
            Format::KimiK3 => &KIMI_K3,
            Format::Gemma4 => &GEMMA4,
            Format::FunctionGemma => &FUNCTION_GEMMA,
        }
    }
}

static JSON: Layout = Layout::new(&["<tool_call>"], &["</tool_call>"], Reader::Json);

static MISTRAL: Layout = Layout::new(&["[TOOL_CALLS]"], &[], Reader::Mistral);

static LLAMA3_JSON: Layout = Layout { bare: Some('{'), ..Layout::new(&["<|python_tag|>"], &[], Reader::Python) };

static LLAMA4_PYTHONIC: Layout =
    Layout { bare: Some('['), ..Layout::new(&["<|python_start|>"], &["<|python_end|>"], Reader::Python) };

static PYTHONIC: Layout = Layout::new(&["<|tool_call_start|>"], &["<|tool_call_end|>"], Reader::Python);

static QWEN3_CODER: Layout = Layout {
    around_name: Some(["<function=", ">"]),
    ..Layout::new(&["<tool_call>"], &["</tool_call>"], Reader::Tagged(&FUNCTION_TAGS))
};

static SEED_OSS: Layout = Layout::new(&["<seed:tool_call>"], &["</seed:tool_call>"], Reader::Tagged(&FUNCTION_TAGS));

static FUNCTION_TAGS: Tags = Tags {
    call: ["<function=", "</function>"],
    parameter: ["<parameter=", "</parameter>"],
    head_end: &[">", "\n", "<"],
    attributes: ["", ""],
    typing: Typing::Schema(Untyped::Text),
    is_framed: true,
    object: None,
};

static GLM47: Layout = Layout::new(
    &["<tool_call>"],
    &["</tool_call>"],
    Reader::Pairs(&pairs::Tags {
        key: ["<arg_key>", "</arg_key>"],
        value: ["<arg_value>", "</arg_value>"],
        end: "</tool_call>",
    }),
);

static LONGCAT: Layout = Layout::new(
    &["<longcat_tool_call>"],
    &["</longcat_tool_call>"],
    Reader::Pairs(&pairs::Tags {
        key: ["<longcat_arg_key>", "</longcat_arg_key>"],
        value: ["<longcat_arg_value>", "</longcat_arg_value>"],
        end: "</longcat_tool_call>",
    }),
);

static MINIMAX_M2: Layout = Layout::new(
    &["<minimax:tool_call>"],
    &["</minimax:tool_call>"],
    Reader::Tagged(&Tags {
        call: ["<invoke name=", "</invoke>"],
        parameter: ["<parameter name=", "</parameter>"],
        head_end: &[">"],
        attributes: ["", ""],
        typing: Typing::Schema(Untyped::Text),
        is_framed: false,
        object: None,
    }),
);

static MINICPM5: Layout = Layout {
    kept: &["<function name="],
    ..Layout::new(
        &[],
        &[],
        Reader::Tagged(&Tags {
            call: ["<function name=", "</function>"],
            parameter: ["<param name=", "</param>"],
            head_end: &[">"],
            attributes: ["", ""],
            typing: Typing::Schema(Untyped::Text),
            is_framed: false,
            object: None,
        }),
    )
};

static MUSE_SPARK: Layout = Layout::new(
    &["<atem:function_calls>"],
    &["</atem:function_calls>"],
    Reader::Tagged(&Tags {
        call: ["<atem:invoke", "</atem:invoke>"],
        parameter: ["<atem:parameter", "</atem:parameter>"],
        head_end: &[">"],
        attributes: ["name", "name"],
        typing: Typing::Schema(Untyped::Guess),
        is_framed: false,
        object: None,
    }),
);

static DEEPSEEK_V32: Layout = Layout::new(
    &["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"],
    &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"],
    Reader::Tagged(&Tags {
        call: ["<｜DSML｜invoke", "</｜DSML｜invoke>"],
        parameter: ["<｜DSML｜parameter", "</｜DSML｜parameter>"],
        head_end: &[">"],
        attributes: ["name", "name"],
        typing: Typing::IsString,
        is_framed: false,
        object: None,
    }),
);

static DEEPSEEK_V3: Layout =
    Layout { kept: &[DEEPSEEK[2]], ..Layout::new(&[DEEPSEEK[0]], &[DEEPSEEK[1]], Reader::DeepSeek) };

static KIMI_K2: Layout = Layout { kept: &[KIMI[2]], ..Layout::new(&[KIMI[0]], &[KIMI[1]], Reader::Kimi) };

static KIMI_K3: Layout = Layout {
    skipped: &["<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"],
    ..Layout::new(
        &["<|open|>tools<|sep|>"],
        &["<|close|>tools<|sep|>"],
        Reader::Tagged(&Tags {
            call: ["<|open|>call", "<|close|>call<|sep|>"],
            parameter: ["<|open|>argument", "<|close|>argument<|sep|>"],
            head_end: &["<|sep|>"],
            attributes: ["tool", "key"],
            typing: Typing::Named,
            is_framed: false,
            object: Some(["<|open|>json", "<|close|>json<|sep|>"]),
        }),
    )
};

static GEMMA4: Layout = Layout::new(&["<|tool_call>"], &["<tool_call|>"], Reader::Braces("<|\"|>"));

static FUNCTION_GEMMA: Layout =
    Layout::new(&["<start_function_call>"], &["<end_function_call>"], Reader::Braces("<escape>"));
