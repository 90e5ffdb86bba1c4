//! What clients cannot cost the gateway: those that do not read, and those that are too many.

use std::time::Duration;

use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::client::{Client, PATIENCE, connect, publish, start, subscribe, until, with_limits};

const PAYLOAD_BYTES: usize = 16 * 1024;
/// What the two systems between gateway and client may hold, and the gateway itself for a client.
const HELD_BYTES_MAX: usize = 16 << 20;

#[tokio::test]
async fn a_reader_that_does_not_read_costs_itself_and_nobody_else() {
    const MESSAGES: usize = 2500;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let address = gateway.addresses()[0];
    let mut stuck = Client::open_narrow(address, Version::V5).await;
    stuck.greet(connect("stuck", Version::V5)).await;
    stuck.subscribe("#", QoS::AtMostOnce).await;
    let mut healthy = Client::connect(address, connect("healthy", Version::V5)).await;
    healthy.subscribe("#", QoS::AtMostOnce).await;
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    let payload = vec![7; PAYLOAD_BYTES];
    // In step with the healthy one, which must miss none.
    for _ in 0..MESSAGES / 10 {
        let batch: Vec<_> = (0..10).map(|_| publish("a", QoS::AtMostOnce, 0, payload.clone())).collect();
        writer.send(&batch).await;
        for _ in 0..10 {
            assert_eq!(healthy.message().await.1.len(), PAYLOAD_BYTES);
        }
    }
    let dropped = usize::try_from(gateway.hub().status().outbox_dropped).unwrap();
    assert!(dropped < MESSAGES);
    let held = (MESSAGES - dropped) * PAYLOAD_BYTES;
    assert!(held <= HELD_BYTES_MAX, "{held} bytes are held for one client");
    // All that was not dropped arrives once it reads, and it is served again.
    for _ in 0..MESSAGES - dropped {
        assert_eq!(stuck.message().await.1.len(), PAYLOAD_BYTES);
    }
    stuck.ping().await;
    for client in [stuck, healthy, writer] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn above_qos_0_window_and_queue_bound_a_reader_that_does_not_read() {
    const MESSAGES: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "inflight: 10, queued_messages: 50"));
    let address = gateway.addresses()[0];
    let mut stuck = Client::open_narrow(address, Version::V3_1_1).await;
    stuck.greet(connect("stuck", Version::V3_1_1)).await;
    stuck.subscribe("#", QoS::AtLeastOnce).await;
    let mut healthy = Client::connect(address, connect("healthy", Version::V5)).await;
    healthy.subscribe("#", QoS::AtLeastOnce).await;
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    for index in 0..MESSAGES {
        writer.publish("a", index.to_string()).await;
        assert_eq!(healthy.message().await.1, index.to_string());
    }
    until("the healthy one has acknowledged all", || gateway.hub().status().broker.inflight <= 10).await;
    let stats = gateway.hub().status().broker;
    assert!(stats.queued <= 60, "{stats:?}");
    assert_eq!(stats.queued + stats.dropped, MESSAGES as u64, "what a bound costs is counted: {stats:?}");
    // What had a place keeps it.
    for index in 0..stats.queued {
        assert_eq!(stuck.message().await.1, index.to_string());
    }
    for client in [stuck, healthy, writer] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

/// Answers that nobody reads stop the reading: TCP holds the client, not our memory.
#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_stopped_by_tcp() {
    const FILTERS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let address = gateway.addresses()[0];
    let mut client = Client::open_narrow(address, Version::V3_1_1).await;
    client.greet(connect("deaf", Version::V3_1_1)).await;
    // Small questions with long answers.
    let question = client.encoded(&[subscribe(1, &["a"; FILTERS], QoS::AtMostOnce)]).repeat(64);
    let mut sent = 0_usize;
    let mut stopped = false;
    while !stopped && sent < 4 * HELD_BYTES_MAX {
        let (part, writable) = (sent % question.len(), client.stream.writable());
        stopped = tokio::time::timeout(Duration::from_millis(500), writable).await.is_err();
        sent += client.stream.try_write(&question[part..]).unwrap_or(0);
    }
    assert!(stopped, "{sent} bytes were taken without one answer being read");
    // The others are served.
    let mut other = Client::connect(address, connect("other", Version::V5)).await;
    other.publish("b", "1").await;
    other.part().await;
    // It begins to read, and gets every answer to what it asked whole.
    let whole = sent / (question.len() / 64);
    for _ in 0..whole {
        assert!(matches!(client.next().await, Some(Packet::Suback(_))));
    }
    drop(client);
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn sockets_are_bounded_before_they_say_anything() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "connections: 2"));
    let address = gateway.addresses()[0];
    let mut first = Client::connect(address, connect("first", Version::V5)).await;
    let mut silent = Vec::new();
    while gateway.hub().status().refused.of("connections") == 0 {
        silent.push(TcpStream::connect(address).await.unwrap());
        assert!(silent.len() < 1000, "nobody was refused");
    }
    // The refused one is closed, and who came before is served.
    let mut refused = silent.pop().unwrap();
    let closed = tokio::time::timeout(PATIENCE, refused.read(&mut [0])).await.expect("it is closed");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    first.ping().await;
    silent.clear();
    // Places come free again.
    let mut second = loop {
        let mut client = Client::open(address, Version::V5).await;
        let hello = client.encoded(&[Packet::Connect(Box::new(connect("second", Version::V5)))]);
        let told = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &hello).await;
        if told.is_ok() && client.stream.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
            break client;
        }
    };
    assert!(matches!(second.next().await, Some(Packet::Connack(_))));
    for client in [first, second] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

/// However many retained messages there are, a subscription gets them all.
#[tokio::test]
async fn a_new_subscription_gets_every_retained_message() {
    const TOPICS: usize = 4000;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let address = gateway.addresses()[0];
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    let mut batch = Vec::new();
    for index in 0..TOPICS {
        let mut packet = publish(&format!("retained/{index}"), QoS::AtMostOnce, 0, vec![1; 300]);
        if let Packet::Publish(publish) = &mut packet {
            publish.retain = true;
        }
        batch.push(packet);
    }
    writer.send(&batch).await;
    writer.ping().await;
    let mut reader = Client::connect(address, connect("reader", Version::V5)).await;
    reader.subscribe("#", QoS::AtMostOnce).await;
    for _ in 0..TOPICS {
        reader.message().await;
    }
    assert_eq!(gateway.hub().status().outbox_dropped, 0);
    for client in [reader, writer] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}
