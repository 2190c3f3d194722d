//! LFM2-VL, the text model inside: LFM2 (arXiv:2511.23404).
//!
//! Ports `mlx_lm/models/lfm2-vl.py` @ 0.32.2. Images are not read. Differences: the names of transformers are understood.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["lfm2-vl", "lfm2_vl"],
    "language_model",
    |_| Ok(&super::lfm2::ARCH),
    || {
        vec![
            Rule::Drop("vision_tower"),
            Rule::Drop("multi_modal_projector"),
            Rule::Drop("model.vision_tower"),
            Rule::Drop("model.multi_modal_projector"),
            Rule::Rename("model.language_model.**", "language_model.model.**"),
        ]
    },
);
