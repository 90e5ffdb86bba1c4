//! What a full spool does by each policy, on a disk that answers at once: what stays, in memory and on disk, and what is
//! counted. The policies are judged by what is left, never by how.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidegate::base::time::{Duration, Now};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::spool::Ledger;
use tidegate::spool::packet_ids::PacketIds;
use tidegate::spool::queue::{Offer, Sending, Spool};
use tidegate::spool::settings::{Bounds, Keeping, Offered, Terms, WhenFull};
use tidegate::store::record::{Load, Seq, SpoolId};

use crate::spool_disk::{Disk, number};

const BYTES_EACH: u64 = 11;
/// Of the memory window: the rest of what waits stands on disk.
const HEAD: usize = 8;

struct World {
    spool: Spool,
    ledger: Ledger,
    disk: Disk,
    next: u64,
}

fn terms(when_full: WhenFull, room: Option<u64>) -> Terms {
    Terms { bytes_max: room.map(|messages| messages * BYTES_EACH), when_full, expiry: None }
}

fn spool(room: u64, rules: &[Terms]) -> Spool {
    let bounds = Bounds {
        messages_max: u64::MAX,
        bytes_max: room * BYTES_EACH,
        age_max: None,
        when_full: WhenFull::DropOldest,
        memory_messages_max: HEAD,
        memory_bytes_max: 1 << 20,
    };
    let keeping = Keeping::Durable { commit: Duration::from_millis(100) };
    Spool::new(SpoolId(1), keeping, bounds, PacketIds::up_to(u16::MAX)).with_rules(rules)
}

impl World {
    fn new(room: u64, rules: &[Terms]) -> Self {
        let (ledger, disk) = (Ledger::default(), Disk::default());
        Self { spool: spool(room, rules), ledger, disk, next: 0 }
    }

    fn offer(&mut self, rule: u16, topic: u64) -> Offered {
        self.offer_with(QoS::AtLeastOnce, rule, topic)
    }

    fn offer_with(&mut self, qos: QoS, rule: u16, topic: u64) -> Offered {
        let topic = TopicName::new(&format!("{topic:03}")).expect("a topic name");
        let payload = Bytes::copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        let message = Arc::new(Message::new(topic, payload, qos, Origin::Gateway, Now::default()));
        let (subscription_identifiers, hold) = (Box::default(), None);
        let offer = Offer { message, qos, retain: false, rule, subscription_identifiers, hold };
        let offered = self.spool.offer(offer, true, Now::default(), &mut self.ledger);
        self.settle();
        offered
    }

    /// The disk takes everything and answers, until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let records = self.ledger.log.take();
            let idle = records.is_empty();
            self.disk.pending.push_back((self.ledger.log.last(), records));
            while self.disk.commit_one() {}
            self.spool.handle_durable(self.disk.durable, &mut self.ledger);
            let loads: Vec<Load> = std::mem::take(&mut self.ledger.loads);
            for load in &loads {
                self.spool.handle_loaded(self.disk.load(load), &mut self.ledger);
            }
            if idle && loads.is_empty() {
                break;
            }
        }
        let bytes: u64 = self.disk.entries.len() as u64 * BYTES_EACH;
        assert_eq!((self.spool.messages() * BYTES_EACH, self.spool.bytes()), (bytes, bytes));
        assert!(self.spool.memory_messages() <= HEAD + 1, "{}", self.spool.memory_messages());
    }

    fn send(&mut self, window: usize) -> Vec<u64> {
        self.spool.handle_here(window, &mut self.ledger);
        let mut sent = Vec::new();
        // QoS 2 leaves once its identifier is on disk: with the second look at the latest.
        for _ in 0..2 {
            while let Some(sending) = self.spool.next_sending(Now::default(), &mut self.ledger) {
                if let Sending::Publish { entry, .. } = sending {
                    sent.push(number(&entry));
                }
            }
            self.settle();
        }
        sent
    }

    /// Numbers of what waits, by topic.
    fn waiting(&self) -> BTreeMap<String, Vec<u64>> {
        let mut waiting = BTreeMap::<String, Vec<u64>>::new();
        for entry in self.disk.entries.values() {
            waiting.entry(entry.message.topic.as_str().to_owned()).or_default().push(number(entry));
        }
        waiting
    }

    fn of_rule(&self, rule: u16) -> Vec<u64> {
        self.disk.entries.values().filter(|entry| entry.rule == rule).map(number).collect()
    }

    fn full(&self) -> Vec<u64> {
        self.spool.rules().map(|rule| rule.tally.messages.full).collect()
    }
}

