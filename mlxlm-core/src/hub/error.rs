//! What the hub and its cache may refuse, with the remedy for each.

use std::path::PathBuf;

use crate::Hint;
use crate::error::listed;

/// What can go wrong between a model's name and the folder that holds it, or on the way back up.
///
/// Files of the cache that cannot be read or written are [`crate::Error::Io`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// An environment variable of the hub has a value that cannot be used.
    #[error("environment variable `{name}` is `{value}`, expected {expected}")]
    BadSetting {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },

    /// The name is no folder, and cannot be the id of a repository.
    #[error("`{name}` is neither a folder nor a repository id: {reason}")]
    NotAName {
        /// The name as given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },

    /// The name is that of a file.
    #[error("`{path}` is a file, expected a model folder", path = path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },

    /// The revision cannot be the name of a branch, a tag or a commit.
    #[error("`{revision}` is not a branch, a tag or a commit")]
    BadRevision {
        /// The revision as given.
        revision: String,
    },

    /// The hub knows no such repository, or does not show it to this user.
    #[error("repository `{repo}` was not found at {endpoint}")]
    NotFound {
        /// The repository.
        repo: String,
        /// The hub that was asked.
        endpoint: String,
        /// Whether a token went with the question.
        with_token: bool,
    },

    /// The repository has no such branch, tag or commit.
    #[error("repository `{repo}` has no revision `{revision}`")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
    },

    /// A file of the listing is not served.
    #[error("repository `{repo}` has no file `{file}`")]
    FileNotFound {
        /// The repository.
        repo: String,
        /// The path within it.
        file: String,
    },

    /// The repository asks its users to accept conditions first.
    #[error("access to `{repo}` is gated")]
    Gated {
        /// The repository.
        repo: String,
        /// Its page, where access is asked for.
        page: String,
        /// Whether a token went with the question.
        with_token: bool,
    },

    /// The hub does not know the token, or wants one.
    #[error("{endpoint} does not accept the token")]
    BadToken {
        /// The hub that was asked.
        endpoint: String,
    },

    /// Uploading needs a token and there is none.
    #[error("uploading to `{repo}` needs a token, and none is set")]
    NoToken {
        /// The repository.
        repo: String,
    },

    /// The token is good, but not for this.
    #[error("{action} `{repo}` is not allowed: {said}")]
    Forbidden {
        /// What was tried, as in "reading".
        action: &'static str,
        /// The repository.
        repo: String,
        /// The hub's own words.
        said: String,
    },

    /// Too many requests in too short a time.
    #[error("rate limit reached at {endpoint}")]
    RateLimited {
        /// The hub that was asked.
        endpoint: String,
        /// The pause it asks for, in seconds.
        retry_after_s: Option<u64>,
    },

    /// Offline mode is on, and the model is not in the cache.
    #[error("`{repo}` at revision `{revision}` is not in the cache `{cache}`, and HF_HUB_OFFLINE is set", cache = cache.display())]
    Offline {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The cache that was searched.
        cache: PathBuf,
    },

    /// The cache holds a part of the model, or a damaged one, and the rest cannot be fetched now.
    #[error("`{path}` is incomplete: {} missing or damaged", listed(missing, 3), path = path.display())]
    Incomplete {
        /// The snapshot folder.
        path: PathBuf,
        /// What a loader would miss, or find damaged.
        missing: Vec<String>,
    },

    /// No answer came from the hub.
    #[error("{endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// The hub that was asked.
        endpoint: String,
        /// The system's own words.
        cause: String,
    },

    /// The hub answered with an error of its own.
    #[error("{endpoint} answered {status} about `{repo}`{}", colon(said))]
    Server {
        /// The hub that was asked.
        endpoint: String,
        /// The repository.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// The hub's own words, or nothing.
        said: String,
    },

    /// An answer of the hub is not of the shape that its protocol prescribes.
    #[error("{endpoint} gave an answer about `{repo}` that cannot be used: {what}")]
    Malformed {
        /// The hub that was asked.
        endpoint: String,
        /// The repository.
        repo: String,
        /// What is wrong with it.
        what: String,
    },

    /// A path in the listing would lead out of the cache.
    #[error("repository `{repo}` lists the file `{file}`, which would be written outside its own folder")]
    UnsafePath {
        /// The repository.
        repo: String,
        /// The path as listed.
        file: String,
    },

    /// The repository holds no model that can be loaded.
    #[error("repository `{repo}` has no {missing}{}", colon(note))]
    NotAModel {
        /// The repository.
        repo: String,
        /// What every model has and this one lacks.
        missing: &'static str,
        /// What it holds instead, or nothing.
        note: String,
    },

    /// The disk has too little room for what is to be fetched.
    #[error(
        "`{repo}` needs {:.1} GB, but only {:.1} GB are free at `{cache}`",
        *needed_bytes as f64 / 1e9,
        *free_bytes as f64 / 1e9,
        cache = cache.display()
    )]
    NoRoom {
        /// The repository.
        repo: String,
        /// The folder of the cache.
        cache: PathBuf,
        /// Bytes that are not in the cache yet.
        needed_bytes: u64,
        /// Bytes that the disk has left.
        free_bytes: u64,
    },

    /// A download broke off again and again.
    #[error("the download of `{file}` stopped at {got_bytes} of {expected_bytes} bytes: {cause}")]
    Interrupted {
        /// The path within the repository.
        file: String,
        /// What is on disk now.
        got_bytes: u64,
        /// What the listing promises.
        expected_bytes: u64,
        /// The system's own words.
        cause: String,
    },

    /// What was downloaded is not what the listing promises.
    #[error("the download of `{file}` has {what} {got}, expected {expected}")]
    WrongContent {
        /// The path within the repository.
        file: String,
        /// What differs: size or hash.
        what: &'static str,
        /// As downloaded.
        got: String,
        /// As listed.
        expected: String,
    },

    /// The folder to upload holds no files.
    #[error("`{folder}` has no files to upload", folder = folder.display())]
    NothingToUpload {
        /// The folder.
        folder: PathBuf,
    },

    /// The HTTP client or the hub's library failed in a way that has no name here.
    #[error("hub client: {cause}")]
    Client {
        /// The library's own words.
        cause: String,
    },
}

