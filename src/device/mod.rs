//! The device brain: what to read when, what the registers mean, what to publish. No I/O, no clock, no task.
//!
//! A [`Poller`] serves one line: the units on a serial port, or behind one TCP address. One request is in
//! flight at a time; commands go before the next poll, and a silent unit backs off alone. An [`Inbox`](inbox::Inbox)
//! keeps what one device was told to do.

pub mod change;
mod channel;
pub mod command;
pub mod compute;
mod derive;
pub mod effect;
mod execute;
mod experience;
pub mod find;
#[cfg(test)]
mod fixture;
pub mod format;
pub mod homeassistant;
pub mod identity;
pub mod inbox;
pub mod learned;
pub mod map;
pub mod metrics;
mod orders;
mod outlet;
mod pending;
pub mod plan;
pub mod polled;
pub mod reading;
pub mod receiver;
pub mod request;
pub mod serial;
pub mod share;
pub mod status;
pub mod sunspec;
pub mod topics;
pub mod value;
mod voice;
pub(crate) mod ways;
mod window;
mod write;

use std::cmp::Reverse;
use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::config::model::{Device, Table};
use crate::device::effect::{Effects, Next};
use crate::device::learned::Learned;
use crate::device::orders::Orders;
use crate::device::plan::Price;
use crate::device::polled::Polled;
use crate::device::request::{
    Exception, Failure, LineError, Reply, Request, RequestId, RequestKind, Response,
};
use crate::device::share::Heard;
use crate::device::share::turns::Own;
use crate::device::share::units::{Known, Units};
use crate::device::status::DeviceStatus;
use crate::device::write::Write;

/// Commands in a row before a poll that is due gets its turn.
const COMMANDS_IN_A_ROW_MAX: u32 = 8;
/// All units of a line that are known to be dead together take at most one part in so many of its time.
const DEAD_SHARE: u32 = 20;

/// The devices of one line, each with its index in the configuration.
#[derive(Debug, Clone)]
pub struct LineSettings {
    pub gateway: Arc<str>,
    pub devices: Vec<(u16, Arc<Device>)>,
}

/// The brain of one line.
#[derive(Debug)]
pub struct Poller {
    devices: Vec<Polled>,
    orders: Orders,
    in_flight: Option<InFlight>,
    next_id: u64,
    commands_in_a_row: u32,
    /// No unit that is offline is asked before, so that the others keep their rhythm.
    dead_until: Instant,
    /// Units are asked what they are.
    inquires: bool,
}

#[derive(Debug)]
struct InFlight {
    id: RequestId,
    /// Position in `devices`.
    device: usize,
    job: Job,
    kind: RequestKind,
    sent: Instant,
    /// The device was offline then.
    was_offline: bool,
}

#[derive(Debug)]
enum Job {
    Poll,
    Command(Box<Write>),
    /// What the unit says of itself.
    Inquiry,
}

impl Poller {
    /// All points are due at once. A point whose template makes no topic is read but not published: the
    /// check of the configuration refuses such a template.
    pub fn new(settings: LineSettings, now: Now) -> Self {
        let LineSettings { gateway, devices } = settings;
        let devices = devices.into_iter().map(|(index, device)| Polled::new(&gateway, index, device, now));
        Self {
            orders: Orders::new(devices.len()),
            devices: devices.collect(),
            in_flight: None,
            next_id: 0,
            commands_in_a_row: 0,
            dead_until: Instant::ORIGIN,
            inquires: false,
        }
    }

    /// Plans by what a request costs on this line.
    pub fn set_price(&mut self, price: Price) {
        for device in &mut self.devices {
            device.experience.set_price(price);
        }
    }

    /// Asks each unit once what it is, when it has come online and the line has nothing else to do.
    pub fn inquire(&mut self) {
        self.inquires = true;
    }

    /// Names and units of the devices.
    pub fn units(&self) -> Vec<(Arc<str>, u8)> {
        let settings = self.devices.iter().map(|polled| &polled.settings);
        settings.map(|device| (Arc::clone(&device.name), device.link.unit())).collect()
    }

    /// What an earlier run learned of a device's unit.
    pub fn recall(&mut self, device: &str, learned: Learned) {
        if let Some(polled) = self.devices.iter_mut().find(|polled| *polled.settings.name == *device) {
            polled.experience.recall(learned);
        }
    }