#[test]
fn keep_last_keeps_the_newest_of_each_topic() {
    let mut world = World::new(320, &[terms(WhenFull::KeepLast, None)]);
    // One that speaks once, then many that speak often.
    world.offer(0, 999);
    for n in 0..5000 {
        assert_eq!(world.offer(0, n % 40), Offered::Accepted);
    }
    let waiting = world.waiting();
    assert_eq!(waiting.len(), 41);
    assert_eq!(waiting["999"], [0], "a topic keeps its only message");
    for (topic, numbers) in waiting.iter().filter(|(topic, _)| *topic != "999") {
        let newest = 5000 - 39 + topic.parse::<u64>().expect("a number");
        assert_eq!(numbers.last(), Some(&newest), "{topic}");
    }
    let lost = 5001 - world.spool.messages();
    assert_eq!((world.full(), world.spool.tally().bytes.full), (vec![lost], lost * BYTES_EACH));
}

#[test]
fn keep_last_drops_the_oldest_where_each_topic_has_one_and_replaces_where_not() {
    let mut world = World::new(50, &[terms(WhenFull::KeepLast, None)]);
    for n in 0..50 {
        world.offer(0, n);
    }
    // A message of a topic that waits takes its place; one of a new topic that of the oldest.
    for n in (20..40).chain(20..40) {
        world.offer(0, n);
    }
    let waiting = world.waiting();
    assert_eq!((waiting.len(), waiting["020"].last(), waiting["000"].len()), (50, Some(&70), 1));
    world.offer(0, 700);
    let waiting = world.waiting();
    assert!(waiting.contains_key("700") && !waiting.contains_key("000"), "{waiting:?}");
}

#[test]
fn thin_keeps_a_history_that_is_coarser_the_older_it_is_and_even_in_each_topic() {
    const TOPICS: u64 = 4;
    const OFFERED: u64 = 1400;
    let mut world = World::new(400, &[terms(WhenFull::Thin, None)]);
    for n in 0..OFFERED {
        assert_eq!(world.offer(0, n % TOPICS), Offered::Accepted);
    }
    let waiting = world.waiting();
    let counts: BTreeSet<usize> = waiting.values().map(Vec::len).collect();
    // Topics that take turns are thinned alike: none is lost to another's beat.
    assert_eq!(waiting.len() as u64, TOPICS);
    let (least, most) = (counts.first().expect("some"), counts.last().expect("some"));
    assert!(most - least <= 2, "{counts:?}");
    for numbers in waiting.values() {
        assert!(numbers[0] < TOPICS, "the first of all stays: {numbers:?}");
        let steps: Vec<u64> = numbers.windows(2).map(|pair| (pair[1] - pair[0]) / TOPICS).collect();
        assert!(steps.windows(2).all(|pair| pair[0] + 1 >= pair[1]), "denser towards now: {steps:?}");
        assert!((8..=128).contains(&steps[0]) && steps.last() == Some(&1), "{steps:?}");
    }
    assert_eq!(world.full(), [OFFERED - world.spool.messages()]);
}

#[test]
fn what_is_in_flight_never_gives_way() {
    for when_full in [WhenFull::KeepLast, WhenFull::Thin, WhenFull::DropOldest] {
        let mut world = World::new(60, &[terms(when_full, None)]);
        for _ in 0..20 {
            world.offer_with(QoS::ExactlyOnce, 0, 0);
        }
        let sent = world.send(5);
        assert_eq!(sent, [0, 1, 2, 3, 4], "{when_full:?}");
        world.spool.handle_away(&mut world.ledger);
        for _ in 0..1000 {
            assert_eq!(world.offer_with(QoS::ExactlyOnce, 0, 0), Offered::Accepted);
        }
        let waiting = world.of_rule(0);
        assert_eq!(waiting[..5], [0, 1, 2, 3, 4], "{when_full:?}");
        // Nor once a restart has found it, wherever it stands.
        let found = world.disk.recover(2);
        world.spool = spool(60, &[terms(when_full, None)]).recover(found);
        for _ in 0..1000 {
            world.offer_with(QoS::ExactlyOnce, 0, 0);
        }
        assert_eq!(world.of_rule(0)[..5], [0, 1, 2, 3, 4], "{when_full:?}");
        assert_eq!(world.send(5), [0, 1, 2, 3, 4], "{when_full:?}");
    }
}

