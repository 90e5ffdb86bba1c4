//! TLS as a client: files to a configuration, and failures in words. Never logs, never shows a key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::VerifierBuilderError;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{CertificateError, ClientConfig, InconsistentKeys, RootCertStore};

/// What a TLS client is made of.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// PEM. None: the system's.
    pub ca: Option<PathBuf>,
    /// PEM, the chain. Only with `private_key`.
    pub certificate: Option<PathBuf>,
    /// PEM: PKCS#8, SEC1 or PKCS#1.
    pub private_key: Option<PathBuf>,
    /// Whom the certificate must name. None: the host.
    pub server_name: Option<Arc<str>>,
    pub alpn: Vec<Arc<str>>,
}

/// Why there is no TLS client.
#[derive(Debug)]
pub enum TlsError {
    /// The file cannot be read or is no PEM.
    File {
        path: PathBuf,
        why: pem::Error,
    },
    NoCertificate {
        path: PathBuf,
    },
    /// The private key needs a password.
    Encrypted {
        path: PathBuf,
    },
    /// A certificate of the file cannot be trusted as an authority.
    BadAuthority {
        path: PathBuf,
        why: rustls::Error,
    },
    /// The key does not fit the certificate, or is of an unknown kind.
    BadKey {
        path: PathBuf,
        why: rustls::Error,
    },
    /// The system has no certificate authorities.
    NoSystemAuthorities,
    BadServerName {
        name: Arc<str>,
    },
    /// Client certificates cannot be verified with the authorities of the file.
    BadVerifier {
        path: PathBuf,
        why: VerifierBuilderError,
    },
    Unsupported(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, why } => match why {
                pem::Error::Io(why) => write!(f, "{}: {why}", path.display()),
                pem::Error::NoItemsFound => write!(f, "{}: holds no private key", path.display()),
                why => write!(f, "{}: is no PEM file: {why}", path.display()),
            },
            Self::Encrypted { path } => {
                write!(f, "{}: is encrypted, and nobody types its password", path.display())
            }
            Self::NoCertificate { path } => write!(f, "{}: holds no certificate", path.display()),
            Self::BadAuthority { path, why } => {
                write!(f, "{}: is no certificate authority: {why}", path.display())
            }
            Self::BadKey { path, why } => {
                write!(f, "{}: does not fit the certificate: {why}", path.display())
            }
            Self::NoSystemAuthorities => {
                f.write_str("the system has no certificate authorities (name a ca file)")
            }
            Self::BadServerName { name } => write!(f, "{name}: is no server name"),
            Self::BadVerifier { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Unsupported(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for TlsError {}

/// A configuration for all servers of one link.
#[derive(Debug, Clone)]
pub struct TlsClient {
    pub(super) config: Arc<ClientConfig>,
    server_name: Option<Arc<str>>,
}

impl TlsClient {
    /// Reads the files: small, but blocking.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match &settings.ca {
            Some(path) => roots_of(path)?,
            None => system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Unsupported)?
            .with_root_certificates(roots);
        let mut config = match (&settings.certificate, &settings.private_key) {
            (Some(certificate), Some(key)) => {
                let own = own_certificate(certificate, key, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Self { config: Arc::new(config), server_name: settings.server_name.clone() })
    }

    /// Whom the certificate of a host must name.
    pub(super) fn name_for(&self, host: &Arc<str>) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_ref().unwrap_or(host);
        ServerName::try_from(name.to_string()).map_err(|_| TlsError::BadServerName { name: name.clone() })
    }
}

/// A certificate of X.509 version 1, which `openssl x509 -req` of OpenSSL 3.0 writes, cannot be read by rustls: whether it
/// is good is the server's to say. That the key is its own is looked at all the same.
fn own_certificate(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let fault = |why| TlsError::BadKey { path: key.to_owned(), why };
    let chain = certificates_of(certificate)?;
    let signing = provider.key_provider.load_private_key(key_of(key)?).map_err(fault)?;
    let own = CertifiedKey::new(chain, signing);
    match own.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(own),
        Err(rustls::Error::InvalidCertificate(_)) if has_its_key(&own) => Ok(own),
        Err(why) => Err(fault(why)),
    }
}

fn has_its_key(own: &CertifiedKey) -> bool {
    let read = own.cert.first().and_then(|own| x509_parser::parse_x509_certificate(own).ok());
    read.zip(own.key.public_key()).is_some_and(|((_, read), key)| *read.subject_pki.raw == *key)
}

pub(super) fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(path)? {
        roots.add(certificate).map_err(|why| TlsError::BadAuthority { path: path.to_owned(), why })?;
    }
    Ok(roots)
}

/// Those of the system that can be used; a bundle with one odd certificate in it still serves.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 { Err(TlsError::NoSystemAuthorities) } else { Ok(roots) }
}

pub(super) fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |why| TlsError::File { path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(fault)?.collect();
    let certificates = found.map_err(fault)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

pub(super) fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|why| {
        let path = path.to_owned();
        if is_encrypted(&path) { TlsError::Encrypted { path } } else { TlsError::File { path, why } }
    })
}

/// A key that needs a password: as PKCS#8, or as the older kinds say it (RFC 1421, 4.6.1.1).
fn is_encrypted(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.contains("BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// What a failed handshake means, in words that say what to do.
pub(super) fn explain(why: &rustls::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let rustls::Error::InvalidCertificate(fault) = why else { return write!(f, "{why}") };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            f.write_str("its certificate has expired (or the gateway's clock is wrong)")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            f.write_str("its certificate is not valid yet (or the gateway's clock is wrong)")
        }
        CertificateError::UnknownIssuer => {
            f.write_str("its certificate is from an unknown certificate authority (is it the right ca?)")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            f.write_str("its certificate is for another name (set server_name?)")
        }
        CertificateError::Revoked => f.write_str("its certificate is revoked"),
        CertificateError::Other(why) if why.to_string().contains("UnsupportedCertVersion") => f.write_str(
            "its certificate is of X.509 version 1 (to be issued anew as version 3, with the name in subjectAltName)",
        ),
        other => write!(f, "its certificate is not accepted: {other}"),
    }
}
