//! From a configuration to brains with their state: everything before anything runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use crate::app::clock::Watch;
use crate::app::error::StartError;
use crate::app::{Gateway, Prepared, homeassistant, workers_default};
use crate::base::boot::Boot;
use crate::base::time::{Clock, Duration, Now};
use crate::bridge::dead;
use crate::bridge::lane::{self, LANES, MAIN};
use crate::bridge::loops::may_return;
use crate::bridge::node::NodeSettings;
use crate::bridge::servers::parts_of_row;
use crate::bridge::{self, Bridge};
use crate::broker::effect::Effects;
use crate::broker::{self, Broker};
use crate::bus::{self, Endpoint};
use crate::config::model::{Config, Durability};
use crate::device::LineSettings;
use crate::device::homeassistant::BIRTH_TOPIC;
use crate::device::inbox::Inbox;
use crate::device::metrics;
use crate::device::receiver::Receiver;
use crate::hub::core::Core;
use crate::hub::line::{Commands, EAR};
use crate::hub::login::Logins;
use crate::hub::node::NODE;
use crate::hub::{Hub, HubObserver};
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::sparkplug::session::{Definition, Session};
use crate::store::record::{Recovered, RecoveredSpool, SpoolId};
use crate::store::recover::{self, Window};
use crate::store::schema::{Sync, last_written};
use crate::store::writer::Writer;

/// What a start takes of each spool into memory; the rest is read when its turn comes.
const RECOVERED_WINDOW: Window = Window { messages_max: 1000, bytes_max: 1 << 20 };
/// The longest that a message for a durable session waits in memory.
const SESSION_COMMIT: Duration = Duration::from_millis(100);

/// A line that is ready to run.
pub struct Line {
    pub endpoint: Endpoint,
    pub settings: LineSettings,
}

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
    pub(super) lines: Vec<Line>,
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

