//! One broker with its bridges, lines and disk: the real `Core`, entered as `Hub` enters it, and what it hands
//! over. Starts and dies; decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate::app::prepare::build;
use tidegate::base::time::{Duration, Instant, Now};
use tidegate::broker::effect::ConnKey;
use tidegate::config::model::Config;
use tidegate::hub::Bell;
use tidegate::hub::core::Core;

use super::disk::Disk;
use super::line::LineModel;

/// A file system that is nowhere near its end.
pub const FREE_BYTES: u64 = 1 << 40;

/// What the hand of a bridge is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkHand {
    /// Waits for its bell.
    Idle,
    Opening,
    Open(u64),
}

/// What is to be looked at, because its bell rang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    Conn(u64),
    Link(usize),
    Line,
}

/// What a visit left to do beside its effects.
#[derive(Debug, Default)]
pub struct After {
    pub rung: Vec<Rung>,
    /// The timer is to wake then.
    pub wake_at: Option<Instant>,
    /// The disk has something to do and rests.
    pub disk: bool,
}

pub struct Site {
    pub config: Arc<Config>,
    pub core: Option<Core>,
    pub disk: Disk,
    /// Counts starts, so that what belongs to an earlier one is known.
    pub epoch: u64,
    pub lines: Vec<LineModel>,
    pub conns: BTreeMap<u64, (ConnKey, Bell)>,
    pub links: Vec<LinkHand>,
    link_bells: Vec<Bell>,
    line_bell: Option<Bell>,
    pub timer_at: Option<Instant>,
    /// Nothing connects to it until then.
    pub unreachable_until: Instant,
    pub slow_disk_until: Instant,
    pub readings_in_a_batch: usize,
    /// What the file system has left.
    pub free_bytes: u64,
    /// Connections that it took since its start, and how long those that are over lasted together.
    pub taken: u32,
    pub lived: Duration,
}

impl Site {
    pub fn new(config: Arc<Config>, readings_in_a_batch: usize) -> Self {
        Self {
            config,
            core: None,
            disk: Disk::default(),
            epoch: 0,
            lines: Vec::new(),
            conns: BTreeMap::new(),
            links: Vec::new(),
            link_bells: Vec::new(),
            line_bell: None,
            timer_at: None,
            unreachable_until: Instant::ORIGIN,
            slow_disk_until: Instant::ORIGIN,
            readings_in_a_batch,
            free_bytes: FREE_BYTES,
            taken: 0,
            lived: Duration::ZERO,
        }
    }

    /// From what the disk holds, by the way of the real start.
    pub fn start(&mut self, window: usize, seed: u64, now: Now) {
        self.epoch += 1;
        let mut recovered = self.disk.durable.recovered(window);
        let (mut core, lines) = build(&self.config, &mut recovered, now, seed);
        self.lines =
            lines.into_iter().map(|line| LineModel::new(line, self.readings_in_a_batch, now)).collect();
        let count = core.bridges().len();
        self.links = vec![LinkHand::Idle; count];
        self.link_bells = (0..count).map(|index| core.link(index).bell()).collect();
        (self.taken, self.lived) = (0, Duration::ZERO);
        self.line_bell = (!self.lines.is_empty()).then(|| core.line_bell(0));
        self.core = Some(core);
    }

    /// Without a word.
    pub fn die(&mut self, kept: usize) {
        self.core = None;
        self.lines.clear();
        self.conns.clear();
        self.links.fill(LinkHand::Idle);
        self.link_bells.clear();
        self.line_bell = None;
        self.timer_at = None;
        self.disk.crash(kept);
    }

    /// One entry of the door. None: nobody is there.
    pub fn visit<R>(&mut self, now: Now, act: impl FnOnce(&mut Core, Now) -> R) -> Option<(R, After)> {
        let core = self.core.as_mut()?;
        let result = act(core, now);
        core.settle(now);
        let ledger = core.ledger();
        if !ledger.log.is_empty() {
            let last = ledger.log.last();
            let records = ledger.log.take();
            self.disk.push(last, records);
        }
        for load in ledger.loads.drain(..) {
            self.disk.push_load(load);
        }
        let wakes = core.plan_wake();
        let bells = core.take_bells();
        let mut after = After { disk: !self.disk.busy && !self.disk.is_idle(), ..After::default() };
        if wakes {
            after.wake_at = core.next_deadline();
        }
        for bell in bells {
            let link = self.link_bells.iter().position(|link| Arc::ptr_eq(link, &bell));
            if let Some(link) = link {
                after.rung.push(Rung::Link(link));
            } else if self.line_bell.as_ref().is_some_and(|line| Arc::ptr_eq(line, &bell)) {
                after.rung.push(Rung::Line);
            } else {
                let conn = self.conns.iter().find(|(_, (_, of))| Arc::ptr_eq(of, &bell));
                after.rung.extend(conn.map(|(id, _)| Rung::Conn(*id)));
            }
        }
        Some((result, after))
    }
}
