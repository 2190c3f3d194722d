//! The shapes that are measured: the matrices of real models, as `config.json` and the tensors of mlx-lm's layout.

use serde_json::{Value, json};

/// Bits and group of the quantized shapes.
pub(super) const BITS: u64 = 4;
pub(super) const GROUP: u64 = 64;

/// Of so many layers one is attention where there are delta nets, whose convolutions reach over so many tokens.
const DELTA_INTERVAL: u64 = 4;
const DELTA_TAPS: u64 = 4;

/// A decoder of some model's size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The folder, and what `--only` takes.
    pub(super) name: &'static str,
    /// As the report calls it.
    pub(super) title: &'static str,
    pub(super) model_type: &'static str,
    pub(super) hidden: u64,
    pub(super) layers: u64,
    pub(super) intermediate: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) vocab: u64,
    /// Whether the head is the embedding table.
    tied: bool,
    norms: Norms,
    /// How many experts there are, and how many see a token.
    experts: Option<(u64, u64)>,
    /// Key heads, value heads and the width of a head of gated delta nets, which three of four layers then have instead of attention.
    delta: Option<(u64, u64, u64)>,
    /// 4 bits in groups of 64, or bf16.
    pub(super) quantized: bool,
}

/// The norms of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norms {
    /// Before attention and MLP.
    Pre,
    /// And of queries and keys.
    PreQk,
    /// Around attention and MLP, and of queries and keys; the weights are those less one.
    AroundQk,
}

const LLAMA: Shape = Shape {
    name: "llama-3.2-1b",
    title: "Llama-3.2-1B",
    model_type: "llama",
    hidden: 2048,
    layers: 16,
    intermediate: 8192,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    vocab: 128_256,
    tied: true,
    norms: Norms::Pre,
    experts: None,
    delta: None,
    quantized: true,
};

/// The shape that the goals are about.
pub(super) const MAIN: &str = LLAMA.name;
/// The same without quantization.
pub(super) const DENSE: &str = "llama-3.2-1b-bf16";
/// The same with matrices of next to nothing: its steps are what is left outside of the kernels.
pub(super) const SKELETON: &str = "llama-3.2-1b-skeleton";

/// A small one, of which 32,768 tokens are read in a minute or two.
pub(super) const SMALL: Shape = Shape {
    name: "small",
    title: "4 layers of width 1024",
    hidden: 1024,
    layers: 4,
    intermediate: 3072,
    heads: 8,
    kv_heads: 2,
    vocab: 32_000,
    ..LLAMA
};

/// A small one with gated delta nets, as Qwen3-Next has them, and no experts.
pub(super) const HYBRID: Shape = Shape {
    name: "hybrid",
    title: "12 layers of width 1024, 9 of them gated delta nets",
    model_type: "qwen3_next",
    layers: 12,
    norms: Norms::PreQk,
    delta: Some((8, 16, 128)),
    tied: false,
    ..SMALL
};

/// All shapes, in the order of the report.
pub(super) const ALL: &[Shape] = &[
    LLAMA,
    Shape { name: DENSE, title: "Llama-3.2-1B, bf16", quantized: false, ..LLAMA },
    Shape {
        name: "qwen3-4b",
        title: "Qwen3-4B",
        model_type: "qwen3",
        hidden: 2560,
        layers: 36,
        intermediate: 9728,
        head_dim: 128,
        vocab: 151_936,
        norms: Norms::PreQk,
        ..LLAMA
    },
    Shape {
        name: "qwen3-30b-a3b-cut",
        title: "Qwen3-30B-A3B, 6 of 48 layers",
        model_type: "qwen3_moe",
        layers: 6,
        intermediate: 768,
        kv_heads: 4,
        head_dim: 128,
        vocab: 151_936,
        tied: false,
        norms: Norms::PreQk,
        experts: Some((128, 8)),
        ..LLAMA
    },
    Shape {
        name: "gemma-3-1b",
        title: "Gemma-3-1B",
        model_type: "gemma3_text",
        hidden: 1152,
        layers: 26,
        intermediate: 6912,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        vocab: 262_144,
        norms: Norms::AroundQk,
        ..LLAMA
    },
    Shape {
        name: SKELETON,
        title: "Llama-3.2-1B's 16 layers of width 64",
        hidden: 64,
        intermediate: 64,
        heads: 1,
        kv_heads: 1,
        vocab: 64,
        ..LLAMA
    },
];

