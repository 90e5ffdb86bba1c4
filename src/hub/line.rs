//! The commands behind the door: what each device was told to do, and the seats of the lines that do it. Carries
//! orders out and their ends in; decides nothing about them.

use std::sync::Arc;

use crate::base::time::{Instant, Now};
use crate::broker::effect::{Command, CommandAnswer};
use crate::device::command::Order;
use crate::device::effect::Done;
use crate::device::inbox::{Answer, Commanded, Inbox};
use crate::hub::core::Core;
use crate::hub::{Bell, Hub};
use crate::mqtt::message::Message;
use crate::spool::Ledger;
use crate::store::record::{Entry, Lsn, SpoolId};

/// One line as the door sees it.
#[derive(Debug)]
struct LineBox {
    /// Its devices, by their index in the configuration.
    devices: Vec<u16>,
    /// Rung when there may be something to begin.
    bell: Bell,
    ring: bool,
}

/// What all devices were told to do.
#[derive(Debug, Default)]
pub struct Commands {
    /// By the device's index.
    inboxes: Vec<Inbox>,
    lines: Vec<LineBox>,
}

impl Commands {
    /// The devices in the order of the configuration, and which of them each line has.
    pub fn new(inboxes: Vec<Inbox>, lines: Vec<Vec<u16>>) -> Self {
        let lines = lines.into_iter();
        let boxed = lines.map(|devices| LineBox { devices, bell: Bell::default(), ring: false });
        Self { inboxes, lines: boxed.collect() }
    }

    /// Commands that were refused because too many waited.
    pub fn refused(&self) -> u64 {
        self.inboxes.iter().map(Inbox::refused).sum()
    }

    pub fn owns(&self, spool: SpoolId) -> bool {
        self.inboxes.iter().any(|inbox| inbox.spool_id() == spool)
    }

    pub fn handle_durable(&mut self, lsn: Lsn, ledger: &mut Ledger) {
        for device in 0..self.inboxes.len() {
            if self.inboxes[device].handle_durable(lsn, ledger) {
                self.ring(device);
            }
        }
    }

    pub fn handle_loaded(&mut self, spool: SpoolId, entries: Vec<Entry>, ledger: &mut Ledger) {
        if let Some(device) = self.inboxes.iter().position(|inbox| inbox.spool_id() == spool) {
            self.inboxes[device].handle_loaded(entries, ledger);
            self.ring(device);
        }
    }

    pub fn handle_clock_set(&mut self, now: Now) {
        for inbox in &mut self.inboxes {
            inbox.handle_clock_set(now);
        }
    }

    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        for inbox in &mut self.inboxes {
            inbox.handle_timeout(now, ledger);
        }
    }

    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.inboxes.iter().filter_map(Inbox::next_deadline).min()
    }

    /// The bells that are to be rung.
    pub fn take_rings(&mut self) -> impl Iterator<Item = Bell> {
        let rung = self.lines.iter_mut().filter(|line| line.ring);
        rung.map(|line| {
            line.ring = false;
            line.bell.clone()
        })
    }

    fn ring(&mut self, device: usize) {
        let has = |line: &&mut LineBox| line.devices.iter().any(|at| usize::from(*at) == device);
        if let Some(line) = self.lines.iter_mut().find(has) {
            line.ring = true;
        }
    }
}

/// One line's place at the door.
pub struct LineSeat {
    hub: Arc<Hub>,
    index: usize,
    bell: Bell,
}

impl LineSeat {
    pub fn new(hub: Arc<Hub>, index: usize) -> Self {
        let bell = hub.lock().line_bell(index);
        Self { hub, index, bell }
    }

    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// The line begins, or begins again: what was begun before is to be begun again.
    pub fn handle_started(&self) {
        self.hub.visit(|core, _| core.handle_line_started(self.index));
    }

    /// What is to be begun now.
    pub fn take_orders(&self, orders: &mut Vec<Order>) {
        self.hub.visit(|core, now| core.take_orders(self.index, orders, now));
    }

    /// What the devices say, and the commands that have ended.
    pub fn report(&self, publishes: Vec<Message>, done: Vec<Done>) {
        self.hub.show(publishes.iter().chain(done.iter().filter_map(|done| done.answer.as_ref())));
        self.hub.visit(|core, now| {
            for message in publishes {
                core.publish_own(message, now);
            }
            core.handle_done(done, now);
        });
    }
}

/// What a line's hand brings, without the lock around it.
impl Core {
    pub fn line_bell(&self, line: usize) -> Bell {
        self.commands.lines[line].bell.clone()
    }

    pub fn handle_line_started(&mut self, line: usize) {
        for device in &self.commands.lines[line].devices {
            self.commands.inboxes[usize::from(*device)].handle_line_started(&mut self.out.ledger);
        }
        self.commands.lines[line].ring = true;
    }

    pub fn take_orders(&mut self, line: usize, orders: &mut Vec<Order>, now: Now) {
        for device in &self.commands.lines[line].devices {
            let inbox = &mut self.commands.inboxes[usize::from(*device)];
            while let Some(order) = inbox.next_order(now, &mut self.out.ledger) {
                orders.push(order);
            }
        }
    }

    /// Each command leaves its queue and its answer is published in one visit: a crash finds both or none.
    pub fn handle_done(&mut self, done: Vec<Done>, now: Now) {
        for done in done {
            let device = usize::from(done.device);
            let Some(inbox) = self.commands.inboxes.get_mut(device) else { continue };
            let answer = inbox.handle_done(done, &mut self.out.ledger);
            self.commands.ring(device);
            self.publish_answer(answer, now);
        }
    }

    pub(super) fn settle_commands(&mut self, now: Now) {
        for Command { device, message, hold, urgent } in std::mem::take(&mut self.out.commands) {
            let device = usize::from(device);
            let Some(inbox) = self.commands.inboxes.get_mut(device) else { continue };
            let commanded = Commanded { message, hold, urgent };
            let answer = inbox.handle_command(&commanded, now, &mut self.out.ledger);
            self.commands.ring(device);
            self.publish_answer(answer, now);
        }
    }

    pub(super) fn stop_commands(&mut self, now: Now) {
        for device in 0..self.commands.inboxes.len() {
            let answers = self.commands.inboxes[device].handle_shutdown(now, &mut self.out.ledger);
            for answer in answers {
                self.publish_answer(Some(answer), now);
            }
        }
    }

    fn publish_answer(&mut self, answer: Option<Answer>, now: Now) {
        match answer {
            None => {}
            Some(Answer { message: None, hold, .. }) => self.out.ledger.released.extend(hold),
            Some(Answer { message: Some(message), hold, urgent }) => {
                let answer = CommandAnswer { message, hold, urgent };
                self.broker.handle_answer(answer, now, &mut self.out);
            }
        }
    }
}
