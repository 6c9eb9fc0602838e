//! TLS to a remote admin listener: whom to believe, and what to show.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::super::failure::Failure;
use super::url::{Trust, Url};

/// Ready to shake hands with one host.
#[derive(Clone)]
pub struct Tls {
    pub connector: TlsConnector,
    pub host: ServerName<'static>,
}

impl Tls {
    pub fn to(url: &Url) -> Result<Tls, Failure> {
        let wrong_host = |_| Failure::Usage(format!("--admin: {:?} is not a name that a certificate can be for", url.host()));
        let host = ServerName::try_from(url.host().to_owned()).map_err(wrong_host)?;
        let config = config(&url.trust)?;
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), host })
    }
}

fn config(trust: &Trust) -> Result<ClientConfig, Failure> {
    let failed = |error: rustls::Error| Failure::Refused(format!("cannot start TLS: {error}"));
    let roots = match &trust.ca {
        Some(file) => named(file)?,
        None => of_the_system()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let wrong = |error: rustls::Error| unusable("--admin-identity", file, &error.to_string());
            let (chain, key) = identity(file)?;
            builder.with_client_auth_cert(chain, key).map_err(wrong)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn named(file: &Path) -> Result<RootCertStore, Failure> {
    let certificates = certificates("--admin-ca", file, &read("--admin-ca", file)?)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unusable("--admin-ca", file, &error.to_string()))?;
    }
    Ok(roots)
}

fn of_the_system() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        let text = format!("this system trusts no certificate authority{why}; install ca-certificates, or name one with --admin-ca FILE");
        return Err(Failure::Refused(text));
    }
    Ok(roots)
}

fn identity(file: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let text = Zeroizing::new(read("--admin-identity", file)?);
    let chain = certificates("--admin-identity", file, &text)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| unusable("--admin-identity", file, "it holds no private key in PEM form beside the certificate"))?;
    Ok((chain, key))
}

fn certificates(option: &str, file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if read.is_empty() { Err(unusable(option, file, "it holds no certificate in PEM form")) } else { Ok(read) }
}

fn read(option: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| unusable(option, file, &error.to_string()))
}

fn unusable(option: &str, file: &Path, why: &str) -> Failure {
    Failure::Usage(format!("{option}: {} cannot be used: {why}", file.display()))
}

/// What to do about a handshake that failed, if there is something.
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    use rustls::CertificateError as Bad;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => "nobody trusted signed its certificate; --admin-ca FILE names who did",
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name; write that one in the URL"
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: renew it and restart the gateway"
        }
        // Named nowhere but in the words of the library below.
        rustls::Error::InvalidCertificate(Bad::Other(why)) if why.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate says of itself that it is an authority's (CA:TRUE), which a server must not show; give the listener one \
             with basicConstraints=CA:FALSE: three openssl commands in docs/operators.md make it"
        }
        rustls::Error::InvalidMessage(_) => "it speaks no TLS; is this the admin listener, and does it have admin.tls?",
        rustls::Error::AlertReceived(_) => "it may demand a certificate (admin.tls.client_ca): --admin-identity FILE shows one",
        _ => "is this the admin listener?",
    })
}
