//! Listening sockets: accept and hand over to the workers in turn, as many as may be open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::time::Duration;
use crate::hub::Hub;
use crate::hub::refusals::Cause;
use crate::lan::admission::{Admission, NoPlace};
use crate::lan::entrance::Entrance;
use crate::lan::worker::WorkerSender;

const BACKLOG_CONNECTIONS: i32 = 1024;
/// How long to wait when the system has no more descriptors: accepting at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is said.
const ACCEPT_WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Binds at once, so that a port that is taken is an error of the start. An IPv6 address takes IPv4 too
/// where it is the unspecified one.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    bind_with(address, false)
}

fn bind_with(address: SocketAddr, shares_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_CONNECTIONS)?;
    TcpListener::from_std(socket.into())
}

/// As [`bind`], but that listeners of ours may have the port already: they are to go.
pub fn bind_beside(address: SocketAddr, own: &[Arc<TcpListener>]) -> io::Result<TcpListener> {
    let has_port =
        |listener: &&Arc<TcpListener>| listener.local_addr().is_ok_and(|own| own.port() == address.port());
    let own: Vec<_> = own.iter().filter(has_port).collect();
    match bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !own.is_empty() => {}
        bound => return bound,
    }
    // Only who says so on both sockets shares a port, and only for so long: at a start it would hide a port that is taken.
    let share = |on: bool| own.iter().try_for_each(|listener| SockRef::from(&***listener).set_reuse_port(on));
    share(true)?;
    let bound = bind_with(address, true);
    share(false)?;
    let bound = bound?;
    SockRef::from(&bound).set_reuse_port(false)?;
    Ok(bound)
}

/// Accepts until it is cancelled.
pub async fn run(
    listener: Arc<TcpListener>,
    workers: Vec<WorkerSender>,
    (hub, admission, entrance): (Arc<Hub>, Arc<Admission>, Arc<Entrance>),
    cancel: CancellationToken,
) {
    let accept = accept(&listener, &workers, (&hub, &admission, &entrance));
    let _ended = cancel.run_until_cancelled(accept).await;
}

async fn accept(
    listener: &TcpListener,
    workers: &[WorkerSender],
    (hub, admission, entrance): (&Hub, &Arc<Admission>, &Arc<Entrance>),
) {
    let mut warned: Option<Instant> = None;
    for worker in workers.iter().cycle() {
        match listener.accept().await.and_then(|(stream, from)| Ok((stream.into_std()?, from))) {
            Ok((stream, from)) => match admission.admit(from.ip().into()) {
                Ok(admitted) => worker.send(stream, admitted, entrance.clone()).await,
                // Closed without a word: to shake hands, or to read its CONNECT, is what there is no room for.
                Err(no_place) => hub.handle_refused(from.ip().into(), cause_of(no_place), None),
            },
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= ACCEPT_WARN_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

const fn cause_of(no_place: NoPlace) -> Cause {
    match no_place {
        NoPlace::InAll => Cause::Sockets,
        NoPlace::ForTheAddress => Cause::PerAddress,
    }
}
