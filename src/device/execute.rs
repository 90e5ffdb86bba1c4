//! Commands as a line carries them out: which step is next, what an answer or a silence means, and how a command
//! ends. A write that was not answered is never repeated unseen.

use crate::base::time::{Duration, Instant, Now};
use crate::device::command::{CommandError, Order};
use crate::device::effect::{Done, Effects};
use crate::device::pending::Attempt;
use crate::device::request::{Exception, Failure, Request, Response};
use crate::device::value::Value;
use crate::device::write::{self, Step, Write, is_permanent};
use crate::device::{Job, Poller};
use crate::mqtt::message::Message;

/// A unit that said it is busy is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

impl Poller {
    /// A command to carry out, or to refuse with an answer at once.
    pub fn handle_order(&mut self, order: &Order, now: Now, out: &mut Effects) {
        let Some(at) = self.devices.iter().position(|polled| polled.index == order.device) else { return };
        let Some(polled) = self.devices.get(at) else { return };
        let wanted = write::wanted(&polled.settings, &polled.voice.topics, &order.message, now);
        let refusal = match wanted {
            Ok(wanted) => {
                let Some(mut write) =
                    Write::new((at, &polled.settings), polled.unknown.clone(), wanted, order)
                else {
                    return;
                };
                // One try is enough to see whether it is back.
                write.attempts = if polled.is_offline() { polled.settings.retries } else { 0 };
                if let Some(displaced) = self.orders.push(write) {
                    self.finish(&displaced, Err(&CommandError::Displaced), now, out);
                }
                return;
            }
            Err(refusal) => refusal,
        };
        let told = (&*polled.settings, &polled.voice.topics);
        let answer = write::answer(told, refusal.point, &order.message, Err(&refusal.error), now);
        match order.id {
            Some(id) => out.done.push(Done { device: order.device, id, answer }),
            None => out.publishes.extend(answer),
        }
    }

    pub(super) fn next_command(&mut self, now: Now, out: &mut Effects) -> Option<Request> {
        while let Some(write) = self.orders.take_overdue(now) {
            self.finish(&write, Err(&write.overdue()), now, out);
        }
        let (devices, dead_until) = (&self.devices, self.dead_until);
        let may_ask = |at: usize| {
            devices.get(at).is_some_and(|device| {
                let spared_until = if device.is_offline() { dead_until } else { Instant::ORIGIN };
                device.quiet_until().max(spared_until) <= now.instant
            })
        };
        let write = self.orders.take_next(now, may_ask)?;
        let Some(kind) = write.request_kind() else {
            let error = CommandError::NotWritten(Failure::Exception(Exception::ILLEGAL_FUNCTION));
            self.finish(&write, Err(&error), now, out);
            return None;
        };
        self.commands_in_a_row = self.commands_in_a_row.saturating_add(1);
        self.send(write.device, Job::Command(Box::new(write)), kind, now)
    }

