//! From a configuration to brains with their state: everything before anything runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use crate::app::clock::Watch;
use crate::app::error::StartError;
use crate::app::fleet::Plan;
use crate::app::{Gateway, Prepared, homeassistant, workers_default};
use crate::base::boot::Boot;
use crate::base::time::{Clock, Duration, Now};
use crate::bridge::change::NewSettings;
use crate::bridge::dead;
use crate::bridge::lane::{self, LANES, MAIN};
use crate::bridge::loops::{echo, may_return};
use crate::bridge::node::NodeSettings;
use crate::bridge::{self, Bridge};
use crate::broker::effect::Effects;
use crate::broker::{self, Broker};
use crate::config::model::{self, Config, Durability};
use crate::config::provider::Provider;
use crate::device::homeassistant::BIRTH_TOPIC;
use crate::device::inbox::Inbox;
use crate::device::metrics;
use crate::device::receiver::Receiver;
use crate::hub::change;
use crate::hub::core::Core;
use crate::hub::left::{Found, LeftOvers};
use crate::hub::line::{Commands, EAR};
use crate::hub::login::Logins;
use crate::hub::node::NODE;
use crate::hub::reach::CommandRoute;
use crate::hub::{Hub, HubObserver};
use crate::mqtt::topic::TopicFilter;
use crate::sparkplug::session::{Definition, Session};
use crate::store::record::{Recovered, SpoolId};
use crate::store::recover::{self, Window};
use crate::store::schema::{Sync, last_written};
use crate::store::writer::Writer;

/// What a start takes of each spool into memory; the rest is read when its turn comes.
const RECOVERED_WINDOW: Window = Window { messages_max: 1000, bytes_max: 1 << 20 };
/// The longest that a message for a durable session waits in memory.
const SESSION_COMMIT: Duration = Duration::from_millis(100);

impl Gateway {
    /// Opens the database, recovers and builds the brains. Nothing is polled, bridged or served yet.
    pub fn prepare(config: Arc<Config>, clock: Clock) -> Result<Prepared, StartError> {
        let Opened { hub, writer, lines, watch } = open(&config, clock)?;
        if let Some(path) = writer.set_aside() {
            tracing::error!(path = %path.display(), "the database was damaged: it was set aside and a new one begun");
        }
        let logins = Logins::attach(&hub, config.broker.credentials.clone()).map_err(StartError::Logins)?;
        Ok(Prepared { config, hub, writer, logins, lines, watch, workers: workers_default() })
    }
}

/// The brains over an open database that nobody else can open.
pub(super) struct Opened {
    pub(super) hub: Arc<Hub>,
    pub(super) writer: Arc<Writer>,
    pub(super) lines: Vec<Plan>,
    pub(super) watch: Watch,
}

pub(super) fn open(config: &Config, clock: Clock) -> Result<Opened, StartError> {
    // First: by a clock that is not set, nothing that was stored is old or new.
    let watch = Watch::begin(&clock, last_written(&config.gateway.data_dir));
    let now = clock.now();
    let sync = sync_of(config.gateway.durability);
    let opened = recover::open(&config.gateway.data_dir, sync, RECOVERED_WINDOW, now);
    let (database, mut recovered) = opened.map_err(StartError::Store)?;
    let watch = watch.recalling(database.date_millis);
    if database.unreadable > 0 {
        tracing::error!(rows = database.unreadable, "the database holds rows that cannot be read");
    }
    let (core, lines) = build(config, &mut recovered, now, seed(now));
    let hub = Hub::new(core, clock, config.broker.limits.packet_bytes as usize);
    let observer: Weak<Hub> = Arc::downgrade(&hub);
    let writer = Writer::start(database, Box::new(HubObserver(observer))).map_err(StartError::Store)?;
    let writer = Arc::new(writer);
    hub.attach_writer(writer.clone());
    Ok(Opened { hub, writer, lines, watch })
}

/// The brains with what recovery found, and the lines that they poll. `seed` is of all chance in them.
pub fn build(config: &Config, recovered: &mut Recovered, now: Now, seed: u64) -> (Core, Vec<Plan>) {
    let mut out = Effects::default();
    let mut broker = Broker::new(broker_settings(config, seed));
    broker.recover(recovered, now, &mut out);
    let definition = metrics::definition(config).map(Arc::new);
    let last = recovered.births.get(&SpoolId::LAN).copied();
    let mut left = LeftOvers::of(recovered);
    let bridges =
        Bridges { config, definition: definition.clone(), now, seed }.build(&mut broker, &mut left, &mut out);
    let inboxes = inboxes(config, &mut broker, &mut left);
    left.put_down();
    warn_of(&left);
    let lines = Plan::all(config);
    let commands = Commands::new(inboxes, lines.iter().map(Plan::devices).collect());
    let own = own_routes(config, definition.as_deref());
    let node = definition.map(|definition| Session::new(&definition, last, |_| true));
    let core = Core::new(broker, bridges, commands, out).with_node(node).with_left_overs(left).routing(own);
    (core, lines)
}

/// What the gateway itself listens to.
pub fn own_routes(config: &Config, definition: Option<&Definition>) -> BTreeSet<CommandRoute> {
    let birth = TopicFilter::new(BIRTH_TOPIC).ok().filter(|_| homeassistant::is_wanted(config));
    let node = definition.into_iter().flat_map(|definition| definition.node.command_filters());
    birth.map(|filter| (filter, EAR)).into_iter().chain(node.map(|filter| (filter, NODE))).collect()
}

