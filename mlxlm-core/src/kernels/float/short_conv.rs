//! Short convolutions of each channel over tokens, with an activation behind, and their gradient.
//!
//! A task takes some channels of some tokens: what went in becomes rows of f32 once, in cache, and each result is a sum over few
//! neighbouring rows, always in the same order.

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::activation::{self, ONES, PIECE};
use super::{isa, multiversion};
use crate::fast::Activation;
use crate::kernels::convert::{self, Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::mixed::is_float;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, on_cpu};
use crate::kernels::scratch::{Scratch, with_scratch};

/// Channels of a task.
const CHANNELS: usize = PIECE;
/// Channels of a task of the gradient, which has all tokens.
const FEW: usize = 128;
/// Tokens of a task.
const TOKENS: usize = 64;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// Arguments are those of [`crate::fast::short_conv`], whose shapes were checked there; the weight is `[C, width]`.
#[track_caller]
pub(crate) fn short_conv(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    state: Option<&Array>,
    activation: Activation,
) -> Result<Option<(Array, Array)>, Exception> {
    let inputs: Vec<&Array> = [x, weight].into_iter().chain(bias).chain(state).collect();
    let floats = inputs.iter().all(|x| is_float(x.dtype()) && x.size() > 0);
    if !floats || activation.is_pair() || weight.dim(1) < 2 || !on_cpu() {
        return Ok(None);
    }
    let conv = ShortConv { activation, biased: bias.is_some(), has_state: state.is_some(), isa: isa() };
    let kept = [x.dim(0), weight.dim(1) - 1, x.dim(2)];
    let results = apply(conv, &inputs, &[(x.shape(), x.dtype()), (&kept, x.dtype())])?;
    Ok(<[Array; 2]>::try_from(results).ok().map(|[y, state]| (y, state)))
}

/// The operation: `x`, the weight, then the bias and the state, if there are any.
#[derive(Debug, Clone, Copy)]
struct ShortConv {
    activation: Activation,
    biased: bool,
    has_state: bool,
    isa: Isa,
}

/// The inputs as the loops want them.
struct Job<'a> {
    conv: ShortConv,
    batch: usize,
    tokens: usize,
    channels: usize,
    width: usize,
    x: Values<'a>,
    /// `[width, C]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    state: Option<Values<'a>>,
}

impl<'a> Job<'a> {
    fn new(conv: ShortConv, inputs: &[View<'a>], [of_x, of_state]: &'a mut [Copies; 2]) -> Self {
        let &[batch, tokens, channels] = inputs[0].shape else { unreachable!("tokens have three axes") };
        let (channels, width) = (channels as usize, inputs[1].shape[1] as usize);
        let read = |view: &View<'_>| {
            let mut values = vec![0.0; view.len()];
            convert::read(conv.isa, view, &mut values);
            values
        };
        let by_channel = read(&inputs[1]);
        let weight = (0..width * channels).map(|at| by_channel[at % channels * width + at / channels]).collect();
        let bias = if conv.biased { read(&inputs[2]) } else { vec![0.0; channels] };
        let state = conv.has_state.then(|| inputs.get(2 + usize::from(conv.biased))).flatten();
        Self {
            conv,
            batch: batch as usize,
            tokens: tokens as usize,
            channels,
            width,
            x: Values::new(&inputs[0], of_x),
            weight,
            bias,
            state: state.map(|state| Values::new(state, of_state)),
        }
    }

    /// Reads some channels of a row of what goes in, counted from the first of the state.
    fn read(&self, batch: usize, row: usize, channels: &Range<usize>, to: &mut [f32]) {
        let before = self.width - 1;
        let (values, at) = match (row.checked_sub(before), &self.state) {
            (Some(token), _) => (&self.x, batch * self.tokens + token),
            (None, Some(state)) => (state, batch * before + row),
            (None, None) => return to.fill(0.0),
        };
        values.read(self.conv.isa, at * self.channels + channels.start, to);
    }

    /// Reads rows that some tokens are made of, one after the other.
    fn read_rows(&self, batch: usize, tokens: &Range<usize>, channels: &Range<usize>, to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(channels.len()).enumerate().take(tokens.len() + self.width - 1) {
            self.read(batch, tokens.start + i, channels, to);
        }
    }

