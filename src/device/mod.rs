//! The device brain: what to read when, what the registers mean, what to publish. No I/O, no clock, no task.
//!
//! A [`Poller`] serves one line: the units on a serial port, or behind one TCP address. One request is in
//! flight at a time; commands go before the next poll, and a silent unit backs off alone.

pub mod command;
pub mod effect;
#[cfg(test)]
mod fixture;
pub mod format;
pub mod map;
pub mod plan;
mod polled;
pub mod reading;
pub mod request;
pub mod status;
pub mod value;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::time::{Instant, Now};
use crate::config::model::{Device, Table};
use crate::device::command::CommandError;
use crate::device::effect::{Effects, Next};
use crate::device::polled::Polled;
use crate::device::request::{
    Exception, Failure, LineError, Reply, Request, RequestId, RequestKind, Response,
};
use crate::device::status::DeviceStatus;
use crate::device::value::Value;
use crate::device::write::{Step, Write};
use crate::mqtt::message::Message;
use crate::mqtt::topic::TopicFilter;

/// Commands that wait for one line: beyond, the oldest is refused.
const COMMANDS_WAITING_MAX: usize = 64;
/// Commands in a row before a poll that is due gets its turn.
const COMMANDS_IN_A_ROW_MAX: u32 = 8;

/// The devices of one line, each with its index in the configuration.
#[derive(Debug, Clone)]
pub struct LineSettings {
    pub gateway: Arc<str>,
    pub devices: Vec<(u16, Device)>,
}

/// The brain of one line.
#[derive(Debug)]
pub struct Poller {
    devices: Vec<Polled>,
    waiting: VecDeque<Write>,
    /// The command that is being done.
    writing: Option<Write>,
    in_flight: Option<InFlight>,
    next_id: u64,
    commands_in_a_row: u32,
}

#[derive(Debug)]
struct InFlight {
    id: RequestId,
    /// Position in `devices`.
    device: usize,
    job: Job,
    kind: RequestKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Poll,
    Command,
}

impl Poller {
    /// All points are due at once. A point whose template makes no topic is read but not published: the
    /// check of the configuration refuses such a template.
    pub fn new(settings: LineSettings, now: Now) -> Self {
        let LineSettings { gateway, devices } = settings;
        let devices = devices.into_iter().map(|(index, device)| Polled::new(&gateway, index, device, now));
        Self {
            devices: devices.collect(),
            waiting: VecDeque::new(),
            writing: None,
            in_flight: None,
            next_id: 0,
            commands_in_a_row: 0,
        }
    }

    /// Where commands for this line's devices come in, each with the device's index.
    pub fn command_filters(&self) -> Vec<(u16, TopicFilter)> {
        let topics =
            self.devices.iter().flat_map(|device| device.command_topics().map(|topic| (device.index, topic)));
        topics.filter_map(|(index, topic)| Some((index, TopicFilter::new(topic.as_str()).ok()?))).collect()
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
        let polls_first = self.commands_in_a_row >= COMMANDS_IN_A_ROW_MAX;
        let request = if polls_first {
            self.next_poll(now).or_else(|| self.next_write(now, out))
        } else {
            self.next_write(now, out).or_else(|| self.next_poll(now))
        };
        request.map_or_else(|| Next::Wait(self.next_deadline()), Next::Request)
    }

