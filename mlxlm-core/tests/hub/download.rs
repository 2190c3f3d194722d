//! What a download leaves in the cache, and what it asks for.

use std::fs;
use std::sync::Barrier;
use std::thread;

use mlxlm_core::hub::Progress;
use serde_json::json;

use crate::server::{Answer, COMMIT, REPO, Server, file, model};
use crate::{Bench, names, words};

const NEEDED: [&str; 4] = ["config.json", "model.safetensors", "sub/extra.json", "tokenizer.json"];

#[test]
fn the_cache_has_the_shared_layout() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    assert_eq!(folder, bench.snapshot());
    assert_eq!(names(&folder), NEEDED);
    assert_eq!(fs::read_to_string(bench.repo().join("refs/main")).unwrap(), COMMIT);

    let mut hashes = Vec::new();
    for served in model().iter().filter(|served| NEEDED.contains(&served.path.as_str())) {
        assert_eq!(fs::read(folder.join(&served.path)).unwrap(), served.bytes);
        let up = if served.path.contains('/') { "../../.." } else { "../.." };
        let target = fs::read_link(folder.join(&served.path)).unwrap();
        assert_eq!(target.to_str().unwrap(), format!("{up}/blobs/{}", served.hash()));
        hashes.push(served.hash());
    }
    hashes.sort();
    assert_eq!(names(&bench.repo().join("blobs")), hashes);

    // The configuration comes first: a model that is not supported costs nothing more.
    let started = bench.events("Start");
    assert!(started[0].contains("files: 1") && started[1].contains("files: 3"), "{started:?}");
    assert!(bench.events("model.safetensors").last().unwrap().contains("done_bytes: 300000, total_bytes: 300000"));
    assert_eq!(bench.events("Done").len(), 1);
}

#[test]
fn a_second_run_asks_for_the_listing_only() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    bench.resolve().unwrap();
    let first = server.log().len();
    bench.resolve().unwrap();
    let targets: Vec<String> = server.log()[first..].iter().map(|request| request.target.clone()).collect();
    let tree = format!("/api/models/{REPO}/tree/{COMMIT}?recursive=true");
    assert_eq!(targets, [format!("/api/models/{REPO}/revision/main"), tree]);

    // A commit never changes: once it is there, nobody is asked.
    bench.hub().resolve(REPO, Some(COMMIT), &Progress::none()).unwrap();
    assert_eq!(server.log().len(), first + 2);
}

#[test]
fn offline_takes_what_is_there() {
    let server = Server::start(model());
    let mut bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    let asked = server.log().len();
    bench.options.offline = true;
    assert_eq!(bench.resolve().unwrap(), folder);
    assert_eq!(bench.hub().resolve(REPO, Some(COMMIT), &Progress::none()).unwrap(), folder);

    let (message, hint) = words(&bench.hub().resolve(REPO, Some("v2"), &Progress::none()).unwrap_err());
    assert!(message.contains("`org/name` at revision `v2` is not in the cache"), "{message}");
    assert!(hint.contains("HF_HUB_OFFLINE"), "{hint}");

    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let (message, hint) = bench.failure();
    assert!(message.contains("is incomplete: `model.safetensors` missing"), "{message}");
    assert!(hint.contains("finished files are kept"), "{hint}");
    assert_eq!(server.log().len(), asked);
}

/// A cache that was copied may lack `refs`: the newest snapshot is taken, and that is said.
#[test]
fn offline_without_refs_takes_the_newest_snapshot() {
    let server = Server::start(model());
    let mut bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    fs::remove_dir_all(bench.repo().join("refs")).unwrap();
    bench.options.offline = true;
    assert_eq!(bench.resolve().unwrap(), folder);
    assert!(
        bench.events("FromCache")[0].contains(&format!("its newest is {COMMIT}")),
        "{:?}",
        bench.events("FromCache")
    );
    assert!(bench.hub().resolve(REPO, Some("v2"), &Progress::none()).is_err(), "another revision is not guessed");
}

#[test]
fn only_the_shards_of_the_index_come() {
    let index = json!({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}});
    let files = vec![
        file("config.json", "{}"),
        file("model-1-of-2.safetensors", "one"),
        file("model-2-of-2.safetensors", "two"),
        file("model-old.safetensors", "not needed"),
        file("model.safetensors.index.json", index.to_string()),
    ];
    let server = Server::start(files);
    let bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    let expected =
        ["config.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(names(&folder), expected);
}

#[test]
fn files_of_equal_content_share_a_blob() {
    let files =
        vec![file("config.json", "{}"), file("a.json", "{}"), file("b.json", ""), file("model.safetensors", "w")];
    let server = Server::start(files);
    let bench = Bench::new(&server);
    assert_eq!(names(&bench.resolve().unwrap()), ["a.json", "b.json", "config.json", "model.safetensors"]);
    assert_eq!(names(&bench.repo().join("blobs")).len(), 3);
    // Nor is an empty file asked for.
    assert_eq!(server.asked("resolve").len(), 2);
}

#[test]
fn what_another_commit_brought_is_linked() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    let asked = server.asked("/resolve/").len();
    fs::rename(&folder, folder.with_file_name("0".repeat(40))).unwrap();
    assert_eq!(names(&bench.resolve().unwrap()), NEEDED);
    assert_eq!(server.asked("/resolve/").len(), asked);
    assert!(bench.events("Start").last().unwrap().contains("files: 0, total_bytes: 0"), "{:?}", bench.events("Start"));
}

