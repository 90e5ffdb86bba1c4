//! The dashboard, API and metrics over HTTP. Shows what a [`Source`] tells, and asks it to write a value; never touches
//! a brain.

pub mod api;
pub mod assets;
pub mod control;
pub mod events;
pub mod guard;
pub mod line;
pub mod lines;
pub mod local;
pub mod log;
pub mod login;
pub mod metrics;
pub mod server;
pub mod snapshot;
pub mod write;

use crate::web::guard::Gate;
use crate::web::server::Entrance;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Commands that the gateway answers at once.
const LOCAL_CONNECTIONS_MAX: usize = 16;

/// Where the facts come from, and where a value for a point goes.
pub trait Source: Send + Sync + 'static {
    /// The gateway now. Cheap, a copy: it is taken for every request.
    fn snapshot(&self) -> snapshot::Snapshot;
    /// What hangs, if anything does; asks nothing that could hang too.
    fn hung(&self) -> Option<String>;
    /// Who is connected: the first ones by name.
    fn clients(&self, clients_max: usize) -> Vec<snapshot::ClientSnapshot>;
    /// As it was written, without secrets.
    fn config(&self) -> Arc<str>;
    /// What happens from now on. The channel's length bounds what waits for a slow client.
    fn events(&self) -> broadcast::Receiver<snapshot::Event>;
    /// Has a point hold what the command, `{"value":…}`, asks for.
    fn write(&self, device: &str, point: &str, command: Bytes) -> write::Written;
}

/// Serves until it is cancelled. Refuses a listener that other machines reach where nobody is asked who they are.
pub async fn serve(
    entrance: Entrance,
    source: Arc<dyn Source>,
    gate: Gate,
    cancel: CancellationToken,
) -> io::Result<()> {
    serve_within(entrance, source, (gate, server::Limits::default()), cancel).await
}

/// The same with other bounds.
pub async fn serve_within(
    entrance: Entrance,
    source: Arc<dyn Source>,
    (gate, limits): (Gate, server::Limits),
    cancel: CancellationToken,
) -> io::Result<()> {
    if matches!(gate, Gate::ThisMachine) && !entrance.listener.local_addr()?.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "http.address must be a loopback address where no password is set",
        ));
    }
    let streams = events::Streams::new(limits.streams_max, cancel.clone());
    let router = api::router(api::Context { source, streams }, gate);
    server::accept(entrance, router, limits, cancel).await;
    Ok(())
}

/// What commands on this machine are answered with, beside what the web shows.
pub struct Local<L> {
    pub source: Arc<dyn Source>,
    pub control: Arc<dyn control::Control>,
    pub lines: Arc<L>,
}

/// The same for this machine alone, with what a person does with buffers and lines, until it is cancelled.
pub async fn serve_local<L: lines::Lines>(
    listener: UnixListener,
    local: Local<L>,
    cancel: CancellationToken,
) {
    let limits = server::Limits { connections_max: LOCAL_CONNECTIONS_MAX, ..server::Limits::default() };
    let streams = events::Streams::new(limits.streams_max, cancel.clone());
    let router = api::router(api::Context { source: local.source, streams }, Gate::ThisMachine)
        .merge(control::router(local.control))
        .merge(lines::router(local.lines))
        .merge(log::router());
    server::accept(listener, router, limits, cancel).await;
}
