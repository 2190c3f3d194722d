//! An embedding of each token for each layer, and how a layer takes it up (Gemma 3n, Gemma 4).

use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};

use crate::prelude::*;

/// The entry that makes the inputs of all layers.
#[derive(Debug)]
pub(crate) struct PerLayerInputs {
    embed_tokens_per_layer: Embedding,
    per_layer_model_projection: Linear,
    per_layer_projection_norm: Norm,
    rows: i32,
    layers: i32,
    width: i32,
}

module!(PerLayerInputs { embed_tokens_per_layer, per_layer_model_projection, per_layer_projection_norm });

/// The inputs of all layers in this pass: `[B, L, layers, P]`.
#[derive(Debug, Clone, Default)]
struct Inputs(Option<Array>);

impl PerLayerInputs {
    /// The tables at `w`, for `rows` tokens, with inputs of this width.
    pub(crate) fn load(w: &Weights, c: &Common, (rows, width): (i32, i32)) -> Result<Self> {
        let layers = c.num_hidden_layers;
        within("vocab_size_per_layer_input", rows, MAX_WIDTH)?;
        within("hidden_size_per_layer_input", width, MAX_WIDTH / layers)?;
        let (table, map) = (w.at("embed_tokens_per_layer"), w.at("per_layer_model_projection"));
        Ok(Self {
            embed_tokens_per_layer: Embedding::load(&table, rows, layers * width)?,
            per_layer_model_projection: Linear::load(&map, layers * width, c.hidden_size)?,
            per_layer_projection_norm: Norm::rms(&w.at("per_layer_projection_norm"), width, c.rms_norm_eps()?)?,
            rows,
            layers,
            width,
        })
    }
}

impl Block for PerLayerInputs {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let scaled = |x: Array, scale: f32| x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?);
        let shape = [self.layers, self.width];
        let of_state = scaled(self.per_layer_model_projection.forward(x)?, (x.dim(-1) as f32).powf(-0.5))?;
        let of_state = self.per_layer_projection_norm.forward(&ops::unflatten(of_state, -1, &shape)?)?;
        // Tokens of images and sound have no row.
        let tokens = step.tokens();
        let is_text = tokens.lt(Array::from_int(self.rows).as_dtype(tokens.dtype())?)?;
        let tokens = ops::select(is_text, tokens, ops::zeros_like(tokens)?)?;
        let of_token = scaled(self.embed_tokens_per_layer.forward(&tokens)?, (self.width as f32).sqrt())?;
        let both = of_state.add(ops::unflatten(of_token, -1, &shape)?)?;
        step.carry::<Inputs>().0 = Some(scaled(both, std::f32::consts::FRAC_1_SQRT_2)?);
        Ok(x.clone())
    }

    fn caches(&self) -> Vec<CacheKind> {
        Vec::new()
    }
}

/// What a layer makes of its inputs.
#[derive(Debug)]
pub(crate) struct PerLayerGate {
    per_layer_input_gate: Linear,
    per_layer_projection: Linear,
    post_per_layer_input_norm: Norm,
}

module!(PerLayerGate { per_layer_input_gate, per_layer_projection, post_per_layer_input_norm });

impl PerLayerGate {
    /// The maps at `w`, a block, from and to inputs of this width.
    pub(crate) fn load(w: &Weights, c: &Common, width: i32) -> Result<Self> {
        let norm = w.at("post_per_layer_input_norm");
        Ok(Self {
            per_layer_input_gate: Linear::load(&w.at("per_layer_input_gate"), width, c.hidden_size)?,
            per_layer_projection: Linear::load(&w.at("per_layer_projection"), c.hidden_size, width)?,
            post_per_layer_input_norm: Norm::rms(&norm, c.hidden_size, c.rms_norm_eps()?)?,
        })
    }

    /// What is added to the state `h`.
    ///
    /// # Shapes
    /// - `h`: `[B, L, D]`, and the same comes back
    pub(crate) fn forward(&self, h: &Array, step: &mut Step) -> Result<Array> {
        let layer = step.layer() as i32;
        let inputs = step.carry::<Inputs>().0.clone().ok_or_else(|| missing("hidden_size_per_layer_input"))?;
        let inputs = inputs.try_index((Ellipsis, layer, ..))?;
        let taken = fast::gated(Activation::GeluApprox, &self.per_layer_input_gate.forward(h)?, &inputs)?;
        Ok(self.post_per_layer_input_norm.forward(&self.per_layer_projection.forward(&taken)?)?)
    }
}
