//! One command on its way: written, read back, and looked at before it is written again. Never chooses when.

use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Instant, Now};
use crate::config::model::{Device, Point};
use crate::device::command::{self, CommandError, Order};
use crate::device::map::Exponent;
use crate::device::map::encode::{self, Raw};
use crate::device::pending::Attempt;
use crate::device::plan::Block;
use crate::device::request::{Exception, Failure, RequestKind, Response};
use crate::device::topics::{self, Topics};
use crate::device::value::Value;
use crate::device::ways::{Unknown, Way};
use crate::mqtt::message::Message;
use crate::mqtt::qos::PacketId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The point that its scale comes from is read: a value is never written with the scale of another time.
    Scale,
    /// It may have been written: the device is asked, and nothing is written that it shows already.
    Check,
    /// The unit cannot change single bits: its registers are read and written as a whole.
    Look,
    Write,
    ReadBack,
}

/// What a command asks of a device.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) point: usize,
    value: Value,
    /// None: its scale is to be read first.
    raw: Option<Raw>,
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
    value: Value,
    raw: Option<Raw>,
    /// What is read back.
    pub(crate) block: Block,
    /// The point that its scale comes from.
    scale: Option<Block>,
    /// What its registers held, where only some of their bits change.
    looked: Option<Vec<u16>>,
    /// Registers that are written, where the unit takes them only one by one.
    written: u16,
    pub(crate) unknown: Unknown,
    pub(crate) step: Step,
    /// An earlier try may have been carried out.
    in_doubt: bool,
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
    let unwritable = |error| refusal(CommandError::Write(error));
    command::check(message, now).map_err(refusal)?;
    let index = known.ok_or(CommandError::UnknownPoint).map_err(refusal)?;
    // A computed point is none that could be written.
    let point = settings.points.get(index).ok_or(encode::WriteError::NotWritable).map_err(unwritable)?;
    let value = command::parse(point, &message.payload).map_err(refusal)?;
    let raw = if point.scale_from.is_some() {
        encode::check_bounds(point, &value).map_err(unwritable)?;
        None
    } else {
        Some(encode::encode(point, &value, 0).map_err(unwritable)?)
    };
    Ok(Wanted { point: index, value, raw })
}

/// The answer to a command. None where there is no topic to answer to.
pub(crate) fn answer(
    (settings, topics): (&Device, &Topics),
    point: Option<usize>,
    message: &Message,
    outcome: Result<&Value, &CommandError>,
    now: Now,
) -> Option<Message> {
    let known = point.and_then(|index| Some((name_of(settings, index)?, topics.points.get(index)?)));
    topics::answer(known, message, outcome, now)
}

/// Of a point, or behind those of a computed one.
pub(crate) fn name_of(settings: &Device, index: usize) -> Option<&str> {
    let computed = index.checked_sub(settings.points.len()).and_then(|at| settings.computed.get(at));
    settings.points.get(index).map(|point| &*point.name).or(computed.map(|computed| &*computed.name))
}

fn block_of(settings: &Device, index: usize) -> Option<(&Point, Block)> {
    let point = settings.points.get(index)?;
    let block = Block {
        table: point.source.table,
        address: point.source.address,
        count: point.value_type.registers(),
        points: vec![index],
    };
    Some((point, block))
}

impl Attempt for Write {
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

impl Write {
    pub(crate) fn new(
        (device, settings): (usize, &Device),
        unknown: Unknown,
        wanted: Wanted,
        order: &Order,
    ) -> Option<Self> {
        let (point, block) = block_of(settings, wanted.point)?;
        let scale = point.scale_from.and_then(|index| block_of(settings, index)).map(|(_, block)| block);
        let mut write = Self {
            device,
            point: wanted.point,
            message: Arc::clone(&order.message),
            id: order.id,
            value: wanted.value,
            raw: wanted.raw,
            block,
            scale,
            looked: None,
            written: 0,
            unknown,
            step: Step::Scale,
            in_doubt: order.repeated,
            attempts: 0,
            lost_writes: 0,
            not_before: Instant::ORIGIN,
            backoff: Backoff::new(settings.reconnect),
            failure: None,
        };
        if write.raw.is_some() {
            write.begin();
        }
        Some(write)
    }

