//! What the figures depend on: the machine, the versions, the day.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::{setup, workspace};

/// The flags that the kernels and llama.cpp ask for.
const FLAGS: [&str; 9] =
    ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"];

/// CPU, cores, memory and instruction sets in one line.
pub(super) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    describe(&read("/proc/cpuinfo"), &read("/proc/meminfo"))
}

fn describe(cpus: &str, memory: &str) -> String {
    let model = value(cpus, "model name").unwrap_or(std::env::consts::ARCH);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let flags: Vec<&str> = value(cpus, "flags").unwrap_or_default().split_whitespace().collect();
    let known: Vec<&str> = FLAGS.into_iter().filter(|flag| flags.contains(flag)).collect();
    let kilobytes = value(memory, "MemTotal").and_then(|total| total.strip_suffix(" kB")?.trim().parse::<f64>().ok());
    let memory = kilobytes.map_or(String::new(), |kb| format!(", {:.0} GB", kb * 1024.0 / 1e9));
    let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    format!("{model}, {cores}{memory}; {}", known.join(" "))
}

/// What stands behind `name` and a colon.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// Whether the CPU has a flag.
pub(crate) fn has(wanted: &str) -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    value(&cpus, "flags").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == wanted))
}

/// Processes that want the CPU, on average over the last minute.
pub(super) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Our own version, with the commit.
pub(super) fn version() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(workspace::root()).output().ok();
        let text = output.filter(|output| output.status.success()).map(|output| output.stdout);
        text.map(|text| String::from_utf8_lossy(&text).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    let version = workspace::locked_version(&workspace::root(), "mlxlm-cli").unwrap_or_default();
    let changed = if changed { ", with changes" } else { "" };
    format!("mlxlm {version} at {commit}{changed}, MLX {}", setup::MLX_VERSION)
}

/// A peer's versions from what its script says.
pub(super) fn peer_version(said: &Value) -> String {
    let version = said["version"].as_str().unwrap_or("of unknown version");
    said["mlx"].as_str().map_or_else(|| version.to_owned(), |mlx| format!("{version} on MLX {mlx}"))
}

/// The date, as in 2026-01-31.
pub(super) fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or_else(|_| "unknown date".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_by_what_matters() {
        let cpus = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma amx_tile\n";
        let text = describe(cpus, "MemTotal:       24000000 kB\n");
        assert!(text.starts_with("Some CPU, ") && text.ends_with(", 25 GB; avx2 fma amx_tile"), "{text}");
        assert!(describe("", "").starts_with(std::env::consts::ARCH));
    }

    #[test]
    fn today_is_a_date() {
        let parts: Vec<usize> = today().split('-').map(|part| part.parse().unwrap()).collect();
        assert!(parts.len() == 3 && parts[0] > 2025 && parts[1] <= 12 && parts[2] <= 31);
    }
}
