//! What commands on this machine may do with the buffers, beside a running gateway and on a stopped one's file:
//! puts together hub and store. Never touches a socket.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use crate::app::running::Standing;
use crate::base::time::{Duration, Now};
use crate::bridge::buffer::ImportRefusal;
use crate::bridge::fate::unstamped;
use crate::bridge::lanes::as_shown;
use crate::bridge::status::{Losses, RuleStatus};
use crate::hub::Hub;
use crate::hub::buffer::PAGE_MESSAGES_MAX;
use crate::hub::status::LinkStatus;
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::spool::survey::{Part, Survey};
use crate::store::error::StoreError;
use crate::store::reader::read_page;
use crate::store::record::{Entry, Seq};
use crate::web::control::{
    BufferSnapshot, Control, ControlError, DeadSnapshot, Dropped, IMPORT_CHUNK_LINES_MAX, Imported, Page,
    PurgeStep, RefusedLine, Retained, ReviveStep, RuleSnapshot,
};
use crate::web::line::{DeadLine, MessageLine};

/// What one request of a purge may take; the command asks again.
const PURGE_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at whether the disk has brought what is to be dropped next.
const PURGE_PAUSE: Duration = Duration::from_millis(2);
/// A page lies in memory, on disk, in memory again, and may have moved on meanwhile.
const SURVEY_ROUNDS_MAX: usize = 8;

/// Whether links are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Driven,
    /// No gateway runs.
    Stopped,
}

pub struct Controls {
    running: Standing,
    hub: Arc<Hub>,
    links: Links,
}

impl Controls {
    pub fn new(running: Standing, hub: Arc<Hub>, links: Links) -> Self {
        Self { running, hub, links }
    }

    fn index(&self, name: &str) -> Result<usize, ControlError> {
        self.hub.bridge_of(name).ok_or_else(|| ControlError::NoBridge { name: name.to_owned() })
    }

    /// The index of a bridge whose link somebody drives.
    fn linked(&self, name: &str) -> Result<usize, ControlError> {
        let index = self.index(name)?;
        match self.links {
            Links::Driven => Ok(index),
            Links::Stopped => Err(ControlError::NoLink),
        }
    }

    /// What waits behind `after`, wherever it stands.
    fn page(
        &self,
        (bridge, part): (usize, Part),
        mut after: Seq,
        messages_max: usize,
    ) -> Result<Vec<(Entry, bool)>, StoreError> {
        for _ in 0..SURVEY_ROUNDS_MAX {
            let up_to = match self.hub.survey(bridge, part, after, messages_max) {
                Survey::Here(found) => return Ok(found),
                Survey::OnDisk { up_to } => up_to,
            };
            let load = self.hub.load_of(bridge, part, (after, up_to), messages_max);
            let now = self.hub.clock().now();
            let found = read_page(&self.running.config().gateway.data_dir, load, now)?;
            let mut found: Vec<_> = found.into_iter().map(|entry| as_shown(entry, up_to)).collect();
            found.retain(|entry| entry.seq <= up_to);
            if !found.is_empty() {
                return Ok(found.into_iter().map(|entry| (entry, false)).collect());
            }
            // They have left since.
            after = up_to;
        }
        Ok(Vec::new())
    }

    fn buffer(&self, name: &str, bytes_max: u64, link: &LinkStatus) -> BufferSnapshot {
        let status = &link.status;
        let now = self.hub.clock().now();
        let state = match self.links {
            Links::Driven => status.state.name(),
            Links::Stopped => "stopped",
        };
        BufferSnapshot {
            bridge: name.to_owned(),
            state: state.to_owned(),
            messages: status.queued_messages,
            bytes: status.queued_bytes,
            bytes_max,
            in_flight: status.inflight as u64,
            oldest: status.oldest.map(|arrived| arrived.dated_by(now).to_string()),
            oldest_age_seconds: status.oldest.map(|arrived| now.instant.since(arrived.instant).as_secs()),
            accepted: status.accepted,
            forwarded: status.forwarded,
            dropped: dropped(&status.losses),
            dropped_bytes: dropped(&status.losses_bytes),
            rules: status.rules.iter().map(rule).collect(),
            dead: DeadSnapshot {
                messages: status.dead.messages,
                bytes: status.dead.bytes,
                bytes_max: status.dead.bytes_max,
                oldest: status.dead.oldest.map(|arrived| arrived.dated_by(now).to_string()),
                oldest_age_seconds: status
                    .dead
                    .oldest
                    .map(|arrived| now.instant.since(arrived.instant).as_secs()),
                died: status
                    .dead
                    .died
                    .iter()
                    .map(|(cause, count)| (cause.name().to_owned(), *count))
                    .collect(),
            },
        }
    }
}

/// A dead letter is shown as the message was, with its fate beside it.
fn line(part: Part, (entry, in_flight): &(Entry, bool), now: Now) -> MessageLine {
    let (message, fate) = match part {
        Part::Waiting => (entry.message.clone(), None),
        Part::Dead => unstamped(&entry.message),
    };
    let dead = fate.map(|fate| DeadLine { time: fate.time, reason: fate.reason, detail: fate.detail });
    MessageLine { dead, ..MessageLine::of(&Entry { message, ..entry.clone() }, *in_flight, now) }
}

fn rule(status: &RuleStatus) -> RuleSnapshot {
    RuleSnapshot {
        topic: status.topic.to_string(),
        messages: status.queued_messages,
        bytes: status.queued_bytes,
        bytes_max: status.bytes_max,
        dropped: dropped(&status.lost.messages),
        dropped_bytes: dropped(&status.lost.bytes),
    }
}

