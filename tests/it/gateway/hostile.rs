//! Clients that mean harm: floods, half-open connections, bytes that trickle. Others do not feel them, and what they
//! take is bounded and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Client, PATIENCE, config, connect, publish, start, until, with_limits};
use crate::cloud::authority::Authority;
use crate::process::Process;

/// Between two bytes of one that trickles.
const TRICKLE: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connects_costs_nobody_a_message() {
    const CONNECTS: usize = 500;
    const HELD_MAX: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "connections: 100"));
    let address = gateway.addresses()[0];
    let mut reader = Client::connect(address, connect("reader", Version::V5)).await;
    reader.subscribe("t", QoS::AtLeastOnce).await;
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let flood = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        for n in 0..CONNECTS {
            let mut client = Client::open(address, Version::V5).await;
            let id = format!("flood-{n}");
            let hello = client.encoded(&[Packet::Connect(Box::new(connect(&id, Version::V5)))]);
            // Whoever is refused may find its connection gone.
            let _ = client.stream.write_all(&hello).await;
            held.push_back(client);
            if held.len() > HELD_MAX {
                held.pop_front();
            }
        }
        ended.store(true, Ordering::Relaxed);
        held
    });
    let mut exchanged = 0;
    while !over.load(Ordering::Relaxed) || exchanged < 100 {
        let payload = exchanged.to_string();
        writer.publish("t", payload.clone()).await;
        assert_eq!(reader.message().await, ("t".to_owned(), payload.into()));
        exchanged += 1;
    }
    let held = flood.await.unwrap();
    until("each has come in or was refused", || {
        let status = gateway.hub().status();
        let refused = usize::try_from(status.refused.of("connections")).unwrap();
        let accepted = usize::try_from(status.broker.connections_accepted).unwrap();
        refused > 0 && refused + accepted >= CONNECTS
    })
    .await;
    drop(held);
    for client in [reader, writer] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

/// Sends a byte now and then until the gateway has closed.
async fn trickle(stream: &mut TcpStream, bytes: &[u8]) {
    let mut bytes = bytes.iter();
    let mut ticks = tokio::time::interval(TRICKLE);
    let mut received = [0; 64];
    let closed = async {
        loop {
            tokio::select! {
                read = stream.read(&mut received) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
                _ = ticks.tick() => if let Some(byte) = bytes.next() {
                    // What is closed is found by the read.
                    let _ = stream.write_all(&[*byte]).await;
                },
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("it is ended");
}

/// `transport::accept::HANDSHAKE_WAIT` and `broker::CONNECT_WAIT`: ten seconds each, all of them here at once.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_are_ended_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Authority::new(dir.path(), "ca").issue("server", "localhost");
    let (certificate, key) = (identity.certificate.display(), identity.private_key.display());
    let broker = format!(
        "broker: {{ sys_interval: 0s, listeners: [{{ address: 127.0.0.1:0 }}, \
         {{ address: \"127.0.0.1:0\", tls: {{ certificate: {certificate}, private_key: {key} }} }}, \
         {{ address: \"127.0.0.1:0\", transport: websocket }}] }}"
    );
    let gateway = start(config(dir.path(), &broker));
    let [plain, tls, websocket] = gateway.addresses()[..] else { panic!("three listeners") };
    let hello = Client::open(plain, Version::V5)
        .await
        .encoded(&[Packet::Connect(Box::new(connect("a-client-with-a-long-name", Version::V5)))]);
    let cases: [(SocketAddr, &[u8]); 6] = [
        (plain, b""),
        (plain, &hello),
        (tls, b""),
        (
            tls,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ),
        (websocket, b""),
        (websocket, b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\n"),
    ];
    let mut streams = Vec::new();
    for (address, _) in cases {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    let waits = streams.iter_mut().zip(cases).map(|(stream, (_, bytes))| trickle(stream, bytes));
    let other = async {
        let mut client = Client::connect(plain, connect("other", Version::V5)).await;
        client.publish("a", "x").await;
        client
    };
    let (_, client) = tokio::join!(futures_util::future::join_all(waits), other);
    // A socket closes before the one that had it comes to count it.
    until("all six are counted", || {
        let refused = gateway.hub().status().refused;
        (refused.of("no_connect"), refused.of("handshake_timeout")) == (2, 4)
    })
    .await;
    client.part().await;
    gateway.stop().await.unwrap();
}

/// Bytes that complete no packet are no sign of life.
#[tokio::test]
async fn a_packet_that_trickles_in_is_ended_by_the_keep_alive() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), ""));
    let mut client = Client::open(gateway.addresses()[0], Version::V5).await;
    client.greet(Connect { keep_alive: 1, ..connect("slow", Version::V5) }).await;
    let bytes = client.encoded(&[publish("a", QoS::AtMostOnce, 0, vec![0; 100])]);
    let word = async {
        for byte in bytes {
            let _ = client.stream.write_all(&[byte]).await;
            let told = tokio::time::timeout(TRICKLE, client.stream.readable()).await;
            if told.is_ok() {
                return client.next().await;
            }
        }
        None
    };
    let Some(Packet::Disconnect(word)) = word.await else { panic!("no DISCONNECT") };
    assert_eq!(word.reason, ReasonCode::KeepAliveTimeout);
    assert_eq!(gateway.hub().status().broker.keep_alive_timeouts, 1);
    drop(client);
    gateway.stop().await.unwrap();
}

