//! Baichuan-M1: keys and values are mixed with those of the token before; some layers slide (arXiv:2502.12671).
//!
//! Ports `mlx_lm/models/baichuan_m1.py` @ 0.32.2. Unusual: sliding layers may have other heads than full ones, and the rows of
//! the head are brought to the length of one, unless they are quantized.

use mlxlm_core::ops::indexing::TryIndexOp;

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["baichuan_m1"]);

/// What Baichuan-M1 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    conv_window: i32,
    num_swa_attention_heads: Option<i32>,
    num_swa_key_value_heads: Option<i32>,
    sliding_window_layers: Vec<usize>,
}

impl Config {
    /// The heads of a layer: sliding ones may have their own.
    fn heads(&self, c: &Common, slides: bool) -> Result<HeadCounts> {
        let usual = c.heads()?;
        let of = |own: Option<i32>, usual: i32| own.filter(|own| slides && *own != 0).unwrap_or(usual);
        let count = of(self.num_swa_attention_heads, usual.count);
        let kv_count = of(self.num_swa_key_value_heads, usual.kv_count);
        within("num_swa_attention_heads", count, MAX_WIDTH)?;
        match c.hidden_size % count {
            0 => HeadCounts::checked(count, kv_count, c.hidden_size / count),
            _ => Err(Error::config(format!(
                "`hidden_size` {} is not a multiple of `num_swa_attention_heads` {count}",
                c.hidden_size
            ))),
        }
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "tie_word_embeddings", c.tie_word_embeddings)?;
        match self.conv_window {
            2 => Ok(()),
            other => Err(Error::config(format!("`conv_window` is {other}, expected 2"))),
        }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::custom(|tensors| {
            if tensors.contains_key("lm_head.scales") {
                return Ok(());
            }
            for (_, head) in matching(tensors, "lm_head.weight").filter(|(_, head)| head.ndim() == 2) {
                let wide = head.as_dtype(Dtype::Float32)?;
                let length = wide.square()?.sum_axis(-1, true)?.sqrt()?.add(Array::from_f32(1e-7))?;
                *head = wide.divide(length)?.as_dtype(head.dtype())?;
            }
            Ok(())
        })])
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let slides = self.sliding_window_layers.contains(&layer);
        let window = c.sliding_window()?.ok_or_else(|| missing("sliding_window"))?;
        let counts = self.heads(c, slides)?;
        let mixer = MixedAttention::load(&w.at("self_attn"), c, counts, slides.then_some(window))?;
        Ok(Box::new(PreNormBlock::with(w, c, mixer, Mlp::of(&w.at("mlp"), c)?)?))
    }
}

/// Attention to keys and values that are sums of a token's own and those of the token before.
#[derive(Debug)]
struct MixedAttention {
    w_pack: Linear,
    o_proj: Linear,
    conv_k: Parameter,
    conv_v: Parameter,
    counts: HeadCounts,
    rope: Rope,
    how: Attend,
}

module!(MixedAttention { w_pack as "W_pack", o_proj, conv_k, conv_v });

/// The caches of a layer: the last key and value as they were, and all mixed ones.
const LAST: usize = 0;
const ALL: usize = 1;

impl MixedAttention {
    fn load(w: &Weights, c: &Common, counts: HeadCounts, window: Option<i32>) -> Result<Self> {
        let HeadCounts { count, kv_count, dim } = counts;
        let shape = [1, 1, kv_count, 1, 2];
        Ok(Self {
            w_pack: Linear::load(&counts.cut(&w.at("W_pack")), (count + 2 * kv_count) * dim, c.hidden_size)?,
            o_proj: Linear::load(&counts.cut_out(&w.at("o_proj")), c.hidden_size, count * dim)?,
            conv_k: Parameter::load(&w.at("conv_k"), &shape, Init::Normal(0.5))?,
            conv_v: Parameter::load(&w.at("conv_v"), &shape, Init::Normal(0.5))?,
            counts,
            rope: Rope::over(c.rope(), dim)?,
            how: Attend { window, ..Attend::scaled((dim as f32).powf(-0.5)) },
        })
    }

    /// Each token's heads mixed with those before them, of which the last token's are kept in `slot`.
    ///
    /// # Shapes
    /// - `x`: `[B, K, L, d]`, `weight`: `[1, 1, K, 1, 2]`, and the shape of `x` comes back
    fn mix(&self, x: &Array, weight: &Array, slot: usize, last: &mut Step) -> Result<Array> {
        let (batch, heads, len, dim) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
        let before = match last.recall(slot)? {
            Some(before) => before,
            None => ops::zeros_dtype(&[batch, heads, 1, dim], x.dtype())?,
        };
        let all = x.clone();
        last.keep(slot, x.try_index((.., .., len - 1..))?, move |beginning| {
            Ok(beginning.of_heads(&all)?.try_index((.., .., -1..))?)
        })?;
        let before = ops::concatenate(&[before, x.try_index((.., .., ..len - 1))?], 2)?;
        let taps = ops::split_equal(weight.reshape(&[1, heads, 1, 2])?, 2, -1)?;
        Ok(before.multiply(&taps[0])?.add(x.multiply(&taps[1])?)?)
    }
}

impl Mixer for MixedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let HeadCounts { count, kv_count, dim } = self.counts;
        let packed = self.w_pack.forward(x)?;
        let parts = ops::split_at_indices(&packed, &[count * dim, (count + kv_count) * dim], -1)?;
        let [q, k, v] =
            [split_heads(&parts[0], count)?, split_heads(&parts[1], kv_count)?, split_heads(&parts[2], kv_count)?];
        let offset = step.offset();
        let mut last = step.part(LAST)?;
        let k = self.mix(&k, &self.conv_k, 0, &mut last)?;
        let v = self.mix(&v, &self.conv_v, 1, &mut last)?;
        let (q, k) = (self.rope.forward(&q, &offset)?, self.rope.forward(&k, &offset)?);
        let mixed = step.part(ALL)?.attend(&q, &k, &v, &self.how)?;
        Ok(self.o_proj.forward(&merge_heads(&mixed)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        let all = self.how.window.map_or(CacheKind::Kv, |max_size| CacheKind::Rotating { max_size, keep: 0 });
        vec![CacheKind::List(vec![CacheKind::State { slots: 2 }, all])]
    }
}
