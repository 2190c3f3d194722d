//! What each leaf costs at each scheme.

use std::collections::BTreeMap;

use mlxlm_core::nn::{Heard, Matrix};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::quant::{self, Mode, Scheme};
use mlxlm_core::{Array, Dtype, io, transforms};
use mlxlm_models::CausalLm;
use serde_json::{Value, json};

use crate::divergence::kl;
use crate::flow::{Flow, maps, rows, with_leaf};
use crate::plan::{self, Packable};
use crate::report::{Event, Report};
use crate::{Error, Kept, Result};

/// How leaves are measured.
#[derive(Debug, Clone)]
pub struct MeasureOptions {
    /// The scheme at which a leaf is rounded to be measured; a leaf that it does not fit takes the first that does.
    pub probe: Scheme,
    /// The schemes among which is chosen.
    pub schemes: Vec<Scheme>,
}

impl Default for MeasureOptions {
    fn default() -> Self {
        let affine = [2, 3, 4, 5, 6, 8]
            .into_iter()
            .flat_map(|bits| [32, 64, 128].map(|group_size| Scheme { mode: Mode::Affine, bits, group_size }));
        let others = [Mode::Mxfp4, Mode::Nvfp4, Mode::Mxfp8].map(Mode::default_scheme);
        let probe = Scheme { mode: Mode::Affine, bits: 3, group_size: 64 };
        Self { probe, schemes: affine.chain(others).collect() }
    }
}

/// What a leaf costs.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The leaf.
    pub leaf: Packable,
    /// The divergence with this leaf alone rounded at the scheme of the probe.
    pub kl: f64,
    /// The divergence that is expected of each scheme that the leaf takes.
    pub costs: Vec<(Scheme, f64)>,
}

/// The most rows of a matrix whose distances are computed.
const MOST_ROWS: i32 = 256;

/// Measures every leaf that may be packed as one likes, of a model that is dense before and after. What is measured is kept block by
/// block, and taken from there if it is there.
///
/// # Shapes
/// - `batches`: each `[B, L]` of tokens
///
/// # Errors
/// [`Error::NotFinite`] if the model's logits are not finite.
pub fn measure(
    model: &mut dyn CausalLm,
    batches: &[Array],
    options: &MeasureOptions,
    kept: Option<&Kept>,
    report: Report<'_>,
) -> Result<Vec<Measured>> {
    let of_maps = maps(model);
    let leaves = plan::packables(model);
    let total = leaves.len();
    let mut known = Known::read(kept)?;
    let mut left: BTreeMap<String, Packable> = leaves.into_iter().map(|leaf| (leaf.path.clone(), leaf)).collect();
    let mut logits = Vec::new();
    for batch in batches {
        let of_batch = model.forward(batch, None)?;
        transforms::eval([&of_batch])?;
        if !of_batch.as_dtype(Dtype::Float32)?.sum(None)?.try_item_exact::<f32>()?.is_finite() {
            return Err(Error::NotFinite { path: "the head".into() });
        }
        logits.push(of_batch);
    }
    let mut measured = Vec::new();
    let mut flow = Flow::enter(model, batches, |_, _| Ok(()))?;
    let count = crate::flow::stages(model)?.count();
    for stage in 0..count {
        let mut weights: BTreeMap<String, Array> = BTreeMap::new();
        let next = flow.next(model, |_, heard| add_moments(model, &of_maps, &heard, &mut weights))?;
        for (path, moments) in weights {
            let Some(leaf) = left.remove(&path) else { continue };
            report(Event::Step { what: "leaves", done: measured.len(), of: total });
            let run = |model: &dyn CausalLm| divergence_from(model, &flow, &logits, count - stage);
            let found = match known.take(&leaf) {
                Some(found) => Some(found),
                None => one(model, leaf, Some(&moments), options, &run)?,
            };
            measured.extend(found);
        }
        known.keep(&measured)?;
        flow = next;
    }
    // What no block asks: tables and heads.
    for (_, leaf) in left {
        report(Event::Step { what: "leaves", done: measured.len(), of: total });
        let run = |model: &dyn CausalLm| {
            let (mut sum, mut positions) = (0.0, 0);
            for (batch, wanted) in batches.iter().zip(&logits) {
                sum += divergence(&model.forward(batch, None)?, wanted)?;
                positions += batch.size();
            }
            Ok(sum / positions.max(1) as f64)
        };
        let found = match known.take(&leaf) {
            Some(found) => Some(found),
            None => one(model, leaf, None, options, &run)?,
        };
        measured.extend(found);
        known.keep(&measured)?;
    }
    report(Event::Step { what: "leaves", done: total, of: total });
    Ok(measured)
}

