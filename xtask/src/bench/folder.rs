//! Model folders of a shape with random weights, made once: packed words, scales and biases as mlx-lm writes them.
//!
//! Unusual: a tensor is a piece of one pool of random bytes, from a place that its name decides. Speed does not depend on
//! the weights, and gigabytes are written as fast as the disk takes them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::shape::{BITS, GROUP, Shape, Tensor};

/// Raise it when the folders change.
const RECIPE: u32 = 1;
/// Weights are about normal with this deviation, which keeps activations near one from layer to layer.
const DEVIATION: f32 = 0.02;

/// The folder of a shape below `home`, made if it is not there.
pub(super) fn ensure(home: &Path, shape: &Shape) -> Result<PathBuf> {
    let done = home.join(format!("{}-v{RECIPE}", shape.name));
    if done.is_dir() {
        return Ok(done);
    }
    eprintln!("making `{}`", done.display());
    let draft = home.join(format!("{}.{}.tmp", shape.name, std::process::id()));
    let made = write(&draft, shape).with_context(|| format!("cannot make `{}`", done.display()));
    let made = made.and_then(|()| Ok(fs::rename(&draft, &done)?));
    if made.is_err() {
        // The first error is the one to report.
        drop(fs::remove_dir_all(&draft));
    }
    made.map(|()| done)
}

fn write(folder: &Path, shape: &Shape) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), serde_json::to_string_pretty(&shape.config())?)?;
    let parts: Vec<Part> = shape.tensors().iter().flat_map(|tensor| parts(tensor, shape.quantized)).collect();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors"))?);
    let header = header(&parts);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let pool = Pool::new();
    parts.iter().try_for_each(|part| pool.write(part, &mut file))?;
    Ok(file.into_inner()?.sync_all()?)
}

/// An array of the file.
#[derive(Debug, PartialEq)]
struct Part {
    name: String,
    shape: Vec<u64>,
    kind: Kind,
}

/// What its numbers are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Packed words, any bits.
    Words,
    /// bf16, positive, such that packed weights have the deviation.
    Scales,
    /// bf16, which put the mean of packed weights at zero.
    Biases,
    /// bf16, about normal.
    Weights,
    /// bf16, all the same.
    Constant(f32),
}

impl Kind {
    fn dtype(self) -> (&'static str, u64) {
        if self == Self::Words { ("U32", 4) } else { ("BF16", 2) }
    }
}

impl Part {
    fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.kind.dtype().1
    }
}

/// The arrays of a tensor.
fn parts(tensor: &Tensor, quantized: bool) -> Vec<Part> {
    let (path, copies, rows, columns) = match tensor {
        Tensor::Norm { path, width, is_one } => {
            let kind = Kind::Constant(f32::from(u8::from(*is_one)));
            return vec![Part { name: format!("{path}.weight"), shape: vec![*width], kind }];
        }
        Tensor::Plain { name, shape, value } => {
            let kind = value.map_or(Kind::Weights, Kind::Constant);
            return vec![Part { name: name.clone(), shape: shape.clone(), kind }];
        }
        Tensor::Matrix { path, copies, rows, columns } => (path, *copies, *rows, *columns),
    };
    let part = |name: &str, columns, kind| {
        let shape = if copies == 0 { vec![rows, columns] } else { vec![copies, rows, columns] };
        Part { name: format!("{path}.{name}"), shape, kind }
    };
    if !quantized {
        return vec![part("weight", columns, Kind::Weights)];
    }
    vec![
        part("weight", columns * BITS / 32, Kind::Words),
        part("scales", columns / GROUP, Kind::Scales),
        part("biases", columns / GROUP, Kind::Biases),
    ]
}

/// The header of a safetensors file, padded to eight bytes.
fn header(parts: &[Part]) -> String {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!({"format": "mlx"}));
    let mut at = 0;
    for part in parts {
        let end = at + part.bytes();
        let entry = json!({"dtype": part.kind.dtype().0, "shape": part.shape, "data_offsets": [at, end]});
        entries.insert(part.name.clone(), entry);
        at = end;
    }
    let mut header = Value::Object(entries).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    header
}

/// Random bytes that tensors are cut from.
struct Pool {
    words: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    weights: Vec<u8>,
}

