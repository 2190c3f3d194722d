//! How far a model is from another over the same texts: what quantizing costs, in figures.

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, Exception, fast, transforms};
use mlxlm_models::CausalLm;

use crate::Result;

/// How far a student is from its teacher, in means over all positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// The Kullback-Leibler divergence of the student's next token from the teacher's, in nats.
    pub kl: f64,
    /// The share of positions at which both find the same token the likeliest.
    pub same_top1: f64,
    /// The student's perplexity of the texts.
    pub perplexity: f64,
    /// The teacher's.
    pub teacher_perplexity: f64,
    /// How many positions there were.
    pub positions: usize,
}

/// The divergence of each position: `sum(p · (log p − log q))` over the vocabulary, where the teacher's logits over `temperature` make
/// `p`, and those of the student `q`; in `f32`.
///
/// # Shapes
/// - `student`, `teacher`: `[…, V]`, result: `[…]`
pub fn kl(student: &Array, teacher: &Array, temperature: f32) -> Result<Array, Exception> {
    if temperature == 1.0 {
        return fast::divergence(student, teacher);
    }
    let cooled = |logits: &Array| logits.as_dtype(Dtype::Float32)?.multiply(Array::from_f32(1.0 / temperature));
    fast::divergence(&cooled(student)?, &cooled(teacher)?)
}

/// Positions of each text whose logits are in memory at once.
const PIECE: i32 = 128;

/// Compares two models over texts.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens, with `L` at least 2
pub fn divergence(teacher: &dyn CausalLm, student: &dyn CausalLm, batches: &[Array]) -> Result<Divergence> {
    let mut sums = [0.0_f64; 4];
    for batch in batches {
        by_pieces(&[teacher, student], batch, |logits, next| {
            for (sum, more) in sums.iter_mut().zip(compared(&logits[0], &logits[1], next)?) {
                *sum += more;
            }
            Ok(())
        })?;
    }
    let positions: usize = batches.iter().map(Array::size).sum();
    let [kl, same, of_teacher, of_student] = sums;
    let (count, targets) = (positions.max(1) as f64, targets(batches));
    Ok(Divergence {
        kl: kl / count,
        same_top1: same / count,
        perplexity: (of_student / targets).exp(),
        teacher_perplexity: (of_teacher / targets).exp(),
        positions,
    })
}

/// A model's perplexity of texts; the shape of `batches` is that of [`divergence`].
pub fn perplexity(model: &dyn CausalLm, batches: &[Array]) -> Result<f64> {
    let mut sum = 0.0;
    for batch in batches {
        by_pieces(&[model], batch, |logits, next| {
            sum += f64::from(cross_entropy(&logits[0], next)?.try_item_exact::<f32>()?);
            Ok(())
        })?;
    }
    Ok((sum / targets(batches)).exp())
}

/// How many tokens follow others.
fn targets(batches: &[Array]) -> f64 {
    batches.iter().map(|batch| batch.size() - batch.dim(0) as usize).sum::<usize>().max(1) as f64
}

/// Shows the logits `[B, n, V]` that each model has for a piece of the texts, and the tokens that follow there: `[B, n]`, or one column
/// less at the end.
fn by_pieces(
    models: &[&dyn CausalLm],
    batch: &Array,
    mut work: impl FnMut(&[Array], &Array) -> Result<()>,
) -> Result<()> {
    let states = models.iter().map(|model| model.hidden(batch, None)).collect::<Result<Vec<_>, _>>()?;
    transforms::eval(&states)?;
    let length = batch.dim(1);
    for start in (0..length).step_by(PIECE as usize) {
        let end = (start + PIECE).min(length);
        let logits = models.iter().zip(&states).map(|(model, states)| model.head(&states.try_index((.., start..end))?));
        let logits = logits.collect::<Result<Vec<_>, _>>()?;
        work(&logits, &batch.try_index((.., start + 1..(end + 1).min(length)))?)?;
    }
    Ok(())
}

/// The sums over a piece: divergence, agreement, and the cross entropies of teacher and student.
fn compared(teacher: &Array, student: &Array, next: &Array) -> Result<[f64; 4]> {
    let top = |logits: &Array| fast::argmax(logits);
    let same = top(teacher)?.eq(top(student)?)?.as_dtype(Dtype::Float32)?.sum(None)?;
    let entropy = |logits: &Array| cross_entropy(logits, next);
    let all = [kl(student, teacher, 1.0)?.sum(None)?, same, entropy(teacher)?, entropy(student)?];
    transforms::eval(&all)?;
    let mut sums = [0.0; 4];
    for (sum, array) in sums.iter_mut().zip(&all) {
        *sum = f64::from(array.try_item_exact::<f32>()?);
    }
    Ok(sums)
}

/// The sum of the cross entropies of the tokens that follow: of all positions, or all but the last.
fn cross_entropy(logits: &Array, next: &Array) -> Result<Array, Exception> {
    // The last token of a text may be a piece of its own, and nothing follows.
    if next.size() == 0 {
        return Ok(Array::from_f32(0.0));
    }
    let ahead = logits.try_index((.., ..next.dim(1)))?;
    fast::cross_entropy(&ahead, next)?.sum(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_worked_out_by_hand() {
        let (p, q) = ([0.5_f64, 0.25, 0.25], [0.2_f64, 0.2, 0.6]);
        let logits = |p: [f64; 3]| Array::from_slice(&p.map(|p| p.ln() as f32 + 3.0), &[1, 1, 3]);
        let want: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let got = kl(&logits(q), &logits(p), 1.0).unwrap().try_item_exact::<f32>().unwrap();
        assert!((f64::from(got) - want).abs() < 1e-6, "{got} {want}");
        let next = Array::from_slice(&[1_i32, 2], &[1, 2]);
        let row = |p: [f64; 3]| mlxlm_core::ops::concatenate(&[logits(p), logits(p), logits(p)], 1).unwrap();
        let [kl, same, of_p, of_q] = compared(&row(p), &row(q), &next).unwrap();
        assert!((kl - 3.0 * want).abs() < 1e-5 && same == 0.0, "{kl} {same}");
        let nothing = next.try_index((.., ..0)).unwrap();
        let [kl_of_one, _, of_nothing, _] = compared(&logits(p), &logits(q), &nothing).unwrap();
        assert!((kl_of_one - want).abs() < 1e-6 && of_nothing == 0.0, "{kl_of_one} {of_nothing}");
        assert!((of_p + 2.0 * 0.25_f64.ln()).abs() < 1e-5 && (of_q + 0.2_f64.ln() + 0.6_f64.ln()).abs() < 1e-5);
    }
}
