//! Walking a model: every leaf under its path, which is its checkpoint name.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{Conv1d, Embedding, ExpertLinear, Linear, Matrix, Norm};
use crate::fast;
use crate::pages::Arena;

/// A leaf of a model, open to change.
#[derive(Debug)]
#[non_exhaustive]
pub enum Leaf<'a> {
    /// A linear map.
    Linear(&'a mut Linear),
    /// An embedding table.
    Embedding(&'a mut Embedding),
    /// A stack of linear maps, one for each expert.
    Experts(&'a mut ExpertLinear),
    /// A norm.
    Norm(&'a mut Norm),
    /// A convolution over tokens.
    Conv1d(&'a mut Conv1d),
    /// A parameter that stands alone; its path is its whole name.
    Parameter(&'a mut Array),
}

impl Leaf<'_> {
    /// The leaf's parameters by the names that they have in a checkpoint.
    ///
    /// Those of an adapter are `lora_a`, `lora_b` and `m` beside the leaf's own. A matrix that was [arranged](arrange) is turned
    /// back into the arrays of a checkpoint, and stays so.
    pub fn parameters(self, path: &str, visit: &mut dyn FnMut(String, &mut Array)) {
        let mut visit = |name: &str, array: &mut Array| visit(join(path, name), array);
        match self {
            Self::Linear(leaf) => leaf.parameters(&mut visit),
            Self::Embedding(leaf) => leaf.parameters(&mut visit),
            Self::Experts(leaf) => leaf.parameters(&mut visit),
            Self::Norm(leaf) => leaf.parameters(&mut visit),
            Self::Conv1d(leaf) => leaf.parameters(&mut visit),
            Self::Parameter(array) => visit("", array),
        }
    }

    /// The leaf's weight matrix or stack of them, if it has one that can be packed.
    pub fn matrix(&mut self) -> Option<&mut Matrix> {
        match self {
            Self::Linear(leaf) => Some(&mut leaf.weight),
            Self::Embedding(leaf) => Some(&mut leaf.weight),
            Self::Experts(leaf) => Some(&mut leaf.weight),
            Self::Norm(_) | Self::Conv1d(_) | Self::Parameter(_) => None,
        }
    }

    /// The leaf's parameters but those of its [matrix](Self::matrix).
    fn others(self, visit: &mut dyn FnMut(&Array)) {
        let mut visit = |_: &str, array: &mut Array| visit(array);
        match self {
            Self::Linear(leaf) => leaf.others(&mut visit),
            Self::Embedding(leaf) => leaf.others(&mut visit),
            Self::Experts(leaf) => leaf.others(&mut visit),
            Self::Norm(leaf) => leaf.parameters(&mut visit),
            Self::Conv1d(leaf) => leaf.parameters(&mut visit),
            Self::Parameter(array) => visit("", array),
        }
    }
}

/// A part of a model.
pub trait Module {
    /// Shows every leaf below this part, in the order of the model, with its path.
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>));
}

/// All parameters of a model by name, in the order of the model. The arrays are handles, not copies.
pub fn parameters<M: Module + ?Sized>(model: &mut M) -> Vec<(String, Array)> {
    let mut all = Vec::new();
    model.walk("", &mut |path, leaf| leaf.parameters(path, &mut |name, array| all.push((name, array.clone()))));
    all
}

/// How many weights a model has, packed ones counted as they were before packing, and the bytes that they take in a file.
pub fn size<M: Module + ?Sized>(model: &mut M) -> (u64, u64) {
    let (mut count, mut bytes) = (0, 0);
    model.walk("", &mut |_, mut leaf| {
        if let Some(matrix) = leaf.matrix() {
            count += matrix.shape().iter().map(|&n| n as u64).product::<u64>();
            bytes += matrix.nbytes() as u64;
        }
        leaf.others(&mut |array| {
            count += array.size() as u64;
            bytes += array.nbytes() as u64;
        });
    });
    (count, bytes)
}

/// Puts the matrices of a model into huge pages, packed ones in the order in which the CPU's kernels read them: what to do once
/// before text is generated. Results stay the same, bit by bit.
///
/// It takes as long as to read all weights once and to write them. A matrix takes as much memory as before, and what it took before
/// is given back (that of a mapped file too) before the next one is arranged. Where there are no kernels of ours, nothing is done.
pub fn arrange<M: Module + ?Sized>(model: &mut M) -> Result<(), Exception> {
    let (mut arena, mut result) = (Arena::default(), Ok(()));
    if !fast::has_kernels() {
        return result;
    }
    model.walk("", &mut |_, mut leaf| {
        if let (Some(matrix), Ok(())) = (leaf.matrix(), &result) {
            result = matrix.arrange(&mut arena);
        }
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

/// Gives a struct a [`Module::walk`](crate::nn::Module::walk) over the fields named, whose names are those of the
/// checkpoint: `module!(Block { self_attn, mlp });`
#[macro_export]
macro_rules! module {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::nn::Module for $type {
            fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, $crate::nn::Leaf<'a>)) {
                $($crate::nn::Module::walk(&mut self.$field, &$crate::nn::join(path, stringify!($field)), visit);)*
            }
        }
    };
}

macro_rules! leaf {
    ($($type:ty => $variant:ident),*) => {$(
        impl Module for $type {
            fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
                visit(path, Leaf::$variant(self));
            }
        }
    )*};
}

leaf!(Linear => Linear, Embedding => Embedding, ExpertLinear => Experts, Norm => Norm, Conv1d => Conv1d, Array => Parameter);

impl<M: Module> Module for Option<M> {
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        if let Some(module) = self {
            module.walk(path, visit);
        }
    }
}

impl<M: Module> Module for Vec<M> {
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        for (i, module) in self.iter_mut().enumerate() {
            module.walk(&join(path, &i.to_string()), visit);
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
        Linear { weight, bias: None, adapter: None }
    }

    #[test]
    fn what_is_arranged_computes_the_same_and_comes_back() {
        let mut model = vec![linear(48), linear(20), linear(30)];
        model[2].weight.dequantize().unwrap();
        model[1].bias = Some(mlx_rs::ops::ones_dtype(&[20], Dtype::Bfloat16).unwrap());
        let (before, of_rows) = (parameters(&mut model), size(&mut model));
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
        assert_eq!(size(&mut model), of_rows);
        assert_eq!(matches!(model[0].weight, Matrix::Panels(_)), in_panels);
        let after = parameters(&mut model);
        assert!(matches!(model[0].weight, Matrix::Packed(..)) && after.len() == before.len());
        for ((name, before), (other, after)) in before.iter().zip(&after) {
            assert!(name == other && before.eq_values(after).unwrap(), "{name}");
        }
    }
}
