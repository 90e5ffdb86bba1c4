//! One command to an instrument on its way, and those that wait behind it. Never chooses when.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Instant, Now};
use crate::config::instrument::{FieldPath, FieldPoint, Instrument, Pattern};
use crate::device::command::{self, CommandError, Order};
use crate::device::map::encode::WriteError;
use crate::device::request::Failure;
use crate::device::serial::field::{self, Written};
use crate::device::topics::Topics;
use crate::device::value::Value;
use crate::device::write::Refusal;
use crate::mqtt::message::Message;
use crate::mqtt::qos::PacketId;

/// Commands that nobody else keeps: beyond, the oldest is refused.
const PASSING_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It may have been done: the device is looked at, and nothing is written that it shows already.
    Check,
    Write,
    /// The answer that says that it was done is awaited.
    Confirm,
    ReadBack,
}

/// What a command asks of an instrument.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) point: usize,
    written: Written,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) point: usize,
    pub(crate) message: Arc<Message>,
    /// Somebody keeps the command until its end is told. None: it is done now or never.
    pub(crate) id: Option<PacketId>,
    /// What is sent, as a whole.
    pub(crate) bytes: Vec<u8>,
    /// What the device is to show afterwards.
    pub(crate) value: Value,
    pub(crate) expect: Option<Pattern>,
    /// The device shows what it was told.
    pub(crate) shows: bool,
    pub(crate) step: Step,
    /// Looks in a row that showed nothing, or something else.
    pub(crate) attempts: u8,
    /// Writes that nothing followed.
    pub(crate) lost_writes: u8,
    /// That it showed something in place of the value.
    pub(crate) seen: Option<CommandError>,
    /// Not tried before: the device did not answer.
    pub(crate) not_before: Instant,
    pub(crate) backoff: Backoff,
}

/// Whether a command may be done, and what it asks for.
pub(crate) fn wanted(
    settings: &Instrument,
    topics: &Topics,
    message: &Message,
    now: Now,
) -> Result<Wanted, Refusal> {
    let known = topics.point_of_command(&message.topic);
    let refusal = |error| Refusal { point: known, error };
    command::check(message, now).map_err(refusal)?;
    let found = known.and_then(|index| Some((index, settings.points.get(index)?)));
    let (index, point) = found.ok_or(CommandError::UnknownPoint).map_err(refusal)?;
    if point.command.is_none() {
        return Err(refusal(CommandError::Write(WriteError::NotWritable)));
    }
    let text = command::text_of(&message.payload).map_err(refusal)?;
    let written = field::encode(point, &text).map_err(refusal)?;
    Ok(Wanted { point: index, written })
}

/// A raw frame is what was sent, never what the device holds.
fn shows(point: &FieldPoint) -> bool {
    point.field.as_ref().is_some_and(|field| *field != FieldPath::Frame)
}

impl Task {
    /// An error: it was begun before, and nothing can say whether it was done.
    pub(crate) fn new(settings: &Instrument, wanted: Wanted, order: &Order) -> Result<Self, CommandError> {
        let Wanted { point: index, written } = wanted;
        let point = settings.points.get(index).ok_or(CommandError::UnknownPoint)?;
        let command = point.command.as_ref().ok_or(CommandError::Write(WriteError::NotWritable))?;
        let shows = shows(point);
        if order.repeated && !shows {
            return Err(CommandError::Interrupted);
        }
        Ok(Self {
            point: index,
            message: Arc::clone(&order.message),
            id: order.id,
            bytes: [&command.before[..], &written.bytes, &command.after].concat(),
            value: written.value,
            expect: command.expect.clone(),
            shows,
            step: if order.repeated { Step::Check } else { Step::Write },
            attempts: 0,
            lost_writes: 0,
            seen: None,
            not_before: Instant::ORIGIN,
            backoff: Backoff::new(settings.reconnect),
        })
    }

    pub(crate) fn deadline(&self) -> Instant {
        command::deadline(&self.message)
    }

    pub(crate) fn failed(&self, failure: Failure) -> CommandError {
        match (self.step, &self.seen) {
            (Step::ReadBack, Some(seen)) => seen.clone(),
            (Step::ReadBack, None) => CommandError::NotReadBack(failure),
            (Step::Write, _) => CommandError::NotWritten(failure),
            (Step::Check | Step::Confirm, _) => CommandError::NotConfirmed(failure),
        }
    }

    /// What it is answered when its time has run out.
    pub(crate) fn overdue(&self) -> CommandError {
        match (self.step, self.message.expiry_interval) {
            (Step::Check | Step::Confirm | Step::ReadBack, _) => CommandError::ExpiredInDoubt,
            (Step::Write, Some(_)) => CommandError::Expired,
            (Step::Write, None) => CommandError::WaitedTooLong,
        }
    }
}

/// In the order in which they came, but that a command which waits for its device lets those pass that nobody keeps.
#[derive(Debug, Default)]
pub(crate) struct Tasks(VecDeque<Task>);

impl Tasks {
    /// Behind what there is. Returns what is displaced by it.
    pub(crate) fn push(&mut self, task: Task) -> Option<Task> {
        self.0.push_back(task);
        let passing = self.0.iter().filter(|task| task.id.is_none()).count();
        let oldest = self.0.iter().position(|task| task.id.is_none()).filter(|_| passing > PASSING_MAX)?;
        self.0.remove(oldest)
    }

    /// Back to where it was taken from.
    pub(crate) fn put_back(&mut self, task: Task) {
        self.0.push_front(task);
    }

    pub(crate) fn take_next(&mut self, now: Now) -> Option<Task> {
        self.take(|task| task.not_before <= now.instant)
    }

    /// One whose time has run out.
    pub(crate) fn take_overdue(&mut self, now: Now) -> Option<Task> {
        self.take(|task| task.deadline() <= now.instant)
    }

    /// One that nobody keeps.
    pub(crate) fn take_passing(&mut self) -> Option<Task> {
        self.take(|task| task.id.is_none())
    }

    /// The device was heard: what waits for it is tried at once.
    pub(crate) fn wake(&mut self, now: Now) {
        for task in &mut self.0 {
            task.not_before = task.not_before.min(now.instant);
        }
    }

    /// When one of them may be tried.
    pub(crate) fn ready_at(&self) -> Option<Instant> {
        self.0.iter().map(|task| task.not_before).min()
    }

    /// When one of them runs out of time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().map(Task::deadline).min()
    }

    fn take(&mut self, is_meant: impl Fn(&Task) -> bool) -> Option<Task> {
        let at = self.0.iter().position(is_meant)?;
        self.0.remove(at)
    }
}
