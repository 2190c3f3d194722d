//! `golden FOLDER [NAME…]`: holds models against golden cases, which lie in a folder each, and prints a line for each case:
//! `ok` or `FAIL`, its name, and the largest errors of the logits in units of their standard deviation.
//!
//! `cargo xtask golden check` runs this. With names only the cases that start with one of them are checked. Cases that the
//! reference recorded can come from anywhere: `config.json`, weights or their recipe, and `expected.safetensors`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is a program that prints, made of helpers of tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(folder) = args.next() else {
        println!("usage: golden FOLDER [NAME…]");
        return ExitCode::from(2);
    };
    let names: Vec<String> = args.collect();
    let wanted =
        |case: &support::Case| names.is_empty() || names.iter().any(|name| case.name.starts_with(name.as_str()));
    let (mut right, mut wrong) = (0, 0);
    for case in support::cases_in(Path::new(&folder)).into_iter().filter(wanted) {
        let line = match support::golden::check(&case) {
            Ok(report) if report.is_right() => {
                right += 1;
                println!(
                    "ok   {} full {:.1e} cached {:.1e} batched {:.1e}",
                    case.name, report.full, report.cached, report.batched
                );
                continue;
            }
            Ok(report) => format!(
                "full {:.1e} cached {:.1e} batched {:.1e}, allowed {:.1e}",
                report.full, report.cached, report.batched, report.allowed
            ),
            Err(error) => error.to_string(),
        };
        wrong += 1;
        println!("FAIL {} {}", case.name, line.chars().take(300).collect::<String>());
    }
    println!("{right} right, {wrong} wrong");
    ExitCode::from(u8::from(wrong > 0))
}
