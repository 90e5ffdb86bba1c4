//! The bridge brain: rules, the uplink's window, the buffer. No I/O, no clock, no task.

mod aliases;
mod arrivals;
mod aside;
pub mod buffer;
pub mod change;
mod clock;
mod compress;
pub mod dead;
mod doubt;
pub mod effect;
mod expiry;
pub mod fate;
pub mod fault;
pub mod forward;
mod greeting;
mod inlet;
pub mod lane;
pub mod lanes;
mod learned;
pub mod link;
mod liveness;
pub mod loops;
mod moving;
pub mod node;
pub mod note;
mod pause;
pub mod provider;
mod receive;
mod renewal;
mod replay;
mod rules;
mod server;
pub mod servers;
pub mod status;
mod subscription;
mod suspicion;
mod trial;
pub mod wire;

use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Duration, Instant, Now};
use crate::bridge::arrivals::Arrivals;
use crate::bridge::aside::Aside;
use crate::bridge::dead::DeadLetters;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::greeting::Greeting;
use crate::bridge::inlet::Inlet;
use crate::bridge::lane::{Lane, MAIN};
use crate::bridge::lanes::Lanes;
use crate::bridge::learned::Learned;
use crate::bridge::link::Phase;
use crate::bridge::liveness::Liveness;
use crate::bridge::moving::Leaving;
use crate::bridge::node::{Node, NodeSettings};
use crate::bridge::pause::Wanted;
use crate::bridge::replay::Rate;
use crate::bridge::server::Server;
use crate::bridge::servers::Servers;
use crate::bridge::status::{LinkState, Loss, Lost, RuleStatus, Status};
use crate::bridge::subscription::Subscriptions;
use crate::bridge::suspicion::Suspicion;
use crate::config::model;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::{Packet, Version};
use crate::spool::inbound::Inbound;
use crate::spool::packet_ids::PacketIds;
use crate::spool::queue::Spool;
use crate::spool::settings::{Bounds, Keeping, Terms, WhenFull};
use crate::store::record::{Entry, Lsn, Record, RecoveredSpool, SpoolId};

/// What of the buffer is held in memory at once; the rest stands on disk.
const MEMORY_MESSAGES_MAX: usize = 1000;
const MEMORY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Identifiers rest for so many windows before they come again.
const IDENTIFIER_WINDOWS: u16 = 4;
/// Losses are logged at most so often.
const LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// What a bridge is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    pub bridge: model::Bridge,
    /// Its index in the configuration: the origin of what it receives.
    pub index: u16,
    /// `gateway.id`.
    pub gateway: Arc<str>,
    /// Of this gateway since its start, on what may come back. Not its name: two of one name must not take each
    /// other's messages for their own.
    pub mark: Arc<str>,
    /// `loops::may_return`.
    pub may_return: bool,
    /// Of the jitter of its back-off.
    pub seed: u64,
    /// The Sparkplug node that the gateway is, where it is one.
    pub node: Option<NodeSettings>,
    /// The server whose session the buffer's packets in flight belong to, where the database names one.
    pub holder: Option<Arc<str>>,
}

/// One link to one cloud broker.
///
/// A session that its only server says is present is trusted to be ours: who changes the client id or the URL of a
/// bridge whose buffer has messages in flight gets them sent again under the new one, where the server has no
/// such session and says so. Of several servers each has a session of its own: see `moving`.
#[derive(Debug)]
pub struct Bridge {
    settings: Settings,
    lanes: Lanes,
    dead: DeadLetters,
    /// What lanes and dead letters may hold together.
    bytes_max: u64,
    inlet: Inlet,
    arrivals: Arrivals,
    phase: Phase,
    server: Server,
    liveness: Liveness,
    servers: Servers,
    leaving: Option<Leaving>,
    backoff: Backoff,
    rng: fastrand::Rng,
    /// What this brain found wrong with the transport that is being closed.
    fault: Option<LinkFault>,
    last_error: Option<LinkFault>,
    wanted: Wanted,
    /// Where its rules take readings of Sparkplug devices.
    node: Option<Box<Node>>,
    /// It is configured no more, and its buffer is kept.
    retired: bool,
    /// When the credential of this connection is to be renewed.
    renewal_at: Option<Instant>,
    /// Every filter stands in the session that the server keeps.
    subscribed: bool,
    asked: Subscriptions,
    learned: Learned,
    greeting: Greeting,
    suspicion: Suspicion,
    aside: Aside,
    /// QoS 2 is taken for what the server ends connections for, and QoS 1 has not been acknowledged yet.
    qos_is_doubted: bool,
    /// Another client took the session, and may come again until then.
    contested_until: Option<Instant>,
    /// What was logged last of what the server grants less of.
    degraded_told: Vec<String>,
    counters: Counters,
    report: Report,
}