/// `: words`, or nothing where there are none.
fn colon(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

const HOW_TO_LOG_IN: &str = "set HF_TOKEN (or log in with `hf auth login`)";

impl Hint for HubError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadSetting { name, .. } => format!("correct `{name}` or unset it"),
            Self::NotAName { name, .. } if name.contains("://") => {
                "use only the id, for example `org/name`, not the address of the page".into()
            }
            Self::NotAName { .. } => {
                "check the path, or use the id of a hub repository, for example `org/name`".into()
            }
            Self::NotAFolder { .. } => "use the folder with config.json and the weights".into(),
            Self::BadRevision { .. } => "use a branch, a tag or a commit, for example `main`".into(),
            Self::NotFound { with_token: false, .. } => format!(
                "check the spelling (a local folder of that name does not exist either); if it is private, {HOW_TO_LOG_IN}"
            ),
            Self::NotFound { .. } => {
                "check the spelling (a local folder of that name does not exist either); if it is private, the token may \
                 lack access to it"
                    .into()
            }
            Self::RevisionNotFound { .. } => "see the repository's branches and tags on its page".into(),
            Self::Gated { page, with_token: false, .. } => format!("accept the conditions at {page}, then {HOW_TO_LOG_IN}"),
            Self::Gated { page, .. } => format!(
                "accept the conditions at {page} with the account that the token belongs to; a fine-grained token must \
                 also allow gated repositories"
            ),
            Self::BadToken { .. } => {
                "the token may have expired; create a new one, or unset HF_TOKEN for public models".into()
            }
            Self::NoToken { .. } => format!("{HOW_TO_LOG_IN}; the token needs write access"),
            Self::Forbidden { .. } => "the token's account or scope does not allow this; for an upload it needs write \
                                       access"
                .into(),
            Self::RateLimited { retry_after_s: Some(s), .. } => format!("try again in {s} seconds, or {HOW_TO_LOG_IN}"),
            Self::RateLimited { .. } => format!("try again in some minutes, or {HOW_TO_LOG_IN}"),
            Self::Offline { .. } => "unset HF_HUB_OFFLINE to download it, or use a local folder".into(),
            Self::Incomplete { .. } => "run again with access to the hub; finished files are kept".into(),
            Self::Unreachable { .. } => {
                "check the network, the proxy and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only the cache is used".into()
            }
            Self::Server { status: 500.., .. } => "the hub has a problem; try again later".into(),
            Self::Malformed { .. } => "check that HF_ENDPOINT is a Hugging Face hub; the login page of a proxy also causes this".into(),
            Self::UnsafePath { .. } => "do not use this repository, and report it to the hub".into(),
            Self::NotAModel { .. } => "use a repository with config.json and model*.safetensors".into(),
            Self::NoRoom { .. } => "delete models with `mlxlm manage`, or set HF_HUB_CACHE to a folder on another disk".into(),
            Self::Interrupted { .. } => "run again to resume".into(),
            Self::WrongContent { .. } => "run again; if this happens again, a proxy may change the data".into(),
            Self::NothingToUpload { .. } => "use the folder of a converted model".into(),
            Self::FileNotFound { .. } | Self::Server { .. } | Self::Client { .. } => return None,
        })
    }
}
