//! `fuzz TARGET SECONDS FINDINGS`: feeds changed inputs to a reader of foreign bytes, and keeps those that end it.
//!
//! `cargo xtask fuzz` runs this. Inputs are read in child processes, a few hundred each, so that an abort, an exhausted stack or
//! memory ends the child alone: the input that it read then is put into the folder FINDINGS, as is one that takes too long.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is a program that prints, made of helpers of tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use support::fuzz::{TARGETS, Target, input};

/// Inputs of one child.
const BATCH: u64 = 300;
/// The time that one input may take.
const DEADLINE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let find = |name: &str| TARGETS.iter().find(|target| target.name == name);
    match args[..] {
        ["--child", name, seed, first] => {
            child(find(name).unwrap(), seed.parse().unwrap(), first.parse().unwrap());
            ExitCode::SUCCESS
        }
        [name, seconds, findings] if find(name).is_some() => {
            parent(name, Duration::from_secs(seconds.parse().unwrap()), Path::new(findings))
        }
        _ => {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            println!("usage: fuzz TARGET SECONDS FINDINGS; the targets are {}", names.join(", "));
            ExitCode::from(2)
        }
    }
}

/// Reads a batch of inputs, and says before each which it is.
fn child(target: &Target, seed: u64, first: u64) {
    let folder = tempfile::tempdir().unwrap();
    let seeds = (target.seeds)(folder.path());
    for number in first..first + BATCH {
        println!("{number}");
        let begin = Instant::now();
        (target.read)(folder.path(), &input(&seeds, seed, number));
        assert!(begin.elapsed() < DEADLINE, "input {number} took {:?}", begin.elapsed());
    }
}

fn parent(name: &str, time: Duration, findings: &Path) -> ExitCode {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let folder = tempfile::tempdir().unwrap();
    let seeds = (target.seeds)(folder.path());
    let (begin, mut next, mut found) = (Instant::now(), 0, 0);
    while begin.elapsed() < time && found < 20 {
        let output = folder.path().join("numbers");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--child", name, &seed.to_string(), &next.to_string()])
            .stdout(fs::File::create(&output).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if started.elapsed() > DEADLINE * 15 => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if status.is_some_and(|status| status.success()) {
            next += BATCH;
            continue;
        }
        let last =
            fs::read_to_string(&output).unwrap().lines().last().and_then(|line| line.parse().ok()).unwrap_or(next);
        fs::create_dir_all(findings).unwrap();
        let path = findings.join(format!("{seed}-{last}"));
        fs::write(&path, input(&seeds, seed, last)).unwrap();
        println!(
            "{name}: {} ended the reader ({})",
            path.display(),
            status.map_or("too slow".into(), |status| status.to_string())
        );
        found += 1;
        next = last + 1;
    }
    println!("{name}: {next} inputs in {:.0} s, {found} findings", begin.elapsed().as_secs_f32());
    ExitCode::from(u8::from(found > 0))
}
