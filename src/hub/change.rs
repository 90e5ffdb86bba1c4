//! Another configuration behind the door, applied in one visit: who is told what from now on. Names keep their indices
//! for as long as the process runs, so that nothing that is under way is taken for another's. Prepares and checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::time::Now;
use crate::bridge::change::NewSettings;
use crate::bridge::dead;
use crate::bridge::lane::{LANES, MAIN};
use crate::bridge::node::NodeSettings;
use crate::bridge::status::LinkState;
use crate::bridge::{Bridge, Settings};
use crate::device::inbox::Inbox;
use crate::device::receiver::Receiver;
use crate::hub::Hub;
use crate::hub::core::Core;
use crate::hub::left::{Found, LeftOvers};
use crate::hub::line::EAR;
use crate::hub::link::LinkBox;
use crate::hub::reach::{CommandRoute, command_routes};
use crate::sparkplug::session::{Definition, Session};

/// Names that devices can have, those of earlier configurations included.
const DEVICES_MAX: usize = EAR as usize;
/// The same of bridges.
const BRIDGES_MAX: usize = u16::MAX as usize;

/// The devices of a configuration.
#[derive(Debug)]
pub struct Devices {
    pub gateway: Arc<str>,
    pub receivers: Vec<Receiver>,
    /// Those that are other than before.
    pub changed: BTreeSet<Arc<str>>,
    /// What the gateway itself listens to, beside its devices.
    pub own: BTreeSet<CommandRoute>,
}

impl Hub {
    /// Whether devices and bridges of these names can be told apart from all that there were.
    pub fn has_room_for(&self, devices: &BTreeSet<Arc<str>>, bridges: &BTreeSet<Arc<str>>) -> bool {
        let core = self.lock();
        let devices = devices.iter().filter(|name| core.commands.index_of(name).is_none()).count();
        let is_known = |name: &Arc<str>| core.bridges.iter().any(|bridge| bridge.name() == name);
        let bridges = bridges.iter().filter(|name| !is_known(name)).count();
        core.commands.count() + devices < DEVICES_MAX && core.bridges.len() + bridges < BRIDGES_MAX
    }

    /// Tells these devices, and no others, from now on. Their indices.
    pub fn replace_devices(&self, devices: Devices) -> BTreeMap<Arc<str>, u16> {
        self.visit(|core, now| core.replace_devices(devices, now))
    }
}

impl Core {
    /// What the start found and nobody has taken.
    #[must_use]
    pub fn with_left_overs(mut self, left: LeftOvers) -> Self {
        self.left = left;
        self
    }

    /// Routes the commands of all devices, and what the gateway itself listens to.
    #[must_use]
    pub fn routing(mut self, own: BTreeSet<CommandRoute>) -> Self {
        self.own_routes = own;
        for (filter, index) in self.command_routes() {
            self.broker.command(&filter, index);
        }
        self
    }

    fn command_routes(&self) -> BTreeSet<CommandRoute> {
        let mut routes = command_routes(self.commands.configured().map(|(_, inbox)| inbox));
        routes.extend(self.own_routes.iter().cloned());
        routes
    }

    fn replace_devices(&mut self, devices: Devices, now: Now) -> BTreeMap<Arc<str>, u16> {
        let Devices { gateway, receivers, changed, own } = devices;
        let before = self.command_routes();
        let named: BTreeSet<Arc<str>> =
            receivers.iter().map(|receiver| Arc::clone(receiver.name())).collect();
        let configured = self.commands.configured();
        let gone = configured.filter(|(_, inbox)| !named.contains(inbox.device())).map(|(index, _)| index);
        for index in gone.collect::<Vec<_>>() {
            for answer in self.commands.retire(index, now, &mut self.out.ledger) {
                self.publish_answer(Some(answer), now);
            }
        }
        for receiver in receivers {
            self.replace_device(&gateway, receiver, &changed);
        }
        self.own_routes = own;
        let after = self.command_routes();
        for (filter, index) in before.difference(&after) {
            self.broker.forget_command(filter, *index);
        }
        for (filter, index) in after.difference(&before) {
            self.broker.command(filter, *index);
        }
        let configured = self.commands.configured();
        configured.map(|(_, inbox)| (inbox.device().into(), inbox.index())).collect()
    }

    fn replace_device(&mut self, gateway: &str, receiver: Receiver, changed: &BTreeSet<Arc<str>>) {
        let name = Arc::clone(receiver.name());
        match self.commands.index_of(&name) {
            Some(index) if changed.contains(&name) => self.commands.replace(index, gateway, receiver),
            Some(_) => {}
            None => {
                let found = self.left.take(&Inbox::spool_name(&name));
                let spool = found.as_ref().map_or_else(|| self.broker.next_spool_id(), |found| found.spool);
                // `has_room_for` was asked.
                let index = u16::try_from(self.commands.count()).unwrap_or(u16::MAX);
                let recovered = found.map(|found| found.recovered);
                self.commands.add(Inbox::new(gateway, index, receiver, spool, recovered));
            }
        }
    }
}

/// The bridges of a configuration.
#[derive(Debug)]
pub struct Bridges {
    pub gateway: Arc<str>,
    pub bridges: Vec<NewSettings>,
    /// Those that are other than before, or new. Their links have parted, as those of bridges that are gone.
    pub changed: BTreeSet<Arc<str>>,
    /// Of the jitter of back-offs.
    pub seed: u64,
}

