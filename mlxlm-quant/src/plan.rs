//! Which leaf of a model is packed how, before and after it is done.

use std::collections::BTreeMap;

use mlxlm_core::nn::{self, Leaf, Matrix, Precision};
use mlxlm_core::quant::{Packed, Scheme};
use mlxlm_core::weights::QuantizationConfig;
use mlxlm_core::{Exception, transforms};
use mlxlm_models::{CausalLm, ModelConfig};

use crate::Result;
use crate::convert::{EIGHT_BITS, never_packed};

/// A leaf that can be packed.
#[derive(Debug, Clone)]
pub struct Packable {
    /// Its path.
    pub path: String,
    /// The shape of its matrix, or stack of matrices.
    pub shape: Vec<i32>,
    /// How far it may be packed.
    pub precision: Precision,
    /// The bytes of one of its numbers.
    pub item_bytes: usize,
    /// Whether it is a linear map or a stack of those of experts, so that what it reads is known.
    pub is_map: bool,
}

impl Packable {
    /// How many weights it has.
    pub fn weights(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// The bytes that it takes in a file.
    pub fn bytes(&self, scheme: Option<Scheme>) -> u64 {
        let weights = self.weights();
        scheme.map_or(weights * self.item_bytes as u64, |scheme| {
            let groups = weights / scheme.group_size as u64;
            let each = if scheme.mode == mlxlm_core::quant::Mode::Affine { 2 * self.item_bytes as u64 } else { 1 };
            weights * scheme.bits as u64 / 8 + groups * each
        })
    }

    /// `wanted`, as far as the leaf allows it: routers keep eight bits, and what the shape does not allow stays dense.
    pub fn allowed(&self, wanted: Scheme) -> Option<Scheme> {
        let scheme = match self.precision {
            Precision::Any => wanted,
            Precision::Eight if EIGHT_BITS.takes(&self.shape) => EIGHT_BITS,
            Precision::Eight => Scheme { group_size: wanted.group_size, ..EIGHT_BITS },
            Precision::Dense => return None,
        };
        scheme.takes(&self.shape).then_some(scheme)
    }
}

/// All leaves that can be packed, in the order of the model.
pub fn packables(model: &dyn CausalLm) -> Vec<Packable> {
    let never = never_packed(model);
    let mut all = Vec::new();
    model.walk("", &mut |path, leaf| {
        let Some(matrix) = leaf.matrix().filter(|_| !never.contains(path)) else { return };
        all.push(Packable {
            path: path.to_owned(),
            shape: matrix.shape(),
            precision: leaf.worth().precision,
            item_bytes: item_bytes(matrix.dtype()),
            is_map: matches!(leaf, Leaf::Linear(_) | Leaf::Experts(_)),
        });
    });
    all
}

fn item_bytes(dtype: mlxlm_core::Dtype) -> usize {
    if dtype == mlxlm_core::Dtype::Float32 { 4 } else { 2 }
}

/// What is packed how, by path; a leaf without an entry stays dense.
pub type Plan = BTreeMap<String, Scheme>;

/// The same scheme for every leaf, as far as it allows it.
pub fn uniform(model: &dyn CausalLm, scheme: Scheme) -> Plan {
    packables(model).into_iter().filter_map(|leaf| Some((leaf.path.clone(), leaf.allowed(scheme)?))).collect()
}

/// The bytes that a model would take in a file.
pub fn bytes_of(model: &dyn CausalLm, plan: &Plan) -> u64 {
    let (_, now) = nn::size(model);
    packables(model)
        .iter()
        .fold(now, |bytes, leaf| bytes + leaf.bytes(plan.get(&leaf.path).copied()) - leaf.bytes(None))
}

/// The bits for each weight that a model would take.
pub fn bits_per_weight(model: &dyn CausalLm, plan: &Plan) -> f64 {
    bytes_of(model, plan) as f64 * 8.0 / nn::size(model).0.max(1) as f64
}

/// Rounds every leaf of the plan that is still dense to its nearest codes, one after the other: what packing one takes is free before
/// the next.
pub fn round(model: &mut dyn CausalLm, plan: &Plan) -> Result<()> {
    let mut failed: Option<Exception> = None;
    model.walk_mut("", &mut |path, mut leaf| {
        if let (Some(matrix), Some(&scheme), None) = (leaf.matrix(), plan.get(path), &failed) {
            failed = packed(matrix, scheme).err();
        }
    });
    failed.map_or(Ok(()), |exception| Err(exception.into()))
}

fn packed(matrix: &mut Matrix, scheme: Scheme) -> Result<(), Exception> {
    matrix.quantize(scheme)?;
    if let Matrix::Packed(packed, _) = matrix { compute(packed) } else { Ok(()) }
}

/// Computes the arrays of a packed matrix now.
pub(crate) fn compute(packed: &Packed) -> Result<(), Exception> {
    transforms::eval([&packed.weight, &packed.scales].into_iter().chain(&packed.biases))
}

/// Says in the configuration how the leaves of a model are packed: `head` in general, and by path what differs.
pub fn record(model: &dyn CausalLm, config: &mut ModelConfig, head: Scheme) {
    let mut written = QuantizationConfig { default: Some(head), ..QuantizationConfig::default() };
    model.walk("", &mut |path, leaf| {
        if let Some(scheme) = leaf.matrix().and_then(Matrix::scheme).filter(|&scheme| scheme != head) {
            written.paths.insert(path.to_owned(), Some(scheme));
        }
    });
    config.set("quantization", written.to_json());
    config.set("quantization_config", written.to_json());
}
