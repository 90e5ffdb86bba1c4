//! Messages both ways, and connections that must not come about.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate::base::backoff::BackoffBounds;
use tidegate::bridge::status::LinkState;
use tidegate::cloud::reach::Target;
use tidegate::cloud::run::run;
use tidegate::config::model::{
    self, Buffer, ForwardOrder, ForwardRule, Priority, ReceiveRule, Retain, WhenFull,
};
use tidegate::config::provider::Account;
use tidegate::config::template::TopicTemplate;
use tidegate::config::uplink::{BridgeUrl, Compression, TlsFiles};
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::authority::Authority;
use super::cutter::Cutter;
use super::local_door::LocalDoor;
use super::mosquitto::{Mosquitto, Tls, free_port};
use super::peer::Peer;

const WAIT: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 300;
const CUTS: usize = 40;
/// In place of 20 seconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

pub fn config(protocol: Version, port: u16, tls: Option<TlsFiles>) -> model::Bridge {
    model::Bridge {
        name: "cloud".into(),
        url: BridgeUrl { tls: tls.is_some(), host: "127.0.0.1".into(), port, path: None },
        fallbacks: Vec::new(),
        proxy: None,
        protocol,
        client_id: "plant-7".into(),
        username: None,
        password: None,
        account: Account::Generic,
        tls: tls.unwrap_or_default(),
        keep_alive: Duration::from_secs(30),
        inflight: 128,
        inflight_is_written: false,
        session_expiry: Duration::from_secs(3600),
        reconnect: BackoffBounds { min: Duration::from_millis(20), max: Duration::from_millis(200) },
        status_topic: Some(TopicName::new("status/plant-7").expect("a valid topic")),
        primary_host: None,
        forward: vec![forward("sites/{gateway}/{rest}")],
        receive: vec![ReceiveRule {
            filter: TopicFilter::new("down/#").expect("a valid filter"),
            to: TopicTemplate::new("{rest}").expect("a valid template"),
            qos: QoS::ExactlyOnce,
            expiry: None,
        }],
        buffer: Buffer {
            size_bytes: 1 << 26,
            age: Duration::from_secs(86_400),
            when_full: WhenFull::DropOldest,
            keep_free_bytes: 0,
            commit: Duration::from_millis(100),
            compress: Compression::None,
            replay_rate: None,
        },
    }
}

pub fn forward(to: &str) -> ForwardRule {
    ForwardRule {
        filter: TopicFilter::new("up/#").expect("a valid filter"),
        to: TopicTemplate::new(to).expect("a valid template"),
        qos: None,
        retain: Retain::Keep,
        when_full: WhenFull::DropOldest,
        size_bytes: None,
        expiry: None,
        priority: Priority::Normal,
        order: ForwardOrder::Topic,
    }
}

pub struct Link {
    pub door: Arc<LocalDoor>,
    hand: JoinHandle<()>,
    ticker: JoinHandle<()>,
}

impl Link {
    pub fn start(config: model::Bridge) -> Link {
        let target = Target { probe_interval: PROBE_INTERVAL, ..Target::of(&config) };
        let door = LocalDoor::new(config);
        let hand = tokio::spawn(run(door.clone(), target, CancellationToken::new()));
        let ticker = tokio::spawn(door.clone().tick());
        Link { door, hand, ticker }
    }

    /// Until the door says so.
    pub async fn until(&self, what: &str, holds: impl Fn(&LocalDoor) -> bool) {
        let waited = tokio::time::timeout(WAIT, async {
            loop {
                let changed = self.door.changed.notified();
                if holds(&self.door) {
                    return;
                }
                let _again = tokio::time::timeout(Duration::from_millis(100), changed).await;
            }
        });
        assert!(waited.await.is_ok(), "not {what}: {:?} {:?}", self.door.status(), self.door.last_fault());
    }

    pub async fn until_up(&self) {
        self.until("up", |door| door.status().state == LinkState::Up).await;
    }

