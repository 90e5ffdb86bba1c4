//! The way to a bridge's servers: opens a stream to one, and looks meanwhile for those that are preferred and for renewed
//! certificates. Decides nothing, never speaks MQTT.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use crate::base::lock::lock;
use crate::bridge::fault::LinkFault;
use crate::bridge::link::RECEIVE_PACKET_BYTES_MAX;
use crate::bridge::servers::Destination;
use crate::cloud::door::Door;
use crate::config::model;
use crate::config::uplink::{self, BridgeUrl};
use crate::mqtt::packet::Version;
use crate::observe::frames::{Frames, Protocol, Recorder};
use crate::observe::traffic::Traffic;
use crate::transport::connect::{ConnectError, Route, connect};
use crate::transport::proxy::{Proxy, ProxyKind, ProxyLogin};
use crate::transport::renewal::RenewedTls;
use crate::transport::stream::Stream;
use crate::transport::tls::{TlsClient, TlsError, TlsSettings};
use crate::transport::websocket_client::WebSocketRequest;

/// How often the files of certificates are looked at while a link is up.
const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(2);
/// How often preferred servers are looked for while the link is with another.
const PROBE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the end of a probe may take.
const PROBE_END_WAIT: Duration = Duration::from_secs(1);

/// How the cloud is reached.
#[derive(Debug, Clone)]
pub struct Target {
    pub bridge: Arc<str>,
    pub version: Version,
    /// None: without TLS.
    pub tls: Option<TlsSettings>,
    pub proxy: Option<Proxy>,
    /// How often preferred servers are looked for.
    pub probe_interval: Duration,
    /// Who keeps what passes. None: nobody.
    pub recorder: Option<Recorder>,
    /// What passes is counted there.
    pub traffic: Arc<Traffic>,
}

impl Target {
    pub fn of(bridge: &model::Bridge) -> Self {
        let files = &bridge.tls;
        let tls = bridge.url.tls.then(|| TlsSettings {
            ca: files.ca.clone(),
            certificate: files.certificate.clone(),
            private_key: files.private_key.clone(),
            server_name: files.server_name.clone(),
            alpn: files.alpn.clone(),
        });
        let proxy = bridge.proxy.as_ref().map(proxy_of);
        let (bridge, version) = (bridge.name.clone(), bridge.protocol);
        let (recorder, traffic) = (None, Arc::default());
        Self { bridge, version, tls, proxy, probe_interval: PROBE_INTERVAL, recorder, traffic }
    }

    /// What passes is counted there.
    #[must_use]
    pub fn counted(self, traffic: Arc<Traffic>) -> Self {
        Self { traffic, ..self }
    }

    /// Its packets are kept under the bridge's name.
    #[must_use]
    pub fn traced(self, frames: &Arc<Frames>) -> Self {
        Self { recorder: Some(frames.recorder(&line_of(&self.bridge), Protocol::Mqtt)), ..self }
    }
}

/// How a bridge is called among lines, of which one may have its name.
pub fn line_of(bridge: &str) -> String {
    format!("bridges.{bridge}")
}

fn proxy_of(proxy: &uplink::Proxy) -> Proxy {
    let login = proxy.login.as_ref();
    Proxy {
        kind: match proxy.kind {
            uplink::ProxyKind::Http => ProxyKind::Http,
            uplink::ProxyKind::Socks5 => ProxyKind::Socks5,
        },
        host: proxy.host.clone(),
        port: proxy.port,
        login: login
            .map(|(user, password)| ProxyLogin { user: user.clone(), password: password.reveal().into() }),
    }
}

/// What outlives a connection: the certificates that were good last.
pub(super) struct Reach<'a> {
    target: &'a Target,
    /// None: without TLS.
    tls: Option<Arc<Mutex<Certificates>>>,
}

struct Certificates {
    files: RenewedTls,
    /// What was wrong with them last: told once.
    told: Option<String>,
}

impl Certificates {
    /// A file that is faulty is told, and what was good before stays.
    fn note(&mut self, bridge: &str, read: &Result<(), TlsError>) {
        let fault = read.as_ref().err().map(ToString::to_string);
        if let Some(error) = fault.as_ref().filter(|fault| self.told.as_ref() != Some(fault)) {
            tracing::warn!(%bridge, %error, "the certificate in use stays: a new file is faulty");
        }
        self.told = fault;
    }
}

