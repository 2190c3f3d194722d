//! Each form as the recurrence that all of them are, by way of which their gradients go. MLX's own operations make the operands.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, ops};

use super::{Form, Inputs, Recurrence};

impl Recurrence {
    /// The same by the recurrence, whose operands MLX's own operations make, in f32.
    /// `dtypes` are those of the result and the state.
    pub(super) fn as_general(&self, inputs: &[Array], dtypes: [Dtype; 2]) -> Result<Vec<Array>, Exception> {
        let Inputs { operands, state, mask } = self.sort(inputs);
        let (wide, mut skipped) = (operands.iter().map(|x| x.as_dtype(Dtype::Float32)), None);
        let wide: Vec<Array> = wide.collect::<Result<_, _>>()?;
        let all = |x: &Array, columns: &Array| {
            // A number for each token and head, for each column.
            let mut shape = columns.shape().to_vec();
            if let (Some(heads), Some(&size)) = (shape.get_mut(2), x.shape().get(2)) {
                *heads = size;
            }
            ops::broadcast_to(x.expand_dims(-1)?, &shape)
        };
        let turned = matches!(self.form, Form::Decay { .. });
        let general = match (self.form, wide.as_slice()) {
            (Form::Delta, [q, k, v, g, beta]) => {
                let heads = v.dim(2);
                let (r, k) = (served(q, heads)?, served(k, heads)?);
                let w = if g.ndim() == 4 { g.clone() } else { all(g, &k)? };
                let beta = beta.expand_dims(-1)?;
                let (a, b) = (k.multiply(&w)?, k.multiply(beta.negative()?)?);
                vec![r, w, k, v.multiply(&beta)?, a, b]
            }
            (Form::Ssm { .. }, [x, dt, a, b, c, d @ ..]) => {
                let heads = x.dim(2);
                let (r, k) = (served(c, heads)?, served(b, heads)?);
                let w = all(&dt.multiply(a)?.exp()?, &k)?;
                skipped = d.first().map(|d| x.multiply(d.expand_dims(-1)?)).transpose()?;
                vec![r, w, k, x.multiply(dt.expand_dims(-1)?)?]
            }
            (Form::Decay { scale }, [q, k, v, g]) => {
                let by_token = |x: &Array| x.swap_axes(1, 2);
                let (r, k) = (by_token(&q.multiply(Array::from_f32(scale))?)?, by_token(k)?);
                let w = ops::broadcast_to(g.exp()?.expand_dims(-1)?, k.shape())?;
                vec![r, w, k, by_token(v)?]
            }
            _ => return Err(Exception::custom("a recurrence of other inputs")),
        };
        let state = match state {
            Some(state) if turned => Some(state.swap_axes(2, 3)?),
            state => state.cloned(),
        };
        let form = Form::General { looks_up: general.len() == 6 };
        let v = &general[3];
        let shape = [v.dim(0), v.dim(1), v.dim(2), v.dim(3)];
        let operands: Vec<&Array> = general.iter().collect();
        let recurrence = Self { form, ..*self };
        let results = recurrence.apply(&operands, [state.as_ref(), mask], shape, general[0].dim(3), Dtype::Float32)?;
        let (mut y, mut state) = results.ok_or_else(|| Exception::custom("a gradient left the CPU"))?;
        if let Some(skipped) = skipped {
            let shown =
                mask.map(|mask| ops::select(mask.expand_dims(-1)?.expand_dims(-1)?, &skipped, Array::from_f32(0.0)));
            y = y.add(shown.transpose()?.unwrap_or(skipped))?;
        }
        if turned {
            (y, state) = (y.swap_axes(1, 2)?, state.swap_axes(2, 3)?);
        }
        Ok(vec![y.as_dtype(dtypes[0])?, state.as_dtype(dtypes[1])?])
    }
}

/// `[B, T, few, D]` for so many heads, each of which serves neighbours.
fn served(x: &Array, heads: i32) -> Result<Array, Exception> {
    let &[b, t, few, d] = x.shape() else { return Err(Exception::custom("heads must be [B, T, H, D]")) };
    ops::broadcast_to(x.expand_dims(3)?, &[b, t, few, heads / few, d])?.reshape(&[b, t, heads, d])
}