    /// Some channels of a token, before the activation, of its rows.
    fn sum(&self, rows: &[f32], channels: &Range<usize>, to: &mut [f32]) {
        let weight = &self.weight[channels.start..];
        convolve(self.conv.isa, rows, weight, self.channels, &self.bias[channels.clone()], to);
    }

    fn run(&self, y: &Results) {
        let (parts, pieces) = (self.channels.div_ceil(CHANNELS), self.tokens.div_ceil(TOKENS));
        let isa = self.conv.isa;
        pool::parallel(self.batch * parts * pieces, |task| {
            let (batch, part, piece) = (task / parts / pieces, task / pieces % parts, task % pieces);
            let channels = part * CHANNELS..self.channels.min((part + 1) * CHANNELS);
            let tokens = piece * TOKENS..self.tokens.min((piece + 1) * TOKENS);
            let (count, len) = (channels.len(), (tokens.len() + self.width - 1) * channels.len());
            with_scratch(&BUFFER, len + 2 * count, |buffer| {
                let (rows, rest) = buffer.split_at_mut(len);
                let (sums, out) = rest.split_at_mut(count);
                self.read_rows(batch, &tokens, &channels, rows);
                for token in tokens.clone() {
                    let from = (token - tokens.start) * count;
                    self.sum(&rows[from..from + self.width * count], &channels, sums);
                    activation::forward(isa, self.conv.activation, sums, &ONES[..count], out);
                    let at = (batch * self.tokens + token) * self.channels + channels.start;
                    // SAFETY: these channels of these tokens are of one task.
                    unsafe { y.write(isa, at, out) };
                }
            });
        });
    }

    /// Writes the last rows, which the next call begins with.
    fn keep(&self, state: &Results) {
        let (before, all) = (self.width - 1, 0..self.channels);
        let mut row = vec![0.0; self.channels];
        for (batch, i) in (0..self.batch).flat_map(|batch| (0..before).map(move |i| (batch, i))) {
            self.read(batch, self.tokens + i, &all, &mut row);
            // SAFETY: nobody else writes.
            unsafe { state.write(self.conv.isa, (batch * before + i) * self.channels, &mut row) };
        }
    }
}

multiversion! {
    /// `bias + Σ weight[i] · rows[i]`, with weights `pitch` apart.
    fn convolve(rows: &[f32], weight: &[f32], pitch: usize, bias: &[f32], out: &mut [f32]) {
        out.copy_from_slice(bias);
        for (i, row) in rows.chunks_exact(out.len()).enumerate() {
            let weight = &weight[i * pitch..][..out.len()];
            for c in 0..out.len() {
                out[c] += weight[c] * row[c];
            }
        }
    }
}

impl Operation for ShortConv {
    fn name(&self) -> &'static CStr {
        c"ShortConv"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut copies = [Copies::default(), Copies::default()];
        let job = Job::new(*self, inputs, &mut copies);
        let [y, state] = outputs else { unreachable!("there are two outputs") };
        job.run(&Results::new(y));
        job.keep(&Results::new(state));
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let inputs: Vec<&Array> = at.primals.iter().chain(&at.cotangents).collect();
        let shapes: Vec<(&[i32], Dtype)> = at.primals.iter().map(|array| (array.shape(), array.dtype())).collect();
        let gradients = apply(ShortConvGradient(*self), &inputs, &shapes)?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

/// The operation, with the gradients of both results behind the inputs.
#[derive(Debug)]
struct ShortConvGradient(ShortConv);

impl Operation for ShortConvGradient {
    fn name(&self) -> &'static CStr {
        c"ShortConvGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (inputs, cotangents) = inputs.split_at(inputs.len() - 2);
        let (mut copies, mut more) = ([Copies::default(), Copies::default()], [Copies::default(), Copies::default()]);
        let job = Job::new(self.0, inputs, &mut copies);
        let [a, b] = &mut more;
        let back = Back {
            of_y: Values::new(&cotangents[0], a),
            of_state: Values::new(&cotangents[1], b),
            outputs: &outputs.iter_mut().map(Results::new).collect::<Vec<_>>(),
            job: &job,
        };
        let parts = job.channels.div_ceil(FEW);
        pool::parallel(parts, |part| back.run(&(part * FEW..job.channels.min((part + 1) * FEW))));
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a short convolution has no gradient of its own"))
    }
}

struct Back<'a> {
    job: &'a Job<'a>,
    of_y: Values<'a>,
    of_state: Values<'a>,
    /// Those of `x`, the weight, the bias and the state.
    outputs: &'a [Results],
}

