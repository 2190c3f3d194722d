//! Why there is no server, or no more.

use mlxlm_core::Hint;

/// What can go wrong with the server as a whole; what goes wrong with a request is answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on `{host}` at port {port}: {source}")]
    Bind {
        /// The host, as it was given.
        host: String,
        /// The port.
        port: u16,
        /// The system's own words.
        source: std::io::Error,
    },

    /// The certificate or its key cannot be used.
    #[error("{what} in `{path}`: {why}")]
    Certificate {
        /// What it is about, as in "cannot use the certificate".
        what: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },

    /// The system refuses what a server needs.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as in "start a thread".
        action: &'static str,
        /// The system's own words.
        source: std::io::Error,
    },

    /// The models could not be loaded, or the engine broke down for good.
    #[error("{0}")]
    Engine(String),
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some("another program uses this port; end it, or use another port".into())
            }
            Self::Bind { .. } => Some("use an address of this machine, such as 127.0.0.1".into()),
            Self::Certificate { .. } => {
                Some("give files of PEM: the certificate, which begins with `-----BEGIN CERTIFICATE-----`, and its private key".into())
            }
            _ => None,
        }
    }
}
