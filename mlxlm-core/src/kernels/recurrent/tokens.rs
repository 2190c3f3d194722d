//! The operands of one token in one head, from the inputs of each form.

use super::steps::{LANES, Lookup};
use super::{Form, Sizes, numbers};
use crate::kernels::exp::exp;
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::primitive::View;

/// Vectors of a token: `w`, `k`, `r`, `a` and `b`.
pub(super) const VECTORS: usize = 5;

/// Room for the operands of a token.
pub(super) struct Room<'a> {
    /// [`VECTORS`] of whole lanes, zero behind the last column.
    vectors: &'a mut [f32],
    /// `v`, a number for each row.
    pub(super) values: &'a mut [f32],
    /// What is added to the results.
    pub(super) skipped: &'a mut [f32],
    pitch: usize,
    columns: usize,
}

impl<'a> Room<'a> {
    pub(super) fn floats(sizes: Sizes) -> usize {
        VECTORS * sizes.width() * LANES + 2 * sizes.rows
    }

    pub(super) fn new(floats: &'a mut [f32], sizes: Sizes) -> Self {
        let pitch = sizes.width() * LANES;
        floats.fill(0.0);
        let (vectors, rest) = floats.split_at_mut(VECTORS * pitch);
        let (values, skipped) = rest.split_at_mut(sizes.rows);
        Self { vectors, values, skipped, pitch, columns: sizes.columns }
    }

    pub(super) fn vectors(&self) -> &[f32] {
        self.vectors
    }

    /// One of the vectors.
    fn vector(&mut self, which: usize) -> &mut [f32] {
        &mut self.vectors[which * self.pitch..][..self.columns]
    }
}

const W: usize = 0;
const K: usize = 1;
const R: usize = 2;
const A: usize = 3;
const B: usize = 4;

/// Where the operands of all tokens come from.
pub(super) struct Reader {
    pub(super) sizes: Sizes,
    operands: Operands,
}

enum Operands {
    General { r: Heads, w: Heads, k: Heads, v: Heads, found: Option<[Heads; 2]> },
    Delta { q: Heads, k: Heads, v: Heads, gate: Gate, beta: Vec<f32> },
    Ssm { x: Heads, b: Heads, c: Heads, dt: Vec<f32>, a: Vec<f32>, d: Option<Vec<f32>> },
    Decay { q: Heads, k: Heads, v: Heads, decay: Vec<f32>, scale: f32 },
}

/// The factor of a state.
enum Gate {
    /// One for each token and head.
    Head(Vec<f32>),
    /// One for each column besides.
    Columns(Heads),
}

