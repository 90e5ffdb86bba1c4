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
