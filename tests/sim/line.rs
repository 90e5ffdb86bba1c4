//! The line of the simulated device: drives the real poller, and answers it late, with exceptions, or not at all.

use std::collections::{BTreeMap, VecDeque};

use tidegate::app::fleet::Plan;
use tidegate::base::time::{Duration, Instant, Now};
use tidegate::config::model::Table;
use tidegate::device::Poller;
use tidegate::device::command::Order;
use tidegate::device::effect::{Done, Effects, Next};
use tidegate::device::request::{Exception, LineError, Reply, Request, RequestId, RequestKind, Response};
use tidegate::mqtt::message::Message;
use tidegate::mqtt::qos::PacketId;

use super::reference::{READING_FIRST, number_of_message, readings_of};

/// The holding registers that are written, two each.
const WRITTEN: [u16; 2] = [100, 200];

/// The unit itself: outlives the gateway.
#[derive(Debug, Default)]
pub struct Unit {
    counter: u32,
    held: BTreeMap<u16, u32>,
    /// It answers nothing until then.
    pub silent_until: Instant,
}

/// What a line wants done.
pub enum Wanted {
    /// An answer that comes by then.
    Reply(Instant, RequestId, Reply),
    Wake(Instant),
}

pub struct LineModel {
    poller: Poller,
    out: Effects,
    started: bool,
    /// The numbers of the commands that it took.
    begun: BTreeMap<PacketId, u64>,
    /// The request for the counter that is under way.
    asked: Option<RequestId>,
    /// What the poller has read of it and not said yet, in its order.
    unsaid: VecDeque<u64>,
    /// So many it may gather.
    readings: usize,
    /// It was told to stop.
    is_ending: bool,
}

impl LineModel {
    pub fn new(plan: Plan, readings: usize, now: Now) -> Self {
        let Plan::Modbus { settings, .. } = plan else { panic!("a line of Modbus") };
        let poller = Poller::new(settings, now);
        Self {
            poller,
            out: Effects::default(),
            started: false,
            begun: BTreeMap::new(),
            asked: None,
            unsaid: VecDeque::new(),
            readings,
            is_ending: false,
        }
    }

    /// False once.
    pub fn is_started(&mut self) -> bool {
        std::mem::replace(&mut self.started, true)
    }

    pub fn handle_reply(&mut self, id: RequestId, reply: Reply, now: Now) {
        if self.asked == Some(id) {
            self.asked = None;
            if let Ok(Ok(Response::Words(words))) = &reply
                && let [high, low] = words[..]
            {
                self.unsaid.push_back(u64::from(high) << 16 | u64::from(low));
            }
        }
        self.poller.handle_reply(id, reply, now, &mut self.out);
    }

    pub fn handle_shutdown(&mut self, now: Now) {
        self.poller.handle_shutdown(now, &mut self.out);
        self.is_ending = true;
    }

    /// Each reading is said once, in its order, and no more of them wait than a batch holds.
    fn check_said(&mut self) {
        for message in &self.out.publishes {
            for reading in readings_of(message.topic.as_str(), &message.payload) {
                assert_eq!(self.unsaid.pop_front(), Some(reading), "what the device says was not read so");
            }
        }
        assert!(self.unsaid.len() < self.readings, "{:?} wait", self.unsaid);
        assert!(!self.is_ending || self.unsaid.is_empty(), "a stop keeps {:?} to itself", self.unsaid);
    }

    pub fn handle_order(&mut self, order: &Order, now: Now) {
        let id = order.id.expect("no command is of QoS 0");
        self.begun.insert(id, number_of_message(&order.message).expect("a number"));
        self.poller.handle_order(order, now, &mut self.out);
    }

    /// What it says, what has ended, and the numbers of that.
    pub fn take(&mut self) -> (Vec<Message>, Vec<Done>, Vec<u64>) {
        self.check_said();
        let done = std::mem::take(&mut self.out.done);
        let numbers = done.iter().filter_map(|done| self.begun.remove(&done.id)).collect();
        (std::mem::take(&mut self.out.publishes), done, numbers)
    }

    /// Asks for what is next.
    pub fn pump(
        &mut self,
        unit: &mut Unit,
        rng: &mut fastrand::Rng,
        faulty: bool,
        now: Now,
    ) -> (Vec<Wanted>, Vec<(u64, bool)>) {
        match self.poller.next_request(now, &mut self.out) {
            Next::Wait(at) => (vec![Wanted::Wake(at)], Vec::new()),
            Next::Request(request) => {
                if matches!(request.kind, RequestKind::Read { table: Table::Input, .. }) {
                    self.asked = Some(request.id);
                }
                answer(unit, &request, rng, faulty, now.instant)
            }
        }
    }
}

/// The answers, and what was written; true: the unit held something else before.
fn answer(
    unit: &mut Unit,
    request: &Request,
    rng: &mut fastrand::Rng,
    faulty: bool,
    now: Instant,
) -> (Vec<Wanted>, Vec<(u64, bool)>) {
    let soon = now + Duration::from_millis(rng.u64(2..40));
    let timeout = now + request.timeout;
    let dice = match faulty {
        _ if now < unit.silent_until => 0,
        true => rng.u32(0..100),
        false => 99,
    };
    let fail = |at, error| (vec![Wanted::Reply(at, request.id, Err(error))], Vec::new());
    match dice {
        0..6 => fail(timeout, LineError::Timeout),
        6..8 => fail(soon, LineError::Garbled),
        8 => fail(soon, LineError::Mismatch),
        9..14 => {
            let exception = if rng.bool() { Exception(6) } else { Exception(4) };
            (vec![Wanted::Reply(soon, request.id, Ok(Err(exception)))], Vec::new())
        }
        14..20 => {
            // Too late: the poller has given it up, and must not take it for the answer to another.
            let (response, written) = apply(unit, &request.kind);
            let late = timeout + Duration::from_millis(rng.u64(1..500));
            let replies = vec![
                Wanted::Reply(timeout, request.id, Err(LineError::Timeout)),
                Wanted::Reply(late, request.id, Ok(Ok(response))),
            ];
            (replies, written)
        }
        _ => {
            let (response, written) = apply(unit, &request.kind);
            (vec![Wanted::Reply(soon, request.id, Ok(Ok(response)))], written)
        }
    }
}

fn apply(unit: &mut Unit, kind: &RequestKind) -> (Response, Vec<(u64, bool)>) {
    match kind {
        RequestKind::Read { table: Table::Input, count, .. } => {
            unit.counter += 1;
            let value = u32::try_from(READING_FIRST).unwrap() + unit.counter;
            (Response::Words(words(value).into_iter().take(usize::from(*count)).collect()), Vec::new())
        }
        // A block of both is never read: they lie too far apart.
        RequestKind::Read { address, .. } => {
            let held = unit.held.get(address).copied().unwrap_or(0);
            (Response::Words(words(held).to_vec()), Vec::new())
        }
        RequestKind::WriteRegisters { address, words } => {
            assert!(WRITTEN.contains(address) && words.len() == 2, "never to be written: {kind:?}");
            let value = u32::from(words[0]) << 16 | u32::from(words[1]);
            let before = unit.held.insert(*address, value);
            (Response::Written, vec![(u64::from(value), before != Some(value))])
        }
        other => panic!("never asked for: {other:?}"),
    }
}

fn words(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}
