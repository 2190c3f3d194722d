//! Single operations in the sizes of Llama-3.2-1B: `cargo bench --package mlxlm-core`.
//!
//! They go through the public functions, so the building of their graphs is part of what is measured, some microseconds. A
//! word behind `--` runs those whose names contain it; `MLXLM_ISA` and `MLXLM_THREADS` are as everywhere. Types are bf16 where a
//! name tells none.

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use mlxlm_core::fast::{self, Activation, Attention, Causal, Scan, Sight, Stored};
use mlxlm_core::nn::{self, Linear, Matrix};
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::{Array, Dtype, Exception, random, transforms};

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
    recurrent(&mut criterion);
    rows(&mut criterion);
    vocabulary(&mut criterion);
    training(&mut criterion);
    criterion.final_summary();
}

/// Measures the operation that `prepare` makes, in bytes a second of what it reads at least.
fn bench<O>(criterion: &mut Criterion, name: &str, bytes: i64, prepare: impl Fn() -> O)
where
    O: Fn() -> Result<Array, Exception>,
{
    let operation = OnceCell::new();
    let mut group = criterion.benchmark_group("kernels");
    group.throughput(Throughput::Bytes(bytes.unsigned_abs()));
    group.bench_function(name, |bencher| {
        let operation = operation.get_or_init(&prepare);
        bencher.iter(|| {
            let result = operation().and_then(|result| result.eval().map(|()| result));
            black_box(result.expect("shapes that fit"))
        });
    });
    group.finish();
}

/// Normal numbers in bf16.
fn normal(shape: &[i32]) -> Array {
    of(Dtype::Bfloat16, shape)
}

/// Normal numbers of a type.
fn of(dtype: Dtype, shape: &[i32]) -> Array {
    let drawn = random::normal::<f32>(shape, None, None, None);
    let drawn = drawn.and_then(|drawn| drawn.as_dtype(dtype)).expect("any shape can be drawn");
    drawn.eval().expect("memory for the inputs");
    drawn
}

fn packed(shape: &[i32], scheme: Scheme, dtype: Dtype) -> Packed {
    quant::quantize(&of(dtype, shape), scheme).expect("rows of whole groups")
}

/// A quantized map in panels, as models have it.
fn map(rows: i32, columns: i32, scheme: Scheme, dtype: Dtype) -> Linear {
    let weight = Matrix::Packed(packed(&[rows, columns], scheme, dtype), scheme);
    let mut linear = Linear::new(weight, None);
    nn::arrange(&mut linear).expect("memory for the matrix");
    linear
}

fn four_bits() -> Scheme {
    Scheme::new(Mode::Affine, 4, 64).expect("a scheme of MLX")
}

/// The bytes of so many numbers of 16 bits.
fn halves(shape: &[i32]) -> i64 {
    2 * shape.iter().map(|size| i64::from(*size)).product::<i64>()
}

/// `[m, D] @ [8192, D]ᵀ` with 4 bits in groups of 64.
fn quantized(criterion: &mut Criterion) {
    let bytes = halves(&[INTERMEDIATE, HIDDEN]) * 9 / 32;
    for m in [1, 4, 16, 64, 512] {
        bench(criterion, &format!("quantized matmul, {m} × 2048 × 8192"), bytes, || {
            let (linear, x) = (map(INTERMEDIATE, HIDDEN, four_bits(), Dtype::Bfloat16), normal(&[m, HIDDEN]));
            move || linear.forward(&x)
        });
    }
    let table = halves(&[64, HIDDEN]) * 9 / 32;
    bench(criterion, "quantized embedding rows, 64 × 2048", table, || {
        let w = packed(&[16_384, HIDDEN], four_bits(), Dtype::Bfloat16);
        let ids = Array::from_slice(&(0..64).map(|i| i * 251).collect::<Vec<i32>>(), &[64]);
        move || quant::quantized_rows(&w, four_bits(), &ids)
    });
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
            let scheme = Scheme::new(mode, bits, group_size).expect("a scheme of MLX");
            let numbers = match (mode, dtype) {
                (Mode::Affine, Dtype::Float32) => 8,
                (Mode::Affine, _) => 4,
                _ => 1,
            };
            let weights = i64::from(2 * INTERMEDIATE) * i64::from(4 * HIDDEN);
            let bytes = weights * i64::from(bits) / 8 + weights / i64::from(group_size) * numbers;
            bench(
                criterion,
                &format!("one row, {} {bits} bits of {group_size}, {dtype:?}", mode.name()),
                bytes,
                || {
                    let linear = map(2 * INTERMEDIATE, 4 * HIDDEN, scheme, dtype);
                    let x = of(dtype, &[1, 4 * HIDDEN]);
                    move || linear.forward(&x)
                },
            );
        }
    }
}

