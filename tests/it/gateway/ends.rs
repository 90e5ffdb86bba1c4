//! Starts that fail, ends that keep everything, and ends that keep nobody waiting.

use std::time::{Duration, Instant};

use tidegate::app::Prepared;
use tidegate::app::error::StartError;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;
use tidegate::store::error::StoreError;

use super::client::{Client, config, connect, durable, prepare, publish, start, with_limits};

/// A stop that waits for somebody takes longer; the promise itself is 5 s.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A port where nobody listens.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let rest = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
bridges:
  cloud:
    url: mqtt://127.0.0.1:{}
    forward: [{{ topic: \"q/#\" }}]",
        dead_port()
    );
    let gateway = start(config(dir.path(), &rest));
    let address = gateway.addresses()[0];
    let mut away = Client::connect(address, durable("away")).await;
    away.subscribe("q/#", QoS::AtLeastOnce).await;
    away.part().await;
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    for index in 0..20 {
        writer.publish("q/x", index.to_string()).await;
    }
    let mut last = publish("q/last", QoS::AtLeastOnce, 100, "retained");
    if let Packet::Publish(publish) = &mut last {
        publish.retain = true;
    }
    writer.send(&[last]).await;
    assert!(matches!(writer.next().await, Some(Packet::Puback(_))));
    let mut idle = Client::connect(address, connect("idle", Version::V3_1_1)).await;
    // With the cloud away all the time, in back-off or in mid-try.
    let stop = async {
        let began = Instant::now();
        gateway.stop().await.unwrap();
        began.elapsed()
    };
    let hear = async {
        match writer.next().await {
            Some(Packet::Disconnect(told)) => assert_eq!(told.reason, ReasonCode::ServerShuttingDown),
            other => panic!("{other:?}"),
        }
        assert_eq!(writer.next().await, None);
        assert_eq!(idle.next().await, None);
        drop((writer, idle));
    };
    let (took, ()) = tokio::join!(stop, hear);
    assert!(took < STOP_MAX, "{took:?}");

    let gateway = start(config(dir.path(), &rest));
    let address = gateway.addresses()[0];
    assert_eq!(gateway.hub().status().links[0].status.queued_messages, 21);
    let mut back = Client::open(address, Version::V5).await;
    assert!(back.greet(durable("away")).await.session_present);
    for index in 0..20 {
        assert_eq!(back.message().await, ("q/x".to_owned(), index.to_string().into()));
    }
    assert_eq!(back.message().await.0, "q/last");
    let mut fresh = Client::connect(address, connect("fresh", Version::V5)).await;
    fresh.subscribe("q/#", QoS::AtMostOnce).await;
    assert_eq!(fresh.message().await, ("q/last".to_owned(), "retained".into()));
    back.part().await;
    fresh.part().await;
    gateway.stop().await.unwrap();
}

/// Clients that do not close, that do not read, that never said anything: none of them holds up the end.
#[tokio::test]
async fn an_end_waits_for_nobody_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let address = gateway.addresses()[0];
    let silent = Client::open(address, Version::V5).await;
    let deaf = Client::connect(address, connect("deaf", Version::V5)).await;
    let mut stuck = Client::open_narrow(address, Version::V5).await;
    stuck.greet(connect("stuck", Version::V5)).await;
    stuck.subscribe("#", QoS::AtMostOnce).await;
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    while gateway.hub().status().outbox_dropped == 0 {
        writer.send(&[publish("a", QoS::AtMostOnce, 0, vec![0; 100_000])]).await;
    }
    let began = Instant::now();
    gateway.stop().await.unwrap();
    let took = began.elapsed();
    assert!(took < STOP_MAX, "{took:?}");
    drop((silent, deaf, stuck, writer));
    // All threads are gone with what they held: the port and the directory are free.
    let gateway = start(with_limits(dir.path(), ""));
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_leaves_nothing_running() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let lan = format!("broker: {{ listeners: [{{ address: 127.0.0.1:0 }}, {{ address: \"{address}\" }}] }}");
    let http =
        format!("http: {{ address: \"{address}\" }}\nbroker: {{ listeners: [{{ address: 127.0.0.1:0 }}] }}");
    for rest in [lan, http] {
        let started = prepare(config(dir.path(), &rest)).and_then(Prepared::start);
        let Err(error) = started else { panic!("it started") };
        match &error {
            StartError::Listen { address: named, .. } | StartError::Http { address: named, .. } => {
                assert_eq!(*named, address);
            }
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    // The directory is free again at once.
    start(with_limits(dir.path(), "")).stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_has_one_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let second = prepare(with_limits(dir.path(), ""));
    assert!(matches!(second, Err(StartError::Store(StoreError::Locked { .. }))));
    // The first has not noticed.
    let mut client = Client::connect(gateway.addresses()[0], connect("a", Version::V5)).await;
    client.publish("a", "1").await;
    client.part().await;
    gateway.stop().await.unwrap();
    start(with_limits(dir.path(), "")).stop().await.unwrap();
}
