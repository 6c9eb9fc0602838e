//! TLS on the TCP listener: its certificate from files, and the handshake.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::AdminTls;

/// Who has not agreed on a key by then is left: a stranger must not hold one of the listener's places for longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest file that is read, in bytes; a wrong path (a log, a device) must not fill the memory.
const MAX_FILE: u64 = 1 << 20;

/// Why the listener cannot be encrypted. Each begins with the setting below `admin.tls`.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{setting}: {} cannot be read: {source}; name a PEM file that the gateway's user may read", path.display())]
    Unreadable { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("{setting}: {} holds no {what} in PEM form; such a file has a line -----BEGIN {begins}-----", path.display())]
    NotPem { setting: &'static str, path: PathBuf, what: &'static str, begins: &'static str },
    #[error("private_key: {} is not the key of the certificate in {}; name the one that the certificate was made with, and put the \
             listener's own certificate first in its file", key.display(), certificate.display())]
    NotItsKey { key: PathBuf, certificate: PathBuf },
    #[error("{setting}: {} cannot be used: {source}", path.display())]
    Unusable { setting: &'static str, path: PathBuf, source: rustls::Error },
    #[error("client_ca: {} cannot be used: {source}", path.display())]
    NoVerifier { path: PathBuf, source: rustls::server::VerifierBuilderError },
}

/// What encrypts a listener: TLS 1.3 and 1.2, HTTP/1.1 inside.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads the files that the settings name.
    pub fn load(files: &AdminTls) -> Result<Tls, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates("certificate", &files.certificate)?;
        let key = private_key(&files.private_key)?;
        let clients = client_verifier(files.client_ca.as_deref(), &provider)?;
        let unusable = |source| match source {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::NotItsKey { key: files.private_key.clone(), certificate: files.certificate.clone() }
            }
            source => TlsError::Unusable { setting: "certificate", path: files.certificate.clone(), source },
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(unusable)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }

    /// The encrypted stream, once both sides agreed on it.
    pub(super) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) -> io::Result<TlsStream<S>> {
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.0.accept(stream)).await;
        handshake.unwrap_or_else(|_| Err(io::Error::new(ErrorKind::TimedOut, "the handshake took too long")))
    }
}

/// Who may connect at all: everybody, or who shows a certificate of one of these authorities.
fn client_verifier(authorities: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(path) = authorities else { return Ok(Arc::new(NoClientAuth)) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client_ca", path)? {
        roots.add(certificate).map_err(|source| TlsError::Unusable { setting: "client_ca", path: path.to_owned(), source })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    verifier.map_err(|source| TlsError::NoVerifier { path: path.to_owned(), source })
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_slice_iter(&read(setting, path)?).collect::<Result<Vec<_>, _>>();
    let not_pem = || TlsError::NotPem { setting, path: path.to_owned(), what: "certificate", begins: "CERTIFICATE" };
    read.ok().filter(|chain| !chain.is_empty()).ok_or_else(not_pem)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let setting = "private_key";
    let not_pem = |_| TlsError::NotPem { setting, path: path.to_owned(), what: "private key", begins: "PRIVATE KEY" };
    PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(read(setting, path)?)).map_err(not_pem)
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Unreadable { setting, path: path.to_owned(), source };
    // Opening a pipe would wait for its writer, for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no file")));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a certificate and its key, and the key of another one.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("cert.pem", made.cert.pem());
        write("key.pem", made.signing_key.serialize_pem());
        write("other.pem", rcgen::KeyPair::generate().unwrap().serialize_pem());
        write("text.pem", "no certificate at all\n".into());
        write("broken.pem", "-----BEGIN CERTIFICATE-----\nbm90IERFUg==\n-----END CERTIFICATE-----\n".into());
        folder
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_path_and_what_would_be_right() {
        let folder = folder();
        let load = |certificate: &str, private_key: &str, client_ca: Option<&str>| {
            let at = |name: &str| folder.path().join(name);
            let files = AdminTls { certificate: at(certificate), private_key: at(private_key), client_ca: client_ca.map(at) };
            Tls::load(&files).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(load("cert.pem", "key.pem", None), Ok(()));
        assert_eq!(load("cert.pem", "key.pem", Some("cert.pem")), Ok(()));
        let cases = [
            ("absent.pem", "key.pem", None, "certificate: ", "absent.pem cannot be read: No such file"),
            (".", "key.pem", None, "certificate: ", "cannot be read: it is no file"),
            ("text.pem", "key.pem", None, "certificate: ", "text.pem holds no certificate in PEM form"),
            ("key.pem", "key.pem", None, "certificate: ", "-----BEGIN CERTIFICATE-----"),
            ("cert.pem", "cert.pem", None, "private_key: ", "cert.pem holds no private key in PEM form"),
            ("cert.pem", "absent.pem", None, "private_key: ", "absent.pem cannot be read"),
            ("cert.pem", "other.pem", None, "private_key: ", "other.pem is not the key of the certificate in "),
            ("broken.pem", "key.pem", None, "certificate: ", "broken.pem cannot be used"),
            ("cert.pem", "key.pem", Some("text.pem"), "client_ca: ", "text.pem holds no certificate"),
            ("cert.pem", "key.pem", Some("broken.pem"), "client_ca: ", "broken.pem cannot be used"),
        ];
        for (certificate, key, client_ca, setting, words) in cases {
            let message = load(certificate, key, client_ca).unwrap_err();
            assert!(message.starts_with(setting) && message.contains(words), "{message}");
        }
    }
}
