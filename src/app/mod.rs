//! Start and stop order, supervision, signals, systemd. Knows no packet. A start is always a recovery: open,
//! recover, build the brains, then links and lines, listeners last.

pub mod disk;
pub mod error;
pub mod overview;
pub mod prepare;
pub mod supervise;
pub mod sys;
pub mod systemd;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::app::error::StartError;
use crate::app::overview::Overview;
use crate::app::prepare::{Commands, Line};
use crate::app::supervise::Supervisor;
use crate::base::time::Duration;
use crate::bus::{self, Endpoint};
use crate::cloud;
use crate::config::model::Config;
use crate::device::Poller;
use crate::device::status::DeviceStatus;
use crate::hub::link::LinkSeat;
use crate::hub::{Hub, timer};
use crate::lan::listener;
use crate::lan::worker::Worker;
use crate::mqtt::message::Message;
use crate::store::error::StoreError;
use crate::store::writer::Writer;
use crate::web;

/// How long clients and clouds have, at the end, to take what was sent to them.
const LAST_SENDS_WAIT: Duration = Duration::from_secs(2);

/// What one line says of its devices.
pub type LineStatus = watch::Receiver<Vec<DeviceStatus>>;

/// A gateway with its state recovered and nothing running yet.
pub struct Prepared {
    config: Arc<Config>,
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    lines: Vec<Line>,
}

/// A running gateway. To be ended with `stop`: dropped, it leaves what only memory has unwritten.
pub struct Gateway {
    config: Arc<Config>,
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    addresses: Vec<SocketAddr>,
    workers: Vec<Worker>,
    /// Listeners and workers: first to end.
    lan: CancellationToken,
    /// Devices; None once they were stopped.
    devices: Mutex<Option<Supervisor>>,
    /// Links to clouds; they end by themselves when their bridges do.
    links: Supervisor,
    /// Timer, watchdog, disk: last to end.
    core: Supervisor,
    lines: Vec<LineStatus>,
}

