//! What one seed means: the configuration, the clients, the load, the faults. All chance that is not in the course
//! of events is here.

use std::path::Path;
use std::sync::Arc;

use tidegate::base::time::Instant;
use tidegate::config::expand::Environment;
use tidegate::config::load;
use tidegate::config::model::Config;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicFilter;

use super::client::Client;
use super::reference::{Lane, Place, Reference, SITE, Scope, Subscriber};

/// Faults by kind, each with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Cut,
    HalfOpen,
    Slow,
    ClientAway,
    UplinkDown,
    KillGateway,
    StopGateway,
    KillCloud,
    DiskFull,
    DiskSlow,
    /// The wall clock is set.
    ClockStep,
    /// The device answers nothing for a while.
    DeviceSilent,
}

const FAULTS: [Fault; 12] = [
    Fault::Cut,
    Fault::HalfOpen,
    Fault::Slow,
    Fault::ClientAway,
    Fault::UplinkDown,
    Fault::KillGateway,
    Fault::StopGateway,
    Fault::KillCloud,
    Fault::DiskFull,
    Fault::DiskSlow,
    Fault::ClockStep,
    Fault::DeviceSilent,
];

#[derive(Debug, Clone)]
pub struct Plan {
    pub bridge_version: Version,
    pub bridge_inflight: u16,
    pub limits_inflight: u16,
    pub commit_ms: u64,
    /// The buffer is small, and what it does when it is full.
    pub when_full: Option<&'static str>,
    /// For one session of the gateway.
    pub queued_messages: u32,
    pub faults: Vec<Fault>,
    pub fault_gap_ms: u64,
    pub publish_gap_ms: u64,
    pub messages: u64,
    pub latency_ms: u64,
    pub disk_ms: u64,
    /// Entries of a spool that a start takes into memory.
    pub recovered_window: usize,
}

impl Plan {
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.u32(0..3) > 0).collect();
        if rng.u32(0..20) == 0 {
            faults.clear();
        }
        // Crashes are what most of this is for.
        if rng.bool() && !faults.is_empty() {
            faults.extend([Fault::KillGateway, Fault::KillGateway]);
        }
        let pick = |rng: &mut fastrand::Rng, of: &[u64]| of[rng.usize(..of.len())];
        Self {
            bridge_version: if rng.bool() { Version::V5 } else { Version::V3_1_1 },
            bridge_inflight: rng.u16(1..20),
            limits_inflight: rng.u16(1..20),
            commit_ms: pick(rng, &[1, 20, 100, 1000]),
            when_full: (rng.u32(0..8) == 0).then(|| ["reject", "drop-oldest", "drop-newest"][rng.usize(..3)]),
            queued_messages: if rng.u32(0..10) == 0 { rng.u32(3..20) } else { 10_000 },
            faults,
            fault_gap_ms: pick(rng, &[100, 300, 1000]),
            publish_gap_ms: pick(rng, &[20, 100, 300]),
            messages: rng.u64(60..400),
            latency_ms: pick(rng, &[1, 10, 100]),
            disk_ms: pick(rng, &[1, 10, 50, 300]),
            recovered_window: [2, 10, 1000][rng.usize(..3)],
        }
    }

    pub fn gateway(&self) -> Arc<Config> {
        let protocol = if self.bridge_version == Version::V5 { "5" } else { "3.1.1" };
        let when_full = self.when_full.unwrap_or("drop-oldest");
        let mut config = parse(&format!(
            "gateway: {{ id: plant-7, data_dir: /nowhere }}
broker:
  authentication: {{ anonymous: always }}
  limits: {{ inflight: {inflight}, queued_messages: {queued} }}
  sys_interval: 0s
devices:
  plc:
    modbus: {{ tcp: 'plc.example:502', unit: 1 }}
    poll: 1s
    timeout: 500ms
    retries: 1
    reconnect: {{ min: 200ms, max: 2s }}
    publish: {{ topic: 'devices/{{device}}/{{point}}', format: plain, qos: 1, retain: false, when: change }}
    points:
      counter: {{ input: 0, type: u32 }}
      setpoint: {{ holding: 100, type: u32, writable: true, poll: 1h }}
      limit: {{ holding: 200, type: u32, writable: true, poll: 1h }}
bridges:
  cloud:
    url: mqtt://cloud.example:1883
    protocol: {protocol}
    client_id: plant-7
    keep_alive: 20s
    inflight: {uplink}
    reconnect: {{ min: 100ms, max: 5s }}
    forward:
      - {{ topic: 'up/#', to: '{SITE}{{topic}}' }}
      - {{ topic: 'devices/plc/counter', to: '{SITE}{{topic}}' }}
      - {{ topic: 'devices/plc/+/result', to: '{SITE}{{topic}}' }}
    receive:
      - {{ topic: '{SITE}down/#', to: 'down/{{rest}}' }}
      - {{ topic: '{SITE}set/+', to: 'devices/plc/{{1}}/set' }}
    buffer: {{ when_full: {when_full}, commit: {commit}ms, keep_free: 0B }}
",
            inflight = self.limits_inflight,
            queued = self.queued_messages,
            uplink = self.bridge_inflight,
            commit = self.commit_ms,
        ));
        // Smaller than a file may ask for, so that a short outage fills it.
        config.bridges[0].buffer.size_bytes = self.gateway_buffer_bytes();
        Arc::new(config)
    }

    pub fn gateway_buffer_bytes(&self) -> u64 {
        self.when_full.map_or(64 << 20, |_| 2 << 10)
    }

    /// The clients and what they publish and subscribe to.
    pub fn clients(&self, rng: &mut fastrand::Rng, reference: &mut Reference) -> Vec<Client> {
        reference.small_buffer = self.when_full.is_some();
        reference.may_refuse = self.when_full == Some("reject");
        reference.small_queues = self.queued_messages < 1000;
        let mut cast = Cast { reference, clients: Vec::new(), rng };
        let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        let (once, exactly) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
        for name in ["lan-p1", "lan-p2"] {
            let publisher = cast.client(name, Place::Gateway);
            for qos in levels {
                cast.lane(publisher, Scope::Up, format!("up/{name}/q{}", qos.bits()), qos);
            }
            cast.lane(publisher, Scope::Lan, format!("lan/{name}/q1"), once);
            cast.lane(publisher, Scope::Lan, format!("lan/{name}/q2"), exactly);
            let qos = if cast.rng.bool() { once } else { exactly };
            let lane = cast.lane(publisher, Scope::Up, format!("up/{name}/kept"), qos);
            cast.reference.lanes[lane].retain = true;
        }
        let passing = cast.client("lan-p3", Place::Gateway);
        cast.clients[passing].durable = false;
        cast.lane(passing, Scope::Up, "up/lan-p3/q1".to_owned(), once);
        let far = cast.client("cloud-p", Place::Cloud);
        for qos in levels {
            cast.lane(far, Scope::Down, format!("{SITE}down/q{}", qos.bits()), qos);
        }
        cast.lane(far, Scope::Set, format!("{SITE}set/setpoint"), exactly);
        cast.lane(far, Scope::Set, format!("{SITE}set/limit"), once);
        cast.device();
        let wide = if cast.rng.bool() { "#" } else { "up/#" };
        cast.subscriber("lan-s1", Place::Gateway, "lan/#", exactly);
        cast.subscriber("lan-s2", Place::Gateway, wide, once);
        cast.subscriber("lan-s3", Place::Gateway, "down/#", exactly);
        cast.subscriber("cloud-s1", Place::Cloud, "#", exactly);
        cast.subscriber("cloud-s2", Place::Cloud, &format!("{SITE}up/#"), once);
        let visitor = cast.subscriber("lan-s4", Place::Gateway, "#", exactly);
        cast.clients[visitor].durable = false;
        cast.reference.subscribers.last_mut().unwrap().durable = false;
        for (name, place) in [("auditor-1", Place::Gateway), ("auditor-2", Place::Cloud)] {
            let auditor = cast.subscriber(name, place, "#", once);
            cast.clients[auditor].durable = false;
            cast.clients[auditor].away_until = Instant::FAR_FUTURE;
            cast.reference.subscribers.last_mut().unwrap().durable = false;
        }
        cast.clients
    }
}

