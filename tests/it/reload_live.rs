//! Reloads of a gateway at work: what changed counts, and what did not change does not notice.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidegate::app::Gateway;
use tidegate::app::reload::reload;
use tidegate::bus::simulator::serve_tcp;
use tidegate::config::model::Config;
use tidegate::device::status::{DeviceStatus, State};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cloud::authority::Authority;
use crate::gateway::client::{Client, config, connect, publish, start, until};

/// Units that answer on one address, whatever the gateway asks of them.
pub(crate) struct Units {
    pub(crate) address: SocketAddr,
    cancel: CancellationToken,
}

impl Units {
    pub(crate) async fn serve(units: &[u8]) -> Units {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let devices: String =
            units.iter().map(|unit| device(&format!("unit-{unit}"), address, *unit, "")).collect();
        let dir = tempfile::tempdir().unwrap();
        let played = config(dir.path(), &format!("devices:\n{devices}"));
        let cancel = CancellationToken::new();
        tokio::spawn(serve_tcp(listener, played.devices.clone(), cancel.clone()));
        Units { address, cancel }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(crate) fn device(name: &str, address: SocketAddr, unit: u8, more: &str) -> String {
    format!(
        "  {name}: {{ modbus: {{ tcp: \"{address}\", unit: {unit} }}, poll: 10ms, {more} points: \
         {{ value: {{ holding: 0, type: u16 }}, level: {{ holding: 10, type: u16, writable: true }} }} }}\n"
    )
}

/// A LAN client that publishes all the time, one message after the other, and one that hears it all.
struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    publisher: tokio::task::JoinHandle<()>,
    subscriber: tokio::task::JoinHandle<Vec<u64>>,
}

impl Traffic {
    async fn start(address: SocketAddr) -> Traffic {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut hears = Client::connect(address, connect("hears", Version::V5)).await;
        hears.subscribe("traffic/+", QoS::ExactlyOnce).await;
        let subscriber = tokio::spawn(async move {
            let mut numbers = Vec::new();
            while let Some(packet) = hears.next().await {
                match packet {
                    Packet::Publish(publish) => {
                        if &publish.payload[..] == b"end" {
                            break;
                        }
                        numbers.push(std::str::from_utf8(&publish.payload).unwrap().parse().unwrap());
                        let id = publish.packet_id;
                        match publish.qos {
                            QoS::AtMostOnce => {}
                            QoS::AtLeastOnce => {
                                hears.send(&[Packet::Puback(Ack::success(id.unwrap()))]).await;
                            }
                            QoS::ExactlyOnce => {
                                hears.send(&[Packet::Pubrec(Ack::success(id.unwrap()))]).await;
                            }
                        }
                    }
                    Packet::Pubrel(ack) => hears.send(&[Packet::Pubcomp(Ack::success(ack.packet_id))]).await,
                    other => panic!("{other:?}"),
                }
            }
            numbers
        });
        let mut says = Client::connect(address, connect("says", Version::V5)).await;
        let (stopped, count) = (stop.clone(), sent.clone());
        let publisher = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed) + 1;
                say(&mut says, number).await;
                count.store(number, Ordering::Relaxed);
            }
            // On the same topic and with an acknowledgement, or it would overtake what waits for a slow subscriber.
            says.publish("traffic/a", "end").await;
        });
        Traffic { stop, sent, publisher, subscriber }
    }

    /// Goes on for some messages more.
    async fn go_on(&self) {
        let from = self.sent.load(Ordering::Relaxed);
        until("messages go on", || self.sent.load(Ordering::Relaxed) >= from + 3).await;
    }

    /// Nothing was lost or doubled, and no connection was cut.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.publisher.await.unwrap();
        let heard = self.subscriber.await.unwrap();
        let sent: Vec<u64> = (1..=self.sent.load(Ordering::Relaxed)).collect();
        let wrong = heard.iter().zip(&sent).find(|(heard, sent)| heard != sent);
        assert!(heard == sent, "of {} came {}, the first wrong: {wrong:?}", sent.len(), heard.len());
    }
}

