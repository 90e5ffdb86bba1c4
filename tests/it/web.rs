//! The dashboard, API and metrics over real sockets, asked by requests that are written by hand. Its source is a
//! made-up gateway.

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate::auth::password::PasswordHash;
use tidegate::base::time::{Clock, Timestamp};
use tidegate::web::guard::Gate;
use tidegate::web::login::Login;
use tidegate::web::server::{Entrance, Limits};
use tidegate::web::snapshot::{
    BridgeSnapshot, BridgeState, BrokerSnapshot, ClientSnapshot, DeviceSnapshot, DeviceState,
    DroppedSnapshot, Event, PointSnapshot, ProcessSnapshot, Quality, RuleSnapshot, ShareSnapshot, Snapshot,
    StoreSnapshot, Subject,
};
use tidegate::web::write::{WriteFault, Written};
use tidegate::web::{self, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes so long; what does has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS_MAX: usize = 4;
const TIME: Timestamp = Timestamp::from_millis(1_795_255_200_123);

struct Plant {
    ready: AtomicBool,
    hangs: AtomicBool,
    events: broadcast::Sender<Event>,
}

impl Source for Plant {
    fn hung(&self) -> Option<String> {
        self.hangs.load(Ordering::Relaxed).then(|| "hangs: lan-0 for 31 s".to_owned())
    }

    fn snapshot(&self) -> Snapshot {
        let ready = self.ready.load(Ordering::Relaxed);
        Snapshot {
            gateway: "plant-7".into(),
            version: "1.2.3".into(),
            started: TIME,
            uptime_seconds: 90,
            clock_synchronised: ready,
            ready,
            reload: None,
            reason: (!ready).then(|| "the disk is full".into()),
            broker: BrokerSnapshot {
                connections: 2,
                messages_received: 41,
                messages_dropped: 9,
                messages_dropped_full: 5,
                messages_dropped_slow: 1,
                connections_refused_by: [("login", 3), ("tls", 0)].into(),
                ..BrokerSnapshot::default()
            },
            bridges: vec![bridge()],
            devices: vec![device()],
            shares: vec![ShareSnapshot {
                port: "rs485-a".into(),
                address: "127.0.0.1:1502".into(),
                cache_seconds: 1.0,
                writes: false,
                connections: 2,
                connections_refused: 0,
                waiting: 1,
                requests: [("answered", 8), ("cached", 5)].into(),
            }],
            store: StoreSnapshot { commits: 7, ..StoreSnapshot::default() },
            process: ProcessSnapshot { rss_bytes: 1 << 20, cpu_seconds: 1.25 },
        }
    }

    fn clients(&self, clients_max: usize) -> Vec<ClientSnapshot> {
        let clients = [client("hmi", None), client("scada", Some("ann"))];
        clients.into_iter().take(clients_max).collect()
    }

    fn config(&self) -> Arc<str> {
        json!({"gateway": {"id": "plant-7"}}).to_string().into()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn write(&self, device: &str, point: &str, command: Bytes) -> Written {
        let result = match (device, point, &command[..]) {
            ("main-meter", "voltage L1", br#"{"value":7}"#) => Ok(json!({"value": 7, "ok": true})),
            ("main-meter", "voltage L1", br#"{"value":8}"#) => Err(WriteFault::Refused("too much".into())),
            ("main-meter", "voltage L1", br#"{"value":9}"#) => Err(WriteFault::Silent("no answer".into())),
            ("main-meter", "voltage L1", _) => Err(WriteFault::Busy("too many".into())),
            ("main-meter", "fixed", _) => Err(WriteFault::NotWritable),
            ("main-meter", "stubborn", _) => Err(WriteFault::Failed("holds 5".into())),
            ("main-meter", ..) => Err(WriteFault::NoPoint),
            _ => Err(WriteFault::NoDevice),
        };
        Box::pin(std::future::ready(result))
    }
}

fn client(client_id: &str, user: Option<&str>) -> ClientSnapshot {
    ClientSnapshot {
        client_id: client_id.into(),
        user: user.map(str::to_owned),
        address: "192.168.1.7".into(),
        protocol: "5",
        connected_since: TIME,
        durable: true,
        subscriptions: 3,
        queued_messages: 2,
        queued_bytes: 20,
    }
}

fn bridge() -> BridgeSnapshot {
    BridgeSnapshot {
        name: "cloud \"A\"".into(),
        url: "mqtts://plant:secret@cloud.example.com:8883".into(),
        state: BridgeState::Connecting,
        since: TIME,
        queued_messages: 3,
        queued_bytes: 300,
        buffer_bytes_max: 1000,
        inflight: 1,
        forwarded: 5,
        received: 6,
        sent_bytes: 1210,
        received_bytes: 70,
        sent_messages: 12,
        sent_bytes_per_message: Some(100.8),
        dropped_full: 7,
        dropped_aged: 8,
        dropped_expired: 9,
        refused: 10,
        dead_letters: 12,
        dead_letter_bytes: 1200,
        died: [("not_authorized", 10)].into(),
        dropped: [("aged", DroppedSnapshot { messages: 8, bytes: 800 })].into(),
        rules: vec![RuleSnapshot {
            topic: "a/#".into(),
            queued_messages: 2,
            queued_bytes: 200,
            bytes_max: Some(500),
            dropped: [("aged", DroppedSnapshot { messages: 4, bytes: 400 })].into(),
        }],
        possible_duplicates: 11,
        degraded: vec!["the server retains nothing".into()],
        last_error: Some("refused".into()),
    }
}

fn device() -> DeviceSnapshot {
    let voltage = PointSnapshot {
        name: "voltage L1".into(),
        value: json!(230.1),
        unit: Some("V".into()),
        quality: Some(Quality::Good),
        time: Some(TIME),
        error: None,
        writable: true,
    };
    DeviceSnapshot {
        name: "main-meter".into(),
        link: "rs485-a, unit 1".into(),
        state: DeviceState::Online,
        polls: 20,
        skipped: 1,
        errors: 2,
        last_error: None,
        last_seen: Some(TIME),
        vendor: Some("Maker".into()),
        product: None,
        revision: None,
        points: vec![voltage],
    }
}

struct Served {
    address: SocketAddr,
    plant: Arc<Plant>,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

async fn serve(limits: Limits) -> Served {
    serve_to(Gate::ThisMachine, limits).await
}

async fn serve_to(gate: Gate, limits: Limits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let plant = Arc::new(Plant {
        ready: AtomicBool::new(true),
        hangs: AtomicBool::default(),
        events: broadcast::Sender::new(EVENTS_MAX),
    });
    let cancel = CancellationToken::new();
    let source: Arc<dyn Source> = Arc::clone(&plant) as Arc<dyn Source>;
    let entrance = Entrance { listener: Arc::new(listener), acceptor: Arc::default() };
    let task = tokio::spawn(web::serve_within(entrance, source, (gate, limits), cancel.clone()));
    Served { address, plant, cancel, task }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head: head.into(), body: body.into() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.body);
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Served {
    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("a request sent");
        stream
    }

    /// One request whose connection the server closes.
    async fn ask(&self, request: &str) -> Answer {
        let mut stream = self.send(request).await;
        let mut text = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an end").expect("an answer");
        Answer::parse(&text)
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&request("GET", path)).await
    }
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// Reads until the text is there.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        let length = timeout(PATIENCE, stream.read(&mut buffer)).await.expect(wanted).expect("bytes");
        assert_ne!(length, 0, "ended without {wanted}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    text
}

#[tokio::test]
async fn every_path_answers() {
    let served = serve(Limits::default()).await;
    let json = "application/json";
    let text = "text/plain; charset=utf-8";
    let cases = [
        ("GET", "/", 200, "text/html; charset=utf-8"),
        ("GET", "/style.css", 200, "text/css; charset=utf-8"),
        ("GET", "/app.js", 200, "text/javascript; charset=utf-8"),
        ("GET", "/view.js", 200, "text/javascript; charset=utf-8"),
        ("GET", "/format.js", 200, "text/javascript; charset=utf-8"),
        ("GET", "/icon.svg", 200, "image/svg+xml"),
        ("GET", "/api/v1/status", 200, json),
        ("GET", "/api/v1/devices", 200, json),
        ("GET", "/api/v1/devices/main-meter", 200, json),
        ("GET", "/api/v1/devices/boiler", 404, json),
        ("GET", "/api/v1/devices/main-meter/points/voltage%20L1", 200, json),
        ("GET", "/api/v1/devices/main-meter/points/current", 404, json),
        ("GET", "/api/v1/devices/boiler/points/current", 404, json),
        ("GET", "/api/v1/devices/%ff/points/current", 404, json),
        ("PUT", "/api/v1/devices/main-meter/points/voltage%20L1", 400, json),
        ("PUT", "/api/v1/devices/main-meter/points/current", 400, json),
        ("GET", "/api/v1/bridges", 200, json),
        ("GET", "/api/v1/clients", 200, json),
        ("GET", "/api/v1/clients?max=1", 200, json),
        ("GET", "/api/v1/clients?max=many", 400, json),
        ("GET", "/api/v1/config", 200, json),
        ("GET", "/api/v1/nothing", 404, json),
        ("GET", "/../Cargo.toml", 404, json),
        ("POST", "/api/v1/status", 405, json),
        ("GET", "/metrics", 200, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("GET", "/healthz", 200, text),
        ("GET", "/readyz", 200, text),
        ("HEAD", "/", 200, "text/html; charset=utf-8"),
    ];
    for (method, path, status, kind) in cases {
        let answer = served.ask(&request(method, path)).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, Some(kind)), "{method} {path}");
        if status >= 400 {
            assert!(answer.json()["error"].is_string(), "{method} {path}: {}", answer.body);
        }
        assert!(!answer.body.contains("secret"), "{path} tells a password");
        assert_sane(&answer, path);
    }
}

fn assert_sane(answer: &Answer, path: &str) {
    let policy = answer.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'self';") && policy.contains("frame-ancestors 'none'"), "{path}");
    let expected = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ];
    for (name, value) in expected {
        assert_eq!(answer.header(name), Some(value), "{path}: {name}");
    }
    assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
}

#[tokio::test]
async fn json_has_the_promised_shapes() {
    let served = serve(Limits::default()).await;
    let point = json!({"name": "voltage L1", "value": 230.1, "unit": "V", "quality": "good",
        "time": "2026-11-21T10:00:00.123Z", "error": null, "writable": true});
    let device = json!({"name": "main-meter", "link": "rs485-a, unit 1", "state": "online", "polls": 20, "skipped": 1, "errors": 2,
        "last_error": null, "last_seen": "2026-11-21T10:00:00.123Z", "vendor": "Maker", "product": null,
        "revision": null, "points": [point]});
    let bridge = json!({"name": "cloud \"A\"", "url": "mqtts://cloud.example.com:8883", "state": "connecting",
        "since": "2026-11-21T10:00:00.123Z", "queued_messages": 3, "queued_bytes": 300, "buffer_bytes_max": 1000,
        "inflight": 1, "forwarded": 5, "received": 6, "sent_bytes": 1210, "received_bytes": 70,
        "sent_messages": 12, "sent_bytes_per_message": 100.8, "dropped_full": 7, "dropped_aged": 8, "dropped_expired": 9,
        "refused": 10, "dead_letters": 12, "dead_letter_bytes": 1200, "died": {"not_authorized": 10},
        "dropped": {"aged": {"messages": 8, "bytes": 800}},
        "rules": [{"topic": "a/#", "queued_messages": 2, "queued_bytes": 200, "bytes_max": 500,
            "dropped": {"aged": {"messages": 4, "bytes": 400}}}], "possible_duplicates": 11,
        "degraded": ["the server retains nothing"], "last_error": "refused"});
    let client = |client_id: &str, user: Option<&str>| {
        json!({"client_id": client_id, "user": user, "address": "192.168.1.7", "protocol": "5",
            "connected_since": "2026-11-21T10:00:00.123Z", "durable": true, "subscriptions": 3, "queued_messages": 2,
            "queued_bytes": 20})
    };
    let cases = [
        ("/api/v1/devices", json!([device])),
        ("/api/v1/devices/main-meter", device.clone()),
        ("/api/v1/devices/main-meter/points/voltage%20L1", point.clone()),
        ("/api/v1/bridges", json!([bridge])),
        ("/api/v1/clients", json!([client("hmi", None), client("scada", Some("ann"))])),
        ("/api/v1/clients?max=1", json!([client("hmi", None)])),
        ("/api/v1/config", json!({"gateway": {"id": "plant-7"}})),
    ];
    for (path, expected) in cases {
        assert_eq!(served.get(path).await.json(), expected, "{path}");
    }
    let status = served.get("/api/v1/status").await.json();
    let share = json!({"port": "rs485-a", "address": "127.0.0.1:1502", "cache_seconds": 1.0, "writes": false,
        "connections": 2, "connections_refused": 0, "waiting": 1, "requests": {"answered": 8, "cached": 5}});
    assert_eq!(status["shares"], json!([share]));
    assert_eq!(status["started"], "2026-11-21T10:00:00.123Z");
    assert_eq!((&status["bridges"][0], &status["devices"][0]), (&bridge, &device));
    let names: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "gateway",
        "version",
        "started",
        "uptime_seconds",
        "clock_synchronised",
        "ready",
        "reason",
        "broker",
        "bridges",
    ]
    .into_iter()
    .chain(["devices", "reload", "shares", "store", "process"])
    .collect::<Vec<_>>();
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn readiness_comes_with_its_reason() {
    let served = serve(Limits::default()).await;
    served.plant.ready.store(false, Ordering::Relaxed);
    let ready = served.get("/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "the disk is full\n"));
    assert_eq!(served.get("/healthz").await.status, 200);
    served.plant.ready.store(true, Ordering::Relaxed);
    assert_eq!(served.get("/readyz").await.status, 200);
    served.plant.hangs.store(true, Ordering::Relaxed);
    for path in ["/healthz", "/readyz"] {
        let told = served.get(path).await;
        assert_eq!((told.status, told.body.as_str()), (503, "hangs: lan-0 for 31 s\n"), "{path}");
    }
}

#[tokio::test]
async fn only_this_machine_is_spoken_to() {
    let served = serve(Limits::default()).await;
    let cases = [
        ("GET / HTTP/1.1\r\nHost: localhost:8080\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n", 200),
        ("GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: localhost.evil.example:80\r\n", 403),
        ("GET / HTTP/1.1\r\n", 403),
        ("GET / HTTP/1.0\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 403),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n", 403),
        ("GET /nothing HTTP/1.1\r\nHost: evil.example\r\n", 403),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n", 413),
    ];
    for (head, status) in cases {
        let answer = served.ask(&format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{head}");
        assert_sane(&answer, head);
    }
}

/// A browser of this machine whose user has opened somebody else's page.
#[tokio::test]
async fn pages_of_others_change_nothing_here() {
    let served = serve(Limits::default()).await;
    let cases = [
        ("Host: localhost\r\n", 200),
        ("Host: localhost\r\nOrigin: http://localhost\r\n", 200),
        ("Host: localhost:8080\r\nOrigin: http://localhost:8080\r\nSec-Fetch-Site: same-origin\r\n", 200),
        // Another site, also one on another port of this machine.
        ("Host: localhost\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: localhost:8080\r\nOrigin: http://localhost:3000\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("Host: localhost\r\nSec-Fetch-Site: same-site\r\n", 403),
        // A name of theirs that leads here (DNS rebinding): to the browser it is one site.
        (
            "Host: evil.example:8080\r\nOrigin: http://evil.example:8080\r\nSec-Fetch-Site: same-origin\r\n",
            403,
        ),
    ];
    for (fields, status) in cases {
        let request = format!(
            "PUT /api/v1/devices/main-meter/points/voltage%20L1 HTTP/1.1\r\n{fields}Connection: close\r\nContent-Length: 11\r\n\r\n{{\"value\":7}}"
        );
        let answer = served.ask(&request).await;
        assert_eq!(answer.status, status, "{fields}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{fields}");
    }
    // A page that asks before it writes (CORS) is told nothing, and reads nothing by a name of its own.
    let preflight = "OPTIONS /api/v1/config HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\
        Access-Control-Request-Method: PUT\r\nConnection: close\r\n\r\n";
    let answer = served.ask(preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (405, None));
    for path in ["/api/v1/config", "/api/v1/events", "/metrics", "/healthz"] {
        let rebound = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        assert_eq!(served.ask(&rebound).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn what_came_of_a_write_is_told_by_its_status() {
    let served = serve(Limits::default()).await;
    let voltage = "main-meter/points/voltage%20L1";
    let cases = [
        (voltage, r#"{"value":7}"#, 200, json!({"value": 7, "ok": true})),
        (voltage, r#"{"value":8}"#, 422, json!({"ok": false, "error": "too much"})),
        (voltage, r#"{"value":9}"#, 504, json!({"ok": false, "error": "no answer"})),
        (voltage, r#"{"value":1}"#, 503, json!({"ok": false, "error": "too many"})),
        (voltage, "7", 400, json!(null)),
        (voltage, r#"{"value":7,"more":1}"#, 400, json!(null)),
        ("main-meter/points/fixed", r#"{"value":7}"#, 405, json!(null)),
        ("main-meter/points/stubborn", r#"{"value":7}"#, 502, json!(null)),
        ("main-meter/points/x", r#"{"value":7}"#, 404, json!(null)),
        ("boiler/points/x", r#"{"value":7}"#, 404, json!(null)),
    ];
    for (path, body, status, expected) in cases {
        let head = format!("PUT /api/v1/devices/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = served.ask(&request).await;
        assert_eq!(answer.status, status, "{path} {body}");
        let told: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(expected.is_null() && told["error"].is_string() || told == expected, "{told}");
        assert_sane(&answer, path);
    }
    // One that does not say how long it is has the same bound.
    let head = format!("PUT /api/v1/devices/{voltage} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let long =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n11170\r\n{}\r\n0\r\n\r\n", " ".repeat(70_000));
    assert_eq!(served.ask(&long).await.status, 413);
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", Base64::encode_string(format!("{user}:{password}").as_bytes()))
}

#[tokio::test]
async fn who_has_the_password_may_look_from_anywhere() {
    // One that is cheap to check.
    let hash =
        "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
    let login = Login::new("ann".into(), PasswordHash::parse(hash).unwrap(), Clock::start()).unwrap();
    let served = serve_to(Gate::User(login), Limits::default()).await;
    let (right, wrong, nobody) = (basic("ann", "secret"), basic("ann", "Secret"), basic("bob", "secret"));
    let here = "Host: plant-7.local:8080\r\n";
    let point = "PUT /api/v1/devices/main-meter/points/voltage%20L1";
    let cases = [
        ("GET /", String::new(), 401),
        ("GET /metrics", wrong, 401),
        ("GET /metrics", nobody, 401),
        ("GET /nothing", String::new(), 401),
        ("GET /healthz", String::new(), 200),
        ("GET /", right.clone(), 200),
        ("GET /api/v1/status", right.clone(), 200),
        (point, right.clone(), 400),
        (point, format!("{right}Origin: https://plant-7.local:8080\r\nSec-Fetch-Site: same-origin\r\n"), 400),
        (point, format!("{right}Origin: https://evil.example\r\n"), 403),
        (point, format!("{right}Origin: null\r\n"), 403),
        (point, format!("{right}Sec-Fetch-Site: cross-site\r\n"), 403),
        (point, String::new(), 401),
    ];
    for (line, fields, status) in cases {
        let request = format!("{line} HTTP/1.1\r\n{here}{fields}Connection: close\r\n\r\n");
        let answer = served.ask(&request).await;
        assert_eq!(answer.status, status, "{request}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            challenge.is_some_and(|text| text.starts_with("Basic realm=")),
            status == 401,
            "{request}"
        );
        assert_sane(&answer, line);
    }
    let two = format!("GET / HTTP/1.1\r\n{here}{here}{right}Connection: close\r\n\r\n");
    assert_eq!(served.ask(&two).await.status, 403);
}

#[tokio::test]
async fn a_listener_that_others_reach_is_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let plant = Arc::new(Plant {
        ready: AtomicBool::new(true),
        hangs: AtomicBool::default(),
        events: broadcast::Sender::new(EVENTS_MAX),
    });
    let entrance = Entrance { listener: Arc::new(listener), acceptor: Arc::default() };
    let error = web::serve(entrance, plant, Gate::ThisMachine, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn events_are_streamed_and_slow_readers_are_told() {
    let served = serve(Limits::default()).await;
    let mut stream = served.send("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let hello = read_until(&mut stream, "event: hello").await;
    assert!(hello.contains("text/event-stream") && hello.contains("nosniff"), "{hello}");
    let reading = Event::Reading {
        device: "main-meter".into(),
        point: "voltage".into(),
        topic: None,
        value: json!(230.4),
        unit: Some("V".into()),
        quality: Quality::Good,
        error: None,
        time: TIME,
    };
    served.plant.events.send(reading).unwrap();
    let text = read_until(&mut stream, "\n\n").await;
    assert!(text.contains("event: reading\n"), "{text}");
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let expected = json!({"kind": "reading", "device": "main-meter", "point": "voltage", "topic": null, "value": 230.4,
        "unit": "V", "quality": "good", "error": null, "time": "2026-11-21T10:00:00.123Z"});
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), expected);

    // One thread: the stream's task cannot read while these are sent.
    for _ in 0..EVENTS_MAX + 3 {
        let subject = Subject::Device { device: "main-meter".into(), state: DeviceState::Offline };
        served.plant.events.send(Event::State { subject, reason: None, time: TIME }).unwrap();
    }
    let text = read_until(&mut stream, "event: state").await;
    assert!(text.contains("event: lost\ndata: {\"events\":3}\n"), "{text}");
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let served = serve(Limits { streams_max: 1, ..Limits::default() }).await;
    let events = "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = served.send(events).await;
    read_until(&mut first, "event: hello").await;
    let answer = served.get("/api/v1/events").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"], "too many event streams are open");
    drop(first);
    // The place is free once the server has seen the end.
    let again = timeout(PATIENCE, async {
        loop {
            let mut stream = served.send(events).await;
            if !read_until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 503") {
                return stream;
            }
        }
    });
    let mut again = again.await.expect("a free place");
    served.cancel.cancel();
    let mut rest = Vec::new();
    timeout(PATIENCE, again.read_to_end(&mut rest)).await.expect("an end").unwrap();
    timeout(PATIENCE, served.task).await.expect("an end").unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "still listening");
}

#[tokio::test]
async fn slow_and_large_requests_are_cut_off() {
    let limits = Limits { header_time_max: Duration::from_millis(50), ..Limits::default() };
    let served = serve(limits).await;
    for start in ["", "GET / HTTP/1.1\r\nHost: loc", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut stream = served.send(start).await;
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "kept after {start:?}");
    }
    let served = serve(Limits::default()).await;
    let padding = "a".repeat(40_000);
    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Padding: {padding}\r\n\r\n");
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Padding: 1\r\n".repeat(100));
    for request in [large, many] {
        let mut stream = served.send(&request).await;
        let text = read_until(&mut stream, "\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_and_old_ones_end() {
    let limits =
        Limits { connections_max: 1, connection_time_max: Duration::from_millis(100), ..Limits::default() };
    let served = serve(limits).await;
    let mut first = served.send("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    read_until(&mut first, "event: hello").await;
    // The second has its place when the first one's time is over.
    assert_eq!(served.get("/healthz").await.status, 200);
    let mut rest = Vec::new();
    // It is cut in the middle of its stream, which may be a reset.
    let _ = timeout(PATIENCE, first.read_to_end(&mut rest)).await.expect("an end");
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let served = serve(Limits::default()).await;
    let text = served.get("/metrics").await.body;
    assert!(text.ends_with("\n# EOF\n"));
    let (mut family, mut kind, mut has_help) = (String::new(), String::new(), false);
    let mut families = Vec::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a help text");
            assert!(name.starts_with("tidegate_") && !words.is_empty(), "{line}");
            (family, has_help) = (name.into(), true);
            assert!(!families.contains(&family), "{family} comes twice");
            families.push(family.clone());
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, what) = typed.split_once(' ').expect("a type");
            assert!(has_help && name == family, "{line}");
            kind = what.into();
        } else {
            assert_sample(line, &family, &kind);
        }
    }
    let expected = [
        "tidegate_build_info{version=\"1.2.3\"} 1",
        "tidegate_broker_messages_received_total 41",
        "tidegate_broker_messages_dropped_total{reason=\"queue_full\"} 5",
        "tidegate_broker_messages_dropped_total{reason=\"other\"} 3",
        "tidegate_broker_connections_refused_total{reason=\"login\"} 3",
        "tidegate_broker_connections_refused_total{reason=\"tls\"} 0",
        "tidegate_bridge_up{bridge=\"cloud \\\"A\\\"\"} 0",
        "tidegate_bridge_messages_dropped_total{bridge=\"cloud \\\"A\\\"\",reason=\"aged\"} 8",
        "tidegate_bridge_dropped_bytes_total{bridge=\"cloud \\\"A\\\"\",reason=\"aged\"} 800",
        "tidegate_bridge_rule_messages_dropped_total{bridge=\"cloud \\\"A\\\"\",rule=\"0\",topic=\"a/#\"} 4",
        "tidegate_device_errors_total{device=\"main-meter\"} 2",
        "tidegate_device_last_seen_timestamp_seconds{device=\"main-meter\"} 1795255200.123",
        "tidegate_share_connections{port=\"rs485-a\"} 2",
        "tidegate_share_requests_total{port=\"rs485-a\",outcome=\"cached\"} 5",
        "tidegate_process_cpu_seconds_total 1.25",
    ];
    for line in expected {
        assert!(text.lines().any(|known| known == line), "no {line} in\n{text}");
    }
}

/// `NAME{label="value",…} NUMBER`
fn assert_sample(line: &str, family: &str, kind: &str) {
    let (series, number) = line.rsplit_once(' ').expect("a value");
    assert!(number.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
    let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| (name, labels));
    let suffix = match kind {
        "counter" => "_total",
        "info" => "_info",
        "gauge" => "",
        _ => panic!("{kind} is no type of ours: {line}"),
    };
    assert_eq!(name, format!("{family}{suffix}"), "{line}");
    assert!(kind == "counter" || !name.ends_with("_total"), "{line}");
    let mut rest = labels.trim_end_matches('}');
    assert_eq!(labels.is_empty(), !series.ends_with('}'), "{line}");
    while !rest.is_empty() {
        let (label, behind) = rest.split_once("=\"").expect("a label");
        assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        let mut is_escaped = false;
        let end = behind.find(|c: char| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        rest = behind[end.expect("a closing quote") + 1..].trim_start_matches(',');
    }
}