/// What an earlier run has measured, by path.
struct Known<'k> {
    kept: Option<&'k Kept>,
    found: BTreeMap<String, Vec<Value>>,
    count: usize,
}

impl<'k> Known<'k> {
    /// The file: for each leaf its path, its divergence and its costs by the names of schemes. Floats are written as bits, since they
    /// have to come back as they were.
    const FILE: &'static str = "measured.json";

    fn read(kept: Option<&'k Kept>) -> Result<Self> {
        let mut found = BTreeMap::new();
        if let Some(path) = kept.map(|kept| kept.file(Self::FILE)).filter(|path| path.exists()) {
            let leaves: Vec<Vec<Value>> = serde_json::from_value(io::read_json::<Value>(&path)?)
                .map_err(|error| Error::Kept { path, why: error.to_string() })?;
            for leaf in leaves {
                if let Some(path) = leaf.first().and_then(Value::as_str) {
                    found.insert(path.to_owned(), leaf);
                }
            }
        }
        Ok(Self { kept, found, count: 0 })
    }

    /// What is known of a leaf.
    fn take(&mut self, leaf: &Packable) -> Option<Measured> {
        let of_leaf = self.found.remove(&leaf.path)?;
        let number = |value: &Value| value.as_u64().map(f64::from_bits);
        let scheme = |value: &Value| {
            let mode = value.get("mode")?.as_str()?.parse().ok()?;
            let number = |name: &str| i32::try_from(value.get(name)?.as_i64()?).ok();
            Scheme::new(mode, number("bits")?, number("group_size")?).ok()
        };
        let (_, rest) = of_leaf.split_first()?;
        let (kl, costs) = rest.split_first()?;
        let costs = costs.chunks_exact(2).map(|pair| Some((scheme(&pair[0])?, number(&pair[1])?)));
        Some(Measured { leaf: leaf.clone(), kl: number(kl)?, costs: costs.collect::<Option<_>>()? })
    }

    /// Keeps what was measured so far.
    fn keep(&mut self, measured: &[Measured]) -> Result<()> {
        let Some(kept) = self.kept.filter(|_| measured.len() > self.count) else { return Ok(()) };
        self.count = measured.len();
        let line = |measured: &Measured| {
            let mut line = vec![Value::from(measured.leaf.path.as_str()), Value::from(measured.kl.to_bits())];
            for (scheme, cost) in &measured.costs {
                let Scheme { mode, bits, group_size } = scheme;
                line.push(json!({"mode": mode.name(), "bits": bits, "group_size": group_size}));
                line.push(Value::from(cost.to_bits()));
            }
            Value::Array(line)
        };
        let later = self.found.values().map(|line| Value::Array(line.clone()));
        let all = measured.iter().map(line).chain(later).collect();
        Ok(io::write_json(kept.file(Self::FILE), &Value::Array(all))?)
    }
}

/// The sum over positions.
fn divergence(logits: &Array, wanted: &Array) -> Result<f64> {
    Ok(f64::from(kl(logits, wanted, 1.0)?.sum(None)?.try_item_exact::<f32>()?))
}

/// The mean divergence of what becomes of texts that are before some stage.
fn divergence_from(model: &dyn CausalLm, flow: &Flow<'_>, wanted: &[Array], stages_left: usize) -> Result<f64> {
    let stages = crate::flow::stages(model)?;
    let (mut sum, mut positions) = (0.0, 0);
    for (at, wanted) in flow.batches().iter().zip(wanted) {
        let mut next = stages.advance(at)?;
        for _ in 1..stages_left {
            next = stages.advance(&next)?;
        }
        sum += divergence(&model.head(&stages.leave(next)?)?, wanted)?;
        positions += wanted.size() / wanted.dim(-1).max(1) as usize;
    }
    Ok(sum / positions.max(1) as f64)
}

