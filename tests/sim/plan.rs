//! What one seed means, as a plain text: the configuration, what of the gateway is used, the load, the faults. A seed
//! that is kept stands with its text in `seeds.txt`, so that it stays that world when later plans hold more.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use tidegate::config::expand::Environment;
use tidegate::config::load;
use tidegate::config::model::Config;
use tidegate::mqtt::packet::Version;

use super::reference::{Place, SITE};

/// Below what is free the buffers of a gateway take no more.
pub const KEEP_FREE_BYTES: u64 = 1 << 20;
/// A buffer that a short outage fills.
const SMALL_BUFFER_BYTES: u64 = 2 << 10;
const BUFFER_BYTES: u64 = 64 << 20;

/// A choice that has a name in a plan's text.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant,)*];
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|one| format!("{one:?}") == text);
                found.copied().ok_or_else(|| format!("{text:?} is none of {:?}", Self::ALL))
            }
        }
    };
}

named! {
    /// What goes wrong; each as often as the plan names it.
    Fault {
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
        /// The cloud comes back without the session of the bridge.
        CloudForgets,
        /// Access rules are read again.
        Reload,
        /// Other programs fill the file system, up to what is to be kept free.
        DiskTight,
        /// The cloud takes nothing of what clients say, or does again: that becomes dead letters, which somebody sends again
        /// at the end.
        CloudRefuses,
    }
}

named! {
    /// What of the gateway is used beside what every world uses.
    Feature {
        Wills,
        /// A client subscribes and unsubscribes.
        Unsubscribe,
        Shared,
        /// Messages and commands that expire.
        Expiry,
        Aliases,
        /// A second bridge takes the same topics to another cloud.
        Second,
        /// Publishers are refused what a full disk would have to take, and the buffers keep a reserve of it free.
        Reserve,
        /// The rules of the bridges differ in priority, and the second one sends what is new first.
        Lanes,
        /// The device gathers its readings to batches.
        Batch,
    }
}

/// What a buffer does when it is full, and what that may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhenFull {
    pub name: &'static str,
    /// Publishers are refused.
    pub refuses: bool,
}

