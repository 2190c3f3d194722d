//! A model folder to the hub, in one commit (mlx-lm's `upload_to_hub`), through hf-hub.
//!
//! - The model card is written anew for the name that the model gets; the folder itself stays as it is.
//! - Unusual: the files are listed here and not by hf-hub, which passes over links, so that a folder of the cache,
//!   made of links alone, would arrive empty.
//! - Large files travel by xet, which hf-hub offers and the hub chooses. A hub that does not gets them in the commit
//!   itself, which hf-hub makes in memory.

use std::path::{Path, PathBuf};

use hf_hub::progress::{Progress as ClientProgress, ProgressEvent, ProgressHandler, UploadEvent};
use hf_hub::repository::CommitOperation;
use hf_hub::{HFClient, HFClientSync, HFError, RepoTypeModel, split_id};

use super::model_card::ModelCard;
use super::progress::{Event, Progress};
use super::repo_id::RepoId;
use super::wire::{or_status, root_cause};
use super::{DEFAULT_REVISION, Hub, HubError, USER_AGENT};
use crate::{Error, Result, io};

/// What to upload, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Upload<'a> {
    /// The repository, as in `org/name`; made if it does not exist.
    pub repo: &'a str,
    /// The folder whose files it gets.
    pub folder: &'a Path,
    /// Whether a new repository is for its owner alone.
    pub private: bool,
    /// The commit's message.
    pub message: &'a str,
}

impl Hub {
    /// Checks, before the work whose result is to be uploaded, that an upload to `repo` may succeed: that the hub may be
    /// asked, and knows the token.
    ///
    /// # Errors
    /// [`HubError`], if the name or the token does not do, or the hub cannot be reached.
    pub fn check_upload(&self, repo: &str) -> Result<()> {
        let repo = RepoId::parse(repo)?;
        let token = self.upload_token(&repo)?;
        let failed = |error| from_client(error, repo.as_str(), &self.options.endpoint, Path::new("."));
        match self.client(token).map_err(failed)?.whoami().send() {
            Err(error @ (HFError::AuthRequired { .. } | HFError::Request { .. })) => Err(failed(error)),
            // What else a hub says to this question decides nothing: the upload itself will say.
            _ => Ok(()),
        }
    }

    fn upload_token(&self, repo: &RepoId) -> Result<&str, HubError> {
        let options = &self.options;
        if options.offline {
            let (cache, revision) = (options.cache.clone(), DEFAULT_REVISION.to_owned());
            return Err(HubError::Offline { repo: repo.to_string(), revision, cache });
        }
        options.token.as_deref().ok_or_else(|| HubError::NoToken { repo: repo.to_string() })
    }

    fn client(&self, token: &str) -> Result<HFClientSync, HFError> {
        HFClient::builder()
            .endpoint(&self.options.endpoint)
            .cache_dir(&self.options.cache)
            .token(token)
            .user_agent(USER_AGENT)
            .retry_base_delay(self.options.retry_delay)
            .build_sync()
    }

    /// Uploads a folder, and returns the address of the repository.
    ///
    /// Files of the repository that the folder lacks stay there. Git's own folder, caches and temporary files of the
    /// folder are left out.
    ///
    /// # Errors
    /// [`HubError`], if the name or the token does not do, or the hub refuses; [`Error::Io`] if a file cannot be read.
    pub fn upload_folder(&self, upload: &Upload<'_>, progress: &Progress) -> Result<String> {
        let options = &self.options;
        let repo = RepoId::parse(upload.repo)?;
        let token = self.upload_token(&repo)?;
        let files = files_of(upload.folder)?;
        if files.is_empty() {
            return Err(HubError::NothingToUpload { folder: upload.folder.to_owned() }.into());
        }

        let failed = |error| from_client(error, repo.as_str(), &options.endpoint, upload.folder);
        let client = self.client(token).map_err(failed)?;
        let made = client
            .create_repository()
            .repo_id(repo.as_str())
            .repo_type(RepoTypeModel)
            .private(upload.private)
            .exist_ok(true)
            .send()
            .map_err(failed)?;
        // A name without an owner gets the user's.
        let full = made.url.strip_prefix(&options.endpoint).map(|path| path.trim_matches('/'));
        let repo = full.and_then(|id| RepoId::parse(id).ok()).unwrap_or(repo.clone());

        let (owner, name) = split_id(repo.as_str());
        client
            .model(owner, name)
            .create_commit()
            .operations(operations(upload.folder, &files, &repo)?)
            .commit_message(upload.message)
            .progress(ClientProgress::new(Reported { progress: progress.clone(), repo: repo.to_string() }))
            .send()
            .map_err(failed)?;
        Ok(format!("{}/{repo}", options.endpoint))
    }
}

