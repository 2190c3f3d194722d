//! Encrypted connections: the certificate, which may be read again while the server runs.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::error::{Error, Result};
use crate::options::Tls;

/// The certificate of the server.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: Tls,
    config: RwLock<Arc<ServerConfig>>,
}

impl Certificate {
    /// Reads the files.
    pub(crate) fn read(files: Tls) -> Result<Self> {
        let config = RwLock::new(config(&files)?);
        Ok(Self { files, config })
    }

    /// Reads the files again, for connections to come; what is wrong with them leaves everything as it was.
    pub(crate) fn read_again(&self) -> Result<()> {
        let config = config(&self.files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Greets a client.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn config(files: &Tls) -> Result<Arc<ServerConfig>> {
    let failed = |what: &'static str, path: &Path, why: String| Error::Certificate {
        what,
        path: path.display().to_string(),
        why,
    };
    let cannot_read = |path| {
        move |error: tokio_rustls::rustls::pki_types::pem::Error| failed("cannot read PEM", path, error.to_string())
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(cannot_read(&files.certificates))?;
    if certificates.is_empty() {
        return Err(failed("there is no certificate", &files.certificates, "no section of the file is one".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(cannot_read(&files.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| failed("cannot use the certificate", &files.certificates, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
