//! `upload`, and what `convert --upload-repo` shares with it.

use std::path::Path;

use mlxlm_core::hub::{RepoId, Upload};
use mlxlm_core::io;

use crate::args::UploadArgs;
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::say;
use crate::progress;

/// Runs the command.
pub(super) fn run(args: &UploadArgs) -> Result {
    let repo = repo(&args.upload_repo)?;
    // What has no configuration is no model: better said now than by those who download it.
    io::open(args.path.join("config.json"))?;
    check(&repo)?;
    upload(&repo, &args.path, "Upload of a model by mlxlm")
}

/// A name that cannot be uploaded to is refused before anything is done.
pub(super) fn repo(name: &str) -> Result<RepoId> {
    RepoId::parse(name).map_err(|error| Failure::from(mlxlm_core::Error::from(error)).into_usage())
}

/// Whether the hub would take it.
pub(super) fn check(repo: &RepoId) -> Result {
    Ok(model::hub()?.check_upload(repo.as_str())?)
}

/// Uploads a model folder, and says where it is.
pub(super) fn upload(repo: &RepoId, folder: &Path, message: &str) -> Result {
    let upload = Upload { repo: repo.as_str(), folder, private: false, message };
    say!("[INFO] Uploaded to {}", model::hub()?.upload_folder(&upload, &progress::shown())?)
}
