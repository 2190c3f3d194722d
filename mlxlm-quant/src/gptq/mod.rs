//! GPTQ (arXiv:2210.17323): columns of a matrix are rounded one after the other, and each error is made up for by the columns that
//! follow, as what the matrix reads allows.
//!
//! Ports `mlx_lm/quant/gptq.py` @ 0.32.2. Unusual: every width of affine codes is packed; what reads the same input shares one
//! Hessian; a Hessian that is singular is damped until it is not; routers keep eight bits.

mod codes;
mod hessian;

use mlxlm_core::nn::Matrix;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::{Array, Dtype, transforms};
use mlxlm_models::CausalLm;

use crate::flow::{Flow, with_leaf};
use crate::plan::{self, Plan};
use crate::report::{Event, Report};
use crate::{Error, Result};
use codes::Group;
use hessian::Hessians;

/// How a model is packed.
#[derive(Debug, Clone, Copy)]
pub struct GptqOptions {
    /// The scheme of maps whose inputs are known.
    pub scheme: Scheme,
    /// The scheme of all other leaves, tables above all, which are rounded.
    pub fallback: Scheme,
}

impl GptqOptions {
    /// The scheme of each leaf.
    pub fn plan(&self, model: &dyn CausalLm) -> Plan {
        let scheme = |leaf: &plan::Packable| leaf.allowed(if leaf.is_map { self.scheme } else { self.fallback });
        plan::packables(model).iter().filter_map(|leaf| Some((leaf.path.clone(), scheme(leaf)?))).collect()
    }
}

/// Packs every leaf that `plan` has an entry for, with the inputs that it has while `model`, dense so far, reads `batches`. One
/// block at a time: beside the model, the Hessians of one are in memory.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens
///
/// # Errors
/// [`Error::NotFinite`] for a map that reads values that are not finite.
pub fn gptq(model: &mut dyn CausalLm, batches: &[Array], plan: &Plan, report: Report<'_>) -> Result<()> {
    let count = crate::flow::stages(model)?.count();
    let layers = model.info().num_layers;
    let mut hessians = Hessians::new(model, plan);
    let mut flow = Flow::enter(model, batches, |batch, heard| hessians.add(model, batch, &heard))?;
    for stage in 0..count {
        report(Event::Step { what: "blocks", done: stage, of: count });
        hessians.begin();
        flow = flow.next(model, |batch, heard| hessians.add(model, batch, &heard))?;
        // A stack that is run several times is packed in its last run.
        if stage + layers >= count {
            pack_all(model, &mut hessians, plan, report)?;
        }
    }
    hessians.begin();
    flow.leave(model, |batch, heard, _| hessians.add(model, batch, &heard))?;
    pack_all(model, &mut hessians, plan, report)?;
    report(Event::Step { what: "blocks", done: count, of: count });
    plan::round(model, plan)
}

/// Packs the leaves whose Hessians are known.
fn pack_all(model: &mut dyn CausalLm, hessians: &mut Hessians, plan: &Plan, report: Report<'_>) -> Result<()> {
    for (sum, paths) in hessians.take() {
        let mut inverse = None;
        for path in &paths {
            let Some(&scheme) = plan.get(path).filter(|scheme| scheme.mode == Mode::Affine) else { continue };
            if inverse.is_none() {
                inverse = Some(hessian::inverse_root(&sum, path, report)?);
            }
            let Some(root) = &inverse else { continue };
            with_leaf(model, path, |mut leaf| {
                if let Some(matrix) = leaf.matrix() {
                    *matrix = Matrix::Packed(pack(&matrix.dense()?, root, scheme)?, scheme);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Packs the rows of a matrix or a stack of them.
///
/// # Shapes
/// - `weight`: `[…, out, in]`; `root`: `[in, in]`, the upper Cholesky factor of the inverse of the Hessian
pub fn pack(weight: &Array, root: &Array, scheme: Scheme) -> Result<Packed> {
    let (shape, dtype) = (weight.shape().to_vec(), weight.dtype());
    let input = weight.dim(-1);
    let mut rest = weight.as_dtype(Dtype::Float32)?.reshape(&[-1, input])?;
    let rows = rest.dim(0) as usize;
    let (mut codes, mut scales, mut biases) = (codes::Codes::new(rows, input as usize, scheme.bits), vec![], vec![]);
    let group = scheme.group_size;
    for start in (0..input).step_by(group as usize) {
        let end = start + group;
        let columns = rest.try_index((.., ..group))?.contiguous()?;
        let Packed { scales: of_group, biases: Some(least), .. } = quant::quantize(&columns, scheme)? else {
            return Err(Error::Parameter { name: "mode", value: scheme.mode.to_string(), expected: "affine" });
        };
        let own = root.try_index((start..end, start..end))?.contiguous()?;
        let rounded = Group {
            columns: columns.to_vec_exact()?,
            scales: of_group.to_vec_exact()?,
            biases: least.to_vec_exact()?,
            root: own.to_vec_exact()?,
            width: group as usize,
            bits: scheme.bits,
        }
        .round();
        codes.put(start as usize, &rounded.codes);
        scales.push(of_group);
        biases.push(least);
        if end < input {
            let errors = Array::from_slice(&rounded.errors, &[rows as i32, group]);
            let made_up = errors.matmul(root.try_index((start..end, end..))?)?;
            rest = rest.try_index((.., group..))?.subtract(made_up)?;
            transforms::eval([&rest])?;
        }
    }
    let mut of_rows = shape[..shape.len() - 1].to_vec();
    let shaped = |parts: &[Array], of_rows: &[i32]| {
        let all = mlxlm_core::ops::concatenate(parts, -1)?.as_dtype(dtype)?;
        all.reshape(&[of_rows, &[input / group]].concat())
    };
    let (scales, biases) = (shaped(&scales, &of_rows)?, shaped(&biases, &of_rows)?);
    of_rows.push(scheme.packed_words(input));
    let packed = Packed { weight: codes.packed(&of_rows), scales, biases: Some(biases) };
    transforms::eval([&packed.weight, &packed.scales].into_iter().chain(&packed.biases))?;
    Ok(packed)
}
