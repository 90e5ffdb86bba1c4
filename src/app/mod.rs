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
pub mod homeassistant;
pub mod lines;
pub mod losses;
pub mod offline;
pub mod overview;
pub mod prepare;
pub mod reload;
pub mod shares;
pub mod status;
pub mod supervise;
pub mod sys;
pub mod systemd;
pub mod watchdog;
mod write;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::clock::Watch;
use crate::app::control::{Controls, Links};
use crate::app::dashboard::Dashboard;
use crate::app::error::StartError;
use crate::app::flash::Flash;
use crate::app::homeassistant::Announcer;
use crate::app::lines::Desks;
use crate::app::overview::Overview;
use crate::app::prepare::Line;
use crate::app::shares::Shares;
use crate::app::supervise::Supervisor;
use crate::app::watchdog::Vitals;
use crate::base::pulse::Pulses;
use crate::base::time::{Clock, Duration};
use crate::bus;
use crate::bus::door::Door;
use crate::bus::instrument::InstrumentLine;
use crate::bus::load::Load;
use crate::bus::memory::Memory;
use crate::bus::share::SharedLine;
use crate::cloud;
use crate::config::model::Config;
use crate::device::Poller;
use crate::device::status::DeviceStatus;
use crate::hub::Hub;
use crate::hub::line::LineSeat;
use crate::hub::link::LinkSeat;
use crate::hub::login::Logins;
use crate::lan::admission::Admission;
use crate::lan::entrance::{Entrance, watch_certificates};
use crate::lan::listener;
use crate::lan::worker::Worker;
use crate::observe::frames::Frames;
use crate::store::error::StoreError;
use crate::store::writer::Writer;
use crate::transport::accept::Acceptor;
use crate::transport::server::TlsServer;
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
    lines: Vec<Line>,
    watch: Watch,
    /// Threads that serve clients.
    workers: usize,
}

/// A running gateway. To be ended with `stop`: dropped, it leaves what only memory has unwritten.
pub struct Gateway {
    config: Arc<Config>,
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    logins: Arc<Logins>,
    addresses: Vec<SocketAddr>,
    lan: Lan,
    /// Devices; None once they were stopped.
    devices: Mutex<Option<Supervisor>>,
    /// Links to clouds; they end by themselves when their bridges do.
    links: Supervisor,
    /// Timer, watchdog, disk: last to end.
    core: Supervisor,
    lines: Vec<LineStatus>,
    overview: Arc<Overview>,
    vitals: Arc<Vitals>,
    socket_path: PathBuf,
}

/// Who serves clients.
struct Lan {
    listeners: Supervisor,
    workers: Vec<Worker>,
    workers_end: CancellationToken,
}

/// Every port of the configuration, taken, and every certificate read. Whoever connects waits until the gateway serves it.
struct Sockets {
    lan: Vec<(TcpListener, Acceptor)>,
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
        // First, so that a port that is taken ends the start before a device or a cloud has heard of it.
        let sockets = Sockets::bind(&config, hub.clock().clone())?;
        hub.handle_started();
        let pulses = Pulses::default();
        let vitals = Arc::new(Vitals::new(pulses.clone()));
        pulses.add("door", hub.pulse());
        pulses.add("writer", writer.pulse());
        let flash = Arc::new(Flash::find(&config, hub.clock().clone()));
        let mut core = Supervisor::new(&pulses);
        core::start((&config, &hub), (&writer, &logins), (&vitals, &flash), &mut core);
        core.spawn("clock".to_owned(), {
            let hub = hub.clone();
            move |cancel| watch.clone().run(hub.clone(), cancel)
        });

        let mut desks = Desks::default();
        let mut links = Supervisor::new(&pulses);
        for (index, bridge) in config.bridges.iter().enumerate() {
            let seat = Arc::new(LinkSeat::new(hub.clone(), index));
            let target = cloud::reach::Target::of(bridge).traced(&desks.frames);
            links.spawn(format!("link:{}", bridge.name), move |cancel| {
                cloud::run::run(seat.clone(), target.clone(), cancel)
            });
        }
        let mut devices = Supervisor::new(&pulses);
        let Lines { statuses, shares } =
            start_lines(lines, (&config, &hub), (sockets.shares, &mut desks), &mut devices);

