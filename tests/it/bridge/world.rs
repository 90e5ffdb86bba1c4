//! A bridge, its disk, its network and its cloud, stepped by hand. Time moves only when a test says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate::base::backoff::BackoffBounds;
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::bridge::effect::Effects;
use tidegate::bridge::fault::LinkFault;
use tidegate::bridge::forward::Forwarded;
use tidegate::bridge::lane;
use tidegate::bridge::node::NodeSettings;
use tidegate::bridge::servers::parts_of_row;
use tidegate::bridge::status::LinkState;
use tidegate::bridge::{Bridge, Settings};
use tidegate::config::model::{
    self, Buffer, ForwardOrder, ForwardRule, Priority, ReceiveRule, Retain, WhenFull,
};
use tidegate::config::provider::Account;
use tidegate::config::template::TopicTemplate;
use tidegate::config::uplink::{BridgeUrl, Compression, TlsFiles};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::packet::connect::{Connack, ConnackProperties};
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tidegate::spool::Hold;
use tidegate::store::record::{Entry, Lsn, Phase, Record, RecoveredSpool, RuleTotals, Seq, SpoolId};

use super::cloud_model::Cloud;

pub const SPOOL: SpoolId = SpoolId(7);
/// Where dead letters stand.
pub const DEAD: SpoolId = SpoolId(70);
pub const INDEX: u16 = 3;
const MEMORY_MESSAGES: usize = 1000;
const MEMORY_DEAD: usize = 100;

pub fn topic(text: &str) -> TopicName {
    TopicName::new(text).expect("a valid topic")
}

pub fn forward(filter: &str, to: &str, qos: Option<QoS>) -> ForwardRule {
    ForwardRule {
        filter: TopicFilter::new(filter).expect("a valid filter"),
        to: TopicTemplate::new(to).expect("a valid template"),
        qos,
        retain: Retain::Keep,
        when_full: WhenFull::DropOldest,
        size_bytes: None,
        expiry: None,
        priority: Priority::Normal,
        order: ForwardOrder::Topic,
    }
}

pub fn receive(filter: &str, to: &str) -> ReceiveRule {
    ReceiveRule {
        filter: TopicFilter::new(filter).expect("a valid filter"),
        to: TopicTemplate::new(to).expect("a valid template"),
        qos: QoS::ExactlyOnce,
        expiry: None,
    }
}

pub fn config(protocol: Version) -> model::Bridge {
    model::Bridge {
        name: "cloud".into(),
        url: BridgeUrl { tls: false, host: "cloud.test".into(), port: 1883, path: None },
        fallbacks: Vec::new(),
        proxy: None,
        protocol,
        client_id: "plant-7".into(),
        username: None,
        password: None,
        account: Account::Generic,
        tls: TlsFiles::default(),
        keep_alive: Duration::from_secs(30),
        inflight: 16,
        inflight_is_written: false,
        session_expiry: Duration::from_secs(3600),
        reconnect: BackoffBounds { min: Duration::from_secs(1), max: Duration::from_secs(60) },
        status_topic: Some(topic("status/plant-7")),
        primary_host: None,
        forward: vec![forward("up/#", "sites/{gateway}/{rest}", None)],
        receive: vec![receive("down/#", "{rest}")],
        buffer: Buffer {
            size_bytes: 1 << 30,
            age: Duration::from_secs(7 * 86_400),
            when_full: WhenFull::DropOldest,
            keep_free_bytes: 0,
            commit: Duration::from_millis(100),
            compress: Compression::None,
            replay_rate: None,
        },
    }
}

/// What is on disk.
#[derive(Debug, Default)]
pub struct Disk {
    pub entries: BTreeMap<Seq, Entry>,
    /// Whose each number is that ever was: a bridge's lanes have one numbering.
    owners: BTreeMap<Seq, SpoolId>,
    pub dead: BTreeMap<Seq, Entry>,
    dead_last: Seq,
    pub inflight: BTreeMap<PacketId, (Seq, Phase)>,
    pub inbound: BTreeSet<PacketId>,
    pub buffers: Vec<(SpoolId, Arc<str>)>,
    pub written: usize,
    /// Of the last Sparkplug session.
    pub bd_seq: Option<u8>,
}

