//! `tidegate demo`: the whole product in one process, with nothing to install. A simulated meter, the gateway,
//! an uplink that can be cut and a second gateway that plays the cloud. Judges itself: every reading must
//! arrive exactly once and in order.
#![allow(clippy::print_stdout)] // a command's output

pub mod args;
mod ledger;
mod uplink;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
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
    Start(StartError),
    Stop(StoreError),
    Config(String),
    Client(Box<rumqttc::ConnectionError>),
    /// The books did not balance.
    Unbalanced(Vec<ledger::Difference>),
}

impl std::fmt::Display for DemoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
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
        }
    }
}

impl From<io::Error> for DemoError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub fn run(args: &DemoArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&DemoError::Io(error)),
    };
    match runtime.block_on(demo(args.outage, args.duration)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &DemoError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
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
        println!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64());
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

    let cloud = start(&cloud_config(scratch.path()), stage.clock)?;
    let cloud_address = cloud.addresses()[0];
    let arrivals = subscribe(cloud_address, &stage).await?;

    let relay = TcpListener::bind("127.0.0.1:0").await?;
    let relay_port = relay.local_addr()?.port();
    tokio::spawn(uplink::run(relay, cloud_address, switched, stage.cancel.clone()));

    let meter = TcpListener::bind("127.0.0.1:0").await?;
    let text = edge_config(scratch.path(), meter.local_addr()?, relay_port, dashboard_port());
    let config = parse(&text)?;
    tokio::spawn(simulator::serve_tcp(meter, config.devices.clone(), stage.cancel.clone()));

    let edge = Gateway::prepare(Arc::new(config), stage.clock).map_err(DemoError::Start)?;
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

/// Lets time pass: until the end that was asked for or Ctrl-C, with one outage on the way.
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
        _ = tokio::signal::ctrl_c() => {}
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

/// Stops reading the meter, lets the rest arrive and balances the books.
async fn settle(stage: &Stage, edge: &Gateway) -> Result<(), DemoError> {
    edge.stop_devices().await;
    stage.say("-- the meter is no longer read; waiting for the last readings --");
    let deadline = tokio::time::Instant::now() + DRAIN_WAIT;
    while !stage.books().differences().is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL / 5).await;
    }
    let books = stage.books();
    let differences = books.differences();
    if !differences.is_empty() {
        return Err(DemoError::Unbalanced(differences));
    }
    println!("\nok: {} messages published, each arrived in the cloud once and in order", books.published());
    Ok(())
}

fn introduce(stage: &Stage, edge: &Gateway) {
    println!(
        "Tidegate {} demo: a simulated meter -> the gateway -> a cloud, all in this process",
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "  broker     mqtt://{}   (try: tidegate sub -p {} -t '#' -v)",
        edge.addresses()[0],
        edge.addresses()[0].port()
    );
    if let Some(http) = &edge.config().http {
        println!("  dashboard  http://{}/", http.address);
    }
    println!("  Ctrl-C ends it\n");
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
                println!("{seconds:7.1} s  {:<36} {payload}", publish.topic);
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
        .map_err(|faults| DemoError::Config(faults.to_string()))
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
        "gateway: {{ id: cloud, data_dir: {}/cloud, durability: none }}\n\
         broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}\n",
        scratch.display()
    )
}

fn edge_config(scratch: &Path, meter: SocketAddr, relay_port: u16, dashboard: u16) -> String {
    format!(
        "gateway: {{ id: demo, data_dir: {scratch}/edge }}
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
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
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