/// `[m, D] @ [8192, D]ᵀ` without quantization.
fn dense(criterion: &mut Criterion) {
    for dtype in [Dtype::Bfloat16, Dtype::Float16, Dtype::Float32] {
        let bytes = halves(&[INTERMEDIATE, HIDDEN]) * if dtype == Dtype::Float32 { 2 } else { 1 };
        for m in [1, 16, 512] {
            bench(criterion, &format!("linear, {m} × 2048 × 8192, {dtype:?}"), bytes, || {
                let (x, weight) = (of(dtype, &[m, HIDDEN]), of(dtype, &[INTERMEDIATE, HIDDEN]));
                move || fast::linear(&x, &weight)
            });
        }
    }
}

/// Two of 8 experts of 1024 × 2048 for each token.
fn experts(criterion: &mut Criterion) {
    let expert = [1024, HIDDEN];
    for m in [1, 64] {
        let choice: Vec<u32> = (0..m as u32).flat_map(|token| [token % 8, (3 * token + 5) % 8]).collect();
        let indices = Array::from_slice(&choice, &[m, 2]);
        let bytes = halves(&expert) * if m == 1 { 2 } else { 8 };
        bench(criterion, &format!("two of 8 experts, {m} × 2048 × 1024"), bytes, || {
            let (x, weight) = (normal(&[m, 1, 1, HIDDEN]), normal(&[8, 1024, HIDDEN]));
            let indices = indices.clone();
            move || fast::gather_linear(&x, &weight, &indices, false)
        });
        bench(criterion, &format!("two of 8 quantized experts, {m} × 2048 × 1024"), bytes * 9 / 32, || {
            let x = normal(&[m, 1, 1, HIDDEN]);
            let weight = packed(&[8, 1024, HIDDEN], four_bits(), Dtype::Bfloat16);
            let indices = indices.clone();
            move || quant::gather_quantized_matmul(&x, &weight, four_bits(), &indices, false)
        });
    }
}

/// Attention to all earlier tokens.
fn causal<'a>(window: Option<i32>) -> Attention<'a> {
    let scale = (HEAD_DIM as f32).sqrt().recip();
    Attention { sight: Sight::causal(Causal { window, ..Causal::default() }), ..Attention::scaled(scale) }
}

