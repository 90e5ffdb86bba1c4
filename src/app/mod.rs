//! Start and stop order, supervision, signals, systemd. Knows no packet. A start is always a recovery: open,
//! recover, build the brains, then links and lines, listeners last.

pub mod clock;
pub mod control;
mod core;
mod dashboard;
mod descriptors;
pub mod disk;
mod entrances;
pub mod error;
pub mod flash;
pub mod fleet;
pub mod homeassistant;
mod lan;
pub mod lines;
pub mod losses;
pub mod offline;
pub mod overview;
mod point;
pub mod prepare;
pub mod reload;
pub mod running;
pub mod shares;
pub mod status;
pub mod supervise;
pub mod sys;
pub mod systemd;
mod uplinks;
pub mod watchdog;
mod write;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::app::clock::Watch;
use crate::app::control::{Controls, Links};
use crate::app::dashboard::{Dashboard, Web};
use crate::app::error::StartError;
use crate::app::flash::Flash;
use crate::app::fleet::{Fleet, Plan};
use crate::app::homeassistant::Announcer;
use crate::app::lan::{Bound, Lan};
use crate::app::lines::Desks;
use crate::app::overview::Overview;
use crate::app::running::{Running, Stand};
use crate::app::shares::Shares;
use crate::app::supervise::Supervisor;
use crate::app::uplinks::Uplinks;
use crate::app::watchdog::Vitals;
use crate::base::pulse::Pulses;
use crate::base::time::{Clock, Duration};
use crate::config::guarded::exposures;
use crate::config::listener::Listener;
use crate::config::model::Config;
use crate::device::status::DeviceStatus;
use crate::hub::Hub;
use crate::hub::login::Logins;
use crate::lan::worker::Worker;
use crate::store::error::StoreError;
use crate::store::writer::Writer;
use crate::web;

/// How long clients and clouds have, at the end, to take what was sent to them: a little more than the hands
/// allow them.
const LAST_SENDS_WAIT: Duration = Duration::from_millis(2500);
/// How long tasks may take to end that were told to: lines in mid-request, the dashboard in mid-answer.
const TASKS_WAIT: Duration = Duration::from_secs(1);

/// What one line says of its devices.
pub type LineStatus = watch::Receiver<Vec<DeviceStatus>>;

/// A gateway with its state recovered and nothing running yet.
pub struct Prepared {
    config: Arc<Config>,
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    logins: Arc<Logins>,
    lines: Vec<Plan>,
    watch: Watch,
    /// Threads that serve clients.
    workers: usize,
}

/// A running gateway. To be ended with `stop`: dropped, it leaves what only memory has unwritten.
pub struct Gateway {
    running: Stand,
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    logins: Arc<Logins>,
    addresses: Vec<SocketAddr>,
    lan: Mutex<Lan>,
    web: Mutex<Web>,
    /// Devices; None once they were stopped.
    devices: Mutex<Option<Fleet>>,
    /// Links to clouds; they end by themselves when their bridges do.
    uplinks: Mutex<Uplinks>,
    /// Timer, watchdog, disk: last to end.
    core: Supervisor,
    overview: Arc<Overview>,
    vitals: Arc<Vitals>,
    socket_path: PathBuf,
}

/// Every port of the configuration, taken, and every certificate read. Whoever connects waits until the gateway serves it.
struct Sockets {
    lan: Vec<Arc<Bound>>,
    addresses: Vec<SocketAddr>,
    http: Option<Arc<Dashboard>>,
    shares: Shares,
    /// None where it cannot be made.
    local: Option<Arc<std::os::unix::net::UnixListener>>,
}

impl Prepared {
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Serves clients with so many threads, at least one, in place of one less than there are cores.
    #[must_use]
    pub fn with_workers(self, workers: usize) -> Self {
        Self { workers: workers.max(1), ..self }
    }

    /// Starts everything; listeners last. Called within a runtime that stays until the gateway was stopped.
    pub fn start(self) -> Result<Gateway, StartError> {
        let Prepared { config, hub, writer, logins, lines, watch, workers } = self;
        descriptors::provide(&config);
        for exposure in exposures(&config) {
            tracing::warn!("{exposure}");
        }
        // First, so that a port that is taken ends the start before a device or a cloud has heard of it.
        let sockets = Sockets::bind(&config, hub.clock().clone())?;
        hub.handle_started();
        let pulses = Pulses::default();
        let vitals = Arc::new(Vitals::new(pulses.clone()));
        pulses.add("door", hub.pulse());
        pulses.add("writer", writer.pulse());
        let flash = Arc::new(Flash::find(&config, hub.clock().clone()));
        let mut core = Supervisor::new(CancellationToken::new(), &pulses);
        core::start((&config, &hub), (&writer, &logins), (&vitals, &flash), &mut core);
        core.spawn("clock".to_owned(), {
            let hub = hub.clone();
            move |cancel| watch.clone().run(hub.clone(), cancel)
        });

        let desks = Arc::new(Desks::default());
        let uplinks = Uplinks::start(&config, &hub, &desks.frames, &pulses);
        core.spawn("notes".to_owned(), {
            let (hub, memory) = (hub.clone(), uplinks.memory());
            move |cancel| uplinks::keep_notes(hub.clone(), memory.clone(), cancel)
        });
        let fleet = Fleet::start(lines, (&config, &hub), (sockets.shares, desks.clone()), &pulses);
        let running = Stand::new(Running {
            config: config.clone(),
            lines: fleet.statuses(),
            shares: fleet.shared(),
            reload: None,
        });

        let announcer = Arc::new(Announcer::new(running.see(), hub.clone()));
        core.spawn("homeassistant".to_owned(), move |cancel| announcer.clone().run(cancel));
        let overview = Overview::new(running.see(), hub.clone(), (writer.clone(), flash), pulses.clone());
        let overview = Arc::new(overview);
        let (shown, told) = (overview.clone(), vitals.clone());
        core.spawn("status".to_owned(), move |cancel| status::run(shown.clone(), told.clone(), cancel));
        let control = Arc::new(Controls::new(running.see(), hub.clone(), Links::Driven));
        start_local((overview.clone(), control, desks), sockets.local, &mut core);
        start_sys(overview.clone(), &hub, &mut core);
        let web_tls = sockets.http.as_ref().and_then(|dashboard| dashboard.tls());
        let web = Web::start(sockets.http, overview.clone(), &pulses);
        let lan = Lan::start(sockets.lan, (workers, web_tls), (&config, &hub), &pulses)
            .map_err(StartError::Threads)?;
        Ok(Gateway {
            socket_path: socket_path(&config),
            running,
            hub,
            writer,
            logins,
            addresses: sockets.addresses,
            lan: Mutex::new(lan),
            web: Mutex::new(web),
            devices: Mutex::new(Some(fleet)),
            uplinks: Mutex::new(uplinks),
            core,
            overview,
            vitals,
        })
    }
}

