//! A gateway and a cloud that says no: to a connection, to a message, to a subscription, for a while or for good. What the
//! cloud may still take is never lost, and nobody is asked again and again at once.

use std::time::Duration;

use tidegate::bridge::status::LinkState;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::packet::connect::Role;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use super::limits::{BOTH, Plant, first_of_each, numbers};
use super::strict::{Answer, Levels, Limits, Refusal, Seen, Strict};
use crate::gateway::client::{Client, connect, until};

const FORWARD: &str = "    forward: [{ topic: 'x/#' }]\n";

#[tokio::test]
async fn a_server_that_leaves_with_a_word_gets_all_that_waits() {
    let server = Strict::start(Limits::default()).await;
    let mut plant = Plant::start(&server, FORWARD).await;
    let reasons = [
        ReasonCode::ServerShuttingDown,
        ReasonCode::ServerBusy,
        ReasonCode::QuotaExceeded,
        ReasonCode::AdministrativeAction,
        ReasonCode::MessageRateTooHigh,
        ReasonCode::MaximumConnectTime,
        ReasonCode::UseAnotherServer,
        ReasonCode::ServerMoved,
    ];
    let mut sent = 0;
    for (round, reason) in (1..).zip(reasons) {
        plant.until_up().await;
        for _ in 0..5 {
            let qos = if sent % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            plant.publish("x/1", &sent.to_string(), qos, false).await;
            sent += 1;
        }
        server.disconnect(reason, None);
        server.until("it comes back", |seen| seen.connects.len() > round).await;
    }
    plant.until_up().await;
    plant.until_drained().await;
    assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(sent));
    assert_eq!((plant.status().losses.total(), plant.status().last_error.is_none()), (0, true));
    plant.stop().await;
}

/// With an hour between two tries, so that none but those that follow at once can have made the link.
#[tokio::test]
async fn what_a_server_knows_of_bridges_is_found_out_at_once() {
    let all = [
        (Levels::Refuses, Role::Client, &[Role::Gateway, Role::Bridge][..]),
        (Levels::Closes, Role::Client, &[Role::Gateway, Role::Bridge]),
        (Levels::KnowsBridges, Role::Bridge, &[Role::Gateway]),
        (Levels::Overlooks, Role::Bridge, &[]),
    ];
    for (levels, taken, turned_away) in all {
        let server = Strict::start(Limits { levels, ..Limits::default() }).await;
        let keys = format!("    protocol: 3.1.1\n    reconnect: {{ min: 1h, max: 1h }}\n{FORWARD}");
        let mut plant = Plant::start(&server, &keys).await;
        plant.publish_mixed("x/1", 20).await;
        plant.until_drained().await;
        assert_eq!(server.seen(|seen| seen.payloads("x/1")), numbers(20));
        let last = server.seen(|seen| seen.connects.last().expect("a connection").1.role);
        assert_eq!((last, server.seen(|seen| seen.turned_away.clone())), (taken, turned_away.to_vec()));
        assert_eq!((plant.dead_and_lost(), plant.status().duplicates_possible), ((0, 0), 0), "{levels:?}");
        plant.stop().await;
    }
}

#[tokio::test]
async fn who_took_the_session_is_waited_for() {
    let server = Strict::start(Limits::default()).await;
    let mut plant = Plant::start(&server, FORWARD).await;
    plant.until_up().await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port));
    let mut other = Client::open(address, Version::V5).await;
    other
        .greet(tidegate::mqtt::packet::connect::Connect {
            clean_start: false,
            ..connect("test", Version::V5)
        })
        .await;
    plant.publish("x/1", "0", QoS::ExactlyOnce, false).await;
    // It takes its session back after a while, and there is nobody who takes it again.
    server.until("it comes back", |seen| seen.connects.len() == 3).await;
    plant.until_drained().await;
    assert_eq!(
        server.seen(|seen| (first_of_each(seen.payloads("x/1")), seen.connects.len())),
        (numbers(1), 3)
    );
    plant.stop().await;
}

