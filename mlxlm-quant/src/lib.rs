//! Conversion and quantization of models.
//!
//! [`convert()`] reads a model folder and writes one that mlx-lm loads as well. [`Quantization`] says how each matrix is
//! quantized: all alike, or by a [`Recipe`] with more bits for the more sensitive ones.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use mlxlm_core::quant::Mode;
//! use mlxlm_quant::{ConvertOptions, Form, Quantization, convert};
//!
//! # fn main() -> Result<(), mlxlm_quant::Error> {
//! let scheme = Mode::Affine.default_scheme();
//! let form = Form::Quantize(Quantization { scheme, recipe: None });
//! let options = ConvertOptions { form, ..ConvertOptions::default() };
//! let converted = convert(Path::new("original"), Path::new("mlx_model"), &options)?;
//! println!("{:.3} bits per weight", converted.bits_per_weight);
//! # Ok(())
//! # }
//! ```

pub mod awq;
mod backward;
pub mod budget;
mod calibration;
mod convert;
pub mod divergence;
pub mod dwq;
pub mod dynamic;
mod error;
mod flow;
pub mod gptq;
mod job;
mod kept;
pub mod plan;
mod recipe;
mod report;
mod teacher;

pub use calibration::{Calibration, CalibrationOptions, Most, Texts};
pub use convert::{ConvertOptions, Converted, Form, Quantization, convert, dequantize_model, quantize_model};
pub use error::{Error, Result};
pub use job::{Job, open_model};
pub use kept::Kept;
pub use recipe::Recipe;
pub use report::{Event, Report};
pub use teacher::Teacher;
