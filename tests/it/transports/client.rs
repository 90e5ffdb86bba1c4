//! A client that speaks MQTT 3.1.1 in bytes over any stream.

use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::ring};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::cloud::authority::Identity;

/// Nothing here takes so long; what does has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
pub const PINGREQ: &[u8] = b"\xc0\x00";
pub const PINGRESP: &[u8] = b"\xd0\x00";
pub const DISCONNECT: &[u8] = b"\xe0\x00";
const SUBSCRIBE_T: &[u8] = b"\x82\x06\x00\x01\x00\x01t\x00";
const SUBACK: &[u8] = b"\x90\x03\x00\x01\x00";
/// A QoS 0 PUBLISH to `t` with 200,000 bytes of payload; its remaining length is 200,003.
const LARGE_HEAD: &[u8] = b"\x30\xc3\x9a\x0c\x00\x01t";
const LARGE_PAYLOAD_BYTES: usize = 200_000;

/// Bytes to and from a broker, however they travel.
pub trait Wire {
    async fn send(&mut self, bytes: &[u8]);
    /// What came next, at least one byte; None: it is over.
    async fn next(&mut self) -> Option<Vec<u8>>;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire for S {
    async fn send(&mut self, bytes: &[u8]) {
        // A broker that has closed is found when it is asked for more.
        let _gone = self.write_all(bytes).await;
        let _gone = self.flush().await;
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 65_536];
        let length = self.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
        bytes.truncate(length);
        Some(bytes)
    }
}

/// Each send is one binary message.
pub struct Framed<S>(pub WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire for Framed<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Binary(bytes) => return Some(bytes.to_vec()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}

/// Exactly what is wanted comes, or less and then the end.
pub async fn receive(wire: &mut impl Wire, wanted_bytes: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let all = async {
        while received.len() < wanted_bytes
            && let Some(bytes) = wire.next().await
        {
            received.extend(bytes);
        }
    };
    timeout(PATIENCE, all).await.expect("an answer");
    received
}

/// The return code of CONNACK; None: the broker closed without one.
pub async fn connect(wire: &mut impl Wire) -> Option<u8> {
    wire.send(CONNECT).await;
    let connack = receive(wire, 4).await;
    if connack.is_empty() {
        return None;
    }
    assert_eq!(connack[..3], [0x20, 2, 0]);
    Some(connack[3])
}

/// Connects, subscribes, publishes more than any buffer on the way holds at once, and gets it back.
pub async fn converse(wire: &mut impl Wire) {
    assert_eq!(connect(wire).await, Some(0));
    wire.send(SUBSCRIBE_T).await;
    assert_eq!(receive(wire, SUBACK.len()).await, SUBACK);
    let payload: Vec<u8> = (0..=250).cycle().take(LARGE_PAYLOAD_BYTES).collect();
    let large = [LARGE_HEAD, &payload].concat();
    wire.send(&large).await;
    assert!(receive(wire, large.len()).await == large, "the message comes back as it was");
    wire.send(PINGREQ).await;
    assert_eq!(receive(wire, 2).await, PINGRESP);
}

pub async fn tcp(address: SocketAddr) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(address)).await.unwrap().unwrap()
}

pub fn tls_config(
    ca: &Path,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Identity>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca) {
        roots.add(certificate).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_file(&identity.private_key).unwrap();
            builder.with_client_auth_cert(certificates(&identity.certificate), key).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let reader = BufReader::new(File::open(path).unwrap());
    CertificateDer::pem_reader_iter(reader).collect::<Result<_, _>>().unwrap()
}

pub async fn tls(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, tcp(address).await);
    timeout(PATIENCE, shaken).await.unwrap()
}
