//! Export, purge and import: on a running gateway, on a stopped one, and out to a real broker.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use bytes::Bytes;
use serde_json::Value;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use super::plant::{Plant, tidegate};
use crate::cloud::mosquitto::Mosquitto;
use crate::gateway::client::{Client, connect, publish};

/// More than a bridge holds in memory, so that the middle stands on disk alone.
const MESSAGES: u16 = 2500;

fn bridge(port: u16) -> String {
    format!("bridges: {{ cloud: {{ url: 'mqtt://127.0.0.1:{port}', forward: [{{ topic: '#' }}] }} }}")
}

/// Some are no text; each tells its place.
fn payload(place: u16) -> Bytes {
    let [high, low] = place.to_be_bytes();
    if place.is_multiple_of(2) {
        Bytes::from(vec![0xFF, 0, high, low])
    } else {
        Bytes::from(format!("{place} ü"))
    }
}

fn topic(place: u16) -> String {
    format!("t/{}", place % 3)
}

async fn fill(plant: &Plant) {
    let mut writer = Client::connect(plant.address, connect("writer", Version::V5)).await;
    for batch in (0..MESSAGES).collect::<Vec<_>>().chunks(100) {
        let packets =
            batch.iter().map(|place| publish(&topic(*place), QoS::AtLeastOnce, place + 1, payload(*place)));
        writer.send(&packets.collect::<Vec<_>>()).await;
        for _ in batch {
            writer.next().await.unwrap();
        }
    }
    writer.part().await;
}

fn waiting(plant: &Plant) -> u64 {
    plant.json(&["buffer", "list", "--json"])[0]["messages"].as_u64().unwrap()
}

/// Without what an import gives anew.
fn contents(export: &str) -> Vec<Value> {
    let parsed = export.lines().map(|line| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("seq").unwrap();
        value
    });
    parsed.collect()
}

