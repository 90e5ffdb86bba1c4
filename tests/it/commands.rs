//! What becomes of commands, in virtual time: on the line, and in the queue that keeps them until they are done.

use std::sync::Arc;

use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::config::model::{Device, Point};
use tidegate::device::command::{COMMAND_WAIT_MAX, Order};
use tidegate::device::effect::{Done, Effects};
use tidegate::device::inbox::{Answer, COMMANDS_WAITING_BYTES_MAX, COMMANDS_WAITING_MAX, Commanded, Inbox};
use tidegate::device::request::RequestKind;
use tidegate::device::status::State;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::spool::{Hold, Ledger};
use tidegate::store::record::{Entry, Lsn, Phase, Record, RecoveredSpool, SpoolId};

use crate::device::{World, device, point, read};

const SET: &str = "devices/m/relay/set";
const RESULT: &str = "devices/m/relay/result";
const DONE: &str = r#"{"value":5,"ok":true}"#;
const WRITE: RequestKind = RequestKind::WriteRegister { address: 3, word: 5 };

fn switch(name: &str, unit: u8) -> Device {
    let relay = Point { writable: true, poll: Duration::from_secs(3600), ..point("relay", 3) };
    device(name, unit, vec![relay])
}

/// A line of one device that has been polled and has nothing to do.
fn line() -> World {
    let mut world = World::new(vec![switch("m", 1)]);
    world.run(500);
    world.requests.clear();
    world
}

#[test]
fn a_write_that_was_not_answered_is_looked_at_before_it_is_repeated() {
    let mut world = line();
    world.unit(1).lost = 1;
    world.set(0, SET, "5");
    world.run(2_000);
    assert_eq!(world.kinds(), [WRITE, read(3, 1), WRITE, read(3, 1)]);
    assert_eq!(world.heard(RESULT).len(), 1);
    // The answer was lost, not the write.
    let mut world = line();
    world.unit(1).registers.insert(3, 5);
    world.unit(1).lost = 1;
    world.set(0, SET, "5");
    world.run(2_000);
    assert_eq!(world.kinds(), [WRITE, read(3, 1)]);
    assert_eq!(world.heard(RESULT)[0].1, DONE);
}

#[test]
fn a_repeated_order_is_carried_out_only_where_the_device_does_not_show_it() {
    for (held, expected) in [(5, vec![read(3, 1)]), (4, vec![read(3, 1), WRITE, read(3, 1)])] {
        let mut world = line();
        world.unit(1).registers.insert(3, held);
        world.order(0, world.message(SET, "5"), true);
        world.run(1_000);
        assert_eq!(world.kinds(), expected, "it holds {held}");
        assert_eq!(world.heard(RESULT)[0].1, DONE);
    }
}

#[test]
fn a_command_waits_for_its_device_and_holds_up_nobody() {
    let mut silent = switch("silent", 1);
    silent.points[0].poll = Duration::from_secs(1);
    let mut world = World::new(vec![silent, switch("m", 2)]);
    world.unit(1).silent = true;
    world.run(20_000);
    assert_eq!(world.poller.status()[0].state, State::Offline);
    world.requests.clear();
    world.set(0, "devices/silent/relay/set", "5");
    world.set(1, SET, "5");
    world.run(1_000);
    assert_eq!(world.heard(RESULT).len(), 1, "its neighbour is served");
    world.run(300_000);
    assert_eq!(world.heard("devices/silent/relay/result"), [], "it waits");
    let tries = world.requests.iter().filter(|(_, request)| request.unit == 1).count();
    assert!(tries < 30, "{tries} tries in 300 s take the line from others");
    world.unit(1).silent = false;
    world.run(61_000);
    assert_eq!(world.heard("devices/silent/relay/result")[0].1, DONE);
    assert_eq!(world.unit(1).registers.get(&3), Some(&5));
}

