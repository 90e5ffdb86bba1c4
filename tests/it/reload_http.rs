//! Reloads of the dashboard: where it is, who may look, over what. Its port is taken before anything is applied, and who
//! looks at one that did not change does not notice.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use serde_json::Value;
use tidegate::config::model::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::version::TLS13;

use crate::cloud::authority::Authority;
use crate::gateway::client::{Client, PATIENCE, config, connect, start, until};
use crate::http::ask;
use crate::reload_live::{Units, device, load, until_online};
use crate::transports::client::{tcp, tls, tls_config};

/// Of `secret`, and of `pass word`.
const SECRET: &str =
    "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
const PASS_WORD: &str = "$6$AOAiZ42r7mtIJWMw$ReDysK1xZsVXylX0EtE7UOumhmK2cIs7gzjV+OfIbFAtDVhF1RcUqcMqjj36Zsb+Z9h+N5R4K+yxAmrYQpSvuw==";

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn with(folder: &Path, listener: &str, rest: &str) -> Arc<Config> {
    config(
        folder,
        &format!("broker: {{ listeners: [{{ address: \"{listener}\" }}], sys_interval: 0s }}\n{rest}"),
    )
}

/// `more`: what stands there besides the address.
fn http(folder: &Path, address: impl std::fmt::Display, more: &str) -> Arc<Config> {
    with(folder, "127.0.0.1:0", &format!("http: {{ address: \"{address}\"{more} }}"))
}

fn login(user: &str, hash: &str) -> String {
    format!(", username: {user}, password_hash: '{hash}'")
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", Base64::encode_string(format!("{user}:{password}").as_bytes()))
}

fn refuses(address: SocketAddr) -> bool {
    std::net::TcpStream::connect(address).is_err()
}

/// What the last reload came to.
async fn last_reload(address: SocketAddr, fields: &str) -> Value {
    let (status, body) = ask(tcp(address).await, "/api/v1/status", fields).await;
    assert_eq!(status, 200);
    body["reload"].clone()
}

/// A stream of events that has begun.
struct Events(TcpStream);

impl Events {
    async fn open(address: SocketAddr, fields: &str) -> Events {
        let mut stream = tcp(address).await;
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Events(stream);
        assert!(events.until("event: hello").await.starts_with("HTTP/1.1 200"));
        events
    }

    /// What comes, to these words. Fails if it ends before.
    async fn until(&mut self, words: &str) -> String {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !text.contains(words) {
            let count = timeout(PATIENCE, self.0.read(&mut bytes)).await.expect("more").unwrap();
            assert!(count > 0, "it ended without {words}: {text}");
            let _ = write!(text, "{}", String::from_utf8_lossy(&bytes[..count]));
        }
        text
    }

