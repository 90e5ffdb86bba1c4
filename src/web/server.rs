//! Connections: how many, how long, how large. Knows no route.

use crate::base::address::Address;
use crate::transport::accept::Acceptor;
use crate::transport::stream::Stream;
use axum::{Extension, Router};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A request line and its headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// What answers get at the end before their connections are cut.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);
/// The wait after the system had no socket for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of the server. Whoever finds no place waits in the listener's queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections_max: usize,
    pub streams_max: usize,
    /// To send a request's headers, and to send a next request at all.
    pub header_time_max: Duration,
    /// A stream's too: a browser comes back by itself, and one that stopped reading is got rid of.
    pub connection_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            streams_max: 16,
            header_time_max: Duration::from_secs(10),
            connection_time_max: Duration::from_secs(3600),
        }
    }
}

/// Where connections come from.
pub trait Listen: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one that may come in.
    fn next_guest(&self) -> impl Future<Output = io::Result<Guest<Self::Stream>>> + Send;
}

/// Somebody at the door.
pub struct Guest<S> {
    /// Ends with the stream, or without one, within a bound: a handshake holds up nobody else.
    pub opening: BoxFuture<'static, Option<S>>,
    pub from: Address,
}

/// A TCP listener and how its connections begin.
pub struct Entrance {
    pub listener: Arc<TcpListener>,
    pub acceptor: Arc<Acceptor>,
}

impl Listen for Entrance {
    type Stream = Stream;

    async fn next_guest(&self) -> io::Result<Guest<Stream>> {
        let (socket, from) = self.listener.accept().await?;
        // Events are small and should not wait for more; a socket that refuses this still works.
        let _ = socket.set_nodelay(true);
        let acceptor = self.acceptor.clone();
        let opening = async move {
            let accepted = acceptor.accept(socket).await;
            accepted
                .inspect_err(|error| tracing::debug!(%from, %error, "no connection to the dashboard"))
                .ok()
        };
        Ok(Guest { opening: opening.map(|accepted| Some(accepted?.stream)).boxed(), from: from.ip().into() })
    }
}

/// Accepts until it is cancelled; then lets answers end. All tasks end with it.
pub async fn accept<L: Listen>(listener: L, router: Router, limits: Limits, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            // First, so that nobody is taken in who would not be served any more: another may listen at the same port.
            biased;
            () = cancel.cancelled() => break,
            (guest, place) = next_connection(&listener, &places) => {
                let router = router.clone().layer(Extension(guest.from));
                let connection = Connection { router, limits, cancel: cancel.clone() };
                tasks.spawn(connection.drive(guest.opening, place));
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a request for the dashboard failed inside");
                }
            }
        }
    }
    drop(listener);
    // Each ends by itself within the drain time.
    while tasks.join_next().await.is_some() {}
}

async fn next_connection<L: Listen>(
    listener: &L,
    places: &Arc<Semaphore>,
) -> (Guest<L::Stream>, OwnedSemaphorePermit) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            // Nobody closes the semaphore.
            std::future::pending().await
        };
        match listener.next_guest().await {
            Ok(guest) => return (guest, place),
            Err(error) => {
                tracing::debug!(%error, "no connection for the dashboard");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    router: Router,
    limits: Limits,
    cancel: CancellationToken,
}

impl Connection {
    async fn drive(
        self,
        opening: impl Future<Output = Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>>,
        _place: OwnedSemaphorePermit,
    ) {
        let opened = self.cancel.run_until_cancelled(opening).await;
        let Some(stream) = opened.flatten() else { return };
        let service = TowerToHyperService::new(self.router);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_time_max)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "connection to the dashboard");
                }
                return;
            }
            () = self.cancel.cancelled() => {}
            () = sleep(self.limits.connection_time_max) => {}
        }
        connection.as_mut().graceful_shutdown();
        // Late is as good as never here: what has not left by then is cut off.
        let _ = timeout(DRAIN_TIME_MAX, connection).await;
    }
}