    /// In the order of the settings.
    pub fn status(&self) -> Vec<DeviceStatus> {
        self.devices.iter().map(Polled::status).collect()
    }

    /// The next request, or until when there is none. While one is in flight there is no other.
    pub fn next_request(&mut self, now: Now, out: &mut Effects) -> Next {
        if self.in_flight.is_some() {
            return Next::Wait(Instant::FAR_FUTURE);
        }
        for device in &mut self.devices {
            device.handle_time(now, out);
        }
        let polls_first = self.commands_in_a_row >= COMMANDS_IN_A_ROW_MAX;
        let request = if polls_first {
            self.next_poll(now).or_else(|| self.next_command(now, out))
        } else {
            self.next_command(now, out).or_else(|| self.next_poll(now))
        };
        let request = request.or_else(|| self.next_inquiry(now));
        request.map_or_else(|| Next::Wait(self.next_deadline()), Next::Request)
    }

    /// What came of the request in flight. The answer to an earlier one is not looked at.
    pub fn handle_reply(&mut self, id: RequestId, reply: Reply, now: Now, out: &mut Effects) {
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.id == id) else { return };
        let reply = match reply {
            Ok(Ok(response)) if !fits(&in_flight.kind, &response) => Err(LineError::WrongCount),
            Ok(Err(exception)) if exception.is_unit_silent() => {
                self.handle_failure(in_flight, Failure::Exception(exception), now, out);
                return;
            }
            other => other,
        };
        match reply {
            Ok(answer) => self.handle_answer(in_flight, answer, now, out),
            Err(error) => self.handle_failure(in_flight, Failure::Line(error), now, out),
        }
    }

    /// The line stops: devices that answered are published as `offline`, because nobody watches them any more.
    /// Their readings stay as they are. A command that nobody keeps is refused; the others stay where they are kept.
    pub fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        self.stop_commands(now, out);
        for device in &mut self.devices {
            device.handle_shutdown(now, out);
        }
    }

    /// What the line has to do for itself.
    pub fn own(&self, now: Now) -> Own {
        let has_command = self.command_deadlines().any(|at| at <= now.instant);
        let polls = self.devices.iter().map(|device| device.ready_at().max(self.spared_until(device)));
        let due = polls.chain(self.command_deadlines()).min();
        Own { has_command, due: due.unwrap_or(Instant::FAR_FUTURE) }
    }

    /// What other masters of the line have to know of its units.
    pub fn known(&self) -> Known {
        let mut offline = Units::default();
        for device in self.devices.iter().filter(|device| device.is_offline()) {
            offline.insert(device.settings.link.unit());
        }
        Known { offline, spared_until: self.dead_until }
    }

    /// A unit was asked for another master, which took so long.
    pub fn handle_shared(&mut self, heard: Heard, took: Duration, now: Now) {
        if heard.was_dead && !heard.has_answered {
            self.dead_until = now.instant + took * (DEAD_SHARE - 1);
        }
        if heard.has_answered {
            let units = self.devices.iter_mut().filter(|device| device.settings.link.unit() == heard.unit);
            units.for_each(|device| device.wake(now.instant));
        }
    }

    /// The device whose poll is latest for its period; among equals, whose turn was first. One whose unit has nothing of
    /// what is due is passed over until its next turn, so that each is looked at once.
    fn next_poll(&mut self, now: Now) -> Option<Request> {
        for _ in 0..self.devices.len() {
            let devices = self.devices.iter().enumerate();
            let ready =
                devices.filter(|(_, device)| device.ready_at().max(self.spared_until(device)) <= now.instant);
            let order = |at, device: &Polled| (Reverse(device.lateness(now.instant)), device.due(), at);
            let (at, _) = ready.min_by_key(|(at, device)| order(*at, device))?;
            if let Some(block) = self.devices.get_mut(at)?.next_block(now) {
                self.commands_in_a_row = 0;
                return self.send(at, Job::Poll, block.request_kind(), now);
            }
        }
        None
    }

    /// A line that has time for it, and a unit that was heard since it came online.
    fn next_inquiry(&mut self, now: Now) -> Option<Request> {
        if !self.inquires {
            return None;
        }
        let mut devices = self.devices.iter().enumerate();
        let (at, object) = devices.find_map(|(at, device)| {
            let may_ask = !device.is_offline() && device.quiet_until() <= now.instant;
            device.inquiry.next_object().filter(|_| may_ask).map(|object| (at, object))
        })?;
        self.send(at, Job::Inquiry, RequestKind::Identify { object }, now)
    }

    /// Before this a device is not asked for the sake of the others.
    fn spared_until(&self, device: &Polled) -> Instant {
        if device.is_offline() { self.dead_until } else { Instant::ORIGIN }
    }

    fn send(&mut self, device: usize, job: Job, kind: RequestKind, now: Now) -> Option<Request> {
        let polled = self.devices.get(device)?;
        let (unit, timeout) = (polled.settings.link.unit(), polled.settings.timeout);
        let was_offline = polled.is_offline();
        let id = RequestId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let sent = now.instant;
        self.in_flight = Some(InFlight { id, device, job, kind: kind.clone(), sent, was_offline });
        Some(Request { id, unit, kind, timeout })
    }

    fn next_deadline(&self) -> Instant {
        let polls = self.devices.iter().map(|device| {
            let ready_at = device.ready_at().max(self.spared_until(device));
            ready_at.min(device.voice.next_deadline())
        });
        polls.chain(self.command_deadlines()).min().unwrap_or(Instant::FAR_FUTURE)
    }

    fn handle_answer(
        &mut self,
        in_flight: InFlight,
        answer: Result<Response, Exception>,
        now: Now,
        out: &mut Effects,
    ) {
        let at = in_flight.device;
        let Some(device) = self.devices.get_mut(at) else { return };
        device.handle_answer(now, out);
        self.orders.wake(at, now);
        match (in_flight.job, answer) {
            (Job::Poll, Ok(response)) => device.handle_block(&response, now, out),
            (Job::Poll, Err(exception)) => device.handle_exception(exception, now, out),
            (Job::Command(write), answer) => self.handle_write_answer(write, answer, now, out),
            (Job::Inquiry, Ok(Response::Identification(answer))) => {
                out.changed |= device.inquiry.handle_answer(&answer);
            }
            (Job::Inquiry, _) => out.changed |= device.inquiry.handle_refused(),
        }
    }

    fn handle_failure(&mut self, in_flight: InFlight, failure: Failure, now: Now, out: &mut Effects) {
        if in_flight.was_offline && self.devices.iter().any(|device| !device.is_offline()) {
            let cost = now.instant.since(in_flight.sent);
            self.dead_until = now.instant + cost * (DEAD_SHARE - 1);
        }
        match in_flight.job {
            Job::Poll => {
                if let Some(device) = self.devices.get_mut(in_flight.device) {
                    device.handle_no_answer(failure, now, out);
                }
            }
            Job::Command(write) => self.handle_write_silence(write, failure, now, out),
            // Nothing that was polled is missing: it is no fault.
            Job::Inquiry => {
                let Some(device) = self.devices.get_mut(in_flight.device) else { return };
                device.handle_line_failure(&failure, now);
                device.inquiry.handle_failure(&failure);
            }
        }
    }
}

