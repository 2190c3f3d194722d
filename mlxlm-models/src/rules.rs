//! What has to be done to the tensors of a checkpoint before a model can load them: a few rules, declared as data.
//!
//! Paths are matched segment by segment: `*` is one segment, `**` any number of them.

use std::collections::BTreeMap;

use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, ops};

use crate::Result;

/// One change to the tensors of a checkpoint. A rule that finds nothing to do does nothing, so that it may be applied
/// to its own result.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Forgets the tensors that match: buffers that are computed anew.
    Drop(&'static str),
    /// Puts the tensors of single experts into one: the last `*` of `from` is the expert's number, and the `*`s before
    /// it are those of `to`.
    ///
    /// `Stack { from: "**.experts.*.w1", to: … }` takes `w1.weight`, `w1.scales` and all else below `w1`.
    Stack {
        /// The path of one expert's part.
        from: &'static str,
        /// The path of the stack.
        to: &'static str,
    },
}

impl Rule {
    /// Applies the rule.
    pub fn apply(&self, tensors: &mut Tensors) -> Result<()> {
        match self {
            Self::Drop(pattern) => tensors.retain(|name, _| captures(pattern, name).is_none()),
            Self::Stack { from, to } => stack(tensors, from, to)?,
        }
        Ok(())
    }
}

fn stack(tensors: &mut Tensors, from: &str, to: &str) -> Result<()> {
    // For each stack, its experts by number, so that the tenth comes after the ninth.
    let mut stacks: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
    for name in tensors.keys() {
        let Some((path, leaf)) = name.rsplit_once('.') else { continue };
        let Some(mut wild) = captures(from, path) else { continue };
        let Some(Ok(expert)) = wild.pop().map(|number| number.parse::<usize>()) else { continue };
        let target = format!("{}.{leaf}", fill(to, &wild));
        stacks.entry(target).or_default().insert(expert, name.clone());
    }
    for (target, experts) in stacks {
        // A gap in the numbers leaves the experts as they are, to be told as left over.
        if experts.keys().copied().ne(0..experts.len()) {
            continue;
        }
        let arrays: Vec<Array> = experts.values().filter_map(|name| tensors.remove(name)).collect();
        tensors.insert(target, ops::stack(&arrays, 0)?);
    }
    Ok(())
}

/// What the wildcards of `pattern` stand for in `name`, if it matches.
fn captures(pattern: &str, name: &str) -> Option<Vec<String>> {
    fn matched(pattern: &[&str], name: &[&str], found: &mut Vec<String>) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => (0..=name.len()).any(|n| {
                let before = found.len();
                found.push(name[..n].join("."));
                matched(rest, &name[n..], found) || {
                    found.truncate(before);
                    false
                }
            }),
            (Some((&"*", rest)), Some((&segment, others))) => {
                found.push(segment.to_owned());
                matched(rest, others, found) || {
                    found.pop();
                    false
                }
            }
            (Some((literal, rest)), Some((segment, others))) => literal == segment && matched(rest, others, found),
            _ => false,
        }
    }
    let (pattern, name): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), name.split('.').collect());
    let mut found = Vec::new();
    matched(&pattern, &name, &mut found).then_some(found)
}

/// `pattern` with its wildcards replaced, in order.
fn fill(pattern: &str, wild: &[String]) -> String {
    let mut wild = wild.iter();
    let fill = |segment: &str| match segment {
        "*" | "**" => wild.next().cloned().unwrap_or_default(),
        literal => literal.to_owned(),
    };
    pattern.split('.').map(fill).filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(names: &[&str]) -> Tensors {
        names.iter().map(|name| ((*name).to_owned(), Array::from_slice(&[1_f32], &[1]))).collect()
    }

    fn check(rule: Rule, before: &[&str], after: &[&str]) {
        let mut all = tensors(before);
        for _ in 0..2 {
            rule.apply(&mut all).unwrap();
            assert_eq!(all.keys().collect::<Vec<_>>(), after);
        }
    }

    const STACK: Rule = Rule::Stack { from: "**.mlp.experts.*.w1", to: "**.mlp.switch.gate" };

    #[test]
    fn drop_takes_whole_paths() {
        check(Rule::Drop("**.rotary_emb.inv_freq"), &["a.b.rotary_emb.inv_freq", "a.inv_freq"], &["a.inv_freq"]);
    }

    #[test]
    fn experts_are_stacked_with_all_their_tensors() {
        let before = ["l.0.mlp.experts.0.w1.scales", "l.0.mlp.experts.0.w1.weight", "l.0.mlp.experts.1.w1.weight"];
        check(STACK, &before, &["l.0.mlp.switch.gate.scales", "l.0.mlp.switch.gate.weight"]);
    }

    #[test]
    fn experts_are_stacked_by_number() {
        let mut all: Tensors =
            (0..11).map(|i| (format!("l.mlp.experts.{i}.w1.weight"), Array::from_slice(&[i as f32], &[1]))).collect();
        STACK.apply(&mut all).unwrap();
        let stacked = &all["l.mlp.switch.gate.weight"];
        assert_eq!(stacked.to_vec_exact::<f32>().unwrap(), (0..11).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_in_the_experts_is_left_to_be_told() {
        check(STACK, &["l.mlp.experts.1.w1.weight"], &["l.mlp.experts.1.w1.weight"]);
    }
}