/// CONNACK and DISCONNECT with a reference, to a server that has the same and one that has not.
#[tokio::test]
async fn a_server_that_moved_is_followed_with_all_that_waits() {
    for reason in [ReasonCode::UseAnotherServer, ReasonCode::ServerMoved] {
        let (old, new) = (Strict::start(Limits::default()).await, Strict::start(Limits::default()).await);
        let reference = format!("127.0.0.1:{}", new.port);
        let mut plant = Plant::start(&old, FORWARD).await;
        plant.until_up().await;
        plant.publish("x/1", "0", QoS::ExactlyOnce, false).await;
        plant.until_drained().await;
        let refusal = Refusal { reason, reference: Some(reference.clone()) };
        old.change(|limits| limits.refusals = std::iter::repeat_n(refusal, 1000).collect());
        old.disconnect(reason, Some(&reference));
        plant
            .until("it is with the other one", |status| {
                status.server.ends_with(&reference) && status.state == LinkState::Up
            })
            .await;
        plant.publish("x/1", "1", QoS::ExactlyOnce, false).await;
        plant.until_drained().await;
        assert_eq!(new.seen(|seen| seen.payloads("x/1")), ["1"]);
        // The next connection asks the first one again, whose CONNACK sends it on.
        new.cut();
        new.until("it is sent on", |seen| seen.connects.len() == 2).await;
        assert!(old.seen(|seen| seen.connects.len()) >= 2);
        plant.publish("x/1", "2", QoS::ExactlyOnce, false).await;
        new.until("the rest", |seen| first_of_each(seen.payloads("x/1")) == ["1", "2"]).await;
        plant.stop().await;
    }
}

/// Kept, in order, tried with a back-off, one at a time.
#[tokio::test]
async fn a_quota_that_is_used_up_holds_messages_back_and_loses_none() {
    let server = Strict::start(Limits { over_quota: usize::MAX, ..Limits::default() }).await;
    let mut plant = Plant::start(&server, FORWARD).await;
    plant.publish_mixed("x/1", 30).await;
    server.until("several tries", |seen| seen.connects.len() >= 5).await;
    assert_eq!(plant.status().queued_messages, 30);
    // The window of the first connection, and then one at a time.
    let (connects, refused) = server.seen(|seen| (seen.connects.len(), seen.quota_refusals.len()));
    assert!(refused <= 30 + connects, "{refused} in {connects} connections");
    server.change(|limits| limits.over_quota = 0);
    plant.until_drained().await;
    assert_eq!(server.seen(|seen| seen.payloads("x/1")), numbers(30));
    assert_eq!(plant.status().losses.total(), 0);
    plant.stop().await;
}

/// A quota of one topic, said in the answer or at the end of the connection: its messages wait for it in their order, none
/// of them is given up, and the others go on.
#[tokio::test]
async fn a_topic_whose_quota_is_used_up_waits_alone() {
    let reason = ReasonCode::QuotaExceeded;
    for answer in [Answer::Acknowledge(reason), Answer::Leave(reason)] {
        let forbidden = [("x/full".to_owned(), answer)].into();
        let server = Strict::start(Limits { forbidden, ..Limits::default() }).await;
        let mut plant = Plant::start(&server, FORWARD).await;
        for number in 0..20 {
            let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            plant.publish("x/full", &number.to_string(), QoS::AtLeastOnce, false).await;
            plant.publish("x/free", &number.to_string(), qos, false).await;
        }
        let free = |seen: &Seen| first_of_each(seen.payloads("x/free"));
        server.until("the others", |seen| free(seen).len() == 20).await;
        assert_eq!(server.seen(free), numbers(20), "{answer:?}");
        plant.until("the rest waits", |status| status.queued_messages == 20).await;
        assert!(
            plant.status().degraded.iter().any(|line| line.contains("x/full"))
                || plant.status().state != LinkState::Up
        );
        // It is tried again, and what is new on other topics does not wait for that.
        for number in 20..25 {
            plant.publish("x/full", &number.to_string(), QoS::ExactlyOnce, false).await;
            plant.publish("x/free", &number.to_string(), QoS::ExactlyOnce, false).await;
        }
        server.until("the others again", |seen| free(seen).len() == 25).await;
        let tries = |seen: &Seen| seen.tries.iter().filter(|topic| *topic == "x/full").count();
        let before = server.seen(tries);
        server.until("another try", |seen| tries(seen) > before).await;
        assert_eq!(plant.dead_and_lost(), (0, 0), "{answer:?}");
        server.change(|limits| limits.forbidden.clear());
        plant.until_drained().await;
        let full = server.seen(|seen| seen.payloads("x/full"));
        assert_eq!(first_of_each(full), numbers(25), "{answer:?}");
        assert_eq!(plant.dead_and_lost(), (0, 0));
        plant.stop().await;
    }
}