impl Disk {
    fn apply(&mut self, record: Record) {
        self.written += 1;
        match record {
            Record::BufferPut { spool, bridge } => self.buffers.push((spool, bridge)),
            Record::EntryPut { spool: DEAD, entry } => {
                self.dead_last = self.dead_last.max(entry.seq);
                self.dead.insert(entry.seq, entry);
            }
            Record::EntryDrop { spool: DEAD, seq, .. } => {
                self.dead.remove(&seq);
            }
            Record::EntryPut { spool, entry } => {
                let before = self.owners.insert(entry.seq, spool);
                assert!(before.is_none_or(|before| before == spool), "one number for two lanes");
                self.entries.insert(entry.seq, entry);
            }
            Record::EntryDrop { seq, .. } => {
                self.entries.remove(&seq);
            }
            Record::InflightPut { packet_id, seq, phase, .. } => {
                self.inflight.insert(packet_id, (seq, phase));
            }
            Record::InflightDrop { packet_id, .. } => {
                self.inflight.remove(&packet_id);
            }
            Record::InboundPut { packet_id, .. } => {
                self.inbound.insert(packet_id);
            }
            Record::InboundDrop { packet_id, .. } => {
                self.inbound.remove(&packet_id);
            }
            Record::BirthPut { bd_seq, .. } => self.bd_seq = Some(bd_seq),
            other => panic!("a bridge never records {other:?}"),
        }
    }

    fn of(&self, spool: SpoolId) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(move |entry| self.owners.get(&entry.seq) == Some(&spool))
    }

    /// Those of a spool, in their order.
    fn all_of(&self, spool: SpoolId) -> Vec<&Entry> {
        if spool == DEAD { self.dead.values().collect() } else { self.of(spool).collect() }
    }

    fn recover_dead(&self) -> RecoveredSpool {
        let sizes = || self.dead.values().map(|entry| (entry.rule, entry.message.size_bytes() as u64));
        RecoveredSpool {
            head: self.dead.values().take(MEMORY_DEAD).cloned().collect(),
            messages: self.dead.len() as u64,
            bytes: sizes().map(|(_, bytes)| bytes).sum(),
            rules: RuleTotals::of(sizes()),
            last_seq: self.dead_last,
            ..RecoveredSpool::default()
        }
    }

    pub fn page(&self, spool: SpoolId, after: Seq, messages_max: usize) -> Vec<Entry> {
        let behind = self.all_of(spool).into_iter().filter(|entry| entry.seq > after);
        behind.take(messages_max).cloned().collect()
    }

    fn recover(&self, spool: SpoolId) -> RecoveredSpool {
        let mut inflight: Vec<_> =
            self.inflight.iter().map(|(id, (seq, phase))| (*id, *seq, *phase)).collect();
        inflight.retain(|(_, seq, _)| self.owners.get(seq) == Some(&spool));
        inflight.sort_by_key(|(_, seq, _)| *seq);
        let sizes = || self.of(spool).map(|entry| (entry.rule, entry.message.size_bytes() as u64));
        RecoveredSpool {
            head: self.of(spool).take(MEMORY_MESSAGES).cloned().collect(),
            messages: self.of(spool).count() as u64,
            bytes: sizes().map(|(_, bytes)| bytes).sum(),
            rules: RuleTotals::of(sizes()),
            last_seq: self
                .owners
                .iter()
                .filter(|(_, owner)| **owner == spool)
                .map(|(seq, _)| *seq)
                .max()
                .unwrap_or_default(),
            inflight,
            inbound: if spool == SPOOL { self.inbound.iter().copied().collect() } else { Vec::new() },
        }
    }
}

/// What one visit left for the disk: records, and what the local router recorded with them.
struct Batch {
    last: Lsn,
    records: Vec<Record>,
    received: Vec<(Arc<Message>, Option<u64>)>,
}