impl Prepared {
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Starts everything; listeners last. Called within a runtime that stays until the gateway was stopped.
    pub fn start(self) -> Result<Gateway, StartError> {
        let Prepared { config, hub, writer, lines } = self;
        let mut core = Supervisor::new(CancellationToken::new());
        let timed = hub.clone();
        core.spawn("timer".to_owned(), move |cancel| timer::run(timed.clone(), cancel));
        let watched = hub.clone();
        core.spawn("watchdog".to_owned(), move |cancel| systemd::feed_watchdog(watched.clone(), cancel));
        let (measured, data_dir) = (hub.clone(), config.gateway.data_dir.clone());
        core.spawn("disk".to_owned(), move |cancel| disk::run(measured.clone(), data_dir.clone(), cancel));

        let mut links = Supervisor::new(CancellationToken::new());
        for (index, bridge) in config.bridges.iter().enumerate() {
            let (seat, target) =
                (Arc::new(LinkSeat::new(hub.clone(), index)), cloud::run::Target::of(bridge));
            links.spawn(format!("link:{}", bridge.name), move |cancel| {
                cloud::run::run(seat.clone(), target.clone(), cancel)
            });
        }
        let mut devices = Supervisor::new(CancellationToken::new());
        let statuses: Vec<_> = lines.into_iter().map(|line| start_line(line, &hub, &mut devices)).collect();

        start_overview(&config, (&hub, &writer), &statuses, &mut core)?;
        let lan = CancellationToken::new();
        let (workers, addresses) = start_lan(&config, &hub, &lan)?;
        Ok(Gateway {
            config,
            hub,
            writer,
            addresses,
            workers,
            lan,
            devices: Mutex::new(Some(devices)),
            links,
            core,
            lines: statuses,
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

    /// Where the broker listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn lines(&self) -> &[LineStatus] {
        &self.lines
    }

    /// Ends polling; bridges go on.
    pub async fn stop_devices(&self) {
        let devices = self.devices.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(devices) = devices {
            devices.token().cancel();
            devices.join().await;
        }
    }

    /// Ends in order: devices, brains, clients and clouds, disk. Everything acknowledged is on disk afterwards.
    pub async fn stop(self) -> Result<(), StoreError> {
        self.stop_devices().await;
        self.hub.handle_shutdown();
        self.lan.cancel();
        let links = self.links.token();
        if tokio::time::timeout(LAST_SENDS_WAIT, self.links.join()).await.is_err() {
            tracing::debug!("a link did not end in time");
        }
        links.cancel();
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(|| workers.into_iter().for_each(Worker::join));
        if tokio::time::timeout(LAST_SENDS_WAIT, joined).await.is_err() {
            tracing::debug!("clients did not take what was sent to them in time");
        }
        self.core.token().cancel();
        self.core.join().await;
        let writer = self.writer;
        tokio::task::spawn_blocking(move || writer.stop()).await.unwrap_or(Err(StoreError::WriterGone))
    }
}

fn start_line(line: Line, hub: &Arc<Hub>, devices: &mut Supervisor) -> LineStatus {
    let Line { endpoint, settings, commands } = line;
    let name = match &endpoint {
        Endpoint::Tcp { address } => address.to_string(),
        Endpoint::Rtu(port) => port.name.to_string(),
    };
    let (status, statuses) = watch::channel(Vec::new());
    let publisher = hub.clone();
    let publish: Arc<dyn Fn(Vec<_>) + Send + Sync> = Arc::new(move |messages| publisher.publish(messages));
    let clock = hub.clock();
    devices.spawn(format!("line:{name}"), move |cancel| {
        let poller = Poller::new(settings.clone(), clock.now());
        let (sender, receiver) = mpsc::channel(1);
        let (publish, status) = (publish.clone(), status.clone());
        let ends = bus::Ends { publish, commands: receiver, status, clock, cancel };
        let (run, pass) = (bus::run(endpoint.clone(), poller, ends), pass_commands(commands.clone(), sender));
        async move {
            tokio::select! {
                () = run => {}
                () = pass => {}
            }
        }
    });
    statuses
}

/// Commands outlive a line that has to be started again.
async fn pass_commands(commands: Commands, line: mpsc::Sender<(u16, Arc<Message>)>) {
    let mut commands = commands.lock().await;
    while let Some(command) = commands.recv().await {
        if line.send(command).await.is_err() {
            break;
        }
    }
    std::future::pending::<()>().await;
}

/// The dashboard, where one is configured, and `$SYS/tidegate`.
fn start_overview(
    config: &Arc<Config>,
    (hub, writer): (&Arc<Hub>, &Arc<Writer>),
    lines: &[LineStatus],
    core: &mut Supervisor,
) -> Result<(), StartError> {
    let overview = Arc::new(Overview::new(config.clone(), hub.clone(), writer.clone(), lines.to_vec()));
    if config.broker.sys_interval.is_some() {
        let (overview, config, hub) = (overview.clone(), config.clone(), hub.clone());
        core.spawn("sys".to_owned(), move |cancel| {
            sys::run(overview.clone(), config.clone(), hub.clone(), cancel)
        });
    }
    let Some(http) = &config.http else { return Ok(()) };
    let listen = |error| StartError::Http { address: http.address, error };
    let listener = Arc::new(listener::bind(http.address).and_then(TcpListener::into_std).map_err(listen)?);
    let watcher = overview.clone();
    core.spawn("events".to_owned(), move |cancel| watcher.clone().watch(cancel));
    core.spawn("web".to_owned(), move |cancel| serve_web(listener.clone(), overview.clone(), cancel));
    Ok(())
}

/// The socket outlives the task: one that is started again has the same port.
async fn serve_web(listener: Arc<std::net::TcpListener>, overview: Arc<Overview>, cancel: CancellationToken) {
    let served = match listener.try_clone().and_then(TcpListener::from_std) {
        Ok(listener) => web::serve(listener, overview, cancel).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the dashboard cannot be served");
    }
}

fn start_lan(
    config: &Config,
    hub: &Arc<Hub>,
    cancel: &CancellationToken,
) -> Result<(Vec<Worker>, Vec<SocketAddr>), StartError> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for configured in &config.broker.listeners {
        let listen = |error| StartError::Listen { address: configured.address, error };
        let listener = listener::bind(configured.address).map_err(listen)?;
        addresses.push(listener.local_addr().map_err(listen)?);
        listeners.push(listener);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = (0..cores.saturating_sub(1).max(1))
        .map(|index| Worker::start(index, hub.clone(), cancel.clone()).map_err(StartError::Threads))
        .collect::<Result<Vec<_>, _>>()?;
    for listener in listeners {
        let senders = workers.iter().map(Worker::sender).collect();
        tokio::spawn(listener::run(listener, senders, cancel.clone()));
    }
    Ok((workers, addresses))
}
