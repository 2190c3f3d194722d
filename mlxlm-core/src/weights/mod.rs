//! Weights in and out: mapped safetensors files, a model folder's shards, GGUF files ([`gguf`]), and the strict view that models
//! load from.
//!
//! [`Checkpoint`] reads a folder; [`foreign`] unpacks what other tools packed; a model's rules then rename what has to be
//! renamed; [`WeightStore`] holds the result and hands it out by path through [`Weights`], which knows what is dense, quantized
//! or adapted. At the end [`WeightStore::finish`] lists, in one error, all that was missing, misshapen or left over.

mod adapter;
mod checkpoint;
mod config;
mod error;
pub mod foreign;
pub mod gguf;
mod header;
mod peft;
mod pieces;
pub mod recipe;
mod save;
mod shard;
mod store;

pub use adapter::{AdapterConfig, FineTuneType, LoraParameters};
pub use checkpoint::Checkpoint;
pub use config::QuantizationConfig;
pub use error::{Problem, WeightsError};
pub use peft::{write_adapter, write_peft};
pub use pieces::{NewTensor, Rows, SafetensorsPlan, SafetensorsWriter, arrays_are_mapped, verify_safetensors};
pub use recipe::Recipe;
pub use save::{MAX_SHARD_BYTES, save_model, save_safetensors, watch_saving};
pub(crate) use shard::dtype_bytes;
pub use shard::{SafetensorsFile, SmallFloat};
pub use store::{Init, LowRank, WeightStore, Weights};

use std::collections::BTreeMap;

/// Tensors by name.
pub type Tensors = BTreeMap<String, crate::Array>;
