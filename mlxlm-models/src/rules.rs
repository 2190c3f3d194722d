//! What has to be done to the tensors of a checkpoint before a model can load them: a few verbs, and one for the rest.
//!
//! A rule names leaves or tensors by a pattern, which is matched part by part: `*` is one part of a path, `**` any number of
//! them. A leaf's tensors (`weight`, `scales`, `biases`, `bias`) change together. A rule that finds nothing to do does
//! nothing, so that a checkpoint in the reference's own layout passes untouched.

use std::collections::BTreeMap;
use std::fmt;

use mlxlm_core::nn::join;
use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, ops};

use crate::Result;

/// The parts of gated experts, for [`Rule::stack_experts`] where a file has the names of the stack.
pub(crate) const SAME: [(&str, &str); 3] =
    [("gate_proj", "gate_proj"), ("up_proj", "up_proj"), ("down_proj", "down_proj")];

/// A change that no verb says.
type Change = Box<dyn Fn(&mut Tensors) -> Result<()>>;

/// One change to the tensors of a checkpoint.
pub enum Rule {
    /// Drops the tensors that match, and those below a path that matches.
    Drop(&'static str),
    /// Drops the blocks of a stack from this number on: predictors of further tokens, which decoding does not use.
    DropFrom {
        /// The path of the stack.
        stack: &'static str,
        /// The first block to drop.
        first: usize,
    },
    /// Gives the tensors that match, or that lie below a path that matches, another path. The `*`s and `**`s of both sides
    /// stand for the same, in order.
    Rename(&'static str, &'static str),
    /// Makes the tensors whose whole name matches the `weight` of a leaf of that name: stacks that are stored without a leaf.
    Leaf(&'static str),
    /// Puts the tensors of single experts into one: the last `*` of `from` is the expert's number, and the `*`s before
    /// it are those of `to`. `Stack { from: "**.experts.*.w1", to: … }` takes `w1.weight`, `w1.scales` and all else below `w1`.
    Stack {
        /// The path of one expert's part.
        from: String,
        /// The path of the stack.
        to: String,
    },
    /// Cuts the outputs of the leaves that match into parts of these sizes, each under its own name in place of the leaf's last.
    Split {
        /// The path of the leaf.
        leaf: &'static str,
        /// Names and sizes of the parts, in order.
        into: Vec<(&'static str, i32)>,
    },
    /// Cuts the outputs of the leaves that match into halves, each under its own name in place of the leaf's last.
    Halve {
        /// The path of the leaf.
        leaf: &'static str,
        /// The names of the halves.
        into: [&'static str; 2],
    },
    /// Swaps two axes of the tensors that match, if their axis `unless.0` is not `unless.1` long.
    SwapAxes {
        /// The tensor's name.
        tensor: &'static str,
        /// The axes.
        axes: (i32, i32),
        /// An axis, and its length in the reference's own layout.
        unless: (i32, i32),
    },
    /// Cuts the bare tensors `gate_up_proj` `[E, 2 · I, D]` of all experts below `from` into `gate_proj` and `up_proj` below
    /// `to`, and puts `down_proj` `[E, D, I]` there.
    CutExperts {
        /// The path of the experts.
        from: &'static str,
        /// The path of the stacks.
        to: &'static str,
        /// Whether the last two axes are the other way round, as in `x @ w`.
        transposed: bool,
    },
    /// Adds one to the tensors that match: norms whose weights are stored minus one.
    AddOne(&'static str),
    /// What no other rule says.
    Custom(Change),
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop(pattern) => write!(f, "Drop({pattern})"),
            Self::DropFrom { stack, first } => write!(f, "DropFrom({stack}.{first})"),
            Self::Rename(from, to) => write!(f, "Rename({from} -> {to})"),
            Self::Leaf(pattern) => write!(f, "Leaf({pattern})"),
            Self::Stack { from, to } => write!(f, "Stack({from} -> {to})"),
            Self::Split { leaf, into } => write!(f, "Split({leaf} -> {into:?})"),
            Self::Halve { leaf, into } => write!(f, "Halve({leaf} -> {into:?})"),
            Self::SwapAxes { tensor, axes, .. } => write!(f, "SwapAxes({tensor}, {axes:?})"),
            Self::CutExperts { from, to, .. } => write!(f, "CutExperts({from} -> {to})"),
            Self::AddOne(pattern) => write!(f, "AddOne({pattern})"),
            Self::Custom(_) => write!(f, "Custom"),
        }
    }
}

impl Rule {
    /// A rule that no other verb says.
    pub fn custom(f: impl Fn(&mut Tensors) -> Result<()> + 'static) -> Self {
        Self::Custom(Box::new(f))
    }

    /// The filters of depthwise convolutions, `[C, 1, width]` in files of transformers, as `[C, width, 1]`.
    pub const fn depthwise(tensor: &'static str) -> Self {
        Self::SwapAxes { tensor, axes: (1, 2), unless: (2, 1) }
    }

    /// The rules that stack the parts of single experts below `from` into stacks below `to`: `parts` are their names there and here.
    pub fn stack_experts(from: &'static str, to: &'static str, parts: &[(&'static str, &'static str)]) -> Vec<Self> {
        parts.iter().map(|(old, new)| Self::Stack { from: join(from, old), to: join(to, new) }).collect()
    }

    /// The rules that drop what is not text.
    pub fn text_only() -> Vec<Self> {
        const OTHERS: [&str; 8] = [
            "**.audio_tower",
            "**.embed_audio",
            "**.embed_vision",
            "**.multi_modal_projector",
            "**.vision_embedder",
            "**.vision_model",
            "**.vision_tower",
            "**.visual",
        ];
        OTHERS.map(Self::Drop).into()
    }

    /// The rules that leave the text model of a model of images or sound, below `language_model`. Files of transformers have
    /// its stack below `model.language_model`, or all of it at the root.
    pub fn language_model() -> Vec<Self> {
        let moves = [
            Self::Rename("model.language_model", "language_model.model"),
            Self::Rename("model", "language_model.model"),
            Self::Rename("lm_head", "language_model.lm_head"),
        ];
        Self::text_only().into_iter().chain(moves).collect()
    }

    /// Applies the rule.
    pub fn apply(&self, tensors: &mut Tensors) -> Result<()> {
        match self {
            Self::Drop(pattern) => tensors.retain(|name, _| below(pattern, name).is_none()),
            Self::DropFrom { stack, first } => {
                let number = |name: &str| name.strip_prefix(stack)?.strip_prefix('.')?.split('.').next()?.parse().ok();
                tensors.retain(|name, _| number(name).is_none_or(|number: usize| number < *first));
            }
            Self::Rename(from, to) => rename(tensors, from, to),
            Self::Leaf(pattern) => {
                let names = matching(tensors, pattern).map(|(name, _)| name.clone()).collect::<Vec<_>>();
                for name in names {
                    if let Some(array) = tensors.remove(&name) {
                        tensors.insert(join(&name, "weight"), array);
                    }
                }
            }
            Self::Stack { from, to } => stack(tensors, from, to)?,
            Self::Split { leaf, into } => {
                let names: Vec<&str> = into.iter().map(|(name, _)| *name).collect();
                let mut end = 0;
                let ends: Vec<i32> = into
                    .iter()
                    .map(|(_, size)| {
                        end += size;
                        end
                    })
                    .collect();
                cut(tensors, leaf, &names, |length| (length == end).then(|| ends[..ends.len() - 1].to_vec()))?;
            }
            Self::Halve { leaf, into } => cut(tensors, leaf, into, |length| Some(vec![length / 2]))?,
            Self::SwapAxes { tensor, axes, unless } => {
                for (_, array) in matching(tensors, tensor) {
                    let axis = usize::try_from(unless.0).unwrap_or(0);
                    if array.shape().get(axis).is_some_and(|&length| length != unless.1) {
                        *array = array.swap_axes(axes.0, axes.1)?;
                    }
                }
            }
            Self::CutExperts { from, to, transposed } => cut_experts(tensors, from, to, *transposed)?,
            Self::AddOne(pattern) => {
                for (_, array) in matching(tensors, pattern) {
                    *array = array.add(Array::from_f32(1.0).as_dtype(array.dtype())?)?;
                }
            }
            Self::Custom(f) => f(tensors)?,
        }
        Ok(())
    }
}

/// The tensors whose whole name matches.
pub(crate) fn matching<'a>(
    tensors: &'a mut Tensors,
    pattern: &str,
) -> impl Iterator<Item = (&'a String, &'a mut Array)> {
    tensors.iter_mut().filter(move |(name, _)| captures(pattern, name).is_some())
}

fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    let moved: Vec<(String, String)> = tensors
        .keys()
        .filter_map(|name| {
            let (wild, rest) = below(from, name)?;
            Some((name.clone(), join(&fill(to, &wild), rest)))
        })
        .collect();
    for (old, new) in moved {
        if let Some(array) = tensors.remove(&old) {
            tensors.insert(new, array);
        }
    }
}

fn stack(tensors: &mut Tensors, from: &str, to: &str) -> Result<()> {
    // For each stack, its experts by number, so that the tenth comes after the ninth.
    let mut stacks: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
    for name in tensors.keys() {
        let Some((mut wild, leaf)) = below(from, name).filter(|(_, leaf)| !leaf.is_empty()) else { continue };
        let Some(Ok(expert)) = wild.pop().map(str::parse::<usize>) else { continue };
        stacks.entry(join(&fill(to, &wild), leaf)).or_default().insert(expert, name.clone());
    }
    for (target, experts) in stacks {
        // A gap in the numbers leaves the experts as they are, to be reported as left over.
        if experts.keys().copied().ne(0..experts.len()) {
            continue;
        }
        let arrays: Vec<Array> = experts.values().filter_map(|name| tensors.remove(name)).collect();
        tensors.insert(target, ops::stack(&arrays, 0)?);
    }
    Ok(())
}

/// Cuts the tensors of the leaves that match along their outputs; `ends` are the cuts of so many outputs, if it can be cut.
fn cut(tensors: &mut Tensors, leaf: &str, names: &[&str], ends: impl Fn(i32) -> Option<Vec<i32>>) -> Result<()> {
    let found: Vec<(String, String)> = tensors
        .keys()
        .filter_map(|name| {
            let (path, part) = name.rsplit_once('.')?;
            captures(leaf, path)?;
            Some((path.to_owned(), part.to_owned()))
        })
        .collect();
    for (path, part) in found {
        let name = join(&path, &part);
        let Some(array) = tensors.get(&name) else { continue };
        // Outputs are the axis before the last, but of a bias, which has no inputs.
        let axis: i32 = if part == "bias" { -1 } else { -2 };
        if array.ndim() < axis.unsigned_abs() as usize {
            continue;
        }
        let Some(ends) = ends(array.dim(axis)) else { continue };
        let parts = ops::split_at_indices(array, &ends, axis)?;
        tensors.remove(&name);
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        for (new, array) in names.iter().zip(parts) {
            tensors.insert(join(&join(parent, new), &part), array);
        }
    }
    Ok(())
}

fn cut_experts(tensors: &mut Tensors, from: &str, to: &str, transposed: bool) -> Result<()> {
    for (old, new) in [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])] {
        let pattern = join(from, old);
        let found: Vec<(String, String)> = tensors
            .keys()
            .filter_map(|name| Some((name.clone(), fill(to, &captures(&pattern, name)?))))
            .filter(|(name, _)| tensors.get(name).is_some_and(|array| array.ndim() == 3))
            .collect();
        for (name, to) in found {
            let Some(array) = tensors.remove(&name) else { continue };
            let array = if transposed { array.swap_axes(-1, -2)? } else { array };
            let parts = match new.len() {
                2 => ops::split_at_indices(&array, &[array.dim(-2) / 2], -2)?,
                _ => vec![array],
            };
            for (part, array) in new.iter().zip(parts) {
                tensors.insert(format!("{to}.{part}.weight"), array);
            }
        }
    }
    Ok(())
}

