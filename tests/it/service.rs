//! What systemd is told by the real process: its status, its reloads, and who hangs. `tests/systemd` has the same under a
//! systemd that acts on it.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::gateway::client::PATIENCE;
use crate::process::Process;

/// A port that nobody listens at.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A dashboard, a device and a cloud; neither of the two is there.
fn sections(http: SocketAddr) -> String {
    let (device, cloud) = (free_address(), free_address());
    format!(
        "http: {{ address: \"{http}\" }}\n\
         devices:\n  meter:\n    modbus: {{ tcp: \"{device}\", unit: 1 }}\n    poll: 100ms\n    timeout: 100ms\n    \
         reconnect: {{ min: 100ms, max: 100ms }}\n    points: {{ voltage: {{ input: 0 }} }}\n\
         bridges:\n  cloud:\n    url: mqtt://{cloud}\n    reconnect: {{ min: 100ms, max: 100ms }}\n    \
         forward: [{{ topic: \"#\" }}]\n"
    )
}

/// The whole answer.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_status_is_kept_true_and_told_where_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &sections(free_address()));
    let told = process.until_notified("1 offline");
    assert!(told.starts_with("STATUS=1 device, 1 offline; cloud: "), "{told}");
    process.hang_up();
    let told = process.until_notified("RELOADING=1");
    assert!(told.contains("\nMONOTONIC_USEC=") && told.contains("\nSTATUS=reading"), "{told}");
    let told = process.until_notified("READY=1");
    assert!(told.contains("STATUS=1 device"), "{told}");
    process.stop();
}

/// Each part in a process of its own, all at once. Whatever hangs, the log and the status name it, and the watchdog is not
/// fed from then on.
#[test]
fn whoever_hangs_is_named_and_the_watchdog_is_not_fed() {
    let parts = ["lan-0", "door", "writer", "clock", "link:cloud", "line", "web", "vitals"];
    std::thread::scope(|scope| {
        for part in parts {
            scope.spawn(move || hang(part));
        }
    });
}