/// A tensor of a checkpoint, before it is packed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tensor {
    /// `[copies, rows, columns]`, or without `copies` where that is 0.
    Matrix { path: String, copies: u64, rows: u64, columns: u64 },
    /// `[width]`, all of them 1, or 0 where 1 is added.
    Norm { path: String, width: u64, is_one: bool },
    /// A tensor of its own name that is never packed: all of it this number, or random.
    Plain { name: String, shape: Vec<u64>, value: Option<f32> },
}

impl Shape {
    /// The shape with this name.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|shape| shape.name == name)
    }

    /// `config.json`.
    pub(super) fn config(&self) -> Value {
        let mut config = json!({
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "max_position_embeddings": 131_072,
            "torch_dtype": "bfloat16",
        });
        let own = match self.model_type {
            "llama" => json!({
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            }),
            "qwen3_moe" => json!({
                "num_experts": self.experts.map(|(count, _)| count),
                "num_experts_per_tok": self.experts.map(|(_, active)| active),
                "moe_intermediate_size": self.intermediate,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "norm_topk_prob": true,
            }),
            "gemma3_text" => json!({
                "sliding_window": 512, "sliding_window_pattern": 6, "rope_local_base_freq": 1e4,
                "query_pre_attn_scalar": 256,
            }),
            "qwen3_next" => {
                let (key_heads, value_heads, width) = self.delta.unwrap_or_default();
                json!({
                    "num_experts": 0, "num_experts_per_tok": 0, "moe_intermediate_size": 0,
                    "shared_expert_intermediate_size": 0, "decoder_sparse_step": 1, "mlp_only_layers": [],
                    "full_attention_interval": DELTA_INTERVAL, "partial_rotary_factor": 0.25,
                    "linear_num_key_heads": key_heads, "linear_num_value_heads": value_heads,
                    "linear_key_head_dim": width, "linear_value_head_dim": width, "linear_conv_kernel_dim": DELTA_TAPS,
                })
            }
            _ => json!({}),
        };
        let quantization = json!({"group_size": GROUP, "bits": BITS, "mode": "affine"});
        let quantization = match self.quantized {
            true => json!({"quantization": quantization, "quantization_config": quantization}),
            false => json!({}),
        };
        let entries = config.as_object_mut().expect("it was written as an object");
        for more in [own, quantization] {
            entries.extend(more.as_object().cloned().unwrap_or_default());
        }
        config
    }

    /// The tensors of the checkpoint.
    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let matrix = |path: String, rows, columns| Tensor::Matrix { path, copies: 0, rows, columns };
        let is_one = matches!(self.norms, Norms::Pre | Norms::PreQk);
        let norm = |path: String, width| Tensor::Norm { path, width, is_one };
        let mut tensors =
            vec![matrix("model.embed_tokens".into(), self.vocab, self.hidden), norm("model.norm".into(), self.hidden)];
        if !self.tied {
            tensors.push(matrix("lm_head".into(), self.vocab, self.hidden));
        }
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        for layer in 0..self.layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            let is_delta = self.delta.is_some() && (layer + 1) % DELTA_INTERVAL != 0;
            match self.delta.filter(|_| is_delta) {
                Some(heads) => tensors.extend(self.delta_net(&at("linear_attn"), heads)),
                None => tensors.extend([
                    // With a gate for each query, beside delta nets.
                    matrix(at("self_attn.q_proj"), queries * (1 + u64::from(self.delta.is_some())), self.hidden),
                    matrix(at("self_attn.k_proj"), keys, self.hidden),
                    matrix(at("self_attn.v_proj"), keys, self.hidden),
                    matrix(at("self_attn.o_proj"), self.hidden, queries),
                ]),
            }
            for name in self.norms.outer() {
                tensors.push(norm(at(name), self.hidden));
            }
            if matches!(self.norms, Norms::PreQk | Norms::AroundQk) && !is_delta {
                tensors.extend(["q_norm", "k_norm"].map(|name| norm(at(&format!("self_attn.{name}")), self.head_dim)));
            }
            let (mlp, copies) = match self.experts {
                None => (at("mlp"), 0),
                Some((count, _)) => {
                    tensors.push(matrix(at("mlp.gate"), count, self.hidden));
                    (at("mlp.switch_mlp"), count)
                }
            };
            let stack = |name: &str, rows, columns| {
                let path = format!("{mlp}.{name}");
                Tensor::Matrix { path, copies, rows, columns }
            };
            tensors.extend([
                stack("gate_proj", self.intermediate, self.hidden),
                stack("up_proj", self.intermediate, self.hidden),
                stack("down_proj", self.hidden, self.intermediate),
            ]);
        }
        tensors
    }

    fn delta_net(&self, path: &str, (key_heads, value_heads, width): (u64, u64, u64)) -> Vec<Tensor> {
        let matrix = |name: &str, rows, columns| {
            let path = format!("{path}.{name}");
            Tensor::Matrix { path, copies: 0, rows, columns }
        };
        let plain = |name: &str, shape, value| {
            let name = format!("{path}.{name}");
            Tensor::Plain { name, shape, value }
        };
        let (keys, values) = (key_heads * width, value_heads * width);
        vec![
            matrix("in_proj_qkvz", 2 * keys + 2 * values, self.hidden),
            matrix("in_proj_ba", 2 * value_heads, self.hidden),
            matrix("out_proj", self.hidden, values),
            plain("conv1d.weight", vec![2 * keys + values, DELTA_TAPS, 1], None),
            plain("A_log", vec![value_heads], Some(0.0)),
            // So that a state lasts for some fifty tokens.
            plain("dt_bias", vec![value_heads], Some(-4.0)),
            plain("norm.weight", vec![width], Some(1.0)),
        ]
    }

    /// The bytes of weights that a step of one sequence reads: of experts those that see the token, and of an embedding
    /// table nothing if it is not the head as well.
    pub(super) fn bytes_a_step(&self) -> u64 {
        let bytes = |tensor: &Tensor| match tensor {
            Tensor::Matrix { path, .. } if !self.tied && path == "model.embed_tokens" => 0,
            Tensor::Matrix { copies, rows, columns, .. } => {
                let used = if *copies == 0 { 1 } else { self.experts.map_or(0, |(_, active)| active) };
                used * self.matrix_bytes(rows * columns)
            }
            Tensor::Norm { width, .. } => 2 * width,
            Tensor::Plain { shape, .. } => 2 * shape.iter().product::<u64>(),
        };
        self.tensors().iter().map(bytes).sum()
    }

    /// The bytes of a matrix: 4 bits each and two bf16 for each 64, or bf16.
    fn matrix_bytes(&self, weights: u64) -> u64 {
        if self.quantized { weights * BITS / 8 + weights / GROUP * 4 } else { weights * 2 }
    }

    /// The bytes of keys and values that `tokens` take in bf16, where no window drops any.
    pub(super) fn kv_bytes(&self, tokens: u64) -> u64 {
        tokens * self.layers * 2 * self.kv_heads * self.head_dim * 2
    }
}

