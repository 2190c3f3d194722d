//! Walking a model: every leaf under its path, which is its checkpoint name.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{Conv1d, Embedding, ExpertLinear, HeadLinear, Linear, Matrix, Norm, Parameter, Worth};
use crate::fast;
use crate::pages::Arena;

/// A leaf of a model.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Leaf<'a> {
    /// A linear map.
    Linear(&'a Linear),
    /// An embedding table.
    Embedding(&'a Embedding),
    /// A stack of linear maps, one for each expert.
    Experts(&'a ExpertLinear),
    /// A stack of linear maps, one for each head.
    Heads(&'a HeadLinear),
    /// A norm.
    Norm(&'a Norm),
    /// A convolution over tokens.
    Conv1d(&'a Conv1d),
    /// A parameter that stands alone; its path is its whole name.
    Parameter(&'a Parameter),
}

impl<'a> Leaf<'a> {
    /// The leaf's weight matrix or stack of them, if it has one that can be packed.
    pub fn matrix(self) -> Option<&'a Matrix> {
        match self {
            Self::Linear(leaf) => Some(&leaf.weight),
            Self::Embedding(leaf) => Some(&leaf.weight),
            Self::Experts(leaf) => Some(&leaf.weight),
            Self::Heads(leaf) => Some(&leaf.weight),
            Self::Norm(_) | Self::Conv1d(_) | Self::Parameter(_) => None,
        }
    }

    /// What the leaf is worth.
    pub fn worth(self) -> Worth {
        match self {
            Self::Linear(leaf) => leaf.worth,
            Self::Embedding(leaf) => leaf.worth,
            Self::Experts(leaf) => leaf.worth,
            Self::Heads(leaf) => leaf.worth,
            Self::Parameter(leaf) => leaf.worth,
            Self::Norm(_) | Self::Conv1d(_) => Worth::default(),
        }
    }

    /// The leaf's parameters but those of its [matrix](Self::matrix).
    pub fn others(self) -> Vec<(&'static str, &'a Array)> {
        match self {
            Self::Linear(leaf) => leaf.others(),
            Self::Embedding(leaf) => leaf.others(),
            Self::Experts(leaf) => leaf.others(),
            Self::Heads(_) => Vec::new(),
            Self::Norm(leaf) => leaf.parameters(),
            Self::Conv1d(leaf) => leaf.parameters(),
            Self::Parameter(leaf) => vec![("", &leaf.value)],
        }
    }
}

/// A leaf of a model, open to change.
#[derive(Debug)]
#[non_exhaustive]
pub enum LeafMut<'a> {
    /// A linear map.
    Linear(&'a mut Linear),
    /// An embedding table.
    Embedding(&'a mut Embedding),
    /// A stack of linear maps, one for each expert.
    Experts(&'a mut ExpertLinear),
    /// A stack of linear maps, one for each head.
    Heads(&'a mut HeadLinear),
    /// A norm.
    Norm(&'a mut Norm),
    /// A convolution over tokens.
    Conv1d(&'a mut Conv1d),
    /// A parameter that stands alone; its path is its whole name.
    Parameter(&'a mut Parameter),
}

impl LeafMut<'_> {
    /// The leaf, to be read.
    pub fn as_ref(&self) -> Leaf<'_> {
        match self {
            Self::Linear(leaf) => Leaf::Linear(leaf),
            Self::Embedding(leaf) => Leaf::Embedding(leaf),
            Self::Experts(leaf) => Leaf::Experts(leaf),
            Self::Heads(leaf) => Leaf::Heads(leaf),
            Self::Norm(leaf) => Leaf::Norm(leaf),
            Self::Conv1d(leaf) => Leaf::Conv1d(leaf),
            Self::Parameter(leaf) => Leaf::Parameter(leaf),
        }
    }

    /// The leaf's parameters by the names that they have in a checkpoint.
    ///
    /// Those of an adapter are `lora_a`, `lora_b` and `m` beside the leaf's own. A matrix that was [arranged](arrange) is turned
    /// back into the arrays of a checkpoint, and stays so.
    pub fn parameters(self, path: &str, visit: &mut dyn FnMut(String, &mut Array)) {
        let mut visit = |name: &str, array: &mut Array| visit(join(path, name), array);
        match self {
            Self::Linear(leaf) => leaf.parameters_mut(&mut visit),
            Self::Embedding(leaf) => leaf.parameters_mut(&mut visit),
            Self::Experts(leaf) => leaf.parameters_mut(&mut visit),
            Self::Heads(leaf) => leaf.weight.parameters(&mut visit),
            Self::Norm(leaf) => leaf.parameters_mut(&mut visit),
            Self::Conv1d(leaf) => leaf.parameters_mut(&mut visit),
            Self::Parameter(leaf) => visit("", &mut leaf.value),
        }
    }

    /// The leaf's weight matrix or stack of them, if it has one that can be packed.
    pub fn matrix(&mut self) -> Option<&mut Matrix> {
        match self {
            Self::Linear(leaf) => Some(&mut leaf.weight),
            Self::Embedding(leaf) => Some(&mut leaf.weight),
            Self::Experts(leaf) => Some(&mut leaf.weight),
            Self::Heads(leaf) => Some(&mut leaf.weight),
            Self::Norm(_) | Self::Conv1d(_) | Self::Parameter(_) => None,
        }
    }

    /// Shows the leaf's parameters but those of its [matrix](Self::matrix).
    fn others(self, visit: &mut dyn FnMut(&mut Array)) {
        let mut visit = |_: &str, array: &mut Array| visit(array);
        match self {
            Self::Linear(leaf) => leaf.others_mut(&mut visit),
            Self::Embedding(leaf) => leaf.others_mut(&mut visit),
            Self::Experts(leaf) => leaf.others_mut(&mut visit),
            Self::Heads(_) => {}
            Self::Norm(leaf) => leaf.parameters_mut(&mut visit),
            Self::Conv1d(leaf) => leaf.parameters_mut(&mut visit),
            Self::Parameter(leaf) => visit("", &mut leaf.value),
        }
    }
}

/// A part of a model. [`module!`](crate::module) writes both walks.
pub trait Module {
    /// Shows every leaf below this part, in the order of the model, with its path.
    fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>));

    /// As [`walk`](Self::walk), open to change.
    fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, LeafMut<'a>));
}

/// All parameters of a model by name, in the order of the model. The arrays are handles, not copies.
pub fn parameters<M: Module + ?Sized>(model: &mut M) -> Vec<(String, Array)> {
    let mut all = Vec::new();
    model.walk_mut("", &mut |path, leaf| leaf.parameters(path, &mut |name, array| all.push((name, array.clone()))));
    all
}

/// How many weights a model has, packed ones counted as they were before packing, and the bytes that they take in a file.
pub fn size<M: Module + ?Sized>(model: &M) -> (u64, u64) {
    let (mut count, mut bytes) = (0, 0);
    model.walk("", &mut |_, leaf| {
        if let Some(matrix) = leaf.matrix() {
            count += matrix.shape().iter().map(|&n| n as u64).product::<u64>();
            bytes += matrix.nbytes() as u64;
        }
        for (_, array) in leaf.others() {
            count += array.size() as u64;
            bytes += array.nbytes() as u64;
        }
    });
    (count, bytes)
}

/// Puts the matrices of a model into huge pages, packed ones in the order in which the CPU's kernels read them: what to do once
/// before text is generated. Results stay the same, bit by bit.
///
/// It takes as long as to read all weights once and to write them. A matrix takes as much memory as before, and what it took before
/// is given back (that of a mapped file too) before the next one is arranged. All other parameters are copied too, so that nothing of
/// the model lies in a mapped file afterwards: whatever becomes of the file, the model runs on. Where there are no kernels of ours,
/// nothing is done.
pub fn arrange<M: Module + ?Sized>(model: &mut M) -> Result<(), Exception> {
    let (mut arena, mut result) = (Arena::default(), Ok(()));
    if !fast::has_kernels() {
        return result;
    }
    model.walk_mut("", &mut |_, mut leaf| {
        if let (Some(matrix), Ok(())) = (leaf.matrix(), &result) {
            result = matrix.arrange(&mut arena);
        }
        leaf.others(&mut |array| {
            if result.is_ok() && array.size() > 0 {
                result = arena.copy(array).map(|copy| *array = copy);
            }
        });
    });
    result
}

/// `path.name`, or the one of the two that is not empty.
pub fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

/// Gives a struct the walks of a [`Module`] over the fields named.
///
/// A field's name is that of the checkpoint; `as` gives it another: a literal, an empty one for a field whose leaves lie at the
/// path of the struct itself, or a field of a field that holds names. The variants of an `enum` lie at its own path.
///
/// ```ignore
/// module!(Block { self_attn, mlp as "feed_forward", norm as names.norm });
/// module!(enum FeedForward { Dense, Sparse });
/// ```
#[macro_export]
macro_rules! module {
    (enum $type:ty { $($variant:ident),* $(,)? }) => {
        impl $crate::nn::Module for $type {
            fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, $crate::nn::Leaf<'a>)) {
                match self {
                    $(Self::$variant(part) => $crate::nn::Module::walk(part, path, visit),)*
                }
            }

            fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, $crate::nn::LeafMut<'a>)) {
                match self {
                    $(Self::$variant(part) => $crate::nn::Module::walk_mut(part, path, visit),)*
                }
            }
        }
    };
    ($type:ty { $($field:ident $(as $name:tt $(. $part:ident)?)?),* $(,)? }) => {
        impl $crate::nn::Module for $type {
            fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, $crate::nn::Leaf<'a>)) {
                let _ = (path, &visit);
                $({
                    let name = $crate::module!(@name self $field $($name $(. $part)?)?);
                    $crate::nn::Module::walk(&self.$field, &$crate::nn::join(path, name), visit);
                })*
            }

            fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, $crate::nn::LeafMut<'a>)) {
                let _ = (path, &visit);
                $({
                    let name = $crate::module!(@name self $field $($name $(. $part)?)?);
                    $crate::nn::Module::walk_mut(&mut self.$field, &$crate::nn::join(path, name), visit);
                })*
            }
        }
    };
    (@name $self:ident $field:ident) => { stringify!($field) };
    (@name $self:ident $field:ident $name:literal) => { $name };
    (@name $self:ident $field:ident $names:ident . $part:ident) => { $self.$names.$part };
}

macro_rules! leaf {
    ($($type:ty => $variant:ident),*) => {$(
        impl Module for $type {
            fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
                visit(path, Leaf::$variant(self));
            }

            fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, LeafMut<'a>)) {
                visit(path, LeafMut::$variant(self));
            }
        }
    )*};
}

leaf!(
    Linear => Linear, Embedding => Embedding, ExpertLinear => Experts, HeadLinear => Heads, Norm => Norm,
    Conv1d => Conv1d, Parameter => Parameter
);

impl<M: Module + ?Sized> Module for Box<M> {
    fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        (**self).walk(path, visit);
    }

    fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, LeafMut<'a>)) {
        (**self).walk_mut(path, visit);
    }
}

