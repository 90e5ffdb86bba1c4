//! The dashboard with a plant that does not exist, for people who work on the page: values move, a bridge
//! comes and goes, a device stays silent. `cargo run --example dashboard [ADDRESS]` prints where it is. Stops with
//! SIGINT or SIGTERM.

use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate::base::time::{Clock, Timestamp};
use tidegate::web::guard::Gate;
use tidegate::web::server::Entrance;
use tidegate::web::snapshot::{
    BridgeSnapshot, BridgeState, BrokerSnapshot, ClientSnapshot, DeviceSnapshot, DeviceState, Event,
    LogLevel, PointSnapshot, ProcessSnapshot, Quality, Snapshot, StoreSnapshot, Subject,
};
use tidegate::web::write::{WriteFault, Written};
use tidegate::web::{self, Source};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// What a slow page may fall behind.
const EVENTS_MAX: usize = 256;
const STEP: Duration = Duration::from_millis(500);
/// The second bridge is away for as many steps out of twice as many.
const OUTAGE_STEPS: u64 = 40;

struct Plant {
    /// What was written to the setpoint.
    setpoint: Mutex<f64>,
    clock: Clock,
    started: Timestamp,
    events: broadcast::Sender<Event>,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "http://{}/", listener.local_addr()?)?;
    let clock = Clock::start();
    let plant = Arc::new(Plant {
        setpoint: Mutex::new(21.5),
        started: clock.now().wall,
        clock,
        events: broadcast::Sender::new(EVENTS_MAX),
    });
    let cancel = CancellationToken::new();
    let ticker = tokio::spawn(tick(Arc::clone(&plant)));
    let stop = cancel.clone();
    tokio::spawn(async move {
        let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        stop.cancel();
        std::io::Result::Ok(())
    });
    web::serve(
        Entrance { listener: listener.into(), acceptor: Arc::default() },
        plant,
        Gate::ThisMachine,
        cancel,
    )
    .await?;
    ticker.abort();
    Ok(())
}

async fn tick(plant: Arc<Plant>) {
    let mut timer = tokio::time::interval(STEP);
    loop {
        timer.tick().await;
        plant.send_events();
    }
}

impl Source for Plant {
    fn hung(&self) -> Option<String> {
        None
    }

    fn snapshot(&self) -> Snapshot {
        let (step, wall) = (self.step(), self.clock.now().wall);
        let is_up = is_up(step);
        Snapshot {
            reload: None,
            gateway: "plant-7".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.started,
            uptime_seconds: wall.since(self.started).as_secs(),
            clock_synchronised: true,
            ready: true,
            reason: None,
            broker: broker(step),
            bridges: vec![
                bridge("cloud", "mqtts://broker.example.com:8883", BridgeState::Up, self.started),
                BridgeSnapshot {
                    queued_messages: if is_up { 0 } else { step % OUTAGE_STEPS * 61 },
                    queued_bytes: if is_up { 0 } else { step % OUTAGE_STEPS * 2_100_000 },
                    dropped_aged: 12,
                    refused: 4,
                    dead_letters: 4,
                    died: [("not_authorized", 3), ("too_large", 1)].into(),
                    possible_duplicates: 3,
                    degraded: Vec::new(),
                    last_error: Some("connect: no route to host (os error 113)".into()),
                    ..bridge(
                        "archive",
                        "mqtt://archive.example.com:1883",
                        bridge_state(step),
                        wall_at(self, step),
                    )
                },
            ],
            devices: self.devices(step, wall),
            shares: Vec::new(),
            store: StoreSnapshot {
                records_waiting: step % 3,
                commits: 310 + step / 4,
                rows: 8120 + step,
                bytes_written: 4_400_000 + step * 4096,
                database_bytes: 1_900_544,
                reserve_bytes: 8 << 20,
                ..StoreSnapshot::default()
            },
            process: ProcessSnapshot { rss_bytes: 14_680_064, cpu_seconds: 12.5 },
        }
    }