/// Layers with a state in the sizes of Qwen3-Next (33.6 million parameters a layer) and of Mamba-2 of 2.7 billion (40 million), and
/// the product with a matrix of as many.
fn recurrent(criterion: &mut Criterion) {
    for tokens in [1, 512] {
        let numbers = |shape: &[i32]| of(Dtype::Float32, shape);
        let share = |shape: &[i32]| fast::activate(Activation::Sigmoid, &numbers(shape)).expect("any number has one");
        bench(criterion, &format!("gated delta rule, {tokens} tokens"), 4 * 32 * 128 * 128, || {
            let qk = normal(&[1, tokens, 16, 128]).multiply(Array::from_f32(0.1)).expect("a number");
            let qk = qk.as_dtype(Dtype::Bfloat16).expect("a float");
            let (v, gate) = (normal(&[1, tokens, 32, 128]), share(&[1, tokens, 32]));
            let state = numbers(&[1, 32, 128, 128]);
            move || fast::gated_delta(&qk, &qk, &v, &gate, &gate, Some(&state), None).map(|(y, _)| y)
        });
        bench(criterion, &format!("scan of Mamba-2, {tokens} tokens"), 4 * 80 * 64 * 128, || {
            let (x, bc, dt) = (normal(&[1, tokens, 80, 64]), normal(&[1, tokens, 1, 128]), share(&[1, tokens, 80]));
            let (a, d) = (share(&[80]).negative().expect("a float"), numbers(&[80]));
            let state = numbers(&[1, 80, 64, 128]);
            move || {
                let scan = Scan { x: &x, dt: &dt, a: &a, b: &bc, c: &bc, d: Some(&d), state: Some(&state), mask: None };
                fast::ssm_scan(&scan).map(|(y, _)| y)
            }
        });
        bench(criterion, &format!("scan of Mamba, {tokens} tokens"), 4 * 8192 * 16, || {
            let (x, bc, dt) = (normal(&[1, tokens, 8192]), normal(&[1, tokens, 16]), share(&[1, tokens, 8192]));
            let (a, d) = (share(&[8192, 16]).negative().expect("a float"), numbers(&[8192]));
            let state = numbers(&[1, 8192, 16]);
            move || {
                let scan = Scan { x: &x, dt: &dt, a: &a, b: &bc, c: &bc, d: Some(&d), state: Some(&state), mask: None };
                fast::selective_scan(&scan).map(|(y, _)| y)
            }
        });
        bench(criterion, &format!("short convolution, {tokens} tokens"), halves(&[tokens, 8192]), || {
            let (x, weight, state) = (normal(&[1, tokens, 8192]), normal(&[8192, 4, 1]), normal(&[1, 3, 8192]));
            move || fast::short_conv(&x, &weight, None, Some(&state), Activation::Silu).map(|(y, _)| y)
        });
        for rows in [16_384, 20_480] {
            bench(criterion, &format!("dense beside, {tokens} × 2048 × {rows}"), halves(&[rows, HIDDEN]), || {
                let (weight, x) = (normal(&[rows, HIDDEN]), normal(&[tokens, HIDDEN]));
                move || fast::linear(&x, &weight)
            });
        }
    }
}

/// One query against long contexts, and a prompt against itself.
fn attention(criterion: &mut Criterion) {
    for (queries, keys) in [(1, 4096), (1, 16_384), (512, 512)] {
        let (of_q, of_kv) = ([1, HEADS, queries, HEAD_DIM], [1, KV_HEADS, keys, HEAD_DIM]);
        bench(criterion, &format!("attention, {queries} × {keys}"), 2 * halves(&of_kv), || {
            let (q, k, v) = (normal(&of_q), normal(&of_kv), normal(&of_kv));
            move || fast::attend(&q, Stored::Plain(&k), Stored::Plain(&v), &causal(None))
        });
        let scheme = Scheme::new(Mode::Affine, 8, 64).expect("a scheme of MLX");
        bench(criterion, &format!("attention, {queries} × {keys} of 8 bits"), halves(&of_kv) * 17 / 16, || {
            let (q, [k, v]) = (normal(&of_q), [(); 2].map(|()| packed(&of_kv, scheme, Dtype::Bfloat16)));
            move || fast::attend(&q, Stored::Packed(&k, scheme), Stored::Packed(&v, scheme), &causal(None))
        });
    }
}

/// What is done to each token between the products.
fn rows(criterion: &mut Criterion) {
    for tokens in [1, 512] {
        let (of_x, of_weight) = ([1, tokens, HIDDEN], [HIDDEN]);
        bench(criterion, &format!("RMS norm, {tokens} × 2048"), halves(&of_x), || {
            let (x, weight) = (normal(&of_x), normal(&of_weight));
            move || fast::rms_norm(&x, Some(&weight), 1e-5)
        });
        bench(criterion, &format!("layer norm, {tokens} × 2048"), halves(&of_x), || {
            let (x, weight, bias) = (normal(&of_x), normal(&of_weight), normal(&of_weight));
            move || fast::layer_norm(&x, Some(&weight), Some(&bias), 1e-5)
        });
        let of_q = [1, HEADS, tokens, HEAD_DIM];
        bench(criterion, &format!("RoPE, 32 × {tokens} × 64"), halves(&of_q), || {
            let q = normal(&of_q);
            move || fast::rope(&q, HEAD_DIM, false, Some(5e5), 1.0, 4096, None)
        });
        let of_gate = [1, tokens, INTERMEDIATE];
        bench(criterion, &format!("SwiGLU, {tokens} × 8192"), 2 * halves(&of_gate), || {
            let (gate, up) = (normal(&of_gate), normal(&of_gate));
            move || fast::swiglu(&gate, &up)
        });
    }
}