/// QoS 1 and 2 in turn, each acknowledged before the next.
async fn say(client: &mut Client, number: u64) {
    let qos = if number.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    client.send(&[publish("traffic/a", qos, 7, number.to_string())]).await;
    loop {
        match client.next().await {
            Some(Packet::Puback(_) | Packet::Pubcomp(_)) => return,
            Some(Packet::Pubrec(ack)) => client.send(&[Packet::Pubrel(Ack::success(ack.packet_id))]).await,
            other => panic!("{other:?}"),
        }
    }
}

/// What is said on some topics, by topic.
#[derive(Clone)]
pub(crate) struct Ear(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Ear {
    pub(crate) async fn open(address: SocketAddr, filter: &str) -> Ear {
        let heard = Arc::new(Mutex::new(BTreeMap::new()));
        let mut client = Client::connect(address, connect("ear", Version::V5)).await;
        client.subscribe(filter, QoS::AtMostOnce).await;
        let into = heard.clone();
        tokio::spawn(async move {
            while let Some(packet) = client.next().await {
                let Packet::Publish(publish) = packet else { continue };
                let (topic, payload) = (publish.topic.unwrap(), publish.payload);
                let mut heard: std::sync::MutexGuard<'_, BTreeMap<String, Vec<String>>> =
                    into.lock().unwrap();
                let said = heard.entry(topic.as_str().to_owned()).or_default();
                said.push(String::from_utf8_lossy(&payload).into_owned());
            }
        });
        Ear(heard)
    }

    pub(crate) fn of(&self, topic: &str) -> Vec<String> {
        self.0.lock().unwrap().get(topic).cloned().unwrap_or_default()
    }

    pub(crate) fn last(&self, topic: &str) -> Option<String> {
        self.of(topic).pop()
    }
}

pub(crate) fn status(gateway: &Gateway, device: &str) -> Option<DeviceStatus> {
    let lines = gateway.lines();
    let mut statuses = lines.iter().flat_map(|line| line.borrow().clone());
    statuses.find(|status| *status.name == *device)
}

pub(crate) async fn until_online(gateway: &Gateway, device: &str) {
    let online = || status(gateway, device).is_some_and(|status| status.state == State::Online);
    until(&format!("{device} is online"), online).await;
}

pub(crate) async fn load(gateway: &Gateway, config: &Arc<Config>) {
    let config = Config::clone(config);
    reload(gateway, move || Ok(config)).await;
}

pub(crate) fn on_loopback(dir: &Path, rest: &str) -> Arc<Config> {
    config(
        dir,
        &format!("broker: {{ listeners: [{{ address: \"127.0.0.1:0\" }}], sys_interval: 0s }}\n{rest}"),
    )
}

#[tokio::test]
async fn devices_come_go_and_change_and_the_others_do_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Units::serve(&[1, 2, 3]).await, Units::serve(&[1]).await);
    let stays = device("stays", one.address, 1, "");
    let alone = device("alone", two.address, 1, "");
    let first = format!("{stays}{}", device("other", one.address, 2, ""));
    let configs = [
        format!("{first}{alone}"),
        // Another device on the line changes, one comes, one goes.
        format!(
            "{stays}{}{}",
            device("other", one.address, 2, "retries: 1,"),
            device("new", one.address, 3, "")
        ),
        // One is alone on its line.
        stays.clone(),
        // One moves from a line to another.
        format!("{stays}{}", device("other", two.address, 1, "")),
    ];
    let configs: Vec<_> =
        configs.iter().map(|devices| on_loopback(dir.path(), &format!("devices:\n{devices}"))).collect();
    let gateway = start(configs[0].clone());
    let address = gateway.addresses()[0];
    let ear = Ear::open(address, "devices/+/status").await;
    let traffic = Traffic::start(address).await;
    for device in ["stays", "other", "alone"] {
        until_online(&gateway, device).await;
    }
    let mut polls = 0;
    for (round, next) in [1, 0, 2, 1, 3, 0, 3, 2, 3, 1, 1, 2, 0, 1, 0, 3, 1, 0, 2, 0].into_iter().enumerate()
    {
        load(&gateway, &configs[next]).await;
        traffic.go_on().await;
        let named: Vec<_> = configs[next].devices.iter().map(|device| device.name.to_string()).collect();
        for device in &named {
            until_online(&gateway, device).await;
            let topic = format!("devices/{device}/status");
            until("it says so", || ear.last(&topic).as_deref() == Some("online")).await;
        }
        for device in
            ["other", "alone", "new"].into_iter().filter(|name| !named.iter().any(|named| named == name))
        {
            assert!(status(&gateway, device).is_none(), "round {round}: {device} is gone");
            let topic = format!("devices/{device}/status");
            until("it says so", || ear.last(&topic).is_none_or(|last| last == "offline")).await;
        }
        until("polls go on", || status(&gateway, "stays").is_some_and(|status| status.polls > polls)).await;
        polls = status(&gateway, "stays").unwrap().polls;
    }
    assert_eq!(ear.of("devices/stays/status"), ["online"], "it never was away");
    assert_eq!(status(&gateway, "stays").unwrap().errors, 0);
    traffic.end().await;
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn commands_find_the_device_that_is_configured_now() {
    let dir = tempfile::tempdir().unwrap();
    let units = Units::serve(&[1, 2]).await;
    let stays = device("stays", units.address, 1, "");
    let with =
        on_loopback(dir.path(), &format!("devices:\n{stays}{}", device("comes", units.address, 2, "")));
    let without = on_loopback(dir.path(), &format!("devices:\n{stays}"));
    let gateway = start(without.clone());
    let address = gateway.addresses()[0];
    let ear = Ear::open(address, "devices/+/level/result").await;
    let mut client = Client::connect(address, connect("c", Version::V5)).await;
    for (round, config) in [&with, &without, &with].into_iter().enumerate() {
        load(&gateway, config).await;
        let there = config.devices.len() == 2;
        let results = ear.of("devices/comes/level/result").len();
        client.send(&[publish("devices/comes/level/set", QoS::AtLeastOnce, 1, round.to_string())]).await;
        let Some(Packet::Puback(_)) = client.next().await else { panic!("no PUBACK") };
        client.send(&[publish("devices/stays/level/set", QoS::AtLeastOnce, 1, round.to_string())]).await;
        let Some(Packet::Puback(_)) = client.next().await else { panic!("no PUBACK") };
        until("the other answers", || ear.of("devices/stays/level/result").len() == round + 1).await;
        if there {
            until("it answers", || ear.of("devices/comes/level/result").len() > results).await;
            let answer = ear.last("devices/comes/level/result").unwrap();
            assert_eq!(answer, format!("{{\"value\":{round},\"ok\":true}}"));
        } else {
            assert_eq!(ear.of("devices/comes/level/result").len(), results, "nobody takes it");
        }
    }
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_applied_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let units = Units::serve(&[1, 2]).await;
    let stays = device("stays", units.address, 1, "");
    let first = on_loopback(dir.path(), &format!("devices:\n{stays}"));
    let gateway = start(first.clone());
    until_online(&gateway, "stays").await;
    let more = format!("devices:\n{stays}{}", device("more", units.address, 2, ""));
    let mut other = Config::clone(&on_loopback(dir.path(), &more));
    other.gateway.id = "another".into();
    load(&gateway, &Arc::new(other)).await;
    assert_eq!(*gateway.config(), *first);
    assert!(status(&gateway, "more").is_none());
    // A port that is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let share = format!(
        "ports: {{ bus: {{ path: /dev/null, share: {{ address: \"{}\" }} }} }}\n{more}",
        taken.local_addr().unwrap()
    );
    load(&gateway, &on_loopback(dir.path(), &share)).await;
    assert_eq!(*gateway.config(), *first);
    assert!(status(&gateway, "more").is_none());
    load(&gateway, &on_loopback(dir.path(), &more)).await;
    until_online(&gateway, "more").await;
    gateway.stop().await.unwrap();
}

