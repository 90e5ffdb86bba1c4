//! From a host and a port to a TCP connection: names, both families side by side (RFC 8305), socket options. Never
//! retries.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use crate::transport::connect::ConnectError;

const LOOKUP_WAIT: Duration = Duration::from_secs(10);
/// For one address, so that what hangs is given up in the end.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);
const ADDRESSES_MAX: usize = 8;
/// RFC 8305, section 8: the next address is tried beside one that has not answered for so long.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long what was written may stay without the peer's TCP acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of an idle connection: a dead one is seen after 25 seconds at most.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;

pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    // The resolver of the system blocks: it runs on a thread of its own.
    let found = within(LOOKUP_WAIT, lookup_host((host, port))).await;
    let found = found.map_err(|why| ConnectError::Lookup { host: host.into(), why })?;
    let addresses = interleaved(found.take(ADDRESSES_MAX));
    race(addresses).await.unwrap_or_else(|| Err(ConnectError::NoAddress { host: host.into() }))
}

/// One family after the other, beginning with that of the first: one that leads nowhere costs one delay.
fn interleaved(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let all: Vec<SocketAddr> = addresses.collect();
    let first_is_v6 = all.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|at| at.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut turns = VecDeque::new();
    for address in preferred {
        turns.push_back(address);
        turns.extend(other.next());
    }
    turns.extend(other);
    turns
}

/// The first connection wins, and the attempts beside it end with this. None: there was no address.
async fn race(mut waiting: VecDeque<SocketAddr>) -> Option<Result<TcpStream, ConnectError>> {
    let mut attempts = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(address) = waiting.pop_front() {
            attempts.push(async move { (address, within(ADDRESS_WAIT, open(address)).await) });
        }
        let may_start = sleep(ATTEMPT_DELAY);
        tokio::pin!(may_start);
        tokio::select! {
            ended = attempts.next() => match ended {
                Some((_, Ok(socket))) => return Some(Ok(socket)),
                Some((address, Err(why))) => last = Some(Err(ConnectError::Address { address, why })),
                None => return last,
            },
            () = &mut may_start, if !waiting.is_empty() => {}
        }
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    let keep_alive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL);
    options.set_tcp_keepalive(&keep_alive.with_retries(PROBES_MAX))?;
    // A kernel without it still has our own pings.
    let _unsupported = options.set_tcp_user_timeout(Some(USER_TIMEOUT));
    Ok(socket)
}

pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, SockRef, Socket, Type};
    use tokio::net::TcpListener;

    use super::{
        ConnectError, PROBE_AFTER, PROBE_INTERVAL, PROBES_MAX, USER_TIMEOUT, interleaved, open, race,
    };

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn families_take_turns() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&[], &[]),
            (&["[::1]:1", "[::2]:1", "1.1.1.1:1"], &["[::1]:1", "1.1.1.1:1", "[::2]:1"]),
            (
                &["1.1.1.1:1", "1.1.1.2:1", "[::1]:1", "[::2]:1"],
                &["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "[::2]:1"],
            ),
            (
                &["[::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"],
                &["[::1]:1", "1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"],
            ),
        ];
        for (given, turns) in cases {
            let found: Vec<_> = interleaved(given.iter().map(|text| address(text))).into();
            assert_eq!(found, turns.iter().map(|text| address(text)).collect::<Vec<_>>());
        }
    }

    /// A backlog that is full answers nothing, as an address that leads nowhere.
    async fn silent() -> (Socket, Vec<tokio::task::JoinHandle<()>>, SocketAddr) {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
        socket.bind(&address("[::1]:0").into()).expect("binds");
        socket.listen(0).expect("listens");
        let at = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        let fill = |_| {
            tokio::spawn(async move {
                let _held = tokio::net::TcpStream::connect(at).await;
                std::future::pending::<()>().await;
            })
        };
        let filling: Vec<_> = (0..4).map(fill).collect();
        // One is taken by the backlog; the others wait for the rest of the test.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        (socket, filling, at)
    }

    #[tokio::test]
    async fn a_family_that_leads_nowhere_costs_a_moment() {
        let (_socket, filling, dead) = silent().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let alive = listener.local_addr().expect("an address");
        let waited = tokio::time::timeout(std::time::Duration::from_secs(8), race([dead, alive].into()));
        let socket =
            waited.await.expect("before the dead one is given up").expect("addresses").expect("connects");
        assert_eq!(socket.peer_addr().expect("a peer"), alive);
        filling.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn what_refuses_is_named_and_no_address_is_none() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("listens").local_addr().expect("an address");
        let fault = race([free].into()).await.expect("an address").expect_err("nobody listens");
        assert!(matches!(fault, ConnectError::Address { address, .. } if address == free), "{fault}");
        assert!(race([].into()).await.is_none());
    }

    #[tokio::test]
    async fn sockets_see_a_dead_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let socket = open(listener.local_addr().expect("an address")).await.expect("connects");
        let options = SockRef::from(&socket);
        assert!(socket.nodelay().expect("an option") && options.keepalive().expect("an option"));
        assert_eq!(options.tcp_keepalive_time().expect("an option"), PROBE_AFTER);
        assert_eq!(options.tcp_keepalive_interval().expect("an option"), PROBE_INTERVAL);
        assert_eq!(options.tcp_keepalive_retries().expect("an option"), PROBES_MAX);
        assert_eq!(options.tcp_user_timeout().expect("an option"), Some(USER_TIMEOUT));
    }
}
