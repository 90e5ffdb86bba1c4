//! Dead letters against real servers: one that refuses by its access rules, and one that can only close the connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use super::plant::Plant;
use crate::cloud::mosquitto::Mosquitto;
use crate::gateway::client::{Client, connect};

fn bridge(port: u16, protocol: &str) -> String {
    format!(
        "bridges: {{ cloud: {{ url: 'mqtt://127.0.0.1:{port}', protocol: '{protocol}', reconnect: {{ min: 100ms, max: 200ms }}, forward: [{{ topic: '#' }}] }} }}"
    )
}

async fn say(plant: &Plant, topic: &str, payloads: std::ops::Range<u32>) {
    let mut writer = Client::connect(plant.address, connect("writer", Version::V5)).await;
    for payload in payloads {
        writer.publish(topic, payload.to_string()).await;
    }
    writer.part().await;
}

/// Messages that wait, and dead letters.
fn standing(plant: &Plant) -> (u64, u64) {
    let buffer = &plant.json(&["buffer", "list", "--json"])[0];
    (buffer["messages"].as_u64().unwrap(), buffer["dead"]["messages"].as_u64().unwrap())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_a_server_does_not_allow_is_listed_exported_and_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start_with_access(folder.path(), "topic readwrite open/#\n");
    let mut plant = Plant::new(&bridge(broker.port, "5"));
    plant.start();
    for (topic, payloads) in [("shut/a", 0..3), ("open/a", 3..6), ("shut/b", 6..8)] {
        say(&plant, topic, payloads).await;
    }
    plant.until("all have left or died", |plant| standing(plant) == (0, 5));
    let shown = &plant.json(&["status", "--json"])["bridges"][0];
    assert_eq!(
        (shown["dead_letters"].as_u64(), shown["died"]["not_authorized"].as_u64()),
        (Some(5), Some(5))
    );
    let list = plant.say(&["buffer", "list"]);
    assert!(list.lines().nth(1).unwrap().contains("  5  "), "{list}");
    plant.stop();
    // And on a stopped gateway.
    let peek = plant.say(&["buffer", "peek", "cloud", "--dead", "-n", "2"]);
    assert_eq!(peek.lines().count(), 3, "{peek}");
    assert!(peek.lines().nth(1).unwrap().ends_with("shut/a  0        not authorized"), "{peek}");
    let export = plant.say(&["buffer", "export", "cloud", "--dead"]);
    let found = lines(&export);
    assert_eq!(found.len(), 5);
    assert_eq!((found[4]["topic"].as_str(), found[4]["payload"].as_str()), (Some("shut/b"), Some("7")));
    assert_eq!(found[0]["dead"]["reason"], "not_authorized");
    assert!(found.iter().all(|line| line.get("properties").is_none()), "{export}");
    let (code, said) = plant.refusal(&["buffer", "purge", "cloud", "--dead"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("there are 5 dead letters") && said.contains("--yes"), "{said}");
    let (code, said) = plant.refusal(&["buffer", "retry", "cloud", "--dead", "--topic", "a/#/b"]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("error: topic filter: "), "{said}");
    let back = plant.json(&["buffer", "retry", "cloud", "--dead", "--topic", "shut/a", "--json"]);
    assert_eq!((back["retried"].as_u64(), standing(&plant)), (Some(3), (3, 2)));
    let gone = plant.json(&["buffer", "purge", "cloud", "--dead", "--yes", "--json"]);
    assert_eq!((gone["purged"].as_u64(), standing(&plant)), (Some(2), (3, 0)));
    // An export brings back what was purged, and what is said of its end is passed over.
    let file = plant.folder.path().join("dead.jsonl");
    std::fs::write(&file, export.lines().skip(3).collect::<Vec<_>>().join("\n")).unwrap();
    plant.say(&["buffer", "import", "cloud", file.to_str().unwrap()]);
    broker.allow_all();
    let mut reader =
        Client::connect(([127, 0, 0, 1], broker.port).into(), connect("reader", Version::V5)).await;
    reader.subscribe("shut/#", QoS::AtLeastOnce).await;
    plant.start();
    for (topic, payload) in
        [("shut/a", "0"), ("shut/a", "1"), ("shut/a", "2"), ("shut/b", "6"), ("shut/b", "7")]
    {
        assert_eq!(reader.message().await, (topic.to_owned(), payload.into()));
    }
    plant.until("all are acknowledged", |plant| standing(plant) == (0, 0));
    plant.stop();
}

/// One packet of a client: its first byte, and what follows the length.
fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let (first, mut length, mut shift) = (byte[0], 0usize, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}

/// A 3.1.1 server that closes the connection behind each message on `shut`, and counts how often.
fn serve(mut stream: TcpStream, closed: &AtomicU32) {
    while let Some((first, body)) = read_packet(&mut stream) {
        let answer: Vec<u8> = match first >> 4 {
            1 => vec![0x20, 2, 0, 0],
            3 if body.starts_with(b"\x00\x04shut") => {
                closed.fetch_add(1, Ordering::SeqCst);
                return;
            }
            3 if first & 0b110 != 0 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                vec![0x40, 2, body[2 + topic], body[3 + topic]]
            }
            12 => vec![0xD0, 0],
            _ => continue,
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_message_behind_which_a_real_server_closes_does_not_hold_up_the_others() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let closed = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&closed);
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            serve(stream, &counter);
        }
    });
    let mut plant = Plant::new(&bridge(port, "3.1.1"));
    plant.start();
    say(&plant, "open", 0..3).await;
    say(&plant, "shut", 3..4).await;
    say(&plant, "open", 4..50).await;
    plant.until("the others have left", |plant| standing(plant) == (0, 1));
    assert_eq!(closed.load(Ordering::SeqCst), 10);
    let dead = lines(&plant.say(&["buffer", "export", "cloud", "--dead"]));
    assert_eq!(
        (dead[0]["payload"].as_str(), dead[0]["dead"]["reason"].as_str()),
        (Some("3"), Some("closed"))
    );
    let detail = dead[0]["dead"]["detail"].as_str().unwrap();
    assert!(detail.ends_with("8 times behind it"), "{detail}");
    let stats = plant.say(&["buffer", "stats", "cloud", "--over", "100ms"]);
    assert!(stats.contains("since the start: closed 1"), "{stats}");
    plant.stop();
    let log = std::fs::read_to_string(plant.folder.path().join("gateway.log")).unwrap();
    assert_eq!(log.matches("messages cannot be delivered").count(), 1, "{log}");
}