/// Whether an answer can be one to this request at all. The hand has looked already; a wrong length would
/// put values at wrong addresses.
fn fits(kind: &RequestKind, response: &Response) -> bool {
    match (kind, response) {
        (RequestKind::Read { table: Table::Coil | Table::Discrete, count, .. }, Response::Bits(bits)) => {
            bits.len() == usize::from(*count)
        }
        (RequestKind::Read { table: Table::Holding | Table::Input, count, .. }, Response::Words(words)) => {
            words.len() == usize::from(*count)
        }
        (
            RequestKind::WriteCoil { .. }
            | RequestKind::WriteCoils { .. }
            | RequestKind::WriteRegister { .. }
            | RequestKind::WriteRegisters { .. }
            | RequestKind::MaskRegister { .. },
            response,
        ) => *response == Response::Written,
        (RequestKind::ReadWrite { count, .. }, Response::Words(words)) => words.len() == usize::from(*count),
        (RequestKind::Identify { .. }, Response::Identification(_))
        | (RequestKind::Raw { .. }, Response::Raw(_)) => true,
        (
            RequestKind::Read { .. }
            | RequestKind::ReadWrite { .. }
            | RequestKind::Identify { .. }
            | RequestKind::Raw { .. },
            _,
        ) => false,
    }
}
