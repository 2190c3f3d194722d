//! Samplers: from log-probabilities to a token (`make_sampler` of `mlx_lm/sample_utils.py`).
//!
//! One file per filter. [`Sampler`] applies them in the order of the reference: top-p, min-p, XTC, top-k, and last the
//! temperature with the draw; at temperature 0 it takes the most likely token and no filter has a say.
//!
//! Unusual: a sampler owns its random state, which starts from [`SamplerOptions::seed`] and advances as that of
//! `mx.random.seed` would. The same seed gives the same text whatever else the process draws, and a copy of the
//! sampler draws what the original would have drawn.

mod greedy;
mod min_p;
mod temperature;
mod top_k;
mod top_p;
mod xtc;

use mlxlm_core::random::RandomState;
use mlxlm_core::{Array, Dtype};

pub use greedy::greedy;
pub use min_p::MinP;
pub use temperature::Temperature;
pub use top_k::TopK;
pub use top_p::TopP;
pub use xtc::Xtc;

use crate::Result;

/// The parameters of a [`Sampler`]; the default is greedy decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// The temperature; 0 takes the most likely token and ignores all else here.
    pub temp: f64,
    /// [`TopP`]; 0 and 1 switch it off.
    pub top_p: f64,
    /// [`MinP`]; 0 switches it off.
    pub min_p: f64,
    /// How many tokens [`MinP`] leaves at least.
    pub min_tokens_to_keep: usize,
    /// [`TopK`]; 0 switches it off.
    pub top_k: usize,
    /// How often [`Xtc`] applies; 0 switches it off.
    pub xtc_probability: f64,
    /// The probability above which [`Xtc`] takes a token for a top choice.
    pub xtc_threshold: f64,
    /// Tokens that [`Xtc`] never removes, such as the newline and the end of the text.
    pub xtc_special_tokens: Vec<u32>,
    /// Where the random numbers start; `None` takes a seed from the operating system.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temp: 0.0,
            top_p: 0.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            top_k: 0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            xtc_special_tokens: Vec::new(),
            seed: None,
        }
    }
}

/// One filter of the chain.
#[derive(Debug, Clone, PartialEq)]
enum Filter {
    TopP(TopP),
    MinP(MinP),
    Xtc(Xtc),
    TopK(TopK),
}

/// Turns log-probabilities into tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    filters: Vec<Filter>,
    /// `None` is greedy decoding.
    draw: Option<Draw>,
}

#[derive(Debug, Clone)]
struct Draw {
    temperature: Temperature,
    random: RandomState,
}

impl Sampler {
    /// Checks the parameters, those too that a temperature of 0 ignores, and builds the chain.
    pub fn new(options: &SamplerOptions) -> Result<Self> {
        let top_p = TopP::new(options.top_p)?;
        let min_p = MinP::new(options.min_p, options.min_tokens_to_keep)?;
        let xtc = Xtc::new(options.xtc_probability, options.xtc_threshold, &options.xtc_special_tokens)?;
        let top_k = TopK::new(options.top_k);
        if options.temp == 0.0 {
            return Ok(Self::greedy());
        }
        let temperature = Temperature::new(options.temp)?;
        let filters = [
            top_p.is_active().then_some(Filter::TopP(top_p)),
            min_p.is_active().then_some(Filter::MinP(min_p)),
            xtc.is_active().then_some(Filter::Xtc(xtc)),
            top_k.is_active().then_some(Filter::TopK(top_k)),
        ];
        let random = RandomState::with_seed(options.seed.unwrap_or_else(rand::random))?;
        Ok(Self { filters: filters.into_iter().flatten().collect(), draw: Some(Draw { temperature, random }) })
    }

    /// Takes the most likely token, always.
    pub fn greedy() -> Self {
        Self { filters: Vec::new(), draw: None }
    }

    /// Whether no random number is ever drawn.
    pub fn is_greedy(&self) -> bool {
        self.draw.is_none()
    }

    /// Refuses parameters that do not fit a vocabulary, so that a generation can fail before it starts.
    pub fn check_vocabulary(&self, vocab_size: i32) -> Result<()> {
        self.filters.iter().try_for_each(|filter| match filter {
            Filter::TopK(top_k) => top_k.check_vocabulary(vocab_size),
            Filter::Xtc(xtc) => xtc.check_vocabulary(vocab_size),
            Filter::TopP(_) | Filter::MinP(_) => Ok(()),
        })
    }

    /// Chooses one token for each row, and advances the random state.
    ///
    /// # Shapes
    /// `logprobs` `[B, V]` → `[B]`, u32.
    pub fn sample(&mut self, logprobs: &Array) -> Result<Array> {
        let Some(draw) = &mut self.draw else {
            return greedy(logprobs);
        };
        let mut kept = logprobs.clone();
        for filter in &self.filters {
            kept = match filter {
                Filter::TopP(top_p) => top_p.apply(&kept)?,
                Filter::MinP(min_p) => min_p.apply(&kept)?,
                Filter::Xtc(xtc) => xtc.apply(&kept, &draw.random.next_key()?)?,
                Filter::TopK(top_k) => top_k.apply(&kept)?,
            };
        }
        let token = draw.temperature.draw(&kept, &draw.random.next_key()?)?;
        debug_assert_eq!(token.dtype(), Dtype::Uint32);
        Ok(token)
    }
}

#[cfg(test)]
mod tests;
