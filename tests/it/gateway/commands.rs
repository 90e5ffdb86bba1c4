//! Commands that wait for a device while the process is ended, one way or the other: the real program, a real
//! database, a Modbus server that writes down what it is told.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Client, PATIENCE, config, connect, durable, publish, start, until};
use crate::cloud::mosquitto::free_port;

const READ_HOLDING: u8 = 3;
const WRITE_SINGLE: u8 = 6;
/// Whoever is asked what it is may say that it does not know the question.
const IDENTIFY: u8 = 43;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Silent,
    /// Does what it is told and says nothing.
    Mute,
    Sound,
}

/// A unit with one register.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) manner: Manner,
    pub(super) held: u16,
    /// What it was told to write and did.
    pub(super) written: Vec<u16>,
    /// Writes that came, done or not.
    pub(super) told: usize,
}

pub(super) type Shared = Arc<Mutex<Unit>>;

pub(super) async fn unit() -> (Shared, SocketAddr) {
    let unit = Arc::new(Mutex::new(Unit { manner: Manner::Silent, held: 0, written: Vec::new(), told: 0 }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shared = unit.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, shared.clone()));
        }
    });
    (unit, address)
}

/// Until the peer goes.
async fn serve(mut stream: TcpStream, unit: Shared) {
    let mut header = [0; 6];
    while stream.read_exact(&mut header).await.is_ok() {
        let mut request = header.to_vec();
        request.resize(6 + usize::from(header[5]), 0);
        stream.read_exact(&mut request[6..]).await.unwrap();
        let reply = answer(&request, &mut unit.lock().unwrap());
        if let Some(reply) = reply {
            // A peer that is gone needs no answer.
            let _ = stream.write_all(&reply).await;
        }
    }
}

fn answer(request: &[u8], unit: &mut Unit) -> Option<Vec<u8>> {
    let (header, function) = (&request[..4], request[7]);
    let mut reply = header.to_vec();
    unit.told += usize::from(function == WRITE_SINGLE);
    if unit.manner == Manner::Silent {
        return None;
    }
    match function {
        READ_HOLDING => {
            let [high, low] = unit.held.to_be_bytes();
            reply.extend([0, 5, request[6], function, 2, high, low]);
        }
        WRITE_SINGLE => {
            unit.held = u16::from_be_bytes([request[10], request[11]]);
            unit.written.push(unit.held);
            reply.extend(&request[4..]);
        }
        IDENTIFY => reply.extend([0, 3, request[6], function | 0x80, 1]),
        other => panic!("never asked for: {other}"),
    }
    (unit.manner == Manner::Sound).then_some(reply)
}

/// The program. Ends with the test.
struct Process(Child);

