//! The world around one broker: a clock, a disk with pending and durable apart, and what each client was sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::num::NonZeroU16;
use std::sync::Arc;

use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::broker::effect::{Authentication, Command, ConnKey, Effects, Forward, Outgoing, Token};
use tidegate::broker::violation::Violation;
use tidegate::broker::{Broker, Peer, Settings};
use tidegate::config::limits::Limits;
use tidegate::config::model::Anonymous;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::{Connect, ConnectProperties, Role, Will};
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{Subscribe, SubscriptionOptions, Unsubscribe};
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tidegate::store::record::{Lsn, Record, Recovered};

use super::rows::Rows;

pub const COMMIT: Duration = Duration::from_millis(100);
/// Of one spool, as many as a start of the store reads.
const ROWS_IN_MEMORY: usize = 1000;

pub struct World {
    pub broker: Broker,
    pub out: Effects,
    pub now: Now,
    pub settings: Settings,
    /// What the disk has for sure.
    pub disk: Rows,
    /// Records of visits that are not durable, with the position of the last of each.
    pub pending: VecDeque<(Lsn, Vec<Record>)>,
    sent: BTreeMap<ConnKey, Vec<String>>,
    pub closed: BTreeSet<ConnKey>,
    pub forwards: Vec<Forward>,
    pub commands: Vec<Command>,
    pub completed: Vec<Token>,
    /// Logins that nobody has answered.
    pub logins: Vec<Authentication>,
    /// Whether every visit is durable at once.
    pub instant_disk: bool,
}

