//! What a mask makes of logits.

use mlxlm_core::{Array, Dtype};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Error;

fn values(array: &Array) -> Vec<f32> {
    array.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn masked_logits_are_minus_infinity(rows in vec((any::<bool>(), vec(any::<bool>(), 1..100)), 1..4), junk in any::<u32>()) {
        let width = rows[0].1.len();
        let allowed = |row: usize, id: usize| rows[row].1.get(id).copied().unwrap_or(false);
        let masks: Vec<Option<Mask>> = (0..rows.len())
            .map(|row| {
                let mut words = vec![0; width / 32 + 2];
                (0..width).filter(|id| allowed(row, *id)).for_each(|id| words[id / 32] |= 1 << (id % 32));
                // What is beyond the vocabulary is not looked at.
                words[width / 32 + 1] = junk;
                rows[row].0.then(|| Mask::new(words, width))
            })
            .collect();
        for (row, mask) in masks.iter().enumerate().filter_map(|(row, mask)| Some((row, mask.as_ref()?))) {
            let ids: Vec<u32> = (0..width).filter(|id| allowed(row, *id)).map(|id| id as u32).collect();
            prop_assert_eq!(mask.count(), ids.len());
            prop_assert_eq!(mask, &Mask::of(&ids, width));
            prop_assert_eq!(mask.ids().collect::<Vec<_>>(), ids);
        }
        let logits: Vec<f32> = (0..rows.len() * width).map(|at| at as f32).collect();
        let array = Array::from_slice(&logits, &[rows.len() as i32, width as i32]);
        let masked = values(&apply_rows(&masks.iter().map(Option::as_ref).collect::<Vec<_>>(), &array).unwrap());
        for (at, value) in masked.into_iter().enumerate() {
            let keeps = masks[at / width].is_none() || allowed(at / width, at % width);
            prop_assert_eq!(value, if keeps { logits[at] } else { f32::NEG_INFINITY });
        }
    }
}

#[test]
fn types_and_shapes_stay() {
    let mask = Mask::of(&[1], 3);
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let logits = Array::from_slice(&[f32::NAN, 2.0, f32::INFINITY], &[1, 3]).as_dtype(dtype).unwrap();
        let masked = mask.apply(&logits).unwrap();
        assert_eq!((masked.dtype(), masked.shape()), (dtype, &[1, 3][..]));
        assert_eq!(values(&masked), [f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY]);
    }
    let logits = Array::from_slice(&[1.0_f32; 6], &[1, 2, 3]);
    let masked = apply_rows(&[Some(&mask), None], &logits).unwrap();
    assert_eq!(masked.shape(), [1, 2, 3]);
    assert_eq!(values(&masked)[3..], [1.0; 3]);
    assert_eq!(format!("{mask:?}"), "Mask(1 of 3)");
}

#[test]
fn masks_that_do_not_fit_are_refused() {
    let logits = Array::from_slice(&[1.0_f32; 6], &[2, 3]);
    let (three, four) = (Mask::of(&[1], 3), Mask::of(&[1], 4));
    assert!(matches!(three.apply(&logits), Err(Error::Count { name: "masks", got: 1, expected: 2 })));
    assert!(matches!(apply_rows(&[None, Some(&four)], &logits), Err(Error::Parameter { name: "logits", .. })));
    assert!(matches!(three.apply(&Array::from_f32(1.0)), Err(Error::Count { .. })));
}