impl Pool {
    /// Enough that a matrix is not the same few rows again and again.
    const COUNT: usize = 1 << 20;

    fn new() -> Self {
        let mut random = Random(1);
        let words = (0..Self::COUNT).flat_map(|_| random.next().to_le_bytes()).collect();
        // Four bits that are all equally likely deviate from their mean of 7.5 by this much.
        let unit = DEVIATION / 4.61;
        let scales: Vec<f32> = (0..Self::COUNT).map(|_| unit * (0.75 + random.uniform() / 2.0)).collect();
        let biases = scales.iter().flat_map(|scale| bf16(-7.5 * scale)).collect();
        let normal = |random: &mut Random| ((0..4).map(|_| random.uniform()).sum::<f32>() - 2.0) * 3_f32.sqrt();
        let weights = (0..Self::COUNT).flat_map(|_| bf16(DEVIATION * normal(&mut random))).collect();
        Self { words, scales: scales.iter().flat_map(|scale| bf16(*scale)).collect(), biases, weights }
    }

    fn write(&self, part: &Part, file: &mut impl Write) -> Result<()> {
        let one;
        let pool = match part.kind {
            Kind::Words => &self.words,
            Kind::Scales => &self.scales,
            Kind::Biases => &self.biases,
            Kind::Weights => &self.weights,
            Kind::Constant(value) => {
                one = bf16(value);
                &one[..].to_vec()
            }
        };
        // Scales and biases of one matrix start at the same place, because they belong together.
        let path = part.name.rsplit_once('.').map_or("", |(path, _)| path);
        let count = pool.len() / 8;
        let mut at = if count > 1 {
            path.bytes().fold(7, |hash, byte| hash * 31 % count + usize::from(byte)) % count * 8
        } else {
            0
        };
        let mut left = part.bytes() as usize;
        while left > 0 {
            let piece = &pool[at..pool.len().min(at + left)];
            file.write_all(piece)?;
            left -= piece.len();
            at = 0;
        }
        Ok(())
    }
}

/// The upper half of the bits, which is close enough for random numbers.
fn bf16(value: f32) -> [u8; 2] {
    ((value.to_bits() >> 16) as u16).to_le_bytes()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let made = ensure(home.path(), Shape::find(super::super::shape::SKELETON).unwrap()).unwrap();
        (home, made)
    }

    #[test]
    fn the_file_is_as_long_as_its_header_says() {
        let (home, made) = folder();
        let bytes = fs::read(made.join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let ends = header.values().filter_map(|entry| entry["data_offsets"][1].as_u64());
        assert_eq!(ends.max().unwrap() as usize, bytes.len() - 8 - length);
        assert_eq!(length % 8, 0);
        assert_eq!(header["model.embed_tokens.weight"]["shape"], json!([64, 8]));
        assert_eq!(header["model.embed_tokens.scales"]["dtype"], "BF16");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_folder_is_made_once() {
        let (home, made) = folder();
        fs::write(made.join("mark"), "").unwrap();
        ensure(home.path(), Shape::find(super::super::shape::SKELETON).unwrap()).unwrap();
        assert!(made.join("mark").is_file());
    }

    #[test]
    fn packed_weights_have_mean_zero_and_the_deviation() {
        let pool = Pool::new();
        let number = |bytes: &[u8], i: usize| {
            f32::from_bits(u32::from(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])) << 16)
        };
        let weight = |i: usize| {
            let nibble = pool.words[i / 2] >> (i % 2 * 4) & 15;
            f32::from(nibble) * number(&pool.scales, i / 64) + number(&pool.biases, i / 64)
        };
        let count = 1 << 16;
        let mean = (0..count).map(weight).sum::<f32>() / count as f32;
        let deviation = ((0..count).map(|i| weight(i).powi(2)).sum::<f32>() / count as f32).sqrt();
        assert!(mean.abs() < 5e-4 && (deviation - DEVIATION).abs() < 1e-3, "{mean} {deviation}");
        let dense = ((0..count).map(|i| number(&pool.weights, i).powi(2)).sum::<f32>() / count as f32).sqrt();
        assert!((dense - DEVIATION).abs() < 1e-3, "{dense}");
    }
}