/// The cloud never heard that a QoS 1 command was taken, and sends it again on the next connection: its time runs from when
/// it came first, be its PUBACK lost or not.
#[tokio::test]
async fn a_command_that_comes_again_is_as_old_as_it_was() {
    for (protocol, _) in BOTH {
        let server = Strict::start(Limits { deaf: true, ..Limits::default() }).await;
        let receives = "    receive: [{ topic: 'down/#', expiry: 2s }, { topic: 'slow/#', expiry: 1h }]\n";
        let mut plant =
            Plant::start(&server, &format!("    protocol: {protocol}\n{FORWARD}{receives}")).await;
        plant.until_up().await;
        plant.client.subscribe("+/x", QoS::AtLeastOnce).await;
        for topic in ["down/x", "slow/x"] {
            server.publish(topic, "on", QoS::AtLeastOnce);
            assert_eq!(plant.client.message().await, (topic.to_owned(), "on".into()));
        }
        let over = std::time::Instant::now() + Duration::from_secs(2);
        until("the time of the first is over", || std::time::Instant::now() > over).await;
        let resumed = server.seen(|seen| seen.resumed);
        server.cut();
        server.until("it resumes", |seen| seen.resumed > resumed).await;
        assert_eq!(plant.client.message().await, ("slow/x".to_owned(), "on".into()), "{protocol}: again");
        plant.until("the other is refused", |status| status.losses.received_expired == 1).await;
        server.change(|limits| limits.deaf = false);
        // A new one of the same words is new.
        server.publish("down/x", "on", QoS::AtLeastOnce);
        assert_eq!(plant.client.message().await, ("down/x".to_owned(), "on".into()));
        plant.stop().await;
    }
}

/// Refused with a reason code, or, as AWS IoT does, with the end of the connection.
#[tokio::test]
async fn a_topic_that_is_not_allowed_costs_itself_alone() {
    let reason = ReasonCode::NotAuthorized;
    for (protocol, answer) in
        [("5", Answer::Acknowledge(reason)), ("5", Answer::Leave(reason)), ("3.1.1", Answer::Leave(reason))]
    {
        let forbidden = [("x/no".to_owned(), answer)].into();
        let server = Strict::start(Limits { forbidden, ..Limits::default() }).await;
        let mut plant = Plant::start(&server, &format!("    protocol: {protocol}\n{FORWARD}")).await;
        for number in 0..20 {
            let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            plant.publish("x/no", "not allowed", qos, false).await;
            plant.publish("x/yes", &number.to_string(), qos, false).await;
        }
        plant.until_drained().await;
        assert_eq!(
            server.seen(|seen| first_of_each(seen.payloads("x/yes"))),
            numbers(20),
            "{protocol} {answer:?}"
        );
        assert_eq!(server.seen(|seen| seen.payloads("x/no").len()), 0);
        assert_eq!(plant.dead_and_lost(), (20, 0), "{protocol} {answer:?}");
        plant.stop().await;
    }
}

