//! Mamba's scan, with a decay for each value of the state. Lanes are channels, which do not know of each other.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Mask, Outcome, no_gradient, numbers};
use crate::fast::Scan;
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::float::{LANES, math, multiversion};
use crate::kernels::isa::Isa;
use crate::kernels::mixed::is_float;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, on_cpu};
use crate::kernels::scratch::{Scratch, with_scratch};

/// Channels of one task of the way forward.
const CHANNELS: usize = 4 * LANES;

/// Numbers of the channels of a vector.
type Lanes = [f32; LANES];

mod gradient;

use gradient::SelectiveGradient;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// Arguments are those of [`crate::fast::selective_scan`], whose shapes were checked there.
#[track_caller]
pub(crate) fn selective_scan(scan: &Scan<'_>) -> Outcome {
    let &Scan { x, dt, a, b, c, d, state, mask } = scan;
    let isa = Isa::active().unwrap_or(Isa::Portable);
    let how = Selective { skips: d.is_some(), has_state: state.is_some(), has_mask: mask.is_some(), isa };
    let floats: Vec<&Array> = [x, dt, a, b, c].into_iter().chain(d).chain(state).collect();
    if !floats.iter().all(|x| is_float(x.dtype()) && x.size() > 0) || !on_cpu() {
        return Ok(None);
    }
    let inputs: Vec<&Array> = floats.into_iter().chain(mask).collect();
    let of_state = [x.dim(0), x.dim(2), a.dim(1)];
    let results = apply(how, &inputs, &[(x.shape(), x.dtype()), (&of_state, Dtype::Float32)])?;
    Ok(<[Array; 2]>::try_from(results).ok().map(|[y, state]| (y, state)))
}

/// The operation: `x`, `dt`, `A`, `B`, `C`, then `D`, the state and the mask, if there are any.
#[derive(Debug, Clone, Copy)]
struct Selective {
    skips: bool,
    has_state: bool,
    has_mask: bool,
    isa: Isa,
}

/// The inputs as the loops want them.
struct Job<'a> {
    isa: Isa,
    batch: usize,
    tokens: usize,
    channels: usize,
    /// Numbers of a channel's state.
    size: usize,
    x: Values<'a>,
    dt: Values<'a>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    d: Option<Vec<f32>>,
    state: Option<Vec<f32>>,
    mask: Option<Mask>,
}

impl<'a> Job<'a> {
    fn new(how: Selective, inputs: &[View<'a>], [of_x, of_dt]: &'a mut [Copies; 2]) -> Self {
        let &[batch, tokens, channels] = inputs[0].shape else { unreachable!("x has three axes") };
        let (mut more, isa) = (inputs[5..].iter(), how.isa);
        let mut next = |there: bool| if there { more.next() } else { None };
        let (d, state, mask) = (next(how.skips), next(how.has_state), next(how.has_mask));
        Self {
            isa,
            batch: batch as usize,
            tokens: tokens as usize,
            channels: channels as usize,
            size: inputs[2].shape[1] as usize,
            x: Values::new(&inputs[0], of_x),
            dt: Values::new(&inputs[1], of_dt),
            a: numbers(isa, &inputs[2]),
            b: numbers(isa, &inputs[3]),
            c: numbers(isa, &inputs[4]),
            d: d.map(|d| numbers(isa, d)),
            state: state.map(|state| numbers(isa, state)),
            mask: mask.map(Mask::new),
        }
    }

    /// Channels from `first` on that are in one vector.
    fn count(&self, first: usize) -> usize {
        LANES.min(self.channels - first)
    }

    /// Some channels of `[channels, size]` as `[size][lanes]`, zero where there are none.
    fn turned(&self, from: &[f32], first: usize, to: &mut [Lanes]) {
        for (n, to) in to.iter_mut().enumerate() {
            *to =
                std::array::from_fn(
                    |lane| if lane < self.count(first) { from[(first + lane) * self.size + n] } else { 0.0 },
                );
        }
    }

    /// The state before the first token.
    fn start(&self, batch: usize, first: usize, to: &mut [Lanes]) {
        match &self.state {
            Some(state) => self.turned(&state[batch * self.channels * self.size..], first, to),
            None => to.fill([0.0; LANES]),
        }
    }

    /// Numbers of a token, of channels from `first` on, zero where there are none.
    fn token(&self, of: &Values<'_>, [batch, token]: [usize; 2], first: usize) -> Lanes {
        let mut lanes = [0.0; LANES];
        let at = (batch * self.tokens + token) * self.channels + first;
        of.read(self.isa, at, &mut lanes[..self.count(first)]);
        lanes
    }

    /// `B` or `C` of a token.
    fn shared<'b>(&self, of: &'b [f32], [batch, token]: [usize; 2]) -> &'b [f32] {
        &of[(batch * self.tokens + token) * self.size..][..self.size]
    }

    fn skip(&self, first: usize) -> Lanes {
        let d = self.d.as_ref();
        std::array::from_fn(|lane| d.and_then(|d| d[first..].get(lane)).copied().unwrap_or(0.0))
    }

    fn shows(&self, [batch, token]: [usize; 2]) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.shows(batch, token))
    }

    /// One vector of channels through all tokens.
    fn run(&self, batch: usize, first: usize, y: &Results, last: &Results) {
        let (size, count) = (self.size, self.count(first));
        with_scratch(&BUFFER, 2 * size * LANES + size, |buffer| {
            let (lanes, row) = buffer.split_at_mut(2 * size * LANES);
            let (a, state) = lanes.as_chunks_mut().0.split_at_mut(size);
            self.turned(&self.a, first, a);
            self.start(batch, first, state);
            let skip = self.skip(first);
            for token in 0..self.tokens {
                let at = [batch, token];
                let mut result = [0.0; LANES];
                if self.shows(at) {
                    let (x, dt) = (self.token(&self.x, at, first), self.token(&self.dt, at, first));
                    let (b, c) = (self.shared(&self.b, at), self.shared(&self.c, at));
                    result = step(self.isa, [x, dt, skip], a, b, c, state);
                }
                // SAFETY: these channels are of one task.
                unsafe {
                    let at = (batch * self.tokens + token) * self.channels + first;
                    y.write(self.isa, at, &mut result[..count]);
                }
            }
            for lane in 0..count {
                row.iter_mut().zip(&*state).for_each(|(to, state)| *to = state[lane]);
                // SAFETY: as above.
                unsafe { last.write(self.isa, (batch * self.channels + first + lane) * size, row) };
            }
        });
    }
}

