//! Compiles the C++ over MLX's headers, on Linux on x86-64 only: the class behind our CPU kernels, and arrays over memory of
//! ours.

use std::env;
use std::process::ExitCode;

const SOURCES: [&str; 2] = ["src/kernels/primitive.cpp", "src/raw.cpp"];

fn main() -> ExitCode {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=DEP_MLX_INCLUDE");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|v| v == value);
    if !(is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ARCH", "x86_64")) {
        return ExitCode::SUCCESS;
    }
    let Some(include) = env::var_os("DEP_MLX_INCLUDE") else {
        println!("cargo::error=cargo does not know where MLX's headers are; run `cargo xtask setup` once");
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
