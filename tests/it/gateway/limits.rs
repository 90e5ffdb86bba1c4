//! Each of `broker.limits` as clients meet it: what they are told, and what is counted.

use std::time::{Duration, Instant};

use tidegate::app::Gateway;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::client::{Client, PATIENCE, config, connect, durable, publish, start, until, with_limits};

fn refused(gateway: &Gateway, reason: &str) -> u64 {
    gateway.hub().status().refused.of(reason)
}

/// The reason in CONNACK.
async fn told(client: &mut Client, connect: Connect) -> ReasonCode {
    client.send(&[Packet::Connect(Box::new(connect))]).await;
    let Some(Packet::Connack(connack)) = client.next().await else { panic!("no CONNACK") };
    connack.reason
}

#[tokio::test]
async fn a_client_too_many_is_told_that_the_server_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "connections: 1"));
    let address = gateway.addresses()[0];
    let first = Client::connect(address, connect("first", Version::V5)).await;
    // Return code 3 of 3.1.1 comes back as what it means.
    for (version, reason) in
        [(Version::V5, ReasonCode::ServerBusy), (Version::V3_1_1, ReasonCode::ServerUnavailable)]
    {
        let mut second = Client::open(address, version).await;
        assert_eq!(told(&mut second, connect("second", version)).await, reason);
        assert_eq!(second.next().await, None);
    }
    assert_eq!(refused(&gateway, "connections"), 2);
    // Who comes again takes over.
    let again = Client::connect(address, connect("first", Version::V5)).await;
    drop(first);
    again.part().await;
    gateway.stop().await.unwrap();
}

async fn connect_from(host: &str, address: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{host}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn an_address_has_its_own_bound_and_others_do_not_feel_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "connections_per_address: 3"));
    let address = gateway.addresses()[0];
    let mut first = Client::connect(address, connect("first", Version::V5)).await;
    let mut silent = vec![TcpStream::connect(address).await.unwrap()];
    silent.push(TcpStream::connect(address).await.unwrap());
    for _ in 0..20 {
        let mut fourth = TcpStream::connect(address).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, fourth.read(&mut [0])).await.expect("it is closed");
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    assert_eq!(refused(&gateway, "connections_per_address"), 20);
    // All of 127.0.0.0/8 is loopback, and each has its own places.
    let mut other = Client::on(connect_from("127.0.0.2", address).await, Version::V5);
    other.greet(connect("other", Version::V5)).await;
    first.ping().await;
    // A place that is left is free again.
    silent.clear();
    let mut back = loop {
        let mut client = Client::open(address, Version::V5).await;
        let hello = client.encoded(&[Packet::Connect(Box::new(connect("back", Version::V5)))]);
        let sent = client.stream.write_all(&hello).await;
        if sent.is_ok() && client.stream.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
            break client;
        }
    };
    assert!(matches!(back.next().await, Some(Packet::Connack(_))));
    for client in [first, other, back] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

/// The excess waits in TCP: nothing is lost, nobody is disconnected, and neighbours go on.
#[tokio::test]
async fn a_client_that_publishes_too_fast_is_slowed_down_and_keeps_all() {
    const RATE: usize = 200;
    const MESSAGES: usize = 3 * RATE;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), &format!("publish_rate: {RATE}")));
    let address = gateway.addresses()[0];
    let mut reader = Client::connect(address, connect("reader", Version::V5)).await;
    reader.subscribe("fast", QoS::AtMostOnce).await;
    // Its keep alive runs out long before its messages have passed.
    let mut fast = Client::connect(address, Connect { keep_alive: 1, ..connect("fast", Version::V5) }).await;
    let mut slow = Client::connect(address, connect("slow", Version::V5)).await;
    let began = Instant::now();
    let mut packets: Vec<_> =
        (0..MESSAGES).map(|n| publish("fast", QoS::AtMostOnce, 0, n.to_string())).collect();
    packets.push(Packet::Pingreq);
    fast.send(&packets).await;
    for n in 0..MESSAGES {
        if n % RATE == 0 {
            slow.publish("slow", "x").await;
        }
        assert_eq!(reader.message().await.1, n.to_string());
    }
    let took = began.elapsed();
    // A second's worth passes at once.
    assert!(took > Duration::from_millis(1900), "{took:?} for {MESSAGES} messages");
    assert_eq!(fast.next().await, Some(Packet::Pingresp));
    let stats = gateway.hub().status().broker;
    assert!((RATE as u64..=2 * RATE as u64).contains(&stats.throttled), "{stats:?}");
    assert_eq!((stats.keep_alive_timeouts, stats.connections), (0, 3));
    for client in [reader, fast, slow] {
        client.part().await;
    }
    gateway.stop().await.unwrap();
}

