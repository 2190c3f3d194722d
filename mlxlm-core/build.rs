//! Compiles the C++ over MLX's headers, on Linux on x86-64 only: the class behind our CPU kernels, arrays over memory of ours, and
//! the allocator. Without the feature `mlx` there is nothing to compile.

use std::process::ExitCode;

#[cfg(not(feature = "mlx"))]
fn main() -> ExitCode {
    ExitCode::SUCCESS
}

#[cfg(feature = "mlx")]
fn main() -> ExitCode {
    use std::env;

    const SOURCES: [&str; 3] = ["src/allocator.cpp", "src/kernels/primitive.cpp", "src/raw.cpp"];
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-changed=src/buffer_cache.h");
    println!("cargo::rerun-if-env-changed=DEP_MLX_INCLUDE");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|v| v == value);
    if !(is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ARCH", "x86_64")) {
        return ExitCode::SUCCESS;
    }
    let Some(include) = env::var_os("DEP_MLX_INCLUDE") else {
        println!(
            "cargo::error=cargo does not know where MLX's headers are: in mlxlm's repository run `cargo xtask setup` once, in another \
             project `mlxlm-setup` (`cargo install mlxlm-core --no-default-features --features setup`; see README.md of mlxlm-core)"
        );
        return ExitCode::FAILURE;
    };
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").files(SOURCES).opt_level(2);
    for folder in env::split_paths(&include) {
        build.flag("-isystem").flag(folder);
    }
    build.compile("mlxlm_primitive");
    ExitCode::SUCCESS
}
