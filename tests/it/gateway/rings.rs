//! Gateways and brokers that are bridged to each other in every way, over both versions: each message is everywhere once,
//! whatever its QoS, also one that is equal to the one before, and nothing goes round.

use std::collections::BTreeMap;

use tempfile::TempDir;
use tidegate::app::Gateway;
use tidegate::bridge::status::LinkState;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;

use super::client::{Client, config, connect, durable, publish, start, until};
use crate::cloud::mosquitto::{Mosquitto, free_port};

/// Two that are equal follow each other, and an equal one comes again later.
const SAID: [&str; 4] = ["on", "on", "off", "on"];
const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[derive(Clone, Copy)]
enum Way {
    Forward,
    Receive,
    Both,
}
use Way::{Both, Forward, Receive};

/// The bridges of one gateway: to whom, and what they carry.
type Bridges = &'static [(usize, Way)];

struct Ring {
    ports: Vec<u16>,
    folders: Vec<TempDir>,
    protocols: &'static [&'static str],
    shape: &'static [Bridges],
    gateways: Vec<Option<Gateway>>,
}

impl Ring {
    async fn start(shape: &'static [Bridges], protocols: &'static [&'static str]) -> Ring {
        let folders = shape.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
        let ports = shape.iter().map(|_| free_port()).collect();
        let mut ring = Ring { ports, folders, protocols, shape, gateways: Vec::new() };
        ring.gateways = (0..shape.len()).map(|own| Some(ring.gateway(own))).collect();
        ring.until_up().await;
        ring
    }

    fn gateway(&self, own: usize) -> Gateway {
        let bridges = self.shape[own].iter().map(|(other, way)| {
            let rules = match way {
                Forward => "forward: [{ topic: 'x/#' }]",
                Receive => "receive: [{ topic: 'x/#' }]",
                Both => "forward: [{ topic: 'x/#' }]\n    receive: [{ topic: 'x/#' }]",
            };
            format!(
                "  to-{other}:\n    url: mqtt://127.0.0.1:{}\n    protocol: {}\n    client_id: from-{own}\n    \
                 status_topic: ''\n    reconnect: {{ min: 100ms, max: 200ms }}\n    {rules}\n",
                self.ports[*other],
                self.protocols[own % self.protocols.len()],
            )
        });
        let bridges: String = bridges.collect();
        let broker = format!(
            "broker: {{ listeners: [{{ address: '127.0.0.1:{}' }}], sys_interval: 0s }}\nbridges:\n{bridges}",
            self.ports[own]
        );
        start(config(self.folders[own].path(), &broker))
    }

    fn running(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.iter().flatten()
    }

    async fn until_up(&self) {
        for gateway in self.running() {
            let up = || gateway.hub().status().links.iter().all(|link| link.status.state == LinkState::Up);
            until("its links are up", up).await;
        }
    }

    async fn until_returned(&self, count: usize) {
        let returned = || self.running().map(|gateway| gateway.hub().status().broker.returned).sum::<u64>();
        until(&format!("{count} came back"), || returned() >= count as u64).await;
        assert_eq!(returned(), count as u64);
    }

    async fn until_queued(&self, own: usize, count: usize) {
        let gateway = self.gateways[own].as_ref().expect("it runs");
        let queued =
            || gateway.hub().status().links.iter().map(|link| link.status.queued_messages).sum::<u64>();
        until(&format!("{count} wait at {own}"), || queued() == count as u64).await;
    }

    async fn stop_one(&mut self, own: usize) {
        self.gateways[own].take().expect("it runs").stop().await.expect("ends");
    }

    fn start_one(&mut self, own: usize) {
        self.gateways[own] = Some(self.gateway(own));
    }

    async fn client(&self, own: usize, id: &str) -> Client {
        let address = ([127, 0, 0, 1], self.ports[own]).into();
        Client::connect(address, connect(id, Version::V3_1_1)).await
    }

    async fn viewer(&self, own: usize) -> Viewer {
        let address = ([127, 0, 0, 1], self.ports[own]).into();
        Viewer::on(Client::connect(address, durable("viewer")).await).await
    }

    /// In the session of before.
    async fn viewer_again(&self, own: usize) -> Viewer {
        let address = ([127, 0, 0, 1], self.ports[own]).into();
        Viewer { client: Client::connect(address, durable("viewer")).await, seen: BTreeMap::new() }
    }

    async fn stop(self) {
        for gateway in self.gateways.into_iter().flatten() {
            gateway.stop().await.expect("ends");
        }
    }
}

/// What came, by topic, in order.
struct Viewer {
    client: Client,
    seen: BTreeMap<String, Vec<String>>,
}

impl Viewer {
    async fn on(mut client: Client) -> Viewer {
        client.subscribe("x/#", QoS::AtLeastOnce).await;
        Viewer { client, seen: BTreeMap::new() }
    }

