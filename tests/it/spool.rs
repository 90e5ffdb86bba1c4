//! The spool against a model: a disk that loses power, a far end that follows MQTT, a link that is cut at any
//! time. Seeded: a failure prints its seed and step. Holds no rule of the spool itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::TopicName;
use tidegate::spool::packet_ids::PacketIds;
use tidegate::spool::queue::{Acknowledged, Offer, Sending, Spool};
use tidegate::spool::settings::{Bounds, Keeping, Offered, Terms, WhenFull};
use tidegate::spool::{Hold, Ledger};
use tidegate::store::record::{Entry, Load, Lsn, Phase, SpoolId};

use crate::spool_disk::{Disk, MESSAGE_BYTES, number};

const ID: SpoolId = SpoolId(7);
const COMMIT: Duration = Duration::from_millis(100);
const SEEDS_MAX: u64 = 1500;
const STEPS_MAX: usize = 500;
const DRAIN_STEPS_MAX: usize = 20_000;
const RULES: usize = 3;
const TOPICS: [&str; 3] = ["a/b", "a/c", "a/d"];

/// Seeds that found something once.
const FAILED_ONCE: &[u64] = &[61, 106];

#[test]
fn the_model_holds_for_many_seeds() {
    for seed in FAILED_ONCE.iter().copied().chain(0..SEEDS_MAX) {
        World::new(seed).run();
    }
}

/// What is known of one message, by its number: numbers grow in the order of the offers.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not a state
struct Track {
    qos2: bool,
    held: bool,
    accepted: bool,
    released: bool,
    /// It was only in memory when the power went: nobody promised it.
    forgotten: bool,
    delivered: u32,
    /// How often it may be delivered.
    delivered_max: u32,
    refused: bool,
    /// Acknowledged in this life of the gateway.
    done: bool,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Puback(PacketId, u64),
    Pubrec(PacketId, u64),
    Refused(PacketId, u64),
    Pubcomp(PacketId),
}

/// The far end and the wires to and from it.
#[derive(Default)]
struct Far {
    to: VecDeque<Sending>,
    from: VecDeque<Answer>,
    /// QoS 2 messages that it has and that are not released.
    open: BTreeMap<PacketId, u64>,
    last_first: Option<u64>,
}

/// What the gateway has on the wire of this connection.
#[derive(Default)]
struct Wire {
    unanswered: BTreeMap<PacketId, u64>,
    /// Of the session: survives connections.
    inflight: BTreeMap<PacketId, u64>,
}

#[allow(clippy::struct_excessive_bools)] // independent facts, not a state
struct World {
    seed: u64,
    step: usize,
    rng: Rng,
    now: Now,
    spool: Spool,
    ledger: Ledger,
    volatile: bool,
    crashed: bool,
    lossy: bool,
    forgetful: bool,
    bounds: Bounds,
    /// None: entries have no rules.
    terms: Option<[Terms; RULES]>,
    ids_max: u16,
    window: usize,
    here: bool,
    disk: Disk,
    awaited: BTreeSet<Lsn>,
    /// Each with the position that it comes behind.
    loads: VecDeque<(Lsn, Load)>,
    loaded: VecDeque<Vec<Entry>>,
    far: Far,
    wire: Wire,
    tracks: Vec<Track>,
    /// Before this one, all are on disk, done or gone.
    safe_up_to: usize,
    messages: u64,
    lost_before: u64,
    lost_total: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("spool model: seed {} failed at step {}", self.seed, self.step);
        }
    }
}

fn spool(keeping: Keeping, bounds: Bounds, terms: Option<[Terms; RULES]>, ids_max: u16) -> Spool {
    let spool = Spool::new(ID, keeping, bounds, PacketIds::up_to(ids_max));
    terms.into_iter().fold(spool, |spool, terms| spool.with_rules(&terms))
}

/// Half of the spools have rules. A chance of its own, so that the seeds stay what they were.
fn random_terms(seed: u64) -> Option<[Terms; RULES]> {
    let mut rng = Rng::with_seed(seed ^ 0xb0);
    let policies =
        [WhenFull::DropOldest, WhenFull::DropNewest, WhenFull::Reject, WhenFull::KeepLast, WhenFull::Thin];
    let mut terms = || Terms {
        bytes_max: rng.bool().then(|| rng.u64(MESSAGE_BYTES..300)),
        when_full: policies[rng.usize(..policies.len())],
        expiry: None,
    };
    let found = std::array::from_fn(|_| terms());
    rng.bool().then_some(found)
}

