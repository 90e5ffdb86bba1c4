//! What one device was told to do and has not done: a bounded, durable queue from which its line takes one command
//! at a time. Refuses at once what cannot be done; never asks the device, and never publishes an answer itself.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::device::command::{CommandError, Order};
use crate::device::effect::Done;
use crate::device::receiver::Receiver;
use crate::device::topics::Topics;
use crate::device::write::Refusal;
use crate::mqtt::message::Message;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::spool::packet_ids::PacketIds;
use crate::spool::queue::{Completed, Offer, Sending, Spool};
use crate::spool::settings::{Bounds, Keeping, Offered, WhenFull};
use crate::spool::{Hold, Ledger};
use crate::store::record::{Entry, Lsn, Record, RecoveredSpool, SpoolId};

/// Commands that wait for one device; beyond, a new one is refused.
pub const COMMANDS_WAITING_MAX: u64 = 1000;
/// Topics, payloads and properties of those commands.
pub const COMMANDS_WAITING_BYTES_MAX: u64 = 1 << 20;
/// Commands at QoS 0 that the line has not taken yet.
const PASSING_MAX: usize = 64;
/// What of the queue is held in memory at once; the rest stands on disk.
const MEMORY_MESSAGES_MAX: usize = 100;
const MEMORY_BYTES_MAX: usize = 256 << 10;
/// A command that is carried out sooner is never written to disk.
const COMMIT: Duration = Duration::from_millis(250);
/// Commands of a device that a crash may leave in doubt. With a second one under way, what a device shows could
/// not tell whether the first was carried out.
const COMMANDS_BEGUN_MAX: usize = 1;
/// Identifiers rest for so many commands before they come again.
const IDENTIFIERS: u16 = 64;
/// Before a device's name: no bridge has such a name.
const SPOOL_NAME_PREFIX: &str = "devices/";

/// A message on a command's topic.
#[derive(Debug, Clone)]
pub struct Commanded {
    pub message: Arc<Message>,
    /// Released when the command is safe or carried out.
    pub hold: Option<Hold>,
    /// The publisher will not send it again.
    pub urgent: bool,
}

/// The answer to a command, to be published in the visit that made it.
#[derive(Debug)]
pub struct Answer {
    /// None where there is no topic to answer to.
    pub message: Option<Message>,
    /// Released when the answer is safe: the command has passed its own wait on to it.
    pub hold: Option<Hold>,
    /// The command will not be carried out again to have it answered again.
    pub urgent: bool,
}

#[derive(Debug)]
pub struct Inbox {
    index: u16,
    settings: Receiver,
    topics: Topics,
    spool: Spool,
    /// The spool's name is on the disk, or on its way there.
    named: bool,
    /// Commands at QoS 0: nobody keeps them.
    passing: VecDeque<Arc<Message>>,
    /// Commands that found the queue full.
    refused: u64,
}

impl Inbox {
    /// `index` is the device's own for as long as the process runs.
    pub fn new(
        gateway: &str,
        index: u16,
        settings: impl Into<Receiver>,
        spool: SpoolId,
        recovered: Option<RecoveredSpool>,
    ) -> Self {
        let settings = settings.into();
        let keeping = Keeping::Durable { commit: COMMIT };
        let bounds = Bounds {
            messages_max: COMMANDS_WAITING_MAX,
            bytes_max: COMMANDS_WAITING_BYTES_MAX,
            age_max: None,
            when_full: WhenFull::Reject,
            memory_messages_max: MEMORY_MESSAGES_MAX,
            memory_bytes_max: MEMORY_BYTES_MAX,
        };
        let queue = Spool::new(spool, keeping, bounds, PacketIds::up_to(IDENTIFIERS)).handing_out_overdue();
        let named = recovered.is_some();
        let queue = queue.recover(recovered.unwrap_or_default());
        Self {
            index,
            topics: settings.topics(gateway),
            spool: queue,
            settings,
            named,
            passing: VecDeque::new(),
            refused: 0,
        }
    }

    /// The device has other settings, and nobody drives it. What it was told waits for them.
    pub fn replace_settings(&mut self, gateway: &str, settings: impl Into<Receiver>) {
        self.settings = settings.into();
        self.topics = self.settings.topics(gateway);
    }

    /// As orders name the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The name of a device's spool.
    pub fn spool_name(device: &str) -> String {
        format!("{SPOOL_NAME_PREFIX}{device}")
    }

    /// The device that a spool of this name belongs to.
    pub fn device_of_spool(name: &str) -> Option<&str> {
        name.strip_prefix(SPOOL_NAME_PREFIX)
    }

    pub fn spool_id(&self) -> SpoolId {
        self.spool.id()
    }

    /// Where the commands of its points come in, also of those that take none: they are answered.
    pub fn command_filters(&self) -> impl Iterator<Item = TopicFilter> {
        self.topics.commands().filter_map(|topic| TopicFilter::new(topic.as_str()).ok())
    }

    /// Where commands to points that it does not have come in.
    pub fn any_command_filter(&self) -> Option<&TopicFilter> {
        self.topics.any_command.as_ref()
    }

    /// Whether a topic is one of its commands, be it to a point that it does not have.
    pub fn takes(&self, topic: &TopicName) -> bool {
        self.topics.any_command.as_ref().is_some_and(|filter| filter.matches(topic))
    }

    /// Where the commands of its points come in.
    pub fn command_topics(&self) -> impl Iterator<Item = TopicName> {
        self.topics.commands()
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        self.settings.name()
    }