/// Since the start.
#[derive(Debug, Default)]
struct Counters {
    forwarded: u64,
    received: u64,
    duplicates_possible: u64,
    /// Those that the spool does not count, in all and by forward rules.
    lost: Lost,
    lost_by_rule: Box<[Lost]>,
}

/// What was logged of the losses.
#[derive(Debug)]
struct Report {
    told: Lost,
    next_at: Instant,
}

impl Bridge {
    /// Asks for its transport at once.
    pub fn new(
        settings: Settings,
        (spool, recovered): (SpoolId, Option<RecoveredSpool>),
        (dead, recovered_dead): (SpoolId, Option<RecoveredSpool>),
        now: Now,
        out: &mut Effects,
    ) -> Bridge {
        let bridge = &settings.bridge;
        let keeping = keeping_of(bridge);
        let queue = spool_of(bridge, MAIN, spool);
        let (queue, inbound) = if let Some(mut found) = recovered {
            let inbound = std::mem::take(&mut found.inbound);
            (queue.recover(found), Inbound::recover(spool, keeping, inbound))
        } else {
            let name = Arc::clone(&bridge.name);
            out.ledger.log.push(Record::BufferPut { spool, bridge: name });
            (queue, Inbound::new(spool, keeping))
        };
        out.connect = true;
        let node = settings.node.as_ref().and_then(|node| Node::new(node, bridge)).map(Box::new);
        let mut bridge = Bridge {
            node,
            lanes: Lanes::new(queue, bridge.buffer.replay_rate.map(Rate::per_second)),
            dead: DeadLetters::new(bridge, dead, recovered_dead),
            bytes_max: bridge.buffer.size_bytes,
            inlet: Inlet::new(inbound, bridge.protocol == Version::V5),
            arrivals: Arrivals::default(),
            phase: Phase::Connecting,
            server: Server::before_connack(bridge),
            liveness: Liveness::new(bridge.keep_alive, now.instant),
            servers: Servers::new(bridge, settings.holder.clone()),
            leaving: None,
            backoff: Backoff::new(bridge.reconnect),
            rng: fastrand::Rng::with_seed(settings.seed),
            fault: None,
            last_error: None,
            wanted: Wanted::Link,
            retired: false,
            renewal_at: None,
            subscribed: false,
            asked: Subscriptions::new(bridge.reconnect),
            learned: Learned::default(),
            greeting: Greeting::default(),
            suspicion: Suspicion::default(),
            aside: Aside::new(bridge.reconnect),
            qos_is_doubted: false,
            contested_until: None,
            degraded_told: Vec::new(),
            counters: Counters {
                lost_by_rule: vec![Lost::default(); bridge.forward.len()].into(),
                ..Counters::default()
            },
            report: Report { told: Lost::default(), next_at: Instant::ORIGIN },
            settings,
        };
        bridge.share_with_dead();
        bridge
    }

    pub fn name(&self) -> &Arc<str> {
        &self.settings.bridge.name
    }

    /// Whether messages of this bridge wait there.
    pub fn owns(&self, spool: SpoolId) -> bool {
        self.lanes.owns(spool) || self.dead.spool.id() == spool
    }

    /// The last position that something here waits for: `handle_durable` is due when it is reached.
    pub fn awaited(&self) -> Option<Lsn> {
        let kept = self.lanes.awaited().max(self.dead.spool.awaited());
        kept.max(self.inlet.awaited()).max(self.phase.awaited())
    }

    /// Records up to `lsn` are on disk.
    pub fn handle_durable(&mut self, lsn: Lsn, now: Now, out: &mut Effects) {
        self.lanes.handle_durable(lsn, &mut out.ledger);
        self.dead.spool.handle_durable(lsn, &mut out.ledger);
        self.inlet.handle_durable(lsn);
        self.handle_settled(lsn, now, out);
        self.pump(now, out);
    }

    /// Somebody who could publish more waits for what gathers here.
    pub fn handle_hurry(&mut self, out: &mut Effects) {
        self.lanes.handle_hurry(&mut out.ledger);
    }

