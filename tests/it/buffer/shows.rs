//! List, peek and stats, beside a running gateway and on a stopped one.

use serde_json::Value;
use tidegate::mqtt::packet::Version;

use super::plant::Plant;
use crate::gateway::client::{Client, connect};

/// Nothing answers there.
const BRIDGE: &str = "bridges: { cloud: { url: 'mqtt://127.0.0.1:9', forward: [{ topic: '#' }] } }";

async fn fill(plant: &Plant, payloads: &[&'static [u8]]) {
    let mut writer = Client::connect(plant.address, connect("writer", Version::V5)).await;
    for payload in payloads {
        writer.publish("line/1", *payload).await;
    }
    writer.part().await;
}

fn check(plant: &Plant, link: &str) {
    let list = plant.say(&["buffer", "list"]);
    let row: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["cloud", link, "3", "27"], "{list}");
    let peek = plant.say(&["buffer", "peek", "cloud", "-n", "2"]);
    assert_eq!(peek.lines().count(), 3, "{peek}");
    assert!(peek.contains("line/1  one\\u{1b}"), "{peek}");
    assert!(peek.contains("base64:/w=="), "{peek}");
    let behind = plant.say(&["buffer", "peek", "cloud", "--json", "--after", "2"]);
    let behind: Value = serde_json::from_str(&behind).unwrap();
    assert_eq!((behind["seq"].as_u64(), behind["payload"].as_str()), (Some(3), Some("four")));
    let stats = &plant.json(&["buffer", "stats", "--json", "--over", "100ms"])[0];
    assert_eq!((stats["messages"].as_u64(), stats["bytes"].as_u64()), (Some(3), Some(27)));
    assert!(stats["oldest_age_seconds"].is_u64() && stats["drained_in_seconds"].is_null(), "{stats}");
    let text = plant.say(&["buffer", "stats", "cloud", "--over", "100ms"]);
    assert!(text.contains("3 messages, 0 in flight") && text.contains("nothing"), "{text}");
}

#[tokio::test]
async fn what_waits_is_shown_beside_a_gateway_and_without_one() {
    let mut plant = Plant::new(BRIDGE);
    plant.start();
    fill(&plant, &[b"one\x1b", b"\xff", b"four"]).await;
    plant.until("the link is down", |plant| plant.say(&["buffer", "list"]).contains("  down "));
    check(&plant, "down");
    for wrong in
        [&["buffer", "peek", "no/ne"][..], &["buffer", "stats", "none"], &["buffer", "export", "none"]]
    {
        let (code, said) = plant.refusal(wrong);
        assert_eq!(code, Some(1));
        assert!(said.starts_with("error: no bridge `no"), "{said}");
    }
    plant.stop();
    check(&plant, "stopped");
    // A look changes nothing.
    check(&plant, "stopped");
    assert!(!plant.socket().exists());
}

#[test]
fn nothing_is_made_where_no_gateway_has_run() {
    let plant = Plant::new(BRIDGE);
    let (code, said) = plant.refusal(&["buffer", "list"]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("error: no gateway has run here: "), "{said}");
    assert!(!plant.folder.path().join("data").exists());
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_is_not_taken_for_a_stopped_one() {
    let mut plant = Plant::new(BRIDGE);
    plant.start();
    std::fs::remove_file(plant.socket()).unwrap();
    let (code, said) = plant.refusal(&["buffer", "purge", "cloud", "--yes"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("holds the data directory, but nobody listens"), "{said}");
    plant.stop();
}
