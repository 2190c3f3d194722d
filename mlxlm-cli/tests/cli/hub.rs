//! Models by the name of a repository, from a hub on the loopback interface.

use std::process::Command;

use crate::bench::{Bench, Ran};
use crate::hub_server::{Answer, REPO, Served, Server, file};

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

/// A model that cannot be used costs no more than its configuration.
#[test]
fn the_configuration_is_looked_at_before_weights_are_fetched() {
    let bench = Bench::new();
    crate::tiny::configure(&bench.path("tiny"), serde_json::json!({"model_type": "no_such_model"}));
    let server = Server::start(files(&bench));
    for command in ["generate", "chat", "convert", "benchmark"] {
        let ran = run(&mut online(&bench, &server), &[command, "--model", REPO]);
        assert_eq!(ran.refused(1).0, "the model type `no_such_model` is not known");
    }
    assert!(!server.asked("config.json").is_empty());
    assert!(server.asked("model.safetensors").is_empty(), "no weights");

    let bench = Bench::new();
    crate::tiny::configure(&bench.path("tiny"), serde_json::json!({"quantization": {"bits": 4, "group_size": 64}}));
    let server = Server::start(files(&bench));
    let ran = run(&mut online(&bench, &server), &["convert", "-q", "--model", REPO]);
    assert!(ran.refused(1).0.contains("already"), "{ran:?}");
    assert!(server.asked("model.safetensors").is_empty(), "no weights");
}

/// A download that the disk has no room for is refused by the sizes in the list of files.
#[cfg(target_os = "linux")]
#[test]
fn a_download_that_does_not_fit_on_the_disk_is_refused_before_it_begins() {
    let bench = Bench::new();
    let files = files(&bench);
    let huge = 1_u64 << 60;
    let listed: Vec<serde_json::Value> = files
        .iter()
        .map(|file| {
            let size = if file.large { huge } else { file.bytes.len() as u64 };
            let lfs = serde_json::json!({"oid": file.hash(), "size": size});
            match file.large {
                true => serde_json::json!({"type": "file", "path": file.path, "oid": "0".repeat(40), "size": size, "lfs": lfs}),
                false => serde_json::json!({"type": "file", "path": file.path, "oid": file.hash(), "size": size}),
            }
        })
        .collect();
    let listed = serde_json::Value::Array(listed);
    let server = Server::with(files, move |request| request.target.contains("/tree/").then(|| Answer::json(&listed)));
    let ran = run(&mut online(&bench, &server), &GENERATE);
    let (message, hint) = ran.refused(1);
    assert!(message.starts_with(&format!("`{REPO}` needs 1152921504.6 GB, ")), "{message}");
    assert!(hint.contains("mlxlm manage"), "{hint}");
    assert!(server.asked("/large/").is_empty(), "no weights");
}

/// A text without what only moves the cursor and colours.
#[cfg(target_os = "linux")]
fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut chars = shown.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => drop(chars.by_ref().find(|c| c.is_ascii_alphabetic())),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(target_os = "linux")]
#[test]
fn a_download_says_its_size_and_fits_forty_columns() {
    let bench = Bench::new();
    let server = Server::start(files(&bench));
    let mut terminal = crate::pty::Terminal::run(online(&bench, &server).args(GENERATE), 40, None);
    let before = terminal.expect("of org/");
    assert!(before.contains("note: downloading ") && before.contains(" file"), "{before}");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    let text = plain(&shown);
    let bars: Vec<&str> = text.split(['\r', '\n']).filter(|line| line.contains(['█', '░'])).collect();
    assert!(!bars.is_empty() && bars.iter().all(|line| line.chars().count() <= 40), "{bars:?}");
}

#[test]
fn without_a_network_the_model_is_named() {
    let bench = Bench::empty();
    let nowhere = |args: &[&str]| {
        let mut command = bench.command();
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_HUB_OFFLINE", "0");
        run(&mut command, args)
    };
    let ran = nowhere(&["generate"]);
    let (message, hint) = ran.refused(1);
    let expected = "`mlx-community/Llama-3.2-3B-Instruct-4bit` (the default model) is not in the cache, and http";
    assert!(message.starts_with(expected), "{message}");
    assert!(hint.contains("`--model demo` needs no network") && hint.contains("mlxlm list"), "{hint}");
    let ran = nowhere(&["generate", "--model", "Demo"]);
    assert!(ran.refused(1).0.starts_with("`Demo` is not in the cache"), "{ran:?}");
}

#[test]
fn the_last_part_of_a_name_in_the_cache_is_enough() {
    let bench = Bench::new();
    let server = Server::start(files(&bench));
    let expected = run(&mut online(&bench, &server), &GENERATE).ok();
    let (_, last) = REPO.split_once('/').unwrap();
    let ran = bench.run(&["generate", "--model", last, "--prompt", "hello", "--verbose=false", "-m", "8"]);
    assert_eq!((ran.code, &ran.stdout), (Some(0), &expected), "{ran:?}");
    assert_eq!(ran.stderr, format!("note: using `{REPO}` from the cache for `{last}`\n"));
    let listed = bench.run(&["list", "--names"]).ok();
    assert!(listed.lines().any(|line| line == REPO), "{listed}");
    let cache = bench.path("home/.cache/huggingface/hub");
    std::fs::create_dir_all(cache.join(format!("models--other--{last}"))).unwrap();
    let ran = bench.run(&["generate", "--model", last]);
    assert!(ran.refused(2).0.contains("`other/"), "{ran:?}");
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
