//! The network: connections of two byte pipes each, with delay, flow control, and cuts at any byte. Carries what
//! the real codec wrote; knows packets only to cut the stream into them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use tidegate::base::time::Instant;
use tidegate::broker::effect::ConnKey;
use tidegate::mqtt::frame::Decoder;
use tidegate::mqtt::packet::{Packet, Peer, Version};
use tidegate::mqtt::qos::PacketId;

use super::reference::Place;

/// Bytes under way above which a writer waits.
pub const PIPE_BYTES_HIGH: usize = 4096;
const PACKET_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    Up,
    Down,
}

#[derive(Debug)]
pub enum Chunk {
    Bytes(Bytes),
    /// The writer closed.
    End,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Pipe {
    chunks: VecDeque<Chunk>,
    pub bytes: usize,
    pub last_at: Instant,
    /// What is written from now on goes nowhere.
    pub dead: bool,
    /// Until then everything takes long.
    pub slow_until: Instant,
}

impl Pipe {
    pub fn push(&mut self, chunk: Chunk) {
        if let Chunk::Bytes(bytes) = &chunk {
            self.bytes += bytes.len();
        }
        self.chunks.push_back(chunk);
    }

    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        if let Chunk::Bytes(bytes) = &chunk {
            self.bytes -= bytes.len();
        }
        Some(chunk)
    }

    pub fn is_full(&self) -> bool {
        self.bytes > PIPE_BYTES_HIGH
    }

    /// Only the first `kept` bytes still arrive.
    pub fn truncate(&mut self, mut kept: usize) {
        for chunk in &mut self.chunks {
            if let Chunk::Bytes(bytes) = chunk {
                bytes.truncate(kept);
                kept -= bytes.len();
            }
        }
        self.bytes = self.chunks.iter().map(|c| if let Chunk::Bytes(b) = c { b.len() } else { 0 }).sum();
        self.dead = true;
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Client(usize),
    /// A bridge of the gateway, by its index.
    Bridge(usize),
}

#[derive(Debug)]
pub struct Conn {
    pub who: Who,
    /// The broker.
    pub place: Place,
    pub key: ConnKey,
    pub version: Version,
    pub up: Pipe,
    pub down: Pipe,
    pub server_in: BytesMut,
    pub server_decoder: Decoder,
    client_in: BytesMut,
    client_decoder: Decoder,
    /// The broker has let go of it.
    pub server_gone: bool,
    /// The client has.
    pub client_gone: bool,
    /// Messages by the identifiers that their PUBLISH had on this connection; None: it has no number.
    pub numbers_up: BTreeMap<PacketId, Option<u64>>,
    pub numbers_down: BTreeMap<PacketId, Option<u64>>,
    /// QoS 1 and 2 messages that the broker sent and has no last acknowledgement of.
    pub open_down: BTreeSet<PacketId>,
    pub window_down: usize,
    /// The client's will on this connection, with its delay in seconds.
    pub will: Option<(u64, u32)>,
    /// When the broker had it, and when it let go of it.
    pub opened_at: Instant,
    /// Why the broker waits: its client takes nothing.
    pub blocked: bool,
    pub blocked_since: Option<Instant>,
}

impl Conn {
    pub fn new(who: Who, place: Place, key: ConnKey, version: Version, window_down: usize) -> Self {
        let mut client_decoder = Decoder::new(Peer::Server, PACKET_BYTES_MAX);
        client_decoder.set_version(version);
        Self {
            who,
            place,
            key,
            version,
            up: Pipe::default(),
            down: Pipe::default(),
            server_in: BytesMut::new(),
            server_decoder: Decoder::new(Peer::Client, PACKET_BYTES_MAX),
            client_in: BytesMut::new(),
            client_decoder,
            server_gone: false,
            client_gone: false,
            numbers_up: BTreeMap::new(),
            numbers_down: BTreeMap::new(),
            open_down: BTreeSet::new(),
            window_down,
            will: None,
            opened_at: Instant::ORIGIN,
            blocked: false,
            blocked_since: None,
        }
    }

    pub fn pipe(&mut self, direction: Direction) -> &mut Pipe {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// Bytes have come that the broker has not looked at.
    pub fn waits_to_be_read(&self) -> bool {
        !self.server_in.is_empty()
    }

    /// All packets that are whole at the broker.
    pub fn server_packets(&mut self) -> Vec<Packet> {
        decode_all(&mut self.server_decoder, &mut self.server_in)
    }

    /// All packets that are whole at the client once `bytes` arrived.
    pub fn client_packets(&mut self, bytes: &[u8]) -> Vec<Packet> {
        self.client_in.extend_from_slice(bytes);
        decode_all(&mut self.client_decoder, &mut self.client_in)
    }
}

fn decode_all(decoder: &mut Decoder, buffer: &mut BytesMut) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some(packet) = decoder.decode(buffer).unwrap_or_else(|why| panic!("{why}: {buffer:?}")) {
        packets.push(packet);
    }
    packets
}
