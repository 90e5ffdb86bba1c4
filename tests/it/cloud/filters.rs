//! A gateway and a cloud that ends the connection for a subscription: what waits is forwarded meanwhile, the other
//! subscriptions come to stand, and the one that is to blame is left out and named.

use tidegate::bridge::status::LinkState;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use super::limits::{BOTH, Plant, first_of_each, numbers};
use super::strict::{Limits, Strict};

const FORWARD: &str = "    forward: [{ topic: 'x/#' }]\n";
const RECEIVES: &str = "    receive: [{ topic: 'down/#' }, { topic: 'no/#' }, { topic: 'other/+' }]\n";
/// Connections that a filter may cost until it is found out: two among others, and eight behind it alone.
const ENDS_MAX: usize = 10;

fn keys(protocol: &str, receives: &str) -> String {
    format!("    protocol: {protocol}\n{FORWARD}{receives}")
}

fn closing(filters: &[(&str, Option<ReasonCode>)]) -> Limits {
    let closed_filters = filters.iter().map(|(filter, word)| ((*filter).to_owned(), *word)).collect();
    Limits { closed_filters, ..Limits::default() }
}

/// What comes by the subscriptions that stand reaches the plant.
async fn check_received(server: &Strict, plant: &mut Plant, topics: &[&str]) {
    for topic in topics {
        plant.client.subscribe(topic, QoS::AtLeastOnce).await;
        server.publish(topic, "go", QoS::ExactlyOnce);
        assert_eq!(plant.client.message().await, ((*topic).to_owned(), "go".into()));
    }
}

#[tokio::test]
async fn a_filter_that_ends_each_connection_is_left_out_and_the_rest_goes_on() {
    for (protocol, _) in BOTH {
        let server = Strict::start(closing(&[("no/#", None)])).await;
        let mut plant = Plant::start(&server, &keys(protocol, RECEIVES)).await;
        plant.publish_mixed("x/1", 20).await;
        plant.until_drained().await;
        assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(20), "{protocol}");
        let is_told = |lines: &[String]| lines.iter().any(|l| l.contains("no/#") && l.contains("left out"));
        plant.until("it is left out", |s| s.state == LinkState::Up && is_told(&s.degraded)).await;
        assert_eq!(plant.status().filters_refused, 1);
        let (closed, connects) = server.seen(|seen| (seen.closed.clone(), seen.connects.len()));
        assert!(closed.iter().all(|filter| filter == "no/#") && closed.len() <= ENDS_MAX, "{closed:?}");
        check_received(&server, &mut plant, &["down/x", "other/x"]).await;
        // It stays so, also on another connection.
        server.cut();
        server.until("it comes back", |seen| seen.connects.len() > connects).await;
        plant.until_up().await;
        plant.publish("x/1", "20", QoS::ExactlyOnce, false).await;
        server.until("the rest", |seen| first_of_each(seen.payloads("x/1")) == numbers(21)).await;
        assert_eq!(server.seen(|seen| seen.closed.len()), closed.len(), "{protocol}");
        // A person put it right.
        server.change(|limits| limits.closed_filters.clear());
        plant.gateway.hub().retry(0);
        plant.until("it stands", |status| status.filters_refused == 0).await;
        check_received(&server, &mut plant, &["no/x"]).await;
        assert!(plant.status().degraded.is_empty(), "{:?}", plant.status().degraded);
        assert_eq!((plant.dead_and_lost(), plant.status().duplicates_possible), ((0, 0), 0));
        plant.stop().await;
    }
}

/// Each is found for itself, and what stands besides is not cut for long.
#[tokio::test]
async fn several_filters_that_end_connections_are_all_found() {
    let server = Strict::start(closing(&[("no/#", None), ("other/+", None)])).await;
    let mut plant = Plant::start(&server, &keys("3.1.1", RECEIVES)).await;
    plant
        .until("both are left out", |s| {
            s.filters_refused == 2
                && s.degraded
                    .iter()
                    .any(|l| l.starts_with("2 ") && l.contains("left out") && l.contains("no/#, other/+"))
        })
        .await;
    plant.until_up().await;
    check_received(&server, &mut plant, &["down/x"]).await;
    assert!(server.seen(|seen| seen.closed.len()) <= ENDS_MAX + 8);
    plant.stop().await;
}

/// A server that says why is believed sooner.
#[tokio::test]
async fn a_word_with_the_end_of_the_connection_spares_most_of_them() {
    for (word, ends_max) in [(ReasonCode::TopicFilterInvalid, 2), (ReasonCode::NotAuthorized, 4)] {
        let server = Strict::start(closing(&[("no/#", Some(word))])).await;
        let mut plant = Plant::start(&server, &keys("5", RECEIVES)).await;
        plant
            .until("it is left out", |s| {
                let told = s.degraded.iter().any(|line| line.contains("left out"));
                s.state == LinkState::Up && told && s.filters_refused == 1
            })
            .await;
        assert!(server.seen(|seen| seen.closed.len()) <= ends_max, "{word}");
        check_received(&server, &mut plant, &["down/x", "other/x"]).await;
        plant.stop().await;
    }
}

/// 0xA2 where CONNACK said nothing: no wildcard is asked for any more.
#[tokio::test]
async fn a_server_that_leaves_for_a_kind_of_filter_is_not_asked_for_it_again() {
    let limits = Limits { announces: false, wildcards: false, ..Limits::default() };
    let server = Strict::start(limits).await;
    let mut plant =
        Plant::start(&server, &keys("5", "    receive: [{ topic: 'no/#' }, { topic: 'one' }]\n")).await;
    plant.until("it goes without", |s| s.state == LinkState::Up && s.filters_refused == 1).await;
    assert_eq!(server.seen(|seen| seen.violations.len()), 1);
    check_received(&server, &mut plant, &["one"]).await;
    plant.stop().await;
}

#[tokio::test]
async fn a_server_that_ends_connections_for_subscriptions_of_qos_2_is_asked_for_less() {
    for (protocol, _) in BOTH {
        let limits = Limits { subscribe_qos: QoS::AtLeastOnce, ..Limits::default() };
        let server = Strict::start(limits).await;
        let receives = "    receive: [{ topic: 'down/#', qos: 2 }, { topic: 'other/+', qos: 2 }]\n";
        let mut plant = Plant::start(&server, &keys(protocol, receives)).await;
        plant.publish("x/1", "0", QoS::ExactlyOnce, false).await;
        server.until("it is forwarded", |seen| seen.payloads("x/1") == ["0"]).await;
        plant
            .until("all stand", |s| {
                s.state == LinkState::Up && s.filters_refused == 0 && !s.degraded.is_empty()
            })
            .await;
        assert!(
            plant.status().degraded.iter().any(|line| line.contains("QoS 1")),
            "{:?}",
            plant.status().degraded
        );
        check_received(&server, &mut plant, &["down/x", "other/x"]).await;
        let closed = server.seen(|seen| seen.closed.len());
        assert!(closed <= ENDS_MAX, "{closed}");
        server.cut();
        plant.until("it is cut", |status| status.state != LinkState::Up).await;
        plant.until_up().await;
        assert_eq!(server.seen(|seen| seen.closed.len()), closed, "{protocol}: it is remembered");
        plant.stop().await;
    }
}
