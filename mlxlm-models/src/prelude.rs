//! What every architecture file needs.

pub(crate) use mlxlm_cache::CacheKind;
pub(crate) use mlxlm_core::Array;
pub(crate) use mlxlm_core::module;
pub(crate) use mlxlm_core::nn::Norm;
pub(crate) use mlxlm_core::weights::Weights;
pub(crate) use serde::Deserialize;
pub(crate) use serde_json::json;

pub(crate) use crate::blocks::{Activation, Attention, Heads, Mlp, Moe, PreNormBlock, Rope, Router};
pub(crate) use crate::common::{MAX_WIDTH, positive, unsupported, within};
pub(crate) use crate::decoder::{Block, DecoderConfig, Head, Skeleton, Step};
pub(crate) use crate::{Architecture, Common, Error, Result, Rule};
