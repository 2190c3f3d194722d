//! What every architecture file needs.

#![allow(unused_imports, reason = "each file uses a part of it")]

pub(crate) use mlxlm_cache::{Attend, CacheKind, Offset, Reach};
pub(crate) use mlxlm_core::fast::{self, Activation};
pub(crate) use mlxlm_core::nn::{Conv1d, Embedding, ExpertLinear, HeadLinear, Linear, Norm, Parameter, Precision};
pub(crate) use mlxlm_core::weights::{Init, Tensors, Weights};
pub(crate) use mlxlm_core::{Array, Dtype, module, ops};
pub(crate) use serde::Deserialize;
pub(crate) use serde_json::json;

pub(crate) use crate::blocks::*;
pub(crate) use crate::config::{
    MAX_WIDTH, PerLayer, all_within, always_on, below, missing, of_layer, positive, product, unsupported, within,
};
pub(crate) use crate::frame::{Block, DecoderConfig, Frame, Head, LLAMA, MtpNames, MtpPlace, Names, Pass, Step};
pub(crate) use crate::rules::{SAME, matching};
pub(crate) use crate::{Architecture, Common, Error, HeadCounts, ModelConfig, Result, RopeConfig, Rule};