    pub async fn stop(self) {
        self.door.shut_down();
        tokio::time::timeout(WAIT, self.hand).await.expect("the hand ends").expect("without a panic");
        self.ticker.abort();
    }
}

const LANES: [(&str, QoS, &str); 2] = [("one", QoS::AtLeastOnce, "1"), ("two", QoS::ExactlyOnce, "2")];

async fn exchange(protocol: Version, broker: &Mosquitto, port: u16, tls: Option<TlsFiles>) {
    exchange_by(config(protocol, port, tls), broker).await;
}

/// Messages both ways over any way to a Mosquitto.
pub async fn exchange_by(config: model::Bridge, broker: &Mosquitto) {
    let protocol = config.protocol;
    let link = Link::start(config);
    link.until_up().await;
    check_forward(&link, broker).await;
    check_receive(&link, broker, protocol).await;
    assert_eq!(broker.retained("status/plant-7"), "0 1 online");
    let status = link.door.status();
    assert_eq!((status.inflight, status.queued_messages), (0, 0));
    link.stop().await;
    assert_eq!(broker.retained("status/plant-7"), "0 1 offline");
}

async fn check_forward(link: &Link, broker: &Mosquitto) {
    let mut peer = Peer::subscribe(broker.port, "sites/#").await;
    for number in 1..=MESSAGES {
        for (lane, qos, _) in LANES {
            let hold = number * 2 + u64::from(qos == QoS::ExactlyOnce);
            link.door.offer(&format!("up/{lane}"), &number.to_string(), qos, hold);
        }
    }
    let mut lanes = LANES.map(|_| Vec::new());
    for _ in 0..2 * MESSAGES {
        let publish = peer.next().await;
        let number = String::from_utf8_lossy(&publish.payload).parse::<u64>().expect("a number");
        for ((lane, qos, _), numbers) in LANES.iter().zip(&mut lanes) {
            if publish.topic == format!("sites/plant-7/{lane}") {
                assert_eq!(publish.qos as u8, qos.bits());
                numbers.push(number);
            }
        }
    }
    let all: Vec<_> = (1..=MESSAGES).collect();
    assert_eq!(lanes, [all.clone(), all]);
    let count = usize::try_from(2 * MESSAGES).expect("in range");
    link.until("forwarded", |door| door.status().forwarded == 2 * MESSAGES && door.released() == count).await;
}

