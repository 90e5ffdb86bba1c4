//! The line of the simulated device: drives the real poller, and answers it late, with exceptions, or not at all.

use tidegate::app::prepare::{Commands, Line};
use tidegate::base::time::{Duration, Instant, Now};
use tidegate::config::model::Table;
use tidegate::device::Poller;
use tidegate::device::effect::{Effects, Next};
use tidegate::device::request::{Exception, LineError, Reply, Request, RequestId, RequestKind, Response};
use tidegate::mqtt::message::Message;

use super::reference::READING_FIRST;

/// The holding register that is written.
pub const SETPOINT: u16 = 100;

/// The unit itself: outlives the gateway.
#[derive(Debug, Default)]
pub struct Unit {
    counter: u32,
    setpoint: u32,
}

/// What a line wants done.
pub enum Wanted {
    /// An answer that comes by then.
    Reply(Instant, RequestId, Reply),
    Wake(Instant),
}

pub struct LineModel {
    poller: Poller,
    commands: Commands,
    out: Effects,
}

impl LineModel {
    pub fn new(line: Line, now: Now) -> Self {
        Self { poller: Poller::new(line.settings, now), commands: line.commands, out: Effects::default() }
    }

    pub fn has_commands(&self) -> bool {
        self.commands.try_lock().is_ok_and(|commands| !commands.is_empty())
    }

    pub fn handle_reply(&mut self, id: RequestId, reply: Reply, now: Now) {
        self.poller.handle_reply(id, reply, now, &mut self.out);
    }

    pub fn handle_shutdown(&mut self, now: Now) {
        self.poller.handle_shutdown(now, &mut self.out);
    }

    pub fn take_publishes(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.out.publishes)
    }

    /// Takes commands, and asks for what is next.
    pub fn pump(
        &mut self,
        unit: &mut Unit,
        rng: &mut fastrand::Rng,
        faulty: bool,
        now: Now,
    ) -> (Vec<Wanted>, Vec<u64>) {
        while let Ok(mut commands) = self.commands.try_lock()
            && let Ok((device, message)) = commands.try_recv()
        {
            drop(commands);
            self.poller.handle_command(device, &message, now, &mut self.out);
        }
        match self.poller.next_request(now, &mut self.out) {
            Next::Wait(at) => (vec![Wanted::Wake(at)], Vec::new()),
            Next::Request(request) => answer(unit, &request, rng, faulty, now.instant),
        }
    }
}

/// The answers, and what was written.
fn answer(
    unit: &mut Unit,
    request: &Request,
    rng: &mut fastrand::Rng,
    faulty: bool,
    now: Instant,
) -> (Vec<Wanted>, Vec<u64>) {
    let soon = now + Duration::from_millis(rng.u64(2..40));
    let timeout = now + request.timeout;
    let dice = if faulty { rng.u32(0..100) } else { 99 };
    let fail = |at, error| (vec![Wanted::Reply(at, request.id, Err(error))], Vec::new());
    match dice {
        0..6 => fail(timeout, LineError::Timeout),
        6..9 => fail(soon, LineError::Garbled),
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

fn apply(unit: &mut Unit, kind: &RequestKind) -> (Response, Vec<u64>) {
    match kind {
        RequestKind::Read { table: Table::Input, count, .. } => {
            unit.counter += 1;
            let value = u32::try_from(READING_FIRST).unwrap() + unit.counter;
            (Response::Words(words(value).into_iter().take(usize::from(*count)).collect()), Vec::new())
        }
        RequestKind::Read { .. } => (Response::Words(words(unit.setpoint).to_vec()), Vec::new()),
        RequestKind::WriteRegisters { address, words } => {
            assert_eq!((*address, words.len()), (SETPOINT, 2), "only the setpoint is written");
            unit.setpoint = u32::from(words[0]) << 16 | u32::from(words[1]);
            (Response::Written, vec![u64::from(unit.setpoint)])
        }
        other => panic!("never asked for: {other:?}"),
    }
}

fn words(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_be_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}
