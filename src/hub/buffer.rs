//! The door as a person's commands use it: what waits for a bridge, seen, added to, dropped. Decides nothing.

use crate::bridge::Bridge;
use crate::bridge::buffer::ImportRefusal;
use crate::bridge::dead::Revived;
use crate::hub::Hub;
use crate::mqtt::message::Message;
use crate::mqtt::topic::TopicFilter;
use crate::spool::survey::{Part, Purged, Survey};
use crate::store::record::{Load, Lsn, Seq};

/// What one visit takes of a page: an operator's look must not hold up the others.
pub const PAGE_MESSAGES_MAX: usize = 200;
/// Of messages, but one at least.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// What one visit drops.
const PURGE_STEP_MESSAGES_MAX: u64 = 1000;
/// Dead letters that one visit looks at.
const REVIVE_STEP_MESSAGES_MAX: u64 = 100;

impl Hub {
    /// The index of the bridge of this name.
    pub fn bridge_of(&self, name: &str) -> Option<usize> {
        let is_meant = |bridge: &Bridge| **bridge.name() == *name && !bridge.is_retired();
        self.lock().bridges().iter().position(is_meant)
    }

    /// What waits for a bridge, by its index, behind `after`: at most a page.
    pub fn survey(&self, bridge: usize, part: Part, after: Seq, messages_max: usize) -> Survey {
        let messages_max = messages_max.min(PAGE_MESSAGES_MAX);
        self.lock().bridges()[bridge].survey(part, after, messages_max, PAGE_BYTES_MAX)
    }

    /// How to ask the disk for what a survey does not have in memory.
    pub fn load_of(
        &self,
        bridge: usize,
        part: Part,
        (after, up_to): (Seq, Seq),
        messages_max: usize,
    ) -> Load {
        let (spool, after) = self.lock().bridges()[bridge].on_disk(part, after, up_to);
        Load { spool, after, messages_max: messages_max.min(PAGE_MESSAGES_MAX), bytes_max: PAGE_BYTES_MAX }
    }

    /// The last number that a message for this bridge got.
    pub fn last_seq(&self, bridge: usize, part: Part) -> Seq {
        self.lock().bridges()[bridge].last_seq(part)
    }

    /// Takes messages into a buffer in one visit, up to the first that finds it full. The position is that of
    /// their records: they are safe once it is durable.
    pub fn import(&self, bridge: usize, messages: Vec<Message>) -> (Vec<Result<(), ImportRefusal>>, Lsn) {
        self.visit(|core, now| {
            let mut results = Vec::new();
            for message in messages {
                let result = core.visit_bridge(bridge, |bridge, out| bridge.handle_import(message, now, out));
                results.push(result);
                if result == Err(ImportRefusal::Full) {
                    break;
                }
            }
            core.update_gates(bridge);
            (results, core.ledger().log.last())
        })
    }

    /// One step of dropping what is not in flight up to and with `up_to`.
    pub fn purge(&self, bridge: usize, part: Part, up_to: Seq) -> Purged {
        self.visit(|core, now| {
            let step = core.visit_bridge(bridge, |bridge, out| {
                bridge.handle_purge(part, (up_to, PURGE_STEP_MESSAGES_MAX), now, out)
            });
            core.update_gates(bridge);
            step
        })
    }

    /// One step of sending dead letters again: those behind the first number up to the other.
    pub fn revive(&self, bridge: usize, filter: Option<&TopicFilter>, span: (Seq, Seq)) -> Revived {
        self.visit(|core, now| {
            let step = core.visit_bridge(bridge, |bridge, out| {
                bridge.handle_revive(filter, span, REVIVE_STEP_MESSAGES_MAX, (now, out))
            });
            core.update_gates(bridge);
            step
        })
    }

    /// Closes a bridge's link until a retry.
    pub fn pause(&self, bridge: usize) {
        self.visit(|core, now| core.visit_bridge(bridge, |bridge, out| bridge.handle_pause(now, out)));
    }

    /// Ends a pause or a back-off.
    pub fn retry(&self, bridge: usize) {
        self.visit(|core, _| core.visit_bridge(bridge, Bridge::handle_retry));
    }

    /// The position of what was recorded last.
    pub fn recorded(&self) -> Lsn {
        self.lock().ledger().log.last()
    }

    /// Returns once everything up to `lsn` is on disk.
    pub async fn until_durable(&self, lsn: Lsn) {
        let mut durable = self.durable.subscribe();
        // The sender lives as long as this hub.
        let _reached = durable.wait_for(|reached| *reached >= lsn).await;
    }
}
