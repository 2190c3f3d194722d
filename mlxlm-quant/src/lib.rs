//! Conversion of models: to another type, to packed weights, and back.
//!
//! [`convert`] reads a model folder and writes one that mlx-lm loads as well. [`Quantization`] says which leaf gets which
//! scheme: one for all, or a [`Recipe`] that gives the more sensitive leaves more bits.

mod convert;
mod error;
mod recipe;

pub use convert::{ConvertOptions, Converted, Form, Quantization, convert, dequantize_model, quantize_model};
pub use error::{Error, Result};
pub use recipe::Recipe;
