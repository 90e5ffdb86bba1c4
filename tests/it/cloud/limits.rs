//! A gateway and a cloud that grants less than asked, one limit a test: nothing that waits is lost, order stays, QoS 2 is
//! once where it is granted, and what is less than asked is said.

use std::time::Duration;

use tidegate::app::Gateway;
use tidegate::bridge::status::{LinkState, Status};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;

use super::strict::{Answer, Limits, Strict};
use crate::gateway::client::{Client, config, connect, publish, start, until};

pub const BOTH: [(&str, Version); 2] = [("5", Version::V5), ("3.1.1", Version::V3_1_1)];
const MESSAGES: usize = 40;

/// A gateway that is bridged to a strict server, and a client of it.
pub struct Plant {
    pub gateway: Gateway,
    pub client: Client,
    next_id: u16,
    rest: String,
    folder: tempfile::TempDir,
}

impl Plant {
    /// With these keys of the bridge besides.
    pub async fn start(server: &Strict, keys: &str) -> Plant {
        Self::start_at(&format!("'mqtt://127.0.0.1:{}'", server.port), keys).await
    }

    pub async fn start_at(url: &str, keys: &str) -> Plant {
        let folder = tempfile::tempdir().expect("a folder");
        let reconnect =
            if keys.contains("reconnect:") { "" } else { "    reconnect: { min: 100ms, max: 200ms }\n" };
        let rest = format!(
            "broker: {{ listeners: [{{ address: '127.0.0.1:0' }}], sys_interval: 0s }}\nbridges:\n  cloud:\n    \
             url: {url}\n{reconnect}{keys}\n"
        );
        Self::start_in(folder, rest).await
    }

    async fn start_in(folder: tempfile::TempDir, rest: String) -> Plant {
        let gateway = start(config(folder.path(), &rest));
        let client = Client::connect(gateway.addresses()[0], connect("meter", Version::V5)).await;
        Plant { gateway, client, next_id: 1, rest, folder }
    }

    /// The same gateway once more; `change` sees its data directory and its configuration before.
    pub async fn restart(self, change: impl FnOnce(&std::path::Path, &mut String)) -> Plant {
        let Plant { gateway, client, mut rest, folder, .. } = self;
        client.part().await;
        gateway.stop().await.expect("ends");
        change(folder.path(), &mut rest);
        Self::start_in(folder, rest).await
    }

    pub fn status(&self) -> Status {
        self.gateway.hub().status().links[0].status.clone()
    }

    /// How many were found undeliverable and are kept, and how many are gone.
    pub fn dead_and_lost(&self) -> (u64, u64) {
        let status = self.status();
        assert_eq!(status.dead.died.iter().map(|(_, count)| count).sum::<u64>(), status.dead.messages);
        (status.dead.messages, status.losses.total())
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        until(what, || holds(&self.status())).await;
    }

    pub async fn until_up(&self) {
        self.until("the link is up", |status| status.state == LinkState::Up).await;
    }

    /// Until nothing waits for the cloud.
    pub async fn until_drained(&self) {
        self.until("nothing waits", |status| status.queued_messages == 0 && status.inflight == 0).await;
    }

    /// Until the gateway has taken it.
    pub async fn publish(&mut self, topic: &str, payload: &str, qos: QoS, retain: bool) {
        self.next_id += 1;
        let id = self.next_id;
        let mut packet = publish(topic, qos, id, payload.to_owned());
        if let Packet::Publish(publish) = &mut packet {
            publish.retain = retain;
        }
        self.client.send(&[packet]).await;
        if qos == QoS::AtLeastOnce {
            assert!(matches!(self.client.next().await, Some(Packet::Puback(_))));
        }
        if qos == QoS::ExactlyOnce {
            assert!(matches!(self.client.next().await, Some(Packet::Pubrec(_))));
            self.client.send(&[Packet::Pubrel(Ack::success(PacketId::new(id).expect("not zero")))]).await;
            assert!(matches!(self.client.next().await, Some(Packet::Pubcomp(_))));
        }
    }

