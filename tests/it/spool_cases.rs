//! The spool, case by case: what its model does not look at. No randomness, no time of its own.

use std::sync::Arc;

use tidegate::base::time::{Duration, Instant, Now};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::TopicName;
use tidegate::spool::packet_ids::PacketIds;
use tidegate::spool::queue::{Acknowledged, Offer, Sending, Spool};
use tidegate::spool::settings::{Bounds, Keeping, Offered, WhenFull};
use tidegate::spool::{Hold, Ledger};
use tidegate::store::record::{Entry, Lsn, Phase, Record, RecoveredSpool, Seq, SpoolId};

const ID: SpoolId = SpoolId(3);
const DURABLE: Keeping = Keeping::Durable { commit: Duration::from_millis(100) };
const BOUNDS: Bounds = Bounds {
    messages_max: 100_000,
    bytes_max: 1 << 30,
    age_max: None,
    when_full: WhenFull::DropOldest,
    memory_messages_max: 4,
    memory_bytes_max: 1 << 20,
};

fn spool(keeping: Keeping, bounds: Bounds) -> Spool {
    Spool::new(ID, keeping, bounds, PacketIds::up_to(u16::MAX))
}

fn at(millis: u64) -> Now {
    Now { instant: Instant::ORIGIN + Duration::from_millis(millis), ..Now::default() }
}

fn message(payload_bytes: usize) -> Arc<Message> {
    let topic = TopicName::new("t").expect("a topic name");
    Arc::new(Message::new(topic, vec![0; payload_bytes], QoS::AtLeastOnce, Origin::Gateway, at(0)))
}

fn offer(qos: QoS, hold: u64) -> Offer {
    let subscription_identifiers = Box::default();
    Offer {
        message: message(9),
        qos,
        retain: false,
        rule: 0,
        subscription_identifiers,
        hold: Some(Hold(hold)),
    }
}

