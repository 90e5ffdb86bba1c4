//! The commands behind the door: what each device was told to do, and the seats of the lines that do it. Carries
//! orders out and their ends in; decides nothing about them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::time::{Instant, Now};
use crate::broker::effect::{Command, CommandAnswer};
use crate::device::command::Order;
use crate::device::effect::Done;
use crate::device::inbox::{Answer, Commanded, Inbox};
use crate::device::receiver::Receiver;
use crate::hub::core::Core;
use crate::hub::node::NODE;
use crate::hub::{Bell, Hub};
use crate::mqtt::message::Message;
use crate::spool::Ledger;
use crate::store::record::{Entry, Lsn, SpoolId};

/// In the router the gateway's own ear stands among the devices; no device has this index.
pub const EAR: u16 = u16::MAX - 1;

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
    /// Which line each device is on.
    line_of: Vec<Option<usize>>,
    lines: Vec<LineBox>,
    /// Lines that are to be rung: a visit asks none of the others.
    rung: Vec<usize>,
    /// When an inbox has something to do, and which: a visit asks the first alone.
    deadlines: BTreeSet<(Instant, usize)>,
    /// As it stands in `deadlines`, by the device's index.
    deadline_of: Vec<Option<Instant>>,
    /// Whether the device is configured, by its index. What the others were told waits until they are again.
    configured: Vec<bool>,
    /// Places in `lines` that no line has.
    vacant: Vec<usize>,
    /// Inboxes that wait for the disk.
    awaiting: BTreeSet<usize>,
}

impl Commands {
    /// The devices in the order of the configuration, and which of them each line has.
    pub fn new(inboxes: Vec<Inbox>, lines: Vec<Vec<u16>>) -> Self {
        let lines = lines.into_iter();
        let boxed = lines.map(|devices| LineBox { devices, bell: Bell::default(), ring: false });
        let lines: Vec<_> = boxed.collect();
        let mut line_of = vec![None; inboxes.len()];
        for (index, line) in lines.iter().enumerate() {
            for device in &line.devices {
                if let Some(place) = line_of.get_mut(usize::from(*device)) {
                    *place = Some(index);
                }
            }
        }
        let devices = inboxes.len();
        let deadline_of = vec![None; devices];
        let configured = vec![true; devices];
        let mut commands = Self { inboxes, line_of, lines, deadline_of, configured, ..Self::default() };
        for device in 0..devices {
            commands.note(device);
        }
        commands
    }

    /// Lets one inbox do something, and knows afterwards what it waits for.
    fn visit<R>(&mut self, device: usize, act: impl FnOnce(&mut Inbox) -> R) -> Option<R> {
        let result = self.inboxes.get_mut(device).map(act);
        self.note(device);
        result
    }

    fn note(&mut self, device: usize) {
        let (Some(inbox), Some(known)) = (self.inboxes.get(device), self.deadline_of.get_mut(device)) else {
            return;
        };
        let deadline = inbox.next_deadline().map(|(at, _)| at);
        if *known != deadline {
            if let Some(known) = known.take() {
                self.deadlines.remove(&(known, device));
            }
            self.deadlines.extend(deadline.map(|at| (at, device)));
            *known = deadline;
        }
        if inbox.awaits_disk() {
            self.awaiting.insert(device);
        } else {
            self.awaiting.remove(&device);
        }
    }

    /// Of the device of this name, with its index.
    pub(super) fn inbox_of(&self, device: &str) -> Option<(usize, &Inbox)> {
        self.configured().find(|(_, inbox)| inbox.device() == device)
    }

    /// The devices that are configured.
    pub(super) fn configured(&self) -> impl Iterator<Item = (usize, &Inbox)> {
        let known = self.inboxes.iter().zip(&self.configured).enumerate();
        known.filter(|(_, (_, configured))| **configured).map(|(index, (inbox, _))| (index, inbox))
    }

    /// The index of the device of this name, be it configured or not.
    pub(super) fn index_of(&self, device: &str) -> Option<usize> {
        self.inboxes.iter().position(|inbox| inbox.device() == device)
    }

    /// How many names have an index.
    pub(super) fn count(&self) -> usize {
        self.inboxes.len()
    }