fn hang(part: &str) {
    let folder = tempfile::tempdir().unwrap();
    let http = free_address();
    let sections = sections(http);
    let device = sections.split("tcp: \"").nth(1).unwrap().split('"').next().unwrap();
    let part = if part == "line" { format!("line:{device}") } else { part.to_owned() };
    // Long enough for a start beside seven others; the part hangs a second after it.
    let environment = [("TIDEGATE_DEBUG_HANG", format!("{part}:1")), ("WATCHDOG_USEC", "2000000".to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let process = Process::start_with(folder.path(), &sections, &environment);
    // Somebody has to come for a part that waits to have a turn.
    let start = Instant::now();
    let error = loop {
        let _ = TcpStream::connect(process.address);
        let _ = TcpStream::connect(http);
        let named = format!("part={part} ");
        if let Some(line) = process.log().lines().find(|line| line.contains(&named)) {
            break line.to_owned();
        }
        assert!(start.elapsed() < PATIENCE, "{part}: {}", process.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(error.contains("ERROR") && error.contains("a part hangs"), "{error}");
    let told = process.until_notified("hangs: ");
    assert!(told.starts_with("STATUS=hangs: "), "{told}");
    if part == "lan-0" {
        // It alone hangs: the rest goes on, and says so.
        let answer = get(http, "/healthz");
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("hangs: lan-0 for "), "{answer}");
    }
    // Of what was told since, nothing feeds it. Too early to see is no failure.
    let fed = process.words().into_iter().filter(|told| told.starts_with("WATCHDOG=1")).count();
    assert_eq!(fed, 0, "{part}");
}

/// Whatever fails, at the most talkative level: no line of the log holds a password, a token or a key.
#[test]
fn no_secret_is_ever_logged() {
    let folder = tempfile::tempdir().unwrap();
    let http = free_address();
    let [mqtt, socks, proxied] = [free_address(), free_address(), free_address()];
    // Known to the gateway, in each place that takes one; what clients send is with them.
    let hmac = "bm90LWEtcmVhbC1rZXktYnV0LWxvbmctZW5vdWdoLWZvci1vbmU=";
    let credentials = folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("cloud"), "secret-of-credential\n").unwrap();
    std::fs::write(folder.path().join("key"), "secret-of-tokens-which-is-long-enough").unwrap();
    let hash =
        "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
    std::fs::write(folder.path().join("passwords"), format!("ann:{hash}\n")).unwrap();
    let cloud = fake_cloud();
    let yaml = format!(
        "  authentication: {{ anonymous: never, password_file: passwords, jwt: {{ algorithm: HS256, key: key }} }}\n\
         http: {{ address: \"{http}\", username: admin, password_hash: \"{hash}\" }}\n\
         bridges:\n  \
         plain: {{ url: \"mqtt://{mqtt}\", username: me, password: \"${{credential:cloud}}\", forward: [{{ topic: \"#\" }}] }}\n  \
         refused: {{ url: \"mqtt://{cloud}\", username: me, password: secret-of-refused, forward: [{{ topic: \"#\" }}] }}\n  \
         tls: {{ url: \"mqtts://{cloud}\", username: me, password: \"${{SECRET_OF_TLS}}\", forward: [{{ topic: \"#\" }}] }}\n  \
         web: {{ url: \"ws://{cloud}/mqtt?token=secret-of-query\", username: me, password: secret-of-web, forward: [{{ topic: \"#\" }}] }}\n  \
         proxied: {{ url: \"mqtt://{proxied}\", proxy: \"http://me:secret-of-proxy@{cloud}\", forward: [{{ topic: \"#\" }}] }}\n  \
         socks: {{ url: \"mqtt://{proxied}\", client_id: socks, proxy: \"socks5://me:secret-of-socks@{socks}\", forward: [{{ topic: \"#\" }}] }}\n  \
         azure: {{ url: \"mqtts://{cloud}\", provider: azure-iot-hub, client_id: dev, password: \"{hmac}\", forward: [{{ topic: \"#\", to: \"devices/dev/messages/events/\" }}] }}\n"
    );
    let environment = [
        ("SECRET_OF_TLS", "secret-of-environment"),
        ("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap()),
    ];
    let process = Process::start_talkative(folder.path(), &yaml, &environment);
    for bridge in ["plain", "refused", "tls", "web", "proxied", "socks", "azure"] {
        process.until_logged(&format!("bridge={bridge} reason="));
    }
    // Logins that fail: a password, a token, and the dashboard's.
    for (user, password) in
        [("ann", "secret-of-ann"), ("", "eyJhbGciOiJIUzI1NiJ9.secret-of-token.c2lnbmF0dXJl")]
    {
        let mut stream = TcpStream::connect(process.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&connect_packet(user, password)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.first(), Some(&0x20), "no CONNACK for {user:?}");
    }
    let mut stream = TcpStream::connect(http).unwrap();
    // `admin:secret-of-admin`
    let login = "YWRtaW46c2VjcmV0LW9mLWFkbWlu";
    write!(stream, "GET /api/v1/config?key=secret-of-address HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    process.hang_up();
    process.until_logged("reloaded: ");
    // A reload of what is faulty may quote what it read.
    process.write("  authentication: { anonymous: never, password_file: secret-file }\nbridges: { a: { url: \"mqtt://u:secret-of-url@h\", password: [secret-in-list] } }");
    process.hang_up();
    process.until_logged("everything stays as it was");
    let log = process.log();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "not talkative");
    let base64 = "c2VjcmV0LW9m";
    let found = log.lines().filter(|line| {
        line.contains("secret-of")
            || line.contains("secret-in")
            || line.contains(base64)
            || line.contains(hmac)
            || line.contains(login)
            || line.contains("b+AoQQgrexWdHzM")
    });
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Takes connections and ends each of them after what came first, with an answer that nobody wants.
fn fake_cloud() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap_or(0);
            let answer: &[u8] = match bytes.get(..read) {
                // CONNACK: not authorised.
                Some([0x10, ..]) => &[0x20, 3, 0, 0x87, 0],
                _ => b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
            };
            let _ = stream.write_all(answer);
        }
    });
    address
}

/// CONNECT of 3.1.1.
fn connect_packet(user: &str, password: &str) -> Vec<u8> {
    let text = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let body = [text("MQTT"), vec![4, 0xC2, 0, 60], text("probe"), text(user), text(password)].concat();
    assert!(body.len() < 128);
    [vec![0x10, u8::try_from(body.len()).unwrap()], body].concat()
}
