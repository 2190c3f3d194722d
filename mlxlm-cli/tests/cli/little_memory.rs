//! Less memory than a prompt takes: an error line, wherever the system refuses it, and no crash.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::bench::{Bench, Ran};
use crate::tiny;

/// Runs the binary with so many megabytes of addresses.
fn run_in(bench: &Bench, megabytes: u32, args: &[&str]) -> Ran {
    let script = format!("ulimit -v {}; exec \"$@\"", megabytes << 10);
    let command = bench.command();
    let mut limited = Command::new("sh");
    limited.args(["-c", &script, "sh"]).arg(command.get_program()).args(args).current_dir(bench.path(""));
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ran::from(limited.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn every_amount_of_memory_ends_well() {
    let bench = Bench::new();
    tiny::configure(&bench.path("tiny"), json!({"max_position_embeddings": null}));
    // Below the number of tokens from which on it is asked whether there is memory, so that it is missed anywhere.
    let prompt = "one two three ".repeat(500);
    let args = ["generate", "--model", "tiny", "-m", "2", "--verbose", "false", "--threads", "2", "--prompt", &prompt];
    let (mut refused, mut of_libc) = (0, 0);
    for megabytes in (80..440).step_by(12) {
        let ran = run_in(&bench, megabytes, &args);
        match ran.code {
            Some(0) => assert_eq!(ran.stderr, "", "{megabytes} MB"),
            // The libraries themselves do not fit.
            Some(127) => assert!(ran.stderr.contains("while loading shared libraries"), "{megabytes} MB: {ran:?}"),
            Some(1) => {
                let words = ["memory", "Cannot allocate", "thread"];
                let (message, _) = ran.refused(1);
                assert!(words.iter().any(|word| message.contains(word)), "{megabytes} MB: {message}");
                assert!(!message.contains(".cpp") && !message.contains("/rustc/"), "{megabytes} MB: {message}");
                refused += 1;
            }
            // The C library itself ends a process in which a thread that begins cannot have 32 bytes. Nobody can do anything about
            // that; it takes an amount that is used up to the last page, about one in 500.
            None if ran.stderr.starts_with("Fatal glibc error: failed to register TLS destructor") => of_libc += 1,
            _ => panic!("{megabytes} MB: {ran:?}"),
        }
    }
    assert!(of_libc <= 1, "large arrays leave the last memory to the C library");
    assert!(refused > 0, "no run was short of memory");
}