    /// What a `Load` asked for.
    pub fn handle_loaded(&mut self, spool: SpoolId, entries: Vec<Entry>, now: Now, out: &mut Effects) {
        if self.dead.spool.id() == spool {
            self.dead.spool.handle_loaded(entries, &mut out.ledger);
        } else {
            self.lanes.handle_loaded(spool, entries, &mut out.ledger);
        }
        self.pump(now, out);
    }

    /// The hand wrote everything that it was given. To be called each time that it asks for more: until then
    /// no answer counts as missing, and QoS 0 is dropped once too much waits.
    pub fn handle_flushed(&mut self, now: Now, out: &mut Effects) {
        self.liveness.handle_flushed(now.instant);
        self.pump(now, out);
    }

    /// How much of the file system is free. Called now and then; `keep_free` holds as of the last call.
    pub fn handle_disk_free(&mut self, bytes: u64) {
        let buffer = &self.settings.bridge.buffer;
        let spare = bytes.saturating_sub(buffer.keep_free_bytes);
        let held = self.lanes.bytes() + self.dead.spool.bytes();
        self.bytes_max = buffer.size_bytes.min(held.saturating_add(spare));
        self.share_with_dead();
    }

    /// How large a message may still be accepted for a rule. None: whatever it is, it is taken or dropped here.
    pub fn room_bytes(&self, rule: u16) -> Option<u64> {
        let configured = self.settings.bridge.forward.get(usize::from(rule))?;
        let lane = lane::waiting(configured);
        (configured.when_full == model::WhenFull::Reject).then(|| self.lanes.room_bytes(lane, rule))
    }

    /// When `handle_timeout` has something to do, and what.
    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        if self.retired {
            return None;
        }
        let is_sending = self.phase.state() == LinkState::Up && self.liveness.has_room();
        let unreported = self.lost() != self.report.told;
        [
            self.phase.deadline(),
            self.lanes.next_deadline().map(|at| (at, "buffer")),
            self.dead.spool.next_deadline().map(|at| (at, "dead letters")),
            self.dead.report_at().map(|at| (at, "deaths")),
            self.is_greeted().then(|| self.liveness.next_deadline()).flatten().map(|at| (at, "liveness")),
            is_sending.then(|| self.lanes.replay_at()).flatten().map(|at| (at, "replay")),
            self.renewal_at.filter(|_| self.is_greeted()).map(|at| (at, "credential")),
            self.asked.retry_at().filter(|_| self.is_greeted()).map(|at| (at, "subscription")),
            self.asked.doubt.deadline().filter(|_| self.is_greeted()),
            self.left_out_due_at().map(|at| (at, "left out")),
            is_sending.then(|| self.aside.deadline()).flatten().map(|at| (at, "aside")),
            unreported.then_some((self.report.next_at, "losses")),
            self.leaving.as_ref().map(Leaving::deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        self.lanes.handle_timeout(now, &mut out.ledger);
        self.dead.spool.handle_timeout(now, &mut out.ledger);
        self.aside.handle_timeout(now.instant);
        self.handle_link_timeout(now, out);
        self.pump(now, out);
        self.report_losses(now);
    }

    /// The end: says `offline`, parts from the server and records what is only in memory.
    pub fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        self.say_goodbye(now, out);
        self.go_away(out);
        self.set_phase(Phase::Closed, out);
        self.lanes.write_all(&mut out.ledger);
        self.dead.spool.write_all(&mut out.ledger);
    }

    pub fn state(&self) -> LinkState {
        self.phase.state()
    }

    pub fn status(&self) -> Status {
        Status {
            state: self.phase.state(),
            server: self.servers.target().to_string(),
            queued_messages: self.lanes.messages(),
            queued_bytes: self.lanes.bytes(),
            inflight: self.lanes.inflight(),
            oldest: self.lanes.oldest(),
            accepted: self.lanes.last_seq().0,
            forwarded: self.counters.forwarded,
            received: self.counters.received,
            losses: self.lost().messages,
            losses_bytes: self.lost().bytes,
            rules: self.rules(),
            dead: self.dead.status(),
            duplicates_possible: self.counters.duplicates_possible,
            filters_refused: self.filters_missing(),
            degraded: self.degraded(),
            last_error: self.last_error.clone(),
            connected_since: match self.phase {
                Phase::Up { since } => Some(since.wall),
                _ => None,
            },
        }
    }

