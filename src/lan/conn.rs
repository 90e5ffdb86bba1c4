//! One connection: bytes to packets, packets to the hub, deliveries to bytes. One write a round; reading goes
//! on while a write waits, up to a bound. Decides nothing.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::base::time::{Clock, Duration};
use crate::broker::Peer;
use crate::broker::effect::{Delivery, Outgoing};
use crate::hub::Hub;
use crate::hub::client::{Flow, Seat};
use crate::mqtt::error::Malformed;
use crate::mqtt::frame::{Decoder, PublishHead, encode, encode_publish};
use crate::mqtt::packet::{Packet, Peer as Side};

const READ_BYTES: usize = 16 * 1024;
/// Packets that enter the door together.
const BATCH_PACKETS_MAX: usize = 256;
/// With more than this still to be written, nothing is read: a client that does not read is not served.
const WRITE_BYTES_HIGH: usize = 256 * 1024;
/// How long what was sent before a close may take to leave.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

struct Conn {
    hub: Arc<Hub>,
    seat: Seat,
    clock: Clock,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    packets: Vec<Packet>,
    outgoing: Vec<Outgoing>,
}

/// Serves one connection to its end.
pub async fn run(stream: std::net::TcpStream, hub: Arc<Hub>) {
    let Ok(mut stream) = prepare(stream) else { return };
    let loopback = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
    let seat = hub.open(Peer { loopback });
    let mut conn = Conn {
        clock: hub.clock(),
        decoder: Decoder::new(Side::Client, hub.packet_bytes_max()),
        input: BytesMut::new(),
        output: BytesMut::new(),
        packets: Vec::new(),
        outgoing: Vec::new(),
        hub,
        seat,
    };
    let (mut reader, mut writer) = stream.split();
    let ended = conn.serve(&mut reader, &mut writer).await;
    if let Err(error) = ended {
        tracing::debug!(conn = %conn.seat.key, %error, "a connection broke");
    }
    conn.hub.handle_closed(conn.seat.key);
}

fn prepare(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

impl Conn {
    async fn serve(&mut self, reader: &mut ReadHalf<'_>, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        let bell = self.seat.bell.clone();
        loop {
            let may_read = self.output.len() < WRITE_BYTES_HIGH && !self.hub.is_congested();
            let may_write = !self.output.is_empty();
            let flow = tokio::select! {
                read = read_some(reader, &mut self.input), if may_read => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.handle_input()
                }
                written = writer.write(&self.output), if may_write => {
                    let written = written?;
                    bytes::Buf::advance(&mut self.output, written);
                    Flow::Continue
                }
                () = bell.notified() => self.hub.take_outgoing(self.seat.key, &mut self.outgoing),
                () = self.hub.until_relieved(), if self.hub.is_congested() => Flow::Continue,
            };
            self.encode_outgoing();
            if flow == Flow::Close {
                let last = tokio::time::timeout(CLOSE_WAIT, writer.write_all(&self.output)).await;
                return last.unwrap_or(Ok(()));
            }
            self.write_now(writer)?;
            self.release_idle_memory();
        }
    }

    /// Decodes all that is there and enters the door once a batch.
    fn handle_input(&mut self) -> Flow {
        loop {
            let malformed = self.decode_batch();
            if self.packets.is_empty() && malformed.is_none() {
                return Flow::Continue;
            }
            let last = malformed.is_some() || self.packets.len() < BATCH_PACKETS_MAX;
            let flow =
                self.hub.handle_packets(self.seat.key, &mut self.packets, malformed, &mut self.outgoing);
            if last || flow == Flow::Close {
                return flow;
            }
        }
    }

    fn decode_batch(&mut self) -> Option<Malformed> {
        while self.packets.len() < BATCH_PACKETS_MAX {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => self.packets.push(packet),
                Ok(None) => return None,
                Err(malformed) => return Some(malformed),
            }
        }
        None
    }

    fn encode_outgoing(&mut self) {
        let (now, version) = (self.clock.now(), self.decoder.version());
        for outgoing in self.outgoing.drain(..) {
            let encoded = match outgoing {
                Outgoing::Packet(packet) => encode(&packet, version, &mut self.output),
                Outgoing::Publish(delivery) => {
                    let head = head_of(&delivery, delivery.message.expiry_left_secs(now));
                    encode_publish(&head, &delivery.message.payload, version, &mut self.output)
                }
            };
            if let Err(error) = encoded {
                // A 3.x CONNACK without a return code that fits is silence [MQTT-3.2.2-6].
                tracing::debug!(conn = %self.seat.key, %error, "a packet has no form in this version");
            }
        }
    }

    /// What the socket takes without waiting leaves at once.
    fn write_now(&mut self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        while !self.output.is_empty() {
            match writer.try_write(&self.output) {
                Ok(written) => bytes::Buf::advance(&mut self.output, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// An idle connection keeps no buffers: ten thousand of them would.
    fn release_idle_memory(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.output = BytesMut::new();
        }
    }
}

async fn read_some(reader: &mut ReadHalf<'_>, input: &mut BytesMut) -> io::Result<usize> {
    // The buffer grows only once there is something to read.
    reader.readable().await?;
    input.reserve(READ_BYTES);
    match reader.try_read_buf(input) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => reader.read_buf(input).await,
        result => result,
    }
}

fn head_of(delivery: &Delivery, expiry_left_secs: Option<u32>) -> PublishHead<'_> {
    PublishHead {
        dup: delivery.dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: delivery.message.topic.as_str(),
        packet_id: delivery.packet_id,
        topic_alias: None,
        expiry_interval: expiry_left_secs,
        subscription_identifiers: &delivery.subscription_identifiers,
        properties: delivery.message.properties.as_deref(),
    }
}
