//! The demo's uplink: a TCP relay between the gateway and its cloud that can be cut and restored.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Says whether the uplink is there.
pub type Switch = watch::Sender<bool>;

/// Relays until it is cancelled. While the switch is off, connections break and new ones are refused at once.
pub async fn run(
    listener: TcpListener,
    cloud: SocketAddr,
    switch: watch::Receiver<bool>,
    cancel: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        if let Ok((stream, _)) = accepted
            && *switch.borrow()
        {
            tokio::spawn(relay(stream, cloud, switch.clone(), cancel.clone()));
        }
    }
}

async fn relay(
    near: TcpStream,
    cloud: SocketAddr,
    mut switch: watch::Receiver<bool>,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = switch.wait_for(|on| !on) => {}
        _ = copy(near, cloud) => {}
    }
}

async fn copy(mut near: TcpStream, cloud: SocketAddr) -> io::Result<()> {
    let mut far = TcpStream::connect(cloud).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