pub const WHEN_FULL: [WhenFull; 5] = [
    WhenFull { name: "reject", refuses: true },
    WhenFull { name: "drop-oldest", refuses: false },
    WhenFull { name: "drop-newest", refuses: false },
    WhenFull { name: "keep-last", refuses: false },
    WhenFull { name: "thin", refuses: false },
];

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub bridge_version: Version,
    pub bridge_inflight: u16,
    pub limits_inflight: u16,
    pub commit_ms: u64,
    /// The buffer of the first bridge is small, and what it does when it is full.
    pub when_full: Option<WhenFull>,
    /// For one session of the gateway.
    pub queued_messages: u32,
    /// Messages/s of one client of the gateway; 0: no limit.
    pub publish_rate: u32,
    pub faults: Vec<Fault>,
    pub features: Vec<Feature>,
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
        let pick = |rng: &mut fastrand::Rng, of: &[u64]| of[rng.usize(..of.len())];
        let drawn_last = [Feature::Lanes, Feature::Batch];
        let features = Feature::ALL.iter().copied().filter(|feature| !drawn_last.contains(feature));
        let features: Vec<Feature> = features.filter(|_| rng.u32(0..3) == 0).collect();
        let mut plan = Self {
            bridge_version: if rng.bool() { Version::V5 } else { Version::V3_1_1 },
            bridge_inflight: rng.u16(1..20),
            limits_inflight: rng.u16(1..20),
            commit_ms: pick(rng, &[1, 20, 100, 1000]),
            when_full: (rng.u32(0..8) == 0).then(|| WHEN_FULL[rng.usize(..WHEN_FULL.len())]),
            queued_messages: if rng.u32(0..10) == 0 { rng.u32(3..20) } else { 10_000 },
            publish_rate: if rng.u32(0..8) == 0 { rng.u32(10..40) } else { 0 },
            faults: faults(rng, &features),
            features,
            fault_gap_ms: pick(rng, &[100, 300, 1000]),
            publish_gap_ms: pick(rng, &[20, 100, 300]),
            messages: rng.u64(60..400),
            latency_ms: pick(rng, &[1, 10, 100]),
            disk_ms: pick(rng, &[1, 10, 50, 300]),
            recovered_window: [2, 10, 1000][rng.usize(..3)],
        };
        // Last, so that what was drawn before stays what it was.
        if rng.u32(0..3) == 0 {
            plan.features.push(Feature::Lanes);
        }
        // A 3.1.1 server cannot say that it refuses, and dead letters in a small buffer have room for nothing.
        if rng.u32(0..4) == 0 && plan.bridge_version == Version::V5 && plan.when_full.is_none() {
            plan.faults.extend([Fault::CloudRefuses; 2]);
        }
        if rng.u32(0..4) == 0 {
            plan.features.push(Feature::Batch);
        }
        plan
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    pub fn places(&self) -> &'static [Place] {
        let all = &[Place::Gateway, Place::Cloud, Place::Second];
        if self.has(Feature::Second) { all } else { &all[..2] }
    }

    pub fn gateway(&self) -> Arc<Config> {
        let protocol = if self.bridge_version == Version::V5 { "5" } else { "3.1.1" };
        let when_full = self.when_full.map_or("drop-oldest", |when_full| when_full.name);
        let keep_free = if self.has(Feature::Reserve) { KEEP_FREE_BYTES } else { 0 };
        let buffer = format!("when_full: {when_full}, commit: {}ms, keep_free: {keep_free}B", self.commit_ms);
        let lanes = self.has(Feature::Lanes);
        let [high, low] = if lanes { [", priority: high", ", priority: low"] } else { [""; 2] };
        let second = SECOND.replace("{live}", if lanes { ", order: live-first" } else { "" });
        let second = if self.has(Feature::Second) { &*second } else { "" };
        let format = match self.readings_in_a_batch() {
            1 => "format: plain".to_owned(),
            readings => format!("format: json, batch: {{ every: 5s, readings: {readings} }}"),
        };
        let mut config = parse(&format!(
            "gateway: {{ id: plant-7, data_dir: /nowhere }}
broker:
  authentication: {{ anonymous: always }}
  access: [{{ anonymous: true, publish: ['#'], subscribe: ['#'] }}]
  limits: {{ inflight: {inflight}, queued_messages: {queued}, publish_rate: {rate} }}
  sys_interval: 0s
devices:
  plc:
    modbus: {{ tcp: 'plc.example:502', unit: 1 }}
    poll: 1s
    timeout: 500ms
    retries: 1
    reconnect: {{ min: 200ms, max: 2s }}
    publish: {{ topic: 'devices/{{device}}/{{point}}', {format}, qos: 1, retain: false, when: change }}
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
    status_topic: gateways/plant-7/status
    forward:
      - {{ topic: 'up/#', to: '{SITE}{{topic}}'{high} }}
      - {{ topic: 'devices/plc/counter', to: '{SITE}{{topic}}'{low} }}
      - {{ topic: 'devices/plc/+/result', to: '{SITE}{{topic}}' }}
    receive:
      - {{ topic: '{SITE}down/#', to: 'down/{{rest}}' }}
      - {{ topic: '{SITE}set/+', to: 'devices/plc/{{1}}/set' }}
    buffer: {{ {buffer} }}
{second}",
            inflight = self.limits_inflight,
            queued = self.queued_messages,
            rate = self.publish_rate,
            uplink = self.bridge_inflight,
        ));
        // Smaller than a file may ask for, so that a short outage fills it.
        config.bridges[0].buffer.size_bytes = self.buffer_bytes(0);
        Arc::new(config)
    }

    /// So many readings of the device are one message at most.
    pub fn readings_in_a_batch(&self) -> usize {
        if self.has(Feature::Batch) { 4 } else { 1 }
    }

    /// The bound of a bridge's buffer.
    pub fn buffer_bytes(&self, link: usize) -> u64 {
        if link == 0 && self.when_full.is_some() { SMALL_BUFFER_BYTES } else { BUFFER_BYTES }
    }
}

/// The second bridge differs in all that it may.
const SECOND: &str = "  second:
    url: mqtt://second.example:1883
    protocol: 5
    client_id: plant-7-second
    keep_alive: 20s
    inflight: 5
    reconnect: { min: 100ms, max: 5s }
    forward:
      - { topic: 'up/#', to: 'second/{topic}'{live} }
    buffer: { size: 64MiB, when_full: drop-newest, commit: 50ms, keep_free: 0B }
";