multiversion! {
    /// Changes the states of a vector of channels by a token, and gives their results.
    fn step(of_channels: [Lanes; 3], a: &[Lanes], b: &[f32], c: &[f32], state: &mut [Lanes]) -> Lanes {
        let [x, dt, skip] = of_channels;
        let (mut y, mut taken) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            taken[l] = dt[l] * x[l];
        }
        for (((state, &a), b), c) in state.iter_mut().zip(a).zip(b).zip(c) {
            // Copied, so that the compiler need not fear that vectors overlap.
            let mut s = *state;
            for l in 0..LANES {
                s[l] = s[l] * math::exp(dt[l] * a[l]) + taken[l] * b;
            }
            for l in 0..LANES {
                y[l] += s[l] * c;
            }
            *state = s;
        }
        for l in 0..LANES {
            y[l] += skip[l] * x[l];
        }
        y
    }
}

impl Operation for Selective {
    fn name(&self) -> &'static CStr {
        c"SelectiveScan"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let mut copies = [Copies::default(), Copies::default()];
        let job = Job::new(*self, inputs, &mut copies);
        let [y, last] = outputs else { unreachable!("there are two outputs") };
        let (y, last) = (Results::new(y), Results::new(last));
        let parts = job.channels.div_ceil(CHANNELS);
        pool::parallel(job.batch * parts, |task| {
            let from = task % parts * CHANNELS;
            for first in (from..job.channels.min(from + CHANNELS)).step_by(LANES) {
                job.run(task / parts, first, &y, &last);
            }
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let inputs: Vec<&Array> = at.primals.iter().chain(&at.cotangents).collect();
        let floats = &at.primals[..at.primals.len() - usize::from(self.has_mask)];
        let shapes: Vec<(&[i32], Dtype)> = floats.iter().map(|array| (array.shape(), array.dtype())).collect();
        let gradients = apply(SelectiveGradient(*self), &inputs, &shapes)?;
        at.argnums.iter().map(|&i| gradients.get(i).cloned().ok_or_else(no_gradient)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::gradient::step_back;
    use super::*;
    use crate::kernels::float::tests::each_level;

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(size in 1_usize..9, seed in prop::collection::vec(-2.0_f32..2.0, 499)) {
            let numbers = |len: usize, from: usize| -> Vec<f32> { seed.iter().cycle().skip(from).take(len).copied().collect() };
            let lanes = |len: usize, from: usize| -> Vec<Lanes> { numbers(len * LANES, from).as_chunks().0.to_vec() };
            let (a, states, b, c) = (lanes(size, 1), lanes(2 * size, 2), numbers(size, 3), numbers(size, 4));
            let [x, dt, dy] = [5, 6, 7].map(|from| lanes(1, from)[0]);
            each_level(size * LANES + LANES, |isa, out| {
                let (state, y) = out.as_chunks_mut().0.split_at_mut(size);
                state.copy_from_slice(&states[..size]);
                y[0] = step(isa, [x, dt, dy], &a, &b, &c, state);
            })?;
            each_level(2 * size * LANES + 2 * size + 2 * LANES, |isa, out| {
                let (vectors, sums) = out.split_at_mut(2 * (size + 1) * LANES);
                let (slope, rest) = vectors.as_chunks_mut().0.split_at_mut(size);
                let (of_a, both) = rest.split_at_mut(size);
                let (of_b, of_c) = sums.split_at_mut(size);
                slope.copy_from_slice(&states[..size]);
                both.copy_from_slice(&step_back(isa, [x, dt, dy], &a, &b, &c, &states, slope, of_a, of_b, of_c));
            })?;
        }
    }
}