/// Adds the squares of what maps read, by column.
fn add_moments(
    model: &dyn CausalLm,
    maps: &BTreeMap<mlxlm_core::nn::Place, String>,
    heard: &[Heard],
    sums: &mut BTreeMap<String, Array>,
) -> Result<()> {
    for heard in heard {
        let Some(path) = maps.get(&heard.place) else { continue };
        let x = rows(model, heard)?;
        let more = x.multiply(&x)?.sum_axis(0, false)?;
        let sum = match sums.get(path) {
            Some(sum) => sum.add(more)?,
            None => more,
        };
        transforms::eval([&sum])?;
        sums.insert(path.clone(), sum);
    }
    Ok(())
}

/// Measures a leaf; nothing if it may not be packed as one likes.
fn one(
    model: &mut dyn CausalLm,
    leaf: Packable,
    moments: Option<&Array>,
    options: &MeasureOptions,
    run: &dyn Fn(&dyn CausalLm) -> Result<f64>,
) -> Result<Option<Measured>> {
    let takes = |scheme: &Scheme| leaf.allowed(*scheme) == Some(*scheme);
    let probe = std::iter::once(&options.probe).chain(&options.schemes).copied().find(|scheme| takes(scheme));
    let Some(probe) = probe else { return Ok(None) };
    let dense =
        with_leaf(model, &leaf.path, |mut of_path| Ok(of_path.matrix().map(|matrix| matrix.dense()).transpose()?))?;
    let Some(dense) = dense.flatten() else { return Ok(None) };
    let put = |model: &mut dyn CausalLm, weight: Array| {
        with_leaf(model, &leaf.path, |mut of_path| {
            if let Some(matrix) = of_path.matrix() {
                *matrix = Matrix::Dense(weight);
            }
            Ok(())
        })
    };
    put(model, rounded(&dense, probe)?)?;
    let kl = run(model);
    put(model, dense.clone())?;
    let kl = kl?.max(0.0);
    let at_probe = distance(&dense, moments, probe)?.max(f64::MIN_POSITIVE);
    let schemes = options.schemes.iter().copied().filter(takes);
    let costs = schemes
        .map(|scheme| Ok((scheme, kl * distance(&dense, moments, scheme)? / at_probe)))
        .collect::<Result<_>>()?;
    Ok(Some(Measured { leaf, kl, costs }))
}

fn rounded(weight: &Array, scheme: Scheme) -> Result<Array> {
    Ok(quant::dequantize(&quant::quantize(weight, scheme)?, scheme, Some(weight.dtype()))?)
}

/// How far a scheme is from a matrix: squares of errors, weighed by the squares of the inputs.
fn distance(weight: &Array, moments: Option<&Array>, scheme: Scheme) -> Result<f64> {
    let flat = weight.reshape(&[-1, weight.dim(-1)])?;
    let step = (flat.dim(0) / MOST_ROWS).max(1);
    // Whole pairs of groups, as nvfp4 wants them.
    let some = (0..flat.dim(0)).step_by(step as usize).take(MOST_ROWS as usize).collect::<Vec<_>>();
    let rows = if step == 1 { flat } else { flat.take_axis(Array::from_slice(&some, &[some.len() as i32]), 0)? };
    let rows = if scheme.takes(rows.shape()) { rows } else { rows.try_index((..rows.dim(0) / 32 * 32, ..))? };
    // MLX is slow with halves on CPUs.
    let rows = rows.as_dtype(Dtype::Float32)?;
    let off = rounded(&rows, scheme)?.subtract(&rows)?;
    let squares = off.multiply(&off)?.sum_axis(0, false)?;
    let weighed = match moments {
        Some(moments) => squares.multiply(moments)?,
        None => squares,
    };
    Ok(f64::from(weighed.sum(None)?.try_item_exact::<f32>()?))
}