/// The bridges of a configuration, for a gateway that runs.
pub fn bridges(
    config: &Config,
    changed: BTreeSet<Arc<str>>,
    definition: Option<&Arc<Definition>>,
    clock: &Clock,
) -> change::Bridges {
    let bridge = |configured: &model::Bridge| NewSettings {
        bridge: configured.clone(),
        may_return: may_return(configured, &config.bridges, &config.gateway.id),
        definition: definition.cloned(),
    };
    let gateway = config.gateway.id.clone();
    let bridges = config.bridges.iter().map(bridge).collect();
    change::Bridges { gateway, bridges, changed, seed: seed(clock.now()) }
}

/// What may be told to the devices, in the order of the configuration: instruments behind Modbus devices.
pub fn receivers(config: &Config) -> impl Iterator<Item = Receiver> {
    let devices = config.devices.iter().cloned().map(Receiver::from);
    devices.chain(config.instruments.iter().cloned().map(Receiver::from))
}

fn sync_of(durability: Durability) -> Sync {
    match durability {
        Durability::PowerLoss => Sync::Full,
        Durability::Process => Sync::Normal,
        Durability::None => Sync::Off,
    }
}

fn broker_settings(config: &Config, seed: u64) -> broker::Settings {
    broker::Settings {
        mark: mark(seed),
        limits: config.broker.limits.clone(),
        anonymous: config.broker.anonymous,
        logins: !config.broker.credentials.is_empty(),
        access: config.broker.access.clone(),
        commit: SESSION_COMMIT,
        seed,
        sys_interval: config.broker.sys_interval,
    }
}

/// Jitter and assigned names need to differ between gateways and starts, no more.
fn seed(now: Now) -> u64 {
    // A clock that is not set tells the same after each power cut.
    let moment = now.wall.as_millis().unsigned_abs() ^ now.instant.as_nanos();
    moment ^ Boot::current().0 ^ (u64::from(std::process::id()) << 32)
}

/// Another for each gateway and each start.
fn mark(seed: u64) -> Arc<str> {
    format!("{:016x}", fastrand::Rng::with_seed(seed).u64(..)).into()
}

struct Bridges<'a> {
    config: &'a Config,
    definition: Option<Arc<Definition>>,
    now: Now,
    seed: u64,
}

impl Bridges<'_> {
    /// Each with the number of its forward rules. Buffers of bridges that are configured no more are kept: their
    /// messages were acknowledged, and a name that comes back finds them.
    fn build(self, broker: &mut Broker, left: &mut LeftOvers, out: &mut Effects) -> Vec<(Bridge, u16)> {
        let mut link_out = bridge::effect::Effects::default();
        std::mem::swap(&mut out.ledger, &mut link_out.ledger);
        let mut bridges = Vec::new();
        for (index, configured) in (0u16..).zip(&self.config.bridges) {
            // Of any other the link finds out whether its server is one.
            let is_known = configured.account.provider() != Provider::Generic;
            if let Some(warning) = echo(configured, &self.config.gateway.id).filter(|_| is_known) {
                tracing::warn!("{warning}");
            }
            for (rule, forward) in (0u16..).zip(&configured.forward) {
                broker.forward(&forward.filter, index, rule);
            }
            let (spool, found, holder, bd_seq) = match left.take(&configured.name) {
                Some(Found { spool, recovered, holder, bd_seq }) => (spool, Some(recovered), holder, bd_seq),
                None => (broker.next_spool_id(), None, None, None),
            };
            let dead = match left.take(&dead::spool_name(&configured.name)) {
                Some(found) => (found.spool, Some(found.recovered)),
                None => (broker.next_spool_id(), None),
            };
            let node = self.definition.clone().map(|definition| NodeSettings { definition, bd_seq });
            let settings = bridge::Settings {
                bridge: configured.clone(),
                index,
                gateway: self.config.gateway.id.clone(),
                mark: mark(self.seed),
                may_return: may_return(configured, &self.config.bridges, &self.config.gateway.id),
                seed: self.seed.wrapping_add(u64::from(index)),
                node,
                holder,
            };
            let mut bridge = Bridge::new(settings, (spool, found), dead, self.now, &mut link_out);
            let needed = lane::needed(configured);
            for lane in LANES.into_iter().filter(|lane| *lane != MAIN) {
                // What waits in a lane that no rule has any more leaves all the same.
                let (spool, found) = match left.take(&lane.spool_name(&configured.name)) {
                    Some(found) => (found.spool, Some(found.recovered)),
                    None if needed.contains(&lane) => (broker.next_spool_id(), None),
                    None => continue,
                };
                bridge.add_lane(lane, spool, found, &mut link_out);
            }
            let rules = u16::try_from(configured.forward.len()).unwrap_or(u16::MAX);
            bridges.push((bridge, rules));
        }
        std::mem::swap(&mut out.ledger, &mut link_out.ledger);
        bridges
    }
}

/// What the devices were told to do, in the order of the configuration.
fn inboxes(config: &Config, broker: &mut Broker, left: &mut LeftOvers) -> Vec<Inbox> {
    let inbox = |(index, receiver): (u16, Receiver)| {
        let found = left.take(&Inbox::spool_name(receiver.name()));
        let spool = found.as_ref().map_or_else(|| broker.next_spool_id(), |found| found.spool);
        Inbox::new(&config.gateway.id, index, receiver, spool, found.map(|found| found.recovered))
    };
    (0u16..).zip(receivers(config)).map(inbox).collect()
}

fn warn_of(left: &LeftOvers) {
    let (bridges, devices) = left.names();
    for device in devices {
        tracing::warn!(%device, "commands wait for a device that is not configured: they are kept");
    }
    for bridge in bridges {
        tracing::warn!(%bridge, "messages wait for a bridge that is not configured: they are kept");
    }
}
