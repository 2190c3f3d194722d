//! What maps read, as the matrix of second moments of it, and the root of its inverse.

use std::collections::{BTreeMap, BTreeSet};

use mlxlm_core::nn::{Heard, Place};
use mlxlm_core::{Array, Exception, linalg, ops, transforms};
use mlxlm_models::CausalLm;

use crate::flow::{maps, rows};
use crate::plan::Plan;
use crate::report::{Event, Report};
use crate::{Error, Result};

/// What maps read: those that read the same share it.
#[derive(Debug)]
pub(super) struct Read {
    /// The sum of `x^T x`.
    pub(super) hessian: Array,
    /// Their paths.
    pub(super) paths: Vec<String>,
}

/// Sums over what maps read.
#[derive(Debug)]
pub(super) struct Hessians {
    maps: BTreeMap<Place, String>,
    /// In this stage: which sum a map adds to, as the first batch shows.
    shared: BTreeMap<Place, usize>,
    sums: BTreeMap<usize, Read>,
    /// The sums that this stage adds to.
    touched: BTreeSet<usize>,
}

impl Hessians {
    /// Of the maps that have a place in the plan.
    pub(super) fn new(model: &dyn CausalLm, plan: &Plan) -> Self {
        let mut maps = maps(model);
        maps.retain(|_, path| plan.contains_key(path));
        Self { maps, shared: BTreeMap::new(), sums: BTreeMap::new(), touched: BTreeSet::new() }
    }

    /// The next stage begins. Maps of a stack that is run several times go on with their own sums.
    pub(super) fn begin(&mut self) {
        self.touched.clear();
    }

    /// Adds what maps read in one batch.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a map that reads values that are not finite.
    pub(super) fn add(&mut self, model: &dyn CausalLm, batch: usize, heard: &[Heard]) -> Result<()> {
        let of_maps: Vec<&Heard> = heard.iter().filter(|heard| self.maps.contains_key(&heard.place)).collect();
        if batch == 0 {
            self.share(&of_maps)?;
        }
        let mut added = Vec::new();
        for heard in of_maps {
            let Some(&sum) = self.shared.get(&heard.place) else { continue };
            // What several read alike is added once for all.
            let Some(into) = self.sums.get_mut(&sum) else { continue };
            self.touched.insert(sum);
            if into.paths.first() != self.maps.get(&heard.place) || heard.x.size() == 0 {
                continue;
            }
            let x = rows(model, heard)?;
            add_to(&mut into.hessian, x.t().matmul(&x)?)?;
            added.push(sum);
        }
        for sum in added {
            let Some(Read { hessian, paths, .. }) = self.sums.get(&sum) else { continue };
            if !hessian.sum(None)?.try_item_exact::<f32>()?.is_finite() {
                return Err(Error::NotFinite { path: paths.first().cloned().unwrap_or_default() });
            }
        }
        Ok(())
    }

    /// Finds out which maps read the same, by what the first batch gives them.
    fn share(&mut self, heard: &[&Heard]) -> Result<()> {
        let mut leaders: Vec<(&Heard, usize)> = Vec::new();
        for &heard in heard {
            if self.shared.contains_key(&heard.place) {
                continue;
            }
            let mut found = None;
            for (leader, sum) in &leaders {
                let alike = leader.x.shape() == heard.x.shape() && leader.x.dtype() == heard.x.dtype();
                if alike && leader.place != heard.place && leader.x.eq_values(&heard.x)? {
                    found = Some(*sum);
                    break;
                }
            }
            let path = self.maps[&heard.place].clone();
            let new = self.sums.last_key_value().map_or(0, |(last, _)| last + 1);
            let sum = found.unwrap_or(new);
            let read = || Read { hessian: Array::from_f32(0.0), paths: Vec::new() };
            self.sums.entry(sum).or_insert_with(read).paths.push(path);
            self.shared.insert(heard.place, sum);
            if found.is_none() {
                leaders.push((heard, sum));
            }
        }
        Ok(())
    }

    /// The sums that this stage has added to; they are begun anew.
    pub(super) fn take(&mut self) -> Vec<Read> {
        let touched = std::mem::take(&mut self.touched);
        self.shared.retain(|_, sum| !touched.contains(sum));
        let taken = touched.into_iter().filter_map(|sum| self.sums.remove(&sum));
        taken.filter(|sum| sum.hessian.ndim() == 2).collect()
    }

