//! The gradient of Mamba's scan. A task has some channels in all rows of the batch; of a vector of them all states are computed again
//! and kept, then tokens are taken backwards. What all channels share, the gradients of `B` and `C`, is added up in a fixed order.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{Job, Lanes, Selective, step};
use crate::kernels::convert::{self, Copies, Results, Values};
use crate::kernels::float::{LANES, math, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut};
use crate::kernels::recurrent::numbers;
use crate::kernels::scratch::{Scratch, with_scratch};

/// Channels whose gradients for `B` and `C` are added up by one task: a constant, so that the sum is one too.
const SHARE: usize = 16 * LANES;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// The operation, with the gradients of the results and of the last state behind the inputs.
#[derive(Debug)]
pub(super) struct SelectiveGradient(pub(super) Selective);

impl Operation for SelectiveGradient {
    fn name(&self) -> &'static CStr {
        c"SelectiveScanGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (inputs, cotangents) = inputs.split_at(inputs.len() - 2);
        let (mut copies, mut copy) = ([Copies::default(), Copies::default()], Copies::default());
        let job = Job::new(self.0, inputs, &mut copies);
        let back = Back {
            of_y: Values::new(&cotangents[0], &mut copy),
            of_last: numbers(job.isa, &cotangents[1]),
            outputs: &outputs.iter_mut().map(Results::new).collect::<Vec<_>>(),
            job: &job,
        };
        let (parts, of_part) = (job.channels.div_ceil(SHARE), job.b.len());
        // The gradients of B and C of each part.
        let mut sums = vec![0.0; parts * 2 * of_part];
        let shared = Shared(sums.as_mut_ptr());
        pool::parallel(parts, |part| {
            // SAFETY: each task has its part.
            let sums = unsafe { std::slice::from_raw_parts_mut(shared.get().add(part * 2 * of_part), 2 * of_part) };
            let (of_b, of_c) = sums.split_at_mut(of_part);
            let from = part * SHARE;
            for first in (from..job.channels.min(from + SHARE)).step_by(LANES) {
                back.run(first, of_b, of_c);
            }
        });
        let (total, others) = sums.split_at_mut(2 * of_part);
        for part in others.chunks_exact(2 * of_part) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        let (of_b, of_c) = total.split_at(of_part);
        convert::write(job.isa, of_b, &mut outputs[3]);
        convert::write(job.isa, of_c, &mut outputs[4]);
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a scan has no gradient of its own"))
    }
}

struct Back<'a> {
    job: &'a Job<'a>,
    of_y: Values<'a>,
    of_last: Vec<f32>,
    /// Those of `x`, `dt`, `A`, `B`, `C`, `D` and the state.
    outputs: &'a [Results],
}