/// What the wildcards of `pattern` stand for, and the rest of the name, if `name` or a path above it matches.
fn below<'a>(pattern: &str, name: &'a str) -> Option<(Vec<&'a str>, &'a str)> {
    if let Some(wild) = captures(pattern, name) {
        return Some((wild, ""));
    }
    let mut end = name.len();
    while let Some(dot) = name[..end].rfind('.') {
        if let Some(wild) = captures(pattern, &name[..dot]) {
            return Some((wild, &name[dot + 1..]));
        }
        end = dot;
    }
    None
}

/// What the wildcards of `pattern` stand for in `name`, if it matches.
fn captures<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    fn matched<'a>(pattern: Option<&str>, name: Option<&'a str>, found: &mut Vec<&'a str>) -> bool {
        let Some(pattern) = pattern else { return name.is_none() };
        let (part, rest) = pattern.split_once('.').map_or((pattern, None), |(part, rest)| (part, Some(rest)));
        if part == "**" {
            // Any number of parts, from none on.
            let mut taken = 0;
            loop {
                let before = found.len();
                found.push(name.map_or("", |name| name[..taken].trim_end_matches('.')));
                let left = name.map(|name| &name[taken..]).filter(|left| !left.is_empty());
                if matched(rest, left, found) {
                    return true;
                }
                found.truncate(before);
                let Some(left) = left else { return false };
                taken += left.find('.').map_or(left.len(), |dot| dot + 1);
            }
        }
        let Some(name) = name else { return false };
        let (segment, others) = name.split_once('.').map_or((name, None), |(segment, rest)| (segment, Some(rest)));
        if part == "*" {
            found.push(segment);
            return matched(rest, others, found) || {
                found.pop();
                false
            };
        }
        part == segment && matched(rest, others, found)
    }
    let mut found = Vec::new();
    matched(Some(pattern), Some(name), &mut found).then_some(found)
}

