//! How far the next token of one model is from that of another.

use mlxlm_core::{Array, Dtype, Exception, fast};

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
        // At half the temperature probabilities are squared.
        let squared = |p: [f64; 3]| p.map(|x| x * x / p.map(|x| x * x).iter().sum::<f64>());
        let want: f64 = squared(p).iter().zip(squared(q)).map(|(p, q)| p * (p / q).ln()).sum();
        let got = kl(&logits(q), &logits(p), 0.5).unwrap().try_item_exact::<f32>().unwrap();
        assert!((f64::from(got) - want).abs() < 1e-6, "{got} {want}");
    }
}
