//! A bridge with other settings: its link begins anew, its buffer and what is in flight stay as they are. As after a
//! restart with the new file, but that nothing is read from the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::Now;
use crate::bridge::effect::Effects;
use crate::bridge::lane::{self, ASIDE, Lane};
use crate::bridge::learned::Learned;
use crate::bridge::link::Phase;
use crate::bridge::liveness::Liveness;
use crate::bridge::node::{Node, NodeSettings};
use crate::bridge::note;
use crate::bridge::pause::Wanted;
use crate::bridge::server::Server;
use crate::bridge::servers::Servers;
use crate::bridge::status::{LinkState, Lost};
use crate::bridge::subscription::Subscriptions;
use crate::bridge::suspicion::Suspicion;
use crate::bridge::{Bridge, Settings, keeping_of, spool_of};
use crate::config::model;
use crate::mqtt::packet::Version;
use crate::sparkplug::session::Definition;
use crate::store::record::{Record, RecoveredSpool, SpoolId};

/// What a bridge is told by a reload.
#[derive(Debug, Clone)]
pub struct NewSettings {
    pub bridge: model::Bridge,
    /// `loops::may_return`.
    pub may_return: bool,
    /// The Sparkplug node that the gateway is, where it is one.
    pub definition: Option<Arc<Definition>>,
}

impl Bridge {
    /// What it was told last.
    pub fn configured(&self) -> &model::Bridge {
        &self.settings.bridge
    }

    /// What others are told has changed.
    pub fn set_may_return(&mut self, may_return: bool) {
        self.settings.may_return = may_return;
    }

    /// Nobody wants it any more: what waits is recorded, and stays.
    pub fn retire(&mut self, out: &mut Effects) {
        debug_assert!(self.state() == LinkState::Closed, "it has parted");
        self.lanes.write_all(&mut out.ledger);
        self.dead.spool.write_all(&mut out.ledger);
        self.retired = true;
    }

    /// Whether it is there for its buffer alone.
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// The lanes that its rules need and that it does not have. To be added.
    pub fn lacking_lanes(&self) -> Vec<Lane> {
        let known: BTreeSet<u16> = self.lanes.lanes().map(Lane::number).collect();
        let needed = lane::needed(&self.settings.bridge).into_iter();
        needed.filter(|lane| !known.contains(&lane.number())).collect()
    }

    /// Another lane of the buffer, with what a start found of it. Before the bridge does anything.
    pub fn add_lane(
        &mut self,
        lane: Lane,
        spool: SpoolId,
        recovered: Option<RecoveredSpool>,
        out: &mut Effects,
    ) {
        let bridge = &self.settings.bridge;
        let queue = spool_of(bridge, lane, spool);
        let queue = if let Some(found) = recovered {
            if lane == ASIDE {
                self.aside.recover(found.head.iter().map(|entry| entry.message.topic.clone()));
            }
            queue.recover(found)
        } else {
            let name: Arc<str> = lane.spool_name(&bridge.name).into();
            if lane == ASIDE {
                self.aside.set_unnamed(spool, name);
            } else {
                out.ledger.log.push(Record::BufferPut { spool, bridge: name });
            }
            queue
        };
        self.lanes.add(lane, queue);
        if lane == ASIDE && self.aside.is_named() {
            self.lanes.set_aside_used();
        }
    }

    /// Other settings, after `handle_shutdown`: asks for its transport at once, unless a person had it paused.
    pub fn replace_settings(&mut self, new: NewSettings, now: Now, out: &mut Effects) {
        debug_assert!(self.state() == LinkState::Closed, "it has parted");
        let NewSettings { bridge, may_return, definition } = new;
        let node = definition.map(|definition| NodeSettings { definition, bd_seq: None });
        let known = self.node.take();
        self.node = node.as_ref().and_then(|node| Node::new(node, &bridge)).map(Box::new);
        if let (Some(node), Some(known)) = (&mut self.node, known) {
            node.recall(&known);
        }
        self.lanes.replace_settings(&bridge);
        self.dead.replace_settings(&bridge);
        // What a full disk leaves counts until the next look at it.
        let is_disk_short = self.bytes_max < self.settings.bridge.buffer.size_bytes;
        let spare = if is_disk_short { self.bytes_max } else { u64::MAX };
        self.bytes_max = bridge.buffer.size_bytes.min(spare);
        self.share_with_dead();
        // Other rules and other rights.
        self.suspicion = Suspicion::default();
        if note::place_of(&bridge) != note::place_of(&self.settings.bridge) {
            self.learned = Learned::default();
        }
        self.learned.has_news = true;
        self.asked = Subscriptions::new(bridge.reconnect);
        self.inlet.replace_settings(keeping_of(&bridge), bridge.protocol == Version::V5);
        self.server = Server::before_connack(&bridge);
        self.liveness = Liveness::new(bridge.keep_alive, now.instant);
        self.servers = Servers::new(&bridge, self.servers.holder());
        self.backoff = Backoff::new(bridge.reconnect);
        (self.fault, self.last_error, self.renewal_at, self.subscribed) = (None, None, None, false);
        self.counters.lost_by_rule = resized(&self.counters.lost_by_rule, bridge.forward.len());
        self.settings = Settings { bridge, may_return, node, ..self.settings.clone() };
        self.retired = false;
        if self.wanted == Wanted::Pause {
            self.set_phase(Phase::Paused, out);
            return;
        }
        self.wanted = Wanted::Link;
        out.connect = true;
        self.set_phase(Phase::Connecting, out);
    }
}

/// Losses of rules that are gone stay in the sum alone.
fn resized(lost: &[Lost], rules: usize) -> Box<[Lost]> {
    let known = lost.iter().copied().chain(std::iter::repeat(Lost::default()));
    known.take(rules).collect()
}
