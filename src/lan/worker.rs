//! Worker threads: one current-thread runtime each, connections pinned to theirs. A connection's reads,
//! routing and writes stay on one core, and no task ever moves.

use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::base::pulse::Pulse;
use crate::hub::Hub;
use crate::lan::admission::Admitted;
use crate::lan::conn;
use crate::lan::entrance::Entrance;

/// Accepted connections that wait for their worker.
const HANDOVER_CONNECTIONS_MAX: usize = 1024;

/// A connection with its place, and what it has to pass.
type Handover = (TcpStream, Admitted, Arc<Entrance>);

/// Where a listener hands its connections.
#[derive(Debug, Clone)]
pub struct WorkerSender(mpsc::Sender<Handover>);

impl WorkerSender {
    /// Waits while the worker is behind: the rest stays in the listener's backlog.
    pub async fn send(&self, stream: TcpStream, admitted: Admitted, entrance: Arc<Entrance>) {
        // The worker is gone only when the gateway ends.
        let _ = self.0.send((stream, admitted, entrance)).await;
    }
}

pub struct Worker {
    sender: WorkerSender,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Ends when `cancel` is cancelled and its last connection has closed.
    pub fn start(
        name: String,
        pulse: Arc<Pulse>,
        hub: Arc<Hub>,
        cancel: CancellationToken,
    ) -> std::io::Result<Worker> {
        let (sender, receiver) = mpsc::channel(HANDOVER_CONNECTIONS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let local = LocalSet::new();
            local.spawn_local(accept(receiver, hub, cancel));
            runtime.block_on(pulse.watch(local));
        })?;
        Ok(Worker { sender: WorkerSender(sender), thread })
    }

    pub fn sender(&self) -> WorkerSender {
        self.sender.clone()
    }

    /// Waits for its end. Only after its token was cancelled.
    pub fn join(self) {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::error!("a worker of the LAN panicked");
        }
    }
}

async fn accept(mut receiver: mpsc::Receiver<Handover>, hub: Arc<Hub>, cancel: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = receiver.recv() => accepted,
        };
        let Some(handover) = accepted else { return };
        tokio::task::spawn_local(serve(handover, hub.clone()));
    }
}

/// What every open connection holds from its beginning to its end.
async fn serve((stream, admitted, entrance): Handover, hub: Arc<Hub>) {
    conn::run(stream, &entrance, hub).await;
    drop(admitted);
}

#[cfg(test)]
mod tests {
    use super::serve;

    /// A part of the 3 KiB that an idle connection may take in all; what is rare stands in a box of its own.
    const CONNECTION_BYTES_MAX: usize = 512;

    fn future_bytes<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_takes_little_memory() {
        let bytes = future_bytes(serve);
        assert!(bytes <= CONNECTION_BYTES_MAX, "{bytes} bytes");
    }
}
