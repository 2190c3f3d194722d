//! Written rows against updates, and the memory that they are written in.

use mlx_rs::{Dtype, ops, transforms};
use proptest::prelude::*;

use super::*;
use crate::fast::testing::{check, layouts, normal, same_bits};
use crate::raw;

/// Arrays in memory.
fn held(lengths: &[i32], dtype: Dtype) -> Vec<Array> {
    let make = |(&s, seed)| normal(&[1, 2, s, 6], seed).as_dtype(dtype).unwrap();
    let held: Vec<Array> = lengths.iter().zip(10..).map(make).collect();
    transforms::eval(&held).unwrap();
    held
}

/// What is held with the tokens in their places.
fn updated(held: &[&Array], at: &[i32], new: &Array) -> Vec<Array> {
    plain::write_rows(held, at, new).unwrap()
}

#[test]
fn rows_are_written_to_and_what_others_hold_stays() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Uint32, Dtype::Uint8] {
        let held = held(&[7, 3, 20], dtype);
        let new = normal(&[3, 2, 3, 6], 1).as_dtype(dtype).unwrap();
        let snapshot: Vec<Array> = held.iter().map(|x| x.add(Array::from_int(0)).unwrap()).collect();
        let lent: Vec<&Array> = held.iter().collect();
        let got = write_rows(&lent, &[4, 0, 11], &new).unwrap();
        transforms::eval(&got).unwrap();
        for (i, (got, want)) in got.iter().zip(updated(&lent, &[4, 0, 11], &new)).enumerate() {
            assert!(same_bits(got, &want), "row {i} of {dtype:?}");
        }
        for (i, (held, before)) in held.iter().zip(&snapshot).enumerate() {
            assert!(same_bits(held, &before.as_dtype(dtype).unwrap()), "row {i} of {dtype:?} changed");
        }
    }
}

#[test]
fn new_tokens_take_the_type_that_is_held() {
    let held = held(&[4, 5], Dtype::Float16);
    let lent: Vec<&Array> = held.iter().collect();
    let new = normal(&[2, 2, 1, 6], 1);
    for (i, got) in write_rows(&lent, &[0, 4], &new).unwrap().iter().enumerate() {
        assert_eq!(got.dtype(), Dtype::Float16, "row {i}");
        assert!(same_bits(got, &updated(&lent, &[0, 4], &new)[i]), "row {i}");
    }
}

