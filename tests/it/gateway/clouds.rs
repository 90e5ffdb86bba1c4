//! What comes together in a gateway: clients, clouds and devices.

use tidegate::app::Gateway;
use tidegate::bridge::status::LinkState;
use tidegate::bus::simulator;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::{Client, config, connect, start, until, with_limits};
use crate::cloud::mosquitto::free_port;

#[tokio::test]
async fn two_bridges_each_carry_what_is_theirs() {
    let (dir, one, two) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (start(with_limits(one.path(), "")), start(with_limits(two.path(), "")));
    let rest = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
bridges:
  one:
    url: mqtt://{}
    forward: [{{ topic: \"a/#\", to: \"one/{{topic}}\" }}, {{ topic: \"both\" }}]
    receive: [{{ topic: \"commands/#\" }}]
  two:
    url: mqtt://{}
    forward: [{{ topic: \"b/#\" }}, {{ topic: \"both\" }}, {{ topic: \"commands/#\" }}]",
        one.addresses()[0],
        two.addresses()[0]
    );
    let gateway = start(config(dir.path(), &rest));
    let up = || gateway.hub().status().links.iter().all(|link| link.status.state == LinkState::Up);
    until("both links are up", up).await;

    let mut at_one = Client::connect(one.addresses()[0], connect("viewer", Version::V5)).await;
    for filter in ["one/#", "both", "commands/#"] {
        at_one.subscribe(filter, QoS::AtLeastOnce).await;
    }
    let mut at_two = Client::connect(two.addresses()[0], connect("viewer", Version::V5)).await;
    for filter in ["b/#", "both", "commands/#"] {
        at_two.subscribe(filter, QoS::AtLeastOnce).await;
    }
    let mut client = Client::connect(gateway.addresses()[0], connect("client", Version::V5)).await;
    client.publish("a/1", "to one").await;
    client.publish("b/1", "to two").await;
    client.publish("both", "to both").await;
    assert_eq!(at_one.message().await, ("one/a/1".to_owned(), "to one".into()));
    assert_eq!(at_one.message().await, ("both".to_owned(), "to both".into()));
    assert_eq!(at_two.message().await, ("b/1".to_owned(), "to two".into()));
    assert_eq!(at_two.message().await, ("both".to_owned(), "to both".into()));

    // From one cloud to a client and on to the other cloud, but never back.
    client.subscribe("commands/#", QoS::AtLeastOnce).await;
    let mut commander = Client::connect(one.addresses()[0], connect("commander", Version::V5)).await;
    commander.publish("commands/x", "go").await;
    assert_eq!(client.message().await, ("commands/x".to_owned(), "go".into()));
    assert_eq!(at_two.message().await, ("commands/x".to_owned(), "go".into()));
    assert_eq!(at_one.message().await, ("commands/x".to_owned(), "go".into()));
    at_one.ping().await;
    for client in [client, at_one, at_two, commander] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
    one.stop().await.unwrap();
    two.stop().await.unwrap();
}

/// The row of the buffer says which server has the session, and each lane has a row of its own.
#[tokio::test]
async fn a_restart_finds_all_lanes_and_the_server_that_has_the_session() {
    let (dir, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (nowhere, port) = (free_port(), free_port());
    let far_config =
        format!("broker: {{ listeners: [{{ address: \"127.0.0.1:{port}\" }}], sys_interval: 0s }}");
    let server = format!("mqtt://127.0.0.1:{port}");
    let rest = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
bridges:
  cloud:
    url: [\"mqtt://127.0.0.1:{nowhere}\", \"{server}\"]
    forward: [{{ topic: \"a/#\", priority: high }}, {{ topic: \"b/#\" }}, {{ topic: \"c/#\", order: live-first }}]"
    );
    let cloud = start(config(far.path(), &far_config));
    let gateway = start(config(dir.path(), &rest));
    let status = |gateway: &Gateway| gateway.hub().status().links[0].status.clone();
    until("the link is up", || status(&gateway).state == LinkState::Up).await;
    cloud.stop().await.unwrap();
    until("the link is down", || status(&gateway).state != LinkState::Up).await;
    let mut client = Client::connect(gateway.addresses()[0], connect("client", Version::V5)).await;
    for topic in ["b/1", "c/1", "a/1"] {
        client.publish(topic, "waits").await;
    }
    assert_eq!(status(&gateway).queued_messages, 3);
    client.part().await;
    gateway.stop().await.unwrap();

    let cloud = start(config(far.path(), &far_config));
    let mut viewer = Client::connect(cloud.addresses()[0], connect("viewer", Version::V5)).await;
    viewer.subscribe("#", QoS::AtLeastOnce).await;
    let gateway = start(config(dir.path(), &rest));
    assert_eq!(status(&gateway).server, server, "it goes on where it was");
    let mut arrived = Vec::new();
    while arrived.len() < 3 {
        let (topic, payload) = viewer.message().await;
        if *payload == *b"waits" {
            arrived.push(topic);
        }
    }
    assert_eq!(arrived, ["a/1", "b/1", "c/1"]);
    until("nothing waits", || status(&gateway).queued_messages == 0).await;
    assert_eq!(status(&gateway).duplicates_possible, 0);
    viewer.part().await;
    gateway.stop().await.unwrap();
    cloud.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_writes_to_a_device_and_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let meter = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
devices:
  meter:
    modbus: {{ tcp: \"{}\", unit: 1 }}
    poll: 100ms
    publish: {{ topic: \"devices/{{device}}/{{point}}\", when: change }}
    points:
      setpoint: {{ holding: 0, type: i16, scale: 0.1, writable: true, min: 5, max: 30 }}",
        meter.local_addr().unwrap()
    );
    let config = config(dir.path(), &rest);
    let ended = CancellationToken::new();
    tokio::spawn(simulator::serve_tcp(meter, config.devices.clone(), ended.clone()));
    let gateway = start(config);
    let mut client = Client::connect(gateway.addresses()[0], connect("client", Version::V5)).await;
    client.subscribe("devices/meter/setpoint/result", QoS::AtLeastOnce).await;
    for (value, ok) in [("21.5", true), ("99", false), ("7", true)] {
        client.send(&[super::client::publish("devices/meter/setpoint/set", QoS::AtMostOnce, 0, value)]).await;
        let (_, result) = client.message().await;
        let result: serde_json::Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(result["ok"], ok, "{value}: {result}");
    }
    client.subscribe("devices/meter/setpoint", QoS::AtLeastOnce).await;
    // Until the value that was written is read back.
    loop {
        let (_, reading) = client.message().await;
        let reading: serde_json::Value = serde_json::from_slice(&reading).unwrap();
        if reading["value"].as_f64() == Some(7.0) {
            break;
        }
    }
    client.part().await;
    gateway.stop().await.unwrap();
    ended.cancel();
}
