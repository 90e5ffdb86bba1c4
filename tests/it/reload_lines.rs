//! Reloads of serial lines over ptys: speeds, instruments and shares come, go and change, and what is on a line of its own
//! goes on. Never judges by the time that anything took.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tidegate::app::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_serial::{SerialPort as _, SerialStream};

use crate::bus::pty;
use crate::gateway::client::{start, until};
use crate::reload_live::{Ear, load, on_loopback, status, until_online};
use crate::share::{Master, Seen, read, units, words};

/// A port and what is at its other end. The near end stays open, so that it lives while nobody has it open.
struct Line {
    near: SerialStream,
    path: PathBuf,
}

impl Line {
    /// An instrument that answers `P` with the number of its answer.
    fn answering() -> (Line, Arc<AtomicU64>) {
        let (mut far, near, path) = pty();
        let answers = Arc::new(AtomicU64::new(0));
        let count = answers.clone();
        tokio::spawn(async move {
            let mut byte = [0];
            while far.read_exact(&mut byte).await.is_ok() {
                if byte == *b"P" {
                    let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                    if far.write_all(format!("{{\"n\":{number}}}\n").as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
        (Line { near, path }, answers)
    }
}

/// An instrument that talks by itself: 0 until it is heard, and then each number once.
struct Talker {
    stop: Arc<AtomicBool>,
    said: Arc<AtomicU64>,
    begun: Arc<AtomicBool>,
    line: Line,
}

impl Talker {
    fn start() -> Talker {
        let (mut far, near, path) = pty();
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let said = Arc::new(AtomicU64::new(0));
        let (stopped, begins, count) = (stop.clone(), begun.clone(), said.clone());
        tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if begins.load(Ordering::Relaxed) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let line = format!("{{\"n\":{}}}\n", count.load(Ordering::Relaxed));
                far.write_all(line.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Whoever still reads finds the port open.
            std::future::pending::<()>().await;
        });
        Talker { stop, said, begun, line: Line { near, path } }
    }
}

fn numbers(ear: &Ear, device: &str) -> Vec<u64> {
    let number = |text: &String| serde_json::from_str::<Value>(text).unwrap()["value"].as_u64();
    ear.of(&format!("devices/{device}/n")).iter().filter_map(number).collect()
}

async fn until_read(ear: &Ear, device: &str) {
    let before = numbers(ear, device).len();
    until(&format!("{device} is read"), || numbers(ear, device).len() >= before + 3).await;
}

fn instrument(name: &str, port: &str, more: &str) -> String {
    format!(
        "  {name}: {{ serial: {{ port: {port}, format: json{more} }}, publish: {{ heartbeat: 0s }}, points: {{ n: {{ field: n, type: u32 }} }} }}\n"
    )
}

const ASKED: &str = ", request: { send: \"P\\n\", every: 20ms }";

#[tokio::test]
async fn instruments_come_go_and_change_while_another_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (talker, (scale, asked), (other, other_asked)) =
        (Talker::start(), Line::answering(), Line::answering());
    let port =
        |name: &str, path: &PathBuf, more: &str| format!("  {name}: {{ path: {}{more} }}\n", path.display());
    let steady = (port("p-steady", &talker.line.path, ""), instrument("steady", "p-steady", ""));
    let scale_at = |speed: u32| {
        (
            port("p-scale", &scale.path, &format!(", baud_rate: {speed}")),
            instrument("scale", "p-scale", ASKED),
        )
    };
    // Before the others by name, so that their places move.
    let added = (port("a-port", &other.path, ""), instrument("added", "a-port", ASKED));
    let of = |parts: &[&(String, String)]| {
        let ports: String = parts.iter().map(|(port, _)| port.as_str()).collect();
        let devices: String = parts.iter().map(|(_, device)| device.as_str()).collect();
        on_loopback(dir.path(), &format!("ports:\n{ports}devices:\n{devices}"))
    };
    let gateway = start(of(&[&steady, &scale_at(9600)]));
    let ear = Ear::open(gateway.addresses()[0], "devices/+/+").await;
    until("it is heard", || numbers(&ear, "steady") == [0]).await;
    talker.begun.store(true, Ordering::Relaxed);
    until_read(&ear, "scale").await;
    assert_eq!(scale.near.baud_rate().unwrap(), 9600);

    load(&gateway, &of(&[&steady, &scale_at(19_200)])).await;
    until("it has the speed", || scale.near.baud_rate().unwrap() == 19_200).await;
    until_online(&gateway, "scale").await;
    until_read(&ear, "scale").await;
    until_read(&ear, "steady").await;
    for _ in 0..3 {
        load(&gateway, &of(&[&steady, &scale_at(19_200), &added])).await;
        until_online(&gateway, "added").await;
        until_read(&ear, "added").await;
        until_read(&ear, "steady").await;
        load(&gateway, &of(&[&steady, &scale_at(19_200)])).await;
        assert!(status(&gateway, "added").is_none());
        until("it says so", || ear.last("devices/added/status").as_deref() == Some("offline")).await;
        let answered = other_asked.load(Ordering::Relaxed);
        until_read(&ear, "steady").await;
        until_read(&ear, "scale").await;
        assert_eq!(other_asked.load(Ordering::Relaxed), answered, "nobody asks it any more");
    }
    assert_eq!(ear.of("devices/scale/status"), ["online", "offline", "online"], "one change of its port");
    assert!(asked.load(Ordering::Relaxed) > 0);
    talker.stop.store(true, Ordering::Relaxed);
    until("all is read", || numbers(&ear, "steady").last() == Some(&talker.said.load(Ordering::Relaxed)))
        .await;
    let all: Vec<u64> = (0..=talker.said.load(Ordering::Relaxed)).collect();
    assert_eq!(numbers(&ear, "steady"), all, "none was lost or doubled");
    assert_eq!(ear.of("devices/steady/status"), ["online"], "it never was away");
    gateway.stop().await.unwrap();
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Two lines, each with a unit 1 that the gateway polls.
struct Plant {
    dir: tempfile::TempDir,
    lines: [Line; 2],
    second: SocketAddr,
}

impl Plant {
    fn new() -> Plant {
        let line = || {
            let (far, near, path) = pty();
            tokio::spawn(units(far, Arc::new(Seen::default())));
            Line { near, path }
        };
        Plant { dir: tempfile::tempdir().unwrap(), lines: [line(), line()], second: free() }
    }

    /// `share` is what stands on the first line for it.
    fn config(&self, share: &str) -> Arc<tidegate::config::model::Config> {
        let [one, two] = [0, 1].map(|at| self.lines[at].path.display().to_string());
        let speed = "baud_rate: 115200";
        let device = |name: &str, port: &str| {
            format!(
                "  {name}: {{ modbus: {{ port: {port}, unit: 1 }}, poll: 20ms, points: {{ r: {{ holding: 7, type: u16 }} }} }}\n"
            )
        };
        let text = format!(
            "ports:\n  one: {{ path: {one}, {speed}{share} }}\n  \
             two: {{ path: {two}, {speed}, share: {{ address: \"{}\", cache: 0s }} }}\ndevices:\n{}{}",
            self.second,
            device("first", "one"),
            device("second", "two")
        );
        on_loopback(self.dir.path(), &text)
    }
}

fn share(address: &str, more: &str) -> String {
    format!(", share: {{ address: \"{address}\", cache: 0s{more} }}")
}

async fn reads_at(address: SocketAddr) -> Master {
    let mut master = Master::connect(address).await;
    assert_eq!(master.ask(1, &read(30, 2)).await, words(30, 2));
    master
}

async fn until_polled(gateway: &Gateway, device: &str) {
    until_online(gateway, device).await;
    let polls = status(gateway, device).unwrap().polls;
    until("polls go on", || status(gateway, device).is_some_and(|now| now.polls > polls)).await;
}

#[tokio::test]
async fn shares_come_go_and_move_while_another_master_reads_elsewhere() {
    let plant = Plant::new();
    let gateway = start(plant.config(""));
    let ear = Ear::open(gateway.addresses()[0], "devices/+/status").await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut elsewhere = reads_at(plant.second).await;
    let (stopped, count) = (stop.clone(), asked.clone());
    let reading = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(elsewhere.ask(1, &read(40, 3)).await, words(40, 3));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let goes_on = async || {
        let before = asked.load(Ordering::Relaxed);
        until("the other master reads", || asked.load(Ordering::Relaxed) > before + 3).await;
        until_polled(&gateway, "first").await;
        until_polled(&gateway, "second").await;
    };
    goes_on().await;
    let (here, there) = (free(), free());

    load(&gateway, &plant.config(&share(&here.to_string(), ""))).await;
    let mut master = reads_at(here).await;
    goes_on().await;
    // Another address: who reads at the old one is to come again.
    load(&gateway, &plant.config(&share(&there.to_string(), ""))).await;
    assert!(master.is_closed().await);
    assert!(TcpStream::connect(here).is_err(), "nobody listens there");
    let mut master = reads_at(there).await;
    assert_eq!(master.ask(1, &[6, 0, 40, 0, 7]).await[0], 0x86, "it may not write");
    goes_on().await;
    // The same port on all addresses, and writes.
    let all = format!("0.0.0.0:{}", there.port());
    load(&gateway, &plant.config(&share(&all, ", writes: true"))).await;
    assert_eq!(gateway.config().ports[0].share.unwrap().address.to_string(), all);
    let mut master = reads_at(SocketAddr::from(([127, 0, 0, 2], there.port()))).await;
    assert_eq!(master.ask(1, &[6, 0, 60, 0, 7]).await, [6, 0, 60, 0, 7]);
    goes_on().await;
    // A port that is taken: nothing changes.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    load(&gateway, &plant.config(&share(&taken.local_addr().unwrap().to_string(), ""))).await;
    assert_eq!(gateway.config().ports[0].share.unwrap().address.to_string(), all);
    assert_eq!(master.ask(1, &read(30, 2)).await, words(30, 2), "it was not cut off");

    load(&gateway, &plant.config("")).await;
    assert!(master.is_closed().await);
    assert!(TcpStream::connect(there).is_err(), "nobody listens there");
    goes_on().await;
    stop.store(true, Ordering::Relaxed);
    reading.await.unwrap();
    assert_eq!(ear.of("devices/second/status"), ["online"], "it never was away");
    gateway.stop().await.unwrap();
}