pub fn settings() -> Settings {
    Settings {
        mark: "m".into(),
        limits: Limits {
            connections: 100,
            connections_per_address: None,
            packet_bytes: 1024 * 1024,
            inflight: 100,
            queued_messages: 10_000,
            queued_bytes: 16 * 1024 * 1024,
            retained_messages: 1000,
            keep_alive: Duration::from_secs(64_800),
            session_expiry: Duration::from_secs(86_400),
            publish_rate: None,
        },
        anonymous: Anonymous::Always,
        logins: false,
        access: None,
        commit: COMMIT,
        seed: 7,
        sys_interval: None,
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: Settings) -> Self {
        let now = Now {
            instant: Instant::ORIGIN + Duration::from_secs(1000),
            wall: Timestamp::from_millis(1_795_255_200_000),
        };
        let mut world = Self {
            broker: Broker::new(settings.clone()),
            out: Effects::default(),
            now,
            settings,
            disk: Rows::default(),
            pending: VecDeque::new(),
            sent: BTreeMap::new(),
            closed: BTreeSet::new(),
            forwards: Vec::new(),
            commands: Vec::new(),
            completed: Vec::new(),
            logins: Vec::new(),
            instant_disk: true,
        };
        world.broker.recover(&mut Recovered::default(), now, &mut world.out);
        world.finish();
        world
    }

    /// A world in which nothing becomes durable by itself.
    pub fn slow_disk() -> Self {
        let mut world = Self::new();
        world.instant_disk = false;
        world
    }

    /// What the door does after each visit.
    pub fn finish(&mut self) {
        loop {
            self.collect();
            if let Some(hold) = self.out.ledger.released.pop() {
                self.broker.handle_released(hold, self.now, &mut self.out);
            } else if let Some(hold) = self.out.ledger.gathered.pop() {
                self.broker.handle_gathered(hold, &mut self.out);
            } else if std::mem::take(&mut self.out.hurry) {
                self.broker.handle_hurry(self.now, &mut self.out);
            } else if let Some(load) = self.out.ledger.loads.pop() {
                let entries = self.disk.load(&load, usize::MAX);
                assert!(self.broker.handle_loaded(load, entries, self.now, &mut self.out));
            } else if self.instant_disk && !self.pending.is_empty() {
                self.durable_step();
            } else {
                return;
            }
        }
    }

    fn collect(&mut self) {
        for (key, outgoing) in std::mem::take(&mut self.out.sends) {
            assert!(!self.closed.contains(&key), "nothing is sent behind a close: {outgoing:?}");
            self.sent.entry(key).or_default().push(show(&outgoing));
        }
        self.closed.extend(self.out.closes.drain(..));
        self.forwards.append(&mut self.out.forwards);
        self.commands.append(&mut self.out.commands);
        self.completed.append(&mut self.out.completed);
        self.logins.append(&mut self.out.authentications);
        let records = self.out.ledger.log.take();
        if !records.is_empty() {
            self.pending.push_back((self.out.ledger.log.last(), records));
        }
    }

    /// The oldest visit that is not durable becomes so.
    pub fn durable_step(&mut self) -> bool {
        let Some((lsn, records)) = self.pending.pop_front() else { return false };
        for record in records {
            self.disk.apply(record);
        }
        self.broker.handle_durable(lsn, self.now, &mut self.out);
        self.collect();
        true
    }

    /// Everything becomes durable, and what that causes too.
    pub fn durable(&mut self) {
        while self.durable_step() {
            self.finish();
        }
    }

    /// The process dies; what was not durable is lost; it starts again, and does what is due.
    pub fn crash(&mut self) {
        self.restart();
        self.broker.handle_timeout(self.now, &mut self.out);
        self.finish();
    }

    /// As `crash`, up to the moment at which clients come in.
    pub fn restart(&mut self) {
        self.pending.clear();
        self.sent.clear();
        self.closed.clear();
        self.out = Effects::default();
        self.broker = Broker::new(self.settings.clone());
        let mut recovered = self.disk.recovered(ROWS_IN_MEMORY);
        self.broker.recover(&mut recovered, self.now, &mut self.out);
        self.finish();
    }

    /// Virtual time goes on, from deadline to deadline.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now.instant + by;
        while let Some((at, _)) = self.broker.next_deadline().filter(|(at, _)| *at <= end) {
            self.set_time(at.max(self.now.instant));
            self.broker.handle_timeout(self.now, &mut self.out);
            self.finish();
        }
        self.set_time(end);
    }

    fn set_time(&mut self, instant: Instant) {
        let passed = i64::try_from(instant.since(self.now.instant).as_millis()).unwrap();
        self.now = Now { instant, wall: Timestamp::from_millis(self.now.wall.as_millis() + passed) };
    }

    pub fn open(&mut self) -> ConnKey {
        self.broker.handle_open(Peer::default(), self.now)
    }

    pub fn send(&mut self, key: ConnKey, packet: Packet) -> Result<(), Violation> {
        let result = self.broker.handle_packet(key, packet, self.now, &mut self.out);
        self.finish();
        result
    }

    /// Sends what is no violation.
    pub fn put(&mut self, key: ConnKey, packet: Packet) {
        self.send(key, packet).unwrap();
    }

    /// What the client was sent since it was last asked.
    pub fn take(&mut self, key: ConnKey) -> Vec<String> {
        self.sent.remove(&key).unwrap_or_default()
    }

    /// Connects and returns CONNACK with what came behind it.
    pub fn connect(&mut self, connect: Connect) -> (ConnKey, Vec<String>) {
        let key = self.open();
        self.put(key, Packet::Connect(Box::new(connect)));
        let sent = self.take(key);
        (key, sent)
    }

    /// Connects, and drops CONNACK.
    pub fn join(&mut self, connect: Connect) -> ConnKey {
        let (key, sent) = self.connect(connect);
        assert!(sent.first().is_some_and(|first| first.starts_with("CONNACK 00")), "{sent:?}");
        key
    }

    pub fn subscribe(&mut self, key: ConnKey, filter: &str, qos: u8) -> Vec<String> {
        self.subscribe_with(key, filter, SubscriptionOptions { qos: level(qos), ..options() }, None)
    }

    pub fn subscribe_with(
        &mut self,
        key: ConnKey,
        filter: &str,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    ) -> Vec<String> {
        self.put(key, subscribe(&[(filter, options)], identifier));
        self.take(key)
    }

    pub fn cut(&mut self, key: ConnKey) {
        self.broker.handle_closed(key, self.now, &mut self.out);
        self.finish();
        self.closed.insert(key);
    }

    pub fn leave(&mut self, key: ConnKey) {
        self.put(key, Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success)));
        assert!(self.closed.contains(&key));
    }

    /// A message of another brain.
    pub fn publish(&mut self, message: Message, token: Option<Token>) -> Result<(), ReasonCode> {
        let urgent = message.qos == QoS::ExactlyOnce;
        let result = self.broker.handle_publish(Arc::new(message), token, urgent, self.now, &mut self.out);
        self.finish();
        result
    }

    pub fn message(&self, topic: &str, qos: u8, origin: Origin) -> Message {
        Message::new(name(topic), "x", level(qos), origin, self.now)
    }
}

pub fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

pub fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

pub fn level(qos: u8) -> QoS {
    QoS::from_bits(qos).unwrap()
}

pub fn options() -> SubscriptionOptions {
    SubscriptionOptions::default()
}

