//! Clouds with rules of their own, in virtual time: the credential that is renewed, and what is never sent.

use tidegate::auth::signer::SharedKey;
use tidegate::base::time::{Doubt, Duration};
use tidegate::bridge::Bridge;
use tidegate::bridge::fault::LinkFault;
use tidegate::bridge::status::LinkState;
use tidegate::config::model;
use tidegate::config::provider::Account;
use tidegate::config::uplink::Compression;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use super::world::{World, config, forward, receive};

const LIFETIME: Duration = Duration::from_secs(3600);

fn azure() -> model::Bridge {
    model::Bridge {
        account: Account::AzureIotHub {
            hub: "hub.net".into(),
            device: "plant-7".into(),
            module: None,
            key: Some(SharedKey::from_text("key")),
        },
        username: Some("hub.net/plant-7/?api-version=2021-04-12".into()),
        status_topic: None,
        forward: vec![forward("up/#", "devices/plant-7/messages/events/{rest}", None)],
        receive: vec![receive("devices/plant-7/messages/devicebound/#", "{rest}")],
        ..config(Version::V3_1_1)
    }
}

fn passwords(world: &World) -> Vec<String> {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    world.cloud.connects.iter().filter_map(|connect| connect.password.as_deref().map(of)).collect()
}

#[test]
fn a_token_is_renewed_in_good_order_before_it_runs_out() {
    let mut world = World::new(azure());
    world.drain();
    let mut sent = Vec::new();
    // A message every minute for three hours, and always one that is not acknowledged when the time comes.
    for minute in 0..180 {
        sent.push(minute.to_string());
        world.offer(world.message("up/a", &minute.to_string(), QoS::AtLeastOnce), None);
        world.advance(Duration::from_secs(60));
        world.drain();
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.delivered("devices/plant-7/messages/events/a"), sent, "once each, in order");
    assert!(world.cloud.delivered.iter().all(|publish| !publish.dup));
    let passwords = passwords(&world);
    assert_eq!(passwords.len(), 4, "at 54, 108 and 162 minutes");
    assert!(passwords.windows(2).all(|pair| pair[0] != pair[1]));
    let begun = 1_795_255_200 + LIFETIME.as_secs();
    let first = "SharedAccessSignature sr=hub.net%2Fdevices%2Fplant-7&sig=";
    assert!(
        passwords[0].starts_with(first) && passwords[0].ends_with(&format!("&se={begun}")),
        "{passwords:?}"
    );
    assert_eq!(world.bridge.status().duplicates_possible, 0);
}

/// The cloud stops acknowledging: it is not waited for longer than ten seconds, and nothing is lost.
#[test]
fn a_renewal_does_not_wait_for_ever_for_an_answer() {
    let mut world = World::new(azure());
    world.drain();
    world.run(Duration::from_secs(54 * 60 - 1));
    world.cloud.mute = true;
    world.offer(world.message("up/a", "1", QoS::AtLeastOnce), None);
    world.advance(Duration::from_secs(2));
    while world.step_cloud() {}
    assert_eq!(world.bridge.state(), LinkState::Up, "drains");
    // What comes meanwhile waits.
    world.offer(world.message("up/a", "2", QoS::AtLeastOnce), None);
    world.cloud.mute = false;
    world.advance(Duration::from_secs(20));
    world.drain();
    world.run(Duration::from_secs(1));
    assert_eq!(world.delivered("devices/plant-7/messages/events/a"), ["1", "2"]);
    assert_eq!(world.cloud.connects.len(), 2);
}

#[test]
fn without_a_clock_no_token_is_made_and_with_one_at_once() {
    let mut world = World::new(azure());
    world.cut();
    world.now.wall = world.now.wall.with_doubt(Doubt::Unset);
    world.cloud.connects.clear();
    world.advance(Duration::from_secs(5));
    world.drain();
    assert!(world.cloud.connects.is_empty(), "nothing was said");
    let fault = world.bridge.status().last_error.expect("a fault");
    assert!(matches!(fault, LinkFault::NoCredential(_)));
    assert_eq!(fault.to_string(), "the clock is not set, and the credential says until when it is good");
    world.now.wall = world.now.wall.with_doubt(Doubt::None);
    world.visit(Bridge::handle_clock_set);
    world.drain();
    assert_eq!(world.bridge.state(), LinkState::Up);
}

