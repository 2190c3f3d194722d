//! The end of the process while the model computes: whoever ends it, no thread meets destroyed memory.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::tiny;

/// Exits of each kind, of which several happen at once.
const EXITS: usize = 100;
const AT_ONCE: usize = 4;

/// A folder with a model that goes on for long.
fn talkative() -> Bench {
    let bench = Bench::new();
    tiny::configure(&bench.path("tiny"), json!({"max_position_embeddings": 1_000_000}));
    bench
}

fn send(signal: &str, child: &Child) {
    // A process that has ended already needs no signal.
    let _status = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Waits for it to have printed so many bytes.
fn after(child: &mut Child, bytes: usize) {
    child.stdout.as_mut().unwrap().read_exact(&mut vec![0; bytes]).unwrap();
}

fn ended(mut child: Child) -> (ExitStatus, String) {
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs `exit` for every number below [`EXITS`].
fn many(exit: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let exit = &exit;
            scope.spawn(move || (first..EXITS).step_by(AT_ONCE).for_each(exit));
        }
    });
}

#[test]
fn a_second_ctrl_c_in_the_middle_of_an_answer() {
    let bench = talkative();
    many(|i| {
        let mut command = bench.command();
        let mut child = command.args(["chat", "--model", "tiny", "-m", "20000"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"one\ntwo\nthree\n").unwrap();
        after(&mut child, 300 + 7 * (i % 40));
        for _ in 0..3 {
            send("-INT", &child);
            thread::sleep(Duration::from_millis(i as u64 % 7));
        }
        drop(stdin);
        let (status, stderr) = ended(child);
        assert!(matches!(status.code(), Some(130 | 0)) && stderr.is_empty(), "{i}: {status}, {stderr}");
    });
}

#[test]
fn a_reader_that_goes_in_the_middle_of_an_answer() {
    let bench = talkative();
    many(|i| {
        let mut command = bench.command();
        let mut child = command.args(["generate", "--model", "tiny", "-m", "20000"]).spawn().unwrap();
        after(&mut child, 11 + 13 * (i % 40));
        let (status, stderr) = ended(child);
        assert!(status.code() == Some(0) && stderr.is_empty(), "{i}: {status}, {stderr}");
    });
}

/// What a closed terminal and `kill` send has the system end the process, which runs nothing of it any more.
#[test]
fn other_signals_end_it_at_once() {
    let bench = talkative();
    for (name, number) in [("-TERM", 15), ("-HUP", 1)] {
        for command in
            [&["chat", "--model", "tiny", "-m", "20000"][..], &["generate", "--model", "tiny", "-m", "20000"]]
        {
            let mut child = bench.command().args(command).stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
            after(&mut child, 350);
            send(name, &child);
            let (status, stderr) = ended(child);
            assert_eq!((status.signal(), stderr.as_str()), (Some(number), ""), "{command:?}");
        }
    }
}
