//! The task of one bridge: connects when the brain asks, reads in batches, writes in batches. Holds no state
//! that a new connection would need.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

use crate::bridge::fault::LinkFault;
use crate::bridge::servers::Destination;
use crate::cloud::codec::{CodecError, UplinkCodec};
use crate::cloud::door::{Door, Next};
use crate::cloud::reach::{Reach, Target};
use crate::cloud::tap::Tapped;
use crate::mqtt::packet::Packet;
use crate::transport::stream::Stream;

/// Packets that one visit to the door takes.
const READ_BATCH_PACKETS_MAX: usize = 512;
/// What is gathered before it is written, so that a batch is one write.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// How long the socket may take nothing at all while something is to be written.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How long a clean end may take.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(2);

/// How a connection ended.
enum End {
    Fault(LinkFault),
    /// The brain wanted it closed.
    Closed,
    Stop,
}

/// Runs until the brain says stop, or until `cancel`, which ends it at once without a word to the server.
pub async fn run(door: Arc<dyn Door>, target: Target, cancel: CancellationToken) {
    let work = drive(&*door, &target);
    let _ended = cancel.run_until_cancelled(work).await;
}

async fn drive(door: &dyn Door, target: &Target) {
    let bell = door.bell();
    let reach = Reach::new(target);
    let mut sends = Vec::new();
    loop {
        match door.take_sends(&mut sends) {
            Next::Go => bell.notified().await,
            // Nothing is open: it changed its mind before this hand heard of the first wish.
            Next::Disconnect => door.disconnected(LinkFault::Closed),
            Next::Stop => return,
            Next::Connect => match connection(door, (target, &reach)).await {
                End::Fault(fault) => door.disconnected(fault),
                End::Closed => door.disconnected(LinkFault::Closed),
                End::Stop => return,
            },
        }
        // What was meant for a connection that is gone.
        sends.clear();
    }
}

/// One connection, from its first try to its end.
async fn connection(door: &dyn Door, (target, reach): (&Target, &Reach<'_>)) -> End {
    let destination: Destination = door.destination();
    let stream = match reach.open(&destination.server).await {
        Ok(stream) => stream,
        Err(fault) => return End::Fault(fault),
    };
    let codec = Tapped::new(UplinkCodec::new(target.version), target);
    let mut framed = Framed::new(stream, codec);
    framed.set_backpressure_boundary(WRITE_BUFFER_BYTES);
    tokio::select! {
        end = (Connection { door, framed }).serve() => end,
        never = reach.watch(door, &destination) => match never {},
    }
}

struct Connection<'a> {
    door: &'a dyn Door,
    framed: Framed<Stream, Tapped>,
}

impl Connection<'_> {
    async fn serve(mut self) -> End {
        let end = match self.exchange().await {
            Ok(end) => end,
            Err(fault) => End::Fault(fault),
        };
        // TLS's close_notify, as far as the peer still listens.
        let _unheard = timeout(SHUTDOWN_WAIT, self.framed.close()).await;
        end
    }

    async fn exchange(&mut self) -> Result<End, LinkFault> {
        let bell = self.door.bell();
        let (mut batch, mut sends) = (Vec::new(), Vec::new());
        let mut next = self.door.connected(&mut sends);
        loop {
            let wrote = !sends.is_empty();
            self.write(&mut sends).await?;
            match next {
                Next::Go | Next::Connect => {}
                Next::Disconnect => return Ok(End::Closed),
                Next::Stop => return Ok(End::Stop),
            }
            if wrote {
                // Told at once: until then no answer counts as missing, and no ping is due.
                next = self.door.take_sends(&mut sends);
                continue;
            }
            next = tokio::select! {
                packet = self.framed.next() => {
                    batch.push(received(packet)?);
                    let ended = self.drain(&mut batch);
                    let next = self.door.packets(&mut batch, &mut sends)?;
                    // What came before the fault was still worth a visit.
                    ended?;
                    next
                }
                () = bell.notified() => self.door.take_sends(&mut sends),
            };
        }
    }

    /// What has arrived already.
    fn drain(&mut self, batch: &mut Vec<Packet>) -> Result<(), LinkFault> {
        while batch.len() < READ_BATCH_PACKETS_MAX
            && let Some(packet) = self.framed.next().now_or_never()
        {
            batch.push(received(packet)?);
        }
        Ok(())
    }

    async fn write(&mut self, sends: &mut Vec<Packet>) -> Result<(), LinkFault> {
        for packet in sends.drain(..) {
            while self.within_patience(Step::Ready).await? == Progress::Some {}
            self.framed.start_send_unpin(packet).map_err(fault_of)?;
        }
        while self.within_patience(Step::Flush).await? == Progress::Some {}
        Ok(())
    }

    /// A link is slow as long as it takes bytes, and dead when it takes none.
    async fn within_patience(&mut self, step: Step) -> Result<Progress, LinkFault> {
        let before = self.framed.get_ref().written_bytes();
        let framed = &mut self.framed;
        let work = std::future::poll_fn(|cx| match step {
            Step::Ready => framed.poll_ready_unpin(cx),
            Step::Flush => framed.poll_flush_unpin(cx),
        });
        match timeout(WRITE_WAIT, work).await {
            Ok(done) => done.map(|()| Progress::Done).map_err(fault_of),
            Err(_) if self.framed.get_ref().written_bytes() > before => Ok(Progress::Some),
            Err(_) => Err(LinkFault::Stalled),
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Ready,
    Flush,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Done,
    Some,
}

fn received(packet: Option<Result<Packet, CodecError>>) -> Result<Packet, LinkFault> {
    packet.ok_or(LinkFault::Closed)?.map_err(fault_of)
}

fn fault_of(why: CodecError) -> LinkFault {
    match why {
        CodecError::Io(why) if why.kind() == std::io::ErrorKind::UnexpectedEof => LinkFault::Closed,
        CodecError::Io(why) => LinkFault::Transport(why.kind()),
        why => LinkFault::Malformed(Arc::new(why)),
    }
}
