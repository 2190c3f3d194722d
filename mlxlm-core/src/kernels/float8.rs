//! 8-bit floats (e4m3) with a scale for each block, as bf16: what fp8 checkpoints are loaded through, in one pass on all threads.
//!
//! Its plain version is `weights/foreign/fp8.rs`.

use std::ffi::CStr;

use half::bf16;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::gemm::Shared;
use super::pool;
use super::primitive::{Gradient, Operation, View, ViewMut, apply_one, on_cpu};

/// Elements that are worth a task of their own.
const TASK: usize = 1 << 16;

/// `bytes * scale` in bf16, rounded once.
///
/// # Shapes
/// - `bytes`: `u8 [.., rows, columns]`, `scale`: `f32 [.., rows / block.0, columns / block.1]`, both rounded up
#[track_caller]
pub(crate) fn widen_float8(bytes: &Array, scale: &Array, block: (i32, i32)) -> Result<Option<Array>, Exception> {
    if !on_cpu() {
        return Ok(None);
    }
    let widen = Widen { block: (block.0 as usize, block.1 as usize) };
    apply_one(widen, &[bytes, scale], bytes.shape(), Dtype::Bfloat16).map(Some)
}

#[derive(Debug)]
struct Widen {
    /// Rows and columns that have one scale.
    block: (usize, usize),
}

impl Operation for Widen {
    fn name(&self) -> &'static CStr {
        c"WidenFloat8"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut byte_buffer, mut scale_buffer) = (Vec::new(), Vec::new());
        let bytes = inputs[0].contiguous::<u8>(&mut byte_buffer);
        let scales = inputs[1].contiguous::<f32>(&mut scale_buffer);
        let last = |view: &View<'_>, back: usize| view.shape[view.shape.len() - back] as usize;
        let (rows, columns) = (last(&inputs[0], 2), last(&inputs[0], 1));
        let (down, across) = (last(&inputs[1], 2), last(&inputs[1], 1));
        let out = Shared(outputs[0].as_mut_slice::<bf16>().as_mut_ptr());
        let all_rows = bytes.len().checked_div(columns).unwrap_or(0);
        pool::parallel_ranges(all_rows, 1, bytes.len() / TASK, |from, end| {
            for row in from..end {
                let at = row / rows * down + row % rows / self.block.0;
                let from = &bytes[row * columns..][..columns];
                // SAFETY: tasks get different rows of the output, which is as large as the bytes.
                let to = unsafe { std::slice::from_raw_parts_mut(out.get().add(row * columns), columns) };
                let blocks = from.chunks(self.block.1).zip(to.chunks_mut(self.block.1));
                blocks.zip(&scales[at * across..]).for_each(|((from, to), scale)| widen(from, to, *scale));
            }
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("8-bit floats of a checkpoint have no gradient"))
    }
}

/// One block of a row.
fn widen(bytes: &[u8], out: &mut [bf16], scale: f32) {
    // A float of eight bits, moved to the same fields of one of 32, lacks the difference of the exponents' biases.
    let bias = f32::from_bits((127 + 120) << 23);
    for (byte, out) in bytes.iter().zip(out) {
        let byte = u32::from(*byte);
        let value = f32::from_bits((byte & 0x80) << 24 | (byte & 0x7F) << 20) * bias;
        *out = bf16::from_f32(value * scale);
    }
}