#[test]
fn no_new_tokens_change_nothing() {
    let held = held(&[4, 5], Dtype::Float32);
    let lent: Vec<&Array> = held.iter().collect();
    let new = ops::zeros::<f32>(&[2, 2, 0, 6]).unwrap();
    let got = write_rows(&lent, &[4, 2], &new).unwrap();
    assert!(got.iter().zip(&held).all(|(got, held)| same_bits(got, held)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let held = held(&[4, 5], Dtype::Float32);
    let new = normal(&[2, 2, 2, 6], 1);
    let refused = |held: &[&Array], at: &[i32], new: &Array, want: &str| {
        let error = write_rows(held, at, new).unwrap_err();
        assert!(error.what().contains(want), "{error}");
    };
    let [a, b] = [&held[0], &held[1]];
    refused(&[a, b], &[3, 0], &new, "row 0: 2 tokens from 3 on do not fit into 4");
    refused(&[a, b], &[0, -1], &new, "row 1: 2 tokens from -1 on do not fit into 5");
    refused(&[a, b], &[0, i32::MAX], &new, "do not fit into 5");
    refused(&[a], &[0], &new, "at least one, not 1, and as many places, not 1");
    refused(&[a, b], &[0], &new, "as many places, not 1");
    refused(&[], &[], &ops::zeros::<f32>(&[0, 2, 1, 6]).unwrap(), "at least one, not 0");
    refused(&[a, &new], &[0, 0], &new, "row 1: what is written to must be [1, 2, S, 6]");
    refused(&[a, b], &[0, 0], &normal(&[2, 2, 6], 1), "new tokens must be [B, K, L, d], not [2, 2, 6]");
}

/// Where an array lies; nobody else has it afterwards.
fn place(x: &Array) -> usize {
    raw::with_bytes(x, |bytes| bytes.as_ptr() as usize).unwrap()
}

fn is_as(got: &[Array], want: &[Array]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(same_bits(got, want), "row {i}");
    }
}

/// The same numbers in memory of their own.
fn copied(x: &[Array]) -> Vec<Array> {
    let copies: Vec<Array> = x.iter().map(|x| ops::concatenate(&[x, x], 0).unwrap()).collect();
    let copies: Vec<Array> = copies.iter().map(|x| ops::split_equal(x, 2, 0).unwrap().remove(0)).collect();
    transforms::eval(&copies).unwrap();
    copies
}

/// The last rows of a batch.
fn part(x: &Array, rows: i32) -> Array {
    let all = x.dim(0);
    x.take_axis(ops::arange::<i32, i32>(all - rows, all, None).unwrap(), 0).unwrap()
}

fn lent(x: &[Array]) -> Vec<&Array> {
    x.iter().collect()
}

/// More rows than one operation hands out at a time.
const LENGTHS: [i32; 19] = [7, 3, 20, 9, 4, 3, 5, 6, 30, 3, 4, 9, 8, 7, 6, 5, 4, 3, 12];

#[test]
fn what_nobody_else_has_is_written_in_place_and_all_else_copied() {
    if !crate::fast::has_kernels() {
        return;
    }
    for dtype in [Dtype::Bfloat16, Dtype::Uint8] {
        let rows = held(&LENGTHS, dtype);
        let new = normal(&[19, 2, 3, 6], 1).as_dtype(dtype).unwrap();
        let at = LENGTHS.map(|s| s - 3);
        let (want, before) = (updated(&lent(&copied(&rows)), &at, &new), copied(&rows));
        let places: Vec<usize> = rows.iter().map(place).collect();
        let kept = [2, 8, 17];
        let snapshots: Vec<Array> = kept.iter().map(|&row: &usize| rows[row].clone()).collect();
        let got = write_rows(&lent(&rows), &at, &new).unwrap();
        drop(rows);
        transforms::eval(&got).unwrap();
        for (row, (got, was)) in got.iter().zip(places).enumerate() {
            assert_eq!(place(got) == was, !kept.contains(&row), "row {row}");
        }
        is_as(&got, &want);
        is_as(&snapshots, &kept.map(|row| before[row].clone()));
    }
}

#[test]
fn an_array_given_twice_is_copied() {
    let x = held(&[5], Dtype::Float32).remove(0);
    let same = copied(&[x.clone(), x.clone()]);
    let new = normal(&[2, 2, 1, 6], 1);
    let want = updated(&lent(&same), &[1, 4], &new);
    let got = write_rows(&[&x, &x], &[1, 4], &new).unwrap();
    drop(x);
    is_as(&got, &want);
    // The same memory by way of two arrays; and what is written comes from what is written to.
    let whole = normal(&[2, 2, 5, 6], 2);
    let rows = ops::split_equal(&whole, 2, 0).unwrap();
    let new = ops::split_at_indices(&whole, &[1], 2).unwrap().remove(0);
    let before = copied(&rows);
    let want = updated(&lent(&before), &[0, 4], &copied(&[new.clone()])[0]);
    drop(whole);
    is_as(&write_rows(&lent(&rows), &[0, 4], &new).unwrap(), &want);
    is_as(&rows, &before);
}

#[test]
fn steps_that_are_not_computed_yet_follow_each_other() {
    let mut rows = held(&LENGTHS, Dtype::Float32);
    let mut want = copied(&rows);
    for step in 0..3 {
        let new = normal(&[19, 2, 1, 6], 50 + step);
        let at = LENGTHS.map(|s| (s - 1 - step as i32).max(0));
        rows = write_rows(&lent(&rows), &at, &new).unwrap();
        want = updated(&lent(&want), &at, &new);
    }
    is_as(&rows, &want);
}

#[test]
fn results_may_be_asked_for_one_by_one_or_not_at_all() {
    let rows = held(&LENGTHS, Dtype::Float32);
    let (new, at) = (normal(&[19, 2, 1, 6], 1), [2; 19]);
    let want = updated(&lent(&copied(&rows)), &at, &new);
    let mut got = write_rows(&lent(&rows), &at, &new).unwrap();
    drop(rows);
    let later = got.split_off(9);
    transforms::async_eval([&got[8]]).unwrap();
    // Dropped before it may have been computed.
    drop(got);
    is_as(&later, &want[9..]);
    drop(write_rows(&lent(&later), &at[9..], &part(&new, 10)).unwrap());
    crate::device::synchronize().unwrap();
    is_as(&later, &want[9..]);
}

#[test]
fn gradients_go_through() {
    let inputs = [normal(&[1, 2, 5, 6], 1), normal(&[1, 2, 3, 6], 2), normal(&[2, 2, 2, 6], 3)];
    let both = |rows: Vec<Array>| ops::concatenate(&rows, 2);
    check(
        &inputs,
        |x| both(write_rows(&[&x[0], &x[1]], &[2, 1], &x[2])?),
        |x| both(plain::write_rows(&[&x[0], &x[1]], &[2, 1], &x[2])?),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_layout_is_written_to_as_by_updates(
        of_held in prop::collection::vec((layouts(4), 0_i32..40), 1..12), of_new in layouts(4),
        [heads, l, width] in [1_i32..4, 1_i32..6, 1_i32..9], at in any::<prop::sample::Index>(),
        dtype in prop::sample::select(vec![Dtype::Float32, Dtype::Float16, Dtype::Uint32, Dtype::Uint8, Dtype::Int64]),
    ) {
        let of = |(i, (layout, more)): (usize, &(crate::fast::testing::Layout, i32))| {
            layout.normal(&[1, heads, l + more, width], i as u64, dtype)
        };
        let rows: Vec<Array> = of_held.iter().enumerate().map(of).collect();
        let new = of_new.normal(&[rows.len() as i32, heads, l, width], 99, dtype);
        let at: Vec<i32> = of_held.iter().map(|(_, more)| at.index(*more as usize + 1) as i32).collect();
        let want = updated(&lent(&rows), &at, &new);
        is_as(&write_rows(&lent(&rows), &at, &new).unwrap(), &want);
    }

    #[test]
    fn sequences_that_grow_in_place_and_their_snapshots_hold_what_was_written(
        rows in 2_usize..20, steps in prop::collection::vec((1_i32..4, any::<bool>(), any::<prop::sample::Index>()), 1..12),
    ) {
        let room = 40;
        let mut arrays: Vec<Array> = (0..rows).map(|_| ops::zeros::<f32>(&[1, 2, room, 3]).unwrap()).collect();
        let mut want = vec![vec![0.0_f32; 2 * room as usize * 3]; rows];
        let (mut at, mut snapshots) = (0, Vec::new());
        for (step, (l, computed, which)) in steps.into_iter().enumerate() {
            let new = normal(&[rows as i32, 2, l, 3], step as u64);
            let numbers = crate::fast::testing::floats(&new);
            for (i, number) in numbers.iter().enumerate() {
                let (row, rest) = (i / (6 * l as usize), i % (6 * l as usize));
                let (head, rest) = (rest / (3 * l as usize), rest % (3 * l as usize));
                want[row][(head * room as usize + at as usize) * 3 + rest] = *number;
            }
            arrays = write_rows(&lent(&arrays), &vec![at; rows], &new).unwrap();
            at += l;
            if computed {
                transforms::async_eval(&arrays).unwrap();
            }
            let row = which.index(rows);
            snapshots.push((arrays[row].clone(), want[row].clone()));
        }
        for (got, want) in arrays.iter().zip(&want).chain(snapshots.iter().map(|(got, want)| (got, want))) {
            prop_assert_eq!(&crate::fast::testing::floats(got), want);
        }
    }
}