        let announcer = Arc::new(Announcer::new(config.clone(), hub.clone(), statuses.clone()));
        core.spawn("homeassistant".to_owned(), move |cancel| announcer.clone().run(cancel));
        let overview = Overview::new(
            config.clone(),
            hub.clone(),
            (writer.clone(), flash),
            (statuses.clone(), shares),
            pulses.clone(),
        );
        let overview = Arc::new(overview);
        let (shown, told) = (overview.clone(), vitals.clone());
        core.spawn("status".to_owned(), move |cancel| status::run(shown.clone(), told.clone(), cancel));
        let control = Arc::new(Controls::new(config.clone(), hub.clone(), Links::Driven));
        start_local((overview.clone(), control, Arc::new(desks)), sockets.local, &mut core);
        let web_tls = sockets.http.as_ref().and_then(|dashboard| dashboard.tls());
        start_overview(overview.clone(), &hub, sockets.http, &mut core);
        let lan = Lan::start(sockets.lan, (workers, web_tls), (&config, &hub), &pulses)
            .map_err(StartError::Threads)?;
        Ok(Gateway {
            socket_path: socket_path(&config),
            config,
            hub,
            writer,
            logins,
            addresses: sockets.addresses,
            lan,
            devices: Mutex::new(Some(devices)),
            links,
            core,
            lines: statuses,
            overview,
            vitals,
        })
    }
}

impl Gateway {
    pub fn config(&self) -> &Arc<Config> {
        &self.config
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

    pub fn lines(&self) -> &[LineStatus] {
        &self.lines
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
        let devices = self.devices.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(devices) = devices {
            devices.end(TASKS_WAIT).await;
        }
    }

    /// Ends in order: devices, brains, clients and clouds, disk. Everything acknowledged is on disk afterwards.
    pub async fn stop(self) -> Result<(), StoreError> {
        self.stop_devices().await;
        self.lan.listeners.end(TASKS_WAIT).await;
        self.hub.handle_shutdown();
        self.lan.workers_end.cancel();
        let workers = self.lan.workers;
        let workers = tokio::task::spawn_blocking(|| workers.into_iter().for_each(Worker::join));
        let (links, workers) = tokio::join!(
            tokio::time::timeout(LAST_SENDS_WAIT, self.links.join()),
            tokio::time::timeout(LAST_SENDS_WAIT, workers),
        );
        if links.is_err() {
            tracing::debug!("a link did not end in time");
        }
        if workers.is_err() {
            tracing::debug!("clients did not take what was sent to them in time");
        }
        self.core.end(TASKS_WAIT).await;
        // While the lock is held: later it might be a successor's.
        let _ = std::fs::remove_file(&self.socket_path);
        let writer = self.writer;
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap_or(Err(StoreError::WriterGone))
    }
}

/// Lines that run.
struct Lines {
    statuses: Vec<LineStatus>,
    shares: Vec<Arc<SharedLine>>,
}

fn start_lines(
    lines: Vec<Line>,
    (config, hub): (&Config, &Arc<Hub>),
    (mut shares, desks): (Shares, &mut Desks),
    devices: &mut Supervisor,
) -> Lines {
    let memory = Memory::open(&config.gateway.data_dir);
    let first = lines.len();
    let start = |(index, line)| {
        let share = shares.serve(&line, hub.clock(), devices);
        let with = (hub.clock().clone(), memory.clone(), share);
        start_line(line, LineSeat::new(hub.clone(), index), with, desks, devices)
    };
    let mut statuses: Vec<_> = lines.into_iter().enumerate().map(start).collect();
    for (index, line) in (first..).zip(bus::instrument::lines(config)) {
        let seat = LineSeat::new(hub.clone(), index);
        let with = (hub.clock().clone(), desks.frames.clone());
        statuses.push(start_instrument(line, seat, with, devices));
    }
    Lines { statuses, shares: shares.served }
}

fn start_line(
    line: Line,
    seat: LineSeat,
    with: (Clock, Arc<Memory>, Option<Arc<SharedLine>>),
    desks: &mut Desks,
    devices: &mut Supervisor,
) -> LineStatus {
    let Line { endpoint, settings } = line;
    let name = endpoint.to_string();
    let load = Load::of(&endpoint, &settings);
    if !load.fits() {
        // Whoever is far away has a gateway that polls more slowly, and not one that does not start.
        let percent = load.share.map(|share| (share * 100.0).ceil());
        tracing::warn!(
            line = name,
            percent,
            "its polls take more time than the line has: all are stretched alike (see `tidegate check`)"
        );
    }
    let (status, statuses) = watch::channel(Vec::new());
    let (clock, memory, share) = with;
    let door: Arc<dyn Door> = Arc::new(seat);
    let office = bus::Office { desk: desks.open(&name), frames: desks.frames.clone(), memory, share };
    devices.spawn(format!("line:{name}"), move |cancel| {
        let mut poller = Poller::new(settings.clone(), clock.now());
        poller.inquire();
        let (door, status, clock) = (door.clone(), status.clone(), clock.clone());
        bus::run(endpoint.clone(), poller, office.clone(), bus::Ends { door, status, clock, cancel })
    });
    statuses
}

fn start_instrument(
    line: InstrumentLine,
    seat: LineSeat,
    (clock, frames): (Clock, Arc<Frames>),
    devices: &mut Supervisor,
) -> LineStatus {
    let (status, statuses) = watch::channel(Vec::new());
    let door: Arc<dyn Door> = Arc::new(seat);
    devices.spawn(format!("line:{}", line.port.name), move |cancel| {
        let (door, status, clock) = (door.clone(), status.clone(), clock.clone());
        let ends = bus::Ends { door, status, clock, cancel };
        bus::instrument::run(line.clone(), frames.clone(), ends)
    });
    statuses
}

/// The dashboard, where one is configured, and `$SYS/tidegate`.
fn start_overview(
    overview: Arc<Overview>,
    hub: &Arc<Hub>,
    http: Option<Arc<Dashboard>>,
    core: &mut Supervisor,
) {
    if overview.config().broker.sys_interval.is_some() {
        let (overview, hub) = (overview.clone(), hub.clone());
        core.spawn("sys".to_owned(), move |cancel| {
            sys::run(overview.clone(), overview.config().clone(), hub.clone(), cancel)
        });
    }
    let Some(dashboard) = http else { return };
    let watcher = overview.clone();
    core.spawn("events".to_owned(), move |cancel| watcher.clone().watch(cancel));
    core.spawn("web".to_owned(), move |cancel| dashboard.clone().serve(overview.clone(), cancel));
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
        let mut sockets = Sockets {
            lan: Vec::new(),
            addresses: Vec::new(),
            http: None,
            shares: Shares::bind(config)?,
            local: None,
        };
        for configured in &config.broker.listeners {
            let listen = |error| StartError::Listen { address: configured.address, error };
            let listener = listener::bind(configured.address).map_err(listen)?;
            sockets.addresses.push(listener.local_addr().map_err(listen)?);
            let acceptor = entrances::acceptor(configured, config.broker.limits.packet_bytes)?;
            sockets.lan.push((listener, acceptor));
        }
        if let Some(http) = &config.http {
            sockets.http = Some(Arc::new(Dashboard::open(http, clock)?));
        }
        sockets.local = bind_local(config);
        Ok(sockets)
    }
}

