//! The world around the broker: clock, disk, connections, and what a door does with the effects of a visit. Carries
//! and checks; what clients do is in the steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use tidegate::auth::{Identity, Proof};
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::broker::effect::{ConnKey, Effects, Outgoing, Token};
use tidegate::broker::{Broker, Settings};
use tidegate::config::limits::Limits;
use tidegate::config::model::Anonymous;
use tidegate::mqtt::frame::{Decoder, encode, encode_publish};
use tidegate::mqtt::packet::{Packet, Peer, Version};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::TopicFilter;
use tidegate::spool::Hold;
use tidegate::store::record::{Lsn, Record, Recovered};

use super::packets;
use super::person::{Heir, Reference};
use super::rows::Rows;
use super::seat::{SESSION_EXPIRY_SECS_MAX, Seat};
use super::step::{RECORD_BYTES, SEATS};

pub const COMMIT: Duration = Duration::from_millis(100);
/// Of one spool, as many as a start of the store reads.
const ROWS_IN_MEMORY: usize = 1000;
/// Deadlines that one step of time may meet: `$SYS`, keep alive and commits of a few clients.
const DEADLINES_MAX: usize = 20_000;
/// Visits that one visit may lead to.
const VISITS_MAX: usize = 10_000;

/// What the first record says.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // the bits of one byte
pub struct Plan {
    /// Every visit is durable at once.
    pub instant_disk: bool,
    pub narrow: bool,
    pub logins: bool,
    pub access: u8,
    pub sys: bool,
    pub gates: bool,
    pub loopback: bool,
    pub inflight: u16,
}

impl Plan {
    fn of([flags, inflight, access, ..]: [u8; RECORD_BYTES]) -> Self {
        let has = |bit: u8| flags >> bit & 1 == 1;
        Self {
            instant_disk: !has(0),
            narrow: has(1),
            logins: has(2),
            access: if has(3) { access } else { 0 },
            sys: has(4),
            gates: has(5),
            loopback: has(6),
            inflight: u16::from(inflight % 16) + 1,
        }
    }

    pub fn settings(self) -> Settings {
        let wide = Limits {
            connections: 100,
            connections_per_address: None,
            packet_bytes: 4096,
            inflight: self.inflight,
            queued_messages: 10_000,
            queued_bytes: 16 * 1024 * 1024,
            retained_messages: 1000,
            keep_alive: Duration::from_secs(600),
            session_expiry: Duration::from_secs(u64::from(SESSION_EXPIRY_SECS_MAX)),
            publish_rate: None,
        };
        let narrow =
            Limits { connections: 2, queued_messages: 4, queued_bytes: 2000, retained_messages: 2, ..wide };
        Settings {
            mark: "m".into(),
            limits: if self.narrow { narrow } else { wide },
            anonymous: if self.loopback { Anonymous::Loopback } else { Anonymous::Always },
            logins: self.logins,
            access: packets::access(self.access),
            commit: COMMIT,
            seed: 7,
            sys_interval: self.sys.then(|| Duration::from_secs(7200)),
        }
    }
}

pub struct World {
    pub plan: Plan,
    pub settings: Settings,
    pub broker: Broker,
    pub out: Effects,
    pub now: Now,
    pub instant_disk: bool,
    disk: Rows,
    pending: VecDeque<(Lsn, Vec<Record>)>,
    pub seats: [Option<Seat>; SEATS],
    by_key: BTreeMap<ConnKey, usize>,
    closed: BTreeSet<ConnKey>,
    pub reference: Reference,
    /// What was passed on to a bridge or a device and is not safe there.
    pub holds: VecDeque<Hold>,
    pub logins: VecDeque<ConnKey>,
    /// Messages of bridges that are not known to be safe.
    pub tokens: BTreeMap<u64, (Bytes, Vec<Heir>)>,
    /// Messages and tokens, numbered.
    pub number: u32,
}

impl World {
    pub fn new(record: [u8; RECORD_BYTES]) -> Self {
        let plan = Plan::of(record);
        let settings = plan.settings();
        let complete = !plan.narrow && settings.access.is_none() && !plan.gates;
        let mut world = Self {
            plan,
            broker: Broker::new(settings.clone()),
            settings,
            out: Effects::default(),
            now: Now {
                instant: Instant::ORIGIN + Duration::from_secs(1000),
                wall: Timestamp::from_millis(1_795_255_200_000),
            },
            instant_disk: plan.instant_disk,
            disk: Rows::default(),
            pending: VecDeque::new(),
            seats: [const { None }; SEATS],
            by_key: BTreeMap::new(),
            closed: BTreeSet::new(),
            reference: Reference { complete, ..Reference::default() },
            holds: VecDeque::new(),
            logins: VecDeque::new(),
            tokens: BTreeMap::new(),
            number: 0,
        };
        world.start(&mut Recovered::default());
        world
    }