const fn dropped(losses: &Losses) -> Dropped {
    Dropped {
        full: losses.full,
        rejected: losses.rejected,
        aged: losses.aged,
        expired: losses.expired,
        too_large: losses.too_large,
        unroutable: losses.unroutable,
        purged: losses.purged,
    }
}

impl Control for Controls {
    fn buffers(&self) -> Vec<BufferSnapshot> {
        let hub = self.hub.status();
        let config = self.running.config();
        let bridges = config.bridges.iter();
        let bridges = bridges.filter_map(|bridge| Some((bridge, hub.link(&bridge.name)?)));
        bridges.map(|(bridge, link)| self.buffer(&bridge.name, bridge.buffer.size_bytes, link)).collect()
    }

    fn retained(&self, topic: &str) -> Option<Retained> {
        let topic = TopicName::new(topic).ok()?;
        let message = self.hub.retained(&TopicFilter::new(topic.as_str()).ok()?).pop()?;
        Some(Retained {
            payload: std::str::from_utf8(&message.payload).ok().map(str::to_owned),
            bytes: message.payload.len(),
            qos: message.qos.bits(),
            time: message.arrived.dated_by(self.hub.clock().now()).to_string(),
        })
    }

    fn messages(
        &self,
        bridge: &str,
        part: Part,
        after: u64,
        messages_max: usize,
    ) -> Result<Page, ControlError> {
        let messages_max = messages_max.clamp(1, PAGE_MESSAGES_MAX);
        let place = (self.index(bridge)?, part);
        let found = self.page(place, Seq(after), messages_max).map_err(ControlError::Store)?;
        let now = self.hub.clock().now();
        Ok(Page {
            next: found.last().map(|(entry, _)| entry.seq.0),
            messages: found.iter().map(|found| line(part, found, now)).collect(),
        })
    }

    fn import(&self, bridge: &str, lines: &[u8]) -> Result<Imported, ControlError> {
        let index = self.index(bridge)?;
        let now = self.hub.clock().now();
        let mut imported = Imported::default();
        let (mut messages, mut places) = (Vec::new(), Vec::new());
        for (line, text) in lines.split(|byte| *byte == b'\n').enumerate().take(IMPORT_CHUNK_LINES_MAX) {
            if text.trim_ascii().is_empty() {
                continue;
            }
            match MessageLine::parse(text).and_then(|parsed| parsed.message(now)) {
                Ok(message) => {
                    messages.push(message);
                    places.push(line);
                }
                Err(error) => imported.refused.push(RefusedLine { line, error: error.to_string() }),
            }
        }
        let (results, lsn) = self.hub.import(index, messages);
        for (line, result) in places.into_iter().zip(results) {
            match result {
                Ok(()) => imported.imported += 1,
                Err(error) => {
                    imported.full |= error == ImportRefusal::Full;
                    imported.refused.push(RefusedLine { line, error: error.to_string() });
                }
            }
        }
        imported.refused.sort_by_key(|refused| refused.line);
        if imported.imported > 0 {
            Handle::current().block_on(self.hub.until_durable(lsn));
        }
        Ok(imported)
    }

    fn purge(&self, bridge: &str, part: Part, up_to: Option<u64>) -> Result<PurgeStep, ControlError> {
        let index = self.index(bridge)?;
        let up_to = up_to.map_or_else(|| self.hub.last_seq(index, part), Seq);
        let begun = Instant::now();
        let mut done = PurgeStep { up_to: up_to.0, ..PurgeStep::default() };
        loop {
            let step = self.hub.purge(index, part, up_to);
            done.messages += step.messages;
            done.bytes += step.bytes;
            done.unfinished = step.unfinished;
            if !step.unfinished || begun.elapsed() >= PURGE_TIME_MAX {
                break;
            }
            if step.messages == 0 {
                std::thread::sleep(PURGE_PAUSE);
            }
        }
        Handle::current().block_on(self.hub.until_durable(self.hub.recorded()));
        if part == Part::Waiting {
            let status = self.hub.status();
            done.in_flight = status.link(bridge).map_or(0, |link| link.status.inflight as u64);
        }
        Ok(done)
    }

    fn revive(
        &self,
        bridge: &str,
        topic: Option<&str>,
        (after, up_to): (u64, Option<u64>),
    ) -> Result<ReviveStep, ControlError> {
        let index = self.index(bridge)?;
        let filter = topic.map(TopicFilter::new).transpose().map_err(ControlError::Topic)?;
        let up_to = up_to.map_or_else(|| self.hub.last_seq(index, Part::Dead), Seq);
        let begun = Instant::now();
        let mut done = ReviveStep { after, up_to: up_to.0, ..ReviveStep::default() };
        loop {
            let before = done.after;
            let step = self.hub.revive(index, filter.as_ref(), (Seq(before), up_to));
            done.messages += step.messages;
            done.unroutable += step.unroutable;
            (done.after, done.unfinished, done.full) = (step.after.0, step.unfinished, step.full);
            if !step.unfinished || begun.elapsed() >= PURGE_TIME_MAX {
                break;
            }
            if done.after == before {
                std::thread::sleep(PURGE_PAUSE);
            }
        }
        Handle::current().block_on(self.hub.until_durable(self.hub.recorded()));
        Ok(done)
    }

    fn pause(&self, bridge: &str) -> Result<(), ControlError> {
        self.hub.pause(self.linked(bridge)?);
        Ok(())
    }

    fn retry(&self, bridge: &str) -> Result<(), ControlError> {
        self.hub.retry(self.linked(bridge)?);
        Ok(())
    }
}
