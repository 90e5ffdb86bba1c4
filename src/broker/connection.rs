//! One connection: what is known of it, and the acknowledgements that it is owed, in their order. Ends with
//! the network connection; what outlives that is the session's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::auth::Proof;
use crate::base::ids::{SlotKey, Slots};
use crate::base::time::{Duration, Instant, Now, Timestamp};
use crate::broker::Peer;
use crate::broker::deadlines::Due;
use crate::broker::effect::{ConnKey, Delivery, Outgoing};
use crate::broker::login::Login;
use crate::broker::pace::Pace;
use crate::broker::throttle::Throttle;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::PacketId;
use crate::mqtt::topic::TopicName;
use crate::spool::Hold;

/// Unacknowledged QoS 1 and 2 messages that a 5.0 client may have under way to us.
pub const RECEIVE_MAXIMUM: u16 = 1024;
/// The same for 3.x clients, which cannot be told a number: as many as there are packet identifiers.
pub const RECEIVE_MAXIMUM_V3: usize = 65_535;
/// Packets that may wait behind a CONNACK that waits for the disk before QoS 0 messages are dropped.
pub const DEFERRED_MAX: usize = 1024;
/// Answers of any kind that may wait for the disk or for others before them: a client that has not got them all
/// and asks for more is not served any longer.
pub const OWED_MAX: usize = RECEIVE_MAXIMUM_V3 + DEFERRED_MAX;
/// The hold of what waits for nothing but its turn; tickets count from 1.
const NO_HOLD: Hold = Hold(0);
/// Topic aliases that a client may set.
pub const TOPIC_ALIAS_MAXIMUM: u16 = 32;

/// Before CONNECT and after.
#[derive(Debug)]
pub struct Conn {
    pub peer: Peer,
    pub last_seen: Instant,
    /// The one deadline that is set for the connection.
    pub due: Option<(Instant, Due)>,
    /// When its client's token ends, and when to look. Few bring one.
    pub until: Option<Box<(Timestamp, Instant)>>,
    /// How its client proved who it is. None: it is nobody in particular.
    pub proof: Option<Proof>,
    /// A CONNECT that waits to be checked.
    pub login: Option<Box<Login>>,
    /// The largest packet that the client takes, once its CONNECT was read.
    pub packet_bytes_max: usize,
    pub link: Option<Link>,
}

impl Conn {
    pub fn new(peer: Peer, now: Instant) -> Self {
        Self {
            peer,
            last_seen: now,
            due: None,
            until: None,
            proof: None,
            login: None,
            packet_bytes_max: usize::MAX,
            link: None,
        }
    }
}

/// What most packets need of a connection.
impl Slots<Conn> {
    /// None before its CONNECT was accepted, and once it is gone.
    pub fn link(&self, key: ConnKey) -> Option<&Link> {
        self.get(key)?.link.as_ref()
    }

    pub fn link_mut(&mut self, key: ConnKey) -> Option<&mut Link> {
        self.get_mut(key)?.link.as_mut()
    }
}

/// A connection whose CONNECT was accepted.
#[derive(Debug)]
pub struct Link {
    pub version: Version,
    pub session: SlotKey,
    pub connected_at: Timestamp,
    /// Silence that ends the connection: one and a half times the keep alive.
    pub silence_max: Option<Duration>,
    /// CONNACK has left: nothing else may leave before [MQTT-3.2.0-1] [MQTT-3.2.0-1 of 3.1.1].
    pub up: bool,
    /// It ends once all that it is owed has left: what it publishes meanwhile is not taken.
    pub parting: bool,
    /// None: it may publish as fast as it likes.
    pub throttle: Option<Box<Throttle>>,
    /// [MQTT-3.3.2-7]: ends with the connection.
    aliases: BTreeMap<u16, TopicName>,
    owed: VecDeque<Owed>,
    qos1_open: usize,
    qos2_open: BTreeSet<PacketId>,
    /// When it had all its answers, until it publishes.
    answered_at: Instant,
    /// How it publishes; None: it never did. Most clients only listen.
    pub pace: Option<Box<Pace>>,
}

/// An acknowledgement in its place. It leaves when it is done and all before it have left.
#[derive(Debug)]
struct Owed {
    hold: Hold,
    outgoing: Outgoing,
    done: bool,
}