#[test]
fn a_revision_is_one_segment_of_the_address() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    bench.hub().resolve(REPO, Some("refs/pr/1"), &Progress::none()).unwrap();
    assert_eq!(server.asked("/revision/refs%2Fpr%2F1").len(), 1);
    assert_eq!(fs::read_to_string(bench.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
}

#[test]
fn a_listing_in_pages_is_read_to_its_end() {
    let server = Server::with(model(), |request| {
        let page = |items| Some(Answer::json(&serde_json::Value::Array(items)));
        let listed = |path: &str, bytes: &str| {
            let served = file(path, bytes);
            json!({"type": "file", "path": path, "oid": "0".repeat(40), "size": bytes.len(),
                "lfs": {"oid": crate::server::Served { large: true, ..served }.hash(), "size": bytes.len()}})
        };
        if request.target.ends_with("/tree/c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00?recursive=true") {
            let next = format!("<{}&cursor=2>; rel=\"next\"", request.target);
            return page(vec![listed("config.json", "{}")]).map(|answer| answer.header("Link", next));
        }
        if request.target.contains("cursor=2") {
            return page(vec![listed("model.safetensors", "w")]);
        }
        let bytes = if request.target.ends_with("config.json") { "{}" } else { "w" };
        request.target.contains("/resolve/").then(|| Answer::new(200, bytes))
    });
    let bench = Bench::new(&server);
    assert_eq!(names(&bench.resolve().unwrap()), ["config.json", "model.safetensors"]);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let store = Server::start(model());
    let server = Server::start(model());
    server.large_files_at(&store);
    let mut bench = Bench::new(&server);
    bench.options.token = Some("hf_secret".to_owned());
    bench.resolve().unwrap();
    assert!(server.log().iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(store.log().len(), 1);
    assert_eq!(store.log()[0].authorization, None);
}

#[test]
fn two_at_once_download_once() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                bench.resolve().unwrap();
            });
        }
    });
    for path in NEEDED {
        assert_eq!(server.asked(&format!("/resolve/{COMMIT}/{path}")).len(), 1, "{path}");
    }
}

#[test]
fn the_listing_that_python_left_is_taken() {
    let server = Server::with(model(), |request| request.target.contains("/tree/").then(|| Answer::new(404, "")));
    let bench = Bench::new(&server);
    let trees = bench.repo().join("trees");
    fs::create_dir_all(&trees).unwrap();
    let listed = |served: &crate::server::Served| {
        let mut entry = json!({"size": served.bytes.len(), "blob_id": served.hash()});
        if served.large {
            entry["blob_id"] = json!("0".repeat(40));
            entry["lfs_sha256"] = json!(served.hash());
            entry["lfs_size"] = json!(served.bytes.len());
        }
        (served.path.clone(), entry)
    };
    let files: serde_json::Map<_, _> = model().iter().map(listed).collect();
    let tree = json!({"format_version": 1, "files": files});
    fs::write(trees.join(format!("{COMMIT}.json")), tree.to_string()).unwrap();
    let folder = bench.resolve().unwrap();
    assert_eq!(names(&folder), NEEDED);

    // With a listing, a snapshot counts as whole only if everything is there.
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let mut bench = bench;
    bench.options.offline = true;
    assert!(bench.failure().0.contains("`tokenizer.json` missing"));
}

#[test]
fn a_single_file_comes_alone() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let get = |bench: &Bench, path| bench.hub().file(REPO, None, path, &bench.progress());
    let card = get(&bench, "README.md").unwrap().unwrap();
    assert!(fs::read_to_string(card).unwrap().contains("license: mit"));
    assert_eq!(get(&bench, "LICENSE").unwrap(), None);
    assert_eq!(names(&bench.snapshot()), ["README.md"]);

    let local = bench.path("model");
    fs::create_dir(&local).unwrap();
    let local = local.to_str().unwrap();
    assert_eq!(bench.hub().file(local, None, "README.md", &Progress::none()).unwrap(), None);
}

#[test]
fn a_folder_that_exists_is_taken_as_it_is() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let folder = bench.path("model");
    fs::create_dir(&folder).unwrap();
    let resolve = |name: &str| bench.hub().resolve(name, None, &Progress::none());
    assert_eq!(resolve(folder.to_str().unwrap()).unwrap(), folder);

    fs::write(folder.join("model.gguf"), "").unwrap();
    let (message, hint) = words(&resolve(folder.join("model.gguf").to_str().unwrap()).unwrap_err());
    assert!(message.contains("is a file, expected a model folder"), "{message}");
    assert!(hint.contains("config.json"), "{hint}");
    for name in ["../nowhere", "/no/such/folder", "https://huggingface.co/org/name", ""] {
        let (message, hint) = words(&resolve(name).unwrap_err());
        assert!(message.contains(&format!("`{name}` is neither a folder nor a repository id")), "{message}");
        assert!(hint.contains("org/name"), "{hint}");
    }
    let bad = bench.hub().resolve(REPO, Some("../../x"), &Progress::none()).unwrap_err();
    assert_eq!(bad.to_string(), "`../../x` is not a branch, a tag or a commit");
    assert!(server.log().is_empty());
}
