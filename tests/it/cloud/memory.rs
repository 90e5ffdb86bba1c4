//! What a server showed is known after a restart, so that no connection ends for it once more; with another
//! configuration, or without a file that can be read, it is found out anew.

use tidegate::bridge::status::LinkState;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use super::limits::{BOTH, Plant};
use super::strict::{Answer, Limits, Seen, Strict};

const FILE: &str = "uplinks.json";

fn ends(seen: &Seen) -> usize {
    seen.violations.len() + seen.closed.len()
}

/// Messages of QoS 2 and of a topic that is not allowed have found their ends, and a filter has, too.
async fn settle(server: &Strict, plant: &mut Plant, payload: &str) {
    plant.publish("x/yes", payload, QoS::ExactlyOnce, false).await;
    plant.publish("x/no", payload, QoS::AtLeastOnce, false).await;
    plant.until_drained().await;
    server.until("it arrives", |seen| seen.payloads("x/yes").iter().any(|found| found == payload)).await;
    let is_told = |lines: &[String]| lines.iter().any(|line| line.contains("left out"));
    plant.until("the filter is left out", |s| s.state == LinkState::Up && is_told(&s.degraded)).await;
}

#[tokio::test]
async fn what_a_server_showed_is_known_after_a_restart() {
    for (protocol, _) in BOTH {
        let server = Strict::start(Limits {
            announces: false,
            maximum_qos: QoS::AtLeastOnce,
            forbidden: [("x/no".to_owned(), Answer::Leave(ReasonCode::NotAuthorized))].into(),
            closed_filters: [("no/#".to_owned(), None)].into(),
            ..Limits::default()
        })
        .await;
        let keys = format!(
            "    protocol: {protocol}\n    client_id: one\n    forward: [{{ topic: 'x/#' }}]\n    receive: [{{ topic: 'no/#' }}, \
             {{ topic: 'down/#' }}]\n"
        );
        let mut plant = Plant::start(&server, &keys).await;
        settle(&server, &mut plant, "first").await;
        let before = server.seen(ends);
        assert!(before > 8, "{protocol}: {before}");

        let mut plant = plant.restart(|folder, _| assert!(folder.join(FILE).exists())).await;
        settle(&server, &mut plant, "again").await;
        assert_eq!(server.seen(ends), before, "{protocol}: it is known");
        assert_eq!((plant.status().dead.messages, plant.status().losses.total()), (2, 0));

        let spoil = |folder: &std::path::Path, _: &mut String| {
            std::fs::write(folder.join(FILE), "not a note").expect("written");
        };
        let mut plant = plant.restart(spoil).await;
        settle(&server, &mut plant, "anew").await;
        let after = server.seen(ends);
        assert!(after > before, "{protocol}: nothing is known without it");

        let mut plant =
            plant.restart(|_, rest| *rest = rest.replace("client_id: one", "client_id: two")).await;
        settle(&server, &mut plant, "other").await;
        assert!(server.seen(ends) > after, "{protocol}: of another client nothing is known");
        plant.stop().await;
    }
}
