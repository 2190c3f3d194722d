//! The entries of latent attention, and what they ask of checkpoints.

use mlxlm_core::quant::{self, Packed, Scheme};
use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, ops};
use serde::Deserialize;
use serde_json::Value;

use crate::blocks::Rope;
use crate::config::{MAX_WIDTH, missing, within};
use crate::{Common, Error, Result, Rule};

/// The entries of latent attention.
#[derive(Debug, Clone, Deserialize)]
pub struct LatentConfig {
    /// The width that queries go through; without one they are projected at once.
    pub q_lora_rank: Option<i32>,
    /// `r`, the width of a latent.
    pub kv_lora_rank: i32,
    /// The part of queries and keys that knows no position.
    pub qk_nope_head_dim: i32,
    /// `p`, the part that is rotated.
    pub qk_rope_head_dim: i32,
    /// The width of a head's values.
    pub v_head_dim: Option<i32>,
    /// Whether the projections into the narrow widths and out of the heads have biases.
    #[serde(default)]
    pub attention_bias: bool,
    rope_interleave: Option<bool>,
    /// These follow from the others, and change nothing.
    #[serde(rename = "num_key_value_heads")]
    _num_key_value_heads: Option<Value>,
    #[serde(rename = "qk_head_dim")]
    _qk_head_dim: Option<Value>,
    #[serde(rename = "head_dim")]
    _head_dim: Option<Value>,
}

impl LatentConfig {
    /// These sizes, without biases: the widths of queries (if they go through a narrow one) and latents, and of a head's
    /// part without positions, its rotated part, and its values.
    pub fn sized(q_lora_rank: Option<i32>, kv_lora_rank: i32, [nope, rope, value]: [i32; 3]) -> Self {
        Self {
            q_lora_rank,
            kv_lora_rank,
            qk_nope_head_dim: nope,
            qk_rope_head_dim: rope,
            v_head_dim: Some(value),
            attention_bias: false,
            rope_interleave: None,
            _num_key_value_heads: None,
            _qk_head_dim: None,
            _head_dim: None,
        }
    }

    /// With biases of the projections into the narrow widths and out of the heads, whatever `attention_bias` says.
    #[must_use]
    pub fn biased(self, biased: bool) -> Self {
        Self { attention_bias: biased, ..self }
    }

    /// The entries of a configuration, checked.
    pub fn of(c: &Common) -> Result<Self> {
        let own: Self = c.part()?;
        own.check(c)?;
        Ok(own)
    }

    /// Refuses sizes that no model has.
    pub fn check(&self, c: &Common) -> Result<()> {
        let heads = c.num_attention_heads()?;
        within("kv_lora_rank", self.kv_lora_rank, MAX_WIDTH)?;
        within("q_lora_rank", self.q_lora_rank.unwrap_or(1), MAX_WIDTH)?;
        within("qk_nope_head_dim", self.qk_nope_head_dim, MAX_WIDTH / heads)?;
        if self.qk_rope_head_dim != 0 {
            within("qk_rope_head_dim", self.qk_rope_head_dim, MAX_WIDTH / heads)?;
        }
        within("v_head_dim", self.v_head_dim.ok_or_else(|| missing("v_head_dim"))?, MAX_WIDTH / heads)?;
        match self.qk_rope_head_dim % 2 {
            0 => Ok(()),
            _ => {
                Err(Error::config(format!("`qk_rope_head_dim` is {}, expected an even number", self.qk_rope_head_dim)))
            }
        }
    }

    /// The rotation of the configuration: of neighbouring pairs, unless `rope_interleave` says otherwise.
    pub fn rope(&self, c: &Common) -> Result<Rope> {
        let mut rope = c.rope().clone();
        rope.traditional = self.rope_interleave.unwrap_or(true);
        Rope::over(&rope, self.qk_rope_head_dim)
    }

    /// The factor of scores: that of the width of a query, and that of stretched frequencies.
    pub fn scale(&self, c: &Common) -> f32 {
        let stretch = c.rope().yarn_mscale_all_dim();
        ((self.qk_nope_head_dim + self.qk_rope_head_dim) as f32).powf(-0.5) * stretch * stretch
    }

    /// The rule that cuts `kv_b_proj` into the two maps for each head, `embed_q` and `unembed_out`, packed if it is packed.
    pub fn rule(&self, c: &Common) -> Result<Rule> {
        let (heads, nope) = (c.num_attention_heads()?, self.qk_nope_head_dim);
        let (value, rank) = (self.v_head_dim.unwrap_or(0), self.kv_lora_rank);
        Ok(Rule::custom(move |tensors| {
            let paths = tensors.keys().filter_map(|name| name.strip_suffix(".kv_b_proj.weight"));
            for path in paths.map(str::to_owned).collect::<Vec<_>>() {
                absorb(tensors, &path, [heads, nope, value, rank])?;
            }
            Ok(())
        }))
    }
}

