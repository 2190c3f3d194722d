//! GPTQ (arXiv:2210.17323): columns of a matrix are rounded one after the other, and each error is made up for by the columns that
//! follow, as what the matrix reads allows.
//!
//! Ports `mlx_lm/quant/gptq.py` @ 0.32.2. Unusual: every width of affine codes is packed; what reads the same input shares one
//! Hessian; a Hessian that is singular is damped until it is not; routers keep eight bits. More than the reference does with
//! [`Care`]: grids are searched for (`grid`), and tables that are heads are packed as such (`table`).

mod codes;
mod grid;
mod hessian;
mod table;

use mlxlm_core::nn::Matrix;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::{Array, Dtype, transforms};
use mlxlm_models::CausalLm;

use crate::flow::{Flow, with_leaf};
use crate::plan::{self, Plan};
use crate::report::{Event, Report};
use crate::{Error, Kept, Result};
use codes::{Grid, Group};
use hessian::{Hessians, Read};

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

/// How much care is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Care {
    /// Whether grids are searched for, and do not simply reach from the least weight to the largest.
    pub search: bool,
    /// Whether a table that is the head too is packed for what the head reads, and how much it counts as a table, as a share of the mean
    /// of the Hessian's diagonal.
    pub table: Option<f32>,
}

impl Care {
    /// As the reference does it.
    pub const REFERENCE: Self = Self { search: false, table: None };
    /// The best that is known.
    pub const FULL: Self = Self { search: true, table: Some(0.3) };
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Packing<'a> {
    /// Who is packed how.
    pub plan: &'a Plan,
    /// How much care is taken.
    pub care: Care,
    /// Where each block is kept when it is packed, and taken from if it is there.
    pub kept: Option<&'a Kept>,
}

/// Packs every leaf that the plan has an entry for, with the inputs that it has while `model`, dense so far, reads `batches`. One
/// block at a time: beside the model, the Hessians of one are in memory.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens
///
/// # Errors
/// [`Error::NotFinite`] for a map that reads values that are not finite.
pub fn gptq(model: &mut dyn CausalLm, batches: &[Array], packing: Packing<'_>, report: Report<'_>) -> Result<()> {
    let plan = packing.plan;
    let count = crate::flow::stages(model)?.count();
    let layers = model.info().num_layers;
    let mut hessians = Hessians::new(model, plan);
    let mut dense = Flow::enter(model, batches, |batch, heard| hessians.add(model, batch, &heard))?;
    packing.pack(model, "entry", &mut hessians, report)?;
    packing.pack_table(model, batches, report)?;
    for stage in 0..count {
        report(Event::Step { what: "blocks", done: stage, of: count });
        hessians.begin();
        // A stack that is run several times is packed in its last run.
        let name = (stage + layers >= count).then(|| format!("block-{stage:05}"));
        let has = name.as_deref().is_some_and(|name| packing.has(name));
        let mut next = Vec::new();
        for batch in 0..batches.len() {
            let (at, heard) = dense.step(model, batch)?;
            if !has {
                hessians.add(model, batch, &heard)?;
            }
            transforms::eval([&at.x])?;
            next.push(at);
        }
        dense = Flow::of(next);
        if let Some(name) = name {
            packing.pack(model, &name, &mut hessians, report)?;
        }
    }
    hessians.begin();
    for (batch, at) in dense.into_batches().into_iter().enumerate() {
        let (_, heard) = crate::flow::head(model, at)?;
        hessians.add(model, batch, &heard)?;
    }
    packing.pack(model, "head", &mut hessians, report)?;
    report(Event::Step { what: "blocks", done: count, of: count });
    plan::round(model, plan)
}