/// A cloud, and everything that a durable subscriber hears there of the traffic.
struct Cloud {
    gateway: Gateway,
    address: SocketAddr,
    heard: Arc<Mutex<Vec<(u64, QoS)>>>,
    _dir: tempfile::TempDir,
}

impl Cloud {
    async fn start() -> Cloud {
        let dir = tempfile::tempdir().unwrap();
        let gateway = start(on_loopback(dir.path(), ""));
        let address = gateway.addresses()[0];
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut client = Client::connect(address, connect("auditor", Version::V5)).await;
        client.subscribe("sites/traffic/a", QoS::ExactlyOnce).await;
        let into = heard.clone();
        tokio::spawn(async move {
            while let Some(packet) = client.next().await {
                match packet {
                    Packet::Publish(publish) => {
                        let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                        into.lock().unwrap().push((number, publish.qos));
                        let ack = Ack::success(publish.packet_id.unwrap());
                        let exactly = publish.qos == QoS::ExactlyOnce;
                        client.send(&[if exactly { Packet::Pubrec(ack) } else { Packet::Puback(ack) }]).await;
                    }
                    Packet::Pubrel(ack) => client.send(&[Packet::Pubcomp(Ack::success(ack.packet_id))]).await,
                    other => panic!("{other:?}"),
                }
            }
        });
        Cloud { gateway, address, heard, _dir: dir }
    }