    /// Forgets what these maps read.
    pub(super) fn forget(&mut self, paths: &[String]) {
        self.sums.retain(|_, sum| !sum.paths.iter().any(|path| paths.contains(path)));
        self.shared.retain(|_, sum| self.sums.contains_key(sum));
    }
}

/// Adds to a sum that may not have begun.
fn add_to(sum: &mut Array, more: Array) -> Result<()> {
    *sum = if sum.ndim() == 2 { sum.add(more)? } else { more };
    Ok(transforms::eval([&*sum])?)
}

/// Times that damping is multiplied by ten before a matrix is given up.
const MOST_DAMPING: i32 = 8;

/// The upper Cholesky factor of the inverse, with the diagonal damped by a hundredth of its mean, and by more where the matrix is
/// singular nevertheless, which is said.
pub(super) fn inverse_root(hessian: &Array, path: &str, report: Report<'_>) -> Result<Array> {
    let mean = hessian.diag(0)?.mean(None)?.try_item_exact::<f32>()?;
    let size = hessian.dim(0);
    // What reads nothing but zeros has no preferences.
    let mean = if mean > 0.0 { mean } else { 1.0 };
    for more in 0..=MOST_DAMPING {
        let damping = 1e-2 * mean * 10_f32.powi(more);
        match damped_root(hessian, damping, size) {
            Ok(root) if root.sum(None)?.try_item_exact::<f32>()?.is_finite() => {
                if more > 0 {
                    report(Event::Note(&format!(
                        "the inputs of `{path}` are too much alike (a singular Hessian); it is damped {} times as much",
                        10_i64.pow(more as u32)
                    )));
                }
                return Ok(root);
            }
            // More damping may help.
            Ok(_) | Err(_) => {}
        }
    }
    Err(Error::NotFinite { path: path.to_owned() })
}

fn damped_root(hessian: &Array, damping: f32, size: i32) -> Result<Array> {
    let damped = hessian.add(ops::eye::<f32>(size, None, None)?.multiply(Array::from_f32(damping))?)?;
    let lower = linalg::cholesky(&damped, None)?;
    // LAPACK stops at a matrix that is not positive definite, and MLX hands out what it has made until then.
    let far = lower.matmul(lower.transpose()?)?.subtract(&damped)?.abs()?.max(None)?;
    let (far, most) = (far.try_item_exact::<f32>()?, damped.abs()?.max(None)?.try_item_exact::<f32>()?);
    if far.is_nan() || far > 1e-3 * most {
        return Err(Exception::custom("the matrix is not positive definite").into());
    }
    let root = linalg::cholesky(&linalg::cholesky_inv(&lower, None)?, Some(true))?;
    transforms::eval([&root])?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[n, n]` with these numbers on the diagonal.
    fn diagonal(numbers: &[f32]) -> Array {
        Array::from_slice(numbers, &[numbers.len() as i32]).diag(0).unwrap()
    }

    #[test]
    fn what_is_singular_is_damped_and_said() {
        let mut said = Vec::new();
        let mut report = |event: Event<'_>| {
            if let Event::Note(words) = event {
                said.push(words.to_owned());
            }
        };
        let root = inverse_root(&diagonal(&[4.0, 4.0]), "a", &mut report).unwrap();
        let want = (4.0_f32 + 0.04).recip().sqrt();
        assert!(
            root.to_vec_exact::<f32>().unwrap().iter().zip([want, 0.0, 0.0, want]).all(|(a, b)| (a - b).abs() < 1e-6)
        );
        inverse_root(&diagonal(&[0.0, 0.0]), "b", &mut report).unwrap();
        // What rounding has made of a Hessian may have a negative direction.
        let root = inverse_root(&diagonal(&[1.0, 1.0, 1.0, -0.5]), "c", &mut report).unwrap();
        assert!(root.to_vec_exact::<f32>().unwrap().iter().all(|value| value.is_finite()));
        let nothing = diagonal(&[f32::NAN, 1.0]);
        assert!(matches!(inverse_root(&nothing, "d", &mut report), Err(Error::NotFinite { .. } | Error::Models(_))));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("`c`") && said[0].ends_with("it is damped 100 times as much"), "{said:?}");
    }
}