    fn start(&mut self, recovered: &mut Recovered) {
        self.out = Effects::default();
        self.broker = Broker::new(self.settings.clone());
        for (rule, filter) in (0..).zip(["up/#", "+"]) {
            self.broker.forward(&TopicFilter::new(filter).expect("a filter"), 0, rule);
        }
        self.broker.command(&TopicFilter::new("cmd/#").expect("a filter"), 0);
        self.broker.recover(recovered, self.now, &mut self.out);
        self.finish();
        self.broker.handle_timeout(self.now, &mut self.out);
        self.finish();
    }

    /// The process dies: what was not durable is lost, connections are cut, and it starts again.
    pub fn crash(&mut self) {
        self.pending.clear();
        for seat in std::mem::replace(&mut self.seats, [const { None }; SEATS]).iter().flatten() {
            self.leave(seat);
        }
        self.by_key.clear();
        self.closed.clear();
        self.holds.clear();
        self.logins.clear();
        self.tokens.clear();
        let mut recovered = self.disk.recovered(ROWS_IN_MEMORY);
        self.start(&mut recovered);
    }

    pub fn open(&mut self, who: usize) {
        let peer = tidegate::broker::Peer { loopback: true, ..tidegate::broker::Peer::default() };
        let key = self.broker.handle_open(peer, self.now);
        assert!(!self.closed.contains(&key) && !self.by_key.contains_key(&key), "{key} is used again");
        self.by_key.insert(key, who);
        self.seats[who] = Some(Seat::new(key, self.settings.limits.packet_bytes as usize));
    }

    /// Bytes of a client, to the broker as a hand brings them.
    pub fn feed(&mut self, who: usize, bytes: &[u8]) {
        if let Some(seat) = &mut self.seats[who] {
            seat.input.extend_from_slice(bytes);
        }
        while let Some(seat) = &mut self.seats[who] {
            let key = seat.key;
            let decoded = seat.decoder.decode(&mut seat.input);
            let version = seat.decoder.version();
            match decoded {
                Ok(None) => return,
                Ok(Some(packet)) => {
                    seat.note(&packet, &mut self.reference);
                    seat.version = version;
                    let result = self.broker.handle_packet(key, packet, self.now, &mut self.out);
                    self.finish();
                    let open = self.by_key.contains_key(&key);
                    assert!(result.is_ok() || !open, "a violation ends the connection: {result:?}");
                }
                Err(malformed) => {
                    self.broker.handle_malformed(key, malformed.reason(), self.now, &mut self.out);
                    self.finish();
                    assert!(!self.by_key.contains_key(&key), "what is no packet ends the connection");
                }
            }
        }
    }

    pub fn cut(&mut self, who: usize) {
        let Some(seat) = self.seats[who].take() else { return };
        self.by_key.remove(&seat.key);
        self.leave(&seat);
        self.broker.handle_closed(seat.key, self.now, &mut self.out);
        self.closed.insert(seat.key);
        self.finish();
    }

    fn leave(&mut self, seat: &Seat) {
        let Some(name) = &seat.name else { return };
        let person = self.reference.person(name);
        if seat.up {
            person.leave(self.now.instant);
        } else {
            // It never heard which session it has.
            person.lose_track();
        }
    }

    /// What the door does after each visit.
    pub fn finish(&mut self) {
        for _ in 0..VISITS_MAX {
            self.collect();
            if let Some(hold) = self.out.ledger.released.pop() {
                self.broker.handle_released(hold, self.now, &mut self.out);
            } else if let Some(hold) = self.out.ledger.gathered.pop() {
                self.broker.handle_gathered(hold, &mut self.out);
            } else if std::mem::take(&mut self.out.hurry) {
                self.broker.handle_hurry(self.now, &mut self.out);
            } else if let Some(load) = self.out.ledger.loads.pop() {
                let entries = self.disk.load(&load, usize::MAX);
                self.broker.handle_loaded(load, entries, self.now, &mut self.out);
            } else if !(self.instant_disk && self.commit()) {
                if self.pending.is_empty() {
                    self.reference.note_durable();
                }
                return;
            }
        }
        panic!("effects go in circles");
    }

    /// The oldest visit that is not durable becomes so.
    pub fn commit(&mut self) -> bool {
        let Some((lsn, records)) = self.pending.pop_front() else { return false };
        for record in records {
            self.disk.apply(record);
        }
        self.broker.handle_durable(lsn, self.now, &mut self.out);
        self.collect();
        true
    }

    pub fn commit_all(&mut self) {
        while self.commit() {
            self.finish();
        }
    }