impl Back<'_> {
    /// Takes a vector of channels backwards, in all rows of the batch.
    fn run(&self, first: usize, of_b: &mut [f32], of_c: &mut [f32]) {
        let job = self.job;
        let (size, count, tokens) = (job.size, job.count(first), job.tokens);
        with_scratch(&BUFFER, (tokens + 4) * size * LANES + size, |buffer| {
            let (lanes, row) = buffer.split_at_mut((tokens + 4) * size * LANES);
            let (a, lanes) = lanes.as_chunks_mut::<LANES>().0.split_at_mut(size);
            let (of_a, lanes) = lanes.split_at_mut(size);
            let (slope, states) = lanes.split_at_mut(size);
            job.turned(&job.a, first, a);
            of_a.fill([0.0; LANES]);
            let (skip, mut of_skip) = (job.skip(first), [0.0; LANES]);
            for batch in 0..job.batch {
                self.forth(batch, first, a, states);
                job.turned(&self.of_last[batch * job.channels * size..], first, slope);
                for token in (0..tokens).rev() {
                    let at = [batch, token];
                    let (mut of_x, mut of_dt) = ([0.0; LANES], [0.0; LANES]);
                    let shared = (batch * tokens + token) * size;
                    if job.shows(at) {
                        let dy = job.token(&self.of_y, at, first);
                        let (x, dt) = (job.token(&job.x, at, first), job.token(&job.dt, at, first));
                        let (b, c) = (job.shared(&job.b, at), job.shared(&job.c, at));
                        let both = &states[token * size..][..2 * size];
                        let (of_b, of_c) = (&mut of_b[shared..][..size], &mut of_c[shared..][..size]);
                        [of_x, of_dt] = step_back(job.isa, [x, dt, dy], a, b, c, both, slope, of_a, of_b, of_c);
                        for l in 0..LANES {
                            of_x[l] += dy[l] * skip[l];
                            of_skip[l] += dy[l] * x[l];
                        }
                    }
                    let at = (batch * tokens + token) * job.channels + first;
                    // SAFETY: a task has its channels.
                    unsafe {
                        self.outputs[0].write(job.isa, at, &mut of_x[..count]);
                        self.outputs[1].write(job.isa, at, &mut of_dt[..count]);
                    }
                }
                if let (Some(out), Some(_)) = (self.outputs.last(), &job.state) {
                    self.write(out, batch * job.channels + first, count, slope, row);
                }
            }
            self.write(&self.outputs[2], first, count, of_a, row);
            if job.d.is_some() {
                // SAFETY: as above.
                unsafe { self.outputs[5].write(job.isa, first, &mut of_skip[..count]) };
            }
        });
    }

    /// The states before the first token and behind each.
    fn forth(&self, batch: usize, first: usize, a: &[Lanes], states: &mut [Lanes]) {
        let (job, size) = (self.job, self.job.size);
        job.start(batch, first, &mut states[..size]);
        for token in 0..job.tokens {
            let at = [batch, token];
            let (before, after) = states[token * size..][..2 * size].split_at_mut(size);
            after.copy_from_slice(before);
            if job.shows(at) {
                let (x, dt) = (job.token(&job.x, at, first), job.token(&job.dt, at, first));
                step(job.isa, [x, dt, [0.0; LANES]], a, job.shared(&job.b, at), job.shared(&job.c, at), after);
            }
        }
    }

    /// Writes `[size][lanes]` as some rows of `[channels, size]`.
    fn write(&self, out: &Results, first: usize, count: usize, lanes: &[Lanes], row: &mut [f32]) {
        for lane in 0..count {
            row.iter_mut().zip(lanes).for_each(|(to, lanes)| *to = lanes[lane]);
            // SAFETY: a task has its channels.
            unsafe { out.write(self.job.isa, (first + lane) * self.job.size, row) };
        }
    }
}

multiversion! {
    /// Takes the gradients of the states of a vector of channels from behind a token to before it; adds to those of `A`, `B` and
    /// `C`, and gives those of `x` and `dt`. `states` are those before the token, then those behind it.
    fn step_back(
        of_channels: [Lanes; 3], a: &[Lanes], b: &[f32], c: &[f32], states: &[Lanes],
        slope: &mut [Lanes], of_a: &mut [Lanes], of_b: &mut [f32], of_c: &mut [f32],
    ) -> [Lanes; 2] {
        let [x, dt, dy] = of_channels;
        let size = a.len();
        let (before, after) = states.split_at(size);
        let (mut of_taken, mut of_dt) = ([0.0; LANES], [0.0; LANES]);
        for n in 0..size {
            let (mut for_b, mut for_c) = ([0.0; LANES], [0.0; LANES]);
            let (before, after, a, b, c) = (before[n], after[n], a[n], b[n], c[n]);
            let (mut s, mut sum) = (slope[n], of_a[n]);
            for l in 0..LANES {
                s[l] += dy[l] * c;
                for_c[l] = dy[l] * after[l];
                for_b[l] = s[l] * dt[l] * x[l];
                of_taken[l] += s[l] * b;
            }
            for l in 0..LANES {
                let decay = math::exp(dt[l] * a[l]);
                let of_power = s[l] * before[l] * decay;
                of_dt[l] += of_power * a[l];
                sum[l] += of_power * dt[l];
                s[l] *= decay;
            }
            (slope[n], of_a[n]) = (s, sum);
            of_b[n] += math::fold_lanes(for_b);
            of_c[n] += math::fold_lanes(for_c);
        }
        let mut of_x = [0.0; LANES];
        for l in 0..LANES {
            of_x[l] = of_taken[l] * dt[l];
            of_dt[l] += of_taken[l] * x[l];
        }
        [of_x, of_dt]
    }
}