/// Held back as a publisher and full as a reader, both at once: it goes on in both.
#[tokio::test]
async fn a_fast_publisher_that_reads_slowly_is_served_again() {
    const MESSAGES: usize = 7000;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "publish_rate: 2000"));
    let address = gateway.addresses()[0];
    let mut both = Client::open_narrow(address, Version::V5).await;
    both.greet(connect("both", Version::V5)).await;
    both.subscribe("own", QoS::AtMostOnce).await;
    let payload = vec![7; 1024];
    // More than its system and the gateway's take for it.
    let mut packets: Vec<_> =
        (0..MESSAGES).map(|_| publish("own", QoS::AtMostOnce, 0, payload.clone())).collect();
    packets.push(Packet::Pingreq);
    let bytes = both.encoded(&packets);
    let socket = both.stream.into_std().unwrap();
    let mut writer = TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
    let writing = tokio::spawn(async move { writer.write_all(&bytes).await });
    until("it is too fast", || gateway.hub().status().broker.throttled > 0).await;
    // Until it is served no more, for it does not read.
    let mut served = (0, 0);
    while served.1 < 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let sent = gateway.hub().status().broker.publish_sent;
        served = if sent == served.0 { (sent, served.1 + 1) } else { (sent, 0) };
    }
    assert!(served.0 < MESSAGES as u64, "all of it found room");
    let mut both = Client::on(TcpStream::from_std(socket).unwrap(), Version::V5);
    let mut received = 0;
    loop {
        match both.next().await {
            Some(Packet::Publish(message)) => assert_eq!(message.payload.len(), payload.len()),
            Some(Packet::Pingresp) => break,
            other => panic!("{other:?}"),
        }
        received += 1;
    }
    writing.await.unwrap().unwrap();
    let dropped = usize::try_from(gateway.hub().status().outbox_dropped).unwrap();
    assert_eq!(received + dropped, MESSAGES);
    both.ping().await;
    both.part().await;
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn a_packet_too_large_ends_its_connection_with_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "packet_size: 2KiB"));
    let address = gateway.addresses()[0];
    for version in [Version::V5, Version::V3_1_1] {
        let mut client = Client::open(address, version).await;
        let connack = client.greet(connect("a", version)).await;
        let announced = (version == Version::V5).then_some(2048);
        assert_eq!(connack.properties.maximum_packet_size, announced);
        client.send(&[publish("a", QoS::AtMostOnce, 0, vec![0; 1500])]).await;
        client.ping().await;
        client.send(&[publish("a", QoS::AtMostOnce, 0, vec![0; 2048])]).await;
        if version == Version::V5 {
            let Some(Packet::Disconnect(word)) = client.next().await else { panic!("no DISCONNECT") };
            assert_eq!(word.reason, ReasonCode::PacketTooLarge);
        }
        assert_eq!(client.next().await, None);
    }
    assert_eq!(gateway.hub().status().broker.packets_too_large, 2);
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn more_unacknowledged_than_announced_ends_a_connection_and_no_window_is_overrun() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "inflight: 3, queued_messages: 5"));
    let address = gateway.addresses()[0];
    let mut reader = Client::connect(address, connect("reader", Version::V5)).await;
    reader.subscribe("t", QoS::AtLeastOnce).await;
    let mut writer = Client::connect(address, connect("writer", Version::V5)).await;
    for n in 0..10 {
        writer.publish("t", n.to_string()).await;
    }
    let stats = gateway.hub().status().broker;
    assert_eq!((stats.inflight, stats.dropped_full), (3, stats.dropped), "{stats:?}");
    assert_eq!(stats.queued + stats.dropped, 10, "{stats:?}");
    assert!(stats.dropped > 0);
    // Three come without an acknowledgement, and no fourth before one.
    for n in 0..3 {
        let Some(Packet::Publish(message)) = reader.next().await else { panic!("no PUBLISH") };
        assert_eq!(message.payload, n.to_string());
    }
    reader.ping().await;
    // The other way round: QoS 2 that is never released.
    let receive_maximum = 1024;
    let packets: Vec<_> =
        (1..=receive_maximum + 1).map(|id| publish("x", QoS::ExactlyOnce, id, "")).collect();
    writer.send(&packets).await;
    let word = loop {
        match writer.next().await {
            Some(Packet::Pubrec(_)) => {}
            other => break other,
        }
    };
    let Some(Packet::Disconnect(word)) = word else { panic!("{word:?}") };
    assert_eq!(word.reason, ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(gateway.hub().status().broker.receive_maximum_exceeded, 1);
    gateway.stop().await.unwrap();
}