    /// Sends whatever may leave now.
    fn pump(&mut self, now: Now, out: &mut Effects) {
        if self.is_greeted() {
            while let Some(ack) = self.inlet.next_acknowledgement() {
                self.send(ack, now, out);
            }
        }
        if self.phase.state() == LinkState::Up {
            self.pump_spool(now, out);
        }
        self.pump_leaving(now, out);
        self.pump_filters(now, out);
        self.share_with_dead();
    }

    /// With an alias for its topic where the server takes one and the packet stays small enough.
    fn send_publish(&mut self, mut publish: Publish, now: Now, out: &mut Effects) {
        self.server.shorten(&mut publish);
        self.send(Packet::Publish(publish), now, out);
    }

    fn send(&mut self, packet: Packet, now: Now, out: &mut Effects) {
        self.liveness.handle_sent(now.instant);
        out.sends.push(packet);
    }

    /// One that the spool does not count. `forward`: by which rule it would have left.
    fn count_loss(&mut self, loss: Loss, forward: Option<u16>, bytes: usize) {
        self.counters.lost.add(loss, bytes as u64);
        let of_rule = forward.and_then(|rule| self.counters.lost_by_rule.get_mut(usize::from(rule)));
        if let Some(lost) = of_rule {
            lost.add(loss, bytes as u64);
        }
    }

    fn lost(&self) -> Lost {
        self.counters.lost.with(&self.lanes.tally().with(&self.dead.spool.tally()))
    }

    fn rules(&self) -> Vec<RuleStatus> {
        let rules =
            self.settings.bridge.forward.iter().zip(self.lanes.rules()).zip(&self.counters.lost_by_rule);
        rules
            .zip(self.dead.spool.rules())
            .map(|(((configured, standing), lost), dead)| RuleStatus {
                topic: configured.filter.as_str().into(),
                queued_messages: standing.messages,
                queued_bytes: standing.bytes,
                bytes_max: standing.bytes_max,
                lost: lost.with(&standing.tally.with(&dead.tally)),
            })
            .collect()
    }

    fn report_losses(&mut self, now: Now) {
        self.dead.report(&self.settings.bridge.name, now);
        let lost = self.lost();
        if lost == self.report.told || now.instant < self.report.next_at {
            return;
        }
        let (losses, bytes) = (lost.messages, lost.bytes.total());
        tracing::warn!(bridge = %self.settings.bridge.name, %losses, bytes, "messages were lost, in all since the start");
        self.report = Report { told: lost, next_at: now.instant + LOSS_REPORT_INTERVAL };
    }
}

fn keeping_of(bridge: &model::Bridge) -> Keeping {
    Keeping::Durable { commit: bridge.buffer.commit }
}

fn spool_of(bridge: &model::Bridge, lane: Lane, id: SpoolId) -> Spool {
    let (keeping, bounds, ids, rules) = spool_settings(bridge, lane);
    Spool::new(id, keeping, bounds, ids).with_rules(&rules)
}

fn spool_settings(bridge: &model::Bridge, lane: Lane) -> (Keeping, Bounds, PacketIds, Vec<Terms>) {
    let count = bridge.inflight.saturating_mul(IDENTIFIER_WINDOWS);
    let ids = lanes::ids_of(lane, count);
    (keeping_of(bridge), bounds_of(&bridge.buffer), ids, bridge.forward.iter().map(terms_of).collect())
}

fn terms_of(rule: &model::ForwardRule) -> Terms {
    let when_full = policy_of(rule.when_full);
    Terms { bytes_max: rule.size_bytes, when_full, expiry: rule.expiry }
}

fn policy_of(when_full: model::WhenFull) -> WhenFull {
    match when_full {
        model::WhenFull::DropOldest => WhenFull::DropOldest,
        model::WhenFull::DropNewest => WhenFull::DropNewest,
        model::WhenFull::Reject => WhenFull::Reject,
        model::WhenFull::KeepLast => WhenFull::KeepLast,
        model::WhenFull::Thin => WhenFull::Thin,
    }
}

fn bounds_of(buffer: &model::Buffer) -> Bounds {
    Bounds {
        messages_max: u64::MAX,
        bytes_max: buffer.size_bytes,
        age_max: (!buffer.age.is_zero()).then_some(buffer.age),
        when_full: policy_of(buffer.when_full),
        memory_messages_max: MEMORY_MESSAGES_MAX,
        memory_bytes_max: MEMORY_BYTES_MAX,
    }
}