    /// None: the unit knows no function code by which the value could be written.
    pub(crate) fn request_kind(&self) -> Option<RequestKind> {
        let block = match self.step {
            Step::Scale => self.scale.as_ref()?,
            Step::Check | Step::Look | Step::ReadBack => &self.block,
            Step::Write => {
                let Way::Request(kind) = self.way() else { return None };
                return Some(kind);
            }
        };
        Some(RequestKind::Read { table: block.table, address: block.address, count: block.count })
    }

    fn way(&self) -> Way {
        let Some(raw) = &self.raw else { return Way::None };
        self.unknown.way(raw, self.looked.as_deref(), &self.block, self.written)
    }

    /// What is to be written is known.
    fn begin(&mut self) {
        if self.in_doubt {
            self.step = Step::Check;
        } else {
            self.begin_write();
        }
    }

    /// From the start. False: the unit knows none of the function codes that would do.
    fn begin_write(&mut self) -> bool {
        (self.looked, self.written) = (None, 0);
        let way = self.way();
        self.step = if way == Way::Look { Step::Look } else { Step::Write };
        way != Way::None
    }

    /// The point that its scale comes from was read.
    pub(crate) fn handle_scale(&mut self, point: &Point, exponent: Exponent) -> Result<(), CommandError> {
        self.raw = Some(encode::encode(point, &self.value, exponent).map_err(CommandError::Write)?);
        self.begin();
        Ok(())
    }

    /// The block that its scale is read with.
    pub(crate) fn scale_block(&self) -> Option<&Block> {
        self.scale.as_ref()
    }

    /// Its registers were read, to be written with some other bits.
    pub(crate) fn handle_looked(&mut self, response: &Response) {
        if let Response::Words(words) = response {
            self.looked = Some(words.clone());
            self.step = Step::Write;
        }
    }

    /// The device does not show it.
    pub(crate) fn handle_not_shown(&mut self) {
        self.in_doubt = false;
        self.begin_write();
    }

    /// The device took what was written; what is left is written next.
    pub(crate) fn handle_written(&mut self) {
        let sent = self.way();
        self.written = self.written.saturating_add(1);
        let is_one_by_one = matches!(sent, Way::Request(RequestKind::WriteRegister { .. }));
        if !is_one_by_one || self.written >= self.block.count {
            self.step = Step::ReadBack;
        }
    }

    /// The unit does not know the function code. False: nor any other that would do.
    pub(crate) fn handle_unknown_function(&mut self, exception: Exception) -> bool {
        let Way::Request(kind) = self.way() else { return false };
        if self.step != Step::Write || !exception.is_illegal_function() {
            return false;
        }
        self.unknown.insert(kind.function());
        self.begin_write()
    }

    /// Whether the device holds what is to be written.
    pub(crate) fn is_shown_by(&self, response: &Response) -> bool {
        match (&self.raw, response) {
            (Some(Raw::Bit(bit)), Response::Bits(bits)) => **bits == [*bit],
            (Some(Raw::Words(written)), Response::Words(words)) => written == words,
            (Some(Raw::Masked(masked)), Response::Words(words)) => {
                masked.len() == words.len()
                    && masked.iter().zip(words).all(|(masked, word)| word & masked.mask == masked.bits)
            }
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
            self.in_doubt = true;
            self.lost_writes = self.lost_writes.saturating_add(1);
        }
        self.failure = Some(failure);
    }

    pub(crate) fn failed(&self, failure: Failure) -> CommandError {
        match self.step {
            Step::ReadBack => CommandError::NotReadBack(failure),
            Step::Scale | Step::Check if self.in_doubt => CommandError::NotConfirmed(failure),
            Step::Scale | Step::Check | Step::Look | Step::Write => CommandError::NotWritten(failure),
        }
    }

    /// What it is answered when its time has run out.
    pub(crate) fn overdue(&self) -> CommandError {
        match (self.step, self.message.expiry_interval) {
            (Step::ReadBack, _) => CommandError::ExpiredInDoubt,
            _ if self.in_doubt => CommandError::ExpiredInDoubt,
            (_, Some(_)) => CommandError::Expired,
            (_, None) => CommandError::WaitedTooLong,
        }
    }
}

/// Trying again at once cannot help.
pub(crate) fn is_permanent(failure: &Failure) -> bool {
    matches!(failure, Failure::Line(error) if error.is_permanent())
}