    /// Numbers from 0 on, of QoS 1 and 2 in turn, all at once; until the gateway has taken them.
    pub async fn publish_mixed(&mut self, topic: &str, count: usize) {
        let qos = |number: usize| if number.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let packets: Vec<_> = (0..count)
            .map(|number| {
                self.next_id += 1;
                publish(topic, qos(number), self.next_id, number.to_string())
            })
            .collect();
        self.client.send(&packets).await;
        let mut left = count;
        while left > 0 {
            match self.client.next().await {
                Some(Packet::Puback(_) | Packet::Pubcomp(_)) => left -= 1,
                Some(Packet::Pubrec(ack)) => {
                    self.client.send(&[Packet::Pubrel(Ack::success(ack.packet_id))]).await;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn stop(self) {
        self.client.part().await;
        self.gateway.stop().await.expect("ends");
    }
}

pub fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// The first time that each arrived: QoS 1 may come twice.
pub fn first_of_each(payloads: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    payloads.into_iter().filter(|payload| seen.insert(payload.clone())).collect()
}

fn keys(protocol: &str, more: &str) -> String {
    format!("    protocol: {protocol}\n    forward: [{{ topic: 'x/#' }}]\n{more}")
}

/// All of it arrives in order, and nothing that the server does not grant is asked of it.
async fn check_limits(limits: Limits, protocol: &str, more: &str) -> (Strict, Plant) {
    let server = Strict::start(limits).await;
    let mut plant = Plant::start(&server, &keys(protocol, more)).await;
    plant.publish_mixed("x/1", MESSAGES).await;
    plant.until_up().await;
    plant.until_drained().await;
    // QoS 0 has left by then, and not arrived.
    server.until("all of it", |seen| seen.payloads("x/1").len() >= MESSAGES).await;
    assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(MESSAGES));
    assert_eq!(server.seen(|seen| seen.violations.clone()), Vec::<String>::new());
    assert_eq!(plant.status().losses.total(), 0);
    (server, plant)
}

#[tokio::test]
async fn a_server_of_lower_qos_gets_all_at_what_it_takes() {
    for maximum_qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (server, plant) = check_limits(Limits { maximum_qos, ..Limits::default() }, "5", "").await;
        assert!(server.seen(|seen| seen.delivered.iter().all(|publish| publish.qos <= maximum_qos)));
        let degraded = plant.status().degraded;
        assert!(degraded.iter().any(|line| line.contains("QoS")), "{degraded:?}");
        plant.stop().await;
    }
}

/// As AWS IoT does, which says nothing beforehand: QoS 2 ends the connection.
#[tokio::test]
async fn a_server_that_closes_on_qos_2_is_found_out_and_remembered() {
    for (protocol, _) in BOTH {
        let limits = Limits { maximum_qos: QoS::AtLeastOnce, announces: false, ..Limits::default() };
        let server = Strict::start(limits).await;
        let mut plant = Plant::start(&server, &keys(protocol, "")).await;
        plant.publish_mixed("x/1", MESSAGES).await;
        plant.until_drained().await;
        assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(MESSAGES), "{protocol}");
        assert_eq!(plant.status().losses.total(), 0);
        let degraded = plant.status().degraded;
        assert!(degraded.iter().any(|line| line.contains("QoS 1")), "{degraded:?}");
        // It is not tried again on the next connection.
        let violations = server.seen(|seen| seen.violations.len());
        assert!(violations <= 8, "{protocol}: {violations} connections were lost to it");
        server.cut();
        plant.until("it comes back", |status| status.state != LinkState::Up).await;
        plant.publish("x/2", "again", QoS::ExactlyOnce, false).await;
        server.until("it arrives", |seen| seen.payloads("x/2") == ["again"]).await;
        assert_eq!(server.seen(|seen| seen.violations.len()), violations);
        plant.stop().await;
    }
}

#[tokio::test]
async fn a_small_receive_maximum_is_used_and_never_overrun() {
    for receive_maximum in [1, 5] {
        let limits = Limits { receive_maximum, ..Limits::default() };
        let (server, plant) = check_limits(limits, "5", "").await;
        assert_eq!(server.seen(|seen| seen.payloads("x/1").len()), MESSAGES, "each once");
        assert!(server.seen(|seen| seen.unacknowledged_max) <= usize::from(receive_maximum));
        plant.stop().await;
    }
}

#[tokio::test]
async fn a_message_too_large_costs_itself_alone() {
    let server = Strict::start(Limits { packet_bytes_max: Some(300), ..Limits::default() }).await;
    let mut plant = Plant::start(&server, &keys("5", "")).await;
    for (number, bytes) in [(1, 10), (2, 1000), (3, 10)] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            plant.publish("x/1", &format!("{number}{}", "y".repeat(bytes)), qos, false).await;
        }
    }
    server.until("the rest", |seen| seen.payloads("x/1").len() == 4).await;
    plant.until("the large ones are counted", |status| status.dead.messages == 2).await;
    assert_eq!(plant.dead_and_lost(), (2, 0));
    assert_eq!(server.seen(|seen| seen.violations.clone()), Vec::<String>::new());
    plant.stop().await;
}