/// As a start makes it, of what is on disk.
fn brain(settings: &Settings, disk: Option<&Disk>, now: Now, out: &mut Effects) -> Bridge {
    let found = |spool| disk.map(|disk| disk.recover(spool));
    let dead = disk.filter(|disk| disk.dead_last > Seq(0)).map(Disk::recover_dead);
    let mut bridge = Bridge::new(settings.clone(), (SPOOL, found(SPOOL)), (DEAD, dead), now, out);
    for lane in lane::needed(&settings.bridge) {
        let spool = SpoolId(SPOOL.0 + u32::from(lane.number()));
        bridge.add_lane(lane, spool, found(spool), out);
    }
    bridge
}

pub struct World {
    pub now: Now,
    pub settings: Settings,
    pub bridge: Bridge,
    out: Effects,
    pub cloud: Cloud,
    /// The host that `cloud` is, and what the others hold.
    at: String,
    others: BTreeMap<String, Cloud>,
    /// Whether a cloud can be reached at all.
    pub reachable: bool,
    /// Hosts that cannot be reached.
    pub down: BTreeSet<&'static str>,
    connected: bool,
    pub to_cloud: VecDeque<Packet>,
    pub to_bridge: VecDeque<Packet>,
    /// What was on its way when the bridge last closed the transport: its last words are the last.
    pub parting: Vec<Packet>,
    pub disk: Disk,
    pending: VecDeque<Batch>,
    /// Writes become durable within the visit that made them.
    pub fast_disk: bool,
    /// What the local side refuses.
    pub refuse: Option<TopicName>,
    pub released: BTreeSet<Hold>,
    /// Local messages from the cloud that are durable, in order.
    pub local: Vec<Arc<Message>>,
    /// PUBLISH packets that left with QoS 1 or 2 and are not finished, on this connection.
    on_wire: BTreeSet<PacketId>,
    pub on_wire_max: usize,
    pub faults: Vec<LinkFault>,
}

impl World {
    pub fn new(bridge: model::Bridge) -> World {
        Self::with_node(bridge, None)
    }

    pub fn with_node(bridge: model::Bridge, node: Option<NodeSettings>) -> World {
        let settings = Settings {
            bridge,
            index: INDEX,
            gateway: "plant-7".into(),
            mark: "mark7".into(),
            may_return: false,
            seed: 1,
            node,
            holder: None,
        };
        let now = Now {
            instant: Instant::from_nanos(1_000_000_000),
            wall: Timestamp::from_millis(1_795_255_200_000),
        };
        let mut out = Effects::default();
        let brain = brain(&settings, None, now, &mut out);
        let mut world = World {
            now,
            settings,
            bridge: brain,
            out,
            cloud: Cloud::default(),
            at: "cloud.test".to_owned(),
            others: BTreeMap::new(),
            reachable: true,
            down: BTreeSet::new(),
            connected: false,
            to_cloud: VecDeque::new(),
            to_bridge: VecDeque::new(),
            parting: Vec::new(),
            disk: Disk::default(),
            pending: VecDeque::new(),
            fast_disk: true,
            refuse: None,
            released: BTreeSet::new(),
            local: Vec::new(),
            on_wire: BTreeSet::new(),
            on_wire_max: 0,
            faults: Vec::new(),
        };
        world.settle();
        world
    }

    pub fn up(protocol: Version) -> World {
        let mut world = World::new(config(protocol));
        world.drain();
        assert_eq!(world.bridge.status().state, LinkState::Up);
        world
    }

    pub fn message(&self, name: &str, payload: &str, qos: QoS) -> Message {
        Message::new(topic(name), payload.to_owned(), qos, Origin::Client("meter".into()), self.now)
    }

    pub fn offer(&mut self, message: Message, hold: Option<u64>) {
        self.offer_by(0, message, hold);
    }

    pub fn offer_by(&mut self, rule: u16, message: Message, hold: Option<u64>) {
        let urgent = message.qos == QoS::ExactlyOnce;
        let forwarded = Forwarded { rule, message: Arc::new(message), hold: hold.map(Hold), urgent };
        self.visit(|bridge, now, out| bridge.handle_forward(forwarded, now, out));
    }