/// What is done to the logits.
fn vocabulary(criterion: &mut Criterion) {
    type Function = fn(&Array) -> Result<Array, Exception>;
    const FUNCTIONS: [(&str, Function); 6] = [
        ("softmax", |x| fast::softmax(x, -1)),
        ("logsumexp", fast::logsumexp),
        ("argmax", fast::argmax),
        ("top-k", |x| fast::top_k(x, 40)),
        ("top-p", |x| fast::top_p(x, 0.9)),
        ("min-p", |x| fast::min_p(x, 0.05, 1)),
    ];
    for (name, function) in FUNCTIONS {
        bench(criterion, &format!("{name}, 128256"), halves(&[VOCAB]), || {
            let logits = normal(&[1, VOCAB]);
            move || function(&logits)
        });
    }
}

/// Operations with their gradients, in f32 but for the quantized product, over 512 tokens.
fn training(criterion: &mut Criterion) {
    type Loss<'a> = &'a dyn Fn(&[Array]) -> Result<Array, Exception>;
    const TOKENS: i32 = 512;
    /// The gradients of all inputs, one after the other.
    fn gradients(loss: Loss<'_>, inputs: &[Array]) -> Result<Array, Exception> {
        let all: Vec<i32> = (0..).take(inputs.len()).collect();
        let loss = |x: &[Array]| Ok::<_, Exception>(vec![loss(x)?.sum(None)?]);
        let (_, gradients) = transforms::value_and_grad_with_argnums(loss, all.as_slice())(inputs)?;
        gradients.iter().try_for_each(Array::eval)?;
        gradients.into_iter().next().ok_or_else(|| Exception::custom("there is no input"))
    }
    let wide = |shape: &[i32]| of(Dtype::Float32, shape);
    let bytes = halves(&[INTERMEDIATE, HIDDEN]);
    bench(criterion, "gradient of quantized matmul, 512 × 2048 × 8192", bytes * 9 / 32, || {
        let (linear, gradient) =
            (map(INTERMEDIATE, HIDDEN, four_bits(), Dtype::Bfloat16), normal(&[TOKENS, INTERMEDIATE]));
        move || match &linear.weight {
            Matrix::Panels(panels) => panels.matmul(&gradient, false),
            _ => Err(Exception::custom("the matrix is not in panels")),
        }
    });
    bench(criterion, "linear and gradients, 512 × 2048 × 8192", 2 * bytes, || {
        let inputs = [wide(&[TOKENS, HIDDEN]), wide(&[INTERMEDIATE, HIDDEN])];
        move || gradients(&|x| fast::linear(&x[0], &x[1]), &inputs)
    });
    for window in [None, Some(128)] {
        let name = window.map_or(String::new(), |window| format!(", a window of {window}"));
        let (of_q, of_kv) = ([1, HEADS, TOKENS, HEAD_DIM], [1, KV_HEADS, TOKENS, HEAD_DIM]);
        bench(criterion, &format!("attention and gradients, 512{name}"), 4 * halves(&of_kv), || {
            let inputs = [wide(&of_q), wide(&of_kv), wide(&of_kv)];
            move || {
                let attend =
                    |x: &[Array]| fast::attend(&x[0], Stored::Plain(&x[1]), Stored::Plain(&x[2]), &causal(window));
                gradients(&attend, &inputs)
            }
        });
    }
    bench(criterion, "SwiGLU and gradients, 512 × 8192", 4 * halves(&[TOKENS, INTERMEDIATE]), || {
        let inputs = [(); 2].map(|()| wide(&[TOKENS, INTERMEDIATE]));
        move || gradients(&|x| fast::swiglu(&x[0], &x[1]), &inputs)
    });
    bench(criterion, "RMS norm and gradients, 512 × 2048", 2 * halves(&[TOKENS, HIDDEN]), || {
        let inputs = [wide(&[TOKENS, HIDDEN]), wide(&[HIDDEN])];
        move || gradients(&|x| fast::rms_norm(&x[0], Some(&x[1]), 1e-5), &inputs)
    });
    bench(criterion, "cross entropy and gradients, 64 × 128256", 2 * halves(&[64, VOCAB]), || {
        let inputs = [wide(&[64, VOCAB])];
        let targets = Array::from_slice(&(0..64).map(|i| i * 2003).collect::<Vec<i32>>(), &[64]);
        move || gradients(&|x| fast::cross_entropy(&x[0], &targets), &inputs)
    });
}