fn save(plant: &Plant, text: &str) -> PathBuf {
    let path = plant.folder.path().join("export.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

/// `tidegate buffer export cloud | head`: who reads has had enough, which is no error.
fn leave_early(plant: &Plant) {
    let export = ["buffer", "export", "cloud", "-c"];
    let mut command = tidegate();
    command.args(export).arg(plant.config()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Out, gone and in again; what is there afterwards is what was there before.
fn round(plant: &Plant) {
    let export = plant.say(&["buffer", "export", "cloud"]);
    let before = contents(&export);
    assert_eq!(before.len(), usize::from(MESSAGES));
    leave_early(plant);
    let path = save(plant, &export);
    let (code, said) = plant.refusal(&["buffer", "purge", "cloud"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with(&format!("error: {MESSAGES} messages (")), "{said}");
    assert_eq!(waiting(plant), u64::from(MESSAGES));
    let purged = plant.json(&["buffer", "purge", "cloud", "--yes", "--json"]);
    assert_eq!((purged["purged"].as_u64(), purged["in_flight"].as_u64()), (Some(MESSAGES.into()), Some(0)));
    assert_eq!(waiting(plant), 0);
    assert_eq!(plant.say(&["buffer", "export", "cloud"]), "");
    let imported = plant.json(&["buffer", "import", "cloud", path.to_str().unwrap(), "--json"]);
    assert_eq!(
        (imported["imported"].as_u64(), imported["refused"].as_u64()),
        (Some(MESSAGES.into()), Some(0))
    );
    assert_eq!(contents(&plant.say(&["buffer", "export", "cloud"])), before);
}

#[tokio::test]
async fn what_was_exported_purged_and_imported_arrives_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(folder.path());
    broker.stop();
    let mut plant = Plant::new(&bridge(broker.port));
    plant.start();
    fill(&plant).await;
    round(&plant);
    // An import is on disk when its command ends.
    plant.kill();
    round(&plant);
    broker.restart();
    let address = ([127, 0, 0, 1], broker.port).into();
    let mut reader = Client::connect(address, connect("reader", Version::V5)).await;
    reader.subscribe("t/#", QoS::AtLeastOnce).await;
    plant.start();
    for place in 0..MESSAGES {
        assert_eq!(reader.message().await, (topic(place), payload(place)));
    }
    plant.until("the buffer is empty", |plant| waiting(plant) == 0);
    plant.stop();
    assert_eq!(waiting(&plant), 0);
}

#[tokio::test]
async fn lines_that_are_no_messages_are_named_and_cost_the_others_nothing() {
    let mut plant = Plant::new(
        "bridges: { cloud: { url: 'mqtt://127.0.0.1:9', forward: [{ topic: 't/#' }, { topic: 'zero', qos: 0 }] } }",
    );
    plant.start();
    let mut text = String::new();
    for line in [
        r#"{"topic":"t/1","qos":1,"payload":"first"}"#,
        "not json",
        "",
        r#"{"topic":"elsewhere","qos":1,"payload":"x"}"#,
        r#"{"topic":"zero","qos":1,"payload":"x"}"#,
        r#"{"topic":"t/2","qos":2,"payload":"last","time":"2026-11-21T10:00:00.123Z","retain":true}"#,
    ] {
        writeln!(text, "{line}").unwrap();
    }
    let path = save(&plant, &text);
    let (code, said) = plant.refusal(&["buffer", "import", "cloud", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("error: line 2: no message as JSON"), "{said}");
    assert!(lines[1].starts_with("error: line 4: no forward rule"), "{said}");
    assert!(lines[2].starts_with("error: line 5: it would be sent with QoS 0"), "{said}");
    assert_eq!(lines[3], "error: 3 lines were not imported");
    let export = plant.say(&["buffer", "export", "cloud"]);
    let found = contents(&export);
    let shown: Vec<_> = found.iter().map(|message| message["payload"].as_str().unwrap()).collect();
    assert_eq!(shown, ["first", "last"]);
    assert_eq!(found[1]["time"], "2026-11-21T10:00:00.123Z");
    assert_eq!((found[1]["qos"].as_u64(), found[1]["retain"].as_bool()), (Some(2), Some(true)));
    plant.stop();
}

#[tokio::test]
async fn an_import_displaces_nothing() {
    let mut plant = Plant::new(
        "bridges: { cloud: { url: 'mqtt://127.0.0.1:9', forward: [{ topic: '#' }], buffer: { size: 1MiB } } }",
    );
    plant.start();
    let payload = "x".repeat(300 * 1024);
    let mut text = String::new();
    for place in 0..5 {
        writeln!(text, "{{\"topic\":\"{place}\",\"qos\":1,\"payload\":\"{payload}\"}}").unwrap();
    }
    let path = save(&plant, &text);
    let (code, said) = plant.refusal(&["buffer", "import", "cloud", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("error: line 4: the buffer is full"), "{said}");
    assert!(said.ends_with("error: line 4 and all behind it were not imported\n"), "{said}");
    let export = contents(&plant.say(&["buffer", "export", "cloud"]));
    assert_eq!(
        export.iter().map(|message| message["topic"].as_str().unwrap()).collect::<Vec<_>>(),
        ["0", "1", "2"]
    );
    plant.stop();
}

/// The cloud takes messages and acknowledges none.
#[tokio::test]
async fn what_is_in_flight_is_not_purged() {
    const WINDOW: u64 = 10;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut plant = Plant::new(&format!(
        "bridges: {{ cloud: {{ url: 'mqtt://127.0.0.1:{port}', inflight: {WINDOW}, forward: [{{ topic: '#' }}] }} }}"
    ));
    tokio::spawn(async move {
        let (mut stream, _) = silent.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        // CONNACK: no session, success, no properties.
        tokio::io::AsyncWriteExt::write_all(&mut write, &[0x20, 3, 0, 0, 0]).await.unwrap();
        tokio::io::copy(&mut read, &mut tokio::io::sink()).await.unwrap();
    });
    plant.start();
    let mut writer = Client::connect(plant.address, connect("writer", Version::V5)).await;
    let packets = (1..=30).map(|id| publish("t", QoS::ExactlyOnce, id, payload(id)));
    writer.send(&packets.collect::<Vec<_>>()).await;
    plant.until("the window is full and all are buffered", |plant| {
        let buffer = &plant.json(&["buffer", "list", "--json"])[0];
        buffer["in_flight"] == WINDOW && buffer["messages"] == 30
    });
    let purged = plant.json(&["buffer", "purge", "cloud", "--yes", "--json"]);
    assert_eq!((purged["purged"].as_u64(), purged["in_flight"].as_u64()), (Some(30 - WINDOW), Some(WINDOW)));
    let left = plant.say(&["buffer", "peek", "cloud", "-n", "100", "--json"]);
    let left: Vec<Value> = left.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(left.len() as u64, WINDOW);
    assert!(left.iter().all(|message| message["in_flight"] == true), "{left:?}");
    let stats = &plant.json(&["buffer", "stats", "cloud", "--over", "1ms", "--json"])[0];
    assert_eq!(stats["dropped"]["purged"], 30 - WINDOW);
    plant.kill();
    // Their identifiers are on disk with them.
    let buffer = &plant.json(&["buffer", "list", "--json"])[0];
    assert_eq!((buffer["messages"].as_u64(), buffer["in_flight"].as_u64()), (Some(WINDOW), Some(WINDOW)));
}
