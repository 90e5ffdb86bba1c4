//! What a visit to the broker brain wants done. Owned by the door and reused, so that a visit allocates
//! nothing; never interpreted here.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::address::Address;
use crate::base::ids::SlotKey;
use crate::broker::refusal::NotAdmitted;
use crate::mqtt::alias::Alias;
use crate::mqtt::frame::{PublishHead, publish_size};
use crate::mqtt::message::Message;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::{PacketId, QoS};
use crate::spool::{Hold, Ledger};

/// A connection, from its opening to its end.
pub type ConnKey = SlotKey;

/// A message on its way to one client, encoded late into the socket's buffer. The expiry interval that is left
/// is computed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub qos: QoS,
    pub dup: bool,
    pub retain: bool,
    pub packet_id: Option<PacketId>,
    pub subscription_identifiers: Box<[u32]>,
    /// Given last, by the outbox: a message that sets one must not be dropped any more.
    pub topic_alias: Option<Alias>,
}

impl Delivery {
    /// All of the PUBLISH but its payload; `expiry_interval` in seconds, as it is left.
    pub fn head(&self, expiry_interval: Option<u32>) -> PublishHead<'_> {
        let named = !matches!(self.topic_alias, Some(Alias::Use(_)));
        PublishHead {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            // [MQTT-3.3.2-3]: the publisher's own, which the filter matched.
            topic: if named { self.message.topic.as_str() } else { "" },
            packet_id: self.packet_id,
            topic_alias: self.topic_alias.map(Alias::number),
            expiry_interval,
            subscription_identifiers: &self.subscription_identifiers,
            // [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
            properties: self.message.properties.as_deref(),
        }
    }

    /// How many bytes the packet has for a 5.0 client. The expiry interval takes four, whatever is left of it.
    pub fn size_bytes(&self) -> usize {
        let head = self.head(self.message.expiry_interval.map(|_| 0));
        publish_size(&head, self.message.payload.len(), Version::V5)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    Packet(Packet),
    Publish(Delivery),
}

/// A message for the buffer of a bridge.
#[derive(Debug, Clone)]
pub struct Forward {
    /// The bridge, by its index in the configuration.
    pub bridge: u16,
    /// Its `forward` rule, by its index.
    pub rule: u16,
    pub message: Arc<Message>,
    /// To be released when the bridge has the message safe. None where nobody waits.
    pub hold: Option<Hold>,
    /// The publisher will not send it again: the buffer records it in this visit.
    pub urgent: bool,
}

/// A message for a point of a device.
#[derive(Debug, Clone)]
pub struct Command {
    /// The device, by its index in the configuration.
    pub device: u16,
    pub message: Arc<Message>,
    /// To be released when the command is safe. None where nobody waits.
    pub hold: Option<Hold>,
    /// The publisher will not send it again: it is recorded in this visit.
    pub urgent: bool,
}

/// What comes of a command.
#[derive(Debug)]
pub struct CommandAnswer {
    pub message: Message,
    /// What waited for the command. It is released when the answer is safe, or a full buffer refused it.
    pub hold: Option<Hold>,
    /// The command will not be answered again: the answer is recorded in this visit.
    pub urgent: bool,
}

/// A login that is to be checked elsewhere: a hash takes longer than anybody may wait here.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication {
    pub conn: ConnKey,
    /// Where it comes from: IPv6, or IPv4 mapped into it.
    pub address: u128,
    pub username: Option<Arc<str>>,
    pub password: Bytes,
}

/// Without the password.
impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authentication {} {:?}", self.conn, self.username)
    }
}

/// Who is told when a publication is safe everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(pub u64);

#[derive(Debug, Default)]
pub struct Effects {
    pub ledger: Ledger,
    /// In order for each connection.
    pub sends: Vec<(ConnKey, Outgoing)>,
    /// To be closed once what was sent before has left.
    pub closes: Vec<ConnKey>,
    /// Clients that were too fast: they are to be read again.
    pub resumed: Vec<ConnKey>,
    pub forwards: Vec<Forward>,
    pub commands: Vec<Command>,
    /// Somebody waits who could publish more: what gathers is to be recorded, see `Broker::handle_hurry`.
    pub hurry: bool,
    /// Publications from bridges that are safe now.
    pub completed: Vec<Token>,
    /// Each is answered by `handle_authenticated`.
    pub authentications: Vec<Authentication>,
    /// Clients that were not let in, and where they came from.
    pub refused: Vec<(Address, NotAdmitted)>,
}
