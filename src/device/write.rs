//! One command on its way: written, then read back. Never chooses when.

use std::sync::Arc;

use crate::base::time::Now;
use crate::device::command::{self, COMMAND_SUFFIX, CommandError, RESULT_SUFFIX};
use crate::device::map::{self, Raw};
use crate::device::plan::Block;
use crate::device::polled::Polled;
use crate::device::request::{Failure, RequestKind, Response};
use crate::mqtt::message::Message;
use crate::mqtt::topic::TopicName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Write,
    ReadBack,
}

#[derive(Debug)]
pub(crate) struct Write {
    /// Position in the line's devices.
    pub(crate) device: usize,
    pub(crate) point: usize,
    pub(crate) message: Arc<Message>,
    raw: Raw,
    /// What is read back.
    pub(crate) block: Block,
    pub(crate) step: Step,
    /// Failed ones, of this step.
    pub(crate) attempts: u8,
}

/// A command that may be done, or why it may not.
pub(crate) fn queued(
    polled: &Polled,
    device: usize,
    point_index: usize,
    message: &Arc<Message>,
    now: Now,
) -> Result<Write, CommandError> {
    command::check(message, now)?;
    let point = polled.point(point_index).ok_or(CommandError::UnknownPoint)?;
    let value = command::parse(point, &message.payload)?;
    let raw = map::encode(point, &value).map_err(CommandError::Write)?;
    let block = Block {
        table: point.source.table,
        address: point.source.address,
        count: point.value_type.registers(),
        points: vec![point_index],
    };
    let message = Arc::clone(message);
    Ok(Write { device, point: point_index, message, raw, block, step: Step::Write, attempts: 0 })
}

pub(crate) fn refusal(
    polled: &Polled,
    point_index: usize,
    message: &Message,
    error: &CommandError,
    now: Now,
) -> Option<Message> {
    let name = polled.point(point_index).map_or("", |point| &point.name);
    command::answer(message, polled.result_topic(point_index), Err((name, error)), now)
}

/// Where a command is answered that names no point.
pub(crate) fn result_topic_of(topic: &TopicName) -> Option<TopicName> {
    let base = topic.as_str().strip_suffix(COMMAND_SUFFIX)?;
    TopicName::new(&format!("{base}{RESULT_SUFFIX}")).ok()
}

impl Write {
    pub(crate) fn request_kind(&self) -> RequestKind {
        let Block { table, address, count, .. } = self.block;
        match (self.step, &self.raw) {
            (Step::ReadBack, _) => RequestKind::Read { table, address, count },
            (Step::Write, Raw::Bit(bit)) => RequestKind::WriteCoil { address, bit: *bit },
            (Step::Write, Raw::Words(words)) => match **words {
                [word] => RequestKind::WriteRegister { address, word },
                _ => RequestKind::WriteRegisters { address, words: words.clone() },
            },
        }
    }

    /// Whether the device holds what was written.
    pub(crate) fn is_shown_by(&self, response: &Response) -> bool {
        match (&self.raw, response) {
            (Raw::Bit(bit), Response::Bits(bits)) => **bits == [*bit],
            (Raw::Words(written), Response::Words(words)) => written == words,
            _ => false,
        }
    }

    pub(crate) fn failed(&self, failure: Failure) -> CommandError {
        match self.step {
            Step::Write => CommandError::NotWritten(failure),
            Step::ReadBack => CommandError::NotReadBack(failure),
        }
    }
}