impl Link {
    pub fn new(version: Version, session: SlotKey, silence_max: Option<Duration>, now: Now) -> Self {
        Self {
            version,
            session,
            connected_at: now.wall,
            silence_max,
            up: false,
            parting: false,
            throttle: None,
            aliases: BTreeMap::new(),
            owed: VecDeque::new(),
            qos1_open: 0,
            qos2_open: BTreeSet::new(),
            answered_at: Instant::ORIGIN,
            pace: None,
        }
    }

    /// A message came whose acknowledgement it may wait for.
    pub fn handle_publish(&mut self, now: Instant) {
        self.pace.get_or_insert_with(|| Box::new(Pace::new(self.answered_at))).handle_publish(now);
    }

    /// Everything is answered.
    pub fn handle_answered(&mut self, now: Instant) {
        match &mut self.pace {
            Some(pace) => pace.handle_answered(now),
            None => self.answered_at = now,
        }
    }

    /// A later alias replaces an earlier one (3.3.2.3.4).
    pub fn set_alias(&mut self, alias: u16, topic: TopicName) {
        self.aliases.insert(alias, topic);
    }

    pub fn topic_of(&self, alias: u16) -> Option<&TopicName> {
        self.aliases.get(&alias)
    }

    /// A QoS 1 PUBLISH takes its place in the window. False: the window was full.
    pub fn open_qos1(&mut self) -> bool {
        self.qos1_open += 1;
        self.window_holds()
    }

    /// A QoS 2 PUBLISH takes its place in the window, once. False: the window was full.
    pub fn open_qos2(&mut self, id: PacketId) -> bool {
        self.qos2_open.insert(id);
        self.window_holds()
    }

    pub fn is_full(&self) -> bool {
        self.owed.len() >= OWED_MAX
    }

    pub fn owe(&mut self, hold: Hold, packet: Packet, done: bool) {
        self.owed.push_back(Owed { hold, outgoing: Outgoing::Packet(packet), done });
    }

    /// A QoS 0 message that has to wait for CONNACK. False: too many do.
    pub fn defer(&mut self, delivery: Delivery) -> bool {
        if self.owed.len() >= DEFERRED_MAX {
            return false;
        }
        self.owed.push_back(Owed { hold: NO_HOLD, outgoing: Outgoing::Publish(delivery), done: true });
        true
    }

    /// What the acknowledgement waited for is safe. No two in the queue have one hold.
    pub fn handle_done(&mut self, hold: Hold) {
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.hold == hold) {
            owed.done = true;
        }
    }

    pub fn owes(&self, hold: Hold) -> bool {
        self.owed.iter().any(|owed| owed.hold == hold)
    }

    /// Whether the next acknowledgement has waited for one of the tickets up to `hold`.
    pub fn waits_since(&self, hold: Hold) -> bool {
        self.owed.front().is_some_and(|owed| !owed.done && owed.hold <= hold)
    }

    pub fn owes_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    /// The next acknowledgement that may leave: no later one overtakes it [MQTT-4.6.0-2 of 3.1.1]
    /// [MQTT-4.6.0-3 of 3.1.1].
    pub fn next_owed(&mut self) -> Option<Outgoing> {
        if !self.owed.front()?.done {
            return None;
        }
        let outgoing = self.owed.pop_front()?.outgoing;
        if self.owed.is_empty() {
            // Most connections are owed nothing most of the time, and are to keep no room for it.
            self.owed = VecDeque::new();
        }
        match &outgoing {
            Outgoing::Packet(Packet::Puback(_)) => self.qos1_open = self.qos1_open.saturating_sub(1),
            Outgoing::Packet(Packet::Pubcomp(ack)) => {
                self.qos2_open.remove(&ack.packet_id);
            }
            Outgoing::Packet(Packet::Pubrec(ack)) if ack.reason.is_error() => {
                self.qos2_open.remove(&ack.packet_id);
            }
            Outgoing::Packet(_) | Outgoing::Publish(_) => {}
        }
        Some(outgoing)
    }

    fn window_holds(&self) -> bool {
        let open = self.qos1_open + self.qos2_open.len();
        match self.version {
            Version::V5 => open <= usize::from(RECEIVE_MAXIMUM),
            Version::V3_1 | Version::V3_1_1 => open <= RECEIVE_MAXIMUM_V3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Conn;

    /// A part of the 3 KiB that an idle connection may take in all.
    const CONN_BYTES_MAX: usize = 256;

    #[test]
    fn a_connection_takes_little_memory() {
        assert!(size_of::<Conn>() <= CONN_BYTES_MAX, "{} bytes", size_of::<Conn>());
    }
}