/// The message is delivered, and acknowledged as such; it is only not kept for those who come later.
#[tokio::test]
async fn a_topic_beyond_the_retained_ones_is_not_kept_and_that_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "retained_messages: 2"));
    let address = gateway.addresses()[0];
    let mut client = Client::connect(address, connect("a", Version::V5)).await;
    client.subscribe("#", QoS::AtMostOnce).await;
    for (index, topic) in (1..).zip(["one", "two", "three", "one"]) {
        let mut packet = publish(topic, QoS::AtLeastOnce, index, "x");
        if let Packet::Publish(publish) = &mut packet {
            publish.retain = true;
        }
        client.send(&[packet]).await;
        assert_eq!(client.message().await.0, topic);
        assert!(
            matches!(client.next().await, Some(Packet::Puback(ack)) if ack.reason == ReasonCode::Success)
        );
    }
    let stats = gateway.hub().status().broker;
    assert_eq!((stats.retained, stats.retained_refused), (2, 1));
    client.part().await;
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn keep_alive_and_session_expiry_are_lowered_to_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(with_limits(dir.path(), "keep_alive: 1s, session_expiry: 1s"));
    let address = gateway.addresses()[0];
    let mut client = Client::open(address, Version::V5).await;
    let connack = client.greet(Connect { keep_alive: 600, ..durable("a") }).await;
    assert_eq!(connack.properties.server_keep_alive, Some(1));
    assert_eq!(connack.properties.session_expiry_interval, Some(1));
    // It falls silent.
    let Some(Packet::Disconnect(word)) = client.next().await else { panic!("no DISCONNECT") };
    assert_eq!(word.reason, ReasonCode::KeepAliveTimeout);
    assert_eq!(client.next().await, None);
    until("its session is over", || gateway.hub().status().broker.sessions == 0).await;
    let stats = gateway.hub().status().broker;
    assert_eq!((stats.keep_alive_timeouts, stats.clients_expired), (1, 1));
    gateway.stop().await.unwrap();
}

/// By MQTT and by HTTP, the same numbers.
#[tokio::test]
async fn what_limits_cost_is_told_in_metrics_and_topics() {
    let dir = tempfile::tempdir().unwrap();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = "broker: { listeners: [{ address: 127.0.0.1:0 }], sys_interval: 1s, \
                  limits: { connections_per_address: 2, publish_rate: 2 } }";
    let gateway = start(config(dir.path(), &format!("http: {{ address: \"{http}\" }}\n{broker}")));
    let address = gateway.addresses()[0];
    let mut watcher = Client::connect(address, connect("watcher", Version::V5)).await;
    watcher.subscribe("$SYS/tidegate/broker/+", QoS::AtMostOnce).await;
    let mut client = Client::connect(address, connect("a", Version::V5)).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    assert!(matches!(tokio::time::timeout(PATIENCE, third.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
    let packets: Vec<_> = (0..4).map(|_| publish("a", QoS::AtMostOnce, 0, "x")).collect();
    client.send(&packets).await;
    client.ping().await;
    let mut wanted = vec![("connections_refused", "1"), ("messages_throttled", "2")];
    let heard = async {
        while !wanted.is_empty() {
            let (topic, count) = watcher.message().await;
            wanted.retain(|(name, wanted)| !topic.ends_with(name) || count != *wanted);
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the topics tell");
    let text = metrics(http).await;
    for line in [
        "tidegate_broker_connections_refused_total{reason=\"connections_per_address\"} 1",
        "tidegate_broker_connections_refused_total{reason=\"login\"} 0",
        "tidegate_broker_messages_throttled_total 2",
        "tidegate_broker_retained_refused_total 0",
        "tidegate_broker_protocol_errors_total{reason=\"packet_too_large\"} 0",
    ] {
        assert!(text.lines().any(|known| known == line), "no {line} in\n{text}");
    }
    client.part().await;
    watcher.part().await;
    gateway.stop().await.unwrap();
}

async fn metrics(http: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(http).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}
