//! Batches of like length, and rows that are packed.

use mlxlm_core::Array;
use mlxlm_train::data::{Batch, Example, Preference, Row, SortedBatches, once, pack_examples};

fn example(len: usize, start: usize) -> Example {
    Example { tokens: (1..=len as u32).collect(), start }
}

fn ints(array: &Array) -> Vec<i32> {
    array.try_as_slice::<i32>().unwrap().to_vec()
}

#[test]
fn a_batch_is_padded_cut_and_masked_as_the_reference_does_it() {
    let rows = [example(3, 2), example(40, 0), example(70, 69)];
    let batch = Batch::of_examples(&rows.each_ref(), 50);
    assert_eq!(batch.inputs.shape(), [3, 49]);
    let mask = batch.mask.try_as_slice::<f32>().unwrap();
    let learned = |row: usize| mask[row * 49..][..49].iter().sum::<f32>();
    // Of three tokens the third; of forty all but the first; of seventy, cut after fifty, none.
    assert_eq!((learned(0), learned(1), learned(2)), (1.0, 39.0, 0.0));
    assert_eq!((mask[1], batch.tokens), (1.0, 40));
    assert_eq!(ints(&batch.inputs)[..4], [1, 2, 3, 0]);
    assert_eq!(ints(&batch.targets)[..3], [2, 3, 0]);
    assert_eq!(Batch::of_examples(&[&rows[1]], 2048).inputs.shape(), [1, 64]);
    assert_eq!(Batch::of_examples(&[&rows[0]], 2048).inputs.shape(), [1, 32]);
}

#[test]
fn batches_hold_rows_of_like_length_and_come_again_after_a_stop() {
    let rows: Vec<Example> = (0..11).map(|i| example(2 + i * 7 % 11, 0)).collect();
    let mut batches = SortedBatches::new(&rows, 2, 100, 5).unwrap();
    assert_eq!(batches.per_epoch(), 5);
    let tokens: Vec<usize> = batches.by_ref().take(15).map(|batch| batch.tokens).collect();
    let mut epoch = tokens[..5].to_vec();
    epoch.sort_unstable();
    // Lengths 2 to 11 in pairs predict one less each; the longest row fills no batch.
    assert_eq!(epoch, [3, 7, 11, 15, 19]);
    assert_ne!(tokens[..5], tokens[5..10]);
    let mut resumed = SortedBatches::new(&rows, 2, 100, 5).unwrap();
    resumed.skip_to(8);
    assert_eq!(resumed.by_ref().take(7).map(|batch| batch.tokens).collect::<Vec<_>>(), tokens[8..]);
    assert_eq!((resumed.position(), batches.position()), (15, 15));
    assert_eq!(SortedBatches::new(&rows, 2, 9, 5).unwrap().cut(), 2);
}

#[test]
fn a_measurement_sees_every_row_once() {
    let rows: Vec<Example> = (0..7).map(|i| example(9 - i, 0)).collect();
    let tokens: Vec<usize> = once(&rows, 3, 100).map(|batch| batch.tokens).collect();
    assert_eq!(tokens, [2 + 3 + 4, 5 + 6 + 7, 8]);
    assert_eq!(once::<Example>(&[], 3, 100).count(), 0);
}

#[test]
fn pairs_stay_together() {
    let pair = |len| Preference { chosen: example(len, 1), rejected: example(1 + len, 1) };
    let rows = [pair(8), pair(2)];
    let batch = once(&rows, 2, 100).next().unwrap();
    assert_eq!((batch.chosen.tokens, batch.rejected.tokens), (8, 10));
    assert_eq!(ints(&batch.chosen.inputs)[..3], [1, 2, 0]);
}

#[test]
fn too_few_rows_are_refused() {
    let error = SortedBatches::new(&[example(3, 0)], 4, 10, 0).unwrap_err().to_string();
    assert_eq!(error, "the dataset has 1 rows, fewer than one batch of 4");
}

#[test]
fn packed_rows_hold_every_text_once_and_learn_what_texts_learn_alone() {
    let rows: Vec<Example> = (0..40).map(|i| example(2 + i * 7 % 13, i % 2)).chain([example(50, 15)]).collect();
    let packed = pack_examples(&rows, 20, 3);
    let tokens: usize = packed.iter().map(|row| row.tokens.len()).sum();
    // The long one is cut off, as it would be alone.
    assert_eq!(tokens, rows[..40].iter().map(|row| row.tokens.len()).sum::<usize>() + 20);
    assert!(packed.iter().all(|row| row.tokens.len() <= 20 && row.tokens.len() == row.learned.len()));
    assert_eq!(packed.iter().map(|row| row.starts.len()).sum::<usize>(), 41);
    let learned: usize = packed.iter().map(|row| row.learned.iter().filter(|&&one| one).count()).sum();
    let expected: usize = rows[..40].iter().map(|row| row.tokens.len() - 1).sum::<usize>() + 5;
    assert_eq!(learned, expected);
    let two: Vec<_> = packed.iter().filter(|row| row.starts.len() > 1).take(2).collect();
    let batch = <mlxlm_train::data::Packed as Row>::batch(&two, 20);
    assert_eq!(batch.inputs.shape(), [2, 19]);
    let in_two: usize = two.iter().map(|row| row.learned[1..].iter().filter(|&&one| one).count()).sum();
    assert_eq!(batch.tokens, in_two);
    let starts = |row: usize| batch.documents[row].iter().map(|start| *start as usize).collect::<Vec<_>>();
    for (row, packed) in two.iter().enumerate() {
        assert_eq!(starts(row), packed.starts.iter().copied().filter(|start| *start < 19).collect::<Vec<_>>());
    }
}
