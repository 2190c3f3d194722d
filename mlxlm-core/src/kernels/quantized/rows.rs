//! Rows of a quantized matrix by their numbers, as an embedding needs them: unpacked where they lie, rounded once.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, transforms};

use super::matrix::Stored;
use super::panel::Part;
use super::weights::Storage;
use crate::kernels::convert::Results;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::quant::{self, Mode, Packed, Panels, Scheme};

thread_local! {
    /// A row as f32.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// Weights that a task unpacks at least.
const CHUNK: usize = 1 << 14;

/// The rows `ids` of a matrix, or `None` where MLX's own operations are to be taken. Numbers below zero count from the end; the
/// evaluation fails for those that are no row's.
///
/// # Shapes
/// - `ids`: `[…]` of `u32` or `i32`, result: `[…, in]` of the type of the scales, or bf16 if they are no floats
pub(crate) fn quantized_rows(w: &Packed, scheme: Scheme, ids: &Array) -> Result<Option<Array>, Exception> {
    let (&[rows, words], &[of_rows, groups]) = (w.weight.shape(), w.scales.shape()) else { return Ok(None) };
    let columns = groups * scheme.group_size;
    let dtype = match (scheme.mode, &w.biases) {
        (Mode::Affine, Some(biases)) if biases.shape() == w.scales.shape() && biases.dtype() == w.scales.dtype() => {
            w.scales.dtype()
        }
        (Mode::Affine, _) | (_, Some(_)) => return Ok(None),
        (_, None) if w.scales.dtype() == Dtype::Uint8 => Dtype::Bfloat16,
        (_, None) => return Ok(None),
    };
    let fits = rows == of_rows
        && words == scheme.packed_words(columns)
        && Scheme::new(scheme.mode, scheme.bits, scheme.group_size).is_ok()
        && w.weight.dtype() == Dtype::Uint32
        && matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !fits {
        return Ok(None);
    }
    let inputs: Vec<&Array> = [ids, &w.weight, &w.scales].into_iter().chain(&w.biases).collect();
    rows_of(&inputs, Stored::Rows(scheme), columns, dtype)
}

/// As [`quantized_rows`], of panels.
pub(crate) fn panels_rows(w: &Panels, ids: &Array) -> Result<Option<Array>, Exception> {
    if w.experts.is_some() {
        return Ok(None);
    }
    rows_of(&[ids, &w.lines], Stored::Panels(w.layout), w.layout.columns as i32, w.dtype())
}

/// The rows `inputs[0]` of the matrix that the others hold, if these can be numbers of rows.
fn rows_of(inputs: &[&Array], stored: Stored, columns: i32, dtype: Dtype) -> Result<Option<Array>, Exception> {
    let ids = inputs[0];
    if !on_cpu() || !matches!(ids.dtype(), Dtype::Uint32 | Dtype::Int32) {
        return Ok(None);
    }
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    let shape: Vec<i32> = ids.shape().iter().copied().chain([columns]).collect();
    apply_one(Rows { stored, isa }, inputs, &shape, dtype).map(Some)
}

#[derive(Debug)]
struct Rows {
    stored: Stored,
    isa: Isa,
}

impl Operation for Rows {
    fn name(&self) -> &'static CStr {
        c"QuantizedRows"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut storage = Storage::default();
        let w = self.stored.matrix(&inputs[1..], &mut storage);
        let ids: Vec<i64> = match inputs[0].dtype {
            Dtype::Int32 => inputs[0].contiguous::<i32>(&mut Vec::new()).iter().map(|&id| i64::from(id)).collect(),
            _ => inputs[0].contiguous::<u32>(&mut Vec::new()).iter().map(|&id| i64::from(id)).collect(),
        };
        let row_of = |id: i64| {
            let row = if id < 0 { id + w.rows() as i64 } else { id };
            usize::try_from(row).ok().filter(|row| *row < w.rows())
        };
        let (out, columns) = (Results::new(&mut outputs[0]), w.columns());
        pool::parallel_ranges(ids.len(), 1, (ids.len() * columns).div_ceil(CHUNK), |from, to| {
            with_scratch(&ROOM, columns, |room| {
                for (i, &id) in (from..).zip(&ids[from..to]) {
                    let Some(row) = row_of(id) else { panic!("{id} is no row of {}", w.rows()) };
                    let part = Part { rows: row..row + 1, columns: 0..columns, width: columns };
                    let fill = |out: &mut [f32]| w.unpack(self.isa, &part, out);
                    // SAFETY: rows are written by one task each.
                    unsafe { out.part(self.isa, i * columns, (i + 1) * columns, room, fill) };
                }
            });
        });
    }

    /// That of the scales and the biases, by way of MLX's own operations.
    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (Stored::Rows(scheme), true) = (self.stored, at.argnums.iter().all(|of| *of >= 2)) else {
            return Err(Exception::custom(
                "the codes of a quantized matrix and the numbers of its rows have no gradient",
            ));
        };
        let rows = |params: &[Array]| -> Result<Vec<Array>, Exception> {
            let (scales, biases) = (params[0].clone(), params.get(1).cloned());
            let w = Packed { weight: at.primals[1].clone(), scales, biases };
            Ok(vec![quant::mlx_quantized_rows(&w, scheme, &at.primals[0])?])
        };
        let (_, gradients) = transforms::fallible_vjp(rows, &at.primals[2..], &at.cotangents)?;
        Ok(at.argnums.iter().map(|&of| gradients[of - 2].clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::{ops, random};
    use proptest::prelude::*;

    use super::*;
    use crate::fast::testing::{FLOATS, check, copied, layouts, normal, same_bits, words};
    use crate::pages::Arena;

    fn schemes() -> impl Strategy<Value = Scheme> {
        let affine = (prop::sample::select(vec![2, 3, 4, 5, 6, 8]), prop::sample::select(vec![32, 64, 128]))
            .prop_map(|(bits, group)| (Mode::Affine, bits, group));
        let float = prop::sample::select(vec![(Mode::Mxfp4, 4, 32), (Mode::Mxfp8, 8, 32), (Mode::Nvfp4, 4, 16)]);
        prop_oneof![affine, float].prop_map(|(mode, bits, group)| Scheme::new(mode, bits, group).unwrap())
    }

    fn wide(a: &Array) -> Vec<f32> {
        a.as_dtype(Dtype::Float32).unwrap().to_vec_exact::<f32>().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn rows_are_the_plain_ones(
            scheme in schemes(),
            ids in prop::collection::vec(-20..20_i32, 1..9),
            dtype in prop::sample::select(vec![Dtype::Float32, Dtype::Float16, Dtype::Bfloat16]),
        ) {
            let table = random::normal::<f32>(&[20, 256], None, None, &random::key(1).unwrap()).unwrap();
            let w = quant::quantize(&table.as_dtype(dtype).unwrap(), scheme).unwrap();
            let ids = Array::from_slice(&ids, &[1, ids.len() as i32]);
            let want = quant::mlx_quantized_rows(&w, scheme, &ids).unwrap();
            for isa in Isa::available() {
                let inputs: Vec<&Array> = [&ids, &w.weight, &w.scales].into_iter().chain(&w.biases).collect();
                let got = apply_one(Rows { stored: Stored::Rows(scheme), isa }, &inputs, want.shape(), want.dtype()).unwrap();
                // MLX rounds 16-bit weights twice.
                let steps = if want.dtype() == Dtype::Bfloat16 { 0.02 } else { 0.003 };
                let near = wide(&got).iter().zip(wide(&want)).all(|(got, want)| (got - want).abs() <= steps * (1.0 + want.abs()));
                prop_assert!(near, "{} {}", isa, scheme);
            }
            let got = quant::quantized_rows(&w, scheme, &ids).unwrap();
            prop_assert_eq!((got.shape(), got.dtype()), (want.shape(), want.dtype()));
        }

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            scheme in schemes(), of_ids in layouts(2), of_parts in [layouts(2), layouts(2), layouts(2)],
            dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let columns = 2 * scheme.group_size.max(32);
            let ids = of_ids.of(&[3, 5], |room| {
                ops::arange::<i32, i32>(0, room[0], None).unwrap().remainder(Array::from_int(7)).unwrap()
            });
            let numbers = |i: usize| of_parts[i].normal(&[7, columns / scheme.group_size], i as u64, dtype);
            let weight = of_parts[0].of(&[7, scheme.packed_words(columns)], words);
            let w = match scheme.mode {
                Mode::Affine => Packed { weight, scales: numbers(1), biases: Some(numbers(2)) },
                _ => {
                    let scales = of_parts[1].of(&[7, columns / scheme.group_size], |room| {
                        let scales: Vec<u8> = (0..room[0]).map(|i| (i % 100) as u8).collect();
                        Array::from_slice(&scales, room)
                    });
                    Packed { weight, scales, biases: None }
                }
            };
            let plain = Packed {
                weight: copied(&w.weight), scales: copied(&w.scales), biases: w.biases.as_ref().map(copied),
            };
            let got = quant::quantized_rows(&w, scheme, &ids).unwrap();
            prop_assert!(same_bits(&got, &quant::quantized_rows(&plain, scheme, &copied(&ids)).unwrap()), "{}", scheme);
        }
    }

    #[test]
    fn gradients_of_scales_and_biases_are_what_steps_make() {
        // Some rows are asked for twice, others not at all.
        let ids = Array::from_slice(&[0, 5, -1, 5, 19, 2], &[2, 3]);
        for bits in [2, 3, 4, 5, 6, 8] {
            let scheme = Scheme::new(Mode::Affine, bits, 32).unwrap();
            let w = quant::quantize(&normal(&[20, 64], 1), scheme).unwrap();
            let with = |scales: &Array, biases: &Array| Packed {
                weight: w.weight.clone(),
                scales: scales.clone(),
                biases: Some(biases.clone()),
            };
            let (scales, biases) = (w.scales.clone(), w.biases.clone().unwrap());
            let both = |f: fn(&Packed, Scheme, &Array) -> Result<Array, Exception>| {
                let ids = &ids;
                move |p: &[Array]| f(&with(&p[0], &p[1]), scheme, ids)
            };
            let one = |f: fn(&Packed, Scheme, &Array) -> Result<Array, Exception>| {
                let (ids, scales) = (&ids, &scales);
                move |p: &[Array]| f(&with(scales, &p[0]), scheme, ids)
            };
            check(&[scales.clone(), biases.clone()], both(quant::quantized_rows), both(quant::mlx_quantized_rows));
            check(&[biases], one(quant::quantized_rows), one(quant::mlx_quantized_rows));
        }
    }

    #[test]
    fn codes_and_panels_have_no_gradient() {
        let scheme = Mode::Affine.default_scheme();
        let w = quant::quantize(&normal(&[20, 64], 1), scheme).unwrap();
        let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
        let ids = Array::from_slice(&[1, 2], &[2]);
        let of_codes = |weight: &Array| {
            quant::quantized_rows(&Packed { weight: weight.clone(), ..w.clone() }, scheme, &ids)?.sum(None)
        };
        let of_panels = |lines: &Array| Panels { lines: lines.clone(), ..panels.clone() }.rows(&ids)?.sum(None);
        for failed in [transforms::grad(of_codes)(&w.weight), transforms::grad(of_panels)(&panels.lines)] {
            assert!(failed.unwrap_err().to_string().contains("`QuantizedRows`"));
        }
    }

    #[test]
    fn no_numbers_give_no_rows() {
        for scheme in Mode::ALL.map(Mode::default_scheme) {
            let w = quant::quantize(&normal(&[20, 64], 1), scheme).unwrap();
            let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
            for shape in [&[0][..], &[0, 3], &[2, 0]] {
                let ids = ops::zeros_dtype(shape, Dtype::Int32).unwrap();
                // As a dense table gives; MLX refuses to unpack nothing.
                let want = [shape, &[64]].concat();
                for rows in [quant::quantized_rows(&w, scheme, &ids).unwrap(), panels.rows(&ids).unwrap()] {
                    rows.eval().unwrap();
                    assert_eq!(rows.shape(), want, "{scheme}");
                }
            }
        }
    }

    #[test]
    fn a_number_of_no_row_fails() {
        let scheme = Mode::Affine.default_scheme();
        let w = quant::quantize(&mlx_rs::ops::ones::<f32>(&[4, 64]).unwrap(), scheme).unwrap();
        let rows = |id: i32| quant::quantized_rows(&w, scheme, &Array::from_slice(&[id], &[1])).unwrap();
        assert!(rows(3).eval().is_ok());
        assert!(rows(4).eval().unwrap_err().to_string().contains("`QuantizedRows` failed"));
    }
}
