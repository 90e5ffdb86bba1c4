//! The connection of `pub` and `sub`: TCP, or TLS over it. Knows nothing of MQTT.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error as TlsError, RootCertStore};

/// For the name, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// None: the certificates that the system trusts.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
pub enum StreamError {
    Connect(io::Error),
    TimedOut,
    /// The TLS handshake failed.
    Handshake(io::Error),
    BadServerName(InvalidDnsNameError),
    UnreadablePem(PathBuf, pem::Error),
    NoCertificate(PathBuf),
    /// The certificate and the key do not fit, or one of them is of no use.
    Unusable(TlsError),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => f.write_str(&plain(error)),
            Self::TimedOut => write!(f, "no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            Self::Handshake(error) => write!(f, "TLS: {}", plain(error)),
            Self::BadServerName(error) => write!(f, "TLS: {error}"),
            Self::UnreadablePem(path, error) => match error {
                pem::Error::Io(error) => write!(f, "{}: {}", path.display(), plain(error)),
                pem::Error::NoItemsFound => write!(f, "{}: holds nothing of the kind", path.display()),
                error => write!(f, "{}: {error}", path.display()),
            },
            Self::NoCertificate(path) => write!(f, "{}: holds no certificate", path.display()),
            Self::Unusable(error) => write!(f, "TLS: {error}"),
        }
    }
}

/// `Connection refused`, without the number behind it.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

pub async fn connect(server: &Server) -> Result<Box<dyn Stream>, StreamError> {
    let connector = server.tls.as_ref().map(connector).transpose()?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, open(server, connector)).await;
    connected.unwrap_or(Err(StreamError::TimedOut))
}

async fn open(server: &Server, tls: Option<TlsConnector>) -> Result<Box<dyn Stream>, StreamError> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = stream.map_err(StreamError::Connect)?;
    // Small packets at once: batches are gathered before they are written.
    stream.set_nodelay(true).map_err(StreamError::Connect)?;
    let Some(connector) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(server.host.clone()).map_err(StreamError::BadServerName)?;
    let stream = connector.connect(name, stream).await.map_err(StreamError::Handshake)?;
    Ok(Box::new(stream))
}

fn connector(tls: &Tls) -> Result<TlsConnector, StreamError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(StreamError::Unusable)?.with_root_certificates(roots(tls.ca.as_deref())?);
    let config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let unreadable = |error| StreamError::UnreadablePem(key.clone(), error);
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
            config.with_client_auth_cert(chain, key).map_err(StreamError::Unusable)?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, StreamError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        // A system certificate that cannot be read is one that is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(StreamError::Unusable)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StreamError> {
    let unreadable = |error| StreamError::UnreadablePem(path.to_owned(), error);
    let certificates = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(StreamError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::{Server, Stream, StreamError, Tls, connect, ring};
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig};

    /// A CA and certificates for `localhost` that it signed, as files: `ca.crt`, `server.crt`, `server.key`, ...
    fn write_certificates(folder: &Path) {
        let mut ca = CertificateParams::new(vec![]).expect("parameters");
        ca.distinguished_name.push(DnType::CommonName, "a CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        std::fs::write(folder.join("ca.crt"), ca.self_signed(&key).expect("signed").pem()).expect("a file");
        let issuer = Issuer::new(ca, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
            let signed = params.signed_by(&key, &issuer).expect("signed");
            std::fs::write(folder.join(format!("{name}.crt")), signed.pem()).expect("a file");
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
        }
    }

    /// Asks for a client certificate and sends back the first five bytes of each connection.
    async fn start_server(folder: &Path) -> u16 {
        let chain = vec![CertificateDer::from_pem_file(folder.join("server.crt")).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca.crt")).expect("a CA")).expect("a root");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut bytes = [0; 5];
                if stream.read_exact(&mut bytes).await.is_ok() {
                    stream.write_all(&bytes).await.expect("the client reads");
                }
            }
        });
        port
    }

    async fn echo(mut stream: Box<dyn Stream>) -> std::io::Result<[u8; 5]> {
        let mut bytes = [0; 5];
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    #[tokio::test]
    async fn tls_trusts_the_named_ca_and_shows_its_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        write_certificates(folder.path());
        let port = start_server(folder.path()).await;
        let server = |ca: &str, identity| Server {
            host: "localhost".to_owned(),
            port,
            tls: Some(Tls { ca: Some(file(ca)), identity }),
        };
        let identity = Some((file("client.crt"), file("client.key")));
        let stream = connect(&server("ca.crt", identity)).await.expect("a connection");
        assert_eq!(&echo(stream).await.expect("an echo"), b"hello");
        // TLS 1.3: a client learns with its first read that its certificate was missed.
        let stream = connect(&server("ca.crt", None)).await.expect("a handshake");
        assert!(echo(stream).await.is_err());
        let error = connect(&server("client.crt", None)).await.err().expect("another CA");
        assert_eq!(error.to_string(), "TLS: invalid peer certificate: UnknownIssuer");
        let mixed = Some((file("client.crt"), file("server.key")));
        let error = connect(&server("ca.crt", mixed)).await.err().expect("a key of another");
        assert!(matches!(error, StreamError::Unusable(_)), "{error}");
    }

    #[tokio::test]
    async fn errors_say_what_failed_in_words() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty.crt");
        std::fs::write(&empty, "").expect("a file");
        let tls = |ca: PathBuf| Some(Tls { ca: Some(ca), identity: None });
        let cases = [
            (None, "Connection refused".to_owned()),
            (tls("/nowhere/ca.crt".into()), "/nowhere/ca.crt: No such file or directory".to_owned()),
            (tls(empty.clone()), format!("{}: holds no certificate", empty.display())),
        ];
        for (tls, text) in cases {
            let server = Server { host: "127.0.0.1".to_owned(), port, tls };
            let error = connect(&server).await.err().expect("no server listens");
            assert_eq!(error.to_string(), text);
        }
    }
}