    /// All that were sent, in their order; those at QoS 2 once.
    async fn has_all(&self, sent: u64) {
        until("the cloud has the last", || {
            self.heard.lock().unwrap().iter().any(|(number, _)| *number == sent)
        })
        .await;
        let heard = self.heard.lock().unwrap().clone();
        let exactly = heard.iter().filter(|(_, qos)| *qos == QoS::ExactlyOnce).map(|(number, _)| *number);
        assert_eq!(exactly.collect::<Vec<_>>(), (1..=sent).filter(|n| n % 2 == 1).collect::<Vec<_>>());
        let mut first = Vec::new();
        for (number, _) in heard {
            if !first.contains(&number) {
                first.push(number);
            }
        }
        assert_eq!(first, (1..=sent).collect::<Vec<_>>());
    }
}

fn link(gateway: &Gateway, bridge: &str) -> Option<tidegate::bridge::status::Status> {
    gateway.hub().status().link(bridge).map(|link| link.status.clone())
}

#[tokio::test]
async fn bridges_come_go_and_change_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start().await;
    let rule = "{ topic: \"traffic/a\", to: \"sites/{topic}\" }";
    let to_cloud = |more: &str, rules: &str| {
        format!(
            "  cloud: {{ url: \"mqtt://{}\", reconnect: {{ min: 100ms, max: 200ms }}, {more} forward: [{rules}] }}\n",
            cloud.address
        )
    };
    let away = |rules: &str| {
        format!("  away: {{ url: \"mqtt://127.0.0.1:1\", client_id: away, forward: [{rules}] }}\n")
    };
    let plain = to_cloud("", rule);
    let configs = [
        format!("{plain}{}", away(rule)),
        // The other comes and goes, and the link stays.
        plain.clone(),
        // Other settings of the link, and of the buffer.
        format!("{}{}", to_cloud("inflight: 3, keep_alive: 7s, buffer: { commit: 5ms },", rule), away(rule)),
        // More rules, with a lane of their own.
        to_cloud("", &format!("{rule}, {{ topic: \"alarms/#\", priority: high, order: live-first }}")),
        // An outage: it is elsewhere.
        format!("  cloud: {{ url: \"mqtt://127.0.0.1:1\", forward: [{rule}] }}\n"),
        // Another version of MQTT.
        to_cloud("protocol: 3.1.1,", rule),
        // All gone but a rule that takes what nobody says.
        to_cloud("", &format!("{{ topic: \"nobody/#\" }}, {rule}")),
    ];
    let configs: Vec<_> =
        configs.iter().map(|bridges| on_loopback(dir.path(), &format!("bridges:\n{bridges}"))).collect();
    let gateway = start(configs[0].clone());
    let traffic = Traffic::start(gateway.addresses()[0]).await;
    let is_up = || link(&gateway, "cloud").is_some_and(|status| status.connected_since.is_some());
    until("the link is up", is_up).await;
    let mut since = None;
    let (mut away_queued, mut last) = (0, 0);
    for (round, next) in [1, 0, 2, 4, 1, 0, 3, 1, 4, 3, 5, 6, 0, 2, 4, 5, 2, 4, 6, 0].into_iter().enumerate()
    {
        let before = link(&gateway, "cloud").and_then(|status| status.connected_since);
        load(&gateway, &configs[next]).await;
        traffic.go_on().await;
        let is_there = next != 4;
        if is_there {
            until("the link is up", is_up).await;
        }
        // Only the other bridge came or went.
        if [next, last] == [0, 1] || [next, last] == [1, 0] {
            since = before.or(since);
            assert_eq!(link(&gateway, "cloud").unwrap().connected_since, before, "round {round}: cut");
        }
        let status = link(&gateway, "away");
        assert_eq!(status.is_some(), configs[next].bridges.len() == 2, "round {round}");
        if let Some(status) = status {
            assert!(status.queued_messages > away_queued, "round {round}: {status:?}");
            away_queued = status.queued_messages;
        }
        last = next;
    }
    assert!(since.is_some(), "it was up at least once when only the other changed");
    let sent = traffic.sent.clone();
    traffic.end().await;
    cloud.has_all(sent.load(Ordering::Relaxed)).await;
    gateway.stop().await.unwrap();
    // What waited for a bridge that was gone meanwhile is there after a restart too.
    let gateway = start(configs[0].clone());
    assert!(link(&gateway, "away").unwrap().queued_messages >= away_queued);
    gateway.stop().await.unwrap();
    cloud.gateway.stop().await.unwrap();
}

