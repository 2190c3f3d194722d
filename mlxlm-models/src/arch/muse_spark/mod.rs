//! Muse Spark, the text model: a stream in `f32` that gated branches are added to, gated attention with normed queries, keys and
//! results, and experts in a narrower space (Meta, 2026).
//!
//! Ports `mlx_lm/models/muse_spark.py` @ 0.32.2. Unusual:
//! - Embeddings and results of attention are normed without parameters; some norms take their weight before, not after.
//! - The gates of the stream do not depend on tokens. The original layout stores what they are made of, and norms minus one.
//! - Only the experts, of all layers but the first and the last, are ever packed.
//! - The input of the first block and the end of the stream are rounded to bf16, whatever the type of the weights.
//!
//! Differences: images are not read, so their tensors are dropped; logits have the type of the embeddings.

mod layout;

use crate::blocks::gated_stream::{Config, StreamBlock, StreamEntry, StreamExit, wide};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["muse_spark"],
    "",
    |_| Ok(&TEXT),
    || {
        ["model.audio_tower", "model.vision_tower", "model.vision_adapter", "model.vision_projection"]
            .map(Rule::Drop)
            .into()
    },
);

static TEXT: Architecture = Architecture::decoder::<Config>(&["muse_spark_text"]).defaults(
    || json!({"qk_scale_factor": 5.473_006_486_387_5, "routed_scaling_factor": 1.0, "num_shared_experts": 0}),
);

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "model.language_model",
            table: "model.language_model.embed_tokens",
            stack: "model.language_model.layers",
            norm: "",
            head: "lm_head",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        within("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)?;
        within("moe_hidden_size", self.moe_hidden_size, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        positive("final_logit_softcapping", self.final_logit_softcapping)?;
        unsupported(c, "num_shared_experts", self.num_shared_experts != 0)?;
        let is_dense = |kind: &String| kind != "sparse";
        unsupported(c, "mlp_layer_types", self.mlp_layer_types.iter().flatten().any(is_dense))
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let dim = c.heads()?.dim;
        Ok(vec![
            Rule::custom(layout::settle),
            Rule::Leaf("**.mlp.experts.gate_up_proj"),
            Rule::Leaf("**.mlp.experts.down_proj"),
            Rule::Halve { leaf: "**.mlp.experts.gate_up_proj", into: ["gate_proj", "up_proj"] },
            Rule::custom(move |tensors| layout::join_projections(tensors, dim)),
        ])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let root = w.at(self.names().root);
        let norm = Norm::rms(&root.at("norm"), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame {
            norm: None,
            head: Head::own(c),
            table_precision: Precision::Dense,
            head_precision: Precision::Dense,
            entry: Some(Box::new(StreamEntry { norm: Norm::rms_plain(c.rms_norm_eps()?) })),
            exit: Some(Box::new(StreamExit { norm: norm.clone() })),
            logit_scale: Some(self.output_multiplier),
            logit_softcap: Some(self.final_logit_softcapping),
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        Ok(Box::new(StreamBlock::load(&w.keep(Precision::Dense), c, self, layer)?))
    }
}
