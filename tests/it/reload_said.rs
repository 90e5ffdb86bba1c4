//! What others are told of a reload: Sparkplug hosts, Home Assistant.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tidegate::app::Gateway;
use tidegate::device::homeassistant::DISCOVERY_FILTER;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicFilter;
use tidegate::sparkplug::payload::{Metric, MetricValue, Payload};

use crate::gateway::client::{Client, connect, publish, start, until, with_limits};
use crate::reload_live::{Ear, Units, load, on_loopback};

/// Name, unit, and what more stands there.
type Named<'a> = (&'a str, u8, &'a str);

/// What a host knows of one node by the rules of Sparkplug 3.0, which it holds the node to.
#[derive(Debug, Default, Clone)]
struct Known {
    /// bdSeq of the birth.
    born: Option<u64>,
    seq: u64,
    /// Devices that are there, with the aliases of their metrics.
    devices: BTreeMap<String, BTreeMap<u64, String>>,
    births: usize,
    /// Deaths of devices that were said.
    died: BTreeSet<String>,
    /// Every `DEVICE/METRIC` that was ever born.
    named: BTreeSet<String>,
    /// Readings since the last birth of the node, by device.
    readings: BTreeMap<String, usize>,
}

fn bd_seq(payload: &Payload) -> u64 {
    let metric = payload.metrics.iter().find(|metric| metric.name.as_deref() == Some("bdSeq"));
    match metric.and_then(|metric| metric.value.clone()) {
        Some(MetricValue::Long(number)) => number,
        other => panic!("bdSeq: {other:?}"),
    }
}

impl Known {
    fn hear(&mut self, topic: &str, payload: &Payload) {
        let mut parts = topic.split('/').skip(2);
        let (kind, device) = (parts.next().unwrap(), parts.nth(1).map(str::to_owned));
        match (kind, device) {
            ("NCMD" | "DCMD", _) => return,
            ("NDEATH", None) => {
                assert_eq!(self.born, Some(bd_seq(payload)), "the death of this birth");
                (self.born, self.devices) = (None, BTreeMap::new());
                return;
            }
            ("NBIRTH", None) => {
                assert_eq!(payload.seq, Some(0));
                self.born = Some(bd_seq(payload));
                (self.births, self.seq) = (self.births + 1, 0);
                (self.devices, self.readings) = (BTreeMap::new(), BTreeMap::new());
                return;
            }
            // Whoever came late asks for it all.
            _ if self.births == 0 => return,
            _ => assert!(self.born.is_some(), "{topic}: the node is dead"),
        }
        self.seq = (self.seq + 1) % 256;
        assert_eq!(payload.seq, Some(self.seq), "{topic}");
        self.hear_device(kind, parts_device(topic), payload);
    }

    fn hear_device(&mut self, kind: &str, device: String, payload: &Payload) {
        match kind {
            "DBIRTH" => {
                let names =
                    payload.metrics.iter().filter_map(|m| Some((m.alias?, m.name.as_ref()?.to_string())));
                let names: BTreeMap<u64, String> = names.collect();
                self.named.extend(names.values().map(|name| format!("{device}/{name}")));
                self.devices.insert(device, names);
            }
            "DDEATH" => {
                self.died.insert(device.clone());
                assert!(self.devices.remove(&device).is_some(), "{device} was born");
            }
            "DDATA" => {
                let named = self.devices.get(&device).unwrap_or_else(|| panic!("{device} was born"));
                let unknown =
                    payload.metrics.iter().find(|m| m.alias.is_none_or(|alias| !named.contains_key(&alias)));
                assert_eq!(unknown, None, "{device}: {named:?}");
                *self.readings.entry(device).or_default() += 1;
            }
            other => panic!("{other}"),
        }
    }

    /// Whether these devices, and no others, are there and read.
    fn has(&self, devices: &[&str]) -> bool {
        self.devices.keys().eq(devices) && devices.iter().all(|device| self.readings.get(*device) > Some(&1))
    }
}