impl<M: Module> Module for Option<M> {
    fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        if let Some(module) = self {
            module.walk(path, visit);
        }
    }

    fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, LeafMut<'a>)) {
        if let Some(module) = self {
            module.walk_mut(path, visit);
        }
    }
}

impl<M: Module> Module for Vec<M> {
    fn walk<'a>(&'a self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        for (i, module) in self.iter().enumerate() {
            module.walk(&join(path, &i.to_string()), visit);
        }
    }

    fn walk_mut<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, LeafMut<'a>)) {
        for (i, module) in self.iter_mut().enumerate() {
            module.walk_mut(&join(path, &i.to_string()), visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::{Dtype, random};

    use super::*;
    use crate::quant::Mode;

    fn linear(output: i32) -> Linear {
        let weight = random::normal::<f32>(&[output, 128], None, None, &random::key(7).unwrap()).unwrap();
        let mut weight = Matrix::Dense(weight.as_dtype(Dtype::Bfloat16).unwrap());
        weight.quantize(Mode::Affine.default_scheme()).unwrap();
        Linear::new(weight, None)
    }

    #[test]
    fn what_is_arranged_computes_the_same_and_comes_back() {
        let mut model = vec![linear(48), linear(20), linear(30)];
        model[2].weight.dequantize().unwrap();
        model[1].bias = Some(mlx_rs::ops::ones_dtype(&[20], Dtype::Bfloat16).unwrap());
        let (before, of_rows) = (parameters(&mut model), size(&model));
        let x = random::normal::<f32>(&[2, 128], None, None, None).unwrap().as_dtype(Dtype::Bfloat16).unwrap();
        let outputs = |model: &[Linear]| [0, 1, 2].map(|i| model[i].forward(&x).unwrap());
        let want = outputs(&model);
        arrange(&mut model).unwrap();
        let in_panels = matches!(model[0].weight, Matrix::Panels(_));
        assert_eq!(in_panels, fast::has_kernels());
        let at_once = Linear::forward_all([&model[0], &model[1]], &x).unwrap();
        for (want, got) in want.iter().zip(&outputs(&model)).chain(want.iter().zip(&at_once)) {
            assert!(want.eq_values(got).unwrap());
        }
        // Counting leaves matrices as they are; showing their arrays turns them back.
        assert_eq!(size(&model), of_rows);
        assert_eq!(matches!(model[0].weight, Matrix::Panels(_)), in_panels);
        let after = parameters(&mut model);
        assert!(matches!(model[0].weight, Matrix::Packed(..)) && after.len() == before.len());
        for ((name, before), (other, after)) in before.iter().zip(&after) {
            assert!(name == other && before.eq_values(after).unwrap(), "{name}");
        }
    }
}