impl<'a> Reach<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        let certificates = |settings: &TlsSettings| {
            Arc::new(Mutex::new(Certificates { files: RenewedTls::new(settings.clone()), told: None }))
        };
        Self { target, tls: target.tls.as_ref().map(certificates) }
    }

    /// The files are read for each try, so that a renewed certificate needs no restart.
    pub(super) async fn open(&self, server: &BridgeUrl) -> Result<Stream, LinkFault> {
        let tls = match &self.tls {
            Some(certificates) => Some(self.client(certificates).await?),
            None => None,
        };
        connect(&self.route(server, tls)).await.map_err(|why| LinkFault::Unreachable(Arc::new(why)))
    }

    async fn client(&self, certificates: &Arc<Mutex<Certificates>>) -> Result<TlsClient, LinkFault> {
        let (certificates, bridge) = (Arc::clone(certificates), Arc::clone(&self.target.bridge));
        let read = tokio::task::spawn_blocking(move || {
            let mut certificates = lock(&certificates);
            let read = certificates.files.read();
            let Some(client) = certificates.files.current().cloned() else {
                return read.and_then(|()| Err(TlsError::NoSystemAuthorities));
            };
            certificates.note(&bridge, &read);
            Ok(client)
        });
        let read = read.await.map_err(|why: JoinError| LinkFault::Unreachable(Arc::new(why)))?;
        read.map_err(|why| LinkFault::Unreachable(Arc::new(ConnectError::Tls(why))))
    }

    fn route(&self, server: &BridgeUrl, tls: Option<TlsClient>) -> Route {
        let websocket = server.path.as_ref().map(|path| WebSocketRequest {
            authority: server.authority().into(),
            path: path.clone(),
            packet_bytes_max: usize::try_from(RECEIVE_PACKET_BYTES_MAX).unwrap_or(usize::MAX),
        });
        let (host, port) = (server.host.clone(), server.port);
        Route { host, port, proxy: self.target.proxy.clone(), tls, websocket }
    }

    /// Beside a connection, for as long as it lasts.
    pub(super) async fn watch(&self, door: &dyn Door, destination: &Destination) -> Infallible {
        let mut probe_at = Instant::now() + self.target.probe_interval;
        let mut look_at = Instant::now() + CERTIFICATES_INTERVAL;
        loop {
            tokio::select! {
                () = sleep_until(probe_at), if !destination.preferred.is_empty() => {
                    door.probed(self.probe(&destination.preferred).await);
                    probe_at = Instant::now() + self.target.probe_interval;
                }
                () = sleep_until(look_at), if self.tls.is_some() => {
                    if self.is_renewed().await {
                        door.renewed();
                    }
                    look_at = Instant::now() + CERTIFICATES_INTERVAL;
                }
                // Neither is to be looked for.
                else => std::future::pending().await,
            }
        }
    }

    /// The first that can be connected to. Never a CONNECT: with our client id it would end the link that stands.
    async fn probe(&self, servers: &[BridgeUrl]) -> Option<usize> {
        for (index, server) in servers.iter().enumerate() {
            let tls = self.tls.as_ref().and_then(|certificates| lock(certificates).files.current().cloned());
            match connect(&self.route(server, tls)).await {
                Ok(mut stream) => {
                    let _unheard = timeout(PROBE_END_WAIT, stream.shutdown()).await;
                    return Some(index);
                }
                Err(error) => {
                    tracing::debug!(bridge = %self.target.bridge, %server, %error, "still not there");
                }
            }
        }
        None
    }

    /// Whether the files have changed and are good.
    async fn is_renewed(&self) -> bool {
        let Some(certificates) = &self.tls else { return false };
        let (certificates, bridge) = (Arc::clone(certificates), Arc::clone(&self.target.bridge));
        let look = tokio::task::spawn_blocking(move || {
            let mut certificates = lock(&certificates);
            let Some(read) = certificates.files.refresh() else { return false };
            certificates.note(&bridge, &read);
            read.is_ok()
        });
        look.await.unwrap_or(false)
    }
}