    fn count(&self) -> usize {
        self.seen.values().map(Vec::len).sum()
    }

    /// All that was sent to it before it asked.
    async fn look(&mut self) {
        self.client.send(&[Packet::Pingreq]).await;
        loop {
            match self.client.next().await {
                Some(Packet::Publish(publish)) => {
                    if let Some(id) = publish.packet_id {
                        self.client.send(&[Packet::Puback(Ack::success(id))]).await;
                    }
                    let topic = publish.topic.expect("a topic").as_str().to_owned();
                    let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                    self.seen.entry(topic).or_default().push(payload);
                }
                Some(Packet::Pingresp) => return,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn until(&mut self, count: usize) {
        let waited = tokio::time::timeout(super::client::PATIENCE, async {
            while self.count() < count {
                self.look().await;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{} of {count}: {:?}", self.count(), self.seen);
    }
}

/// Everything that a sensor may say, to its acknowledgement. How much that was.
async fn say_all(sensor: &mut Client, ways: &[QoS]) -> usize {
    let mut id = 0;
    for (qos, retain) in ways.iter().flat_map(|qos| [(*qos, false), (*qos, true)]) {
        for payload in SAID {
            id += 1;
            say(sensor, &topic(qos, retain), payload, (qos, retain, id)).await;
        }
    }
    usize::from(id)
}

fn topic(qos: QoS, retain: bool) -> String {
    format!("x/{}/{retain}", qos.bits())
}

async fn say(sensor: &mut Client, topic: &str, payload: &str, (qos, retain, id): (QoS, bool, u16)) {
    let mut packet = publish(topic, qos, id, payload.to_owned());
    if let Packet::Publish(publish) = &mut packet {
        publish.retain = retain;
    }
    sensor.send(&[packet]).await;
    match qos {
        QoS::AtMostOnce => {}
        QoS::AtLeastOnce => assert!(matches!(sensor.next().await, Some(Packet::Puback(_)))),
        QoS::ExactlyOnce => {
            let Some(Packet::Pubrec(ack)) = sensor.next().await else { panic!("no PUBREC") };
            sensor.send(&[Packet::Pubrel(Ack::success(ack.packet_id))]).await;
            assert!(matches!(sensor.next().await, Some(Packet::Pubcomp(_))));
        }
    }
}

/// All of `ways`, so many copies of each: in order where there is one.
fn check(viewer: &Viewer, ways: &[QoS], copies: usize, what: &str) {
    for (qos, retain) in ways.iter().flat_map(|qos| [(*qos, false), (*qos, true)]) {
        let mut seen = viewer.seen.get(&topic(qos, retain)).cloned().unwrap_or_default();
        let mut expected = SAID.repeat(copies);
        if copies > 1 {
            seen.sort();
            expected.sort_unstable();
        }
        assert_eq!(seen, expected, "{what}: {qos:?}, retained: {retain}");
    }
}

/// `returns`: how often each message comes back to a gateway that it went through. `copies`: to others than the first, by so
/// many ways.
async fn check_shape(shape: &'static [Bridges], returns: usize, copies: usize) {
    for protocols in [&["3.1.1"][..], &["5"], &["3.1.1", "5"]] {
        let ring = Ring::start(shape, protocols).await;
        let count = shape.len();
        let mut viewers = Vec::new();
        for own in 0..count {
            viewers.push(ring.viewer(own).await);
        }
        let mut sensor = ring.client(0, "sensor").await;
        let said = say_all(&mut sensor, &EVERY_QOS).await;
        // Behind what each of them sends comes nothing that was sent before.
        for own in 0..count {
            let mut last = ring.client(own, "last").await;
            say(&mut last, &format!("x/last/{own}"), "", (QoS::AtLeastOnce, false, 1)).await;
            last.part().await;
        }
        for (own, viewer) in viewers.iter_mut().enumerate() {
            let here = |from: usize| if from == own { 1 } else { copies };
            viewer.until(said * here(0) + (0..count).map(here).sum::<usize>()).await;
        }
        ring.until_returned(returns * (said + count)).await;
        for (own, viewer) in viewers.iter_mut().enumerate() {
            viewer.look().await;
            let what = format!("gateway {own} over {protocols:?}");
            check(viewer, &EVERY_QOS, if own == 0 { 1 } else { copies }, &what);
            for from in 0..count {
                let expected = if from == own { 1 } else { copies };
                assert_eq!(
                    viewer.seen[&format!("x/last/{from}")].len(),
                    expected,
                    "{what}: the last of {from}"
                );
            }
            let mut late = Viewer::on(ring.client(own, "late").await).await;
            late.until(3).await;
            late.look().await;
            let retained = EVERY_QOS.map(|qos| (topic(qos, true), vec!["on".to_owned()]));
            assert_eq!(late.seen, BTreeMap::from(retained), "{what}");
            late.client.part().await;
        }
        drop(viewers);
        drop(sensor);
        ring.stop().await;
    }
}

#[tokio::test]
async fn two_that_forward_to_each_other() {
    check_shape(&[&[(1, Forward)], &[(0, Forward)]], 1, 1).await;
}

#[tokio::test]
async fn two_that_receive_from_each_other() {
    check_shape(&[&[(1, Receive)], &[(0, Receive)]], 1, 1).await;
}

#[tokio::test]
async fn two_with_one_bridge_both_ways() {
    check_shape(&[&[(1, Both)], &[]], 0, 1).await;
}

/// Then there are two ways to the other, which cannot know that what came by both is one message: two copies, and no more.
#[tokio::test]
async fn two_with_a_bridge_both_ways_each() {
    check_shape(&[&[(1, Both)], &[(0, Both)]], 2, 2).await;
}

#[tokio::test]
async fn three_that_forward_in_a_ring() {
    check_shape(&[&[(1, Forward)], &[(2, Forward)], &[(0, Forward)]], 1, 1).await;
}

#[tokio::test]
async fn three_that_receive_in_a_ring() {
    check_shape(&[&[(1, Receive)], &[(2, Receive)], &[(0, Receive)]], 1, 1).await;
}

#[tokio::test]
async fn three_in_a_ring_of_either_kind() {
    check_shape(&[&[(1, Forward), (2, Receive)], &[(2, Forward)], &[]], 1, 1).await;
}

/// What waited for a gateway of the ring arrives once, and ends where it began.
#[tokio::test]
async fn a_ring_with_an_outage() {
    let durable_ways = &EVERY_QOS[1..];
    for protocol in [&["3.1.1"][..], &["5"]] {
        let mut ring = Ring::start(&[&[(1, Forward)], &[(2, Forward)], &[(0, Forward)]], protocol).await;
        let (mut first, mut second) = (ring.viewer(1).await, ring.viewer(2).await);
        ring.viewer(0).await.client.part().await;
        ring.stop_one(0).await;
        let mut sensor = ring.client(1, "sensor").await;
        let said = say_all(&mut sensor, durable_ways).await;
        ring.until_queued(2, said).await;
        ring.start_one(0);
        let mut viewer = ring.viewer_again(0).await;
        viewer.until(said).await;
        ring.until_returned(said).await;
        for viewer in [&mut viewer, &mut first, &mut second] {
            viewer.look().await;
            check(viewer, durable_ways, 1, protocol[0]);
        }
        ring.stop().await;
    }
}

/// A gateway that began anew does not know its own from before: it has them once more, and nobody else has.
#[tokio::test]
async fn a_ring_whose_first_gateway_begins_anew_meanwhile() {
    let durable_ways = &EVERY_QOS[1..];
    for protocol in [&["3.1.1"][..], &["5"]] {
        let mut ring = Ring::start(&[&[(1, Forward)], &[(2, Forward)], &[(0, Forward)]], protocol).await;
        let mut first = ring.viewer(1).await;
        for own in [0, 2] {
            ring.viewer(own).await.client.part().await;
        }
        ring.stop_one(2).await;
        let mut sensor = ring.client(0, "sensor").await;
        let said = say_all(&mut sensor, durable_ways).await;
        ring.until_queued(1, said).await;
        drop(sensor);
        ring.stop_one(0).await;
        ring.start_one(2);
        ring.until_queued(2, said).await;
        ring.start_one(0);
        let (mut again, mut second) = (ring.viewer_again(0).await, ring.viewer_again(2).await);
        again.until(said * 2).await;
        ring.until_returned(said).await;
        for viewer in [&mut again, &mut first, &mut second] {
            viewer.look().await;
        }
        check(&again, durable_ways, 2, protocol[0]);
        check(&first, durable_ways, 1, protocol[0]);
        check(&second, durable_ways, 1, protocol[0]);
        ring.stop().await;
    }
}

/// A server that knows bridges sends nothing back, and a message as retained as it was published.
#[tokio::test]
async fn a_bridge_both_ways_to_mosquitto() {
    let folder = tempfile::tempdir().expect("a folder");
    let mosquitto = Mosquitto::start(folder.path());
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let gateways: Vec<Gateway> = folders
        .iter()
        .enumerate()
        .map(|(own, folder)| {
            let rest = format!(
                "broker: {{ listeners: [{{ address: '127.0.0.1:0' }}], sys_interval: 0s }}\nbridges:\n  cloud:\n    \
                 url: mqtt://127.0.0.1:{}\n    protocol: 3.1.1\n    client_id: gateway-{own}\n    inflight: 100\n    \
                 reconnect: {{ min: 1h, max: 1h }}\n    forward: [{{ topic: 'x/#' }}]\n    receive: [{{ topic: 'x/#' }}]",
                mosquitto.port
            );
            start(config(folder.path(), &rest))
        })
        .collect();
    let mut viewers = Vec::new();
    for gateway in &gateways {
        let up = || gateway.hub().status().links.iter().all(|link| link.status.state == LinkState::Up);
        until("its link is up, without a back-off", up).await;
        let viewer = Client::connect(gateway.addresses()[0], connect("viewer", Version::V3_1_1)).await;
        viewers.push(Viewer::on(viewer).await);
    }
    let mut sensor = Client::connect(gateways[0].addresses()[0], connect("sensor", Version::V3_1_1)).await;
    let said = say_all(&mut sensor, &EVERY_QOS).await;
    viewers[1].until(said).await;
    // Behind what the server sends to the first comes no echo.
    let cloud = ([127, 0, 0, 1], mosquitto.port).into();
    let mut elsewhere = Client::connect(cloud, connect("elsewhere", Version::V3_1_1)).await;
    say(&mut elsewhere, "x/elsewhere", "kept", (QoS::ExactlyOnce, true, 1)).await;
    for (viewer, gateway) in viewers.iter_mut().zip(&gateways) {
        viewer.until(said + 1).await;
        viewer.look().await;
        check(viewer, &EVERY_QOS, 1, "over Mosquitto");
        assert_eq!(viewer.count(), said + 1);
        let late = Client::connect(gateway.addresses()[0], connect("late", Version::V3_1_1)).await;
        let mut late = Viewer::on(late).await;
        late.until(EVERY_QOS.len() + 1).await;
        assert_eq!(late.seen.get("x/elsewhere"), Some(&vec!["kept".to_owned()]));
        assert_eq!(gateway.hub().status().broker.returned, 0, "there was nothing to drop");
    }
    drop((viewers, sensor, elsewhere));
    for gateway in gateways {
        gateway.stop().await.expect("ends");
    }
}

/// Mosquitto says by itself that it is a bridge, and is served as one.
#[tokio::test]
async fn mosquitto_as_a_bridge_to_the_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = "broker: { listeners: [{ address: '127.0.0.1:0' }], sys_interval: 0s }";
    let gateway = start(config(folder.path(), broker));
    let address = gateway.addresses()[0];
    let mosquitto = Mosquitto::start_bridged(folder.path(), address.port(), "topic x/# both 2");
    let bridged = || gateway.hub().status().broker.connections == 1;
    until("the bridge is there", bridged).await;
    let behind = ([127, 0, 0, 1], mosquitto.port).into();
    let mut there = Viewer::on(Client::connect(behind, connect("viewer", Version::V3_1_1)).await).await;
    let mut here = Viewer::on(Client::connect(address, connect("viewer", Version::V3_1_1)).await).await;
    // Its subscription stands once something comes through.
    let mut probe = Client::connect(address, connect("probe", Version::V3_1_1)).await;
    while !there.seen.contains_key("x/probe") {
        say(&mut probe, "x/probe", "", (QoS::AtLeastOnce, false, 1)).await;
        there.look().await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut sensor = Client::connect(behind, connect("sensor", Version::V3_1_1)).await;
    let said = say_all(&mut sensor, &EVERY_QOS).await;
    say(&mut probe, "x/here", "kept", (QoS::ExactlyOnce, true, 1)).await;
    for viewer in [&mut there, &mut here] {
        let probes = viewer.seen.get("x/probe").map_or(0, Vec::len);
        viewer.until(said + 1 + probes).await;
        viewer.look().await;
    }
    // What would come back to Mosquitto is before this.
    say(&mut probe, "x/end", "", (QoS::AtLeastOnce, false, 1)).await;
    while !there.seen.contains_key("x/end") {
        there.look().await;
    }
    for viewer in [&there, &here] {
        check(viewer, &EVERY_QOS, 1, "by a bridge of Mosquitto's");
    }
    let mut late = Viewer::on(Client::connect(behind, connect("late", Version::V3_1_1)).await).await;
    late.until(EVERY_QOS.len() + 1).await;
    assert_eq!(late.seen.get("x/here"), Some(&vec!["kept".to_owned()]), "as retained as it was");
    drop((there, here, probe, sensor, late));
    drop(mosquitto);
    gateway.stop().await.expect("ends");
}