/// A configuration of some of these devices and bridges, in some way.
fn any(dir: &Path, address: SocketAddr, rng: &mut fastrand::Rng) -> Arc<Config> {
    let mut devices = String::new();
    for (name, unit) in [("a", 1), ("b", 2), ("c", 3)] {
        if rng.bool() {
            let more = ["", "retries: 1,", "publish: { format: plain },", "homeassistant: true,"];
            devices.push_str(&device(name, address, unit, more[rng.usize(..more.len())]));
        }
    }
    let mut bridges = String::new();
    for name in ["x", "y"] {
        if rng.bool() {
            let rules = ["", "{ topic: \"a/#\" }", "{ topic: \"b/#\", priority: high }, { topic: \"a/#\" }"];
            let rules = rules[rng.usize(..rules.len())];
            let keep_alive = rng.u8(5..8);
            let _ = writeln!(
                bridges,
                "  {name}: {{ url: \"mqtt://127.0.0.1:1\", client_id: {name}, keep_alive: {keep_alive}s, forward: [{rules}] }}"
            );
        }
    }
    let section = |name: &str, inside: &str| {
        if inside.is_empty() { String::new() } else { format!("{name}:\n{inside}") }
    };
    on_loopback(dir, &format!("{}{}", section("devices", &devices), section("bridges", &bridges)))
}

/// What a person sees of the configuration.
fn shown(gateway: &Gateway) -> (Arc<str>, Vec<String>, Vec<String>) {
    let config = gateway.config();
    let mut devices: Vec<String> = gateway
        .lines()
        .iter()
        .flat_map(|line| line.borrow().clone())
        .map(|status| {
            format!(
                "{}: {:?}",
                status.name,
                status.points.iter().map(|point| point.name.clone()).collect::<Vec<_>>()
            )
        })
        .collect();
    devices.sort();
    let links = gateway.hub().status().links;
    let mut links: Vec<String> = links
        .iter()
        .map(|link| {
            let rules: Vec<_> =
                link.status.rules.iter().map(|rule| (rule.topic.clone(), rule.bytes_max)).collect();
            format!("{}: {} {rules:?}", link.name, link.status.server)
        })
        .collect();
    links.sort();
    (config.written.clone(), devices, links)
}

#[tokio::test]
async fn there_and_back_is_where_it_began() {
    let units = Units::serve(&[1, 2, 3]).await;
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let pair =
            [any(dirs[0].path(), units.address, &mut rng), any(dirs[0].path(), units.address, &mut rng)];
        let gateway = start(pair[0].clone());
        load(&gateway, &pair[1]).await;
        load(&gateway, &pair[0]).await;
        assert_eq!(*gateway.config(), *pair[0], "seed {seed}");
        let names = |gateway: &Gateway| gateway.lines().iter().map(|line| line.borrow().len()).sum::<usize>();
        until("all devices are there", || names(&gateway) == pair[0].devices.len()).await;
        let went = shown(&gateway);
        gateway.stop().await.unwrap();
        let fresh = start(pair[0].clone());
        until("all devices are there", || names(&fresh) == pair[0].devices.len()).await;
        assert_eq!(went, shown(&fresh), "seed {seed}");
        fresh.stop().await.unwrap();
    }
}