fn parts_device(topic: &str) -> String {
    topic.split('/').nth(4).unwrap().to_owned()
}

/// A host that holds the node to the rules for as long as it runs.
struct Host {
    known: Arc<Mutex<Known>>,
    task: tokio::task::JoinHandle<()>,
}

impl Host {
    /// `asks`: for a rebirth, by itself.
    async fn start(address: SocketAddr, asks: bool) -> Host {
        let known = Arc::new(Mutex::new(Known::default()));
        let mut client = Client::connect(address, connect("host", Version::V5)).await;
        client.subscribe("spBv1.0/#", QoS::AtLeastOnce).await;
        if asks {
            let metric = Metric {
                name: Some("Node Control/Rebirth".into()),
                value: Some(MetricValue::Boolean(true)),
                ..Metric::default()
            };
            let order = Payload { metrics: vec![metric], ..Payload::default() }.encode();
            client.send(&[publish("spBv1.0/plant/NCMD/test", QoS::AtMostOnce, 0, order)]).await;
        }
        let into = known.clone();
        let task = tokio::spawn(async move {
            while let Some(packet) = client.next().await {
                let Packet::Publish(publish) = packet else { continue };
                if let Some(id) = publish.packet_id {
                    client.send(&[Packet::Puback(Ack::success(id))]).await;
                }
                let payload = Payload::decode(&publish.payload).unwrap();
                let mut known = into.lock().unwrap();
                known.hear(publish.topic.unwrap().as_str(), &payload);
            }
        });
        Host { known, task }
    }

