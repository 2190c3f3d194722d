//! Qwen3-VL with experts, the text model: Qwen3 with experts (arXiv:2511.21631).
//!
//! Ports `mlx_lm/models/qwen3_vl_moe.py` @ 0.32.2. Unusual: files of transformers have all experts in one tensor, `[E, in, out]`.

use super::qwen3_moe;
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["qwen3_vl_moe"], "language_model", |_| Ok(&qwen3_moe::ARCH), rules);

fn rules() -> Vec<Rule> {
    let mut rules = Rule::language_model();
    rules.push(Rule::CutExperts { from: "**.mlp.experts", to: "**.mlp.switch_mlp", transposed: true });
    rules
}
