//! One command to an instrument on its way. Never chooses when.

use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Instant, Now};
use crate::config::instrument::{FieldPath, FieldPoint, Instrument, Pattern};
use crate::device::command::{self, CommandError, Order};
use crate::device::map::encode::WriteError;
use crate::device::pending::Attempt;
use crate::device::request::Failure;
use crate::device::serial::field::{self, Written};
use crate::device::topics::Topics;
use crate::device::value::Value;
use crate::device::write::Refusal;
use crate::mqtt::message::Message;
use crate::mqtt::qos::PacketId;

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

impl Attempt for Task {
    fn is_passing(&self) -> bool {
        self.id.is_none()
    }

    fn deadline(&self) -> Instant {
        command::deadline(&self.message)
    }

    fn not_before(&mut self) -> &mut Instant {
        &mut self.not_before
    }
}
