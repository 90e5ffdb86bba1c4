//! Gateways to test, and clients that do exactly what they are told. Decides no verdict but that a wait was too
//! long.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidegate::app::error::StartError;
use tidegate::app::{Gateway, Prepared};
use tidegate::base::time::Clock;
use tidegate::config::expand::ProcessEnvironment;
use tidegate::config::load::parse;
use tidegate::config::model::Config;
use tidegate::mqtt::frame::{Decoder, encode};
use tidegate::mqtt::packet::connect::{Connack, Connect, ConnectProperties, Role};
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{Subscribe, SubscriptionOptions};
use tidegate::mqtt::packet::{Packet, Peer, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// After so long, what a test waits for does not come.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn config(data_dir: &Path, rest: &str) -> Arc<Config> {
    let data_dir = data_dir.display();
    let text = format!("gateway: {{ id: test, data_dir: {data_dir} }}\n{rest}\n");
    Arc::new(
        parse("test.yaml", &text, Path::new("."), &ProcessEnvironment).map_err(|f| f.to_string()).unwrap(),
    )
}

/// With one listener and the limits given, as they stand in the file.
pub fn with_limits(data_dir: &Path, limits: &str) -> Arc<Config> {
    let broker = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s, limits: {{ {limits} }} }}"
    );
    config(data_dir, &broker)
}

pub fn prepare(config: Arc<Config>) -> Result<Prepared, StartError> {
    Gateway::prepare(config, Clock::start()).map(|prepared| prepared.with_workers(2))
}

pub fn start(config: Arc<Config>) -> Gateway {
    prepare(config).and_then(Prepared::start).map_err(|error| error.to_string()).unwrap()
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

pub struct Client {
    pub stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
    version: Version,
    next_id: u16,
}

pub fn connect(id: &str, version: Version) -> Connect {
    Connect {
        version,
        role: Role::Client,
        client_id: id.into(),
        clean_start: true,
        keep_alive: 0,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A 5.0 client whose session stays.
pub fn durable(id: &str) -> Connect {
    let properties =
        ConnectProperties { session_expiry_interval: Some(1000), ..ConnectProperties::default() };
    Connect { clean_start: false, properties, ..connect(id, Version::V5) }
}

pub fn publish(topic: &str, qos: QoS, id: u16, payload: impl Into<Bytes>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: PacketId::new(id).filter(|_| qos != QoS::AtMostOnce),
        payload: payload.into(),
        topic_alias: None,
        expiry_interval: None,
        subscription_identifiers: Vec::new(),
        properties: None,
    })
}

pub fn subscribe(id: u16, filters: &[&str], qos: QoS) -> Packet {
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(id).unwrap(),
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: filters.iter().map(|filter| (TopicFilter::new(filter).unwrap(), options)).collect(),
    })
}

impl Client {
    /// Says nothing yet.
    pub async fn open(address: SocketAddr, version: Version) -> Client {
        Self::on(TcpStream::connect(address).await.unwrap(), version)
    }

    /// Its system takes little that it does not read.
    pub async fn open_narrow(address: SocketAddr, version: Version) -> Client {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::on(socket.connect(address).await.unwrap(), version)
    }

    pub fn on(stream: TcpStream, version: Version) -> Client {
        stream.set_nodelay(true).unwrap();
        let mut decoder = Decoder::new(Peer::Server, 1 << 24);
        decoder.set_version(version);
        Client { stream, decoder, input: BytesMut::new(), version, next_id: 1 }
    }

    pub async fn connect(address: SocketAddr, connect: Connect) -> Client {
        let mut client = Self::open(address, connect.version).await;
        client.greet(connect).await;
        client
    }

    pub async fn greet(&mut self, connect: Connect) -> Connack {
        self.send(&[Packet::Connect(Box::new(connect))]).await;
        match self.next().await {
            Some(Packet::Connack(connack)) if connack.reason == ReasonCode::Success => *connack,
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    pub fn encoded(&self, packets: &[Packet]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for packet in packets {
            encode(packet, self.version, &mut bytes).unwrap();
        }
        bytes
    }

    /// All of them in one write.
    pub async fn send(&mut self, packets: &[Packet]) {
        let bytes = self.encoded(packets);
        self.send_bytes(&bytes).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        tokio::time::timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the gateway reads")
            .unwrap();
    }

    /// None: the gateway has closed.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).expect("the gateway speaks MQTT") {
                return Some(packet);
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// One read; 0: the end.
    pub async fn read(&mut self) -> usize {
        self.input.reserve(1 << 16);
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
        read.expect("the gateway answers").expect("the gateway closes, but never resets")
    }

    /// What was read and not taken.
    pub fn unread(&self) -> &[u8] {
        &self.input
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.send(&[subscribe(9999, &[filter], qos)]).await;
        assert!(matches!(self.next().await, Some(Packet::Suback(_))));
    }

    /// The next PUBLISH, acknowledged where that is due (QoS 0 and 1).
    pub async fn message(&mut self) -> (String, Bytes) {
        match self.next().await {
            Some(Packet::Publish(publish)) => {
                if let Some(id) = publish.packet_id {
                    self.send(&[Packet::Puback(tidegate::mqtt::packet::ack::Ack::success(id))]).await;
                }
                (publish.topic.unwrap().as_str().to_owned(), publish.payload)
            }
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    /// At QoS 1, to its acknowledgement.
    pub async fn publish(&mut self, topic: &str, payload: impl Into<Bytes>) {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&[publish(topic, QoS::AtLeastOnce, id, payload)]).await;
        match self.next().await {
            Some(Packet::Puback(ack)) => assert_eq!(ack.packet_id.as_u16(), id),
            other => panic!("no PUBACK but {other:?}"),
        }
    }

    /// That it is served, and has got all that was sent to it.
    pub async fn ping(&mut self) {
        self.send(&[Packet::Pingreq]).await;
        assert_eq!(self.next().await, Some(Packet::Pingresp));
    }

    pub async fn part(mut self) {
        self.send(&[Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success))]).await;
        assert_eq!(self.next().await, None);
    }
}