impl Lan {
    fn start(
        sockets: Vec<(TcpListener, Acceptor)>,
        (workers, web_tls): (usize, Option<Arc<TlsServer>>),
        (config, hub): (&Config, &Arc<Hub>),
        pulses: &Pulses,
    ) -> std::io::Result<Lan> {
        let workers_end = CancellationToken::new();
        let workers = (0..workers)
            .map(|index| {
                let name = format!("lan-{index}");
                let pulse = pulses.part(&name);
                Worker::start(name, pulse, hub.clone(), workers_end.clone())
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        let admission = Admission::new(&config.broker.limits);
        let mut listeners = Supervisor::new(pulses);
        let servers = sockets.iter().filter_map(|(_, acceptor)| acceptor.tls.clone());
        let servers: Vec<_> = servers.chain(web_tls).collect();
        if !servers.is_empty() {
            listeners
                .spawn("certificates".to_owned(), move |cancel| watch_certificates(servers.clone(), cancel));
        }
        for ((listener, acceptor), configured) in sockets.into_iter().zip(&config.broker.listeners) {
            let listener = Arc::new(listener);
            let entrance = Arc::new(Entrance::new(acceptor, workers_end.clone()));
            let senders: Vec<_> = workers.iter().map(Worker::sender).collect();
            let (hub, admission) = (hub.clone(), admission.clone());
            listeners.spawn(format!("listener:{}", configured.address), move |cancel| {
                let shared = (hub.clone(), admission.clone(), entrance.clone());
                listener::run(listener.clone(), senders.clone(), shared, cancel)
            });
        }
        Ok(Lan { listeners, workers, workers_end })
    }
}

/// One less than there are cores: the last one is for bridges, devices and the disk.
fn workers_default() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).saturating_sub(1).max(1)
}
