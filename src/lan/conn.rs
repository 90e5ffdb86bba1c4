//! One connection: bytes to packets, packets to the hub, deliveries to bytes. One write a round; reading goes
//! on while a write waits, up to a bound, and what waits beyond it stays in the outbox. Decides nothing.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;

use crate::base::time::{Clock, Duration};
use crate::broker::effect::Outgoing;
use crate::hub::Hub;
use crate::hub::client::{Flow, Seat};
use crate::lan::entrance::Entrance;
use crate::lan::scratch::{self, Scratch};
use crate::mqtt::error::Malformed;
use crate::mqtt::frame::{Decoder, encode, encode_publish};
use crate::mqtt::packet::{Packet, Peer};
use crate::transport::shared::SharedStream;

const READ_BYTES: usize = 16 * 1024;
/// Packets that enter the door together.
const BATCH_PACKETS_MAX: usize = 256;
/// With more than this still to be written, nothing is read: a client that does not read is not served.
const WRITE_BYTES_HIGH: usize = 256 * 1024;
/// How long a client may take to read what was sent before a close, and to close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

struct Conn {
    hub: Arc<Hub>,
    seat: Seat,
    clock: Clock,
    decoder: Decoder,
    /// Bytes of a packet that is not complete.
    input: BytesMut,
    /// What the socket has not taken yet.
    output: BytesMut,
    /// The bell rang while there was no room in `output`.
    behind: bool,
    /// A login is being checked, or the client publishes too fast: what has come behind waits here, and no more is
    /// read.
    waits: bool,
}

/// Serves one connection to its end.
pub async fn run(socket: std::net::TcpStream, entrance: &Entrance, hub: Arc<Hub>) {
    let Ok(socket) = prepare(socket) else { return };
    let Some((stream, peer)) = entrance.enter(socket, &hub).await else { return };
    let stream = SharedStream::new(stream);
    let Some(seat) = hub.open(peer) else { return };
    let mut conn = Conn {
        clock: hub.clock().clone(),
        decoder: Decoder::new(Peer::Client, hub.packet_bytes_max()),
        input: BytesMut::new(),
        output: BytesMut::new(),
        behind: false,
        waits: false,
        hub,
        seat,
    };
    if let Err(error) = conn.serve(&stream).await {
        tracing::debug!(conn = %conn.seat.key, %error, "a connection broke");
    }
}