impl Norms {
    fn outer(self) -> &'static [&'static str] {
        match self {
            Self::Pre | Self::PreQk => &["input_layernorm", "post_attention_layernorm"],
            Self::AroundQk => &[
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_sizes_of_their_models() {
        let millions = |name| {
            let weights = |tensor: &Tensor| match tensor {
                Tensor::Matrix { copies, rows, columns, .. } => (*copies).max(1) * rows * columns,
                Tensor::Norm { width, .. } => *width,
                Tensor::Plain { shape, .. } => shape.iter().product(),
            };
            Shape::find(name).unwrap().tensors().iter().map(weights).sum::<u64>() / 1_000_000
        };
        assert_eq!(millions(MAIN), 1235);
        assert_eq!(millions("qwen3-4b"), 4022);
        assert_eq!(millions("gemma-3-1b"), 999);
        // Two tables of 311 million, and 6 of the 48 layers of 623 million that make 30.5 billion.
        assert_eq!(millions("qwen3-30b-a3b-cut"), 4361);
    }

    #[test]
    fn a_step_reads_what_takes_part() {
        let llama = Shape::find(MAIN).unwrap();
        assert_eq!(llama.bytes_a_step() / 1_000_000, 695);
        assert_eq!(Shape::find(DENSE).unwrap().bytes_a_step() / 1_000_000, 2471);
        assert_eq!(llama.kv_bytes(16_384), 16_384 * 16 * 2 * 8 * 64 * 2);
        let moe = Shape::find("qwen3-30b-a3b-cut").unwrap();
        let (head, attention, expert) = (151_936 * 2048, 2 * 2048 * 4096 + 2 * 2048 * 512, 3 * 768 * 2048);
        let weights = head + 6 * (attention + 128 * 2048 + 8 * expert);
        let norms = 2 * (2048 + 6 * (2 * 2048 + 2 * 128));
        assert_eq!(moe.bytes_a_step(), weights / 2 + weights / 16 + norms);
    }

    #[test]
    fn names_are_single() {
        for (i, shape) in ALL.iter().enumerate() {
            assert!(ALL[..i].iter().all(|other| other.name != shape.name), "{}", shape.name);
            assert_eq!(shape.config()["quantization"].is_object(), shape.quantized);
        }
    }
}
