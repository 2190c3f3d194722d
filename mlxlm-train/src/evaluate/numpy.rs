//! The draws that numpy and Python make of a seed, so that the same seed means the same samples.
//!
//! Source: `RandomState.permutation` of numpy 2 (`_mt19937.pyx`, `distributions.c`: `random_interval`), and
//! `random.Random.sample` of Python 3 (`Lib/random.py`).

use rand_mt::Mt;

/// `numpy.random.RandomState(seed).permutation(n)`.
pub fn permutation(n: usize, seed: u32) -> Vec<usize> {
    let mut random = Mt::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        // A number of as many bits as the greatest has, drawn again until it is none above that.
        let mask = usize::MAX >> last.leading_zeros();
        let mut draw = || {
            let low = random.next_u32() as usize;
            let wide = if last > u32::MAX as usize { (low << 32) | random.next_u32() as usize } else { low };
            wide & mask
        };
        let chosen = std::iter::repeat_with(&mut draw).find(|&draw| draw <= last).unwrap_or(last);
        order.swap(last, chosen);
    }
    order
}

/// Python's `random.Random(seed)`, as far as samples of it go.
#[derive(Debug)]
pub(super) struct PythonRandom(Mt);

impl PythonRandom {
    pub(super) fn new(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let draw = (self.0.next_u32() >> (32 - bits.clamp(1, 32))) as usize;
            if draw < n {
                return draw;
            }
        }
    }

    /// `sample(range(n), k)`.
    pub(super) fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let k = k.min(n);
        let mut set_size = 21;
        if k > 5 {
            set_size += 4_usize.pow(((k * 3) as f64).log(4.0).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let chosen = self.below(n - i);
                    let result = pool[chosen];
                    pool[chosen] = pool[n - i - 1];
                    result
                })
                .collect();
        }
        let mut result: Vec<usize> = Vec::with_capacity(k);
        while result.len() < k {
            let chosen = self.below(n);
            if !result.contains(&chosen) {
                result.push(chosen);
            }
        }
        result
    }
}

/// `random.Random(seed).sample(range(n), k)` of Python.
pub fn sample(n: usize, k: usize, seed: u32) -> Vec<usize> {
    PythonRandom::new(seed).sample(n, k)
}