fn faults(rng: &mut fastrand::Rng, features: &[Feature]) -> Vec<Fault> {
    let all = Fault::ALL.iter().copied().filter(|fault| *fault != Fault::CloudRefuses);
    let mut faults: Vec<Fault> = all.filter(|_| rng.u32(0..3) > 0).collect();
    // They are rare in the field, and excuse much.
    if rng.u32(0..3) > 0 {
        faults.retain(|fault| *fault != Fault::CloudForgets);
    }
    if !features.contains(&Feature::Reserve) {
        faults.retain(|fault| *fault != Fault::DiskTight);
    }
    if rng.u32(0..20) == 0 {
        faults.clear();
    }
    // Crashes are what most of this is for.
    if rng.bool() && !faults.is_empty() {
        faults.extend([Fault::KillGateway, Fault::KillGateway]);
    }
    faults
}

/// `key=value`, one for each field; what a text does not name is off.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &[&dyn fmt::Debug]| {
            let names: Vec<String> = of.iter().map(|one| format!("{one:?}")).collect();
            names.join(",")
        };
        let faults: Vec<&dyn fmt::Debug> = self.faults.iter().map(|one| one as &dyn fmt::Debug).collect();
        let features: Vec<&dyn fmt::Debug> = self.features.iter().map(|one| one as &dyn fmt::Debug).collect();
        write!(
            f,
            "version={} bridge-inflight={} limits-inflight={} commit-ms={} when-full={} queued={} rate={} \
             faults={} features={} fault-gap-ms={} publish-gap-ms={} messages={} latency-ms={} disk-ms={} window={}",
            if self.bridge_version == Version::V5 { 5 } else { 4 },
            self.bridge_inflight,
            self.limits_inflight,
            self.commit_ms,
            self.when_full.map_or("", |when_full| when_full.name),
            self.queued_messages,
            self.publish_rate,
            list(&faults),
            list(&features),
            self.fault_gap_ms,
            self.publish_gap_ms,
            self.messages,
            self.latency_ms,
            self.disk_ms,
            self.recovered_window,
        )
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').ok_or(format!("{pair:?}")));
        let values: BTreeMap<&str, &str> = pairs.collect::<Result<_, _>>()?;
        let number = |key: &str, default: u64| {
            let Some(value) = values.get(key) else { return Ok(default) };
            value.parse::<u64>().map_err(|_| format!("{key}: {value:?}"))
        };
        let small = |key: &str, default| u16::try_from(number(key, default)?).map_err(|_| key.to_owned());
        let wide = |key: &str, default| u32::try_from(number(key, default)?).map_err(|_| key.to_owned());
        let when_full = values.get("when-full").copied().unwrap_or_default();
        Ok(Self {
            bridge_version: if number("version", 5)? == 5 { Version::V5 } else { Version::V3_1_1 },
            bridge_inflight: small("bridge-inflight", 20)?,
            limits_inflight: small("limits-inflight", 20)?,
            commit_ms: number("commit-ms", 100)?,
            when_full: WHEN_FULL.into_iter().find(|one| one.name == when_full),
            queued_messages: wide("queued", 10_000)?,
            publish_rate: wide("rate", 0)?,
            faults: list(values.get("faults"))?,
            features: list(values.get("features"))?,
            fault_gap_ms: number("fault-gap-ms", 300)?,
            publish_gap_ms: number("publish-gap-ms", 100)?,
            messages: number("messages", 300)?,
            latency_ms: number("latency-ms", 10)?,
            disk_ms: number("disk-ms", 10)?,
            recovered_window: usize::from(small("window", 1000)?),
        })
    }
}

fn list<T: FromStr>(value: Option<&&str>) -> Result<Vec<T>, T::Err> {
    value.into_iter().flat_map(|text| text.split(',')).filter(|one| !one.is_empty()).map(str::parse).collect()
}

/// The broker of a cloud.
pub fn cloud() -> Arc<Config> {
    Arc::new(parse(
        "gateway: { id: cloud, data_dir: /nowhere }
broker:
  authentication: { anonymous: always }
  sys_interval: 0s
",
    ))
}

/// The same where the gateway may say nothing of its clients.
pub fn strict_cloud() -> Arc<Config> {
    Arc::new(parse(
        "gateway: { id: cloud, data_dir: /nowhere }
broker:
  authentication: { anonymous: always }
  access:
    - { client_id: plant-7, publish: ['gateways/#', 'sites/plant-7/devices/#'], subscribe: ['#'] }
    - { anonymous: true, publish: ['#'], subscribe: ['#'] }
  sys_interval: 0s
",
    ))
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
