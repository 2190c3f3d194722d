//! Parts of a small model, with and without forgetting.

use std::rc::Rc;

use super::super::{Linear, LowRankAdapter};
use super::*;
use crate::module;

/// Two linear maps, one after the other.
#[derive(Debug)]
struct Two {
    first: Linear,
    second: Linear,
}

module!(Two { first, second });

fn two() -> Two {
    let matrix = |seed: u64| {
        let key = random::key(seed).unwrap();
        random::normal::<f32>(&[4, 4], None, None, &key).unwrap()
    };
    let linear = |seed| {
        let adapter = LowRankAdapter { a: matrix(seed), b: matrix(seed + 1), m: None, scale: 2.0, dropout: 0.5 };
        Linear { adapter: Some(adapter), ..Linear::new(Matrix::Dense(matrix(seed + 2)), None) }
    };
    Two { first: linear(1), second: linear(5) }
}

fn x() -> Array {
    Array::from_slice(&[1_f32, -2.0, 0.5, 3.0, 0.0, 1.0, 1.0, -1.0], &[2, 4])
}

/// The loss and the gradients, with both maps checkpointed or not; and how often a map ran.
fn gradients(model: &Two, forgetful: bool) -> (Vec<Vec<f32>>, usize) {
    let trained: Vec<&Array> = handles(model).into_iter().map(|(_, handle)| handle).collect();
    let ran = Rc::new(Cell::new(0));
    random::seed(7).unwrap();
    let run = |map: &Linear, x: &Array| -> Result<Array, Exception> {
        let counted = Rc::clone(&ran);
        let f = move |map: &Linear, inputs: &[Array]| {
            counted.set(counted.get() + 1);
            Ok(vec![mlx_rs::ops::tanh(map.forward(&inputs[0])?)?])
        };
        match forgetful {
            true => Ok(checkpoint(map, |_| true, &[x.clone()], f)?.remove(0)),
            // The same random numbers are drawn.
            false => {
                let key = random::randint::<_, i32>(0, i32::MAX, &[2], None)?.as_dtype(mlx_rs::Dtype::Uint32)?;
                let state = random::RandomState::from_key(key);
                Ok(random::with_random_state(state, || f(map, &[x.clone()]))?.remove(0))
            }
        }
    };
    let (values, gradients) = value_and_grad(model, &trained, false, |model: &Two| {
        Ok::<_, Exception>(vec![run(&model.second, &run(&model.first, &x())?)?.sum(None)?])
    })
    .unwrap();
    let all = values.iter().chain(&gradients).map(|array| array.try_as_slice::<f32>().unwrap().to_vec());
    (all.collect(), ran.get())
}

#[test]
fn forgetting_changes_no_gradient_and_runs_twice() {
    let model = two();
    let ((plain, once), (forgetful, twice)) = (gradients(&model, false), gradients(&model, true));
    assert_eq!((once, twice), (2, 4));
    assert_eq!(plain.len(), 7);
    assert_eq!(plain, forgetful);
}

#[test]
fn the_model_is_as_before_and_runs_without_a_gradient() {
    let model = two();
    let before: Vec<Vec<f32>> =
        handles(&model).iter().map(|(_, array)| array.try_as_slice::<f32>().unwrap().to_vec()).collect();
    gradients(&model, true);
    for ((_, array), before) in handles(&model).iter().zip(before) {
        assert_eq!(array.try_as_slice::<f32>().unwrap(), before);
    }
    let outside = checkpoint(&model.first, |_| true, &[x()], |map, inputs| Ok(vec![map.forward(&inputs[0])?]));
    let expected = model.first.forward(&x()).unwrap();
    assert_eq!(outside.unwrap()[0].try_as_slice::<f32>().unwrap(), expected.try_as_slice::<f32>().unwrap());
}

#[test]
fn failures_say_what_happened() {
    let (model, other) = (two(), two());
    let trained: Vec<&Array> = handles(&other).into_iter().map(|(_, handle)| handle).collect();
    let error = value_and_grad(&model, &trained, false, |_: &Two| Ok::<_, Exception>(vec![])).unwrap_err();
    assert_eq!(error.what(), "a trained parameter is not one of the model");
    let trained: Vec<&Array> = handles(&model).into_iter().map(|(_, handle)| handle).collect();
    let ran = Rc::new(Cell::new(0));
    let error = value_and_grad(&model, &trained, true, |model: &Two| {
        assert!(checkpoints_blocks());
        let ran = Rc::clone(&ran);
        let result = checkpoint(
            &model.first,
            |_| true,
            &[x()],
            move |map, inputs| {
                ran.set(ran.get() + 1);
                match ran.get() {
                    1 => Ok(vec![map.forward(&inputs[0])?]),
                    _ => Err(Exception::custom("not again")),
                }
            },
        )?;
        Ok::<_, Exception>(vec![result[0].sum(None)?])
    });
    assert_eq!(error.unwrap_err().what(), "not again");
    assert!(!checkpoints_blocks());
}
