//! Scanning the cache and removing from it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::server::{COMMIT, Server, model};
use crate::{Bench, names, words};

#[test]
fn a_scan_tells_what_was_downloaded() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    assert!(bench.hub().scan().unwrap().repos.is_empty());
    bench.resolve().unwrap();
    let scan = bench.hub().scan().unwrap();
    assert_eq!(scan.cache, bench.options.cache);
    assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
    let [repo] = &scan.repos[..] else { panic!("{:?}", scan.repos) };
    let needed: Vec<usize> =
        model().iter().filter(|file| bench.snapshot().join(&file.path).exists()).map(|file| file.bytes.len()).collect();
    assert_eq!((repo.id.as_str(), repo.kind, repo.files), ("org/name", "model", 4));
    assert_eq!(repo.size_bytes, needed.iter().sum::<usize>() as u64);
    assert_eq!(repo.path, bench.repo());
    assert_eq!(repo.revisions.len(), 1);
    assert_eq!(repo.revisions[0].commit, COMMIT);
    assert_eq!(repo.revisions[0].refs, ["main"]);
    assert_eq!(repo.revisions[0].path, bench.snapshot());
    assert_eq!((repo.revisions[0].files, repo.revisions[0].size_bytes), (4, repo.size_bytes));
    assert!(repo.last_modified <= std::time::SystemTime::now());
}

#[test]
fn a_deleted_repository_is_gone() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    bench.resolve().unwrap();
    let repo = bench.hub().scan().unwrap().repos.remove(0);
    bench.hub().delete(&repo).unwrap();
    assert!(bench.hub().scan().unwrap().repos.is_empty());
    let left = names(&bench.options.cache);
    assert!(left.iter().all(|name| name.starts_with(".locks/") || name == "CACHEDIR.TAG"), "{left:?}");
    assert!(words(&bench.hub().delete(&repo).unwrap_err()).0.contains("cannot rename"));
}

#[test]
fn only_repositories_of_the_cache_are_deleted() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    bench.resolve().unwrap();
    let mut repo = bench.hub().scan().unwrap().repos.remove(0);
    for path in [bench.path("precious"), bench.options.cache.join("blobs"), bench.snapshot()] {
        fs::create_dir_all(&path).unwrap();
        repo.path.clone_from(&path);
        let (message, _) = words(&bench.hub().delete(&repo).unwrap_err());
        assert!(message.contains("is not a repository of the cache"), "{message}");
        assert!(path.exists());
    }
}

/// Python's client keeps equal blobs of several repositories once, and lists their users beside them.
#[test]
fn a_shared_blob_goes_with_its_last_user() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let cache = &bench.options.cache;
    let hash = "ab".repeat(32);
    let store = cache.join("blobs/ab");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join(&hash), "weights").unwrap();
    let mut users = String::new();
    for name in ["models--org--a", "models--org--b"] {
        let blobs = cache.join(name).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        symlink(format!("../../blobs/ab/{hash}"), blobs.join("etag")).unwrap();
        let snapshot = cache.join(name).join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        symlink("../../blobs/etag", snapshot.join("model.safetensors")).unwrap();
        users.extend([name, "/blobs/etag\n"]);
    }
    users += "../outside\n";
    fs::write(store.join(format!("{hash}.refs")), users).unwrap();

    let repos = bench.hub().scan().unwrap().repos;
    assert_eq!(repos.iter().map(|repo| repo.id.as_str()).collect::<Vec<_>>(), ["org/a", "org/b"]);
    bench.hub().delete(&repos[0]).unwrap();
    assert!(store.join(&hash).exists());
    bench.hub().delete(&repos[1]).unwrap();
    assert_eq!(names(&store), [format!("{hash}.lock")]);
}

#[test]
fn a_shared_blob_without_a_list_of_users_stays() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    let hash = "cd".repeat(32);
    let store = bench.options.cache.join("blobs/cd");
    let blobs = bench.repo().join("blobs");
    fs::create_dir_all(&store).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::write(store.join(&hash), "weights").unwrap();
    symlink(format!("../../blobs/cd/{hash}"), blobs.join("etag")).unwrap();
    let repo = bench.hub().scan().unwrap().repos.remove(0);
    bench.hub().delete(&repo).unwrap();
    assert!(store.join(&hash).exists());
}