fn prepare(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

/// However it ends, by a panic too.
impl Drop for Conn {
    fn drop(&mut self) {
        self.hub.handle_closed(&mut self.seat);
    }
}

impl Conn {
    async fn serve(&mut self, stream: &SharedStream) -> io::Result<()> {
        let bell = self.seat.bell.clone();
        loop {
            let has_room = self.output.len() < WRITE_BYTES_HIGH;
            let may_write = !self.output.is_empty() || stream.is_unflushed();
            let congested = self.hub.is_congested();
            let flow = tokio::select! {
                read = read_some(stream, &mut self.input), if has_room && !congested && !self.waits => {
                    match read? {
                        0 => return Ok(()),
                        received => self.handle_input(received),
                    }
                }
                written = stream.write(&self.output), if may_write => self.handle_written(written?, has_room),
                () = bell.notified() => self.answer_bell(has_room),
                () = until_relieved(&self.hub), if congested => Flow::Continue,
            };
            if flow == Flow::Close {
                // Apart, so that an idle connection has no room for its end.
                let last = Box::pin(tokio::time::timeout(CLOSE_WAIT, self.close(stream))).await;
                return last.unwrap_or(Ok(()));
            }
            self.write_now(stream)?;
            scratch::take_back(&mut self.input, &mut self.output);
        }
    }

    /// Decodes all that is there and enters the door once a batch.
    fn handle_input(&mut self, received_bytes: usize) -> Flow {
        self.seat.count_received(received_bytes);
        scratch::with(|scratch| {
            loop {
                let malformed = decode_batch(&mut self.decoder, &mut self.input, &mut scratch.packets);
                if scratch.packets.is_empty() && malformed.is_none() {
                    return Flow::Continue;
                }
                let last = malformed.is_some() || scratch.packets.len() < BATCH_PACKETS_MAX;
                let Scratch { packets, outgoing, .. } = scratch;
                let flow = self.hub.handle_packets(&mut self.seat, packets, malformed, outgoing);
                self.behind = false;
                self.encode(scratch);
                self.waits = flow == Flow::Wait;
                if last || flow != Flow::Continue {
                    return flow;
                }
            }
        })
    }

    /// With no room, what waits stays where it is bounded: in the outbox.
    fn answer_bell(&mut self, has_room: bool) -> Flow {
        if has_room || self.hub.flow_of(&self.seat) == Flow::Close {
            return self.go_on();
        }
        self.behind = true;
        Flow::Continue
    }

    /// Takes what waits to be sent; and what waited to be handled, once it may be.
    fn go_on(&mut self) -> Flow {
        let flow = self.take_outgoing();
        if flow == Flow::Continue && std::mem::take(&mut self.waits) {
            return self.handle_input(0);
        }
        flow
    }

    fn handle_written(&mut self, written_bytes: usize, had_room: bool) -> Flow {
        self.advance(written_bytes);
        if !had_room && self.hub.handle_progress(&self.seat) == Flow::Close {
            return Flow::Close;
        }
        if self.behind && self.output.len() < WRITE_BYTES_HIGH {
            return self.go_on();
        }
        Flow::Continue
    }

    fn take_outgoing(&mut self) -> Flow {
        self.behind = false;
        scratch::with(|scratch| {
            let flow = self.hub.take_outgoing(&mut self.seat, &mut scratch.outgoing);
            self.encode(scratch);
            flow
        })
    }

    fn encode(&mut self, scratch: &mut Scratch) {
        if scratch.outgoing.is_empty() {
            return;
        }
        scratch.lend_output(&mut self.output);
        let (now, version) = (self.clock.now(), self.decoder.version());
        for outgoing in scratch.outgoing.drain(..) {
            let encoded = match outgoing {
                Outgoing::Packet(packet) => encode(&packet, version, &mut self.output),
                Outgoing::Publish(delivery) => {
                    let head = delivery.head(delivery.message.expiry_left_secs(now));
                    encode_publish(&head, &delivery.message.payload, version, &mut self.output)
                }
            };
            if let Err(error) = encoded {
                // A 3.x CONNACK without a return code that fits is silence [MQTT-3.2.2-6 of 3.1.1].
                tracing::debug!(conn = %self.seat.key, %error, "a packet has no form in this version");
            }
        }
    }

    /// What the socket takes without waiting leaves at once.
    fn write_now(&mut self, stream: &SharedStream) -> io::Result<()> {
        while !self.output.is_empty() {
            match stream.try_write(&self.output) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, written_bytes: usize) {
        self.output.advance(written_bytes);
        self.seat.count_sent(written_bytes);
    }

    /// Sends the last word and waits until the client has closed too: with bytes of it unread, the system would
    /// reset the connection, and the last word with it.
    async fn close(&mut self, stream: &SharedStream) -> io::Result<()> {
        stream.write_all(&self.output).await?;
        self.seat.count_sent(self.output.len());
        self.output = BytesMut::new();
        stream.shutdown().await?;
        self.input.clear();
        while read_some(stream, &mut self.input).await? > 0 {
            self.input.clear();
            scratch::take_back(&mut self.input, &mut self.output);
        }
        Ok(())
    }
}

/// In a box that is made when it is polled: what is rare takes no room in every connection.
async fn until_relieved(hub: &Hub) {
    Box::pin(hub.until_relieved()).await;
}

/// At most `BATCH_PACKETS_MAX`.
fn decode_batch(decoder: &mut Decoder, input: &mut BytesMut, packets: &mut Vec<Packet>) -> Option<Malformed> {
    while packets.len() < BATCH_PACKETS_MAX {
        match decoder.decode(input) {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return None,
            Err(malformed) => return Some(malformed),
        }
    }
    None
}

/// No buffer is held while there is nothing to read. By `poll_read`, which knows that less than was asked for is
/// all there is, where asking again would cost a system call. Lets other tasks have their turn, too.
fn read_some<'a>(
    stream: &'a SharedStream,
    input: &'a mut BytesMut,
) -> impl Future<Output = io::Result<usize>> + 'a {
    std::future::poll_fn(move |cx| {
        scratch::lend_input(input);
        input.reserve(READ_BYTES);
        let polled = stream.poll_read_buf(cx, input);
        if polled.is_pending() {
            scratch::take_back(input, &mut BytesMut::new());
        }
        polled
    })
}
