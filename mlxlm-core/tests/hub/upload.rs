//! Uploads: the requests of one, and what stops it.

use std::fs;
use std::path::PathBuf;

use mlxlm_core::hub::Upload;
use serde_json::Value;

use crate::server::{Answer, Server};
use crate::{Bench, words};

fn bench(server: &Server) -> (Bench, PathBuf) {
    let mut bench = Bench::new(server);
    bench.options.token = Some("hf_write".to_owned());
    let folder = bench.path("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join("sub/a.txt"), "a").unwrap();
    fs::write(folder.join("README.md"), "---\nlibrary_name: mlx\nbase_model: org/base\n---\nold text\n").unwrap();
    (bench, folder)
}

fn upload(bench: &Bench, repo: &str, folder: &std::path::Path) -> mlxlm_core::Result<String> {
    let upload = Upload { repo, folder, private: true, message: "Upload with mlxlm" };
    bench.hub().upload_folder(&upload, &bench.progress())
}

#[test]
fn a_folder_becomes_one_commit() {
    let server = Server::start(Vec::new());
    let (bench, folder) = bench(&server);
    let address = upload(&bench, "org/name", &folder).unwrap();
    assert_eq!(address, format!("{}/org/name", server.address()));

    let targets: Vec<String> =
        server.log().iter().map(|request| format!("{} {}", request.method, request.target)).collect();
    let expected =
        ["POST /api/repos/create", "POST /api/models/org/name/preupload/main", "POST /api/models/org/name/commit/main"];
    assert_eq!(targets, expected);
    assert!(server.log().iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_write")));
    let created: Value = serde_json::from_slice(&server.log()[0].body).unwrap();
    assert_eq!((&created["name"], &created["organization"]), (&"name".into(), &"org".into()));
    assert_eq!(created["private"], true);

    let commit = String::from_utf8(server.log()[2].body.clone()).unwrap();
    let lines: Vec<Value> = commit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["value"]["summary"], "Upload with mlxlm");
    let paths: Vec<&str> = lines[1..].iter().filter_map(|line| line["value"]["path"].as_str()).collect();
    assert_eq!(paths, ["config.json", "sub/a.txt", "README.md"]);
    // "{}" in base64.
    assert_eq!(lines[1]["value"]["content"], "e30=");
    assert!(bench.events("Start")[0].contains("files: 3"));
    assert_eq!(bench.events("Done").len(), 1);
    // The folder's own card stays; the hub's is made anew (in base64, so only its length shows here).
    assert!(fs::read_to_string(folder.join("README.md")).unwrap().contains("old text"));
    assert!(lines[3]["value"]["content"].as_str().unwrap().len() > 400);
}

#[test]
fn a_name_without_an_owner_gets_the_users() {
    let server = Server::start(Vec::new());
    let (bench, folder) = bench(&server);
    assert_eq!(upload(&bench, "name", &folder).unwrap(), format!("{}/org/name", server.address()));
}

#[test]
fn a_repository_that_exists_is_used() {
    let server =
        Server::with(Vec::new(), |request| request.target.ends_with("/create").then(|| Answer::new(409, "{}")));
    let (bench, folder) = bench(&server);
    upload(&bench, "org/name", &folder).unwrap();
    assert_eq!(server.asked("/commit/main").len(), 1);
}

#[test]
fn what_stops_an_upload_is_said() {
    let check = |status: u16, expected: &str, remedy: &str| {
        let server = Server::with(Vec::new(), move |_| Some(Answer::new(status, r#"{"error": "so it is"}"#)));
        let (bench, folder) = bench(&server);
        let (message, hint) = words(&upload(&bench, "org/name", &folder).unwrap_err());
        assert_eq!(message.replace(server.address(), "HUB"), expected);
        assert!(hint.contains(remedy), "{hint}");
    };
    check(401, "HUB does not accept the token", "create a new one");
    check(403, "writing to `org/name` is not allowed: so it is", "write access");
    check(429, "rate limit reached at HUB", "try again");
    check(500, "HUB answered 500 about `org/name`: so it is", "try again later");
    check(400, "HUB answered 400 about `org/name`: so it is", "");
    let no_repo =
        Server::with(Vec::new(), |request| request.target.contains("preupload").then(|| Answer::new(404, "")));
    let (bench, folder) = bench(&no_repo);
    assert!(upload(&bench, "org/name", &folder).unwrap_err().to_string().contains("was not found"));
}

#[test]
fn the_token_is_checked_before_the_work() {
    let server = Server::with(Vec::new(), |request| {
        let known = request.authorization.as_deref() == Some("Bearer hf_write");
        (request.target == "/api/whoami-v2" && !known).then(|| Answer::new(401, ""))
    });
    let (mut bench, _) = bench(&server);
    bench.hub().check_upload("org/name").unwrap();
    bench.options.token = Some("hf_old".to_owned());
    assert!(words(&bench.hub().check_upload("org/name").unwrap_err()).0.contains("does not accept the token"));
    bench.options.token = None;
    assert!(words(&bench.hub().check_upload("org/name").unwrap_err()).0.contains("needs a token"));
}

#[test]
fn nothing_is_asked_when_it_cannot_work() {
    let server = Server::start(Vec::new());
    let (mut bench, folder) = bench(&server);
    let fail = |bench: &Bench, repo: &str, folder: &std::path::Path| words(&upload(bench, repo, folder).unwrap_err());

    assert!(fail(&bench, "a/b/c", &folder).0.contains("neither a folder nor a repository id"));
    let empty = bench.path("empty");
    fs::create_dir_all(empty.join(".git")).unwrap();
    let (message, hint) = fail(&bench, "org/name", &empty);
    assert!(message.contains("has no files to upload") && hint.contains("converted"), "{message} {hint}");
    assert!(fail(&bench, "org/name", &bench.path("missing")).0.contains("cannot list"));
    bench.options.token = None;
    let (message, hint) = fail(&bench, "org/name", &folder);
    assert!(message.contains("needs a token") && hint.contains("write access"), "{message} {hint}");
    bench.options.offline = true;
    assert!(fail(&bench, "org/name", &folder).0.contains("HF_HUB_OFFLINE is set"));
    assert!(server.log().is_empty());
}