impl Gateway {
    /// What counts now.
    pub fn config(&self) -> Arc<Config> {
        self.running.see().config()
    }

    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// What logins are held against.
    pub fn logins(&self) -> &Arc<Logins> {
        &self.logins
    }

    /// Where the broker listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the lines say of their devices.
    pub fn lines(&self) -> Vec<LineStatus> {
        self.running.see().now().lines.clone()
    }

    /// What the watchdog watches.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// What `systemctl status` says.
    pub fn status_line(&self) -> String {
        status::line_of(&self.overview)
    }

    /// Ends polling; bridges go on.
    pub async fn stop_devices(&self) {
        let fleet = self.devices.lock().await.take();
        if let Some(fleet) = fleet {
            fleet.end().await;
        }
    }

    /// Ends in order: devices, brains, clients and clouds, disk. Everything acknowledged is on disk afterwards.
    pub async fn stop(self) -> Result<(), StoreError> {
        self.stop_devices().await;
        let (workers, workers_end) = self.lan.into_inner().close().await;
        self.hub.handle_shutdown();
        workers_end.cancel();
        let workers = tokio::task::spawn_blocking(|| workers.into_iter().for_each(Worker::join));
        let (links, workers) = tokio::join!(
            tokio::time::timeout(LAST_SENDS_WAIT, self.uplinks.into_inner().join()),
            tokio::time::timeout(LAST_SENDS_WAIT, workers),
        );
        if links.is_err() {
            tracing::debug!("a link did not end in time");
        }
        if workers.is_err() {
            tracing::debug!("clients did not take what was sent to them in time");
        }
        tokio::join!(self.web.into_inner().close(TASKS_WAIT), self.core.end(TASKS_WAIT));
        // While the lock is held: later it might be a successor's.
        let _ = std::fs::remove_file(&self.socket_path);
        let writer = self.writer;
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap_or(Err(StoreError::WriterGone))
    }
}

/// `$SYS/tidegate`.
fn start_sys(overview: Arc<Overview>, hub: &Arc<Hub>, core: &mut Supervisor) {
    let hub = hub.clone();
    core.spawn("sys".to_owned(), move |cancel| {
        sys::run(overview.clone(), overview.running().clone(), hub.clone(), cancel)
    });
}

/// Answers for commands on this machine.
fn start_local(
    told: (Arc<Overview>, Arc<Controls>, Arc<Desks>),
    listener: Option<Arc<std::os::unix::net::UnixListener>>,
    core: &mut Supervisor,
) {
    let Some(listener) = listener else { return };
    core.spawn("socket".to_owned(), move |cancel| serve_local(listener.clone(), told.clone(), cancel));
}

async fn serve_local(
    listener: Arc<std::os::unix::net::UnixListener>,
    (source, control, lines): (Arc<Overview>, Arc<Controls>, Arc<Desks>),
    cancel: CancellationToken,
) {
    match listener.try_clone().and_then(UnixListener::from_std) {
        Ok(listener) => {
            let local = web::Local { source, control, lines };
            web::serve_local(listener, local, cancel).await;
        }
        Err(error) => tracing::error!(%error, "commands on this machine cannot be served"),
    }
}

/// Where commands reach the gateway of a configuration.
pub fn socket_path(config: &Config) -> PathBuf {
    config.gateway.data_dir.join(web::local::SOCKET_FILE)
}

/// A gateway without it does its work all the same.
fn bind_local(config: &Config) -> Option<Arc<std::os::unix::net::UnixListener>> {
    let path = socket_path(config);
    match web::local::bind(&path) {
        Ok(listener) => Some(Arc::new(listener)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no socket for `tidegate status`, `buffer` and other commands");
            None
        }
    }
}

impl Sockets {
    fn bind(config: &Config, clock: Clock) -> Result<Sockets, StartError> {
        let shares = Shares::bind(config, &Shares::default(), &[])?;
        let lan = Bound::all(config, &[], &[])?;
        let address = |(bound, configured): (&Arc<Bound>, &Listener)| {
            bound.address().map_err(|error| StartError::Listen { address: configured.address, error })
        };
        let addresses = lan.iter().zip(&config.broker.listeners).map(address).collect::<Result<_, _>>()?;
        let mut sockets = Sockets { lan, addresses, http: None, shares, local: None };
        if let Some(http) = &config.http {
            sockets.http = Some(Dashboard::open(http, None, &[], clock)?);
        }
        sockets.local = bind_local(config);
        Ok(sockets)
    }
}

/// One less than there are cores: the last one is for bridges, devices and the disk.
fn workers_default() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).saturating_sub(1).max(1)
}