    /// What came of the request in flight. The answer to an earlier one is not looked at.
    pub fn handle_reply(&mut self, id: RequestId, reply: Reply, now: Now, out: &mut Effects) {
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.id == id) else { return };
        let reply = match reply {
            Ok(Ok(response)) if !fits(&in_flight.kind, &response) => Err(LineError::WrongCount),
            Ok(Err(exception)) if exception.is_unit_silent() => {
                self.handle_failure(&in_flight, Failure::Exception(exception), now, out);
                return;
            }
            other => other,
        };
        match reply {
            Ok(answer) => self.handle_answer(&in_flight, answer, now, out),
            Err(error) => self.handle_failure(&in_flight, Failure::Line(error), now, out),
        }
    }

    /// A message on one of [`Self::command_filters`]: it is queued, or refused with an answer at once.
    pub fn handle_command(&mut self, device: u16, message: &Arc<Message>, now: Now, out: &mut Effects) {
        let Some(at) = self.devices.iter().position(|polled| polled.index == device) else { return };
        let Some(polled) = self.devices.get(at) else { return };
        let Some(point_index) = polled.point_of_command(&message.topic) else {
            let topic = write::result_topic_of(&message.topic);
            let name = message.topic.as_str();
            out.publishes.extend(command::answer(
                message,
                topic,
                Err((name, &CommandError::UnknownPoint)),
                now,
            ));
            return;
        };
        match write::queued(polled, at, point_index, message, now) {
            Ok(write) => self.enqueue(write, now, out),
            Err(error) => {
                out.publishes.extend(write::refusal(polled, point_index, message, &error, now));
            }
        }
    }

    /// The line stops: what waits is refused, and devices that answered are published as `offline`, because
    /// nobody watches them any more. Their readings stay as they are.
    pub fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        self.in_flight = None;
        let open: Vec<Write> = self.writing.take().into_iter().chain(self.waiting.drain(..)).collect();
        for write in open {
            self.answer(&write, Err(&CommandError::Stopping), now, out);
        }
        for device in &mut self.devices {
            device.handle_shutdown(now, out);
        }
    }

    fn enqueue(&mut self, write: Write, now: Now, out: &mut Effects) {
        if self.waiting.len() >= COMMANDS_WAITING_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.answer(&oldest, Err(&CommandError::Displaced), now, out);
        }
        self.waiting.push_back(write);
    }

    fn next_write(&mut self, now: Now, out: &mut Effects) -> Option<Request> {
        while self.writing.is_none() {
            let at = self.waiting.iter().position(|write| self.may_ask(write.device, now))?;
            let write = self.waiting.remove(at)?;
            // It may have waited for long: its time may have run out.
            match command::check(&write.message, now) {
                Ok(()) => self.writing = Some(write),
                Err(error) => self.answer(&write, Err(&error), now, out),
            }
        }
        let write = self.writing.as_ref().filter(|write| self.may_ask(write.device, now))?;
        let (device, kind) = (write.device, write.request_kind());
        self.commands_in_a_row = self.commands_in_a_row.saturating_add(1);
        self.send(device, Job::Command, kind)
    }

    fn may_ask(&self, device: usize, now: Now) -> bool {
        self.devices.get(device).is_some_and(|device| device.quiet_until() <= now.instant)
    }

    /// The device whose turn was first; among equals, in the order of the configuration.
    fn next_poll(&mut self, now: Now) -> Option<Request> {
        let ready = self.devices.iter().enumerate().filter(|(_, device)| device.ready_at() <= now.instant);
        let (at, _) = ready.min_by_key(|(at, device)| (device.due(), *at))?;
        let block = self.devices.get_mut(at)?.next_block(now)?;
        self.commands_in_a_row = 0;
        let kind = RequestKind::Read { table: block.table, address: block.address, count: block.count };
        self.send(at, Job::Poll, kind)
    }

    fn send(&mut self, device: usize, job: Job, kind: RequestKind) -> Option<Request> {
        let settings = &self.devices.get(device)?.settings;
        let (unit, timeout) = (settings.link.unit(), settings.timeout);
        let id = RequestId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.in_flight = Some(InFlight { id, device, job, kind: kind.clone() });
        Some(Request { id, unit, kind, timeout })
    }

    fn next_deadline(&self) -> Instant {
        let polls = self.devices.iter().map(Polled::ready_at);
        let writes = self.writing.iter().chain(&self.waiting);
        let writes = writes.filter_map(|write| self.devices.get(write.device).map(Polled::quiet_until));
        polls.chain(writes).min().unwrap_or(Instant::FAR_FUTURE)
    }

    fn handle_answer(
        &mut self,
        in_flight: &InFlight,
        answer: Result<Response, Exception>,
        now: Now,
        out: &mut Effects,
    ) {
        let Some(device) = self.devices.get_mut(in_flight.device) else { return };
        device.handle_answer(now, out);
        match (in_flight.job, answer) {
            (Job::Poll, Ok(response)) => device.handle_block(&response, now, out),
            (Job::Poll, Err(exception)) => device.handle_exception(exception, now, out),
            (Job::Command, answer) => self.handle_write_answer(answer, now, out),
        }
    }

    fn handle_failure(&mut self, in_flight: &InFlight, failure: Failure, now: Now, out: &mut Effects) {
        let Some(device) = self.devices.get_mut(in_flight.device) else { return };
        match in_flight.job {
            Job::Poll => device.handle_no_answer(failure, now, out),
            Job::Command => {
                device.handle_line_failure(&failure, now);
                let retries = device.settings.retries;
                let Some(mut write) = self.writing.take() else { return };
                let is_final = matches!(&failure, Failure::Line(error) if error.is_permanent());
                if write.attempts < retries && !is_final {
                    write.attempts += 1;
                    self.writing = Some(write);
                } else {
                    self.answer(&write, Err(&write.failed(failure)), now, out);
                }
            }
        }
    }

    fn handle_write_answer(&mut self, answer: Result<Response, Exception>, now: Now, out: &mut Effects) {
        let Some(mut write) = self.writing.take() else { return };
        match (write.step, answer) {
            (_, Err(exception)) => {
                let error = write.failed(Failure::Exception(exception));
                self.answer(&write, Err(&error), now, out);
            }
            (Step::Write, Ok(_)) => {
                write.step = Step::ReadBack;
                write.attempts = 0;
                self.writing = Some(write);
            }
            (Step::ReadBack, Ok(response)) => {
                let value = self.apply_read_back(&write, &response, now, out);
                let outcome = if write.is_shown_by(&response) { value } else { Err(value.ok()) };
                match outcome {
                    Ok(value) => self.answer(&write, Ok(&value), now, out),
                    Err(value) => self.answer(&write, Err(&CommandError::ReadBack(value)), now, out),
                }
            }
        }
    }

    /// What was read back is a reading like any other.
    fn apply_read_back(
        &mut self,
        write: &Write,
        response: &Response,
        now: Now,
        out: &mut Effects,
    ) -> Result<Value, Option<Value>> {
        let device = self.devices.get_mut(write.device).ok_or(None)?;
        device.apply_block(&write.block, response, now, out);
        device.value_of(write.point).ok_or(None)
    }

    fn answer(&self, write: &Write, outcome: Result<&Value, &CommandError>, now: Now, out: &mut Effects) {
        let Some(device) = self.devices.get(write.device) else { return };
        let name = device.point(write.point).map_or("", |point| &point.name);
        let outcome = outcome.map_err(|error| (name, error));
        let topic = device.result_topic(write.point);
        out.publishes.extend(command::answer(&write.message, topic, outcome, now));
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
        (RequestKind::Read { .. }, _) => false,
        (
            RequestKind::WriteCoil { .. }
            | RequestKind::WriteCoils { .. }
            | RequestKind::WriteRegister { .. }
            | RequestKind::WriteRegisters { .. },
            response,
        ) => *response == Response::Written,
    }
}
