//! Listeners as they are served: address, certificates, WebSocket path. Files were readable and fitted when the
//! configuration was checked; what they hold may have changed since.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    /// None: without encryption.
    pub tls: Option<ServerTls>,
    /// Where the WebSocket is, beginning with `/`. None: MQTT without WebSocket.
    pub websocket_path: Option<Arc<str>>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The chain, the listener's own certificate first.
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// None: clients are not asked for a certificate.
    pub clients: Option<ClientCertificates>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM: the authorities whose certificates are accepted.
    pub ca: PathBuf,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
    pub username_from: UsernameFrom,
}

/// What of a client's certificate is its user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsernameFrom {
    CommonName,
    /// The whole distinguished name as RFC 4514 writes it.
    Subject,
    /// The first DNS name of the subject's alternative names.
    SanDns,
    /// The certificate names nobody.
    None,
}
