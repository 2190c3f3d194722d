//! Attention of a batch whose rows each own their keys and values, in one operation: the tasks that each row would have alone, in
//! one list for all threads. Rows of any length keep them all busy, and a row has the bits that it has alone.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, ops};

use super::job::Job;
use super::operands::{self, Formats};
use super::read_sinks;
use super::stored::Tensor;
use super::tasks;
use crate::fast::{Causal, Row, RowsAttention, Stored};
use crate::kernels::convert::Results;
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::mixed::is_float;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one, is_traced, on_cpu};

/// Copies that the parts of the keys and values of a row may need.
const PARTS: usize = 9;

/// Attention by our kernel, or `None` where rows are to be taken one after the other: where that is all there is to it, on a GPU, for
/// types and shapes that differ, and under a gradient. Arguments are those of [`crate::fast::attend_rows`].
#[track_caller]
pub(crate) fn attend_rows(q: &Array, rows: &[Row<'_>], how: &RowsAttention<'_>) -> Result<Option<Array>, Exception> {
    if rows.len() < 2 || !on_cpu() {
        return Ok(None);
    }
    attend_at(active()?, q, rows.iter().map(|row| ([Some(row.keys), None], row.values, &row.rule)), how)
}

/// The same for [`crate::fast::attend_latent_rows`].
#[track_caller]
pub(crate) fn attend_latent_rows(
    [q_nope, q_pe]: [&Array; 2],
    rows: &[Row<'_>],
    how: &RowsAttention<'_>,
) -> Result<Option<Array>, Exception> {
    let parts = |q: &Array| q.shape().split_last().map(|(&width, shape)| (width, shape.to_vec()));
    let (Some((r, nope)), Some((p, pe))) = (parts(q_nope), parts(q_pe)) else { return Ok(None) };
    if rows.len() < 2 || !on_cpu() || nope != pe || q_nope.dtype() != q_pe.dtype() {
        return Ok(None);
    }
    if !rows.iter().all(|row| row.keys.width() == r && row.values.width() == p) {
        return Ok(None);
    }
    let q = ops::concatenate(&[q_nope, q_pe], -1)?;
    attend_at(active()?, &q, rows.iter().map(|row| ([Some(row.keys), Some(row.values)], row.keys, &row.rule)), how)
}

#[track_caller]
fn active() -> Result<Isa, Exception> {
    Isa::active().map_err(|e| Exception::custom(e.to_string()))
}

/// Attention of each row of the queries to keys in one part or two.
pub(super) fn attend_at<'a>(
    isa: Isa,
    q: &Array,
    rows: impl ExactSizeIterator<Item = ([Option<Stored<'a>>; 2], Stored<'a>, &'a Causal)>,
    how: &RowsAttention<'_>,
) -> Result<Option<Array>, Exception> {
    let &[b, h, l, d] = q.shape() else { return Ok(None) };
    if !is_float(q.dtype()) || b as usize != rows.len() || !operands::sinks_fit(how.sinks, h) {
        return Ok(None);
    }
    let mut inputs = Vec::with_capacity(2 + 2 * rows.len());
    inputs.push(q);
    inputs.extend(how.sinks);
    let mut specs = Vec::with_capacity(rows.len());
    let mut all: Option<[i32; 2]> = None;
    for (keys, values, rule) in rows {
        let (room, count) = (keys.map(|part| part.unwrap_or(values)), keys.iter().flatten().count());
        let keys = &room[..count];
        let shapes = (operands::joined_shape(keys, q.dtype()), operands::shape(values, q.dtype()));
        let (Some(k), Some(v)) = shapes else { return Ok(None) };
        let same = *all.get_or_insert([k[1], v[3]]) == [k[1], v[3]];
        if !same || !operands::fit([1, h, l, d], k, v) || l > k[2] || !rule.fits(1, k[2]) {
            return Ok(None);
        }
        keys.iter().chain([&values]).for_each(|stored| operands::push(&mut inputs, *stored));
        specs.push(RowSpec { rule: rule.clone(), formats: Formats::new(keys, values) });
    }
    let Some([_, e]) = all else { return Ok(None) };
    if is_traced(&inputs) {
        return Ok(None);
    }
    let operation =
        AttendRows { isa, scale: how.scale, softcap: how.softcap, has_sinks: how.sinks.is_some(), rows: specs };
    apply_one(operation, &inputs, &[b, h, l, e], q.dtype()).map(Some)
}

/// All about a row that is no array.
#[derive(Debug)]
struct RowSpec {
    rule: Causal,
    formats: Formats,
}

#[derive(Debug)]
struct AttendRows {
    isa: Isa,
    scale: f32,
    softcap: Option<f32>,
    has_sinks: bool,
    rows: Vec<RowSpec>,
}

impl Operation for AttendRows {
    fn name(&self) -> &'static CStr {
        c"AttendRows"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (q, rest) = (&inputs[0], &inputs[1..]);
        let (sinks, mut rest) = rest.split_at(usize::from(self.has_sinks));
        let sinks = sinks.first().map(|view| read_sinks(self.isa, view));
        let mut copies = vec![Vec::new(); 1 + PARTS * self.rows.len()];
        let (copy, copies) = copies.split_at_mut(1);
        let q = Heads::new(q, &mut copy[0]);
        let out = Results::new(&mut outputs[0]);
        let mut jobs = Vec::with_capacity(self.rows.len());
        for (i, (RowSpec { rule, formats }, copies)) in self.rows.iter().zip(copies.chunks_exact_mut(PARTS)).enumerate()
        {
            let ([keys, values], others) = formats.split(rest);
            rest = others;
            let (of_keys, of_values) = copies.split_at_mut(PARTS - 3);
            jobs.push(Job {
                isa: self.isa,
                scale: self.scale,
                softcap: self.softcap,
                rule: Some(rule),
                q: q.of_batch(i),
                keys: Tensor::joined(&formats.keys, keys, of_keys),
                values: Tensor::new(formats.values, values, of_values),
                mask: None,
                sinks: sinks.as_deref(),
                out: out.part_of(i, self.rows.len()),
            });
        }
        tasks::run(&jobs);
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("under a gradient, rows are taken one after the other"))
    }
}

#[cfg(test)]
mod tests;
