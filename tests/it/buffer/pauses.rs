//! Pause and retry against a real broker.

use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use super::plant::Plant;
use crate::cloud::mosquitto::Mosquitto;
use crate::gateway::client::{Client, connect};

/// A try that waits for its time comes too late for any test.
fn bridge(port: u16) -> String {
    format!(
        "bridges: {{ cloud: {{ url: 'mqtt://127.0.0.1:{port}', reconnect: {{ min: 1h, max: 1h }}, forward: [{{ topic: '#' }}] }} }}"
    )
}

fn buffer(plant: &Plant) -> (String, u64) {
    let buffer = &plant.json(&["buffer", "list", "--json"])[0];
    (buffer["state"].as_str().unwrap().to_owned(), buffer["messages"].as_u64().unwrap())
}

async fn reader(broker: &Mosquitto) -> Client {
    let mut reader =
        Client::connect(([127, 0, 0, 1], broker.port).into(), connect("reader", Version::V5)).await;
    reader.subscribe("t", QoS::AtLeastOnce).await;
    reader
}

async fn say(plant: &Plant, payloads: std::ops::Range<u32>) {
    let mut writer = Client::connect(plant.address, connect("writer", Version::V5)).await;
    for payload in payloads {
        writer.publish("t", payload.to_string()).await;
    }
    writer.part().await;
}

/// Until the gateway knows that the broker has them: what is in flight when a link ends is sent again.
async fn hear(plant: &Plant, reader: &mut Client, payloads: std::ops::Range<u32>) {
    for payload in payloads {
        assert_eq!(reader.message().await, ("t".to_owned(), payload.to_string().into()));
    }
    plant.until("all are acknowledged", |plant| buffer(plant).1 == 0);
}

#[tokio::test]
async fn a_pause_keeps_messages_back_and_a_retry_lets_them_go() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(folder.path());
    let mut reader = reader(&broker).await;
    let mut plant = Plant::new(&bridge(broker.port));
    plant.start();
    say(&plant, 0..3).await;
    hear(&plant, &mut reader, 0..3).await;
    for round in 1..4 {
        let said = plant.say(&["buffer", "pause", "cloud"]);
        assert!(said.contains("until `tidegate buffer retry cloud`"), "{said}");
        plant.until("the link is paused", |plant| buffer(plant).0 == "paused");
        say(&plant, round * 10..round * 10 + 5).await;
        assert_eq!(buffer(&plant), ("paused".to_owned(), 5));
        assert_eq!(plant.json(&["status", "--json"])["bridges"][0]["state"], "paused");
        plant.say(&["buffer", "retry", "cloud"]);
        hear(&plant, &mut reader, round * 10..round * 10 + 5).await;
    }
    // Told while the transport is still being closed.
    plant.say(&["buffer", "pause", "cloud"]);
    plant.say(&["buffer", "retry", "cloud"]);
    say(&plant, 50..53).await;
    hear(&plant, &mut reader, 50..53).await;
    // It ends with the process.
    plant.say(&["buffer", "pause", "cloud"]);
    say(&plant, 60..63).await;
    plant.stop();
    plant.start();
    hear(&plant, &mut reader, 60..63).await;
    plant.stop();
}

#[tokio::test]
async fn a_retry_does_not_wait_for_the_back_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(folder.path());
    broker.stop();
    let mut plant = Plant::new(&bridge(broker.port));
    plant.start();
    plant.until("the link is down", |plant| buffer(plant).0 == "down");
    say(&plant, 0..3).await;
    broker.restart();
    let mut reader = reader(&broker).await;
    plant.say(&["buffer", "retry", "cloud"]);
    hear(&plant, &mut reader, 0..3).await;
    plant.stop();
    for command in ["pause", "retry"] {
        let (code, said) = plant.refusal(&["buffer", command, "cloud"]);
        assert_eq!(code, Some(1));
        assert!(said.starts_with("error: no gateway runs, and so no link"), "{said}");
    }
}