    /// One visit, and what the door does after it.
    pub fn visit(&mut self, work: impl FnOnce(&mut Bridge, Now, &mut Effects)) {
        work(&mut self.bridge, self.now, &mut self.out);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.take_effects();
            let loads = std::mem::take(&mut self.out.ledger.loads);
            if loads.is_empty() {
                break;
            }
            for load in loads {
                let entries = self.disk.page(load.spool, load.after, load.messages_max);
                self.bridge.handle_loaded(load.spool, entries, self.now, &mut self.out);
            }
        }
        if std::mem::take(&mut self.out.connect) {
            self.connect();
        }
        if std::mem::take(&mut self.out.disconnect) && self.connected {
            self.parting = self.to_cloud.iter().cloned().collect();
            self.cut();
        }
        if self.fast_disk {
            self.commit(usize::MAX);
        }
    }

    fn take_effects(&mut self) {
        let received: Vec<_> =
            self.out.publishes.drain(..).filter(|r| !r.is_expired).map(|r| (r.message, r.token)).collect();
        let records = self.out.ledger.log.take();
        if !records.is_empty() || !received.is_empty() {
            self.pending.push_back(Batch { last: self.out.ledger.log.last(), records, received });
        }
        self.released.extend(self.out.ledger.released.drain(..));
        for packet in std::mem::take(&mut self.out.sends) {
            assert!(self.connected, "sent without a transport: {packet:?}");
            if let Packet::Publish(publish) = &packet {
                self.on_wire.extend(publish.packet_id);
                self.on_wire_max = self.on_wire_max.max(self.on_wire.len());
            }
            self.to_cloud.push_back(packet);
        }
    }

    fn connect(&mut self) {
        self.to_bridge.clear();
        self.to_cloud.clear();
        self.on_wire.clear();
        self.cloud.greeted = false;
        let host = self.bridge.destination().server.host;
        self.meet(&host);
        self.connected = self.reachable && !self.down.contains(&*self.at);
        if self.connected {
            self.visit(Bridge::handle_connected);
            self.turn_away();
        } else {
            self.visit(|bridge, now, out| bridge.handle_disconnected(LinkFault::Closed, now, out));
        }
    }

    /// A greeting that the cloud does not take costs no time, unless the bridge waits by itself.
    fn turn_away(&mut self) {
        let Some(Packet::Connect(connect)) = self.to_cloud.front() else { return };
        if !self.cloud.turns_away(connect, self.now.instant) {
            return;
        }
        if self.cloud.closes {
            self.cut();
        } else {
            let reason = ReasonCode::UnsupportedProtocolVersion;
            let properties = ConnackProperties::default();
            let connack = Packet::Connack(Box::new(Connack { session_present: false, reason, properties }));
            self.visit(|bridge, now, out| {
                bridge.handle_packet(connack, now, out).expect_err("it was refused");
            });
        }
        if self.bridge.next_deadline().is_some_and(|(at, why)| why == "retry" && at <= self.now.instant) {
            self.visit(Bridge::handle_timeout);
        }
    }

    /// Makes `cloud` the one of this host.
    pub fn meet(&mut self, host: &str) {
        let new = self.others.remove(host);
        if host != self.at {
            let old = std::mem::replace(&mut self.cloud, new.unwrap_or_default());
            self.others.insert(std::mem::replace(&mut self.at, host.to_owned()), old);
            self.cloud.greeted = false;
        }
    }

    /// The host that the bridge is with, or was with last.
    pub fn host(&self) -> &str {
        &self.at
    }

    /// The transport ends here and now; what was on its way is lost.
    pub fn cut(&mut self) {
        self.connected = false;
        self.cloud.greeted = false;
        self.to_bridge.clear();
        self.to_cloud.clear();
        self.visit(|bridge, now, out| bridge.handle_disconnected(LinkFault::Closed, now, out));
    }

    /// Up to `batches` visits become durable.
    pub fn commit(&mut self, batches: usize) {
        for _ in 0..batches {
            let Some(batch) = self.pending.pop_front() else { return };
            batch.records.into_iter().for_each(|record| self.disk.apply(record));
            self.visit(|bridge, now, out| bridge.handle_durable(batch.last, now, out));
            for (message, token) in batch.received {
                let refused = self.refuse.as_ref() == Some(&message.topic);
                if !refused {
                    self.local.push(message);
                }
                if let Some(token) = token {
                    self.visit(|bridge, now, out| bridge.handle_completed(token, refused, now, out));
                }
            }
        }
    }

    /// The power fails, and comes back.
    pub fn crash(&mut self) {
        self.pending.clear();
        self.restart();
    }

    /// The brain starts anew from what is on disk.
    pub fn restart(&mut self) {
        self.connected = false;
        self.cloud.greeted = false;
        self.to_bridge.clear();
        self.to_cloud.clear();
        self.now.instant = self.now.instant + Duration::from_millis(50);
        self.out = Effects::default();
        if let Some(node) = &mut self.settings.node {
            node.bd_seq = self.disk.bd_seq;
        }
        let row = self.disk.buffers.iter().rfind(|(spool, _)| *spool == SPOOL).map(|(_, row)| row.clone());
        self.settings.holder = row.and_then(|row| parts_of_row(&row).1.map(Into::into));
        self.bridge = brain(&self.settings, Some(&self.disk), self.now, &mut self.out);
        self.settle();
    }

    pub fn step_cloud(&mut self) -> bool {
        let Some(packet) = self.to_cloud.pop_front() else { return false };
        self.to_bridge.extend(self.cloud.handle(packet));
        if std::mem::take(&mut self.cloud.hangs_up) {
            self.cut();
            return true;
        }
        if self.to_cloud.is_empty() {
            self.visit(Bridge::handle_flushed);
        }
        true
    }

    pub fn step_bridge(&mut self) -> bool {
        let Some(packet) = self.to_bridge.pop_front() else { return false };
        match &packet {
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                self.on_wire.remove(&ack.packet_id);
            }
            Packet::Pubrec(ack) if ack.reason.is_error() => {
                self.on_wire.remove(&ack.packet_id);
            }
            _ => {}
        }
        let mut fault = None;
        self.visit(|bridge, now, out| fault = bridge.handle_packet(packet, now, out).err());
        self.faults.extend(fault);
        true
    }

    /// Lets everything flow at this moment.
    pub fn drain(&mut self) {
        for _ in 0..1_000_000 {
            self.commit(usize::MAX);
            if !self.step_cloud() && !self.step_bridge() {
                return;
            }
        }
        panic!("it never ends");
    }

    pub fn advance(&mut self, by: Duration) {
        let end = self.now.instant + by;
        let mut at_once = 0;
        while let Some((at, why)) = self.bridge.next_deadline()
            && at <= end
        {
            at_once = if at > self.now.instant { 0 } else { at_once + 1 };
            assert!(at_once < 10, "{why} stays due");
            self.set_time(at.max(self.now.instant));
            self.visit(Bridge::handle_timeout);
        }
        self.set_time(end);
    }

    /// As `advance`, with everything that flows meanwhile.
    pub fn run(&mut self, by: Duration) {
        let end = self.now.instant + by;
        self.drain();
        while self.now.instant < end {
            self.advance(Duration::from_millis(500).min(end.since(self.now.instant)));
            self.drain();
        }
    }

    fn set_time(&mut self, instant: Instant) {
        let millis = i64::try_from(instant.since(self.now.instant).as_millis()).expect("in range");
        let doubt = self.now.wall.doubt();
        self.now.wall = Timestamp::from_millis(self.now.wall.as_millis() + millis).with_doubt(doubt);
        self.now.instant = instant;
    }

    /// What the bridge said before DISCONNECT when it last parted, by its topics.
    pub fn last_words(&self) -> Vec<&str> {
        assert!(matches!(self.parting.last(), Some(Packet::Disconnect(_))), "{:?}", self.parting);
        let said = self.parting.iter().filter_map(|packet| match packet {
            Packet::Publish(publish) => publish.topic.as_ref().map(TopicName::as_str),
            _ => None,
        });
        said.collect()
    }

    /// Payloads that the cloud has of one topic, in order.
    pub fn delivered(&self, name: &str) -> Vec<String> {
        let name = topic(name);
        let matching = self.cloud.delivered.iter().filter(|publish| publish.topic.as_ref() == Some(&name));
        matching.map(|publish| String::from_utf8_lossy(&publish.payload).into_owned()).collect()
    }
}