#[test]
fn a_rule_that_is_full_costs_itself_alone() {
    let cases = [
        (WhenFull::DropOldest, Offered::Accepted),
        (WhenFull::KeepLast, Offered::Accepted),
        (WhenFull::Thin, Offered::Accepted),
        (WhenFull::DropNewest, Offered::Dropped),
        (WhenFull::Reject, Offered::Rejected),
    ];
    for (when_full, expected) in cases {
        let rules = [terms(WhenFull::DropOldest, None), terms(when_full, Some(64))];
        let mut world = World::new(2000, &rules);
        for n in 0..500 {
            assert_eq!(world.offer(0, 1), Offered::Accepted);
            let offered = world.offer(1, 2 + n % 3);
            assert!(offered == Offered::Accepted || (n >= 64 && offered == expected), "{when_full:?} {n}");
        }
        assert_eq!(world.offer(1, 2) == Offered::Accepted, expected == Offered::Accepted, "{when_full:?}");
        assert_eq!(world.of_rule(0).len(), 500, "{when_full:?}");
        let own = world.of_rule(1);
        let standing: Vec<_> = world.spool.rules().collect();
        assert!(own.len() <= 64 && standing[1].bytes == own.len() as u64 * BYTES_EACH, "{when_full:?}");
        let newest_stays = own.last() == Some(&1000);
        assert_eq!(newest_stays, when_full.yields(), "{when_full:?} {own:?}");
        if when_full == WhenFull::DropOldest {
            assert!(own.windows(2).all(|pair| pair[1] - pair[0] <= 2), "a gap: {own:?}");
        }
        let lost = if when_full == WhenFull::Reject { 0 } else { 501 - own.len() as u64 };
        assert_eq!(world.full(), [0, lost], "{when_full:?}");
        // A restart finds the same standing, and the same bounds.
        let found = world.disk.recover(HEAD);
        world.spool = spool(2000, &rules).recover(found);
        let again: Vec<_> = world.spool.rules().map(|rule| (rule.messages, rule.bytes)).collect();
        assert_eq!(again, standing.iter().map(|rule| (rule.messages, rule.bytes)).collect::<Vec<_>>());
        for n in 0..200 {
            world.offer(1, 2 + n % 3);
        }
        assert!(world.of_rule(1).len() <= 64 && world.of_rule(0).len() == 500, "{when_full:?}");
    }
}

#[test]
fn a_full_buffer_costs_only_those_whose_rules_give_way() {
    let rules =
        [terms(WhenFull::Reject, None), terms(WhenFull::DropOldest, None), terms(WhenFull::Thin, None)];
    let mut world = World::new(300, &rules);
    for _ in 0..100 {
        assert_eq!(world.offer(0, 1), Offered::Accepted);
    }
    for _ in 0..1000 {
        assert_eq!(world.offer(1, 2), Offered::Accepted);
        assert_eq!(world.offer(2, 3), Offered::Accepted);
    }
    assert_eq!(world.of_rule(0).len(), 100, "what was not to give way");
    assert!(world.spool.bytes() <= 300 * BYTES_EACH);
    let thinned = world.of_rule(2);
    assert!(thinned.len() > 20 && thinned[0] < 300, "its history: {thinned:?}");
    while world.spool.has_room_for(0, 11) {
        world.offer(0, 1);
    }
    assert_eq!(world.offer(0, 1), Offered::Rejected);
    assert_eq!(world.spool.room_bytes(0) / BYTES_EACH, 0);
}

/// Amortised: what one message costs does not grow with what waits.
#[test]
fn reading_what_waits_is_shared_by_what_comes() {
    for when_full in [WhenFull::Thin, WhenFull::KeepLast] {
        for topics in [1, 50, 950] {
            let mut world = World::new(1000, &[terms(when_full, None)]);
            let mut read = 0;
            for n in 0..6000 {
                world.offer(0, n % topics);
                read += world.disk.loaded.take();
            }
            assert!(read <= 6000 * 8, "{when_full:?} {topics}: {read} entries read");
            assert!(world.disk.entries.values().any(|entry| entry.seq == Seq(world.spool.last_seq().0)));
        }
    }
}
