//! Options of the server's HTTP side: the page, TLS, the log, and strictness.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What clients see of the server.
#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    /// Do not serve the chat page at `/`.
    #[arg(long)]
    pub(crate) no_page: bool,
    /// PEM file of the TLS certificate chain; SIGHUP reloads it.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Format of the log.
    #[arg(long, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// How to handle images in messages; models cannot see them.
    #[arg(long, default_value = "refuse")]
    pub(crate) images: ImageUse,
    /// Reject requests without a model name, as OpenAI does.
    #[arg(long)]
    pub(crate) require_model: bool,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}

/// `--images`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageUse {
    /// Reject the request.
    Refuse,
    /// Replace the image by the text `[image]`.
    Mention,
}