    /// A device that has had no index so far.
    pub(super) fn add(&mut self, inbox: Inbox) {
        self.inboxes.push(inbox);
        self.line_of.push(None);
        self.deadline_of.push(None);
        self.configured.push(true);
        self.note(self.inboxes.len() - 1);
    }

    /// The device is told other things from now on.
    pub(super) fn replace(&mut self, device: usize, gateway: &str, settings: Receiver) {
        self.visit(device, |inbox| inbox.replace_settings(gateway, settings));
        if let Some(configured) = self.configured.get_mut(device) {
            *configured = true;
        }
    }

    /// Nobody tells the device anything from now on.
    pub(super) fn retire(&mut self, device: usize, now: Now, ledger: &mut Ledger) -> Vec<Answer> {
        if let Some(configured) = self.configured.get_mut(device) {
            *configured = false;
        }
        self.visit(device, |inbox| inbox.handle_shutdown(now, ledger)).unwrap_or_default()
    }

    /// A place for one more line, which drives nothing yet.
    fn open_line(&mut self) -> usize {
        let opened = LineBox { devices: Vec::new(), bell: Bell::default(), ring: false };
        if let Some(index) = self.vacant.pop() {
            self.lines[index] = opened;
            return index;
        }
        self.lines.push(opened);
        self.lines.len() - 1
    }

    fn close_line(&mut self, index: usize) {
        self.drive(index, &[]);
        self.vacant.push(index);
    }

    /// The line has these devices, and no other has them.
    fn drive(&mut self, index: usize, devices: &[u16]) {
        for line in &mut self.lines {
            line.devices.retain(|device| !devices.contains(device));
        }
        for place in self.line_of.iter_mut().filter(|place| **place == Some(index)) {
            *place = None;
        }
        for device in devices {
            if let Some(place) = self.line_of.get_mut(usize::from(*device)) {
                *place = Some(index);
            }
        }
        if let Some(line) = self.lines.get_mut(index) {
            line.devices = devices.to_vec();
        }
    }

    /// Commands that were refused because too many waited.
    pub fn refused(&self) -> u64 {
        self.inboxes.iter().map(Inbox::refused).sum()
    }

    pub fn owns(&self, spool: SpoolId) -> bool {
        self.inboxes.iter().any(|inbox| inbox.spool_id() == spool)
    }

    pub fn handle_durable(&mut self, lsn: Lsn, ledger: &mut Ledger) {
        for device in self.awaiting.iter().copied().collect::<Vec<_>>() {
            if self.visit(device, |inbox| inbox.handle_durable(lsn, ledger)) == Some(true) {
                self.ring(device);
            }
        }
    }

    pub fn handle_loaded(&mut self, spool: SpoolId, entries: Vec<Entry>, ledger: &mut Ledger) {
        if let Some(device) = self.inboxes.iter().position(|inbox| inbox.spool_id() == spool) {
            self.visit(device, |inbox| inbox.handle_loaded(entries, ledger));
            self.ring(device);
        }
    }