    fn clients(&self, clients_max: usize) -> Vec<ClientSnapshot> {
        ["scada", "hmi-panel", "node-red"]
            .iter()
            .take(clients_max)
            .map(|name| client(name, self.started))
            .collect()
    }

    fn config(&self) -> Arc<str> {
        "null".into()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// As a point does that takes 5 to 30.
    fn write(&self, _: &str, point: &str, command: Bytes) -> Written {
        let command: Value = serde_json::from_slice(&command).unwrap_or_default();
        let text = command["value"].as_str().unwrap_or_default();
        let result = match (point, text.parse::<f64>()) {
            ("setpoint", Ok(value)) if (5.0..=30.0).contains(&value) => {
                *self.setpoint.lock().unwrap_or_else(PoisonError::into_inner) = value;
                Ok(json!({"value": value, "ok": true}))
            }
            ("setpoint", Ok(value)) => Err(WriteFault::Refused(format!("setpoint: {value} is above max 30"))),
            ("relay", _) => Err(WriteFault::Silent("relay: not written: no answer in time".into())),
            _ => Err(WriteFault::NotWritable),
        };
        Box::pin(std::future::ready(result))
    }
}

impl Plant {
    fn setpoint(&self) -> f64 {
        *self.setpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> u64 {
        let since = self.clock.now().wall.since(self.started);
        u64::try_from(since.as_millis() / STEP.as_millis()).unwrap_or(u64::MAX)
    }

    /// Nobody may be looking: then nobody receives.
    fn send_events(&self) {
        let (step, time) = (self.step(), self.clock.now().wall);
        for point in meter(step, self.setpoint(), time) {
            let event = Event::Reading {
                device: "main-meter".into(),
                topic: Some(format!("devices/main-meter/{}", point.name)),
                point: point.name,
                value: point.value,
                unit: point.unit,
                quality: point.quality.unwrap_or(Quality::Bad),
                error: point.error,
                time,
            };
            let _ = self.events.send(event);
        }
        if step.is_multiple_of(OUTAGE_STEPS) {
            let state = bridge_state(step);
            let reason = (!is_up(step)).then(|| "connection reset by peer".into());
            let subject = Subject::Bridge { bridge: "archive".into(), state };
            let _ = self.events.send(Event::State { subject, reason, time });
        }
        if step % 15 == 7 {
            let message = "rs485-a: no answer of unit 4 within 500 ms".into();
            let _ = self.events.send(Event::Log { level: LogLevel::Warn, message, time });
        }
    }

    fn devices(&self, step: u64, time: Timestamp) -> Vec<DeviceSnapshot> {
        let silent = PointSnapshot {
            quality: Some(Quality::Stale),
            time: Some(self.started),
            ..point("level", json!(71.2), "%", time)
        };
        let refused = PointSnapshot {
            value: Value::Null,
            quality: Some(Quality::Bad),
            error: Some("exception 2: illegal data address".into()),
            ..point("state", Value::Null, "", time)
        };
        vec![
            DeviceSnapshot {
                vendor: Some("Maker & Sons".into()),
                product: Some("M-7".into()),
                revision: Some("1.2".into()),
                ..device("main-meter", "rs485-a, unit 1", meter(step, self.setpoint(), time), time)
            },
            DeviceSnapshot {
                state: DeviceState::Offline,
                errors: 5 + step / 8,
                last_error: Some("no answer within 500 ms".into()),
                last_seen: Some(self.started),
                ..device("tank", "rs485-a, unit 4", vec![silent], time)
            },
            device(
                "inverter",
                "192.168.1.50:502, unit 3",
                vec![point("power", json!(4210), "W", time), refused],
                time,
            ),
        ]
    }
}

fn is_up(step: u64) -> bool {
    (step / OUTAGE_STEPS) % 2 == 1
}

fn bridge_state(step: u64) -> BridgeState {
    if is_up(step) { BridgeState::Up } else { BridgeState::Connecting }
}

/// When the bridge's last change was.
fn wall_at(plant: &Plant, step: u64) -> Timestamp {
    let since = (step / OUTAGE_STEPS * OUTAGE_STEPS).saturating_mul(500);
    Timestamp::from_millis(plant.started.as_millis().saturating_add(i64::try_from(since).unwrap_or(0)))
}

fn meter(step: u64, setpoint: f64, time: Timestamp) -> Vec<PointSnapshot> {
    let phase = f64::from(u32::try_from(step % 1000).unwrap_or(0)) / 9.0;
    let round = |value: f64| json!((value * 10.0).round() / 10.0);
    let relay = PointSnapshot { writable: true, ..point("relay", json!(step / 16 % 2 == 1), "", time) };
    let setpoint = PointSnapshot { writable: true, ..point("setpoint", json!(setpoint), "°C", time) };
    vec![
        point("voltage", round(230.0 + 3.0 * phase.sin()), "V", time),
        point("current", round(11.0 + 4.0 * (phase * 0.7).cos()), "A", time),
        point("energy", round(48_210.4 + phase), "kWh", time),
        setpoint,
        relay,
        point("mode", json!("auto"), "", time),
        point("state", json!({"alarm": false, "running": true, "gear": 5}), "", time),
    ]
}

fn point(name: &str, value: Value, unit: &str, time: Timestamp) -> PointSnapshot {
    PointSnapshot {
        name: name.into(),
        value,
        unit: (!unit.is_empty()).then(|| unit.into()),
        quality: Some(Quality::Good),
        time: Some(time),
        error: None,
        writable: false,
    }
}

fn device(name: &str, link: &str, points: Vec<PointSnapshot>, time: Timestamp) -> DeviceSnapshot {
    DeviceSnapshot {
        name: name.into(),
        link: link.into(),
        state: DeviceState::Online,
        polls: 18_240,
        skipped: 0,
        errors: 0,
        last_error: None,
        last_seen: Some(time),
        vendor: None,
        product: None,
        revision: None,
        points,
    }
}

fn bridge(name: &str, url: &str, state: BridgeState, since: Timestamp) -> BridgeSnapshot {
    BridgeSnapshot {
        name: name.into(),
        url: url.into(),
        state,
        since,
        queued_messages: 0,
        queued_bytes: 0,
        buffer_bytes_max: 256 * 1024 * 1024,
        inflight: 2,
        forwarded: 41_822,
        received: 37,
        sent_bytes: 9_410_000,
        received_bytes: 171_000,
        sent_messages: 41_824,
        sent_bytes_per_message: Some(225.0),
        dropped_full: 0,
        dropped_aged: 0,
        dropped_expired: 0,
        refused: 0,
        dead_letters: 0,
        dead_letter_bytes: 0,
        died: BTreeMap::new(),
        dropped: BTreeMap::new(),
        rules: Vec::new(),
        possible_duplicates: 0,
        degraded: Vec::new(),
        last_error: None,
    }
}

fn broker(step: u64) -> BrokerSnapshot {
    BrokerSnapshot {
        connections: 3,
        connections_max: 10_000,
        sessions: 5,
        subscriptions: 14,
        retained: 26,
        messages_received: 41_800 + step * 9 + step % 7,
        messages_sent: 83_600 + step * 21 + step % 5,
        bytes_received: 6_400_000 + step * 900,
        bytes_sent: 12_300_000 + step * 2100,
        connections_accepted: 61,
        connections_refused: 2,
        ..BrokerSnapshot::default()
    }
}

fn client(name: &str, connected_since: Timestamp) -> ClientSnapshot {
    ClientSnapshot {
        client_id: name.into(),
        user: None,
        address: "192.168.1.20".into(),
        protocol: "5",
        connected_since,
        durable: true,
        subscriptions: 4,
        queued_messages: 0,
        queued_bytes: 0,
    }
}
