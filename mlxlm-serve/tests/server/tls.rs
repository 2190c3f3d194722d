//! Encrypted connections, with certificates that are made here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mlxlm_serve::{Limits, Server, ServerOptions, Tls};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::counter::counter;
use crate::house::options;

/// Makes a certificate for this machine, and writes it and its key into a folder.
fn make(folder: &Path) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made
}

fn files(folder: &Path) -> Tls {
    Tls { certificates: folder.join("cert.pem"), key: folder.join("key.pem") }
}

/// Asks for `/health` as a client that trusts one certificate; an error if the server shows another.
fn ask(port: u16, trusted: &rcgen::CertifiedKey<rcgen::KeyPair>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(("127.0.0.1", port))?);
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // The server may close without saying so.
    match stream.read_to_string(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

#[test]
fn connections_are_encrypted_and_the_certificate_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = make(folder.path());
    let limits = Limits { head_time: Duration::from_millis(500), ..Limits::default() };
    let server = Server::bind(ServerOptions { tls: Some(files(folder.path())), limits, ..options() }).unwrap();
    let (port, stop) = (server.addresses()[0].port(), server.stopper());
    let running = std::thread::spawn(move || server.run(counter(Duration::ZERO)));
    assert!(ask(port, &first).unwrap().starts_with("HTTP/1.1 200"));
    // Who does not speak TLS gets nothing, and who says nothing is hung up on.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"));
    let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    // What is in the files now counts for new connections; nonsense leaves everything as it is.
    let second = make(folder.path());
    stop.read_certificate_again();
    assert!(ask(port, &first).is_err());
    assert!(ask(port, &second).unwrap().starts_with("HTTP/1.1 200"));
    std::fs::write(folder.path().join("key.pem"), "nonsense").unwrap();
    stop.read_certificate_again();
    assert!(ask(port, &second).unwrap().starts_with("HTTP/1.1 200"));
    stop.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused =
        || Server::bind(ServerOptions { tls: Some(files(folder.path())), ..options() }).unwrap_err().to_string();
    assert!(refused().contains("cert.pem"), "{}", refused());
    make(folder.path());
    std::fs::write(folder.path().join("cert.pem"), "").unwrap();
    assert!(refused().starts_with("there is no certificate in `"), "{}", refused());
    make(folder.path());
    std::fs::write(folder.path().join("key.pem"), "nonsense").unwrap();
    assert!(refused().contains("key.pem"), "{}", refused());
    // The key of another certificate.
    let other = tempfile::tempdir().unwrap();
    make(folder.path());
    make(other.path());
    std::fs::copy(other.path().join("key.pem"), folder.path().join("key.pem")).unwrap();
    assert!(refused().starts_with("cannot use the certificate in `"), "{}", refused());
}