    /// It is ended, and in good order.
    async fn end(mut self) {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("an end").unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test]
async fn it_moves_once_the_other_port_is_had() {
    let folder = tempfile::tempdir().unwrap();
    let (first, taken) = (free(), TcpListener::bind("127.0.0.1:0").unwrap());
    let second = taken.local_addr().unwrap();
    let gateway = start(http(folder.path(), first, ""));
    let events = Events::open(first, "").await;
    let both = format!("http: {{ address: \"{second}\" }}\nlog: {{ level: warn }}");
    load(&gateway, &with(folder.path(), "127.0.0.1:0", &both)).await;
    assert_eq!(*gateway.config(), *http(folder.path(), first, ""), "nothing of it was applied");
    let told = last_reload(first, "").await;
    let fault = format!(
        "cannot serve the dashboard on {second}: address in use (another program has this port: `ss -ltnp` names it)"
    );
    assert_eq!((&told["ok"], &told["faults"]), (&false.into(), &serde_json::json!([fault])));

    drop(taken);
    load(&gateway, &with(folder.path(), "127.0.0.1:0", &both)).await;
    events.end().await;
    assert!(refuses(first));
    let told = last_reload(second, "").await;
    assert_eq!(told["changed"], "log.level, http.address; unchanged: 0 devices, 0 bridges");
    // The same port on all addresses, in the place of the one that has it.
    let all = format!("0.0.0.0:{}", second.port());
    load(&gateway, &http(folder.path(), &all, &login("ann", SECRET))).await;
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], second.port()));
    assert_eq!(ask(tcp(elsewhere).await, "/api/v1/status", "").await.0, 401);
    assert_eq!(last_reload(elsewhere, &basic("ann", "secret")).await["ok"], true);
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn it_goes_and_comes() {
    let folder = tempfile::tempdir().unwrap();
    let address = free();
    let without = with(folder.path(), "127.0.0.1:0", "");
    let gateway = start(without.clone());
    assert!(refuses(address));
    for _ in 0..3 {
        load(&gateway, &http(folder.path(), address, "")).await;
        let told = last_reload(address, "").await;
        assert_eq!(told["changed"], "+http; unchanged: 0 devices, 0 bridges");
        let events = Events::open(address, "").await;
        load(&gateway, &without).await;
        events.end().await;
        assert!(refuses(address));
    }
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn another_password_counts_for_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let address = free();
    let gateway = start(http(folder.path(), address, &login("ann", SECRET)));
    let [old, new] = [basic("ann", "secret"), basic("bob", "pass word")];
    let status = async |fields: &str| ask(tcp(address).await, "/api/v1/status", fields).await.0;
    assert_eq!([status(&old).await, status(&new).await, status("").await], [200, 401, 401]);
    // A connection that stays, and a stream: both came in by the old one.
    let mut stays = tcp(address).await;
    let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n{old}\r\n");
    stays.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = vec![0; 1 << 16];
    let count = timeout(PATIENCE, stays.read(&mut bytes)).await.unwrap().unwrap();
    assert!(bytes[..count].starts_with(b"HTTP/1.1 200"));
    let events = Events::open(address, &old).await;

    load(&gateway, &http(folder.path(), address, &login("bob", PASS_WORD))).await;
    events.end().await;
    // Nobody is served there by the old one: whether the end is met before or after the request.
    let _ = stays.write_all(request.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stays.read_to_end(&mut rest)).await.expect("an end");
    assert!(!rest.windows(12).any(|bytes| bytes == b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!([status(&old).await, status(&new).await, status("").await], [401, 200, 401]);
    let told = last_reload(address, &new).await;
    assert_eq!(told["changed"], "http.username, http.password_hash; unchanged: 0 devices, 0 bridges");
    // Open to this machine, and closed again.
    load(&gateway, &http(folder.path(), address, "")).await;
    assert_eq!(status("").await, 200);
    load(&gateway, &http(folder.path(), address, &login("bob", PASS_WORD))).await;
    assert_eq!(status("").await, 401);
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn certificates_come_go_and_are_renewed_under_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(folder.path(), "first"), Authority::new(folder.path(), "second"));
    first.issue("server", "localhost");
    let address = free();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let files =
        format!("tls: {{ certificate: {}, private_key: {} }}", file("server.crt"), file("server.key"));
    let broker = free();
    let of = |http: &str| {
        let rest = format!("http: {{ address: \"{address}\"{http} }}");
        let text = format!(
            "broker: {{ listeners: [{{ address: \"{broker}\", {files} }}], sys_interval: 0s }}\n{rest}"
        );
        config(folder.path(), &text)
    };
    let gateway = start(of(""));
    assert_eq!(ask(tcp(address).await, "/readyz", "").await.0, 200);
    load(&gateway, &of(&format!(", {files}"))).await;
    let trusting = |authority: &Authority| tls_config(&authority.ca, &[&TLS13], None);
    let stands = tls(address, trusting(&first)).await.unwrap();
    assert_eq!(ask(stands, "/readyz", "").await.0, 200);
    let mut stays = tls(broker, trusting(&first)).await.unwrap();

    // As a renewal does it: nothing in the configuration changes. Both show it at once, and who is here stays.
    second.issue("server", "localhost");
    load(&gateway, &of(&format!(", {files}"))).await;
    for at in [address, broker] {
        assert!(tls(at, trusting(&first)).await.is_err());
        assert!(tls(at, trusting(&second)).await.is_ok());
    }
    crate::transports::client::converse(&mut stays).await;
    // And without them again: what nobody needs any more may be gone.
    for name in ["server.crt", "server.key"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let plain = with(folder.path(), &broker.to_string(), &format!("http: {{ address: \"{address}\" }}"));
    load(&gateway, &plain).await;
    assert_eq!(ask(tcp(address).await, "/readyz", "").await.0, 200);
    let told = last_reload(address, "").await;
    assert_eq!(told["changed"], "broker.listeners, http.tls; unchanged: 0 devices, 0 bridges");
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn who_looks_does_not_notice_what_others_change() {
    let folder = tempfile::tempdir().unwrap();
    let units = Units::serve(&[1, 2]).await;
    let address = free();
    let of = |more: &str| {
        let devices = device("stays", units.address, 1, "");
        with(
            folder.path(),
            "127.0.0.1:0",
            &format!("http: {{ address: \"{address}\" }}\ndevices:\n{devices}{more}"),
        )
    };
    let gateway = start(of(""));
    until_online(&gateway, "stays").await;
    let mut events = Events::open(address, "").await;
    events.until("\"device\":\"stays\"").await;
    load(&gateway, &of(&device("more", units.address, 2, ""))).await;
    events.until("\"device\":\"more\"").await;
    load(&gateway, &of("")).await;
    events.until("\"device\":\"stays\"").await;
    let told = last_reload(address, "").await;
    assert_eq!(told["changed"], "devices -more; unchanged: 1 device, 0 bridges");
    load(&gateway, &of("")).await;
    let told = last_reload(address, "").await;
    assert_eq!(told["changed"], "nothing changed; unchanged: 1 device, 0 bridges");
    gateway.stop().await.unwrap();
}

#[tokio::test]
async fn the_flash_budget_counts_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let address = free();
    let gateway = start(http(folder.path(), address, ""));
    let budget = async || {
        let (_, status) = ask(tcp(address).await, "/api/v1/status", "").await;
        status["store"]["flash"]["budget_bytes"].clone()
    };
    assert_eq!(budget().await, Value::Null);
    for bytes in [Some(500 << 20), Some(7 << 20), None] {
        let mut other = Config::clone(&gateway.config());
        other.gateway.flash_budget_bytes = bytes;
        load(&gateway, &Arc::new(other)).await;
        assert_eq!(budget().await, serde_json::json!(bytes));
        let told = last_reload(address, "").await;
        assert_eq!(told["changed"], "gateway.flash_budget; unchanged: 0 devices, 0 bridges");
    }
    gateway.stop().await.unwrap();
}

/// Broker and dashboard, each at the port that the other had.
#[tokio::test]
async fn ports_may_change_hands() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (free(), free());
    let of = |broker: SocketAddr, http: SocketAddr| {
        with(folder.path(), &broker.to_string(), &format!("http: {{ address: \"{http}\" }}"))
    };
    let gateway = start(of(one, two));
    let mut stays = Client::connect(one, connect("stays", tidegate::mqtt::packet::Version::V5)).await;
    for (broker, http) in [(two, one), (one, two), (two, one)] {
        load(&gateway, &of(broker, http)).await;
        assert_eq!(last_reload(http, "").await["ok"], true);
        let connect = connect("comes", tidegate::mqtt::packet::Version::V5);
        Client::connect(broker, connect).await.part().await;
        stays.ping().await;
    }
    gateway.stop().await.unwrap();
}

/// Whoever asks while the dashboard begins anew is answered, or finds the connection closed: nothing waits for ever.
#[tokio::test]
async fn requests_on_the_way_are_answered_or_closed() {
    let folder = tempfile::tempdir().unwrap();
    let address = free();
    let configs = [http(folder.path(), address, ""), http(folder.path(), address, &login("ann", SECRET))];
    let gateway = start(configs[0].clone());
    let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = done.clone();
    let asking = tokio::spawn(async move {
        loop {
            let mut stream = tcp(address).await;
            let _ = stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await;
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
            count.fetch_add(usize::from(!answer.is_empty()), std::sync::atomic::Ordering::Relaxed);
        }
    });
    for round in 0..20 {
        load(&gateway, &configs[(round + 1) % 2]).await;
        let before = done.load(std::sync::atomic::Ordering::Relaxed);
        until("it is answered", || done.load(std::sync::atomic::Ordering::Relaxed) > before + 1).await;
    }
    asking.abort();
    gateway.stop().await.unwrap();
}
