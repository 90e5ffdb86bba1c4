//! What connections are served: across workers, in order, however their bytes arrive, and told why they end.

use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tokio::io::AsyncWriteExt;

use super::client::{Client, connect, publish, start, subscribe, until, with_limits};

#[tokio::test]
async fn messages_cross_workers_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let address = gateway.addresses()[0];
    // In turn: two on each worker.
    let mut readers = Vec::new();
    for (index, version) in [Version::V3_1, Version::V3_1_1, Version::V5, Version::V5].into_iter().enumerate()
    {
        let mut client = Client::connect(address, connect(&format!("reader-{index}"), version)).await;
        client.subscribe("plant/+/value", QoS::AtLeastOnce).await;
        readers.push(client);
    }
    let mut writers = Vec::new();
    for index in 0..2 {
        writers.push(Client::connect(address, connect(&format!("writer-{index}"), Version::V5)).await);
    }
    for round in 0..50 {
        for (index, writer) in writers.iter_mut().enumerate() {
            writer.publish(&format!("plant/{index}/value"), format!("{round}")).await;
        }
    }
    for reader in &mut readers {
        let mut next = [0; 2];
        for _ in 0..100 {
            let (topic, payload) = reader.message().await;
            let index = usize::from(topic == "plant/1/value");
            assert_eq!(payload, next[index].to_string());
            next[index] += 1;
        }
    }
    for client in readers.into_iter().chain(writers) {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn a_batch_is_answered_in_one_go_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let mut client = Client::connect(gateway.addresses()[0], connect("a", Version::V3_1_1)).await;
    // More than one visit to the door takes.
    let (mut asked, mut answers) = (Vec::new(), Vec::new());
    for id in 1..=300 {
        let packet_id = PacketId::new(id).unwrap();
        asked.push(publish("nobody/listens", QoS::AtLeastOnce, id, "1"));
        answers.push(Packet::Puback(Ack::success(packet_id)));
        if id % 10 == 0 {
            asked.push(Packet::Pingreq);
            answers.push(Packet::Pingresp);
        }
    }
    let expected = client.encoded(&answers);
    client.send(&asked).await;
    client.read().await;
    assert_eq!(client.unread(), &expected[..], "one read has it all");
    drop(client);
    // A subscription, a message that it matches and an end of it are one batch too.
    let mut client = Client::connect(gateway.addresses()[0], connect("b", Version::V5)).await;
    client
        .send(&[
            subscribe(1, &["x"], QoS::AtMostOnce),
            publish("x", QoS::AtMostOnce, 0, "2"),
            Packet::Pingreq,
        ])
        .await;
    assert!(matches!(client.next().await, Some(Packet::Suback(_))));
    assert_eq!(client.message().await.1, "2");
    assert_eq!(client.next().await, Some(Packet::Pingresp));
    client.part().await;
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn bytes_may_come_one_at_a_time_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let mut client = Client::open(gateway.addresses()[0], Version::V5).await;
    let packets = [
        Packet::Connect(Box::new(connect("slow", Version::V5))),
        subscribe(1, &["a/b"], QoS::AtLeastOnce),
        publish("a/b", QoS::AtLeastOnce, 2, "payload"),
    ];
    let bytes = client.encoded(&packets);
    for byte in &bytes {
        client.send_bytes(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(client.next().await, Some(Packet::Connack(_))));
    assert!(matches!(client.next().await, Some(Packet::Suback(_))));
    let (mut message, mut acknowledged) = (false, false);
    while !(message && acknowledged) {
        match client.next().await {
            Some(Packet::Publish(publish)) => message = publish.payload == "payload",
            Some(Packet::Puback(_)) => acknowledged = true,
            other => panic!("{other:?}"),
        }
    }
    client.ping().await;
    let stats = gateway.hub().status().broker;
    assert_eq!(stats.bytes_received, bytes.len() as u64 + 2);
    assert!(stats.bytes_sent > 30, "{}", stats.bytes_sent);
    client.part().await;
    until("all is counted", || gateway.hub().status().broker.bytes_received == bytes.len() as u64 + 4).await;
    gateway.stop().await.unwrap();
}

/// With more behind it that nobody reads: a reset would take the last word along.
#[tokio::test]
async fn the_last_word_reaches_a_client_that_is_still_sending() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "packet_size: 1KiB"));
    let address = gateway.addresses()[0];
    // What is sent, and the reason that a 5.0 client is told; a 3.x client is told nothing.
    let cases: [(&[u8], ReasonCode); 4] = [
        (b"\x00\x00", ReasonCode::MalformedPacket),
        (b"\x36\x05\x00\x01a\x00\x01", ReasonCode::MalformedPacket),
        // Its body never comes: the header is enough.
        (b"\x30\x80\x80\x01", ReasonCode::PacketTooLarge),
        (b"\x20\x02\x00\x00", ReasonCode::ProtocolError),
    ];
    for (bytes, reason) in cases {
        for version in [Version::V3_1_1, Version::V5] {
            let mut client = Client::connect(address, connect("a", version)).await;
            client.send_bytes(bytes).await;
            // The gateway may have closed: then nobody takes it.
            let _ = client.stream.write_all(&vec![0; 50_000]).await;
            if version == Version::V5 {
                match client.next().await {
                    Some(Packet::Disconnect(Disconnect { reason: told, .. })) => {
                        assert_eq!(told, reason, "{bytes:?}");
                    }
                    other => panic!("{bytes:?}: {other:?}"),
                }
            }
            assert_eq!(client.next().await, None, "{bytes:?}");
        }
    }
    until("all are gone", || gateway.hub().status().broker.connections == 0).await;
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn what_came_before_the_end_of_a_stream_counts() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let address = gateway.addresses()[0];
    let mut reader = Client::connect(address, connect("reader", Version::V5)).await;
    reader.subscribe("#", QoS::AtMostOnce).await;
    let mut writer = Client::open(address, Version::V3_1_1).await;
    let hello = Packet::Connect(Box::new(connect("writer", Version::V3_1_1)));
    writer.send(&[hello, publish("a", QoS::AtLeastOnce, 1, "last")]).await;
    writer.stream.shutdown().await.unwrap();
    assert_eq!(reader.message().await.1, "last");
    // Half of a connection is none: the gateway closes its own half.
    while writer.next().await.is_some() {}
    until("it is gone", || gateway.hub().status().broker.connections == 1).await;
    reader.part().await;
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_stops_talking_lets_the_others_speak() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = super::client::prepare(with_limits(dir.path(), "")).unwrap();
    let gateway = prepared.with_workers(1).start().map_err(|error| error.to_string()).unwrap();
    let address = gateway.addresses()[0];
    let talker = std::thread::spawn(move || {
        use std::io::Write;
        let hello = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01t";
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(hello).unwrap();
        let flood = b"\x30\x04\x00\x01ax".repeat(1000);
        // Ends when the gateway does.
        while stream.write_all(&flood).is_ok() {}
    });
    until("the talk has begun", || gateway.hub().status().broker.publish_received > 1000).await;
    let mut other = Client::connect(address, connect("other", Version::V5)).await;
    for _ in 0..20 {
        other.ping().await;
    }
    other.part().await;
    gateway.stop().await.unwrap();
    talker.join().unwrap();
}