/// The broker of the cloud.
pub fn cloud() -> Arc<Config> {
    Arc::new(parse(
        "gateway: { id: cloud, data_dir: /nowhere }
broker:
  authentication: { anonymous: always }
  sys_interval: 0s
",
    ))
}

struct Cast<'a> {
    reference: &'a mut Reference,
    clients: Vec<Client>,
    rng: &'a mut fastrand::Rng,
}

impl Cast<'_> {
    fn client(&mut self, name: &str, place: Place) -> usize {
        let index = self.clients.len();
        let version = if self.rng.bool() { Version::V5 } else { Version::V3_1_1 };
        let mut client = Client::new(index, name, place, version);
        client.window = self.rng.usize(1..12);
        client.receive_maximum = self.rng.u16(1..12);
        client.pad_bytes =
            if self.rng.u32(0..4) == 0 { self.rng.usize(0..1500) } else { self.rng.usize(0..20) };
        self.clients.push(client);
        index
    }

    fn lane(&mut self, publisher: usize, scope: Scope, topic: String, qos: QoS) -> usize {
        let index = self.reference.lanes.len();
        self.reference.lanes.push(Lane { scope, topic, qos, retain: false, publisher: Some(publisher) });
        self.clients[publisher].lanes.push(index);
        index
    }

    fn device(&mut self) {
        let topic = "devices/plc/counter".to_owned();
        let lane = Lane { scope: Scope::Up, topic, qos: QoS::AtLeastOnce, retain: false, publisher: None };
        self.reference.lanes.push(lane);
    }

    fn subscriber(&mut self, name: &str, place: Place, filter: &str, qos: QoS) -> usize {
        let client = self.client(name, place);
        let filter = TopicFilter::new(filter).unwrap();
        self.clients[client].subscription = Some((filter.clone(), qos));
        self.reference.subscribers.push(Subscriber { client, place, filter, qos, durable: true });
        client
    }
}

struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }

    fn host_name(&self) -> Option<String> {
        None
    }
}

fn parse(text: &str) -> Config {
    let config = load::parse("sim.yaml", text, Path::new("/"), &Nothing);
    config.unwrap_or_else(|faults| panic!("{faults:?}"))
}