async fn check_receive(link: &Link, broker: &Mosquitto, protocol: Version) {
    let count = usize::try_from(2 * MESSAGES).expect("in range");
    let numbers: Vec<_> = (1..=MESSAGES).map(|number| number.to_string()).collect();
    let lines = numbers.join("\n") + "\n";
    for (lane, _, qos) in LANES {
        broker.publish(&format!("down/{lane}"), qos, &lines);
    }
    link.until("received", |door| door.local().len() == count).await;
    let local = link.door.local();
    for (lane, qos, _) in LANES {
        let lane: Vec<_> = local.iter().filter(|message| message.topic.as_str() == lane).collect();
        let payloads: Vec<_> =
            lane.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect();
        assert_eq!(payloads, numbers);
        for message in lane {
            assert_eq!(message.qos, qos);
            let pairs = message.properties.as_ref().map(|properties| properties.user_properties.clone());
            let carried = (protocol == Version::V5).then(|| vec![("k".into(), "v".into())]);
            assert_eq!(pairs, carried);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_over_tcp() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = Mosquitto::start(folder.path());
        exchange(protocol, &broker, broker.port, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_over_tls_with_client_certificates() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path(), "ca");
        let server = authority.issue("server", "broker.test");
        let client = authority.issue("client", "plant-7.test");
        let (broker, port) =
            Mosquitto::start_tls(folder.path(), &Tls { server: &server, clients: Some(&authority) });
        let files = TlsFiles {
            ca: Some(authority.ca.clone()),
            certificate: Some(client.certificate),
            private_key: Some(client.private_key),
            server_name: Some("broker.test".into()),
            alpn: Vec::new(),
        };
        exchange(protocol, &broker, port, Some(files)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_and_forgets_costs_nothing() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut broker = Mosquitto::start(folder.path());
        let link = Link::start(config(protocol, broker.port, None));
        link.until_up().await;
        broker.stop();
        for number in 1..=MESSAGES {
            link.door.offer("up/a", &number.to_string(), QoS::ExactlyOnce, number);
        }
        link.until("down", |door| door.status().last_error.is_some()).await;
        broker.restart();
        link.until("forwarded", |door| door.status().forwarded == MESSAGES).await;
        assert_eq!(link.door.status().queued_messages, 0);
        assert_eq!(broker.retained("status/plant-7"), "0 1 online");
        link.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_nothing_and_double_nothing_at_qos_2() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = Mosquitto::start(folder.path());
        let cutter = Cutter::start(broker.port, 7).await;
        let mut peer = Peer::subscribe(broker.port, "sites/#").await;
        let link = Link::start(config(protocol, cutter.port, None));
        let mut offered = 0;
        while cutter.cuts.load(Ordering::Relaxed) < CUTS {
            for _ in 0..20 {
                offered += 1;
                link.door.offer("up/a", &offered.to_string(), QoS::ExactlyOnce, offered);
            }
            link.until("carried on", |door| door.status().queued_messages < 200).await;
        }
        cutter.stop_cutting();
        link.until("forwarded", |door| door.status().forwarded == offered).await;
        for number in 1..=offered {
            assert_eq!(String::from_utf8_lossy(&peer.next().await.payload), number.to_string());
        }
        assert_eq!(link.door.status().duplicates_possible, 0);
        link.stop().await;
    }
}

pub async fn fault_of(config: model::Bridge) -> String {
    let link = Link::start(config);
    link.until("refused", |door| door.last_fault().is_some()).await;
    let fault = link.door.last_fault().expect("a fault");
    assert_eq!(link.door.status().forwarded, 0);
    link.stop().await;
    fault
}

fn trusting(ca: &Path, server_name: &str) -> TlsFiles {
    TlsFiles { ca: Some(ca.to_owned()), server_name: Some(server_name.into()), ..TlsFiles::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trusted_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = Authority::new(folder.path(), "ours");
    let theirs = Authority::new(folder.path(), "theirs");
    let valid = ours.issue("valid", "broker.test");
    let expired = ours.issue_until("expired", "broker.test", 2020);
    let missing = folder.path().join("missing.crt");
    let junk = folder.path().join("junk.crt");
    std::fs::write(&junk, "no PEM").expect("writes");
    let cases = [
        (&valid, trusting(&theirs.ca, "broker.test"), "unknown certificate authority"),
        (&valid, trusting(&ours.ca, "other.test"), "for another name"),
        (&expired, trusting(&ours.ca, "broker.test"), "has expired"),
        (&valid, trusting(&missing, "broker.test"), "missing.crt: No such file"),
        (&valid, trusting(&junk, "broker.test"), "junk.crt: holds no certificate"),
    ];
    for (server, files, words) in cases {
        let (_broker, port) = Mosquitto::start_tls(folder.path(), &Tls { server, clients: None });
        let fault = fault_of(config(Version::V5, port, Some(files))).await;
        assert!(fault.contains(words), "{fault} instead of {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_named() {
    let port = free_port();
    let fault = fault_of(config(Version::V5, port, None)).await;
    assert_eq!(fault, format!("127.0.0.1:{port}: Connection refused (os error 111)"));
    let mut unknown = config(Version::V5, port, None);
    unknown.url.host = "no-such-host.invalid".into();
    let fault = fault_of(unknown).await;
    assert!(fault.starts_with("no-such-host.invalid: the name cannot be resolved"), "{fault}");
}