#[test]
fn a_failing_device_shares_the_line_between_its_tries() {
    let mut world = World::new(vec![switch("failing", 1), switch("m", 2)]);
    world.run(500);
    world.requests.clear();
    world.unit(1).silent = true;
    world.set(0, "devices/failing/relay/set", "5");
    world.set(1, SET, "5");
    world.run(1_000);
    let units: Vec<u8> = world.requests.iter().take(3).map(|(_, request)| request.unit).collect();
    assert_eq!(units, [1, 2, 2], "one time-out, and the neighbour has its turn");
}

#[test]
fn a_command_that_waits_in_vain_is_answered() {
    let wait_millis = u64::try_from(COMMAND_WAIT_MAX.as_millis()).expect("an hour");
    let error = "relay: the command has expired, and may have been written";
    let cases = [
        (None, wait_millis),
        (Some(Duration::from_secs(60)), 60_000),
        (Some(COMMAND_WAIT_MAX * 2), 2 * wait_millis),
    ];
    for (expiry_interval, waited) in cases {
        let mut world = line();
        world.unit(1).silent = true;
        let began = world.millis();
        let message = Message { expiry_interval, ..world.message(SET, "5") };
        world.command(0, message);
        world.run(3 * wait_millis);
        let [(at, answer)] = &world.heard(RESULT)[..] else { panic!("{:?}", world.heard(RESULT)) };
        assert_eq!(*answer, format!(r#"{{"ok":false,"error":"{error}"}}"#));
        assert!((waited..waited + 400).contains(&(at - began)), "after {} ms", at - began);
    }
}

#[test]
fn a_device_that_takes_no_write_is_not_asked_for_ever() {
    let mut world = line();
    world.unit(1).mute_writes = true;
    world.set(0, SET, "5");
    world.run(60_000);
    assert_eq!(world.heard(RESULT)[0].1, r#"{"ok":false,"error":"relay: not written: no answer in time"}"#);
    let writes = world.kinds().iter().filter(|kind| **kind == WRITE).count();
    assert_eq!(writes, 3, "as often as `retries` says");
}

#[test]
fn a_busy_device_is_asked_again() {
    let mut world = line();
    world.unit(1).busy = 2;
    world.set(0, SET, "5");
    world.run(1_000);
    assert_eq!(world.heard(RESULT)[0].1, DONE);
}

/// The queue of one device, with all that it records durable at once or never.
struct Desk {
    inbox: Inbox,
    ledger: Ledger,
    now: Now,
    records: Vec<Record>,
}

impl Desk {
    fn new(recovered: Option<RecoveredSpool>) -> Self {
        let now = Now { instant: Instant::ORIGIN, wall: Timestamp::from_millis(0) };
        let inbox = Inbox::new("g", 7, Arc::new(switch("m", 1)), SpoolId(4), recovered);
        let mut desk = Self { inbox, ledger: Ledger::default(), now, records: Vec::new() };
        desk.inbox.handle_line_started(&mut desk.ledger);
        desk
    }

    fn message(&self, qos: QoS, topic: &str, payload: &str) -> Message {
        let topic = TopicName::new(topic).expect("a valid topic");
        Message::new(topic, payload.to_owned(), qos, Origin::Client("c".into()), self.now)
    }

    fn command(&mut self, message: Message, hold: u64) -> Option<Answer> {
        let urgent = message.qos == QoS::ExactlyOnce;
        let commanded = Commanded { message: Arc::new(message), hold: Some(Hold(hold)), urgent };
        self.inbox.handle_command(&commanded, self.now, &mut self.ledger)
    }

    fn set(&mut self, qos: QoS, payload: &str, hold: u64) -> Option<Answer> {
        self.command(self.message(qos, SET, payload), hold)
    }

    fn next(&mut self) -> Option<Order> {
        self.inbox.next_order(self.now, &mut self.ledger)
    }

    fn done(&mut self, order: &Order) -> Option<Answer> {
        let answer = Message { payload: DONE.into(), ..Message::clone(&order.message) };
        let done = Done { device: 7, id: order.id.expect("it is kept"), answer: Some(answer) };
        self.inbox.handle_done(done, &mut self.ledger)
    }

    /// Everything that was recorded is on disk.
    fn commit(&mut self) {
        let lsn = self.ledger.log.last();
        self.records.extend(self.ledger.log.take());
        self.inbox.handle_durable(lsn, &mut self.ledger);
    }

    fn entries(&self) -> Vec<Entry> {
        let entries = self.records.iter().filter_map(|record| match record {
            Record::EntryPut { entry, .. } => Some(entry.clone()),
            _ => None,
        });
        entries.collect()
    }
}

fn text(answer: &Answer) -> String {
    let message = answer.message.as_ref().expect("somewhere to answer to");
    format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload))
}

#[test]
fn what_cannot_be_done_is_answered_at_once_and_the_publisher_waits_for_the_answer() {
    let relay = r#"devices/m/relay/result {"ok":false,"error":"relay: "#;
    let mut desk = Desk::new(None);
    let cases = [
        (SET, "x", false, format!(r#"{relay}takes a number"}}"#)),
        (SET, "1", true, format!(r#"{relay}a retained command is refused"}}"#)),
        (
            "devices/m/other/set",
            "1",
            false,
            r#"devices/m/other/result {"ok":false,"error":"devices/m/other/set: no such point"}"#.to_owned(),
        ),
    ];
    for (hold, (topic, payload, retain, expected)) in (1..).zip(cases) {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let message = Message { retain, ..desk.message(qos, topic, payload) };
            let answer = desk.command(message, hold).expect("an answer");
            assert_eq!((text(&answer), answer.hold), (expected.clone(), Some(Hold(hold))));
            assert_eq!(answer.urgent, qos == QoS::ExactlyOnce);
        }
    }
    let old = Message { expiry_interval: Some(Duration::ZERO), ..desk.message(QoS::AtLeastOnce, SET, "1") };
    assert_eq!(
        text(&desk.command(old, 9).expect("an answer")),
        format!(r#"{relay}the command has expired"}}"#)
    );
    desk.commit();
    assert!(desk.records.is_empty() && desk.next().is_none() && desk.ledger.released.is_empty());
}

#[test]
fn the_queue_is_bounded_in_number_and_bytes() {
    let mut desk = Desk::new(None);
    for hold in 1..=COMMANDS_WAITING_MAX {
        assert!(desk.set(QoS::AtLeastOnce, "5", hold).is_none(), "{hold} wait");
    }
    let answer = desk.set(QoS::AtLeastOnce, "5", 5_000).expect("an answer");
    assert!(text(&answer).contains("relay: too many commands wait"));
    assert_eq!((answer.hold, desk.inbox.refused()), (Some(Hold(5_000)), 1));
    let mut desk = Desk::new(None);
    let spaces = " ".repeat(usize::try_from(COMMANDS_WAITING_BYTES_MAX).expect("small") / 4);
    let wait = (1..9).filter(|hold| desk.set(QoS::AtLeastOnce, &format!("5{spaces}"), *hold).is_none());
    assert_eq!(wait.count(), 3);
}

#[test]
fn a_qos_1_command_that_is_done_soon_is_never_written() {
    let mut desk = Desk::new(None);
    desk.set(QoS::AtLeastOnce, "5", 1);
    let order = desk.next().expect("an order");
    assert!(!order.repeated && desk.next().is_none());
    let answer = desk.done(&order).expect("its answer");
    assert_eq!((answer.hold, answer.urgent), (Some(Hold(1)), false), "PUBACK waits for the answer");
    assert!(desk.done(&order).is_none(), "once");
    desk.commit();
    assert!(desk.entries().is_empty() && desk.inbox.next_deadline().is_none());
}

#[test]
fn a_qos_1_command_that_waits_is_written_and_then_acknowledged() {
    let mut desk = Desk::new(None);
    desk.set(QoS::AtLeastOnce, "5", 1);
    let order = desk.next().expect("an order");
    let (at, _) = desk.inbox.next_deadline().expect("it is not safe yet");
    desk.now.instant = at;
    desk.inbox.handle_timeout(desk.now, &mut desk.ledger);
    assert!(desk.ledger.released.is_empty());
    desk.commit();
    assert_eq!((desk.entries().len(), &desk.ledger.released[..]), (1, &[Hold(1)][..]));
    let answer = desk.done(&order).expect("its answer");
    assert_eq!((answer.hold, answer.urgent), (None, true), "it goes to the disk as the command leaves it");
}

#[test]
fn a_qos_2_command_is_on_disk_before_it_is_begun_and_begun_alone() {
    let mut desk = Desk::new(None);
    desk.set(QoS::ExactlyOnce, "5", 1);
    desk.set(QoS::ExactlyOnce, "6", 2);
    assert!(desk.next().is_none() && desk.ledger.released.is_empty());
    desk.commit();
    assert_eq!(desk.ledger.released, [Hold(1), Hold(2)]);
    let order = desk.next().expect("the first");
    assert_eq!(&order.message.payload[..], b"5");
    assert!(desk.next().is_none());
    assert!(desk.done(&order).expect("its answer").urgent);
    assert!(desk.next().is_none(), "the end of the first is not on disk");
    desk.commit();
    assert_eq!(&desk.next().expect("the second").message.payload[..], b"6");
}

#[test]
fn what_was_begun_before_a_start_is_repeated_and_the_overdue_are_handed_out_too() {
    let mut desk = Desk::new(None);
    desk.set(QoS::ExactlyOnce, "5", 1);
    let brief =
        Message { expiry_interval: Some(Duration::from_secs(1)), ..desk.message(QoS::ExactlyOnce, SET, "6") };
    desk.command(brief, 2);
    desk.next();
    desk.commit();
    let inflight = desk.records.iter().filter_map(|record| match record {
        Record::InflightPut { packet_id, seq, phase, .. } => Some((*packet_id, *seq, *phase)),
        _ => None,
    });
    let found = RecoveredSpool {
        messages: 2,
        bytes: 100,
        rules: Vec::new(),
        inflight: inflight.collect(),
        last_seq: desk.entries()[1].seq,
        head: desk.entries(),
        inbound: Vec::new(),
    };
    assert_eq!(found.inflight.iter().map(|(_, _, phase)| *phase).collect::<Vec<_>>(), [Phase::Published]);
    let name = desk.records.iter().find_map(|record| match record {
        Record::BufferPut { bridge, .. } => Inbox::device_of_spool(bridge),
        _ => None,
    });
    assert_eq!(name, Some("m"));

    let mut desk = Desk::new(Some(found));
    desk.now.instant = Instant::ORIGIN + Duration::from_secs(10);
    let order = desk.next().expect("the first");
    assert!(order.repeated);
    // A line that begins again is given the same.
    desk.inbox.handle_line_started(&mut desk.ledger);
    assert_eq!(desk.next().as_ref(), Some(&order));
    desk.done(&order);
    assert_eq!(desk.next(), None);
    desk.commit();
    let order = desk.next().expect("the second, to be answered");
    assert!(!order.repeated);
    let mut world = World::new(vec![switch("m", 1)]);
    world.advance_to(desk.now.instant);
    let mut out = Effects::default();
    world.poller.handle_order(&Order { device: 0, ..order }, world.now, &mut out);
    world.collect(out);
    assert_eq!(world.heard(RESULT)[0].1, r#"{"ok":false,"error":"relay: the command has expired"}"#);
    assert!(!desk.inbox.handle_durable(Lsn(u64::MAX), &mut desk.ledger), "nothing waits");
}

#[test]
fn an_end_writes_what_is_kept_and_refuses_what_passes() {
    let mut desk = Desk::new(None);
    desk.set(QoS::AtLeastOnce, "5", 1);
    desk.set(QoS::AtMostOnce, "6", 0);
    let answers = desk.inbox.handle_shutdown(desk.now, &mut desk.ledger);
    assert_eq!(
        answers.iter().map(text).collect::<Vec<_>>(),
        [r#"devices/m/relay/result {"ok":false,"error":"relay: the gateway stops"}"#]
    );
    desk.commit();
    assert_eq!(desk.entries().len(), 1);
}
