//! Datasets of a hub on the loopback interface.

use std::time::Duration;

use mlxlm_core::hub::{Hub, HubOptions, Progress};
use mlxlm_train::data::{DatasetOptions, Source, load};

use crate::server::{REPO, Server, file};
use crate::{Bench, tokenizer};

fn hub(bench: &Bench, server: &Server) -> Hub {
    let mut options = HubOptions::new(server.address(), bench.path("hub"));
    options.retry_delay = Duration::from_millis(1);
    Hub::new(options)
}

fn count(hub: &Hub, source: Source) -> (usize, usize) {
    let options = DatasetOptions { sources: vec![source], ..DatasetOptions::default() };
    let splits = load(&options, &tokenizer(), hub, &Progress::none()).unwrap();
    (splits.train.len(), splits.valid.len())
}

#[test]
fn a_dataset_is_fetched_by_its_id_and_then_in_the_cache() {
    let bench = Bench::new();
    let parquet = include_bytes!("chat.snappy.parquet");
    let server = Server::start(vec![
        file("README.md", "# A set\n"),
        file("data/train-00000-of-00002.parquet", parquet),
        file("data/train-00001-of-00002.parquet", parquet),
        file("data/validation-00000-of-00001.parquet", parquet),
        file("data/test-00000-of-00001.parquet", parquet),
        file("data/extra-00000-of-00001.parquet", parquet),
        file("loading.py", "raise SystemExit"),
    ]);
    let online = hub(&bench, &server);
    assert_eq!(count(&online, Source::new(REPO)), (4, 2));
    assert!(server.asked("/api/models/").is_empty() && !server.asked("/api/datasets/org/name/tree/").is_empty());
    assert!(server.asked("loading.py").is_empty() && server.asked("extra-").is_empty());
    assert!(!server.asked("/datasets/org/name/resolve/").is_empty());
    assert!(bench.path("hub/datasets--org--name/snapshots").is_dir());
    assert_eq!(count(&bench.offline(), Source::new(REPO)), (4, 2));
    let extra = Source { train_split: Some("extra[:1]".into()), ..Source::new(REPO) };
    assert_eq!(count(&online, extra), (1, 2));
}

#[test]
fn the_readme_names_the_files_of_a_configuration() {
    let bench = Bench::new();
    let line = "{\"text\": \"the cat\"}\n";
    let readme = "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: s/*.jsonl\n\
                  - config_name: large\n  data_files: large.jsonl\n---\n";
    let files = [("s/1.jsonl", 1), ("s/2.jsonl", 2), ("large.jsonl", 7)].map(|(name, n)| file(name, line.repeat(n)));
    let server = Server::start([vec![file("README.md", readme)], files.to_vec()].concat());
    let online = hub(&bench, &server);
    assert_eq!(count(&online, Source::new(REPO)), (3, 0));
    assert!(server.asked("large.jsonl").is_empty());
    assert_eq!(count(&online, Source { config: Some("large".into()), ..Source::new(REPO) }), (7, 0));
}

#[test]
fn what_cannot_be_had_is_named() {
    let bench = Bench::new();
    let server = Server::start(vec![file("README.md", "nothing here")]);
    let options = |name: &str| DatasetOptions::new(name);
    let said =
        |name: &str, hub: &Hub| load(&options(name), &tokenizer(), hub, &Progress::none()).unwrap_err().to_string();
    let online = hub(&bench, &server);
    assert_eq!(said(REPO, &online), "`org/name` holds no JSON or Parquet files");
    assert!(said("org/absent", &online).contains("org/absent"));
    assert!(said("org/absent", &bench.offline()).contains("org/absent"));
    assert!(said("a/b/c", &online).contains("an id has one `/` at most"));
}