    async fn until_has(&self, devices: &[&str]) {
        until(&format!("{devices:?}: {:?}", self.known()), || {
            assert!(!self.task.is_finished(), "a rule was broken: {:?}", self.known());
            self.known().has(devices)
        })
        .await;
    }

    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[tokio::test]
async fn sparkplug_hosts_at_both_ends_hear_of_devices_that_come_and_go() {
    let (dir, cloud_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cloud = start(with_limits(cloud_dir.path(), ""));
    let units = Units::serve(&[1, 2]).await;
    let device = |name: &str, unit: u8, more: &str| {
        format!(
            "  {name}: {{ modbus: {{ tcp: \"{}\", unit: {unit} }}, poll: 20ms, points: {{ {more} value: {{ holding: 0, type: u16 }} }}, \
             publish: {{ format: sparkplug, when: poll, topic: \"spBv1.0/plant/DDATA/{{gateway}}/{{device}}\" }} }}\n",
            units.address
        )
    };
    let of = |devices: &[Named<'_>]| {
        let devices: String = devices.iter().map(|(name, unit, more)| device(name, *unit, more)).collect();
        let bridge = format!(
            "bridges:\n  cloud: {{ url: \"mqtt://{}\", reconnect: {{ min: 100ms, max: 200ms }}, forward: [{{ topic: \"spBv1.0/#\" }}] }}\n",
            cloud.addresses()[0]
        );
        on_loopback(dir.path(), &format!("devices:\n{devices}{bridge}"))
    };
    let at_cloud = Host::start(cloud.addresses()[0], false).await;
    let gateway = start(of(&[("first", 1, "")]));
    let on_lan = Host::start(gateway.addresses()[0], true).await;
    let more = "level: { holding: 10, type: u16 },";
    let steps: [(&[Named<'_>], &[&str]); 7] = [
        (&[("first", 1, "")], &["first"]),
        (&[("first", 1, ""), ("second", 2, "")], &["first", "second"]),
        (&[("second", 2, "")], &["second"]),
        (&[("second", 2, "")], &["second"]),
        (&[("other", 1, ""), ("second", 2, "")], &["other", "second"]),
        (&[("other", 1, more), ("second", 2, "")], &["other", "second"]),
        (&[("second", 2, "")], &["second"]),
    ];
    for (devices, names) in steps {
        load(&gateway, &of(devices)).await;
        on_lan.until_has(names).await;
        at_cloud.until_has(names).await;
        if devices[0].2 == more {
            let is_named = |host: &Host| host.known().named.contains("other/level");
            until("a metric more is born", || is_named(&on_lan) && is_named(&at_cloud)).await;
        }
    }
    let gone: BTreeSet<String> = ["first", "other"].map(str::to_owned).into();
    assert_eq!(on_lan.known().died, gone, "those that went said so");
    assert_eq!(at_cloud.known().died, gone, "to the cloud too");
    // Nobody had to hear it all again: the node was there all the time.
    assert_eq!((at_cloud.known().births, on_lan.known().births), (1, 1));
    gateway.stop().await.unwrap();
    until("its end is told", || at_cloud.known().born.is_none()).await;
    cloud.stop().await.unwrap();
}

fn announced(gateway: &Gateway) -> BTreeMap<String, String> {
    let found = gateway.hub().retained(&TopicFilter::new(DISCOVERY_FILTER).unwrap());
    let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
    found.into_iter().map(|found| (found.topic.as_str().to_owned(), text(&found.payload))).collect()
}

#[tokio::test]
async fn home_assistant_forgets_what_went_and_learns_what_came() {
    let dir = tempfile::tempdir().unwrap();
    let of = |devices: &[Named<'_>]| {
        let device = |(name, unit, more): &Named<'_>| {
            format!(
                "  {name}: {{ modbus: {{ tcp: \"127.0.0.1:9\", unit: {unit} }}, homeassistant: true{more}, points: {{ value: {{ holding: 0 }} }} }}\n"
            )
        };
        on_loopback(dir.path(), &format!("devices:\n{}", devices.iter().map(device).collect::<String>()))
    };
    let topic = |name: &str| format!("homeassistant/device/test_{name}/config");
    let gateway = start(of(&[("meter", 1, ""), ("pump", 2, "")]));
    let address = gateway.addresses()[0];
    until("both are announced", || announced(&gateway).len() == 2).await;
    let ear = Ear::open(address, "homeassistant/#").await;
    until("both are heard", || ear.of(&topic("meter")).len() == 1 && ear.of(&topic("pump")).len() == 1).await;
    // One goes, another is renamed, one comes; `meter` stays as it is.
    let steps: [(&[Named<'_>], &[&str], &[&str]); 4] = [
        (&[("meter", 1, "")], &["meter"], &["pump"]),
        (&[("meter", 1, ""), ("fan", 3, "")], &["fan", "meter"], &[]),
        (&[("meter", 1, ""), ("blower", 3, "")], &["blower", "meter"], &["fan"]),
        (&[("meter", 1, "")], &["meter"], &["blower"]),
    ];
    for (devices, names, gone) in steps {
        load(&gateway, &of(devices)).await;
        let expected: Vec<String> = names.iter().map(|name| topic(name)).collect();
        until("what is kept is what there is", || announced(&gateway).keys().eq(&expected)).await;
        for name in gone {
            until("it is taken back", || ear.last(&topic(name)).as_deref() == Some("")).await;
        }
    }
    assert_eq!(ear.of(&topic("meter")).len(), 1, "nothing was said of what did not change");
    // What somebody else says of a device that went stays theirs.
    let mut other = Client::connect(address, connect("other", Version::V5)).await;
    let foreign = r#"{"o":{"name":"zigbee"},"dev":{"ids":["zigbee/1"]},"cmps":{}}"#;
    let Packet::Publish(message) = publish(&topic("pump"), QoS::AtMostOnce, 0, foreign) else {
        unreachable!()
    };
    other.send(&[Packet::Publish(Publish { retain: true, ..message })]).await;
    other.ping().await;
    load(&gateway, &of(&[("meter", 1, ""), ("pump", 2, "")])).await;
    until("it is announced again", || announced(&gateway)[&topic("pump")].contains("tidegate/test/pump"))
        .await;
    load(&gateway, &of(&[("meter", 1, ", publish: { format: plain }")])).await;
    until("it goes again", || announced(&gateway).keys().eq([&topic("meter")])).await;
    until("what changed is said", || ear.of(&topic("meter")).len() == 2).await;
    gateway.stop().await.unwrap();
}