/// A server of 3.1.1 cannot say what it takes: what it closes for every time is set aside, and the rest goes on.
#[tokio::test]
async fn a_message_that_ends_each_connection_is_set_aside_and_the_rest_goes_on() {
    for (protocol, _) in BOTH {
        let limits = Limits { packet_bytes_max: Some(300), announces: false, ..Limits::default() };
        let server = Strict::start(limits).await;
        let mut plant = Plant::start(&server, &keys(protocol, "")).await;
        plant.publish_mixed("x/1", 10).await;
        plant.publish("x/1", &"y".repeat(1000), QoS::AtLeastOnce, false).await;
        plant.publish("x/1", "10", QoS::AtLeastOnce, false).await;
        plant.publish("x/2", "other", QoS::ExactlyOnce, false).await;
        plant.until_drained().await;
        assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(11), "{protocol}");
        assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/2"))), ["other"]);
        assert_eq!(plant.dead_and_lost(), (1, 0));
        plant.stop().await;
    }
}

/// Neither a retained message nor a retained last will; CONNECT with one is refused (0x9A), before CONNACK could say so.
#[tokio::test]
async fn a_server_that_retains_nothing_is_served_without() {
    for announces in [true, false] {
        let server = Strict::start(Limits { retain: false, announces, ..Limits::default() }).await;
        let mut plant = Plant::start(&server, &keys("5", "")).await;
        plant.until_up().await;
        for number in 0..MESSAGES {
            plant.publish("x/1", &number.to_string(), QoS::AtLeastOnce, true).await;
        }
        plant.until_drained().await;
        assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(MESSAGES));
        assert!(server.seen(|seen| seen.delivered.iter().all(|publish| !publish.retain)));
        assert!(server.seen(|seen| seen.violations.len()) <= usize::from(!announces));
        let degraded = plant.status().degraded;
        assert!(degraded.iter().any(|line| line.contains("retain")), "{degraded:?}");
        plant.stop().await;
    }
}

#[tokio::test]
async fn a_last_will_of_a_qos_that_is_not_taken_is_lowered() {
    let server = Strict::start(Limits { maximum_qos: QoS::AtMostOnce, ..Limits::default() }).await;
    let plant = Plant::start(&server, &keys("5", "")).await;
    plant.until_up().await;
    let will = server.seen(|seen| seen.connects.last().and_then(|(_, connect)| connect.will.clone()));
    assert_eq!(will.map(|will| will.qos), Some(QoS::AtMostOnce));
    plant.stop().await;
}

const RECEIVES: &str = "    receive: [{ topic: 'down/#' }, { topic: 'one/plain' }]\n";

/// What a server says that it does not have is not asked for, or it would end each connection; the rest works. Shared
/// subscriptions and subscription identifiers are never asked for.
#[tokio::test]
async fn subscriptions_that_a_server_does_not_have_are_left_out_and_told() {
    let limits =
        Limits { wildcards: false, shared: false, subscription_identifiers: false, ..Limits::default() };
    let (server, mut plant) = check_limits(limits, "5", RECEIVES).await;
    assert_eq!(server.seen(|seen| seen.subscribes.clone()), ["one/plain"]);
    let status = plant.status();
    assert_eq!(status.filters_refused, 1);
    assert!(status.degraded.iter().any(|line| line.contains("subscription")), "{:?}", status.degraded);
    plant.client.subscribe("one/#", QoS::AtLeastOnce).await;
    server.publish("one/plain", "go", QoS::AtLeastOnce);
    assert_eq!(plant.client.message().await, ("one/plain".to_owned(), "go".into()));
    plant.stop().await;
}

#[tokio::test]
async fn topic_aliases_are_used_as_far_as_they_are_taken() {
    for topic_alias_maximum in [0, 2] {
        let server = Strict::start(Limits { topic_alias_maximum, ..Limits::default() }).await;
        let mut plant = Plant::start(&server, &keys("5", "")).await;
        for number in 0..MESSAGES {
            for topic in ["x/one", "x/two", "x/three"] {
                plant.publish(topic, &number.to_string(), QoS::AtLeastOnce, false).await;
            }
        }
        plant.until_drained().await;
        for topic in ["x/one", "x/two", "x/three"] {
            assert_eq!(server.seen(|seen| seen.payloads(topic)), numbers(MESSAGES));
        }
        assert_eq!(server.seen(|seen| seen.violations.clone()), Vec::<String>::new());
        plant.stop().await;
    }
}

const DEEP: &str = "x/1/2/3/4/5/6/7/8";