/// `pattern` with its wildcards replaced, in order.
fn fill(pattern: &str, wild: &[&str]) -> String {
    let mut wild = wild.iter();
    let fill = |segment| match segment {
        "*" | "**" => wild.next().copied().unwrap_or_default(),
        literal => literal,
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
            assert_eq!(all.keys().collect::<Vec<_>>(), after, "{rule:?}");
        }
    }

    fn stack() -> Rule {
        Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch", &[("w1", "gate")]).remove(0)
    }

    #[test]
    fn drop_takes_whole_paths() {
        check(Rule::Drop("**.rotary_emb.inv_freq"), &["a.b.rotary_emb.inv_freq", "a.inv_freq"], &["a.inv_freq"]);
        check(Rule::Drop("vision_tower"), &["model.vision_tower.x", "vision_tower.a.b"], &["model.vision_tower.x"]);
    }

    #[test]
    fn blocks_from_a_number_on_are_dropped() {
        let rule = Rule::DropFrom { stack: "model.layers", first: 2 };
        check(rule, &["model.layers.1.a", "model.layers.10.a", "model.layers.2.a"], &["model.layers.1.a"]);
    }

    #[test]
    fn renaming_carries_wildcards_and_what_lies_below() {
        let rule = Rule::Rename("transformer.h.*.attn", "model.layers.*.self_attn");
        check(rule, &["transformer.h.3.attn.q.weight"], &["model.layers.3.self_attn.q.weight"]);
        check(Rule::Rename("model.language_model.**", "model.**"), &["model.language_model.a.b"], &["model.a.b"]);
    }

    #[test]
    fn a_bare_stack_becomes_a_leaf_and_a_leaf_stays() {
        check(Rule::Leaf("**.down"), &["a.down", "b.down.scales"], &["a.down.weight", "b.down.scales"]);
    }

    #[test]
    fn experts_are_stacked_with_all_their_tensors() {
        let before = ["l.0.mlp.experts.0.w1.scales", "l.0.mlp.experts.0.w1.weight", "l.0.mlp.experts.1.w1.weight"];
        check(stack(), &before, &["l.0.mlp.switch.gate.scales", "l.0.mlp.switch.gate.weight"]);
    }

    #[test]
    fn experts_are_stacked_by_number() {
        let mut all: Tensors =
            (0..11).map(|i| (format!("l.mlp.experts.{i}.w1.weight"), Array::from_slice(&[i as f32], &[1]))).collect();
        stack().apply(&mut all).unwrap();
        let stacked = &all["l.mlp.switch.gate.weight"];
        assert_eq!(stacked.to_vec_exact::<f32>().unwrap(), (0..11).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_in_the_experts_is_left_to_be_reported() {
        check(stack(), &["l.mlp.experts.1.w1.weight"], &["l.mlp.experts.1.w1.weight"]);
    }

    #[test]
    fn leaves_are_cut_along_their_outputs() {
        let rows: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let all = |rows: &[f32]| -> Tensors {
            [
                ("l.qkv.bias".to_owned(), Array::from_slice(&rows[..4], &[4])),
                ("l.qkv.weight".to_owned(), Array::from_slice(rows, &[4, 3])),
            ]
            .into()
        };
        let mut cut = all(&rows);
        Rule::Split { leaf: "**.qkv", into: vec![("q", 1), ("kv", 3)] }.apply(&mut cut).unwrap();
        assert_eq!(cut.keys().collect::<Vec<_>>(), ["l.kv.bias", "l.kv.weight", "l.q.bias", "l.q.weight"]);
        assert_eq!(cut["l.kv.bias"].to_vec_cast::<f32>().unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(cut["l.q.weight"].to_vec_cast::<f32>().unwrap(), [0.0, 1.0, 2.0]);
        let mut halved = all(&rows);
        Rule::Halve { leaf: "l.qkv", into: ["gate", "up"] }.apply(&mut halved).unwrap();
        assert_eq!(halved["l.up.weight"].to_vec_cast::<f32>().unwrap(), &rows[6..]);
    }

    #[test]
    fn fused_experts_are_cut_and_turned() {
        let all = |transposed: bool| -> Tensors {
            let of = |rows: i32, columns: i32| {
                let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
                let array = Array::from_slice(&values, &[1, rows, columns]);
                if transposed { array.swap_axes(1, 2).unwrap() } else { array }
            };
            [("l.experts.down_proj".to_owned(), of(3, 2)), ("l.experts.gate_up_proj".to_owned(), of(4, 3))].into()
        };
        for transposed in [false, true] {
            let mut cut = all(transposed);
            let rule = Rule::CutExperts { from: "**.experts", to: "**.experts", transposed };
            for _ in 0..2 {
                rule.apply(&mut cut).unwrap();
                let names = ["down_proj", "gate_proj", "up_proj"].map(|name| format!("l.experts.{name}.weight"));
                assert!(cut.keys().eq(names.iter()), "{:?}", cut.keys());
                assert_eq!(cut[&names[0]].shape(), [1, 3, 2]);
                assert_eq!(cut[&names[2]].to_vec_cast::<f32>().unwrap(), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
            }
        }
    }

    #[test]
    fn a_text_model_is_left_below_its_prefix() {
        let before = ["lm_head.a", "model.language_model.layers.0.a", "model.visual.a", "multi_modal_projector.a"];
        let mut all = tensors(&before);
        for _ in 0..2 {
            for rule in Rule::language_model() {
                rule.apply(&mut all).unwrap();
            }
            assert!(all.keys().eq(["language_model.lm_head.a", "language_model.model.layers.0.a"]), "{:?}", all.keys());
        }
    }

    #[test]
    fn a_name_of_many_parts_is_matched_in_time() {
        let name = "a.".repeat(20_000) + "b";
        assert!(captures("**.experts.*.w1", &name).is_none());
        assert_eq!(captures("**.b", &name).map(|wild| wild[0].len()), Some(39_999));
    }
}
