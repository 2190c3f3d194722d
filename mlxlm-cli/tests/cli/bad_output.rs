//! Places that cannot be written to, and disks that fill up: an error, and nothing half-written.
#![cfg(unix)]

use std::fs;
use std::process::Stdio;

use crate::bench::{Bench, Ran};

const CACHE: &[&str] = &["cache_prompt", "--model", "tiny", "--prompt", "one two three", "--prompt-cache-file"];
const CONVERT: &[&str] = &["convert", "--model", "tiny", "--mlx-path"];

/// Runs the binary where no file may become larger than so many blocks, as on a disk that is nearly full.
fn run_limited(bench: &Bench, blocks: u32, args: &[&str]) -> Ran {
    let script = format!("ulimit -f {blocks}; exec \"$@\"");
    let command = bench.command();
    let binary = command.get_program().to_owned();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &script, "sh"]).arg(binary).args(args).current_dir(bench.path(""));
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ran::from(limited.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn folders_that_cannot_be_made() {
    for (args, place) in [(CONVERT, "tiny/config.json/out"), (CACHE, "tiny/config.json/cache"), (CACHE, "absent/cache")]
    {
        let bench = Bench::new();
        let ran = bench.run(&[args, &[place]].concat());
        let (message, _) = ran.refused(1);
        assert!(message.starts_with("cannot ") && message.contains(place.rsplit_once('/').unwrap().0), "{message}");
        assert_eq!(bench.names(), [""; 0], "{place}");
    }
}

#[test]
fn a_disk_that_fills_up_while_converting() {
    for blocks in [0, 1, 100] {
        for options in [&[][..], &["-q"]] {
            let bench = Bench::new();
            let ran = run_limited(&bench, blocks, &[CONVERT, &["out"], options].concat());
            let (message, _) = ran.refused(1);
            assert!(message.starts_with("cannot write `") && message.contains("File too large"), "{message}");
            assert_eq!(bench.names(), [""; 0], "{blocks} {options:?}");
        }
    }
}

#[test]
fn a_disk_that_fills_up_leaves_the_old_prompt_cache() {
    let bench = Bench::new();
    bench.run(&[CACHE, &["cache"]].concat()).ok();
    let before = fs::read(bench.path("cache")).unwrap();
    let ran = run_limited(&bench, 1, &[CACHE, &["cache"]].concat());
    assert!(ran.refused(1).0.starts_with("cannot write `cache`"), "{ran:?}");
    assert_eq!(fs::read(bench.path("cache")).unwrap(), before);
    assert_eq!(bench.names(), ["cache"]);
}

#[cfg(target_os = "linux")]
#[test]
fn text_that_cannot_be_written_is_a_failure() {
    for args in [&["models"][..], &["generate", "--model", "tiny", "-m", "2"], &["chat", "--model", "tiny"]] {
        let bench = Bench::new();
        fs::write(bench.path("lines"), "hi\n").unwrap();
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = bench
            .command()
            .args(args)
            .stdin(fs::File::open(bench.path("lines")).unwrap())
            .stdout(full)
            .output()
            .unwrap();
        let ran = Ran::from(output);
        let expected = "cannot write the output: No space left on device (os error 28)";
        assert_eq!(ran.refused(1).0, expected, "{args:?}");
    }
}

/// `mlxlm generate … | head -c 1`, of a text that would be long.
#[test]
fn a_reader_that_goes_away_ends_the_text() {
    let bench = Bench::new();
    for args in [&["generate", "--model", "tiny", "-m", "400"][..], &["generate", "--model", "tiny", "--verbose=f"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = bench.command().args(args).stdout(Stdio::from(writer)).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
}

/// A place that is no file is left as it is, and one behind a link is written through it.
#[test]
fn what_is_no_file_is_not_replaced() {
    let bench = Bench::new();
    assert!(std::process::Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("pipe", bench.path("link")).unwrap();
    for (place, kind) in [("pipe", "a pipe"), ("link", "a pipe"), ("tiny", "a folder")] {
        let ran = bench.run(&[CACHE, &[place]].concat());
        assert_eq!(ran.refused(1).0, format!("cannot write `{place}`: it is {kind}, not a file"));
        assert_eq!(ran.stdout, "", "before anything is loaded");
    }
    std::os::unix::fs::symlink("behind", bench.path("dangling")).unwrap();
    bench.run(&[CACHE, &["dangling"]].concat()).ok();
    assert!(bench.path("behind").is_file() && bench.path("dangling").is_symlink());
    assert_eq!(bench.names(), ["behind", "dangling", "link", "pipe"]);
}

#[test]
fn a_folder_without_a_name_leaves_nothing() {
    for place in ["new/..", "new/../out"] {
        let bench = Bench::new();
        let ran = bench.run(&[CONVERT, &[place]].concat());
        assert!(ran.refused(1).0.starts_with("cannot create the folder `new/.."), "{ran:?}");
        assert_eq!(bench.names(), [""; 0]);
    }
}

/// What was killed in the middle leaves a folder, which goes with the next conversion and is no part of it.
#[test]
fn what_a_killed_process_left_goes_with_the_next() {
    let bench = Bench::new();
    let left = bench.path(".mlxlm-left.tmp/out");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("chat_template.jinja"), "left by another").unwrap();
    bench.run(&[CONVERT, &["out"]].concat()).ok();
    assert!(!bench.path("out/chat_template.jinja").exists());
    assert_eq!(bench.names(), ["out"]);
}
