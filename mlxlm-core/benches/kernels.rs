//! Single operations in the sizes of Llama-3.2-1B, in bf16: `cargo bench --package mlxlm-core`.
//!
//! They go through the public functions, so the building of their graphs is part of what is measured, some microseconds. A
//! word behind `--` runs those whose names contain it; `MLXLM_ISA` and `MLXLM_THREADS` are as everywhere.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use mlxlm_core::fast::{self, Attention, Causal, Sight, Stored};
use mlxlm_core::nn::{self, Linear, Matrix};
use mlxlm_core::quant::{self, Mode, Scheme};
use mlxlm_core::{Array, Dtype, Exception, random};

const HIDDEN: i32 = 2048;
const INTERMEDIATE: i32 = 8192;
const HEADS: i32 = 32;
const KV_HEADS: i32 = 8;
const HEAD_DIM: i32 = 64;
const VOCAB: i32 = 128_256;

fn main() {
    let short = Criterion::default().sample_size(20);
    let short = short.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let mut criterion = short.configure_from_args();
    quantized(&mut criterion);
    schemes(&mut criterion);
    dense(&mut criterion);
    experts(&mut criterion);
    attention(&mut criterion);
    rows(&mut criterion);
    vocabulary(&mut criterion);
    criterion.final_summary();
}

/// Measures an operation, in bytes a second of what it reads at least.
fn bench(criterion: &mut Criterion, name: &str, bytes: usize, mut operation: impl FnMut() -> Result<Array, Exception>) {
    let mut group = criterion.benchmark_group("kernels");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let result = operation().and_then(|result| result.eval().map(|()| result));
            black_box(result.expect("shapes that fit"))
        });
    });
    group.finish();
}

/// Normal numbers in bf16.
fn normal(shape: &[i32]) -> Array {
    let drawn = random::normal::<f32>(shape, None, None, None);
    let narrow = drawn.and_then(|drawn| drawn.as_dtype(Dtype::Bfloat16)).expect("any shape can be drawn");
    narrow.eval().expect("memory for the inputs");
    narrow
}

/// `[m, D] @ [8192, D]ᵀ` with 4 bits in groups of 64.
fn quantized(criterion: &mut Criterion) {
    let scheme = Scheme::new(Mode::Affine, 4, 64).expect("a scheme of MLX");
    let packed = quant::quantize(&normal(&[INTERMEDIATE, HIDDEN]), scheme).expect("a matrix of whole groups");
    let mut linear = Linear { weight: Matrix::Packed(packed, scheme), bias: None, adapter: None };
    nn::arrange(&mut linear).expect("memory for the matrix");
    let bytes = (INTERMEDIATE * HIDDEN) as usize * 9 / 16;
    for m in [1, 4, 16, 64, 512] {
        let x = normal(&[m, HIDDEN]);
        let name = format!("quantized matmul, {m} × 2048 × 8192");
        bench(criterion, &name, bytes, || linear.forward(&x));
    }
    let Matrix::Panels(panels) = &linear.weight else { return };
    let gradient = normal(&[512, INTERMEDIATE]);
    bench(criterion, "gradient of quantized matmul, 512 × 2048 × 8192", bytes, || panels.matmul(&gradient, false));
}

/// One row with 16,384 × 8192 in every scheme, more than the caches hold, in panels as models have them.
fn schemes(criterion: &mut Criterion) {
    const SCHEMES: [(Mode, i32, i32); 11] = [
        (Mode::Affine, 2, 64),
        (Mode::Affine, 3, 64),
        (Mode::Affine, 4, 32),
        (Mode::Affine, 4, 64),
        (Mode::Affine, 4, 128),
        (Mode::Affine, 5, 64),
        (Mode::Affine, 6, 64),
        (Mode::Affine, 8, 64),
        (Mode::Mxfp4, 4, 32),
        (Mode::Mxfp8, 8, 32),
        (Mode::Nvfp4, 4, 16),
    ];
    for (mode, bits, group_size) in SCHEMES {
        for dtype in [Dtype::Bfloat16, Dtype::Float32] {
            let of_dtype = |array: Array| array.as_dtype(dtype).expect("a type of floats");
            let scheme = Scheme::new(mode, bits, group_size).expect("a scheme of MLX");
            let weight = of_dtype(normal(&[2 * INTERMEDIATE, 4 * HIDDEN]));
            let packed = quant::quantize(&weight, scheme).expect("a matrix of whole groups");
            let bytes =
                packed.weight.nbytes() + packed.scales.nbytes() + packed.biases.as_ref().map_or(0, Array::nbytes);
            let mut linear = Linear { weight: Matrix::Packed(packed, scheme), bias: None, adapter: None };
            nn::arrange(&mut linear).expect("memory for the matrix");
            let x = of_dtype(normal(&[1, 4 * HIDDEN]));
            let name = format!("one row, {} {bits} bits of {group_size}, {dtype:?}", mode.name());
            bench(criterion, &name, bytes, || linear.forward(&x));
        }
    }
}

