//! Attention of a batch of rows against that of each row alone.

use mlx_rs::ops;

use super::*;
use crate::fast::testing::{check, normal, same_bits};
use crate::fast::{Attention, Chunk, Ring, Sight, attend, attend_latent};
use crate::quant::{self, Mode, Packed, Scheme};

/// Four rows of different lengths and rules.
fn rules() -> [(i32, Causal); 4] {
    let ring = Some(Ring { keep: 2, newest: 30 });
    [
        (5, Causal::default()),
        (70, Causal { window: Some(40), padding: vec![-9], ring, ..Causal::default() }),
        (130, Causal { chunk: Some(Chunk { size: 50, first: 7 }), ..Causal::default() }),
        (9, Causal { padding: vec![3], ..Causal::default() }),
    ]
}

fn packed(x: &Array, bits: i32) -> (Packed, Scheme) {
    let scheme = Scheme::new(Mode::Affine, bits, 32).unwrap();
    (quant::quantize(x, scheme).unwrap(), scheme)
}

fn row_of(q: &Array, row: usize) -> Array {
    ops::split_equal(q, 4, 0).unwrap().swap_remove(row)
}

fn alone<'a>(row: &Row<'_>, how: &RowsAttention<'a>) -> Attention<'a> {
    Attention { scale: how.scale, softcap: how.softcap, sight: Sight::causal(row.rule.clone()), sinks: how.sinks }
}

#[test]
fn each_row_has_the_bits_that_it_has_alone() {
    let (q, sinks) = (normal(&[4, 4, 3, 32], 1), normal(&[4], 2));
    let kv = rules().map(|(s, _)| [normal(&[1, 2, s, 32], 3), normal(&[1, 2, s, 64], 4)]);
    // One row is quantized, and one has quantized values only.
    let (k1, v3) = (packed(&kv[1][0], 8), packed(&kv[3][1], 4));
    let mut rows: Vec<Row<'_>> = kv
        .iter()
        .zip(rules())
        .map(|([k, v], (_, rule))| Row { keys: Stored::Plain(k), values: Stored::Plain(v), rule })
        .collect();
    rows[1].keys = Stored::Packed(&k1.0, k1.1);
    rows[3].values = Stored::Packed(&v3.0, v3.1);
    for how in [RowsAttention::scaled(0.2), RowsAttention { scale: 0.2, softcap: Some(2.0), sinks: Some(&sinks) }] {
        let got = attend_rows(&q, &rows, &how).unwrap();
        assert_eq!(got.shape(), [4, 4, 3, 64]);
        for (i, row) in rows.iter().enumerate() {
            let want = attend(&row_of(&q, i), row.keys, row.values, &alone(row, &how)).unwrap();
            assert!(same_bits(&row_of(&got, i), &want), "row {i}");
        }
    }
}

#[test]
fn each_row_of_latents_has_the_bits_that_it_has_alone() {
    let (q_nope, q_pe) = (normal(&[4, 6, 2, 64], 1), normal(&[4, 6, 2, 32], 2));
    let kv = rules().map(|(s, _)| [normal(&[1, 1, s, 64], 3), normal(&[1, 1, s, 32], 4)]);
    let (latent, k_pe) = (packed(&kv[2][0], 4), packed(&kv[2][1], 4));
    let mut rows: Vec<Row<'_>> = kv
        .iter()
        .zip(rules())
        .map(|([k, v], (_, rule))| Row { keys: Stored::Plain(k), values: Stored::Plain(v), rule })
        .collect();
    rows[2].keys = Stored::Packed(&latent.0, latent.1);
    rows[2].values = Stored::Packed(&k_pe.0, k_pe.1);
    let how = RowsAttention::scaled(0.1);
    let got = attend_latent_rows(&q_nope, &q_pe, &rows, &how).unwrap();
    assert_eq!(got.shape(), [4, 6, 2, 64]);
    for (i, row) in rows.iter().enumerate() {
        let [a, b] = [&q_nope, &q_pe].map(|q| row_of(q, i));
        let want = attend_latent(&a, &b, row.keys, row.values, &alone(row, &how)).unwrap();
        assert!(same_bits(&row_of(&got, i), &want), "row {i}");
    }
}

#[test]
fn gradients_go_to_each_row() {
    let of = |s, seed| normal(&[1, 2, s, 8], seed);
    let inputs = [normal(&[2, 4, 3, 8], 1), of(5, 2), of(5, 3), of(9, 4), of(9, 5), normal(&[4], 6)];
    let with = |f: fn(&Array, &[Row<'_>], &RowsAttention<'_>) -> Result<Array, Exception>| {
        move |x: &[Array]| {
            let row = |k, v, window| Row {
                keys: Stored::Plain(k),
                values: Stored::Plain(v),
                rule: Causal { window, ..Causal::default() },
            };
            let how = RowsAttention { scale: 0.3, softcap: None, sinks: Some(&x[5]) };
            f(&x[0], &[row(&x[1], &x[2], None), row(&x[3], &x[4], Some(4))], &how)
        }
    };
    check(&inputs, with(attend_rows), with(plain::attend_rows));
}

#[test]
fn what_are_no_rows_is_refused() {
    let (q, k) = (normal(&[2, 4, 1, 8], 1), normal(&[1, 2, 5, 8], 2));
    let both = normal(&[2, 2, 5, 8], 3);
    let row = |k| Row { keys: Stored::Plain(k), values: Stored::Plain(k), rule: Causal::default() };
    let refused = |q: &Array, rows: &[Row<'_>], want: &str| {
        let how = RowsAttention::scaled(1.0);
        for got in [attend_rows(q, rows, &how), attend_latent_rows(q, q, rows, &how)] {
            let got = got.and_then(|x| x.eval()).unwrap_err();
            assert!(got.what().contains(want), "{got}");
        }
    };
    refused(&q, &[row(&k)], "at least one, not 1");
    let none = ops::zeros::<f32>(&[0, 4, 1, 8]).unwrap();
    refused(&none, &[], "at least one, not 0");
    refused(&q, &[row(&k), row(&both)], "row 1: keys must be [1, K, S, d], not [2, 2, 5, 8]");
    let padded = Row { rule: Causal { padding: vec![0, 1], ..Causal::default() }, ..row(&k) };
    refused(&q, &[padded, row(&k)], "row 0: its rule may have one padding, not 2");
}