fn entry(seq: u64, qos: QoS) -> Entry {
    let (seq, subscription_identifiers) = (Seq(seq), Box::default());
    Entry { seq, qos, retain: false, rule: 0, subscription_identifiers, message: message(9) }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

fn sent(spool: &mut Spool, ledger: &mut Ledger) -> Vec<PacketId> {
    std::iter::from_fn(|| match spool.next_sending(at(0), ledger)? {
        Sending::Publish { packet_id, .. } | Sending::Release { packet_id } => Some(packet_id),
    })
    .collect()
}

#[test]
fn a_healthy_link_writes_nothing_and_wakes_nobody() {
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
    spool.handle_here(20, &mut ledger);
    for n in 0..50 {
        assert_eq!(
            spool.offer(offer(QoS::AtLeastOnce, n), false, at(n * 10), &mut ledger),
            Offered::Accepted
        );
        for packet_id in sent(&mut spool, &mut ledger) {
            assert_eq!(spool.handle_puback(packet_id, &mut ledger), Acknowledged::Known);
        }
        assert_eq!(ledger.released.pop(), Some(Hold(n)));
    }
    assert!(ledger.log.is_empty());
    assert_eq!((spool.awaited(), spool.next_deadline(), spool.messages()), (None, None, 0));
}

#[test]
fn what_somebody_waits_for_gathers_while_the_link_is_away() {
    // (link is here, urgent, somebody waits, records at once, holds that gather)
    let cases = [
        (false, false, true, 0, 1),
        (false, false, false, 0, 0),
        (false, true, false, 1, 0),
        (true, false, true, 0, 0),
        (true, true, true, 1, 0),
    ];
    for (here, urgent, waits, records, gathered) in cases {
        let what = format!("{here} {urgent} {waits}");
        let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
        if here {
            spool.handle_here(20, &mut ledger);
        }
        let hold = waits.then_some(Hold(1));
        spool.offer(Offer { hold, ..offer(QoS::AtLeastOnce, 1) }, urgent, at(0), &mut ledger);
        assert_eq!((ledger.log.take().len(), ledger.gathered.len()), (records, gathered), "{what}");
        spool.handle_away(&mut ledger);
        // Whoever waited for the far end waits for a commit from now on.
        assert_eq!(ledger.gathered.is_empty(), !waits || urgent, "{what}");
        assert!(ledger.log.is_empty(), "{what}");
        assert_eq!(spool.next_deadline(), (!urgent).then_some(at(100).instant), "{what}");
        spool.handle_timeout(at(100), &mut ledger);
        assert_eq!((ledger.log.take().len(), spool.next_deadline()), (1 - records, None), "{what}");
        assert!(spool.awaited().is_some(), "{what}");
    }
}

#[test]
fn all_that_gathers_is_recorded_with_the_first_that_is_due() {
    for here in [true, false] {
        let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
        if here {
            spool.handle_here(20, &mut ledger);
        }
        for n in 0..10 {
            spool.offer(offer(QoS::AtLeastOnce, n), false, at(n * 10), &mut ledger);
        }
        spool.handle_timeout(at(99), &mut ledger);
        assert!(ledger.log.is_empty());
        spool.handle_timeout(at(100), &mut ledger);
        assert_eq!((ledger.log.take().len(), spool.next_deadline()), (10, None));
    }
}

#[test]
fn a_hurry_records_what_waits_for_the_disk_alone() {
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
    spool.handle_here(20, &mut ledger);
    spool.offer(offer(QoS::AtLeastOnce, 1), false, at(0), &mut ledger);
    spool.handle_hurry(&mut ledger);
    assert!(ledger.log.is_empty(), "the far end may acknowledge it yet");
    spool.handle_away(&mut ledger);
    spool.handle_hurry(&mut ledger);
    assert_eq!(ledger.log.take().len(), 1);
}

#[test]
fn what_nobody_waits_for_gathers_longer_while_the_flash_is_spared_and_goes_with_what_somebody_does() {
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
    ledger.unowed_wait = Duration::from_secs(60);
    let unowed = || Offer { hold: None, ..offer(QoS::AtLeastOnce, 0) };
    spool.offer(unowed(), false, at(0), &mut ledger);
    assert_eq!(spool.next_deadline(), Some(at(60_000).instant));
    spool.offer(offer(QoS::AtLeastOnce, 1), false, at(500), &mut ledger);
    assert_eq!(spool.next_deadline(), Some(at(600).instant), "somebody waits");
    spool.handle_timeout(at(600), &mut ledger);
    assert_eq!((ledger.log.take().len(), spool.next_deadline()), (2, None));
    // Who acknowledges meanwhile spares it altogether.
    spool.handle_here(20, &mut ledger);
    spool.offer(unowed(), false, at(700), &mut ledger);
    for packet_id in sent(&mut spool, &mut ledger) {
        spool.handle_puback(packet_id, &mut ledger);
    }
    assert_eq!((spool.messages(), spool.next_deadline()), (0, None));
}

#[test]
fn what_gathers_is_bounded_in_messages_and_in_bytes() {
    for (bytes, count) in [(10, 1000), (1 << 19, 2)] {
        let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
        for n in 1..=count {
            let offered = Offer { message: message(bytes), ..offer(QoS::AtLeastOnce, n) };
            assert_eq!(spool.offer(offered, false, at(0), &mut ledger), Offered::Accepted);
            assert_eq!(ledger.log.is_empty(), n < count, "{n} of {bytes} bytes");
        }
        assert_eq!((ledger.log.take().len() as u64, spool.next_deadline()), (count, None));
    }
}

#[test]
fn a_message_that_fits_no_bound_costs_no_other() {
    let bounds = Bounds { bytes_max: 30, ..BOUNDS };
    let (mut spool, mut ledger) = (spool(Keeping::Volatile, bounds), Ledger::default());
    for n in 0..3 {
        spool.offer(offer(QoS::AtLeastOnce, n), false, at(0), &mut ledger);
    }
    let large = Offer { message: message(31), ..offer(QoS::AtLeastOnce, 3) };
    assert_eq!(spool.offer(large, false, at(0), &mut ledger), Offered::Dropped);
    assert_eq!((spool.messages(), spool.losses().full), (3, 1));
    assert_eq!(spool.offer(offer(QoS::AtLeastOnce, 4), false, at(0), &mut ledger), Offered::Accepted);
    assert_eq!((spool.messages(), spool.losses().full), (3, 2));
}

#[test]
fn a_far_end_that_never_acknowledges_the_first_costs_no_memory() {
    let (mut spool, mut ledger) = (spool(Keeping::Volatile, BOUNDS), Ledger::default());
    spool.handle_here(2, &mut ledger);
    for n in 0..1000 {
        spool.offer(offer(QoS::AtLeastOnce, n), false, at(0), &mut ledger);
        for packet_id in sent(&mut spool, &mut ledger).into_iter().filter(|sent| *sent != id(1)) {
            spool.handle_puback(packet_id, &mut ledger);
        }
        assert_eq!(spool.memory_messages(), 1);
    }
    assert_eq!(spool.handle_puback(id(1), &mut ledger), Acknowledged::Known);
}

#[test]
fn an_acknowledgement_of_what_never_left_is_unknown() {
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
    spool.handle_here(2, &mut ledger);
    spool.offer(offer(QoS::ExactlyOnce, 1), false, at(0), &mut ledger);
    assert_eq!(sent(&mut spool, &mut ledger), []);
    for early in [Spool::handle_pubrec, Spool::handle_refused, Spool::handle_puback, Spool::handle_pubcomp] {
        assert_eq!(early(&mut spool, id(1), &mut ledger), Acknowledged::Unknown);
    }
    spool.handle_durable(ledger.log.last(), &mut ledger);
    assert_eq!(sent(&mut spool, &mut ledger), [id(1)]);
    assert_eq!(spool.handle_puback(id(1), &mut ledger), Acknowledged::Unknown);
    assert_eq!(spool.handle_pubrec(id(1), &mut ledger), Acknowledged::Known);
}

#[test]
fn an_acknowledgement_before_a_message_goes_again_is_early() {
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS), Ledger::default());
    spool.handle_here(2, &mut ledger);
    spool.offer(offer(QoS::ExactlyOnce, 1), false, at(0), &mut ledger);
    assert_eq!(sent(&mut spool, &mut ledger), []);
    spool.handle_durable(ledger.log.last(), &mut ledger);
    assert_eq!(sent(&mut spool, &mut ledger), [id(1)]);
    spool.handle_away(&mut ledger);
    spool.handle_here(2, &mut ledger);
    for early in [Spool::handle_pubrec, Spool::handle_refused, Spool::handle_puback] {
        assert_eq!(early(&mut spool, id(1), &mut ledger), Acknowledged::Early);
    }
    assert_eq!(sent(&mut spool, &mut ledger), [id(1)]);
    assert_eq!(spool.handle_pubrec(id(1), &mut ledger), Acknowledged::Known);
}