/// Each announces a packet of a megabyte and sends it byte by byte: memory follows what came, not what was announced.
#[tokio::test]
async fn packets_that_trickle_in_hold_little_memory_and_hold_up_nobody() {
    const CLIENTS: usize = 200;
    const ROUNDS: usize = 10;
    const HELD_BYTES_MAX: usize = 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), "  limits: { packet_size: 2MiB }");
    let mut good = Client::connect(process.address, connect("good", Version::V5)).await;
    good.subscribe("t", QoS::AtMostOnce).await;
    let before = process.resident_bytes();
    let mut slow = Vec::new();
    for n in 0..CLIENTS {
        slow.push(Client::connect(process.address, connect(&format!("slow-{n}"), Version::V5)).await);
    }
    // PUBLISH of 1 MiB to `t`.
    let head = b"\x30\x80\x80\x40\x00\x01t\x00";
    for round in 0..ROUNDS {
        for client in &mut slow {
            let bytes = if round == 0 { &head[..] } else { &b"x"[..] };
            client.send_bytes(bytes).await;
        }
        good.send(&[publish("t", QoS::AtMostOnce, 0, round.to_string())]).await;
        assert_eq!(good.message().await.1, round.to_string());
    }
    let grown = process.resident_bytes().saturating_sub(before);
    assert!(grown < CLIENTS * HELD_BYTES_MAX, "{grown} bytes for {CLIENTS} clients");
    // They are still there, and can end what they began.
    let mut last = slow.pop().unwrap();
    last.send_bytes(&vec![b'x'; (1 << 20) - 4 - (ROUNDS - 1)]).await;
    assert_eq!(good.message().await.1.len(), (1 << 20) - 4);
    last.ping().await;
    good.part().await;
    drop(slow);
    process.stop();
}

/// What the gateway says at the end of a connection is said in the version that it began with.
#[tokio::test]
async fn a_second_connect_in_another_version_is_answered_in_the_first_ones() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "connections: 10"));
    let address = gateway.addresses()[0];
    let mut newer = Client::connect(address, connect("newer", Version::V5)).await;
    let older = Client::open(address, Version::V3_1_1).await;
    let hello = older.encoded(&[Packet::Connect(Box::new(connect("newer", Version::V3_1_1)))]);
    newer.send_bytes(&hello).await;
    let Some(Packet::Disconnect(word)) = newer.next().await else { panic!("no DISCONNECT") };
    assert_eq!(word.reason, ReasonCode::ProtocolError);
    assert!(newer.next().await.is_none());
    drop((newer, older));
    gateway.stop().await.unwrap();
}
