//! Weights drawn from a seed by name: the same in every language, so that tests and benchmarks need no weight files.
//!
//! Tensor `name` has the key `mix(mix(mix(seed) + salt) + crc32(name))` modulo 2^64, and its draw `i` is
//! `mix(key + (i + 1) * 0x9E3779B97F4A7C15)`, where `mix` is the finalizer of splitmix64. Values are taken in row-major
//! order and computed in `f64`; a normal one is made of four uniform ones.

use std::path::Path;

use mlx_rs::{Array, Dtype};
use serde::Deserialize;

use super::Tensors;
use crate::{Result, io};

/// The weights of a model as draws: a file `weights.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Recipe {
    /// The seed of all tensors.
    pub seed: u64,
    /// Tells one set of draws of a seed from another.
    #[serde(default)]
    pub salt: u64,
    /// The tensors.
    pub tensors: Vec<Drawn>,
}

/// One tensor of a [`Recipe`].
#[derive(Debug, Clone, Deserialize)]
pub struct Drawn {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i32>,
    /// What its values are.
    pub draw: Draw,
}

/// A distribution; in JSON a list whose first item is the name, and for some whose last is the type.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Vec<serde_json::Value>")]
pub struct Draw {
    kind: Kind,
    dtype: Dtype,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// `mean + deviation * n`, `n` standard normal.
    Normal(f64, f64),
    /// Between two bounds.
    Uniform(f64, f64),
    /// Always the same.
    Const(f64),
    /// Normal with the deviation `gain / √in`, kept between 0.02 and 0.25.
    FanIn(f64),
    /// -1 or 1.
    Sign,
    /// The logarithm of a uniform one.
    LogUniform(f64, f64),
    /// What softplus makes uniform.
    InverseSoftplus(f64, f64),
    /// Whole numbers from the first to below the second.
    Integers(u64, u64),
    /// Four ternary digits a byte; the first quarter of a `[4, …]` draw in the lowest two bits.
    Trits,
}

impl Draw {
    /// `mean + deviation * n`, `n` standard normal, in `f32`.
    pub const fn normal(mean: f64, deviation: f64) -> Self {
        Self { kind: Kind::Normal(mean, deviation), dtype: Dtype::Float32 }
    }

    /// Normal with the deviation `gain / √in`, kept between 0.02 and 0.25, in `f32`.
    pub const fn fan_in(gain: f64) -> Self {
        Self { kind: Kind::FanIn(gain), dtype: Dtype::Float32 }
    }
}

impl TryFrom<Vec<serde_json::Value>> for Draw {
    type Error = String;

    fn try_from(list: Vec<serde_json::Value>) -> Result<Self, String> {
        let numbers: Vec<f64> = list.iter().filter_map(serde_json::Value::as_f64).collect();
        let words: Vec<&str> = list.iter().filter_map(serde_json::Value::as_str).collect();
        let kind = match (words.first(), &numbers[..]) {
            (Some(&"normal"), &[mean, deviation]) => Kind::Normal(mean, deviation),
            (Some(&"uniform"), &[low, high]) => Kind::Uniform(low, high),
            (Some(&"const"), &[value]) => Kind::Const(value),
            (Some(&"fan_in"), &[gain]) => Kind::FanIn(gain),
            (Some(&"sign"), []) => Kind::Sign,
            (Some(&"log_uniform"), &[low, high]) => Kind::LogUniform(low, high),
            (Some(&"inv_softplus"), &[low, high]) => Kind::InverseSoftplus(low, high),
            (Some(&"randint"), &[low, high]) if low < high => Kind::Integers(low as u64, high as u64),
            (Some(&"trits"), []) => Kind::Trits,
            _ => return Err(format!("{list:?} is no draw")),
        };
        let dtype = match (kind, words.get(1)) {
            (Kind::Trits, _) | (_, Some(&"uint8")) => Dtype::Uint8,
            (_, None) => Dtype::Float32,
            (_, Some(&"f16")) => Dtype::Float16,
            (_, Some(&"uint32")) => Dtype::Uint32,
            (_, Some(&"int32")) => Dtype::Int32,
            (_, Some(name)) => return Err(format!("`{name}` is no type of a draw")),
        };
        Ok(Self { kind, dtype })
    }
}

