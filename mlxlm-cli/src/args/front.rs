//! Options of what the server shows to whom: the page, encryption, the log, and how strict it is.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What clients see of the server.
#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    /// Serve no page to chat on at `/`.
    #[arg(long)]
    pub(crate) no_page: bool,
    /// A file of PEM with the certificate, and those behind it: connections are encrypted. SIGHUP reads it again.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// A file of PEM with the private key of the certificate.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// How lines of the log are written.
    #[arg(long, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What happens to images in messages: no model here can see them.
    #[arg(long, default_value = "refuse")]
    pub(crate) images: ImageUse,
    /// Refuse requests that name no model, as OpenAI does.
    #[arg(long)]
    pub(crate) require_model: bool,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Words for people.
    Text,
    /// An object a line.
    Json,
}

/// `--images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageUse {
    /// The request is refused.
    Refuse,
    /// The model reads `[image]` in their place.
    Mention,
}
