//! TLS as a server: files to a configuration, again when the files change. Never logs, never shows a key; a file
//! that is faulty changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio_rustls::rustls;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use crate::transport::identity::{NameFrom, Validity, validity_of};
use crate::transport::stamp::Stamp;
use crate::transport::tls::{TlsError, certificates_of, key_of, roots_of};

/// What a TLS server is made of. PEM files.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1.
    pub private_key: PathBuf,
    /// None: clients are not asked for a certificate.
    pub clients: Option<ClientSettings>,
}

#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub ca: PathBuf,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
    /// None: the certificate names nobody.
    pub name_from: Option<NameFrom>,
}

/// Whether a certificate is good today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    NotYetValid,
    Valid,
    Expired,
}

#[derive(Debug)]
pub struct TlsServer {
    settings: ServerSettings,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    config: Arc<ServerConfig>,
    validity: Option<Validity>,
    /// Of the files as they were read, or as they were found faulty.
    stamps: Vec<Option<Stamp>>,
    is_faulty: bool,
}

/// Files that were read again and found good, and that nobody has been shown yet.
#[derive(Debug)]
pub struct Renewed(Current);

impl TlsServer {
    /// Reads the files: small, but blocking.
    pub fn new(settings: ServerSettings) -> Result<Self, TlsError> {
        // Taken first: what changes while it is read is read again.
        let stamps = stamps_of(&settings);
        let (config, validity) = load(&settings)?;
        let current = Current { config, validity, stamps, is_faulty: false };
        Ok(Self { settings, current: RwLock::new(current) })
    }

    /// Reads the files again where one of them has changed; None: none has. Connections that stand keep what
    /// they have. Blocks.
    pub fn refresh(&self) -> Option<Result<(), TlsError>> {
        let stamps = stamps_of(&self.settings);
        if stamps == self.current().stamps {
            return None;
        }
        let loaded = load(&self.settings);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.stamps = stamps;
        current.is_faulty = loaded.is_err();
        Some(loaded.map(|(config, validity)| {
            current.config = config;
            current.validity = validity;
        }))
    }

    /// Reads the files where they are not those that are shown, found faulty before or not; None: they are. Changes
    /// nothing yet. Blocks.
    pub fn renewed(&self) -> Result<Option<Renewed>, TlsError> {
        let (stamps, current) = (stamps_of(&self.settings), self.current());
        if stamps == current.stamps && !current.is_faulty {
            return Ok(None);
        }
        let (config, validity) = load(&self.settings)?;
        Ok(Some(Renewed(Current { config, validity, stamps, is_faulty: false })))
    }

    /// New connections get it. Connections that stand keep what they have.
    pub fn show(&self, renewed: Renewed) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed.0;
    }

    /// Of the certificate that is shown now.
    pub fn age(&self, now: SystemTime) -> Age {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        match self.current().validity {
            Some(validity) if now < validity.from => Age::NotYetValid,
            Some(validity) if now > validity.until => Age::Expired,
            _ => Age::Valid,
        }
    }

    pub fn certificate_path(&self) -> &Path {
        &self.settings.certificate
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.current().config
    }

    pub(super) fn name_from(&self) -> Option<NameFrom> {
        self.settings.clients.as_ref().and_then(|clients| clients.name_from)
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn load(settings: &ServerSettings) -> Result<(Arc<ServerConfig>, Option<Validity>), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Unsupported)?;
    let builder = match &settings.clients {
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
        None => builder.with_no_client_auth(),
    };
    let chain = certificates_of(&settings.certificate)?;
    let validity = chain.first().and_then(|own: &CertificateDer<'_>| validity_of(own));
    let config = builder
        .with_single_cert(chain, key_of(&settings.private_key)?)
        .map_err(|why| TlsError::BadKey { path: settings.private_key.clone(), why })?;
    Ok((Arc::new(config), validity))
}

fn verifier(
    clients: &ClientSettings,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots_of(&clients.ca)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|why| TlsError::BadVerifier { path: clients.ca.clone(), why })
}

fn stamps_of(settings: &ServerSettings) -> Vec<Option<Stamp>> {
    let ca = settings.clients.as_ref().map(|clients| &clients.ca);
    [Some(&settings.certificate), Some(&settings.private_key), ca]
        .into_iter()
        .flatten()
        .map(|path| Stamp::of(path))
        .collect()
}
