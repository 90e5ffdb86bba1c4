//! What stands before a listener's connections: handshakes, and whom they show. Each runs in its connection's
//! own task, so that a slow one keeps nobody waiting. Speaks no MQTT.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::base::address::Address;
use crate::base::time::Duration;
use crate::broker::Peer;
use crate::hub::Hub;
use crate::hub::refusals::Cause;
use crate::transport::accept::{AcceptError, Accepted, Acceptor};
use crate::transport::server::{Age, TlsServer};
use crate::transport::stream::Stream;

/// How often the files of certificates are looked at.
const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(2);

/// One listener's.
#[derive(Debug)]
pub struct Entrance {
    acceptor: Arc<Acceptor>,
    cancel: CancellationToken,
}

impl Entrance {
    /// Handshakes end when `cancel` is cancelled.
    pub fn new(acceptor: Arc<Acceptor>, cancel: CancellationToken) -> Entrance {
        Entrance { acceptor, cancel }
    }

    /// None: the client did not come in.
    pub async fn enter(&self, socket: TcpStream, hub: &Hub) -> Option<(Stream, Peer)> {
        let address = Address::from(socket.peer_addr().ok()?.ip());
        let accepted = if self.acceptor.is_plain() {
            Accepted::from(socket)
        } else {
            // Apart, so that a connection without handshakes has no room for theirs.
            Box::pin(self.shake_hands(socket, address, hub)).await?
        };
        let peer = Peer {
            loopback: address.is_loopback() && !accepted.foreign_page,
            address: address.0,
            certificate_user: accepted.certificate_name,
        };
        Some((accepted.stream, peer))
    }

    async fn shake_hands(&self, socket: TcpStream, from: Address, hub: &Hub) -> Option<Accepted> {
        match self.cancel.run_until_cancelled(self.acceptor.accept(socket)).await? {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                hub.handle_refused(from, cause_of(&error), Some(&error));
                None
            }
        }
    }
}

const fn cause_of(error: &AcceptError) -> Cause {
    match error {
        AcceptError::TimedOut => Cause::HandshakeTimeout,
        AcceptError::Tls(_) => Cause::Tls,
        AcceptError::Nameless(_) => Cause::Certificate,
        AcceptError::WebSocket(_) => Cause::WebSocket,
    }
}

/// Reads certificates again when their files change, until it is cancelled.
pub async fn watch_certificates(servers: Vec<Arc<TlsServer>>, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(CERTIFICATES_INTERVAL);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        let looked_at = servers.clone();
        let look = move || looked_at.iter().for_each(|server| refresh(server));
        if tokio::task::spawn_blocking(look).await.is_err() {
            tracing::error!("looking at certificates panicked");
        }
    }
}

fn refresh(server: &TlsServer) {
    let path = server.certificate_path().display();
    match server.refresh() {
        None => {}
        Some(Ok(())) => {
            tracing::info!(certificate = %path, "new connections get the new certificate");
            warn_of_age(server);
        }
        Some(Err(error)) => {
            tracing::warn!(certificate = %path, %error, "the certificate in use stays: a new file is faulty");
        }
    }
}

/// Clients turn away from a certificate that is not good today, or the clock is wrong.
pub fn warn_of_age(server: &TlsServer) {
    let path = server.certificate_path().display();
    match server.age(std::time::SystemTime::now()) {
        Age::Valid => {}
        Age::Expired => {
            tracing::warn!(certificate = %path, "the certificate has expired (or the clock is wrong)");
        }
        Age::NotYetValid => {
            tracing::warn!(certificate = %path, "the certificate is not valid yet (or the clock is wrong)");
        }
    }
}