impl Packing<'_> {
    fn has(&self, name: &str) -> bool {
        self.kept.is_some_and(|kept| kept.file(&file_name(name)).exists())
    }

    /// Packs the leaves that a part of the model has asked, or takes them from where they are kept.
    fn pack(&self, model: &mut dyn CausalLm, name: &str, hessians: &mut Hessians, report: Report<'_>) -> Result<()> {
        let file = file_name(name);
        if let Some(kept) = self.kept
            && let Some(paths) = kept.put(&file, model, self.plan)?
        {
            hessians.forget(&paths);
            return Ok(());
        }
        let mut packed = Vec::new();
        for read in hessians.take() {
            packed.extend(self.pack_alike(model, &read, report)?);
        }
        match self.kept {
            Some(kept) if !packed.is_empty() => kept.keep(&file, model, &packed),
            _ => Ok(()),
        }
    }

    /// Packs the leaves that read the same; their paths.
    fn pack_alike(&self, model: &mut dyn CausalLm, read: &Read, report: Report<'_>) -> Result<Vec<String>> {
        let mut inverse = None;
        let mut packed = Vec::new();
        for path in &read.paths {
            let Some(&scheme) = self.plan.get(path).filter(|scheme| scheme.mode == Mode::Affine) else { continue };
            if inverse.is_none() {
                inverse = Some(hessian::inverse_root(&read.hessian, path, report)?);
            }
            let Some(root) = &inverse else { continue };
            with_leaf(model, path, |mut leaf| {
                if let Some(matrix) = leaf.matrix() {
                    *matrix = Matrix::Packed(pack(&matrix.dense()?, root, scheme, self.care.search)?, scheme);
                }
                Ok(())
            })?;
            packed.push(path.clone());
        }
        Ok(packed)
    }

    /// Packs the table of a model that has no other head, or takes it from where it is kept.
    fn pack_table(&self, model: &mut dyn CausalLm, batches: &[Array], report: Report<'_>) -> Result<()> {
        let Some(as_table) = self.care.table else { return Ok(()) };
        let file = file_name("table");
        if let Some(kept) = self.kept
            && kept.put(&file, model, self.plan)?.is_some()
        {
            return Ok(());
        }
        let packed = table::pack(model, batches, self.plan, (as_table, self.care.search), report)?;
        match (self.kept, packed) {
            (Some(kept), Some(path)) => kept.keep(&file, model, &[path]),
            _ => Ok(()),
        }
    }
}

fn file_name(part: &str) -> String {
    format!("{part}.safetensors")
}

/// Packs the rows of a matrix or a stack of them, with grids that are searched for or those that MLX takes.
///
/// # Shapes
/// - `weight`: `[…, out, in]`; `root`: `[in, in]`, the upper Cholesky factor of the inverse of the Hessian
pub fn pack(weight: &Array, root: &Array, scheme: Scheme, search: bool) -> Result<Packed> {
    let (shape, dtype) = (weight.shape().to_vec(), weight.dtype());
    let input = weight.dim(-1);
    let mut rest = weight.as_dtype(Dtype::Float32)?.reshape(&[-1, input])?;
    let rows = rest.dim(0) as usize;
    let (mut codes, mut scales, mut biases) = (codes::Codes::new(rows, input as usize, scheme.bits), vec![], vec![]);
    let width = scheme.group_size;
    for start in (0..input).step_by(width as usize) {
        let end = start + width;
        let columns = rest.try_index((.., ..width))?.contiguous()?;
        let Packed { scales: of_group, biases: Some(least), .. } = quant::quantize(&columns, scheme)? else {
            return Err(Error::Parameter { name: "mode", value: scheme.mode.to_string(), expected: "affine" });
        };
        let own = root.try_index((start..end, start..end))?.contiguous()?;
        let group = Group {
            columns: columns.to_vec_exact()?,
            root: own.to_vec_exact()?,
            width: width as usize,
            bits: scheme.bits,
        };
        let first = Grid { scales: of_group.to_vec_exact()?, biases: least.to_vec_exact()? };
        let (grid, rounded) = if search {
            grid::search(&group, first, dtype)?
        } else {
            let rounded = group.round(&first);
            (first, rounded)
        };
        codes.put(start as usize, &rounded.codes);
        scales.push(Array::from_slice(&grid.scales, &[rows as i32, 1]));
        biases.push(Array::from_slice(&grid.biases, &[rows as i32, 1]));
        if end < input {
            let errors = Array::from_slice(&rounded.errors, &[rows as i32, width]);
            let made_up = errors.matmul(root.try_index((start..end, end..))?)?;
            rest = rest.try_index((.., width..))?.subtract(made_up)?;
            transforms::eval([&rest])?;
        }
    }
    let mut of_rows = shape[..shape.len() - 1].to_vec();
    let shaped = |parts: &[Array], of_rows: &[i32]| {
        let all = mlxlm_core::ops::concatenate(parts, -1)?.as_dtype(dtype)?;
        all.reshape(&[of_rows, &[input / width]].concat())
    };
    let (scales, biases) = (shaped(&scales, &of_rows)?, shaped(&biases, &of_rows)?);
    of_rows.push(scheme.packed_words(input));
    let packed = Packed { weight: codes.packed(&of_rows), scales, biases: Some(biases) };
    plan::compute(&packed)?;
    Ok(packed)
}
