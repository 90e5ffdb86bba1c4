//! Another configuration behind the door, applied in one visit: who is told what from now on. Names keep their indices
//! for as long as the process runs, so that nothing that is under way is taken for another's. Prepares and checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::time::Now;
use crate::device::inbox::Inbox;
use crate::device::receiver::Receiver;
use crate::hub::Hub;
use crate::hub::core::Core;
use crate::hub::left::LeftOvers;
use crate::hub::line::EAR;
use crate::hub::reach::{CommandRoute, command_routes};

/// Names that devices can have, those of earlier configurations included.
const DEVICES_MAX: usize = EAR as usize;

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
    /// Whether devices of these names can be told apart from all that there were.
    pub fn has_room_for(&self, devices: &BTreeSet<Arc<str>>) -> bool {
        let core = self.lock();
        let unknown = devices.iter().filter(|name| core.commands.index_of(name).is_none()).count();
        core.commands.count() + unknown < DEVICES_MAX
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
        let named: BTreeSet<Arc<str>> = receivers.iter().map(|receiver| Arc::clone(receiver.name())).collect();
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
