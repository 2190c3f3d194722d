//! What training minimizes.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{by_kernel, plain};

/// The cross entropy of the target in each row of logits, in `f32` whatever their type.
///
/// # Shapes
/// - `logits`: `[…, V]`, `targets`: `[…]` of `i32`, result: `[…]` of `f32`
#[track_caller]
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array, Exception> {
    by_kernel!(crate::kernels::float::cross_entropy(logits, targets));
    plain::cross_entropy(logits, targets)
}

/// The Kullback-Leibler divergence of each row of a student's logits from the teacher's: `sum(p · (log p − log q))` over the vocabulary,
/// where the teacher's logits make the probabilities `p` and the student's `q`; in `f32` whatever their type. Only the student has a
/// gradient.
///
/// # Shapes
/// - `student`, `teacher`: `[…, V]`, result: `[…]` of `f32`
#[track_caller]
pub fn divergence(student: &Array, teacher: &Array) -> Result<Array, Exception> {
    if student.dtype() != teacher.dtype() {
        return divergence(&student.as_dtype(Dtype::Float32)?, &teacher.as_dtype(Dtype::Float32)?);
    }
    by_kernel!(crate::kernels::float::divergence(student, teacher));
    plain::divergence(student, teacher)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::super::testing::{check, gradients, normal};
    use super::*;

    #[test]
    fn cross_entropy_is_the_plain_one() {
        let targets = Array::from_slice(&[0, 5, 36, 7, 7, 20], &[2, 3]);
        let inputs = [normal(&[2, 3, 37], 1).multiply(Array::from_f32(5.0)).unwrap()];
        check(&inputs, |x| cross_entropy(&x[0], &targets), |x| plain::cross_entropy(&x[0], &targets));
    }

    #[test]
    fn narrow_logits_give_what_they_give_as_f32() {
        let targets = Array::from_slice(&[0, 5, 36, 7, 7, 20], &[2, 3]);
        let loss = |x: &[Array]| cross_entropy(&x[0], &targets);
        for dtype in [Dtype::Float16, Dtype::Bfloat16] {
            let narrow = normal(&[2, 3, 37], 1).as_dtype(dtype).unwrap();
            let wide = narrow.as_dtype(Dtype::Float32).unwrap();
            let (got, want) = (loss(from_ref(&narrow)).unwrap(), loss(from_ref(&wide)).unwrap());
            assert_eq!(got.try_as_slice::<f32>().unwrap(), want.try_as_slice::<f32>().unwrap());
            let (got, want) = (gradients(loss_sum(&loss), &[narrow]), gradients(loss_sum(&loss), &[wide]));
            assert_eq!(got[0].dtype(), dtype);
            assert!(got[0].all_close(want[0].as_dtype(dtype).unwrap(), 0.0, 0.0, None).unwrap());
        }
    }

    #[test]
    fn divergence_is_the_plain_one() {
        let teacher = normal(&[2, 3, 37], 2).multiply(Array::from_f32(3.0)).unwrap();
        let inputs = [normal(&[2, 3, 37], 1).multiply(Array::from_f32(5.0)).unwrap()];
        check(&inputs, |x| divergence(&x[0], &teacher), |x| plain::divergence(&x[0], &teacher));
        let same = divergence(&teacher, &teacher).unwrap();
        assert_eq!(same.try_as_slice::<f32>().unwrap(), [0.0; 6]);
    }

    fn loss_sum(
        loss: &dyn Fn(&[Array]) -> Result<Array, Exception>,
    ) -> impl Fn(&[Array]) -> Result<Array, Exception> + '_ {
        move |x| loss(x)?.sum(None)
    }
}