const CARD: &str = "README.md";

/// One operation for each file, with the model card made for the repository's name.
fn operations(folder: &Path, files: &[String], repo: &RepoId) -> Result<Vec<CommitOperation>> {
    let card = if files.iter().any(|file| file == CARD) {
        ModelCard::parse(&io::read_to_string(folder.join(CARD))?)
    } else {
        ModelCard::derived(None, None)
    };
    let card = card.render(Some(repo));
    let others = files.iter().filter(|file| *file != CARD);
    let mut operations: Vec<CommitOperation> =
        others.map(|file| CommitOperation::add_file(file.as_str(), folder.join(file))).collect();
    operations.push(CommitOperation::add_bytes(CARD, card.into_bytes()));
    Ok(operations)
}

/// The files below a folder, as paths with `/`, sorted. Links to files of the folder count as files, and links out of it are
/// refused; links to folders are not followed.
fn files_of(top: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![(top.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for path in io::read_dir(&folder)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                let source = std::io::Error::new(std::io::ErrorKind::InvalidFilename, "the name is not UTF-8");
                return Err(Error::Io { action: "upload", path, source });
            };
            if is_left_out(name) {
                continue;
            }
            let within = format!("{prefix}{name}");
            if io::own_file(top, &within)?.is_some() {
                found.push(within);
            } else if path.is_dir() && !path.is_symlink() {
                folders.push((path, format!("{within}/")));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_left_out(name: &str) -> bool {
    [".git", ".cache", ".DS_Store", "__pycache__"].contains(&name) || io::is_temporary(name)
}

/// Passes hf-hub's events on.
struct Reported {
    progress: Progress,
    repo: String,
}

impl ProgressHandler for Reported {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Upload(UploadEvent::Start { total_files, total_bytes }) => {
                self.progress.report(Event::Start { repo: &self.repo, files: *total_files, total_bytes: *total_bytes });
            }
            ProgressEvent::Upload(UploadEvent::Progress { files, .. }) => {
                for file in files {
                    let (done_bytes, total_bytes) = (file.bytes_completed, file.total_bytes);
                    self.progress.report(Event::File { file: &file.filename, done_bytes, total_bytes });
                }
            }
            ProgressEvent::Upload(UploadEvent::Complete) => self.progress.report(Event::Done),
            _ => {}
        }
    }
}

/// An error of hf-hub in our words. `path` is what it was reading or walking.
pub(super) fn from_client(error: HFError, repo: &str, endpoint: &str, path: &Path) -> Error {
    let (repo, endpoint) = (repo.to_owned(), endpoint.to_owned());
    let error = match error {
        HFError::AuthRequired { .. } => HubError::BadToken { endpoint },
        HFError::Forbidden { context } => {
            let said = or_status(context.server_message.unwrap_or_default(), context.status.as_u16());
            HubError::Forbidden { action: "writing to", repo, said }
        }
        HFError::RepoNotFound { .. } => HubError::NotFound { repo, endpoint, with_token: true },
        HFError::RateLimited { retry_after, .. } => {
            HubError::RateLimited { endpoint, retry_after_s: retry_after.map(|pause| pause.as_secs()) }
        }
        HFError::Http { context } | HFError::Conflict { context } => {
            let (status, said) = (context.status.as_u16(), context.server_message.unwrap_or_default());
            HubError::Server { endpoint, repo, status, said }
        }
        HFError::Request { source, .. } => HubError::Unreachable { endpoint, cause: root_cause(&source) },
        HFError::Io(source) => return Error::Io { action: "read", path: PathBuf::from(path), source },
        other => HubError::Client { cause: other.to_string() },
    };
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a.json", "sub/b.json", ".git/config", ".mlxlm-x.tmp", ".gitattributes"] {
            io::create_dir_all(at(name).parent().unwrap()).unwrap();
            io::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("a.json", at("link.json")).unwrap();
        std::os::unix::fs::symlink(".", at("loop")).unwrap();
        assert_eq!(files_of(folder.path()).unwrap(), [".gitattributes", "a.json", "link.json", "sub/b.json"]);
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(secret.path(), at("sub/c.json")).unwrap();
        assert!(files_of(folder.path()).unwrap_err().to_string().contains("sub/c.json` is a link to"));
    }
}