/// Cuts the `kv_b_proj` of one layer; one that does not fit stays, to be reported as left over.
fn absorb(tensors: &mut Tensors, path: &str, [heads, nope, value, rank]: [i32; 4]) -> Result<()> {
    let name = |part: &str| format!("{path}.kv_b_proj.{part}");
    let Some(weight) = tensors.get(&name("weight")).cloned() else { return Ok(()) };
    let scales = tensors.get(&name("scales")).cloned();
    let scheme = scales.as_ref().and_then(|scales| Scheme::of_shapes(&weight, scales, rank));
    let dense = match (scales, scheme) {
        (None, _) => weight,
        (Some(_), None) => return Ok(()),
        (Some(scales), Some(scheme)) => {
            let packed = Packed { weight, scales, biases: tensors.get(&name("biases")).cloned() };
            quant::dequantize(&packed, scheme, None)?
        }
    };
    if dense.shape() != [heads * (nope + value), rank] {
        return Ok(());
    }
    for part in ["weight", "scales", "biases"] {
        tensors.remove(&name(part));
    }
    let halves = ops::split_at_indices(dense.reshape(&[heads, nope + value, rank])?, &[nope], 1)?;
    let into_latents = halves[0].swap_axes(-1, -2)?.contiguous()?;
    for (leaf, map) in [("embed_q", into_latents), ("unembed_out", halves[1].contiguous()?)] {
        let mut put = |part: &str, array: Array| drop(tensors.insert(format!("{path}.{leaf}.{part}"), array));
        match scheme.filter(|scheme| scheme.divides(map.dim(-1))) {
            None => put("weight", map),
            Some(scheme) => {
                let Packed { weight, scales, biases } = quant::quantize(&map, scheme)?;
                put("weight", weight);
                put("scales", scales);
                if let Some(biases) = biases {
                    put("biases", biases);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mlxlm_core::nn::HeadLinear;
    use mlxlm_core::quant::Mode;
    use mlxlm_core::weights::{QuantizationConfig, WeightStore};
    use mlxlm_core::{fast, random};

    use super::*;
    use crate::blocks::split_heads;

    const HEADS: i32 = 2;
    const NOPE: i32 = 32;
    const VALUE: i32 = 64;
    const RANK: i32 = 32;

    fn draw(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    /// The two maps that a projection is cut into.
    fn cut(mut tensors: Tensors) -> [HeadLinear; 2] {
        absorb(&mut tensors, "l", [HEADS, NOPE, VALUE, RANK]).unwrap();
        let store = WeightStore::new(tensors, QuantizationConfig::default());
        let (w, load) = (store.root().at("l"), HeadLinear::load);
        let maps = [
            load(&w.at("embed_q"), HEADS, RANK, NOPE).unwrap(),
            load(&w.at("unembed_out"), HEADS, VALUE, RANK).unwrap(),
        ];
        store.finish().unwrap();
        maps
    }

    #[test]
    fn a_cut_projection_makes_the_same_keys_and_values() {
        let (weight, latent) = (draw(&[HEADS * (NOPE + VALUE), RANK], 1), draw(&[1, 5, RANK], 2));
        let scheme = Mode::Affine.default_scheme();
        let packed = quant::quantize(&weight, Scheme { bits: 8, group_size: 32, ..scheme }).unwrap();
        let name = |part: &str| format!("l.kv_b_proj.{part}");
        let plain: Tensors = [(name("weight"), weight.clone())].into();
        let packed: Tensors = [
            (name("weight"), packed.weight),
            (name("scales"), packed.scales),
            (name("biases"), packed.biases.unwrap()),
        ]
        .into();
        let whole = split_heads(&fast::linear(&latent, &weight).unwrap(), HEADS).unwrap();
        let parts = ops::split_at_indices(&whole, &[NOPE], -1).unwrap();
        for (tensors, allowed, is_packed) in [(plain, 1e-5, false), (packed, 0.2, true)] {
            let maps = cut(tensors);
            assert_eq!(maps.each_ref().map(|map| map.weight.scheme().is_some()), [is_packed; 2]);
            for (got, want) in [(maps[0].spread_back(&latent), &parts[0]), (maps[1].spread(&latent), &parts[1])] {
                assert!(got.unwrap().all_close(want, 0.0, allowed, None).unwrap(), "packed: {is_packed}");
            }
        }
    }

    #[test]
    fn a_projection_of_another_size_stays_to_be_reported() {
        let mut tensors: Tensors = [("l.kv_b_proj.weight".to_owned(), draw(&[7, RANK], 3))].into();
        absorb(&mut tensors, "l", [HEADS, NOPE, VALUE, RANK]).unwrap();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["l.kv_b_proj.weight"]);
    }
}