/// AWS and Azure close the connection for any of these: sent again at each, it would never stand.
#[test]
fn what_the_cloud_would_close_the_connection_for_is_never_sent() {
    let rules = vec![forward("up/#", "{rest}", None)];
    let aws = model::Bridge { account: Account::AwsIot, forward: rules, ..config(Version::V5) };
    let mut world = World::new(aws);
    world.drain();
    let long = "x".repeat(257);
    let payload = "x".repeat(128 * 1024 + 1);
    for (name, payload) in [("up/1/2/3/4/5/6/7/8/9", "x"), (&*format!("up/{long}"), "x"), ("up/a", &*payload)]
    {
        world.offer(world.message(name, payload, QoS::AtLeastOnce), None);
    }
    world.offer(world.message("up/1/2/3/4/5/6/7/8", "deep", QoS::ExactlyOnce), None);
    world.offer(world.message("up/b", "now", QoS::AtMostOnce), None);
    world.run(Duration::from_secs(1));
    assert_eq!(world.delivered("1/2/3/4/5/6/7/8"), ["deep"]);
    assert_eq!(world.delivered("b"), ["now"]);
    assert!(world.cloud.delivered.iter().all(|publish| publish.qos < QoS::ExactlyOnce));
    let status = world.bridge.status();
    assert_eq!((status.losses.total(), status.dead.messages, status.queued_messages), (0, 3, 0));
    assert_eq!(world.cloud.subscribes[0].filters[0].1.qos, QoS::AtLeastOnce);
    assert_eq!(world.cloud.connects.len(), 1);

    let mut world = World::new(azure());
    world.drain();
    let mut message = world.message("up/a", "1", QoS::ExactlyOnce);
    message.retain = true;
    world.offer(message, None);
    world.run(Duration::from_secs(1));
    let [publish] = &world.cloud.delivered[..] else { panic!("one") };
    assert_eq!((publish.qos, publish.retain), (QoS::AtLeastOnce, false));
    assert!(world.cloud.connects[0].will.is_none());
}

/// What gateways say to each other is no cloud's business, and a limit of a cloud is of what it gets.
#[test]
fn a_cloud_is_told_nothing_that_is_for_gateways_and_takes_what_compressed_fits() {
    for (account, tells) in [(Account::Generic, true), (Account::AwsIot, false)] {
        let rules = vec![forward("up/#", "{rest}", None)];
        let mut bridge = model::Bridge { account, forward: rules, ..config(Version::V5) };
        bridge.buffer.compress = Compression::Zstd;
        let mut world = World::new(bridge);
        world.settings.may_return = true;
        world.restart();
        world.drain();
        world.offer(world.message("up/a", &"x".repeat(128 * 1024 + 1), QoS::AtLeastOnce), None);
        world.run(Duration::from_secs(1));
        let publish = world.cloud.delivered.last().expect("one");
        let properties = publish.properties.as_deref().expect("some");
        assert_eq!(properties.content_type.as_deref(), Some("application/zstd"));
        assert_eq!(!properties.user_properties.is_empty(), tells);
        let connect = world.cloud.connects.last().expect("one");
        assert_eq!(!connect.properties.user_properties.is_empty(), tells);
    }
}

/// Both reasons at once: the connection is left once, and in good order.
#[test]
fn a_renewal_and_new_certificates_are_one_new_connection() {
    let mut world = World::new(azure());
    world.drain();
    world.run(Duration::from_secs(54 * 60 - 1));
    world.cloud.mute = true;
    world.offer(world.message("up/a", "1", QoS::AtLeastOnce), None);
    world.visit(Bridge::handle_renewed);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.bridge.state(), LinkState::Up, "it waits for the answer");
    world.cloud.mute = false;
    world.drain();
    world.run(Duration::from_secs(60));
    assert_eq!(world.cloud.connects.len(), 2);
    assert_eq!(world.delivered("devices/plant-7/messages/events/a"), ["1"]);
    assert_eq!((world.bridge.state(), world.bridge.status().duplicates_possible), (LinkState::Up, 0));
}
