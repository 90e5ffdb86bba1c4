//! The gateway as a Sparkplug node, over real sockets: a device that is played, a client on the LAN, and a cloud that is
//! another gateway.

use tidegate::bus::simulator;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tidegate::sparkplug::payload::{Metric, MetricValue, Payload};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::{Client, config, connect, publish, start, with_limits};

/// The next of these kinds, decoded.
async fn next(client: &mut Client, kinds: &[&str]) -> (String, Payload) {
    loop {
        let (topic, payload) = client.message().await;
        let kind = topic.split('/').nth(2).unwrap().to_owned();
        if kinds.contains(&&*kind) {
            return (kind, Payload::decode(&payload).unwrap());
        }
    }
}

fn order(name: &str, value: MetricValue) -> Vec<u8> {
    let metric = Metric { name: Some(name.into()), value: Some(value), ..Metric::default() };
    Payload { metrics: vec![metric], ..Payload::default() }.encode()
}

/// Asks for everything, and then for a value; reads until the value is there. Returns the alias of the setpoint.
async fn ask_and_write(client: &mut Client, value: f64) -> u64 {
    let rebirth = order("Node Control/Rebirth", MetricValue::Boolean(true));
    client.send(&[publish("spBv1.0/plant/NCMD/test", QoS::AtMostOnce, 0, rebirth)]).await;
    let (_, birth) = next(client, &["NBIRTH"]).await;
    assert_eq!((birth.seq, birth.metrics[0].name.as_deref()), (Some(0), Some("bdSeq")));
    // The device may answer only after the first of them.
    let (_, device) = next(client, &["DBIRTH"]).await;
    let setpoint = device.metrics.iter().find(|metric| metric.name.as_deref() == Some("setpoint")).unwrap();
    let alias = setpoint.alias.unwrap();
    let command = order("setpoint", MetricValue::Double(value));
    client.send(&[publish("spBv1.0/plant/DCMD/test/meter", QoS::AtMostOnce, 0, command)]).await;
    loop {
        let (_, data) = next(client, &["DDATA"]).await;
        let found = data.metrics.iter().find(|metric| metric.alias == Some(alias));
        if found.is_some_and(|metric| metric.value == Some(MetricValue::Double(value))) {
            return alias;
        }
    }
}

#[tokio::test]
async fn hosts_at_both_ends_are_told_and_command() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cloud = start(with_limits(cloud.path(), ""));
    let meter = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
devices:
  meter:
    modbus: {{ tcp: \"{}\", unit: 1 }}
    poll: 100ms
    publish: {{ format: sparkplug, topic: \"spBv1.0/plant/DDATA/{{gateway}}/{{device}}\" }}
    points:
      setpoint: {{ holding: 0, type: i16, scale: 0.1, writable: true, min: 5, max: 30 }}
bridges:
  cloud:
    url: mqtt://{}
    forward: [{{ topic: \"spBv1.0/#\" }}]",
        meter.local_addr().unwrap(),
        cloud.addresses()[0]
    );
    let config = config(dir.path(), &rest);
    let ended = CancellationToken::new();
    tokio::spawn(simulator::serve_tcp(meter, config.devices.clone(), ended.clone()));
    let mut at_cloud = Client::connect(cloud.addresses()[0], connect("host", Version::V5)).await;
    at_cloud.subscribe("spBv1.0/#", QoS::AtLeastOnce).await;
    let gateway = start(config);
    let (first, _) = next(&mut at_cloud, &["NBIRTH", "NDEATH", "DBIRTH", "DDATA", "DDEATH"]).await;
    assert_eq!(first, "NBIRTH");

    let mut on_lan = Client::connect(gateway.addresses()[0], connect("host", Version::V5)).await;
    on_lan.subscribe("spBv1.0/#", QoS::AtLeastOnce).await;
    let aliases = (ask_and_write(&mut on_lan, 21.5).await, ask_and_write(&mut at_cloud, 7.5).await);
    assert_eq!(aliases, (1, 1));

    drop(on_lan);
    gateway.stop().await.unwrap();
    let (_, death) = next(&mut at_cloud, &["NDEATH"]).await;
    assert_eq!((death.seq, &death.metrics[0].value), (None, &Some(MetricValue::Long(0))));
    drop(at_cloud);
    cloud.stop().await.unwrap();
    ended.cancel();
}
