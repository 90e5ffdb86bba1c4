//! `tidegate demo`: the whole product in one process, with nothing to install. A simulated meter, the gateway,
//! an uplink that can be cut and a second gateway that plays the cloud. Judges itself: every reading must
//! arrive exactly once and in order.

pub mod args;
mod ledger;
mod uplink;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::app::Gateway;
use crate::app::error::StartError;
use crate::base::time::{Clock, Duration};
use crate::bus::simulator;
use crate::cli::demo::args::DemoArgs;
use crate::cli::demo::ledger::Books;
use crate::cli::{fail, stop_signal, wrong_usage};
use crate::config::error::Faults;
use crate::config::model::Config;
use crate::mqtt::message::Message;
use crate::store::error::StoreError;

/// How often the meter is read.
const POLL: Duration = Duration::from_millis(500);
/// How long the last readings may take to arrive once the meter is no longer read.
const DRAIN_WAIT: Duration = Duration::from_secs(60);
/// How long the cut waits after the start where nothing says how long the demo runs.
const CUT_AFTER: Duration = Duration::from_secs(5);
const DASHBOARD_PORT: u16 = 8080;

/// What went wrong with the demo itself.
#[derive(Debug)]
enum DemoError {
    Io(io::Error),
    Scratch {
        path: PathBuf,
        error: io::Error,
    },
    Start(StartError),
    Stop(StoreError),
    Config(Faults),
    Client(Box<rumqttc::ConnectionError>),
    /// The books did not balance.
    Unbalanced(Vec<ledger::Difference>),
    /// It ended before the first reading: there is nothing to judge.
    Empty,
}

impl std::fmt::Display for DemoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Scratch { path, error } => write!(f, "cannot make the folder {}: {error}", path.display()),
            Self::Start(error) => write!(f, "{error}"),
            Self::Stop(error) => write!(f, "{error}"),
            Self::Config(faults) => write!(f, "the demo's own configuration does not load: {faults}"),
            Self::Client(error) => write!(f, "the demo's subscriber: {error}"),
            Self::Unbalanced(differences) => {
                write!(f, "not every reading arrived exactly once and in order")?;
                for d in differences {
                    write!(f, "\n  {}: {} lost, {} repeated", d.topic, d.lost, d.repeated)?;
                    if d.out_of_order {
                        write!(f, ", out of order")?;
                    }
                }
                Ok(())
            }
            Self::Empty => write!(f, "no reading was taken (let it run longer)"),
        }
    }
}