impl Recipe {
    /// Reads a `weights.json`.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        io::read_json(path)
    }

    /// The tensors.
    pub fn tensors(&self) -> Tensors {
        self.tensors.iter().map(|drawn| (drawn.name.clone(), drawn.array(self.seed, self.salt))).collect()
    }
}

impl Drawn {
    /// The tensor, in `f32` unless the draw names another type.
    pub fn array(&self, seed: u64, salt: u64) -> Array {
        let mut rng = HashRng::new(seed, &self.name, salt);
        let count: usize = self.shape.iter().map(|&n| n as usize).product();
        let fan = if self.shape.len() > 1 { self.shape.last().map_or(1, |&n| n) } else { 1 };
        if let Kind::Integers(low, high) = self.draw.kind {
            let values: Vec<u32> = (0..count).map(|_| (low + rng.draw() % (high - low)) as u32).collect();
            return self.typed(&Array::from_slice(&values, &self.shape));
        }
        if self.draw.kind == Kind::Trits {
            let trits: Vec<u8> = (0..4 * count).map(|_| (rng.draw() % 3) as u8).collect();
            let byte = |i: usize| (0..4).fold(0, |byte, quarter| byte | trits[quarter * count + i] << (2 * quarter));
            let bytes: Vec<u8> = (0..count).map(byte).collect();
            return Array::from_slice(&bytes, &self.shape);
        }
        let mut value = || match self.draw.kind {
            Kind::Normal(mean, deviation) => mean + deviation * rng.normal(),
            Kind::Uniform(low, high) => low + (high - low) * rng.uniform(),
            Kind::Const(value) => value,
            Kind::FanIn(gain) => rng.normal() * (gain / f64::from(fan).sqrt()).clamp(0.02, 0.25),
            Kind::Sign => {
                if rng.draw().is_multiple_of(2) {
                    -1.0
                } else {
                    1.0
                }
            }
            Kind::LogUniform(low, high) => (low + (high - low) * rng.uniform()).ln(),
            Kind::InverseSoftplus(low, high) => (low + (high - low) * rng.uniform()).exp_m1().ln(),
            Kind::Integers(..) | Kind::Trits => 0.0,
        };
        let values: Vec<f32> = (0..count).map(|_| value() as f32).collect();
        self.typed(&Array::from_slice(&values, &self.shape))
    }

    fn typed(&self, array: &Array) -> Array {
        array.as_dtype(self.draw.dtype).unwrap_or_else(|_| array.clone())
    }
}

/// The generator: a counter under a key.
#[derive(Debug, Clone)]
pub struct HashRng {
    key: u64,
    next: u64,
}

impl HashRng {
    /// The stream of draws of `name`.
    pub fn new(seed: u64, name: &str, salt: u64) -> Self {
        let key = mix(mix(seed).wrapping_add(salt));
        Self { key: mix(key.wrapping_add(u64::from(crc32(name.as_bytes())))), next: 0 }
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.next += 1;
        mix(self.key.wrapping_add(self.next.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// Between zero and one, neither included.
    pub fn uniform(&mut self) -> f64 {
        ((self.draw() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Nearly normal, with mean zero and deviation one.
    pub fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 3_f64.sqrt()
    }
}

/// The finalizer of splitmix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The checksum of zip files (polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn draws_are_keyed_by_name_and_spread_evenly() {
        let mut rng = HashRng::new(7, "a", 0);
        let mean: f64 = (0..1000).map(|_| rng.normal()).sum::<f64>() / 1000.0;
        assert!(mean.abs() < 0.1, "{mean}");
        assert_ne!(HashRng::new(7, "a", 0).draw(), HashRng::new(7, "b", 0).draw());
        assert_ne!(HashRng::new(7, "a", 0).draw(), HashRng::new(7, "a", 1).draw());
    }
}
