//! Which scheme each leaf gets: along the line of choices that no other beats in both bytes and divergence.

use std::collections::BTreeSet;

use mlxlm_core::nn;
use mlxlm_core::quant::Scheme;
use mlxlm_models::CausalLm;

use super::Measured;
use crate::plan::{self, Packable, Plan};
use crate::{Error, Result};

/// What has to be kept to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// At most so many bits for each weight, scales and biases included.
    BitsPerWeight(f64),
    /// At most so many bytes of weights.
    Bytes(u64),
    /// At most so large an expected divergence, with as few bytes as possible.
    Kl(f64),
}

/// A scheme of a leaf, with what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The scheme.
    pub scheme: Scheme,
    /// The bytes of the leaf.
    pub bytes: u64,
    /// The divergence that is expected of it.
    pub kl: f64,
}

/// The choices of a leaf that are worth their bytes: each next one is larger and better, and buys less for each byte than the one before.
#[derive(Debug, Clone)]
pub struct Front(pub Vec<Choice>);

impl Front {
    /// Of all choices of a leaf.
    pub fn new(leaf: &Packable, costs: &[(Scheme, f64)]) -> Self {
        let mut all: Vec<Choice> =
            costs.iter().map(|&(scheme, kl)| Choice { scheme, bytes: leaf.bytes(Some(scheme)), kl }).collect();
        all.sort_by(|a, b| (a.bytes, a.kl).partial_cmp(&(b.bytes, b.kl)).unwrap_or(std::cmp::Ordering::Equal));
        let mut hull: Vec<Choice> = Vec::new();
        for choice in all {
            if hull.last().is_some_and(|last| choice.kl >= last.kl) {
                continue;
            }
            while let [.., before, last] = hull[..]
                && gain(&last, &choice) >= gain(&before, &last)
            {
                hull.pop();
            }
            hull.push(choice);
        }
        Self(hull)
    }
}

/// How much divergence each further byte takes away.
fn gain(from: &Choice, to: &Choice) -> f64 {
    (from.kl - to.kl) / (to.bytes.saturating_sub(from.bytes)).max(1) as f64
}

/// Chooses a scheme for every leaf, and says what divergence is expected of all together.
///
/// # Errors
/// [`Error::Budget`] with the nearest that can be reached, if none meets the goal.
pub fn choose(model: &dyn CausalLm, measured: &[Measured], goal: Goal) -> Result<(Plan, f64)> {
    let fronts: Vec<(&str, Front)> =
        measured.iter().map(|m| (m.leaf.path.as_str(), Front::new(&m.leaf, &m.costs))).collect();
    // What may not be packed as one likes has what it is allowed.
    let eight = mlxlm_core::quant::Mode::Affine.default_scheme();
    let mut plan: Plan = plan::packables(model)
        .into_iter()
        .filter(|leaf| !fronts.iter().any(|(path, _)| *path == leaf.path))
        .filter_map(|leaf| Some((leaf.path.clone(), leaf.allowed(eight)?)))
        .collect();
    let mut at: Vec<usize> = vec![0; fronts.len()];
    let put = |plan: &mut Plan, at: &[usize]| {
        for ((path, front), &at) in fronts.iter().zip(at) {
            plan.extend(front.0.get(at).map(|choice| ((*path).to_owned(), choice.scheme)));
        }
    };
    put(&mut plan, &at);
    let (weights, _) = nn::size(model);
    let mut bytes = plan::bytes_of(model, &plan);
    let most_bytes = match goal {
        Goal::BitsPerWeight(bits) => (bits * weights as f64 / 8.0) as u64,
        Goal::Bytes(bytes) => bytes,
        Goal::Kl(_) => u64::MAX,
    };
    let kl = |at: &[usize]| -> f64 {
        fronts.iter().zip(at).filter_map(|((_, front), &at)| front.0.get(at)).map(|choice| choice.kl).sum()
    };
    let in_words = |bytes: u64| match goal {
        Goal::BitsPerWeight(_) => format!("{:.3} bits per weight", bytes as f64 * 8.0 / weights.max(1) as f64),
        _ => format!("{bytes} bytes"),
    };
    if bytes > most_bytes {
        let wanted = match goal {
            Goal::BitsPerWeight(bits) => format!("{bits:.3} bits per weight"),
            _ => in_words(most_bytes),
        };
        return Err(Error::Budget { wanted, nearest: in_words(bytes) });
    }
    // The best buys first; one that does not fit any more ends its leaf's way.
    let mut closed: BTreeSet<usize> = BTreeSet::new();
    loop {
        if let Goal::Kl(most) = goal
            && kl(&at) <= most
        {
            break;
        }
        let open = fronts.iter().enumerate().filter(|(i, _)| !closed.contains(i));
        let steps = open.filter_map(|(i, (_, front))| Some((i, *front.0.get(at[i])?, *front.0.get(at[i] + 1)?)));
        let best = steps.max_by(|a, b| gain(&a.1, &a.2).total_cmp(&gain(&b.1, &b.2)));
        let Some((i, from, to)) = best else { break };
        let more = to.bytes - from.bytes;
        if bytes + more > most_bytes {
            closed.insert(i);
            continue;
        }
        bytes += more;
        at[i] += 1;
    }
    let expected = kl(&at);
    if let Goal::Kl(most) = goal
        && expected > most
    {
        let (wanted, nearest) = (format!("a divergence of {most}"), format!("{expected:.6}"));
        return Err(Error::Budget { wanted, nearest });
    }
    put(&mut plan, &at);
    Ok((plan, expected))
}

#[cfg(test)]
mod tests {
    use mlxlm_core::nn::Precision;
    use mlxlm_core::quant::Mode;

    use super::*;

    fn leaf() -> Packable {
        Packable { path: "a".into(), shape: vec![64, 128], precision: Precision::Any, item_bytes: 2, is_map: true }
    }

    fn scheme(bits: i32, group_size: i32) -> Scheme {
        Scheme { mode: Mode::Affine, bits, group_size }
    }

    #[test]
    fn choices_that_others_beat_are_not_on_the_front() {
        let costs = [
            (scheme(2, 64), 1.0),
            (scheme(2, 32), 0.9),
            (scheme(3, 64), 0.3),
            (scheme(4, 64), 0.1),
            (scheme(5, 64), 0.1),
            (scheme(8, 64), 0.0),
        ];
        let front = Front::new(&leaf(), &costs).0;
        let schemes: Vec<Scheme> = front.iter().map(|choice| choice.scheme).collect();
        assert_eq!(schemes, [scheme(2, 64), scheme(3, 64), scheme(4, 64), scheme(8, 64)]);
        let gains: Vec<f64> = front.windows(2).map(|pair| gain(&pair[0], &pair[1])).collect();
        assert!(gains.windows(2).all(|pair| pair[0] > pair[1]), "{gains:?}");
    }
}