    /// When a command may be tried, or its time runs out.
    pub(super) fn command_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.orders.iter().filter_map(|write| {
            let device = self.devices.get(write.device)?;
            let quiet_until = device.quiet_until().max(self.spared_until(device));
            Some(write.not_before.max(quiet_until).min(write.deadline()))
        })
    }

    /// No answer: tried again, and then kept for when the device is back, where somebody keeps the command.
    pub(super) fn handle_write_silence(
        &mut self,
        mut write: Box<Write>,
        failure: Failure,
        now: Now,
        out: &mut Effects,
    ) {
        let Some(device) = self.devices.get_mut(write.device) else { return };
        device.handle_line_failure(&failure, now);
        let error = write.failed(failure.clone());
        let is_permanent = is_permanent(&failure);
        write.handle_silence(failure);
        if write.attempts <= device.settings.retries && !is_permanent {
            self.orders.put_back(*write);
        } else if write.id.is_some() && write.step != Step::ReadBack {
            write.not_before = now.instant + write.backoff.next_ceiling();
            self.orders.put_back(*write);
        } else {
            self.finish(&write, Err(&error), now, out);
        }
    }

    pub(super) fn handle_write_answer(
        &mut self,
        mut write: Box<Write>,
        answer: Result<Response, Exception>,
        now: Now,
        out: &mut Effects,
    ) {
        let retries = self.devices.get(write.device).map_or(0, |device| device.settings.retries);
        let response = match answer {
            Err(exception) if exception.is_busy() && write.attempts < retries => {
                write.attempts += 1;
                write.not_before = now.instant + BUSY_PAUSE;
                self.orders.put_back(*write);
                return;
            }
            Err(exception) if write.handle_unknown_function(exception) => {
                self.orders.put_back(*write);
                return;
            }
            Err(exception) => {
                let error = write.failed(Failure::Exception(exception));
                self.finish(&write, Err(&error), now, out);
                return;
            }
            Ok(response) => response,
        };
        write.handle_answered();
        match write.step {
            Step::Scale => self.handle_scale_answer(write, &response, now, out),
            Step::Look => {
                write.handle_looked(&response);
                self.orders.put_back(*write);
            }
            Step::Write => {
                if let Some(device) = self.devices.get_mut(write.device) {
                    // Learned only now: what the unit refuses altogether says nothing about its function codes.
                    device.unknown = write.unknown.clone();
                }
                write.handle_written();
                self.orders.put_back(*write);
            }
            Step::Check | Step::ReadBack => self.handle_shown(write, &response, now, out),
        }
    }

    /// What a value to be written is scaled with was read.
    fn handle_scale_answer(
        &mut self,
        mut write: Box<Write>,
        response: &Response,
        now: Now,
        out: &mut Effects,
    ) {
        let Some(device) = self.devices.get_mut(write.device) else { return };
        if let Some(block) = write.scale_block() {
            device.apply_read(block, response, now, out);
        }
        let Some(point) = device.settings.points.get(write.point) else { return };
        let exponent = device.exponent_for(point).map_err(CommandError::NoScale);
        let encoded = exponent.and_then(|exponent| write.handle_scale(point, exponent));
        match encoded {
            Ok(()) => self.orders.put_back(*write),
            Err(error) => self.finish(&write, Err(&error), now, out),
        }
    }

    /// The device shows what it holds, before or after the write.
    fn handle_shown(&mut self, mut write: Box<Write>, response: &Response, now: Now, out: &mut Effects) {
        let Some(device) = self.devices.get_mut(write.device) else { return };
        let retries = device.settings.retries;
        // A reading like any other.
        device.apply_read(&write.block, response, now, out);
        let value = device.voice.good_value(write.point).cloned();
        match (write.step, value) {
            (_, Some(value)) if write.is_shown_by(response) => self.finish(&write, Ok(&value), now, out),
            // It answers what it is asked, and never what it is told.
            (Step::Check, _) if write.lost_writes > retries => {
                let failure = write.failure.clone();
                let error = failure.map_or(CommandError::WaitedTooLong, CommandError::NotWritten);
                self.finish(&write, Err(&error), now, out);
            }
            (Step::Check, _) => {
                write.handle_not_shown();
                self.orders.put_back(*write);
            }
            (_, value) => self.finish(&write, Err(&CommandError::ReadBack(value)), now, out),
        }
    }

    /// The line stops. What somebody keeps is begun again at the next start.
    pub(super) fn stop_commands(&mut self, now: Now, out: &mut Effects) {
        let in_flight = self.in_flight.take().and_then(|in_flight| match in_flight.job {
            Job::Command(write) => Some(*write),
            Job::Poll | Job::Inquiry => None,
        });
        let open: Vec<_> = in_flight.into_iter().chain(self.orders.drain()).collect();
        for write in open.iter().filter(|write| write.id.is_none()) {
            self.finish(write, Err(&CommandError::Stopping), now, out);
        }
    }

    pub(super) fn finish(
        &self,
        write: &Write,
        outcome: Result<&Value, &CommandError>,
        now: Now,
        out: &mut Effects,
    ) {
        let Some(device) = self.devices.get(write.device) else { return };
        let told = (&*device.settings, &device.voice.topics);
        let answer: Option<Message> = write::answer(told, Some(write.point), &write.message, outcome, now);
        match write.id {
            Some(id) => out.done.push(Done { device: device.index, id, answer }),
            None => out.publishes.extend(answer),
        }
    }
}