/// `[m, D] @ [8192, D]ᵀ` without quantization.
fn dense(criterion: &mut Criterion) {
    let weight = normal(&[INTERMEDIATE, HIDDEN]);
    for m in [1, 16, 512] {
        let x = normal(&[m, HIDDEN]);
        bench(criterion, &format!("linear, {m} × 2048 × 8192"), weight.nbytes(), || fast::linear(&x, &weight));
    }
}

/// Two of 8 experts of 1024 × 2048 for each token.
fn experts(criterion: &mut Criterion) {
    let weight = normal(&[8, 1024, HIDDEN]);
    for m in [1, 64] {
        let x = normal(&[m, 1, 1, HIDDEN]);
        let choice: Vec<u32> = (0..m as u32).flat_map(|token| [token % 8, (3 * token + 5) % 8]).collect();
        let indices = Array::from_slice(&choice, &[m, 2]);
        let bytes = weight.nbytes() / 8 * if m == 1 { 2 } else { 8 };
        bench(criterion, &format!("two of 8 experts, {m} × 2048 × 1024"), bytes, || {
            fast::gather_linear(&x, &weight, &indices, false)
        });
    }
}

/// One query against long contexts, and a prompt against itself.
fn attention(criterion: &mut Criterion) {
    for (queries, keys) in [(1, 4096), (1, 16_384), (512, 512)] {
        let q = normal(&[1, HEADS, queries, HEAD_DIM]);
        let [k, v] = [(); 2].map(|()| normal(&[1, KV_HEADS, keys, HEAD_DIM]));
        let scale = (HEAD_DIM as f32).sqrt().recip();
        let name = format!("attention, {queries} × {keys}");
        bench(criterion, &name, k.nbytes() + v.nbytes(), || {
            let sight = Sight::Causal(Causal::default());
            fast::attend(&q, Stored::Plain(&k), Stored::Plain(&v), &Attention { scale, sight, ..Attention::default() })
        });
    }
}

/// What is done to each token between the products.
fn rows(criterion: &mut Criterion) {
    for tokens in [1, 512] {
        let (x, weight) = (normal(&[1, tokens, HIDDEN]), normal(&[HIDDEN]));
        bench(criterion, &format!("RMS norm, {tokens} × 2048"), x.nbytes(), || {
            fast::rms_norm(&x, Some(&weight), 1e-5)
        });
        let q = normal(&[1, HEADS, tokens, HEAD_DIM]);
        bench(criterion, &format!("RoPE, 32 × {tokens} × 64"), q.nbytes(), || {
            fast::rope(&q, HEAD_DIM, false, Some(5e5), 1.0, 4096, None)
        });
        let [gate, up] = [(); 2].map(|()| normal(&[1, tokens, INTERMEDIATE]));
        bench(criterion, &format!("SwiGLU, {tokens} × 8192"), 2 * gate.nbytes(), || fast::swiglu(&gate, &up));
    }
}

/// What is done to the logits.
fn vocabulary(criterion: &mut Criterion) {
    let logits = normal(&[1, VOCAB]);
    bench(criterion, "logsumexp, 128256", logits.nbytes(), || fast::logsumexp(&logits));
    bench(criterion, "argmax, 128256", logits.nbytes(), || fast::argmax(&logits));
    bench(criterion, "top-p, 128256", logits.nbytes(), || fast::top_p(&logits, 0.9));
}
