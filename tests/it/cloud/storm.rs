//! 500 links to one cloud that goes away and comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tidegate::base::backoff::BackoffBounds;
use tidegate::bridge::status::LinkState;
use tidegate::cloud::reach::Target;
use tidegate::cloud::run::run;
use tidegate::mqtt::packet::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::local_door::LocalDoor;
use super::traffic::config;

const GATEWAYS: usize = 500;
const BOUNDS: BackoffBounds = BackoffBounds { min: Duration::from_millis(100), max: Duration::from_secs(4) };
/// Long enough for every back-off to reach its bound.
const TRIES_DURING_OUTAGE: usize = GATEWAYS * 6;
const BUCKET: Duration = Duration::from_millis(100);
const WAIT: Duration = Duration::from_secs(60);
/// MQTT 3.1.1 3.2: accepted, without a session.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// A server that greets and says nothing more.
struct Greeter {
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Greeter {
    async fn start(address: SocketAddr, greeted: Arc<Mutex<Vec<Instant>>>) -> Greeter {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(greet(stream, Arc::clone(&greeted)));
            }
        });
        Greeter { address, tasks }
    }

    /// Its listener and its connections are closed when it returns.
    async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn greet(mut stream: TcpStream, greeted: Arc<Mutex<Vec<Instant>>>) {
    let mut packet = [0; 256];
    if matches!(stream.read(&mut packet).await, Ok(1..)) && stream.write_all(&CONNACK).await.is_ok() {
        greeted.lock().await.push(Instant::now());
        while matches!(stream.read(&mut packet).await, Ok(1..)) {}
    }
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(WAIT, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "not {what}");
}

/// Two sockets for each link.
fn allow_sockets() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = 4 * GATEWAYS as u64;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        setrlimit(Resource::Nofile, limit).expect("within the hard limit");
    }
}

fn peak_a_second(mut moments: Vec<Instant>, from: Instant) -> usize {
    moments.retain(|moment| *moment >= from);
    let within = |start: Instant| {
        moments.iter().filter(|m| **m >= start && **m < start + Duration::from_secs(1)).count()
    };
    (0..100).map(|bucket| within(from + BUCKET * bucket)).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_links_find_their_cloud_again() {
    allow_sockets();
    let greeted = Arc::new(Mutex::new(Vec::new()));
    let cloud = Greeter::start(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::clone(&greeted)).await;
    let address = cloud.address;
    let (cancel, mut links) = (CancellationToken::new(), JoinSet::new());
    let mut doors = Vec::new();
    for seed in 0..GATEWAYS as u64 {
        let mut config = config(Version::V3_1_1, address.port(), None);
        config.client_id = format!("plant-{seed}").into();
        config.reconnect = BOUNDS;
        config.receive.clear();
        let target = Target::of(&config);
        let door = LocalDoor::with_seed(config, seed);
        doors.push(Arc::clone(&door));
        links.spawn(run(door.clone(), target, cancel.clone()));
        links.spawn(door.tick());
    }
    let all_up = async || doors.iter().all(|door| door.status().state == LinkState::Up);
    until("up", all_up).await;
    cloud.stop().await;
    until("tried in vain", async || {
        doors.iter().map(|door| door.faults()).sum::<usize>() >= TRIES_DURING_OUTAGE
    })
    .await;
    let back = Instant::now();
    let _cloud = Greeter::start(address, Arc::clone(&greeted)).await;
    until("up again", all_up).await;
    let took = back.elapsed();
    let moments = greeted.lock().await.clone();
    let again = moments.iter().filter(|moment| **moment >= back).count();
    assert_eq!(again, GATEWAYS, "once each");
    let theory = 2 * GATEWAYS as u64 * 1000 / u64::try_from(BOUNDS.max.as_millis()).expect("small");
    eprintln!(
        "{GATEWAYS} links were back {took:.1?} after their cloud: at most {} a second, full jitter's own peak is {theory}",
        peak_a_second(moments, back)
    );
    cancel.cancel();
    links.shutdown().await;
}
