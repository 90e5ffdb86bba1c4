//! One command on its way: written, read back, and looked at before it is written again. Never chooses when.

use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Instant, Now};
use crate::config::model::Device;
use crate::device::command::{self, CommandError, Order};
use crate::device::map::{self, Raw};
use crate::device::plan::Block;
use crate::device::request::{Failure, RequestKind, Response};
use crate::device::topics::{self, Topics};
use crate::device::value::Value;
use crate::mqtt::message::Message;
use crate::mqtt::qos::PacketId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It may have been written: the device is asked, and nothing is written that it shows already.
    Check,
    Write,
    ReadBack,
}

/// What a command asks of a device.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) point: usize,
    raw: Raw,
}

/// Why a command may not be done.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    /// None: it names no point.
    pub(crate) point: Option<usize>,
    pub(crate) error: CommandError,
}

#[derive(Debug)]
pub(crate) struct Write {
    /// Position in the line's devices.
    pub(crate) device: usize,
    pub(crate) point: usize,
    pub(crate) message: Arc<Message>,
    /// Somebody keeps the command until its end is told. None: it is done now or never.
    pub(crate) id: Option<PacketId>,
    raw: Raw,
    /// What is read back.
    pub(crate) block: Block,
    pub(crate) step: Step,
    /// Requests in a row that were not answered.
    pub(crate) attempts: u8,
    /// Writes that were not answered, in all.
    pub(crate) lost_writes: u8,
    /// Not tried before: the device did not answer, or asked for a pause.
    pub(crate) not_before: Instant,
    pub(crate) backoff: Backoff,
    /// Why the last request was not answered.
    pub(crate) failure: Option<Failure>,
}

/// Whether a command may be done, and what it asks for.
pub(crate) fn wanted(
    settings: &Device,
    topics: &Topics,
    message: &Message,
    now: Now,
) -> Result<Wanted, Refusal> {
    let known = topics.point_of_command(&message.topic);
    let refusal = |error| Refusal { point: known, error };
    command::check(message, now).map_err(refusal)?;
    let found = known.and_then(|index| Some((index, settings.points.get(index)?)));
    let (index, point) = found.ok_or(CommandError::UnknownPoint).map_err(refusal)?;
    let value = command::parse(point, &message.payload).map_err(refusal)?;
    let raw = map::encode(point, &value).map_err(|error| refusal(CommandError::Write(error)))?;
    Ok(Wanted { point: index, raw })
}

/// The answer to a command. None where there is no topic to answer to.
pub(crate) fn answer(
    (settings, topics): (&Device, &Topics),
    point: Option<usize>,
    message: &Message,
    outcome: Result<&Value, &CommandError>,
    now: Now,
) -> Option<Message> {
    let known = point.and_then(|index| Some((&*settings.points.get(index)?.name, topics.points.get(index)?)));
    topics::answer(known, message, outcome, now)
}

impl Write {
    pub(crate) fn new(settings: &Device, device: usize, wanted: Wanted, order: &Order) -> Option<Self> {
        let Wanted { point: index, raw } = wanted;
        let point = settings.points.get(index)?;
        let block = Block {
            table: point.source.table,
            address: point.source.address,
            count: point.value_type.registers(),
            points: vec![index],
        };
        Some(Self {
            device,
            point: index,
            message: Arc::clone(&order.message),
            id: order.id,
            raw,
            block,
            step: if order.repeated { Step::Check } else { Step::Write },
            attempts: 0,
            lost_writes: 0,
            not_before: Instant::ORIGIN,
            backoff: Backoff::new(settings.reconnect),
            failure: None,
        })
    }

    pub(crate) fn deadline(&self) -> Instant {
        command::deadline(&self.message)
    }

    pub(crate) fn request_kind(&self) -> RequestKind {
        let Block { table, address, count, .. } = self.block;
        match (self.step, &self.raw) {
            (Step::Check | Step::ReadBack, _) => RequestKind::Read { table, address, count },
            (Step::Write, Raw::Bit(bit)) => RequestKind::WriteCoil { address, bit: *bit },
            (Step::Write, Raw::Words(words)) => match **words {
                [word] => RequestKind::WriteRegister { address, word },
                _ => RequestKind::WriteRegisters { address, words: words.clone() },
            },
        }
    }

    /// Whether the device holds what is to be written.
    pub(crate) fn is_shown_by(&self, response: &Response) -> bool {
        match (&self.raw, response) {
            (Raw::Bit(bit), Response::Bits(bits)) => **bits == [*bit],
            (Raw::Words(written), Response::Words(words)) => written == words,
            _ => false,
        }
    }

    /// The device answered.
    pub(crate) fn handle_answered(&mut self) {
        self.attempts = 0;
        self.backoff.reset();
    }

    /// The device did not answer. What left it may have taken; where there was no connection nothing left.
    pub(crate) fn handle_silence(&mut self, failure: Failure) {
        self.attempts = self.attempts.saturating_add(1);
        if self.step == Step::Write && !is_permanent(&failure) {
            self.step = Step::Check;
            self.lost_writes = self.lost_writes.saturating_add(1);
        }
        self.failure = Some(failure);
    }

    pub(crate) fn failed(&self, failure: Failure) -> CommandError {
        match self.step {
            Step::Check => CommandError::NotConfirmed(failure),
            Step::Write => CommandError::NotWritten(failure),
            Step::ReadBack => CommandError::NotReadBack(failure),
        }
    }

    /// What it is answered when its time has run out.
    pub(crate) fn overdue(&self) -> CommandError {
        match (self.step, self.message.expiry_interval) {
            (Step::Check | Step::ReadBack, _) => CommandError::ExpiredInDoubt,
            (Step::Write, Some(_)) => CommandError::Expired,
            (Step::Write, None) => CommandError::WaitedTooLong,
        }
    }
}

/// Trying again at once cannot help.
pub(crate) fn is_permanent(failure: &Failure) -> bool {
    matches!(failure, Failure::Line(error) if error.is_permanent())
}