#[tokio::test]
async fn a_subscription_that_is_refused_is_told_and_asked_for_again() {
    let receives = "    receive: [{ topic: 'no/#' }, { topic: 'down/#' }]\n";
    for (protocol, _) in BOTH {
        let forbidden_filters = [("no/#".to_owned(), ReasonCode::NotAuthorized)].into();
        let server = Strict::start(Limits { forbidden_filters, ..Limits::default() }).await;
        let mut plant =
            Plant::start(&server, &format!("    protocol: {protocol}\n{FORWARD}{receives}")).await;
        plant
            .until("it is told", |status| status.state == LinkState::Up && status.filters_refused == 1)
            .await;
        assert!(plant.status().degraded.iter().any(|line| line.contains("1 subscription")));
        plant.client.subscribe("no/#", QoS::AtLeastOnce).await;
        plant.client.subscribe("down/#", QoS::AtLeastOnce).await;
        server.publish("down/x", "go", QoS::ExactlyOnce);
        assert_eq!(plant.client.message().await, ("down/x".to_owned(), "go".into()));
        plant.publish("x/1", "0", QoS::ExactlyOnce, false).await;
        server
            .until("tried again on the same connection", |seen| {
                seen.subscribes.iter().filter(|f| *f == "no/#").count() >= 3
            })
            .await;
        server.change(|limits| limits.forbidden_filters.clear());
        plant.until("it is granted", |status| status.filters_refused == 0).await;
        server.publish("no/x", "now", QoS::ExactlyOnce);
        assert_eq!(plant.client.message().await, ("no/x".to_owned(), "now".into()));
        assert_eq!(
            server.seen(|seen| (
                seen.connects.len(),
                seen.subscribes.iter().filter(|f| *f == "down/#").count()
            )),
            (1, 1)
        );
        plant.stop().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_is_tried_again_and_nothing_is_lost() {
    let reasons = [
        ReasonCode::Banned,
        ReasonCode::BadUserNameOrPassword,
        ReasonCode::NotAuthorized,
        ReasonCode::ServerUnavailable,
        ReasonCode::ServerBusy,
        ReasonCode::QuotaExceeded,
        ReasonCode::ConnectionRateExceeded,
        ReasonCode::UnspecifiedError,
    ];
    for (protocol, _) in BOTH {
        let server = Strict::start(Limits::default()).await;
        let mut plant = Plant::start(&server, &format!("    protocol: {protocol}\n{FORWARD}")).await;
        plant.until_up().await;
        for (number, reason) in reasons.into_iter().enumerate() {
            let refusal = Refusal { reason, reference: None };
            server.change(|limits| limits.refusals = std::iter::repeat_n(refusal, 100_000).collect());
            let before = server.seen(|seen| seen.connects.len());
            server.cut();
            server.until("it is refused", |seen| seen.connects.len() > before).await;
            plant.publish("x/1", &number.to_string(), QoS::ExactlyOnce, false).await;
            server.until("it is tried again", |seen| seen.connects.len() >= before + 3).await;
            let told = plant.status().last_error.map(|error| error.to_string()).unwrap_or_default();
            if protocol == "5" {
                assert!(told.contains(&reason.to_string()), "{told}");
            }
            assert!(!told.is_empty(), "{protocol} {reason}");
            assert!(plant.status().queued_messages >= 1, "{protocol} {reason}: {told}");
            server.change(|limits| limits.refusals.clear());
            plant.until_up().await;
        }
        plant.until_drained().await;
        assert_eq!(server.seen(|seen| first_of_each(seen.payloads("x/1"))), numbers(reasons.len()));
        plant.stop().await;
    }
}

/// Who comes back before its time is refused, and has to wait anew: the back-off finds the rate by itself.
#[tokio::test]
async fn a_server_that_limits_connections_is_met_at_its_pace() {
    let limits = Limits { connect_interval: Duration::from_millis(400), ..Limits::default() };
    for (protocol, _) in BOTH {
        let server = Strict::start(limits.clone()).await;
        let keys = format!("    protocol: {protocol}\n    reconnect: {{ min: 100ms, max: 3s }}\n{FORWARD}");
        let mut plant = Plant::start(&server, &keys).await;
        plant.until_up().await;
        for round in 0..2 {
            server.cut();
            plant.publish("x/1", &round.to_string(), QoS::ExactlyOnce, false).await;
            server.until("it arrives", |seen| seen.payloads("x/1").len() > round).await;
        }
        assert_eq!(server.seen(|seen| seen.payloads("x/1")), numbers(2));
        plant.stop().await;
    }
}
