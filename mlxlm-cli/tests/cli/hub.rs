//! Models by the name of a repository, from a hub on the loopback interface.

use std::process::Command;

use crate::bench::{Bench, Ran};
use crate::server::{REPO, Served, Server, file};

/// The files of a bench's model, as the hub has them.
fn files(bench: &Bench) -> Vec<Served> {
    let names =
        ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"];
    let model = names.map(|name| file(name, std::fs::read(bench.path("tiny").join(name)).unwrap()));
    let card = file("README.md", "---\nlicense: mit\n---\nA model.\n");
    model.into_iter().chain([card, file("modeling_tiny.py", "raise SystemExit")]).collect()
}

fn run(command: &mut Command, args: &[&str]) -> Ran {
    Ran::from(command.args(args).output().unwrap())
}

fn online(bench: &Bench, server: &Server) -> Command {
    let mut command = bench.command();
    command.env("HF_ENDPOINT", server.address()).env("HF_HUB_OFFLINE", "0").env("HF_TOKEN", "hf_test");
    command
}

const GENERATE: [&str; 8] = ["generate", "--model", REPO, "--prompt", "hello", "--verbose=false", "-m", "8"];

#[test]
fn a_repository_is_downloaded_once_and_then_in_the_cache() {
    let bench = Bench::new();
    let server = Server::start(files(&bench));
    let expected = bench.text(&["--prompt", "hello", "-m", "8"]);
    assert_eq!(run(&mut online(&bench, &server), &GENERATE).ok(), expected);
    assert!(server.asked("modeling_tiny.py").is_empty());
    assert!(
        server.asked("model.safetensors").iter().all(|asked| asked.authorization.as_deref() == Some("Bearer hf_test"))
    );
    assert_eq!(run(&mut bench.command(), &GENERATE).ok(), expected, "offline");
}

#[test]
fn a_revision_is_asked_for_by_name() {
    let bench = Bench::new();
    let server = Server::start(files(&bench));
    run(&mut online(&bench, &server), &[&GENERATE[..], &["--revision", "v2"]].concat()).ok();
    assert!(!server.asked("/revision/v2").is_empty());
}

#[test]
fn a_converted_model_names_its_base_and_is_uploaded() {
    let bench = Bench::new();
    let server = Server::start(files(&bench));
    let args = ["convert", "--model", REPO, "-q", "--mlx-path", "out", "--upload-repo", REPO];
    let shown = run(&mut online(&bench, &server), &args).ok();
    assert!(shown.lines().last().unwrap().starts_with("[INFO] Uploaded to "), "{shown}");
    let card = mlxlm_core::io::read_to_string(bench.path("out/README.md")).unwrap();
    assert!(card.contains("license: mit") && card.contains(&format!("base_model: {REPO}")), "{card}");
    let uploaded = server.asked("/commit/main");
    assert!(String::from_utf8_lossy(&uploaded[0].body).contains("config.json"));
}

#[test]
fn what_cannot_be_had_is_said() {
    let bench = Bench::new();
    let server = Server::start(files(&bench));
    let ran = run(&mut online(&bench, &server), &["generate", "--model", "org/absent"]);
    assert!(ran.refused(1).0.contains("org/absent"), "{ran:?}");
    let ran = bench.run(&["generate", "--model", "org/absent"]);
    assert!(ran.refused(1).0.contains("org/absent"), "{ran:?}");
    let ran = bench.run(&["generate", "--model", "./absent"]);
    assert!(ran.refused(1).0.contains("./absent"), "{ran:?}");
}