/// The brains with what recovery found, and the lines that they poll; those of instruments follow at the door. `seed` is of all chance in them.
pub fn build(config: &Config, recovered: &mut Recovered, now: Now, seed: u64) -> (Core, Vec<Line>) {
    let mut out = Effects::default();
    let mut broker = Broker::new(broker_settings(config, seed));
    broker.recover(recovered, now, &mut out);
    let definition = metrics::definition(config).map(Arc::new);
    let bridges =
        Bridges { config, definition: definition.clone(), now, seed }.build(&mut broker, recovered, &mut out);
    let inboxes = inboxes(config, &mut broker, recovered);
    if homeassistant::is_wanted(config)
        && let Ok(birth) = TopicFilter::new(BIRTH_TOPIC)
    {
        broker.command(&birth, EAR);
    }
    warn_of_left_overs(recovered);
    let lines: Vec<Line> =
        bus::lines(config).into_iter().map(|(endpoint, settings)| Line { endpoint, settings }).collect();
    let devices = lines.iter().map(|line| line.settings.devices.iter().map(|(index, _)| *index).collect());
    let instruments = bus::instrument::lines(config).into_iter().map(|line| vec![line.index]);
    let commands = Commands::new(inboxes, devices.chain(instruments).collect());
    for filter in definition.iter().flat_map(|definition| definition.node.command_filters()) {
        broker.command(&filter, NODE);
    }
    let last = recovered.births.get(&SpoolId::LAN).copied();
    let node = definition.map(|definition| Session::new(&definition, last, |_| true));
    (Core::new(broker, bridges, commands, out).with_node(node), lines)
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
    fn build(self, broker: &mut Broker, recovered: &mut Recovered, out: &mut Effects) -> Vec<(Bridge, u16)> {
        let mut link_out = bridge::effect::Effects::default();
        std::mem::swap(&mut out.ledger, &mut link_out.ledger);
        let mut bridges = Vec::new();
        for (index, configured) in (0u16..).zip(&self.config.bridges) {
            for (rule, forward) in (0u16..).zip(&configured.forward) {
                broker.forward(&forward.filter, index, rule);
            }
            let (spool, found, holder) = match take_buffer(recovered, &configured.name) {
                Some((spool, found, holder)) => (spool, Some(found), holder),
                None => (broker.next_spool_id(), None, None),
            };
            let dead = match take_buffer(recovered, &dead::spool_name(&configured.name)) {
                Some((spool, found, _)) => (spool, Some(found)),
                None => (broker.next_spool_id(), None),
            };
            let bd_seq = recovered.births.get(&spool).copied();
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
                let found = take_buffer(recovered, &lane.spool_name(&configured.name));
                let (spool, found) = match found {
                    Some((spool, found, _)) => (spool, Some(found)),
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

/// What stands under a name as the start found it.
fn take_buffer(recovered: &mut Recovered, name: &str) -> Option<(SpoolId, RecoveredSpool, Option<Arc<str>>)> {
    let at = recovered.buffers.iter().position(|(_, row)| parts_of_row(row).0 == name)?;
    let (spool, row) = recovered.buffers.remove(at);
    let found = recovered.spools.iter().position(|(id, _)| *id == spool);
    let found = found.map_or_else(RecoveredSpool::default, |at| recovered.spools.remove(at).1);
    Some((spool, found, parts_of_row(&row).1.map(Into::into)))
}

/// What the devices were told to do, in the order of the configuration, and how more of it comes in.
fn inboxes(config: &Config, broker: &mut Broker, recovered: &mut Recovered) -> Vec<Inbox> {
    let mut inboxes = Vec::new();
    let devices = config.devices.iter().cloned().map(|device| (device.name.clone(), Receiver::from(device)));
    let instruments = config.instruments.iter().cloned();
    let instruments = instruments.map(|device| (device.name.clone(), Receiver::from(device)));
    for (index, (name, receiver)) in (0u16..).zip(devices.chain(instruments)) {
        let (spool, found) = match take_buffer(recovered, &Inbox::spool_name(&name)) {
            Some((spool, found, _)) => (spool, Some(found)),
            None => (broker.next_spool_id(), None),
        };
        inboxes.push(Inbox::new(&config.gateway.id, index, receiver, spool, found));
    }
    let reach = Reach::of(&inboxes);
    for (index, inbox) in (0u16..).zip(&inboxes) {
        // Where a device's name is no part of its topics, who has no such point cannot say that nobody has.
        let sole = inbox.any_command_filter().filter(|filter| !reach.has_other(filter, index));
        match sole {
            // One filter that reaches all its points, in place of one for each of thousands.
            Some(filter) => broker.command(filter, index),
            None => inbox.command_filters().for_each(|filter| broker.command(&filter, index)),
        }
    }
    inboxes
}

/// Which devices the filters reach that stand for any point. One walk over all topics for each template, however
/// many devices there are.
struct Reach {
    /// By where a filter has `+`, and by what a topic looks like with `+` there: the device; None: several.
    owners: HashMap<Vec<usize>, HashMap<String, Option<u16>>>,
}

impl Reach {
    fn of(inboxes: &[Inbox]) -> Self {
        let filters = inboxes.iter().filter_map(Inbox::any_command_filter);
        let mut owners: HashMap<_, HashMap<_, _>> =
            filters.map(|filter| (wildcards_of(filter), HashMap::new())).collect();
        for (wildcards, owners) in &mut owners {
            for (index, inbox) in (0u16..).zip(inboxes) {
                for topic in inbox.command_topics() {
                    let owner = owners.entry(with_wildcards(&topic, wildcards)).or_insert(Some(index));
                    *owner = owner.filter(|owner| *owner == index);
                }
            }
        }
        Self { owners }
    }

    /// Whether a command of another device's points would come in by this device's filter.
    fn has_other(&self, filter: &TopicFilter, device: u16) -> bool {
        let owners = self.owners.get(&wildcards_of(filter));
        owners.and_then(|owners| owners.get(filter.as_str())).is_some_and(|owner| *owner != Some(device))
    }
}

fn wildcards_of(filter: &TopicFilter) -> Vec<usize> {
    let levels = filter.as_str().split('/').enumerate();
    levels.filter(|(_, level)| *level == "+").map(|(at, _)| at).collect()
}

fn with_wildcards(topic: &TopicName, wildcards: &[usize]) -> String {
    let levels = topic.as_str().split('/').enumerate();
    let shown = levels.map(|(at, level)| if wildcards.contains(&at) { "+" } else { level });
    shown.collect::<Vec<_>>().join("/")
}

fn warn_of_left_overs(recovered: &Recovered) {
    let mut bridges = BTreeSet::new();
    for (_, name) in &recovered.buffers {
        if let Some(device) = Inbox::device_of_spool(name) {
            tracing::warn!(%device, "commands wait for a device that is not configured: they are kept");
        } else {
            bridges.insert(lane::bridge_of(parts_of_row(name).0));
        }
    }
    for bridge in bridges {
        tracing::warn!(%bridge, "messages wait for a bridge that is not configured: they are kept");
    }
}
