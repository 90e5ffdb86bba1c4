//! A disk that does not take what it is given: publishers wait, nobody is lost, and all goes on once it does.

use bytes::Bytes;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::store::schema::DATABASE_FILE;

use super::client::{Client, connect, durable, publish, start, until, with_limits};

#[tokio::test]
async fn publishers_are_held_back_while_the_disk_is_behind_and_lose_nothing() {
    hold_back(40_000, Bytes::from_static(b"x")).await;
}

#[tokio::test]
async fn publishers_of_large_messages_are_held_back_by_their_bytes() {
    hold_back(400, vec![b'x'; 100_000].into()).await;
}

async fn hold_back(messages: u16, payload: Bytes) {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "queued_messages: 100000, queued_bytes: 64MiB"));
    let address = gateway.addresses()[0];
    let mut away = Client::connect(address, durable("away")).await;
    away.subscribe("q", QoS::AtLeastOnce).await;
    away.part().await;
    let mut writer = Client::connect(address, connect("writer", Version::V3_1_1)).await;

    // Somebody else holds the database.
    let holder = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let packets: Vec<_> =
        (1..=messages).map(|id| publish("q", QoS::AtLeastOnce, id, payload.clone())).collect();
    let bytes = writer.encoded(&packets);
    let let_go = async {
        until("the disk is behind", || gateway.hub().is_congested()).await;
        // Time enough to read all of it.
        until("it has refused", || gateway.writer().stats().failures > 0).await;
        // A mark, and what one read of each connection brings beyond it.
        let taken = gateway.hub().depth().records;
        assert!(taken < usize::from(messages), "{taken}");
        holder.execute_batch("ROLLBACK").unwrap();
    };
    tokio::join!(writer.send_bytes(&bytes), let_go);
    for id in 1..=messages {
        match writer.next().await {
            Some(Packet::Puback(ack)) => assert_eq!(ack.packet_id.as_u16(), id),
            other => panic!("{other:?}"),
        }
    }
    until("the disk has caught up", || !gateway.hub().is_congested()).await;
    assert_eq!(gateway.hub().status().broker.queued, u64::from(messages));
    writer.part().await;
    gateway.stop().await.unwrap();
}
