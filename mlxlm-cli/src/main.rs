//! The `mlxlm` binary.
fn main() {}