    /// Where commands to the point of this name come in.
    pub fn command_topic_of(&self, point: &str) -> Option<TopicName> {
        let at = self.settings.point_of(point)?;
        self.topics.points.get(at)?.command()
    }

    /// Whether a command may be done.
    pub fn check(&self, message: &Message, now: Now) -> Result<(), CommandError> {
        self.settings.check(&self.topics, message, now).map_err(|refusal| refusal.error)
    }

    /// Commands that found the queue full, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes a command in, or answers why not.
    pub fn handle_command(&mut self, commanded: &Commanded, now: Now, ledger: &mut Ledger) -> Option<Answer> {
        let message = &commanded.message;
        if let Err(refusal) = self.settings.check(&self.topics, message, now) {
            return Some(self.refusal(commanded, &refusal, now));
        }
        let taken = if message.qos == QoS::AtMostOnce {
            self.pass(message)
        } else {
            self.keep(commanded, now, ledger)
        };
        if taken {
            return None;
        }
        self.refused += 1;
        let point = self.topics.point_of_command(&message.topic);
        Some(self.refusal(commanded, &Refusal { point, error: CommandError::Displaced }, now))
    }

    /// The line begins. What an earlier one had begun is to be begun again.
    pub fn handle_line_started(&mut self, ledger: &mut Ledger) {
        self.spool.handle_here(COMMANDS_BEGUN_MAX, ledger);
    }

    /// What the line is to begin now. Call until None after anything changed.
    pub fn next_order(&mut self, now: Now, ledger: &mut Ledger) -> Option<Order> {
        let device = self.index;
        if let Some(message) = self.passing.pop_front() {
            return Some(Order { device, id: None, message, repeated: false });
        }
        match self.spool.next_sending(now, ledger)? {
            Sending::Publish { packet_id, dup, entry } => {
                Some(Order { device, id: Some(packet_id), message: entry.message, repeated: dup })
            }
            // Nothing here is ever half done.
            Sending::Release { .. } => None,
        }
    }

    /// The end of an order. None: it has ended before.
    pub fn handle_done(&mut self, done: Done, ledger: &mut Ledger) -> Option<Answer> {
        let Completed { hold, recorded } = self.spool.handle_completed(done.id, ledger)?;
        let exactly = done.answer.as_ref().is_some_and(|answer| answer.qos == QoS::ExactlyOnce);
        Some(Answer { message: done.answer, hold, urgent: recorded || exactly })
    }

    /// Whether something waits to be on disk.
    pub fn awaits_disk(&self) -> bool {
        self.spool.awaited().is_some()
    }

    /// Records up to `lsn` are on disk. True: something waited for that.
    pub fn handle_durable(&mut self, lsn: Lsn, ledger: &mut Ledger) -> bool {
        let waited = self.spool.awaited().is_some();
        if waited {
            self.spool.handle_durable(lsn, ledger);
        }
        waited
    }

    /// What a `Load` asked for.
    pub fn handle_loaded(&mut self, entries: Vec<Entry>, ledger: &mut Ledger) {
        self.spool.handle_loaded(entries, ledger);
    }

    /// The clock is set: how old a command is that an earlier boot left can be told.
    pub fn handle_clock_set(&mut self, now: Now) {
        self.spool.handle_clock_set(now);
    }

    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.spool.next_deadline().map(|at| (at, "commands"))
    }

    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        self.spool.handle_timeout(now, ledger);
    }

    /// The end: what only memory has is recorded, and what nobody keeps is refused.
    pub fn handle_shutdown(&mut self, now: Now, ledger: &mut Ledger) -> Vec<Answer> {
        self.spool.write_all(ledger);
        let open = std::mem::take(&mut self.passing).into_iter();
        let refuse = |message: Arc<Message>| {
            let point = self.topics.point_of_command(&message.topic);
            let commanded = Commanded { message, hold: None, urgent: false };
            self.refusal(&commanded, &Refusal { point, error: CommandError::Stopping }, now)
        };
        open.map(refuse).collect()
    }

    fn pass(&mut self, message: &Arc<Message>) -> bool {
        let has_room = self.passing.len() < PASSING_MAX;
        if has_room {
            self.passing.push_back(Arc::clone(message));
        }
        has_room
    }

    fn keep(&mut self, commanded: &Commanded, now: Now, ledger: &mut Ledger) -> bool {
        // Else the spool would release what waits for the command, which the answer is to do.
        let bytes = commanded.message.size_bytes() as u64;
        if self.spool.messages() >= COMMANDS_WAITING_MAX
            || self.spool.bytes().saturating_add(bytes) > COMMANDS_WAITING_BYTES_MAX
        {
            return false;
        }
        if !std::mem::replace(&mut self.named, true) {
            let name = Self::spool_name(self.settings.name());
            ledger.log.push(Record::BufferPut { spool: self.spool.id(), bridge: name.into() });
        }
        let offer = Offer {
            message: Arc::clone(&commanded.message),
            qos: commanded.message.qos,
            retain: false,
            rule: 0,
            subscription_identifiers: Box::default(),
            hold: commanded.hold,
        };
        self.spool.offer(offer, commanded.urgent, now, ledger) == Offered::Accepted
    }

    /// What waits for the command waits for its answer.
    fn refusal(&self, commanded: &Commanded, refusal: &Refusal, now: Now) -> Answer {
        let message = &commanded.message;
        Answer {
            message: self.settings.refusal(&self.topics, refusal.point, (message, &refusal.error), now),
            hold: commanded.hold,
            urgent: message.qos == QoS::ExactlyOnce,
        }
    }
}