impl Back<'_> {
    /// The gradients of some channels.
    fn run(&self, channels: &Range<usize>) {
        let job = self.job;
        let (count, width, isa) = (channels.len(), job.width, job.conv.isa);
        let all = (job.tokens + width - 1) * count;
        with_scratch(&BUFFER, 2 * all + (width + 5) * count, |buffer| {
            let (rows, rest) = buffer.split_at_mut(all);
            let (of_rows, rest) = rest.split_at_mut(all);
            let (of_weight, rest) = rest.split_at_mut(width * count);
            let (of_bias, rest) = rest.split_at_mut(count);
            let (sums, rest) = rest.split_at_mut(count);
            let (dy, rest) = rest.split_at_mut(count);
            let (slope, unused) = rest.split_at_mut(count);
            of_weight.fill(0.0);
            of_bias.fill(0.0);
            for batch in 0..job.batch {
                job.read_rows(batch, &(0..job.tokens), channels, rows);
                self.read_kept(batch, channels, of_rows);
                for token in 0..job.tokens {
                    let part = token * count..(token + width) * count;
                    job.sum(&rows[part.clone()], channels, sums);
                    self.of_y.read(isa, (batch * job.tokens + token) * job.channels + channels.start, dy);
                    activation::backward(isa, job.conv.activation, sums, &ONES[..count], dy, slope, unused);
                    let weight = &job.weight[channels.start..];
                    deconvolve(isa, slope, weight, job.channels, &rows[part.clone()], &mut of_rows[part], of_weight);
                    of_bias.iter_mut().zip(&*slope).for_each(|(sum, slope)| *sum += slope);
                }
                self.write_rows(batch, channels, of_rows);
            }
            self.write_parameters(channels, of_weight, of_bias);
        });
    }

    /// The gradients of what is kept, which are the first of the last rows.
    fn read_kept(&self, batch: usize, channels: &Range<usize>, of_rows: &mut [f32]) {
        let (job, before) = (self.job, self.job.width - 1);
        let (first, last) = of_rows.split_at_mut(job.tokens * channels.len());
        first.fill(0.0);
        for (i, row) in last.chunks_exact_mut(channels.len()).enumerate() {
            self.of_state.read(job.conv.isa, (batch * before + i) * job.channels + channels.start, row);
        }
    }

    fn write_rows(&self, batch: usize, channels: &Range<usize>, of_rows: &mut [f32]) {
        let (job, before) = (self.job, self.job.width - 1);
        for (i, row) in of_rows.chunks_exact_mut(channels.len()).enumerate() {
            let (out, at) = match i.checked_sub(before) {
                Some(token) => (&self.outputs[0], batch * job.tokens + token),
                None if job.conv.has_state => (&self.outputs[self.outputs.len() - 1], batch * before + i),
                None => continue,
            };
            // SAFETY: a task has its channels.
            unsafe { out.write(job.conv.isa, at * job.channels + channels.start, row) };
        }
    }

    fn write_parameters(&self, channels: &Range<usize>, of_weight: &[f32], of_bias: &mut [f32]) {
        let (job, count) = (self.job, channels.len());
        let mut row = vec![0.0; job.width];
        for channel in 0..count {
            row.iter_mut().zip(of_weight[channel..].iter().step_by(count)).for_each(|(to, from)| *to = *from);
            // SAFETY: a task has its channels.
            unsafe { self.outputs[1].write(job.conv.isa, (channels.start + channel) * job.width, &mut row) };
        }
        if job.conv.biased {
            // SAFETY: as above.
            unsafe { self.outputs[2].write(job.conv.isa, channels.start, of_bias) };
        }
    }
}

multiversion! {
    /// Adds the gradients that a token's `slope` makes to those of its rows and of the weights.
    fn deconvolve(
        slope: &[f32], weight: &[f32], pitch: usize, rows: &[f32], of_rows: &mut [f32], of_weight: &mut [f32],
    ) {
        let count = slope.len();
        let gradients = of_rows.chunks_exact_mut(count).zip(of_weight.chunks_exact_mut(count));
        for (i, (row, (of_row, of_weight))) in rows.chunks_exact(count).zip(gradients).enumerate() {
            let weight = &weight[i * pitch..][..count];
            for c in 0..count {
                of_row[c] += weight[c] * slope[c];
                of_weight[c] += row[c] * slope[c];
            }
        }
    }
}