#[tokio::test]
async fn listeners_come_and_go_and_connections_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = spare.local_addr().unwrap().port();
    let on = |more: &str| {
        let limits = "limits: { connections: 3, packet_size: 1KiB }, sys_interval: 0s";
        let first = "{ address: \"127.0.0.1:0\" }";
        config(dir.path(), &format!("broker: {{ listeners: [{first}{more}], {limits} }}"))
    };
    let gateway = start(on(""));
    let address = gateway.addresses()[0];
    let traffic = Traffic::start(address).await;
    // Taken by somebody else: nothing changes.
    load(&gateway, &on(&format!(", {{ address: \"127.0.0.1:{port}\" }}"))).await;
    assert_eq!(*gateway.config(), *on(""));
    drop(spare);
    load(&gateway, &on(&format!(", {{ address: \"127.0.0.1:{port}\" }}"))).await;
    let mut other = Client::connect(([127, 0, 0, 1], port).into(), connect("other", Version::V5)).await;
    // The same port on all addresses, in the place of the one that has it.
    load(&gateway, &on(&format!(", {{ address: \"0.0.0.0:{port}\" }}"))).await;
    assert_eq!(gateway.config().broker.listeners[1].address.to_string(), format!("0.0.0.0:{port}"));
    other.ping().await;
    other.part().await;
    let mut again = Client::connect(([127, 0, 0, 2], port).into(), connect("again", Version::V5)).await;
    load(&gateway, &on("")).await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody listens there");
    again.ping().await;
    again.part().await;
    // More may come, with larger packets.
    let wide = "broker: { listeners: [{ address: \"127.0.0.1:0\" }], limits: { connections: 20 }, sys_interval: 0s }";
    load(&gateway, &config(dir.path(), wide)).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(Client::connect(address, connect(&format!("c{number}"), Version::V5)).await);
    }
    clients[0].send(&[publish("large", QoS::AtLeastOnce, 1, vec![b'x'; 4096])]).await;
    assert!(matches!(clients[0].next().await, Some(Packet::Puback(_))));
    traffic.end().await;
    gateway.stop().await.unwrap();
}

/// The authority that the bridge trusts is another one now, under the name that it had.
#[tokio::test]
async fn a_bridge_takes_the_certificates_that_its_files_hold_now() {
    let (dir, cloud_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (wrong, right) = (Authority::new(dir.path(), "wrong"), Authority::new(dir.path(), "right"));
    let server = right.issue("server", "localhost");
    let (certificate, key) = (server.certificate.display(), server.private_key.display());
    let listener = format!(
        "broker: {{ sys_interval: 0s, listeners: [{{ address: \"127.0.0.1:0\", \
         tls: {{ certificate: {certificate}, private_key: {key} }} }}] }}"
    );
    let cloud = start(config(cloud_dir.path(), &listener));
    let trusted = dir.path().join("trusted.crt");
    std::fs::copy(&wrong.ca, &trusted).unwrap();
    let of = || {
        let bridge = format!(
            "bridges: {{ cloud: {{ url: \"mqtts://localhost:{}\", reconnect: {{ min: 100ms, max: 200ms }}, \
             tls: {{ ca: {} }}, forward: [{{ topic: \"a/#\" }}] }} }}",
            cloud.addresses()[0].port(),
            trusted.display()
        );
        on_loopback(dir.path(), &bridge)
    };
    let gateway = start(of());
    let failed = || link(&gateway, "cloud").is_some_and(|status| status.last_error.is_some());
    until("it is not believed", failed).await;
    std::fs::copy(&right.ca, &trusted).unwrap();
    load(&gateway, &of()).await;
    until("the link is up", || link(&gateway, "cloud").unwrap().connected_since.is_some()).await;
    gateway.stop().await.unwrap();
    cloud.stop().await.unwrap();
}