impl From<io::Error> for DemoError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub fn run(args: &DemoArgs) -> ExitCode {
    if let (Some(outage), Some(span)) = (args.outage, args.duration)
        && outage >= span
    {
        return wrong_usage("--outage has to be shorter than --for");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    match runtime.block_on(demo(args.outage, args.duration)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// One line of output. A reader that hung up has seen enough: the verdict is in the exit code too.
fn print(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// All that runs beside the gateways.
struct Stage {
    books: Arc<Mutex<Books>>,
    switch: uplink::Switch,
    clock: Clock,
    started: std::time::Instant,
    cancel: CancellationToken,
}

impl Stage {
    fn say(&self, text: &str) {
        print(format_args!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64()));
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn demo(outage: Option<Duration>, run_for: Option<Duration>) -> Result<(), DemoError> {
    let scratch = Scratch::new()?;
    let (switch, switched) = watch::channel(true);
    let stage = Stage {
        books: Arc::default(),
        switch,
        clock: Clock::start(),
        started: std::time::Instant::now(),
        cancel: CancellationToken::new(),
    };

    let cloud = start(&cloud_config(scratch.path()), stage.clock.clone())?;
    let cloud_address = cloud.addresses()[0];
    let arrivals = subscribe(cloud_address, &stage).await?;

    let relay = TcpListener::bind("127.0.0.1:0").await?;
    let relay_port = relay.local_addr()?.port();
    tokio::spawn(uplink::run(relay, cloud_address, switched, stage.cancel.clone()));

    let meter = TcpListener::bind("127.0.0.1:0").await?;
    let text = edge_config(scratch.path(), meter.local_addr()?, relay_port, dashboard_port());
    let config = parse(&text)?;
    tokio::spawn(simulator::serve_tcp(meter, config.devices.clone(), stage.cancel.clone()));

    let edge = Gateway::prepare(Arc::new(config), stage.clock.clone()).map_err(DemoError::Start)?;
    tokio::spawn(note_published(edge.hub().watch_readings(), stage.books.clone()));
    let edge = edge.start().map_err(DemoError::Start)?;
    introduce(&stage, &edge);

    act(&stage, outage, run_for).await;
    let verdict = settle(&stage, &edge).await;
    edge.stop().await.map_err(DemoError::Stop)?;
    cloud.stop().await.map_err(DemoError::Stop)?;
    stage.cancel.cancel();
    arrivals.abort();
    verdict
}

/// Lets time pass: until the end that was asked for or a signal, with one outage on the way.
async fn act(stage: &Stage, outage: Option<Duration>, run_for: Option<Duration>) {
    let end = async {
        match run_for {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    let play = async {
        if let Some(outage) = outage {
            tokio::time::sleep(cut_after(outage, run_for)).await;
            cut_and_restore(stage, outage).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = end => {}
        () = play => {}
        _ = stop_signal() => {}
    }
    // An end in mid-outage: the readings still have to get through.
    stage.switch.send_replace(true);
}

/// In the middle of the time that the outage leaves.
fn cut_after(outage: Duration, run_for: Option<Duration>) -> Duration {
    run_for.map_or(CUT_AFTER, |span| span.saturating_sub(outage) / 3)
}

async fn cut_and_restore(stage: &Stage, outage: Duration) {
    stage.switch.send_replace(false);
    stage.say(&format!("-- the uplink is cut for {outage:?} --"));
    tokio::time::sleep(outage).await;
    let waiting = stage.books().outstanding();
    stage.switch.send_replace(true);
    stage.say(&format!("-- the uplink is back: {waiting} messages waited --"));
}

/// Stops reading the meter, lets the rest arrive and balances the books. A signal ends the wait.
async fn settle(stage: &Stage, edge: &Gateway) -> Result<(), DemoError> {
    edge.stop_devices().await;
    stage.say("-- the meter is no longer read; waiting for the last readings --");
    let deadline = tokio::time::Instant::now() + DRAIN_WAIT;
    let balanced = async {
        while !stage.books().differences().is_empty() {
            tokio::time::sleep(POLL / 5).await;
        }
    };
    tokio::select! {
        () = balanced => {}
        () = tokio::time::sleep_until(deadline) => {}
        _ = stop_signal() => {}
    }
    let books = stage.books();
    let differences = books.differences();
    if !differences.is_empty() {
        return Err(DemoError::Unbalanced(differences));
    }
    if books.published() == 0 {
        return Err(DemoError::Empty);
    }
    print(format_args!(
        "\nok: {} messages published, each arrived in the cloud once and in order",
        books.published()
    ));
    Ok(())
}

fn introduce(stage: &Stage, edge: &Gateway) {
    let broker = edge.addresses()[0];
    print(format_args!(
        "Tidegate {} demo: a simulated meter -> the gateway -> a cloud, all in this process",
        env!("CARGO_PKG_VERSION")
    ));
    print(format_args!("  broker     mqtt://{broker}   (try: tidegate sub -p {} -t '#' -v)", broker.port()));
    if let Some(http) = &edge.config().http {
        print(format_args!("  dashboard  http://{}/", http.address));
    }
    print(format_args!("  Ctrl-C ends it\n"));
    stage.say("-- readings as they reach the cloud --");
}

async fn note_published(mut readings: broadcast::Receiver<Message>, books: Arc<Mutex<Books>>) {
    while let Ok(message) = readings.recv().await {
        let topic = format!("sites/demo/{}", message.topic);
        books
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .note_published(&topic, &message.payload);
    }
}

/// Subscribes at the cloud and prints what arrives. Returns once the subscription stands.
async fn subscribe(cloud: SocketAddr, stage: &Stage) -> Result<tokio::task::JoinHandle<()>, DemoError> {
    let mut options = MqttOptions::new("demo-viewer", cloud.ip().to_string(), cloud.port());
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 16);
    // The channel has room: the request cannot fail.
    let _ = client.subscribe("sites/#", QoS::ExactlyOnce).await;
    while !matches!(
        events.poll().await.map_err(|error| DemoError::Client(Box::new(error)))?,
        Event::Incoming(Packet::SubAck(_))
    ) {}
    let (books, started) = (stage.books.clone(), stage.started);
    Ok(tokio::spawn(async move {
        let _client = client;
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event {
                let seconds = started.elapsed().as_secs_f64();
                let payload = String::from_utf8_lossy(&publish.payload);
                print(format_args!("{seconds:7.1} s  {:<36} {payload}", publish.topic));
                let mut books = books.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                books.note_arrived(&publish.topic, &publish.payload);
            }
        }
    }))
}

fn start(text: &str, clock: Clock) -> Result<Gateway, DemoError> {
    let config = Arc::new(parse(text)?);
    Gateway::prepare(config, clock).map_err(DemoError::Start)?.start().map_err(DemoError::Start)
}

fn parse(text: &str) -> Result<Config, DemoError> {
    crate::config::load::parse("demo.yaml", text, Path::new("."), &crate::config::expand::ProcessEnvironment)
        .map_err(DemoError::Config)
}

/// The usual port where it is free, so that one can find it again.
fn dashboard_port() -> u16 {
    let usual = std::net::TcpListener::bind(("127.0.0.1", DASHBOARD_PORT));
    usual
        .or_else(|_| std::net::TcpListener::bind("127.0.0.1:0"))
        .and_then(|l| l.local_addr())
        .map_or(0, |a| a.port())
}

fn cloud_config(scratch: &Path) -> String {
    format!(
        "gateway: {{ id: cloud, data_dir: '{}/cloud', durability: none }}\n\
         broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}\n",
        scratch.display()
    )
}

fn edge_config(scratch: &Path, meter: SocketAddr, relay_port: u16, dashboard: u16) -> String {
    format!(
        "gateway: {{ id: demo, data_dir: '{scratch}/edge' }}
http: {{ address: 127.0.0.1:{dashboard} }}
broker: {{ listeners: [{{ address: 127.0.0.1:0 }}] }}
devices:
  meter:
    modbus: {{ tcp: {meter}, unit: 1 }}
    poll: {poll}ms
    publish: {{ topic: \"devices/{{device}}/{{point}}\", qos: 2, when: poll }}
    points:
      voltage:   {{ input: 0, type: f32, unit: V, round: 1 }}
      current:   {{ input: 2, type: f32, unit: A, round: 2 }}
      power:     {{ input: 4, type: f32, unit: W, round: 0 }}
      frequency: {{ input: 6, type: f32, unit: Hz, round: 2 }}
      setpoint:  {{ holding: 0, type: i16, scale: 0.1, unit: °C, writable: true, min: 5, max: 30 }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{relay_port}
    reconnect: {{ min: 200ms, max: 2s }}
    forward:
      - {{ topic: \"devices/#\", to: \"sites/{{gateway}}/{{topic}}\" }}
",
        scratch = scratch.display(),
        poll = POLL.as_millis()
    )
}

/// A folder of the demo's own, gone when the demo ends.
struct Scratch(PathBuf);

impl Scratch {
    /// Never one that is there already: in a folder that all may write to, that would be somebody else's.
    fn new() -> Result<Self, DemoError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("tidegate-demo-{}-{}", std::process::id(), now.as_millis());
        let path = std::env::temp_dir().join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Self(path.clone())).map_err(|error| DemoError::Scratch { path, error })
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of a demo harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
