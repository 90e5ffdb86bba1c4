//! Start and stop order, supervision, signals, systemd. Knows no packet. A start is always a recovery: check,
//! open, recover, build the brains, links and lines, listeners last.

pub mod error;
pub mod lines;
pub mod supervise;
pub mod systemd;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::error::StartError;
use crate::app::lines::{LineKey, lines};
use crate::app::supervise::Supervisor;
use crate::base::time::{Clock, Duration, Now};
use crate::bridge::Bridge;
use crate::broker::Broker;
use crate::broker::effect::Effects;
use crate::config::model::{Config, Durability};
use crate::device::Poller;
use crate::hub::core::{CommandSender, Core};
use crate::hub::{Hub, HubObserver};
use crate::lan::listener;
use crate::lan::worker::Worker;
use crate::mqtt::message::Message;
use crate::store::record::Recovered;
use crate::store::writer::Writer;
use crate::store::{recover, schema};

/// Entries of a spool that a start takes into memory; the rest is read when its turn comes.
const RECOVERED_WINDOW_MESSAGES: usize = 1000;
/// Commands that may wait for one line.
const LINE_COMMANDS_MAX: usize = 64;
/// How long a clean end may take in all.
const STOP_WAIT: Duration = Duration::from_secs(4);
/// How long clients have to take what was sent to them before the end.
const LAST_SENDS_WAIT: Duration = Duration::from_millis(500);

/// A line that is ready to run.
struct Line {
    key: LineKey,
    poller: Poller,
    commands: mpsc::Receiver<(u16, Arc<Message>)>,
}

/// A gateway with its state recovered and nothing running yet.
pub struct Prepared {
    config: Arc<Config>,
    hub: Arc<Hub>,
    lines: Vec<Line>,
}

/// A running gateway.
pub struct Gateway {
    hub: Arc<Hub>,
    addresses: Vec<SocketAddr>,
    http_address: Option<SocketAddr>,
    workers: Vec<Worker>,
    lan: Supervisor,
    links: Supervisor,
    devices: Mutex<Option<Supervisor>>,
}

impl Gateway {
    /// Opens the database, recovers and builds the brains. Nothing is polled, bridged or served yet.
    pub fn prepare(config: Arc<Config>, clock: Clock) -> Result<Prepared, StartError> {
        let now = clock.now();
        let sync = sync_of(config.gateway.durability);
        let (database, mut recovered) =
            recover::open(&config.gateway.data_dir, sync, RECOVERED_WINDOW_MESSAGES, now).map_err(StartError::Store)?;
        if let Some(path) = &database.set_aside {
            tracing::error!(path = %path.display(), "the database was damaged: it was set aside and a new one begun");
        }
        let mut out = Effects::default();
        let mut broker = Broker::new(broker_settings(&config, now));
        broker.recover(&mut recovered, now, &mut out);
        let bridges = bridges(&config, &mut broker, &mut recovered, now, &mut out);
        let (lines, senders) = poll_lines(&config, &mut broker, now);
        let core = Core::new(broker, bridges, senders, out);
        let hub = Hub::new(core, clock, config.broker.limits.packet_bytes as usize);
        let observer = Box::new(HubObserver(Arc::downgrade(&hub)));
        hub.attach_writer(Writer::start(database, observer).map_err(StartError::Store)?);
        Ok(Prepared { config, hub, lines })
    }
}