    fn collect(&mut self) {
        for (key, outgoing) in std::mem::take(&mut self.out.sends) {
            self.deliver(key, &outgoing);
        }
        for key in std::mem::take(&mut self.out.closes) {
            self.closed.insert(key);
            let Some(who) = self.by_key.remove(&key) else { continue };
            let Some(seat) = self.seats[who].take() else { continue };
            self.leave(&seat);
        }
        self.holds.extend(self.out.forwards.drain(..).filter_map(|forward| forward.hold));
        self.holds.extend(self.out.commands.drain(..).filter_map(|command| command.hold));
        self.out.resumed.clear();
        self.out.refused.clear();
        self.logins.extend(self.out.authentications.drain(..).map(|login| login.conn));
        for Token(token) in std::mem::take(&mut self.out.completed) {
            let (payload, heirs) = self.tokens.remove(&token).expect("completed once");
            self.reference.expect(&payload, &heirs);
        }
        let records = self.out.ledger.log.take();
        if !records.is_empty() {
            self.pending.push_back((self.out.ledger.log.last(), records));
        }
    }

    fn deliver(&mut self, key: ConnKey, outgoing: &Outgoing) {
        assert!(!self.closed.contains(&key), "sent behind a close: {outgoing:?}");
        let who = self.by_key.get(&key).expect("sent to a connection that is open");
        let Some(seat) = &mut self.seats[*who] else { return };
        let version = seat.version;
        let mut bytes = BytesMut::new();
        let encoded = match outgoing {
            Outgoing::Packet(packet) => encode(packet, version, &mut bytes),
            Outgoing::Publish(delivery) => {
                let head = delivery.head(delivery.message.expiry_left_secs(self.now));
                encode_publish(&head, &delivery.message.payload, version, &mut bytes)
            }
        };
        if let Err(error) = encoded {
            let silent = matches!(outgoing, Outgoing::Packet(Packet::Connack(connack))
                if version != Version::V5 && connack.reason != ReasonCode::Success);
            assert!(silent, "{error}: {outgoing:?}");
            return;
        }
        let packet_bytes = bytes.len();
        let mut decoder = Decoder::new(Peer::Server, usize::MAX);
        decoder.set_version(version);
        let mut packet = decoder.decode(&mut bytes).expect("a client can read it").expect("all of it");
        assert!(bytes.is_empty(), "one packet at a time");
        // MQTT 3.1 cannot tell its clients; the reference has to know.
        match (&mut packet, outgoing) {
            (Packet::Connack(told), Outgoing::Packet(Packet::Connack(meant))) => {
                told.session_present = meant.session_present;
            }
            (Packet::Suback(told), Outgoing::Packet(Packet::Suback(meant))) => {
                told.reasons.clone_from(&meant.reasons);
            }
            _ => {}
        }
        seat.receive(packet, packet_bytes, self.now.instant, &mut self.reference);
    }

    /// Virtual time goes on, from deadline to deadline.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now.instant + by;
        let mut met = 0;
        while let Some((at, why)) = self.broker.next_deadline().filter(|(at, _)| *at <= end) {
            met += 1;
            assert!(met < DEADLINES_MAX, "{why} is due again and again");
            self.set_time(at.max(self.now.instant));
            self.broker.handle_timeout(self.now, &mut self.out);
            self.finish();
        }
        self.set_time(end);
    }

    fn set_time(&mut self, instant: Instant) {
        let passed = i64::try_from(instant.since(self.now.instant).as_millis()).expect("days at most");
        self.now = Now { instant, wall: Timestamp::from_millis(self.now.wall.as_millis() + passed) };
        self.reference.now = instant;
    }

    pub fn answer_login(&mut self, key: ConnKey, user: &str, until: Option<Timestamp>) {
        let identity = Identity { user: user.into(), proof: Proof::Password, until };
        // A violation among the packets that waited has closed the connection.
        let _ = self.broker.handle_authenticated(key, Ok(identity), self.now, &mut self.out);
        self.finish();
    }

    pub fn check_bounds(&self) {
        let (stats, limits) = (self.broker.stats(), &self.settings.limits);
        let open = self.seats.iter().flatten().count() as u64;
        assert!(stats.connections <= u64::from(limits.connections).min(open), "{stats:?}");
        assert!(stats.retained <= u64::from(limits.retained_messages), "{stats:?}");
        assert!(stats.queued <= stats.sessions * u64::from(limits.queued_messages), "{stats:?}");
        assert!(stats.queued_bytes <= stats.sessions * limits.queued_bytes, "{stats:?}");
        assert!(stats.inflight <= stats.sessions * u64::from(limits.inflight), "{stats:?}");
        assert!(stats.connections <= stats.sessions, "{stats:?}");
    }
}