impl Reader {
    /// Copies are of what is not in rows, and are read as long as the reader is.
    pub(super) fn new<'a>(isa: Isa, form: Form, inputs: &[View<'a>], copies: &'a mut [Vec<u32>; 6]) -> Self {
        let mut copies = copies.iter_mut();
        let mut heads = |i: usize| match copies.next() {
            Some(copy) => Heads::new(&inputs[i], copy),
            None => unreachable!("there are six inputs at most"),
        };
        let operands = match form {
            Form::General { looks_up } => {
                let (r, w, k, v) = (heads(0), heads(1), heads(2), heads(3));
                Operands::General { r, w, k, v, found: looks_up.then(|| [heads(4), heads(5)]) }
            }
            Form::Delta => {
                let vectors = inputs[3].shape.len() == 4;
                let (q, k, v) = (heads(0), heads(1), heads(2));
                let gate = if vectors { Gate::Columns(heads(3)) } else { Gate::Head(numbers(isa, &inputs[3])) };
                Operands::Delta { q, k, v, gate, beta: numbers(isa, &inputs[4]) }
            }
            Form::Ssm { skips } => Operands::Ssm {
                x: heads(0),
                b: heads(3),
                c: heads(4),
                dt: numbers(isa, &inputs[1]),
                a: numbers(isa, &inputs[2]),
                d: skips.then(|| numbers(isa, &inputs[5])),
            },
            Form::Decay { scale } => {
                let (q, k, v) = (heads(0), heads(1), heads(2));
                let decay = numbers(isa, &inputs[3]).into_iter().map(exp).collect();
                Operands::Decay { q, k, v, decay, scale }
            }
        };
        Self { sizes: operands.sizes(), operands }
    }

    /// Whether heads come before tokens, and keys before values in the state.
    pub(super) fn is_turned(&self) -> bool {
        matches!(self.operands, Operands::Decay { .. })
    }

    /// Whether tokens skip the state too.
    pub(super) fn skips(&self) -> bool {
        matches!(self.operands, Operands::Ssm { d: Some(_), .. })
    }

    /// The number of a result.
    pub(super) fn place(&self, [batch, token, head]: [usize; 3]) -> usize {
        let Sizes { tokens, heads, .. } = self.sizes;
        if self.is_turned() { (batch * heads + head) * tokens + token } else { (batch * tokens + token) * heads + head }
    }

    /// Reads the operands of a token.
    pub(super) fn read(&self, isa: Isa, at: [usize; 3], to: &mut Room<'_>) -> Lookup {
        let ([batch, token, head], number) = (at, self.place(at));
        let served = |by: &Heads| [batch, token, head * by.shape[2] / self.sizes.heads];
        match &self.operands {
            Operands::General { r, w, k, v, found } => {
                for (which, heads) in [(R, r), (W, w), (K, k)] {
                    heads.read(isa, at, to.vector(which));
                }
                v.read(isa, at, to.values);
                let Some([a, b]) = found else { return Lookup::None };
                a.read(isa, at, to.vector(A));
                b.read(isa, at, to.vector(B));
                Lookup::Add
            }
            Operands::Delta { q, k, v, gate, beta } => {
                q.read(isa, served(q), to.vector(R));
                k.read(isa, served(k), to.vector(K));
                v.read(isa, at, to.values);
                match gate {
                    Gate::Head(gate) => to.vector(W).fill(gate[number]),
                    Gate::Columns(gate) => gate.read(isa, at, to.vector(W)),
                }
                let pitch = to.pitch;
                let (read, a) = to.vectors.split_at_mut(A * pitch);
                for ((a, w), k) in a.iter_mut().zip(&read[W * pitch..][..pitch]).zip(&read[K * pitch..][..pitch]) {
                    *a = w * k;
                }
                Lookup::Correct(beta[number])
            }
            Operands::Ssm { x, b, c, dt, a, d } => {
                let dt = dt[number];
                x.read(isa, at, to.values);
                if let Some(d) = d {
                    to.skipped.iter_mut().zip(&*to.values).for_each(|(skipped, x)| *skipped = d[head] * x);
                }
                to.values.iter_mut().for_each(|x| *x *= dt);
                to.vector(W).fill(exp(dt * a[head]));
                b.read(isa, served(b), to.vector(K));
                c.read(isa, served(c), to.vector(R));
                Lookup::None
            }
            Operands::Decay { q, k, v, decay, scale } => {
                let at = [batch, head, token];
                q.read(isa, at, to.vector(R));
                to.vector(R).iter_mut().for_each(|q| *q *= scale);
                k.read(isa, at, to.vector(K));
                v.read(isa, at, to.values);
                to.vector(W).fill(decay[head]);
                Lookup::None
            }
        }
    }
}

impl Operands {
    fn sizes(&self) -> Sizes {
        let (keys, [batch, tokens, heads, rows]) = match self {
            Self::General { k, v, .. } | Self::Delta { k, v, .. } => (k, v.shape),
            Self::Ssm { x, b, .. } => (b, x.shape),
            Self::Decay { k, v, .. } => {
                let [batch, heads, tokens, rows] = v.shape;
                (k, [batch, tokens, heads, rows])
            }
        };
        Sizes { batch, tokens, heads, rows, columns: keys.shape[3] }
    }
}
