//! Commands that somebody within the gateway gives and waits for: they go into the inbox of their device as any other, and
//! their answers come here in place of a topic. Carries, and decides nothing.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::base::time::{Duration, Now};
use crate::device::command::{CommandError, Outcome, outcome_of};
use crate::device::inbox::Commanded;
use crate::device::map::encode::WriteError;
use crate::hub::Hub;
use crate::hub::core::Core;
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// Of the topics that stand for who waits. No client can name one: what begins so is never answered to.
const ANSWERS: &str = "$tidegate/answers/";
/// Commands that are waited for at once.
const ASKED_MAX: usize = 64;

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub outcome: Outcome,
    /// As it would have been published.
    pub payload: Bytes,
}

/// Why a command was not even begun.
#[derive(Debug, Clone, PartialEq)]
pub enum NotBegun {
    NoDevice,
    NoPoint,
    NotWritable,
    /// What was asked for.
    Refused {
        point: String,
        error: CommandError,
    },
    TooManyWait,
}

impl fmt::Display for NotBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("no such device"),
            Self::NoPoint => f.write_str("no such point"),
            Self::NotWritable => f.write_str("the point is not writable"),
            Self::Refused { point, error } => write!(f, "{point}: {error}"),
            Self::TooManyWait => f.write_str("too many commands wait"),
        }
    }
}

/// Who waits, by the number in the topic.
#[derive(Debug, Default)]
pub(super) struct Asked {
    waiting: BTreeMap<u64, oneshot::Sender<Answered>>,
    next: u64,
}

impl Asked {
    fn enter(&mut self) -> Option<(u64, oneshot::Receiver<Answered>)> {
        self.waiting.retain(|_, sender| !sender.is_closed());
        if self.waiting.len() >= ASKED_MAX {
            return None;
        }
        self.next += 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(self.next, sender);
        Some((self.next, receiver))
    }

    /// The message, if it is for the world.
    pub(super) fn take_answer(&mut self, message: Message) -> Option<Message> {
        let Some(number) = message.topic.as_str().strip_prefix(ANSWERS) else { return Some(message) };
        let waiting = number.parse().ok().and_then(|number: u64| self.waiting.remove(&number));
        if let Some(sender) = waiting {
            let answered = Answered { outcome: outcome_of(&message), payload: message.payload };
            // Whoever waited may have given up meanwhile.
            let _ = sender.send(answered);
        }
        None
    }
}

impl Hub {
    /// Has a point hold a value: now or never, and within `within`.
    pub fn command(
        &self,
        device: &str,
        point: &str,
        payload: Bytes,
        within: Duration,
    ) -> Result<oneshot::Receiver<Answered>, NotBegun> {
        self.visit(|core, now| core.ask((device, point), payload, within, now))
    }
}

impl Core {
    fn ask(
        &mut self,
        (device, point): (&str, &str),
        payload: Bytes,
        within: Duration,
        now: Now,
    ) -> Result<oneshot::Receiver<Answered>, NotBegun> {
        let (index, inbox) = self.commands.inbox_of(device).ok_or(NotBegun::NoDevice)?;
        let topic = inbox.command_topic_of(point).ok_or(NotBegun::NoPoint)?.clone();
        let mut message = Message::new(topic, payload, QoS::AtMostOnce, Origin::Gateway, now);
        message.expiry_interval = Some(within);
        inbox.check(&message, now).map_err(|error| match error {
            CommandError::Write(WriteError::NotWritable) => NotBegun::NotWritable,
            error => NotBegun::Refused { point: point.to_owned(), error },
        })?;
        let (number, receiver) = self.asked.enter().ok_or(NotBegun::TooManyWait)?;
        message.properties = Some(Box::new(MessageProperties {
            response_topic: TopicName::new(&format!("{ANSWERS}{number}")).ok(),
            ..MessageProperties::default()
        }));
        let commanded = Commanded { message: message.into(), hold: None, urgent: false };
        self.take_command(index, &commanded, now);
        Ok(receiver)
    }
}