fn track(tracks: &mut [Track], n: u64) -> &mut Track {
    &mut tracks[usize::try_from(n).expect("numbers count the tracks")]
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (volatile, lossy, forgetful) = (rng.u8(..8) == 0, rng.bool(), rng.bool());
        let when_full = [WhenFull::DropOldest, WhenFull::DropOldest, WhenFull::DropNewest, WhenFull::Reject];
        let bounds = Bounds {
            messages_max: if lossy { rng.u64(1..40) } else { 100_000 },
            bytes_max: if lossy && rng.bool() { rng.u64(1..300) } else { 1 << 30 },
            age_max: (lossy && rng.bool()).then(|| Duration::from_millis(rng.u64(100..3000))),
            when_full: when_full[rng.usize(..4)],
            memory_messages_max: rng.usize(1..12),
            memory_bytes_max: if rng.bool() { rng.usize(1..100) } else { 1 << 20 },
        };
        let keeping = if volatile { Keeping::Volatile } else { Keeping::Durable { commit: COMMIT } };
        let terms = (lossy && !volatile).then(|| random_terms(seed)).flatten();
        let ids_max = if rng.bool() { rng.u16(3..12) } else { u16::MAX };
        Self {
            seed,
            step: 0,
            now: Now { instant: Instant::from_nanos(1), wall: Timestamp::from_millis(0) },
            spool: spool(keeping, bounds, terms, ids_max),
            ledger: Ledger::default(),
            volatile,
            crashed: false,
            lossy,
            forgetful,
            bounds,
            terms,
            ids_max,
            window: 1,
            here: false,
            disk: Disk::default(),
            awaited: BTreeSet::new(),
            loads: VecDeque::new(),
            loaded: VecDeque::new(),
            far: Far::default(),
            wire: Wire::default(),
            tracks: Vec::new(),
            safe_up_to: 0,
            messages: 0,
            lost_before: 0,
            lost_total: 0,
            rng,
        }
    }

    fn run(mut self) {
        let faults = self.rng.u32(1..12);
        while self.step < STEPS_MAX {
            self.step += 1;
            match self.rng.u32(..100) {
                0..35 => self.offer(),
                35..65 => self.far_step(),
                65..80 => self.disk_step(),
                80..88 => self.pass_time(),
                _ if self.rng.u32(..100) < faults => self.fault(),
                _ if !self.here => self.connect(),
                _ => self.send_all(),
            }
        }
        self.drain();
    }

    fn fault(&mut self) {
        match (self.here, self.rng.u8(..3)) {
            (_, 0) if !self.volatile => self.crash(),
            (true, _) => self.cut(),
            (false, _) => {}
        }
    }

    /// All faults are over: everything arrives and nothing stays.
    fn drain(&mut self) {
        let end = self.step + DRAIN_STEPS_MAX;
        loop {
            self.step += 1;
            assert!(self.step < end, "does not drain: {:?}", self.spool);
            if !self.here {
                self.connect();
            }
            self.pass_time();
            self.disk_step();
            self.far_step();
            self.send_all();
            let idle = self.disk.pending.is_empty() && self.far.to.is_empty() && self.far.from.is_empty();
            if idle && self.spool.messages() == 0 && self.spool.inflight() == 0 {
                break;
            }
        }
        assert!(self.disk.entries.is_empty(), "left on disk: {:?}", self.disk.entries);
        assert!(self.disk.inflight.is_empty(), "left in flight on disk: {:?}", self.disk.inflight);
        assert_eq!((self.spool.awaited(), self.spool.next_deadline()), (None, None));
        let missing: Vec<_> = (0_u64..)
            .zip(&self.tracks)
            .filter(|(_, t)| t.accepted && !t.forgotten && t.delivered == 0 && !t.refused)
            .map(|(n, _)| n)
            .collect();
        assert!(missing.len() as u64 <= self.lost_total, "lost: {missing:?}, counted {}", self.lost_total);
        for (n, track) in self.tracks.iter().enumerate() {
            assert!(
                !track.held || !track.accepted || track.released || track.forgotten,
                "{n} is held for ever"
            );
        }
    }

    fn offer(&mut self) {
        let n = self.tracks.len() as u64;
        let qos = if self.rng.bool() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        // Those without rules have one topic, so that their order is that of all.
        let (rule, topic) = self.terms.map_or((0, 0), |_| (self.rng.usize(..RULES), self.rng.usize(..3)));
        let topic = TopicName::new(TOPICS[topic]).expect("a topic name");
        let payload = Bytes::copy_from_slice(&n.to_be_bytes());
        let mut message = Message::new(topic, payload, qos, Origin::Gateway, self.now);
        if self.lossy && self.rng.u8(..4) == 0 {
            message.expiry_interval = Some(Duration::from_millis(self.rng.u64(1..2000)));
        }
        let held = self.rng.u8(..4) != 0;
        let urgent = self.rng.u8(..4) == 0;
        let offer = Offer {
            message: Arc::new(message),
            qos,
            retain: false,
            rule: u16::try_from(rule).expect("few"),
            subscription_identifiers: Box::default(),
            hold: held.then_some(Hold(n)),
        };
        let qos2 = qos == QoS::ExactlyOnce;
        self.tracks.push(Track { qos2, held, delivered_max: 1, ..Track::default() });
        let offered = self.spool.offer(offer, urgent, self.now, &mut self.ledger);
        let turned_away = u64::from(offered == Offered::Dropped);
        let accepted = offered == Offered::Accepted;
        track(&mut self.tracks, n).accepted = accepted;
        self.messages += u64::from(accepted) + turned_away;
        self.leave((!accepted).then_some(n));
        assert!(self.spool.messages() <= self.bounds.messages_max);
        assert!(self.spool.bytes() <= self.bounds.bytes_max);
        if self.here && self.rng.bool() {
            self.send_all();
        }
    }

    fn connect(&mut self) {
        if self.forgetful && self.rng.u8(..3) == 0 {
            self.far.open.clear();
            self.wire.inflight.clear();
            for track in &mut self.tracks {
                track.delivered_max += u32::from(track.delivered > 0);
            }
            self.spool.handle_session_lost(&mut self.ledger);
            assert_eq!(self.spool.inflight(), 0);
            self.leave(None);
        }
        self.window = self.rng.usize(1..10);
        self.here = true;
        self.spool.handle_here(self.window, &mut self.ledger);
        self.leave(None);
        self.send_all();
    }

    fn cut(&mut self) {
        self.drop_wires();
        self.spool.handle_away(&mut self.ledger);
        self.leave(None);
    }

    fn drop_wires(&mut self) {
        self.here = false;
        self.far.to.clear();
        self.far.from.clear();
        for n in std::mem::take(&mut self.wire.unanswered).into_values() {
            let track = track(&mut self.tracks, n);
            track.delivered_max += u32::from(!track.qos2);
        }
    }

    /// The power goes: what is not durable is gone.
    fn crash(&mut self) {
        self.crashed = true;
        self.drop_wires();
        self.loads.clear();
        self.loaded.clear();
        self.awaited.clear();
        self.ledger = Ledger::default();
        if self.rng.bool() {
            self.bounds.memory_messages_max = self.rng.usize(1..12);
        }
        let found = self.disk.recover(self.bounds.memory_messages_max);
        let kept: BTreeSet<u64> = self.disk.entries.values().map(number).collect();
        for (n, track) in (0_u64..).zip(&mut self.tracks) {
            // Its acknowledgement was not on disk: it goes out again.
            track.delivered_max += u32::from(track.done && !track.qos2 && kept.contains(&n));
            track.done &= !kept.contains(&n);
            track.forgotten |= track.accepted && !track.released && !kept.contains(&n);
        }
        self.wire.inflight = (self.disk.inflight.iter())
            .filter_map(|(id, (seq, _))| Some((*id, number(self.disk.entries.get(seq)?))))
            .collect();
        self.messages = found.messages;
        self.lost_before = 0;
        let keeping = Keeping::Durable { commit: COMMIT };
        self.spool = spool(keeping, self.bounds, self.terms, self.ids_max).recover(found);
        self.leave(None);
    }

    fn pass_time(&mut self) {
        let millis = self.rng.u64(..60);
        self.now.instant = self.now.instant + Duration::from_millis(millis);
        if self.spool.next_deadline().is_some_and(|at| at <= self.now.instant) {
            self.spool.handle_timeout(self.now, &mut self.ledger);
            self.leave(None);
            assert!(self.spool.next_deadline().is_none_or(|at| at > self.now.instant), "a busy loop");
        }
    }

    fn disk_step(&mut self) {
        for _ in 0..self.rng.usize(..4) {
            self.disk.commit_one();
        }
        let durable = self.disk.durable;
        if self.awaited.first().is_some_and(|at| *at <= durable) {
            self.awaited.retain(|at| *at > durable);
            self.spool.handle_durable(durable, &mut self.ledger);
            self.leave(None);
        }
        if self.rng.bool()
            && self.loads.front().is_some_and(|(behind, _)| *behind <= durable)
            && let Some((_, load)) = self.loads.pop_front()
        {
            self.loaded.push_back(self.disk.load(&load));
        } else if let Some(entries) = self.loaded.pop_front() {
            self.spool.handle_loaded(entries, &mut self.ledger);
            self.leave(None);
        }
        if self.here {
            self.send_all();
        }
    }

    fn send_all(&mut self) {
        while self.here
            && let Some(sending) = self.spool.next_sending(self.now, &mut self.ledger)
        {
            self.check_sending(&sending);
            self.far.to.push_back(sending);
            self.leave(None);
        }
        self.leave(None);
    }

    fn check_sending(&mut self, sending: &Sending) {
        match sending {
            Sending::Publish { packet_id, dup, entry } => {
                let n = number(entry);
                if entry.qos == QoS::ExactlyOnce && !self.volatile {
                    let known = self.disk.inflight.get(packet_id);
                    assert_eq!(known, Some(&(entry.seq, Phase::Published)), "{n} left before its record");
                }
                let before = self.wire.inflight.insert(*packet_id, n);
                assert_eq!(before, dup.then_some(n), "packet identifier {packet_id} of {n}");
                assert_eq!(self.wire.unanswered.insert(*packet_id, n), None);
                assert!(self.wire.unanswered.len() <= self.window, "over the window");
            }
            Sending::Release { packet_id } => {
                let phase = self.disk.inflight.get(packet_id).map(|(_, phase)| *phase);
                assert!(self.volatile || phase == Some(Phase::Released), "PUBREL before its record");
                self.wire.unanswered.entry(*packet_id).or_insert(0);
            }
        }
    }

    fn far_step(&mut self) {
        for _ in 0..self.rng.usize(1..4) {
            if self.rng.bool() {
                self.far_receive();
            } else if let Some(answer) = self.far.from.pop_front() {
                self.answer(answer);
            }
        }
    }

    fn far_receive(&mut self) {
        let Some(sending) = self.far.to.pop_front() else { return };
        let refuses = self.lossy && self.rng.u8(..20) == 0;
        let answer = match sending {
            Sending::Release { packet_id } => {
                self.far.open.remove(&packet_id);
                Answer::Pubcomp(packet_id)
            }
            Sending::Publish { packet_id, entry, .. } => {
                let n = number(&entry);
                let qos2 = entry.qos == QoS::ExactlyOnce;
                match self.far.open.get(&packet_id) {
                    Some(known) if qos2 => assert_eq!(*known, n, "a new message under an open identifier"),
                    _ if refuses => track(&mut self.tracks, n).refused = true,
                    _ => self.deliver(n),
                }
                match (qos2, refuses && !self.far.open.contains_key(&packet_id)) {
                    (_, true) => Answer::Refused(packet_id, n),
                    (true, false) => {
                        self.far.open.insert(packet_id, n);
                        Answer::Pubrec(packet_id, n)
                    }
                    (false, false) => Answer::Puback(packet_id, n),
                }
            }
        };
        self.far.from.push_back(answer);
    }

    fn deliver(&mut self, n: u64) {
        let track = track(&mut self.tracks, n);
        track.delivered += 1;
        assert!(track.delivered <= track.delivered_max, "{n} is delivered too often: {track:?}");
        if track.delivered == 1 && !track.refused {
            // What a bound dropped just before a crash may be back after it, behind its successors.
            let strict = !(self.lossy && self.crashed);
            assert!(!strict || self.far.last_first.is_none_or(|last| last < n), "{n} comes out of order");
            self.far.last_first = Some(n);
        }
    }

    fn answer(&mut self, answer: Answer) {
        let (known, done) = match answer {
            Answer::Puback(id, n) => {
                self.wire.unanswered.remove(&id);
                self.wire.inflight.remove(&id);
                (self.spool.handle_puback(id, &mut self.ledger), Some(n))
            }
            Answer::Refused(id, n) => {
                self.wire.unanswered.remove(&id);
                self.wire.inflight.remove(&id);
                (self.spool.handle_refused(id, &mut self.ledger), Some(n))
            }
            Answer::Pubrec(id, n) => (self.spool.handle_pubrec(id, &mut self.ledger), Some(n)),
            Answer::Pubcomp(id) => {
                self.wire.unanswered.remove(&id);
                self.wire.inflight.remove(&id);
                (self.spool.handle_pubcomp(id, &mut self.ledger), None)
            }
        };
        assert_eq!(known, Acknowledged::Known, "{answer:?}");
        if let Some(n) = done {
            track(&mut self.tracks, n).done = true;
            self.messages -= 1;
        }
        self.leave(done);
        if self.rng.bool() {
            self.send_all();
        }
    }

    /// After each visit: takes what the ledger holds, and checks what holds always. `safe` is the message that
    /// this visit acknowledged or turned away.
    fn leave(&mut self, safe: Option<u64>) {
        let losses = self.spool.losses();
        let lost = losses.full + losses.aged + losses.expired;
        let mut lost_now = lost - self.lost_before;
        self.lost_before = lost;
        self.lost_total += lost_now;
        self.messages -= lost_now;
        for hold in std::mem::take(&mut self.ledger.released) {
            let track = track(&mut self.tracks, hold.0);
            assert!(track.held && !std::mem::replace(&mut track.released, true), "{hold:?} twice");
            if !(self.volatile || safe == Some(hold.0) || self.disk.written.contains(&hold.0)) {
                assert!(lost_now > 0, "{hold:?} is released but nowhere safe");
                lost_now -= 1;
            }
        }
        if !self.ledger.log.is_empty() {
            assert!(!self.volatile, "a volatile spool writes");
            self.disk.pending.push_back((self.ledger.log.last(), self.ledger.log.take()));
        }
        self.awaited.extend(self.spool.awaited());
        let behind = self.ledger.log.last();
        self.loads.extend(std::mem::take(&mut self.ledger.loads).into_iter().map(|load| (behind, load)));
        assert_eq!(self.spool.messages(), self.messages);
        assert_eq!(self.spool.bytes(), self.messages * MESSAGE_BYTES);
        if !self.volatile {
            self.check_memory();
        }
        self.check_rules();
    }

    fn check_rules(&self) {
        let Some(terms) = &self.terms else { return };
        let standings: Vec<_> = self.spool.rules().collect();
        assert_eq!(standings.iter().map(|rule| rule.messages).sum::<u64>(), self.messages);
        for (standing, terms) in standings.iter().zip(terms) {
            assert_eq!(standing.bytes, standing.messages * MESSAGE_BYTES);
            assert!(terms.bytes_max.is_none_or(|max| standing.bytes <= max), "{standing:?} of {terms:?}");
        }
    }

    fn check_memory(&mut self) {
        while self.tracks.get(self.safe_up_to).is_some_and(|track| {
            let written = self.disk.written.contains(&(self.safe_up_to as u64));
            !track.accepted || track.done || track.forgotten || written
        }) {
            self.safe_up_to += 1;
        }
        let behind = self.tracks.len() - self.safe_up_to;
        // What is on disk but not yet told to be.
        let untold = self.awaited.len() + self.disk.pending.len();
        let memory_max = self.bounds.memory_messages_max + behind + untold;
        assert!(self.spool.memory_messages() <= memory_max, "{:?} of {memory_max}", self.spool);
    }
}