fn connect(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        role: Role::Client,
        client_id: client_id.into(),
        clean_start: true,
        keep_alive: 60,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// Clean, of 3.1.1.
pub fn v4(client_id: &str) -> Connect {
    connect(Version::V3_1_1, client_id)
}

/// With a session to keep, of 3.1.1.
pub fn v4_durable(client_id: &str) -> Connect {
    Connect { clean_start: false, ..v4(client_id) }
}

/// Clean, of 5.0.
pub fn v5(client_id: &str) -> Connect {
    connect(Version::V5, client_id)
}

/// With a session to keep for an hour, of 5.0.
pub fn v5_durable(client_id: &str) -> Connect {
    let mut connect = Connect { clean_start: false, ..v5(client_id) };
    connect.properties.session_expiry_interval = Some(3600);
    connect
}

pub fn will(topic: &str, delay_interval: u32) -> Box<Will> {
    Box::new(Will {
        topic: name(topic),
        payload: "gone".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval,
        expiry_interval: None,
        properties: tidegate::mqtt::message::MessageProperties::default(),
    })
}

/// PUBLISH with packet identifier `packet_id`, or 0 at QoS 0.
pub fn publish(topic: &str, payload: &str, qos: u8, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos: level(qos),
        retain: false,
        topic: (!topic.is_empty()).then(|| name(topic)),
        packet_id: PacketId::new(packet_id),
        payload: payload.to_owned().into(),
        topic_alias: None::<NonZeroU16>,
        expiry_interval: None,
        subscription_identifiers: Vec::new(),
        properties: None,
    }
}

pub fn packet(publish: Publish) -> Packet {
    Packet::Publish(publish)
}

pub fn subscribe(filters: &[(&str, SubscriptionOptions)], identifier: Option<u32>) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: id(9),
        subscription_identifier: identifier,
        user_properties: Vec::new(),
        filters: filters.iter().map(|(text, options)| (filter(text), *options)).collect(),
    })
}

pub fn unsubscribe(filters: &[&str]) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(8),
        user_properties: Vec::new(),
        filters: filters.iter().map(|text| filter(text)).collect(),
    })
}

pub fn puback(packet_id: u16) -> Packet {
    Packet::Puback(Ack::success(id(packet_id)))
}

pub fn pubrec(packet_id: u16) -> Packet {
    Packet::Pubrec(Ack::success(id(packet_id)))
}

pub fn pubrel(packet_id: u16) -> Packet {
    Packet::Pubrel(Ack::success(id(packet_id)))
}

pub fn pubcomp(packet_id: u16) -> Packet {
    Packet::Pubcomp(Ack::success(id(packet_id)))
}

/// One line a packet: what tests compare.
pub fn show(outgoing: &Outgoing) -> String {
    let packet = match outgoing {
        Outgoing::Packet(packet) => packet,
        Outgoing::Publish(delivery) => {
            let message = &delivery.message;
            let mut text = format!("PUBLISH {} q{}", message.topic, delivery.qos.bits());
            if let Some(packet_id) = delivery.packet_id {
                write!(text, " id={packet_id}").unwrap();
            }
            text += if delivery.dup { " dup" } else { "" };
            text += if delivery.retain { " retain" } else { "" };
            if !delivery.subscription_identifiers.is_empty() {
                write!(text, " sub={:?}", delivery.subscription_identifiers).unwrap();
            }
            return text + " " + std::str::from_utf8(&message.payload).unwrap();
        }
    };
    let ack = |name: &str, ack: &Ack| match ack.reason {
        ReasonCode::Success => format!("{name} {}", ack.packet_id),
        reason => format!("{name} {} {:02x}", ack.packet_id, reason.byte()),
    };
    let codes = |reasons: &[ReasonCode]| {
        reasons.iter().fold(String::new(), |text, reason| text + &format!(" {:02x}", reason.byte()))
    };
    match packet {
        Packet::Connack(connack) => {
            let present = if connack.session_present { " present" } else { "" };
            format!("CONNACK {:02x}{present}", connack.reason.byte())
        }
        Packet::Puback(of) => ack("PUBACK", of),
        Packet::Pubrec(of) => ack("PUBREC", of),
        Packet::Pubrel(of) => ack("PUBREL", of),
        Packet::Pubcomp(of) => ack("PUBCOMP", of),
        Packet::Suback(suback) => format!("SUBACK {}{}", suback.packet_id, codes(&suback.reasons)),
        Packet::Unsuback(unsuback) => format!("UNSUBACK {}{}", unsuback.packet_id, codes(&unsuback.reasons)),
        Packet::Pingresp => "PINGRESP".to_owned(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT {:02x}", disconnect.reason.byte()),
        other => unreachable!("a server never sends {other:?}"),
    }
}