impl Process {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        Self(command.arg("run").arg("-c").arg(config).spawn().unwrap())
    }

    async fn end(mut self, signal: &str) {
        let told = Command::new("kill").arg(format!("-{signal}")).arg(self.0.id().to_string()).status();
        assert!(told.unwrap().success());
        let gone = async {
            while self.0.try_wait().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write_config(folder: &Path, port: u16, device: SocketAddr) -> std::path::PathBuf {
    let text = format!(
        "gateway: {{ id: test, data_dir: {} }}
broker: {{ listeners: [{{ address: 127.0.0.1:{port} }}], authentication: {{ anonymous: always }} }}
devices:
  m:
    modbus: {{ tcp: \"{device}\", unit: 1 }}
    poll: 1h
    timeout: 200ms
    retries: 0
    reconnect: {{ min: 100ms, max: 300ms }}
    points:
      relay: {{ holding: 0, type: u16, writable: true }}
",
        folder.display()
    );
    let path = folder.join("tidegate.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Whose session outlives the process.
async fn boss(port: u16) -> Client {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let up = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("the gateway listens");
    Client::connect(address, durable("boss")).await
}

/// At QoS 2, to the end of the exchange.
async fn command(boss: &mut Client, value: u16) {
    let id = PacketId::new(value).unwrap();
    boss.send(&[publish("devices/m/relay/set", QoS::ExactlyOnce, value, value.to_string())]).await;
    assert_eq!(boss.next().await, Some(Packet::Pubrec(Ack::success(id))));
    boss.send(&[Packet::Pubrel(Ack::success(id))]).await;
    assert_eq!(boss.next().await, Some(Packet::Pubcomp(Ack::success(id))));
}

fn done(value: u16) -> (String, bytes::Bytes) {
    ("devices/m/relay/result".to_owned(), format!(r#"{{"value":{value},"ok":true}}"#).into())
}

#[tokio::test]
async fn commands_outlive_the_process_and_are_carried_out_once() {
    for signal in ["KILL", "TERM"] {
        let (unit, device) = unit().await;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = write_config(folder.path(), port, device);
        let process = Process::start(&config);
        let mut first = boss(port).await;
        first.subscribe("devices/m/+/result", QoS::AtLeastOnce).await;
        for value in 1..=5 {
            command(&mut first, value).await;
        }
        until("the first was begun", || unit.lock().unwrap().told > 0).await;
        process.end(signal).await;
        drop(first);

        let process = Process::start(&config);
        let mut second = boss(port).await;
        unit.lock().unwrap().manner = Manner::Sound;
        for value in 1..=5 {
            assert_eq!(second.message().await, done(value));
        }
        assert_eq!(unit.lock().unwrap().written, [1, 2, 3, 4, 5], "{signal}");

        // It does what it is told, and the process ends before it hears of that.
        unit.lock().unwrap().manner = Manner::Mute;
        command(&mut second, 6).await;
        until("it was done", || unit.lock().unwrap().held == 6).await;
        process.end(signal).await;
        drop(second);
        let process = Process::start(&config);
        let mut third = boss(port).await;
        unit.lock().unwrap().manner = Manner::Sound;
        assert_eq!(third.message().await, done(6));
        third.ping().await;
        assert_eq!(unit.lock().unwrap().written, [1, 2, 3, 4, 5, 6], "{signal}");
        third.part().await;
        process.end("TERM").await;
    }
}

/// Nobody is behind the address: what is answered here never asks a device.
#[tokio::test]
async fn a_command_that_no_point_takes_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let device = |name: &str, publish: &str, point: &str| {
        format!(
            "  {name}: {{ modbus: {{ tcp: \"127.0.0.1:{}\", unit: 1 }}, {publish}
         points: {{ {point}: {{ holding: 0, writable: true, max: 9 }}, {point}-shown: {{ input: 0 }} }} }}\n",
            free_port()
        )
    };
    let text = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}\ndevices:\n{}{}{}",
        device("m", "", "relay"),
        device("a", "publish: { topic: 'data/{point}' },", "one"),
        device("b", "publish: { topic: 'data/{point}' },", "two"),
    );
    let gateway = start(config(folder.path(), &text));
    let mut client = Client::connect(gateway.addresses()[0], connect("c", Version::V5)).await;
    client.subscribe("+/+/result", QoS::AtMostOnce).await;
    client.subscribe("devices/+/+/result", QoS::AtMostOnce).await;
    let cases = [
        ("devices/m/relay", "10", "relay: 10 is above max 9"),
        ("devices/m/relay-shown", "1", "relay-shown: is not writable"),
        ("devices/m/none", "1", "devices/m/none/set: no such point"),
        // Who has no such point cannot say that nobody has, where topics do not name the device.
        ("data/two", "10", "two: 10 is above max 9"),
    ];
    for (base, payload, error) in cases {
        client.send(&[publish(&format!("{base}/set"), QoS::AtMostOnce, 0, payload)]).await;
        let (topic, answer) = client.message().await;
        assert_eq!(topic, format!("{base}/result"));
        assert_eq!(answer, format!(r#"{{"ok":false,"error":"{error}"}}"#));
    }
    client.ping().await;
    client.part().await;
    gateway.stop().await.unwrap();
}

async fn put(http: SocketAddr, path: &str, value: &str) -> (u16, serde_json::Value) {
    let body = format!(r#"{{"value":{value}}}"#);
    let head = format!("PUT /api/v1/devices/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an end").unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_comes_over_http_is_a_command() {
    let (unit, device) = unit().await;
    unit.lock().unwrap().manner = Manner::Sound;
    let folder = tempfile::tempdir().unwrap();
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let text = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
http: {{ address: {http} }}
devices:
  m:
    modbus: {{ tcp: \"{device}\", unit: 1 }}
    poll: 1h
    timeout: 200ms
    retries: 1
    points:
      relay: {{ holding: 0, writable: true, max: 50 }}
      shown: {{ holding: 0 }}
      sum: {{ compute: \"shown + 1\" }}
"
    );
    let gateway = start(config(folder.path(), &text));
    let mut client = Client::connect(gateway.addresses()[0], connect("c", Version::V5)).await;
    for filter in ["devices/+/+/result", "$tidegate/#", "devices/m/relay"] {
        client.subscribe(filter, QoS::AtLeastOnce).await;
    }
    let answer = |status, body: &str| (status, serde_json::from_str::<serde_json::Value>(body).unwrap());
    assert_eq!(put(http, "m/points/relay", "21").await, answer(200, r#"{"value":21,"ok":true}"#));
    assert_eq!(put(http, "m/points/relay", "\"22\"").await, answer(200, r#"{"value":22,"ok":true}"#));
    assert_eq!(unit.lock().unwrap().written, [21, 22]);
    let refused = r#"{"ok":false,"error":"relay: 99 is above max 50"}"#;
    assert_eq!(put(http, "m/points/relay", "99").await, answer(422, refused));
    let refused = r#"{"ok":false,"error":"relay: the command has no value"}"#;
    assert_eq!(put(http, "m/points/relay", "null").await, answer(422, refused));
    for (path, status) in
        [("m/points/shown", 405), ("m/points/sum", 405), ("m/points/x", 404), ("x/points/relay", 404)]
    {
        assert_eq!(put(http, path, "1").await.0, status, "{path}");
    }
    unit.lock().unwrap().manner = Manner::Silent;
    let refused = r#"{"ok":false,"error":"relay: may have been written: no answer in time"}"#;
    assert_eq!(put(http, "m/points/relay", "23").await, answer(504, refused));
    assert_eq!(unit.lock().unwrap().written, [21, 22]);
    // The readings that came back, and no answer: those were for somebody else.
    let mut heard = Vec::new();
    while heard.last().is_none_or(|(_, reading): &(String, String)| !reading.starts_with(r#"{"value":22"#)) {
        let (topic, payload) = client.message().await;
        heard.push((topic, String::from_utf8(payload.to_vec()).unwrap()));
    }
    assert!(heard.iter().all(|(topic, _)| topic == "devices/m/relay"), "{heard:?}");
    client.ping().await;
    gateway.stop().await.unwrap();
}