#[test]
fn the_end_of_a_spool_releases_who_waits() {
    let bounds = Bounds { memory_messages_max: 2, ..BOUNDS };
    let (mut spool, mut ledger) = (spool(DURABLE, bounds), Ledger::default());
    for n in 0..4 {
        spool.offer(offer(QoS::AtLeastOnce, n), false, at(0), &mut ledger);
    }
    spool.handle_durable(Lsn(1), &mut ledger);
    assert!(spool.dissolve(|_| false, &mut ledger).is_empty());
    assert_eq!(ledger.released, [Hold(0), Hold(1), Hold(2), Hold(3)]);
}

#[test]
fn age_spares_what_was_in_flight_at_the_crash() {
    let bounds = Bounds { age_max: Some(Duration::from_millis(50)), ..BOUNDS };
    let found = RecoveredSpool {
        head: vec![entry(1, QoS::ExactlyOnce), entry(2, QoS::AtLeastOnce)],
        messages: 2,
        bytes: 20,
        rules: Vec::new(),
        last_seq: Seq(2),
        inflight: vec![(id(5), Seq(1), Phase::Published)],
        inbound: Vec::new(),
    };
    let (mut spool, mut ledger) = (spool(DURABLE, bounds).recover(found), Ledger::default());
    assert_eq!(spool.next_deadline(), Some(at(50).instant));
    spool.handle_timeout(at(50), &mut ledger);
    assert_eq!((spool.messages(), spool.losses().aged, spool.next_deadline()), (1, 1, None));
    spool.handle_here(1, &mut ledger);
    assert_eq!(sent(&mut spool, &mut ledger), [id(5)]);
}

#[test]
fn an_identifier_without_its_entry_is_free_once_all_is_loaded() {
    let found = RecoveredSpool {
        head: vec![entry(1, QoS::AtLeastOnce)],
        messages: 2,
        bytes: 20,
        rules: Vec::new(),
        last_seq: Seq(9),
        inflight: vec![(id(5), Seq(7), Phase::Published)],
        inbound: Vec::new(),
    };
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS).recover(found), Ledger::default());
    spool.handle_here(1, &mut ledger);
    assert_eq!((ledger.loads.len(), spool.inflight()), (1, 1));
    spool.handle_loaded(vec![entry(4, QoS::AtLeastOnce)], &mut ledger);
    assert_eq!(spool.inflight(), 0);
    assert_eq!(ledger.log.take(), [Record::InflightDrop { spool: ID, packet_id: id(5) }]);
}

#[test]
fn a_disk_that_has_less_than_it_said_leaves_no_ghosts() {
    let found = RecoveredSpool { messages: 5, bytes: 50, last_seq: Seq(9), ..RecoveredSpool::default() };
    let (mut spool, mut ledger) = (spool(DURABLE, BOUNDS).recover(found), Ledger::default());
    spool.handle_here(1, &mut ledger);
    assert_eq!(ledger.loads.len(), 1);
    spool.handle_loaded(Vec::new(), &mut ledger);
    assert_eq!((spool.messages(), spool.bytes(), ledger.loads.len()), (0, 0, 1));
    spool.offer(offer(QoS::AtLeastOnce, 1), false, at(0), &mut ledger);
    assert_eq!(sent(&mut spool, &mut ledger).len(), 1);
}

#[test]
fn a_hundred_thousand_entries_stay_quick() {
    let bounds = Bounds { messages_max: 100_000, ..BOUNDS };
    let (mut spool, mut ledger) = (spool(Keeping::Volatile, bounds), Ledger::default());
    spool.handle_here(100, &mut ledger);
    for n in 0..200_000 {
        spool.offer(offer(QoS::AtLeastOnce, n), false, at(0), &mut ledger);
        if n == 50 {
            assert_eq!(sent(&mut spool, &mut ledger).len(), 51);
        }
    }
    assert_eq!((spool.messages(), spool.losses().full), (100_000, 100_000));
    let mut window: Vec<_> = (1..=51).map(id).collect();
    while let Some(packet_id) = window.pop() {
        spool.handle_puback(packet_id, &mut ledger);
        window.extend(sent(&mut spool, &mut ledger));
    }
    assert_eq!(spool.messages(), 0);
}