    pub fn handle_clock_set(&mut self, now: Now) {
        for device in 0..self.inboxes.len() {
            self.visit(device, |inbox| inbox.handle_clock_set(now));
        }
    }

    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        let due = self.deadlines.range(..=(now.instant, usize::MAX));
        for device in due.map(|(_, device)| *device).collect::<Vec<_>>() {
            self.visit(device, |inbox| inbox.handle_timeout(now, ledger));
        }
    }

    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.deadlines.first().map(|(at, _)| (*at, "commands"))
    }

    /// The bells that are to be rung.
    pub fn take_rings(&mut self) -> impl Iterator<Item = Bell> {
        let Self { rung, lines, .. } = self;
        rung.drain(..).filter_map(|index| {
            let line = lines.get_mut(index)?;
            line.ring = false;
            Some(line.bell.clone())
        })
    }

    fn ring(&mut self, device: usize) {
        if let Some(line) = self.line_of.get(device).copied().flatten() {
            self.ring_line(line);
        }
    }

    fn ring_line(&mut self, index: usize) {
        if let Some(line) = self.lines.get_mut(index).filter(|line| !line.ring) {
            line.ring = true;
            self.rung.push(index);
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

    /// A place for a line that comes while the gateway runs.
    pub fn open(hub: Arc<Hub>) -> Self {
        let index = hub.lock().commands.open_line();
        Self::new(hub, index)
    }

    /// The line has ended for good: its place is free.
    pub fn close(&self) {
        self.hub.lock().commands.close_line(self.index);
    }

    /// The line has these devices from now on. What was begun of those that are new to it is to be begun again.
    pub fn handle_devices(&self, devices: &[u16], fresh: &[u16]) {
        self.hub.visit(|core, _| core.handle_line_devices(self.index, devices, fresh));
    }

    pub fn bell(&self) -> Bell {
        self.bell.clone()
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
        for device in self.commands.lines[line].devices.clone() {
            let ledger = &mut self.out.ledger;
            self.commands.visit(usize::from(device), |inbox| inbox.handle_line_started(ledger));
        }
        self.commands.ring_line(line);
    }

    pub fn handle_line_devices(&mut self, line: usize, devices: &[u16], fresh: &[u16]) {
        self.commands.drive(line, devices);
        for device in fresh {
            let ledger = &mut self.out.ledger;
            self.commands.visit(usize::from(*device), |inbox| inbox.handle_line_started(ledger));
        }
        self.commands.ring_line(line);
    }

    pub fn take_orders(&mut self, line: usize, orders: &mut Vec<Order>, now: Now) {
        for at in 0..self.commands.lines[line].devices.len() {
            let device = usize::from(self.commands.lines[line].devices[at]);
            let ledger = &mut self.out.ledger;
            self.commands.visit(device, |inbox| {
                while let Some(order) = inbox.next_order(now, ledger) {
                    orders.push(order);
                }
            });
        }
    }

    /// Each command leaves its queue and its answer is published in one visit: a crash finds both or none.
    pub fn handle_done(&mut self, done: Vec<Done>, now: Now) {
        for done in done {
            let device = usize::from(done.device);
            let ledger = &mut self.out.ledger;
            let Some(answer) = self.commands.visit(device, |inbox| inbox.handle_done(done, ledger)) else {
                continue;
            };
            self.commands.ring(device);
            self.publish_answer(answer, now);
        }
    }

    pub(super) fn settle_commands(&mut self, now: Now) {
        for command in std::mem::take(&mut self.out.commands) {
            if command.device == NODE {
                self.handle_node_command(command, now);
                continue;
            }
            let Command { device, message, hold, urgent } = command;
            if device == EAR {
                self.hear(&message);
                self.out.ledger.released.extend(hold);
                continue;
            }
            self.take_command(usize::from(device), &Commanded { message, hold, urgent }, now);
        }
    }

    /// One that stands for a command of another kind: the device is the one that its topic names.
    pub(super) fn handle_order(&mut self, order: &Commanded, now: Now) {
        let takes = |(_, inbox): &(usize, &Inbox)| inbox.takes(&order.message.topic);
        let found = self.commands.configured().find(takes).map(|(device, _)| device);
        match found {
            Some(device) => self.take_command(device, order, now),
            None => self.out.ledger.released.extend(order.hold),
        }
    }

    pub(super) fn take_command(&mut self, device: usize, commanded: &Commanded, now: Now) {
        let ledger = &mut self.out.ledger;
        let answered = self.commands.visit(device, |inbox| inbox.handle_command(commanded, now, ledger));
        let Some(answer) = answered else { return };
        self.commands.ring(device);
        self.publish_answer(answer, now);
    }

    pub(super) fn stop_commands(&mut self, now: Now) {
        for device in 0..self.commands.inboxes.len() {
            let ledger = &mut self.out.ledger;
            let answers = self.commands.visit(device, |inbox| inbox.handle_shutdown(now, ledger));
            for answer in answers.into_iter().flatten() {
                self.publish_answer(Some(answer), now);
            }
        }
    }

    pub(super) fn publish_answer(&mut self, answer: Option<Answer>, now: Now) {
        match answer {
            None => {}
            Some(Answer { message: None, hold, .. }) => self.out.ledger.released.extend(hold),
            Some(Answer { message: Some(message), hold, urgent }) => {
                let Some(message) = self.asked.take_answer(message) else {
                    self.out.ledger.released.extend(hold);
                    return;
                };
                let answer = CommandAnswer { message, hold, urgent };
                self.broker.handle_answer(answer, now, &mut self.out);
            }
        }
    }
}