/// AWS IoT takes 7 slashes: more is answered with 0x90, or ends the connection.
#[tokio::test]
async fn a_topic_that_is_too_deep_costs_itself_alone() {
    let ends = [
        ("5", Answer::Acknowledge(ReasonCode::TopicNameInvalid)),
        ("5", Answer::Leave(ReasonCode::TopicNameInvalid)),
        ("3.1.1", Answer::Leave(ReasonCode::TopicNameInvalid)),
    ];
    for (protocol, too_deep) in ends {
        let limits = Limits { topic_slashes_max: 7, too_deep, ..Limits::default() };
        let server = Strict::start(limits).await;
        let mut plant = Plant::start(&server, &keys(protocol, "")).await;
        for number in 0..10 {
            plant.publish("x/1", &number.to_string(), QoS::AtLeastOnce, false).await;
            if number % 5 == 0 {
                plant.publish(DEEP, &number.to_string(), QoS::AtLeastOnce, false).await;
            }
        }
        plant.until_drained().await;
        assert_eq!(
            server.seen(|seen| first_of_each(seen.payloads("x/1"))),
            numbers(10),
            "{protocol} {too_deep:?}"
        );
        assert_eq!((server.seen(|seen| seen.payloads(DEEP).len()), plant.dead_and_lost()), (0, (2, 0)));
        plant.stop().await;
    }
}

#[tokio::test]
async fn a_shorter_keep_alive_of_the_server_is_kept() {
    let server = Strict::start(Limits { server_keep_alive: Some(2), ..Limits::default() }).await;
    let plant = Plant::start(&server, &keys("5", "    keep_alive: 600s\n")).await;
    server.until("pings", |seen| seen.pings >= 3).await;
    assert_eq!(server.seen(|seen| (seen.connects.len(), seen.violations.clone())), (1, Vec::new()));
    plant.stop().await;
}

#[tokio::test]
async fn a_client_identifier_that_the_server_gives_changes_nothing() {
    let limits = Limits { assigned_client_id: Some("given-7"), ..Limits::default() };
    let (server, plant) = check_limits(limits, "5", "").await;
    server.cut();
    plant.until("it is cut", |status| status.state != LinkState::Up).await;
    server.until("it resumes", |seen| seen.resumed == 1).await;
    assert!(server.seen(|seen| seen.connects.iter().all(|(_, connect)| &*connect.client_id == "test")));
    plant.stop().await;
}

/// The server answers nothing of what it has, forgets its session and the connection.
#[tokio::test]
async fn a_session_that_the_server_lost_costs_repeats_and_nothing_else() {
    for (protocol, _) in BOTH {
        let server = Strict::start(Limits::default()).await;
        let mut plant = Plant::start(&server, &keys(protocol, "    receive: [{ topic: 'down/#' }]\n")).await;
        plant.client.subscribe("down/#", QoS::AtLeastOnce).await;
        plant.until_up().await;
        let mut sent = 0;
        // Until it happens while something is in flight.
        while plant.status().duplicates_possible == 0 && sent < 2000 {
            let client = &mut plant.client;
            let burst: Vec<_> = (1..=20)
                .map(|id| {
                    publish("x/1", QoS::ExactlyOnce, 1000 + id, (sent + usize::from(id) - 1).to_string())
                })
                .collect();
            client.send(&burst).await;
            server.lose_sessions();
            server.cut();
            for id in 1..=20 {
                assert!(matches!(client.next().await, Some(Packet::Pubrec(_))), "{id}");
            }
            let releases: Vec<_> =
                (1001..=1020).filter_map(PacketId::new).map(|id| Packet::Pubrel(Ack::success(id))).collect();
            client.send(&releases).await;
            for id in 1..=20 {
                assert!(matches!(client.next().await, Some(Packet::Pubcomp(_))), "{id}");
            }
            sent += 20;
        }
        plant.until_drained().await;
        let payloads = server.seen(|seen| seen.payloads("x/1"));
        let repeats = (payloads.len() - sent) as u64;
        assert_eq!(first_of_each(payloads), numbers(sent), "{protocol}");
        let status = plant.status();
        assert!(repeats <= status.duplicates_possible, "{repeats} of {}", status.duplicates_possible);
        assert_eq!(status.losses.total(), 0);
        // The subscriptions are made anew.
        plant.until_up().await;
        server.publish("down/x", "go", QoS::AtLeastOnce);
        assert_eq!(plant.client.message().await, ("down/x".to_owned(), "go".into()));
        plant.stop().await;
    }
}

/// The server keeps no session beyond a connection, and says so.
#[tokio::test]
async fn a_session_that_is_kept_for_less_than_asked_is_told() {
    let server = Strict::start(Limits { session_expiry: Some(0), ..Limits::default() }).await;
    let mut plant = Plant::start(&server, &keys("5", "    receive: [{ topic: 'down/#' }]\n")).await;
    plant.until_up().await;
    let degraded = plant.status().degraded;
    assert!(degraded.iter().any(|line| line.contains("session")), "{degraded:?}");
    for round in 0..5 {
        plant.publish("x/1", &round.to_string(), QoS::ExactlyOnce, false).await;
        server.cut();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    plant.until_drained().await;
    assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(5));
    assert_eq!(server.seen(|seen| seen.resumed), 0);
    plant.stop().await;
}
