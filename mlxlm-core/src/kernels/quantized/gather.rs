//! Products whose quantized matrix is chosen for each row from a stack: mixtures of experts.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::fixed::Segment;
use super::matrix::{Stack, Stored};
use super::weights::Storage;
use super::{ACTIVATIONS, RESULTS, by_blocks, fits, products};
use crate::kernels::chosen::{self, Chosen, sum_to};
use crate::kernels::convert::{self, Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::mixed;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::quant::{Packed, Panels, Scheme};

thread_local! {
    static ROWS: Scratch = const { Cell::new(Vec::new()) };
    static PRODUCTS: Scratch = const { Cell::new(Vec::new()) };
}

/// `x[i] @ w[indices[i]].T`, or `None` where MLX's own operation is to be taken.
///
/// # Shapes
/// - `x`: `[…, 1, in]`, `w`: `[E, out, in]` before packing, `indices`: `[…]` of `u32`, result: `[…, 1, out]`; the axes
///   before the last two are broadcast to those of `indices`, or the other way round
pub(crate) fn gather_quantized_matmul(
    x: &Array,
    w: &Packed,
    scheme: Scheme,
    indices: &Array,
) -> Result<Option<Array>, Exception> {
    let stacked = w.weight.ndim() == 3 && w.scales.ndim() == 3 && w.weight.dim(0) == w.scales.dim(0);
    if !stacked || !fits(x, w, scheme, true) {
        return Ok(None);
    }
    let Some(x) = mixed::meeting(x, w.scales.dtype())? else { return Ok(None) };
    let mut inputs = vec![&x, indices, &w.weight, &w.scales];
    inputs.extend(&w.biases);
    gather(&inputs, Stored::Rows(scheme), w.weight.dim(1))
}

/// As [`gather_quantized_matmul`], from a stack in panels.
pub(crate) fn gather_panels_matmul(x: &Array, w: &Panels, indices: &Array) -> Result<Option<Array>, Exception> {
    if w.experts.is_none() || x.shape().last() != Some(&(w.layout.columns as i32)) {
        return Ok(None);
    }
    let Some(x) = mixed::meeting(x, w.layout.numbers)? else { return Ok(None) };
    gather(&[&x, indices, &w.lines], Stored::Panels(w.layout), w.layout.rows as i32)
}

/// The products of `inputs[0]` with matrices that `inputs[1]` chooses from the stack in the others, if these fit.
fn gather(inputs: &[&Array], stored: Stored, rows: i32) -> Result<Option<Array>, Exception> {
    let x = inputs[0];
    let Some(shape) = chosen::shape(x, inputs[1], rows).filter(|_| on_cpu()) else { return Ok(None) };
    let isa = Isa::active().map_err(|e| Exception::custom(e.to_string()))?;
    apply_one(Gather { stored, transpose: true, isa }, inputs, &shape, x.dtype()).map(Some)
}

#[derive(Debug)]
struct Gather {
    stored: Stored,
    transpose: bool,
    isa: Isa,
}

impl Operation for Gather {
    fn name(&self) -> &'static CStr {
        c"GatherQuantizedMatmul"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        let mut storage = Storage::default();
        let stack = self.stored.stack(&inputs[2..], &mut storage);
        let (k, n) = if self.transpose { (stack.columns(), stack.rows) } else { (stack.rows, stack.columns()) };
        let chosen = Chosen::new(&inputs[1], &out.shape[..out.shape.len() - 2]);
        let sources = chosen.sources(x);
        if self.transpose && k > 0 {
            return self.products(x, &stack, &chosen, &sources, out);
        }
        with_scratch(&ACTIVATIONS, x.len(), |activations| {
            convert::read(self.isa, x, activations);
            with_scratch(&RESULTS, sources.len() * n, |results| {
                for (expert, places) in chosen.runs() {
                    let rows = &chosen.order()[places.clone()];
                    let Some(w) = stack.expert(expert) else {
                        // No such expert: not a number, rather than what lies behind the stack.
                        for &row in rows {
                            results[row * n..][..n].fill(f32::NAN);
                        }
                        continue;
                    };
                    with_scratch(&ROWS, rows.len() * k, |gathered| {
                        for (to, &source) in gathered.chunks_exact_mut(k).zip(&sources[places]) {
                            to.copy_from_slice(&activations[source * k..][..k]);
                        }
                        with_scratch(&PRODUCTS, rows.len() * n, |products| {
                            by_blocks(self.isa, gathered, rows.len(), &w, self.transpose, products);
                            for (from, &row) in products.chunks_exact(n).zip(rows) {
                                results[row * n..][..n].copy_from_slice(from);
                            }
                        });
                    });
                }
                convert::write(self.isa, results, out);
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        if at.argnums != [0] {
            return Err(Exception::custom("only the rows of a gathered product have a gradient"));
        }
        let (x, cotangent) = (&at.primals[0], &at.cotangents[0]);
        let back = Self { stored: self.stored, transpose: !self.transpose, isa: self.isa };
        let inputs: Vec<&Array> = [cotangent].into_iter().chain(&at.primals[1..]).collect();
        let batch = &cotangent.shape()[..cotangent.ndim() - 2];
        let shape = [batch, &[1, x.dim(-1)]].concat();
        let gradient = apply_one(back, &inputs, &shape, x.dtype())?;
        Ok(vec![sum_to(&gradient, x.shape())?])
    }
}

impl Gather {
    /// All experts' products in one job, of the rows of `x` that `sources` tells.
    fn products(&self, x: &View<'_>, stack: &Stack<'_>, chosen: &Chosen<'_>, sources: &[usize], out: &mut ViewMut<'_>) {
        let each = stack.rows;
        let mut copies = Copies::default();
        let (values, results) = (Values::new(x, &mut copies), Results::new(out));
        let mut segments = Vec::new();
        for (expert, rows) in chosen.runs() {
            if let Some(w) = stack.expert(expert) {
                segments.push(Segment { rows, w, out: results });
            } else {
                // No such expert: not a number, rather than what lies behind the stack.
                for &row in &chosen.order()[rows] {
                    // SAFETY: no task is running.
                    unsafe { results.write(self.isa, row * each, &mut vec![f32::NAN; each]) };
                }
            }
        }
        products(self.isa, &values, &|i| sources[i], segments, &|i| chosen.order()[i]);
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Dtype;
    use proptest::prelude::*;

    use super::*;
    use crate::fast::testing::{self, FLOATS, copied, layouts, same_bits, words};
    use crate::pages::Arena;
    use crate::quant::{self, Mode};
    use crate::{ops, random, transforms};

    fn normal(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap().as_dtype(dtype).unwrap()
    }

    fn floats(a: &Array) -> Vec<f32> {
        a.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().to_vec_exact::<f32>().unwrap()
    }

    /// Expert by expert, in f32: from wide scales, as MLX unpacks in their type.
    fn plain(x: &Array, w: &Packed, scheme: Scheme, indices: &Array) -> Result<Array, Exception> {
        let mut w = w.clone();
        if let Some(biases) = &mut w.biases {
            *biases = biases.as_dtype(Dtype::Float32)?;
            w.scales = w.scales.as_dtype(Dtype::Float32)?;
        }
        let dense = quant::dequantize(&w, scheme, Some(Dtype::Float32))?;
        let chosen = dense.take_axis(indices, 0)?;
        ops::matmul(x.as_dtype(Dtype::Float32)?, chosen.swap_axes(-1, -2)?)
    }

    fn check(x: &Array, w: &Packed, scheme: Scheme, indices: &Array) {
        let got = gather_quantized_matmul(x, w, scheme, indices).unwrap().unwrap();
        let want = plain(x, w, scheme, indices).unwrap();
        assert_eq!((got.shape(), got.dtype()), (want.shape(), x.dtype()));
        let (rounding, least) = if x.dtype() == Dtype::Float32 { (0.0, 1e-4) } else { (1.0 / 128.0, 1e-2) };
        for (got, want) in floats(&got).iter().zip(floats(&want)) {
            assert!((got - want).abs() <= least + rounding * want.abs(), "{scheme}: {got} is not {want}");
        }
    }

    fn experts(scheme: Scheme, dtype: Dtype) -> Packed {
        quant::quantize(&normal(&[5, 20, 128], 1, dtype), scheme).unwrap()
    }

    #[test]
    fn chosen_experts_agree_with_dense_ones() {
        for (mode, bits, group) in
            [(Mode::Affine, 4, 64), (Mode::Affine, 3, 32), (Mode::Mxfp4, 4, 32), (Mode::Nvfp4, 4, 16)]
        {
            let scheme = Scheme::new(mode, bits, group).unwrap();
            for dtype in [Dtype::Float32, Dtype::Bfloat16] {
                let w = experts(scheme, dtype);
                // Tokens [B, L, 1, 1, D] take two experts each, as models call it.
                let indices = Array::from_slice(&[4_u32, 0, 1, 1, 3, 2], &[1, 3, 2]);
                check(&normal(&[1, 3, 1, 1, 128], 2, dtype), &w, scheme, &indices);
                check(&normal(&[1, 3, 2, 1, 128], 3, dtype), &w, scheme, &indices);
                check(&normal(&[6, 1, 128], 4, dtype), &w, scheme, &indices.reshape(&[6]).unwrap());
                check(&normal(&[1, 128], 5, dtype), &w, scheme, &indices);
            }
        }
    }

    #[test]
    fn many_rows_of_an_expert_take_the_panels() {
        let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
        let indices: Vec<u32> = (0..160).map(|i| u32::from(i % 3 == 0)).collect();
        let w = experts(scheme, Dtype::Float32);
        check(&normal(&[160, 1, 128], 6, Dtype::Float32), &w, scheme, &Array::from_slice(&indices, &[160]));
    }

    #[test]
    fn an_expert_that_is_not_there_gives_no_number() {
        let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
        let x = normal(&[2, 1, 128], 6, Dtype::Float32);
        let indices = Array::from_slice(&[5_u32, 4], &[2]);
        let got = gather_quantized_matmul(&x, &experts(scheme, Dtype::Float32), scheme, &indices).unwrap().unwrap();
        let got = floats(&got);
        assert!(got[..20].iter().all(|v| v.is_nan()) && got[20..].iter().all(|v| v.is_finite()));
    }

    #[test]
    fn what_does_not_fit_is_left_to_mlx() {
        let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
        let w = experts(scheme, Dtype::Float32);
        let refused = |x: &Array, indices: &Array| gather_quantized_matmul(x, &w, scheme, indices).unwrap().is_none();
        let indices = Array::from_slice(&[1_u32, 4], &[2]);
        assert!(!refused(&normal(&[2, 1, 128], 6, Dtype::Float32), &indices));
        assert!(refused(&normal(&[3, 1, 128], 6, Dtype::Float32), &indices));
        assert!(refused(&normal(&[2, 2, 128], 6, Dtype::Float32), &indices));
        assert!(refused(&normal(&[2, 1, 64], 6, Dtype::Float32), &indices));
        assert!(refused(&normal(&[2, 1, 128], 6, Dtype::Float32), &indices.as_dtype(Dtype::Int32).unwrap()));
    }

    #[test]
    fn gradients_are_those_of_dense_experts() {
        let scheme = Scheme::new(Mode::Affine, 4, 64).unwrap();
        let w = experts(scheme, Dtype::Float32);
        let indices = Array::from_slice(&[4_u32, 0, 1, 1, 3, 2], &[1, 3, 2]);
        let x = normal(&[1, 3, 1, 1, 128], 2, Dtype::Float32);
        let missing = || Exception::custom("does not fit");
        let ours = |x: &Array| -> Result<Array, Exception> {
            gather_quantized_matmul(x, &w, scheme, &indices)?.ok_or_else(missing)?.square()?.sum(None)
        };
        let theirs = |x: &Array| -> Result<Array, Exception> { plain(x, &w, scheme, &indices)?.square()?.sum(None) };
        let (got, want) = (transforms::grad(ours)(&x).unwrap(), transforms::grad(theirs)(&x).unwrap());
        assert_eq!(got.shape(), want.shape());
        let near = |(a, b): (&f32, f32)| assert!((a - b).abs() < 1e-2, "{a} is not {b}");
        floats(&got).iter().zip(floats(&want)).for_each(near);
    }

    fn schemes() -> Vec<Scheme> {
        let affine = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64].map(|group| (Mode::Affine, bits, group)));
        let float = [(Mode::Mxfp4, 4, 32), (Mode::Mxfp8, 8, 32), (Mode::Nvfp4, 4, 16)];
        affine.chain(float).map(|(mode, bits, group)| Scheme::new(mode, bits, group).unwrap()).collect()
    }

    /// Our operation at a level, from rows and from panels.
    fn ours(isa: Isa, x: &Array, w: &Packed, scheme: Scheme, indices: &Array) -> [Array; 2] {
        let shape = chosen::shape(x, indices, w.weight.dim(1)).unwrap();
        let panels = Panels::arrange(w, scheme, &mut Arena::default()).unwrap().unwrap();
        let rows: Vec<&Array> = [x, indices, &w.weight, &w.scales].into_iter().chain(&w.biases).collect();
        let stored = [(Stored::Rows(scheme), rows), (Stored::Panels(panels.layout), vec![x, indices, &panels.lines])];
        stored.map(|(stored, inputs)| {
            apply_one(Gather { stored, transpose: true, isa }, &inputs, &shape, x.dtype()).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn a_row_has_the_same_bits_alone_and_in_company(
            scheme in prop::sample::select(schemes()), indices in prop::collection::vec(0_u32..5, 1..=65),
            (n, groups) in (1_i32..40, 1_i32..5), row in any::<prop::sample::Index>(), dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let (rows, k) = (indices.len(), groups * scheme.group_size.max(32));
            let w = quant::quantize(&normal(&[5, n, k], 1, dtype), scheme).unwrap();
            let (x, indices) = (normal(&[rows as i32, 1, k], 2, dtype), Array::from_slice(&indices, &[rows as i32]));
            let row = Array::from_slice(&[row.index(rows) as i32], &[1]);
            let only = |of: &Array| of.take_axis(&row, 0).unwrap();
            for isa in Isa::available() {
                let together = ours(isa, &x, &w, scheme, &indices);
                let alone = ours(isa, &only(&x), &w, scheme, &only(&indices));
                prop_assert!(same_bits(&together[0], &together[1]), "{} {} {:?}, in panels", isa, scheme, dtype);
                for (alone, together) in alone.iter().zip(&together) {
                    prop_assert!(same_bits(alone, &only(together)), "{} {} {:?} row {} of {}", isa, scheme, dtype, row, rows);
                }
            }
        }

        #[test]
        fn any_layout_gives_the_bits_of_a_contiguous_one(
            of_x in layouts(3), of_parts in [layouts(3), layouts(3), layouts(3)], of_indices in layouts(1),
            [rows, n, groups] in [1_i32..20, 1_i32..20, 1_i32..4], bits in prop::sample::select(vec![2, 3, 4, 5, 6, 8]),
            dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let scheme = Scheme::new(Mode::Affine, bits, 32).unwrap();
            let numbers = |i: usize| of_parts[i].normal(&[5, n, groups], i as u64, dtype);
            let weight = of_parts[0].of(&[5, n, scheme.packed_words(32 * groups)], words);
            let w = Packed { weight, scales: numbers(1), biases: Some(numbers(2)) };
            let straight =
                Packed { weight: copied(&w.weight), scales: copied(&w.scales), biases: w.biases.as_ref().map(copied) };
            let x = of_x.normal(&[rows, 1, 32 * groups], 3, dtype);
            let indices = of_indices.of(&[rows], |room| words(room).remainder(Array::from_slice(&[5_u32], &[])).unwrap());
            let got = gather_quantized_matmul(&x, &w, scheme, &indices).unwrap().unwrap();
            let want = gather_quantized_matmul(&copied(&x), &straight, scheme, &copied(&indices)).unwrap().unwrap();
            prop_assert!(same_bits(&got, &want), "{}", scheme);
        }

        #[test]
        fn random_shapes_agree_with_dense_experts(
            scheme in prop::sample::select(schemes()), (b, l, chosen) in (1_i32..3, 1_i32..40, 1_i32..5),
            (experts, n, groups) in (1_u32..7, 1_i32..40, 1_i32..5), shared in 0..3_usize, seed: u32,
            dtype in prop::sample::select(&FLOATS[..]),
        ) {
            let k = groups * scheme.group_size.max(32);
            let w = quant::quantize(&normal(&[experts as i32, n, k], 1, dtype), scheme).unwrap();
            let choose = |i: i32| (seed ^ i as u32).wrapping_mul(0x9E37_79B9) % experts;
            let indices: Vec<u32> = (0..b * l * chosen).map(choose).collect();
            let indices = Array::from_slice(&indices, &[b, l, chosen]);
            let x = normal([&[b, l, chosen, 1, k][..], &[b, l, 1, 1, k], &[1, k]][shared], 2, dtype);
            let want = plain(&x, &w, scheme, &indices).unwrap();
            // Activations are in fixed point, of 15 bits or 24; the tiles that many rows of an expert take round weights to bf16.
            let (rounding, step) = if dtype == Dtype::Float32 { (0.0, 4e-6) } else { (1.0 / 128.0, 1e-3) };
            let least = 8.0 * step * (k as f32).sqrt();
            for isa in Isa::available() {
                for got in ours(isa, &x, &w, scheme, &indices) {
                    prop_assert_eq!((got.shape(), got.dtype()), (want.shape(), dtype));
                    for (got, want) in floats(&got).iter().zip(floats(&want)) {
                        let near = (got - want).abs() <= least + rounding * want.abs();
                        prop_assert!(near, "{} {} {:?}: {} is not {}", isa, scheme, dtype, got, want);
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_from_rows_and_panels_are_what_steps_make() {
        let indices = Array::from_slice(&[4_u32, 0, 1, 1, 3, 2], &[1, 3, 2]);
        for scheme in schemes() {
            let w = experts(scheme, Dtype::Float32);
            let panels = Panels::arrange(&w, scheme, &mut Arena::default()).unwrap().unwrap();
            for shape in [&[1, 3, 1, 1, 128][..], &[1, 3, 2, 1, 128], &[1, 128]] {
                let x = [normal(shape, 2, Dtype::Float32)];
                let dense = |x: &[Array]| plain(&x[0], &w, scheme, &indices);
                testing::check(&x, |x| quant::gather_quantized_matmul(&x[0], &w, scheme, &indices, false), dense);
                testing::check(&x, |x| panels.gather_matmul(&x[0], &indices, false), dense);
            }
        }
    }

    #[test]
    fn no_rows_give_none() {
        for scheme in schemes() {
            let w = experts(scheme, Dtype::Float32);
            for (x, chosen) in [(&[0, 1, 128][..], &[0][..]), (&[2, 0, 1, 1, 128], &[2, 0, 3]), (&[1, 128], &[0])] {
                let x = ops::zeros::<f32>(x).unwrap();
                let indices = ops::zeros_dtype(chosen, Dtype::Uint32).unwrap();
                let want = plain(&x, &w, scheme, &indices).unwrap();
                for isa in Isa::available() {
                    for got in ours(isa, &x, &w, scheme, &indices) {
                        assert!(same_bits(&got, &want), "{isa} {scheme} {chosen:?}");
                    }
                }
            }
        }
    }
}