impl Hub {
    /// The link of a bridge ends as at a stop. Whether it has something to say to its server.
    pub fn part_bridge(&self, name: &str) -> bool {
        let Some(index) = self.bridge_of(name) else { return false };
        self.visit(|core, now| {
            let was_there = core.bridges()[index].state();
            core.visit_bridge(index, |bridge, out| bridge.handle_shutdown(now, out));
            !matches!(was_there, LinkState::Down | LinkState::Paused | LinkState::Connecting)
        })
    }

    /// Forwards to these bridges, and to no others, from now on.
    pub fn replace_bridges(&self, bridges: Bridges) {
        self.visit(|core, now| core.replace_bridges(bridges, now));
    }

    /// The gateway is this Sparkplug node from now on: for its own clients, and for the bridges that tell of it already
    /// where it stays the same node.
    pub fn replace_node(&self, before: Option<&Definition>, after: Option<&Definition>) {
        self.visit(|core, now| match (before, after) {
            (Some(before), Some(after)) if before.node == after.node => core.redefine_node((before, after)),
            _ => core.replace_node(after, now),
        });
    }
}

impl Core {
    /// The links of those that change have parted.
    pub fn replace_bridges(&mut self, bridges: Bridges, now: Now) {
        let Bridges { gateway, bridges, changed, seed } = bridges;
        for index in 0..self.bridges.len() {
            let name = self.bridges[index].name();
            let is_gone = !bridges.iter().any(|new| new.bridge.name == *name);
            if is_gone && !self.bridges[index].is_retired() {
                self.forget_rules(index);
                self.visit_bridge(index, Bridge::retire);
            }
        }
        for new in bridges {
            let known = self.bridges.iter().position(|bridge| *bridge.name() == new.bridge.name);
            match known {
                Some(index) if changed.contains(&new.bridge.name) => {
                    self.forget_rules(index);
                    self.visit_bridge(index, |bridge, out| bridge.replace_settings(new, now, out));
                    self.begin_rules(index);
                }
                Some(index) => self.bridges[index].set_may_return(new.may_return),
                None => self.add_bridge(&gateway, new, seed, now),
            }
        }
    }

    fn add_bridge(&mut self, gateway: &Arc<str>, new: NewSettings, seed: u64, now: Now) {
        let (index, found) = (self.bridges.len(), self.left.take(&new.bridge.name));
        let (spool, recovered, holder, bd_seq) = match found {
            Some(Found { spool, recovered, holder, bd_seq }) => (spool, Some(recovered), holder, bd_seq),
            None => (self.broker.next_spool_id(), None, None, None),
        };
        let settings = Settings {
            // `has_room_for` was asked.
            index: u16::try_from(index).unwrap_or(u16::MAX),
            gateway: Arc::clone(gateway),
            mark: self.broker.mark(),
            may_return: new.may_return,
            seed: seed.wrapping_add(index as u64),
            node: new.definition.map(|definition| NodeSettings { definition, bd_seq }),
            holder,
            bridge: new.bridge,
        };
        let dead = match self.left.take(&dead::spool_name(&settings.bridge.name)) {
            Some(found) => (found.spool, Some(found.recovered)),
            None => (self.broker.next_spool_id(), None),
        };
        std::mem::swap(&mut self.out.ledger, &mut self.link_out.ledger);
        let bridge = Bridge::new(settings, (spool, recovered), dead, now, &mut self.link_out);
        std::mem::swap(&mut self.out.ledger, &mut self.link_out.ledger);
        self.bridges.push(bridge);
        self.links.push(LinkBox::asking());
        self.rules.push(0);
        // The wish is the box's own.
        self.link_out.connect = false;
        // What waits in a lane that no rule has any more leaves all the same.
        for lane in LANES.into_iter().filter(|lane| *lane != MAIN) {
            let name = lane.spool_name(self.bridges[index].name());
            if let Some(found) = self.left.take(&name) {
                self.visit_bridge(index, |bridge, out| {
                    bridge.add_lane(lane, found.spool, Some(found.recovered), out);
                });
            }
        }
        self.begin_rules(index);
    }

    fn forget_rules(&mut self, index: usize) {
        let Ok(bridge) = u16::try_from(index) else { return };
        let forward = self.bridges[index].configured().forward.iter();
        for (rule, forward) in (0u16..).zip(forward) {
            self.broker.forget_forward(&forward.filter, bridge, rule);
        }
    }

    fn begin_rules(&mut self, index: usize) {
        for lane in self.bridges[index].lacking_lanes() {
            let spool = self.broker.next_spool_id();
            self.visit_bridge(index, |bridge, out| bridge.add_lane(lane, spool, None, out));
        }
        let Ok(bridge) = u16::try_from(index) else { return };
        let forward = &self.bridges[index].configured().forward;
        self.rules[index] = u16::try_from(forward.len()).unwrap_or(u16::MAX);
        for (rule, forward) in (0u16..).zip(forward) {
            self.broker.forward(&forward.filter, bridge, rule);
        }
        self.update_gates(index);
    }

    fn redefine_node(&mut self, definitions: (&Definition, &Definition)) {
        if let Some(node) = &mut self.node {
            node.redefine(definitions, |_| true);
        }
        for bridge in &mut self.bridges {
            bridge.redefine_node(definitions);
        }
    }

    fn replace_node(&mut self, definition: Option<&Definition>, now: Now) {
        self.stop_node(now);
        let known = self.node.take();
        let last = self.left.lan_birth();
        self.node = definition.map(|definition| Session::new(definition, last, |_| true));
        match (&mut self.node, &known) {
            (Some(node), Some(known)) => node.recall(known),
            // Its number goes on where it comes again.
            (None, Some(known)) => self.left.keep_lan_birth(known.bd_seq()),
            (_, None) => {}
        }
        self.handle_started(now);
    }
}
