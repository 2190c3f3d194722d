//! Formats recognized from templates and vocabularies.

use mlxlm_serve::tools::{Format, Hints};

fn of_template(template: &str) -> Option<Format> {
    Format::detect(Some(template), &Hints::default()).expect("no name, so none that is unknown")
}

#[test]
fn by_template() {
    for (template, format) in [
        ("{{ '<minimax:tool_call>' }} <tool_call> tool_call.name", Format::MinimaxM2),
        ("'<|tool_call>call:' … '<tool_call|>'", Format::Gemma4),
        ("<start_function_call>", Format::FunctionGemma),
        ("<longcat_tool_call> <arg_key>", Format::Longcat),
        ("<tool_call>{name}<arg_key> tool_call.name", Format::Glm47),
        ("<|tool_list_start|>", Format::Pythonic),
        ("<|tool_call_start|>", Format::Pythonic),
        (r"'<tool_call>\n<function=' + tool_call.name", Format::Qwen3Coder),
        ("<tool_call>\n<function=f>", Format::Qwen3Coder),
        ("<|tool_calls_section_begin|>", Format::KimiK2),
        ("<function name=\"f\"><param name=\"a\">", Format::Minicpm5),
        ("[TOOL_CALLS]", Format::Mistral),
        ("<atem:function_calls>", Format::MuseSpark),
        (r#"'<tool_call>\n{"name": "' ~ tool_call.name"#, Format::Json),
        (r"'<seed:tool_call>\n<function='", Format::SeedOss),
        ("set dsml_token = '｜DSML｜'", Format::DeepseekV32),
        (r"'<｜tool▁sep｜>' + name + '\n```json\n'", Format::DeepseekV3),
        ("name + '<｜tool▁sep｜>' + arguments", Format::DeepseekV31),
        ("<|start|>assistant<|channel|>final<|message|>", Format::Harmony),
        ("<|start_header_id|>ipython<|end_header_id|> '\"parameters\": '", Format::Llama3Json),
        ("<|python_start|>", Format::Llama4Pythonic),
    ] {
        assert_eq!(of_template(template), Some(format), "{template}");
    }
    for template in ["", "<tool_call>", "{{ message.content }}", "<tool_call> tool_call.name ]<]minimax[>["] {
        assert_eq!(of_template(template), None, "{template}");
    }
}

#[test]
fn by_vocabulary() {
    let detect = |template: Option<&str>, tokens: &[&str]| {
        let has = |token: &str| tokens.contains(&token);
        Format::detect(template, &Hints { in_vocabulary: Some(&has), ..Hints::default() }).unwrap()
    };
    let xtml = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"];
    assert_eq!(detect(None, &xtml), Some(Format::KimiK3));
    assert_eq!(detect(None, &xtml[1..]), None);
    assert_eq!(detect(Some("List of tools: ["), &["<|tool_call_start|>", "<|tool_call_end|>"]), Some(Format::Pythonic));
    assert_eq!(detect(Some("[TOOL_CALLS]"), &xtml), Some(Format::Mistral));
}

#[test]
fn by_name() {
    for format in Format::ALL {
        let hints =
            Hints { parser_type: Some(format.name()), template_type: Some("deepseek_v32"), in_vocabulary: None };
        assert_eq!(Format::detect(Some("[TOOL_CALLS]"), &hints), Ok(Some(format)));
    }
    let hints = Hints { template_type: Some("deepseek_v32"), ..Hints::default() };
    assert_eq!(Format::detect(Some("[TOOL_CALLS]"), &hints), Ok(Some(Format::DeepseekV32)));
}

#[test]
fn an_unknown_name_is_refused() {
    let hints = Hints { parser_type: Some("xlam"), ..Hints::default() };
    let message = Format::detect(None, &hints).unwrap_err().to_string();
    assert!(
        message.starts_with("`tool_parser_type` is `xlam`, which is not known; known are `json_tools`, `mistral`,"),
        "{message}"
    );
}

#[test]
fn markers_are_given_to_grammars() {
    assert_eq!((Format::Json.starts(), Format::Json.ends()), (vec!["<tool_call>"], &["</tool_call>"][..]));
    assert!(Format::Mistral.ends().is_empty());
    assert!(Format::ALL.iter().all(|format| !format.starts().is_empty()));
}
