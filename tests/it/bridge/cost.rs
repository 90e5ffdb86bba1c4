//! What makes a message cheaper on the uplink: topic aliases and compression.

use std::sync::Arc;

use tidegate::base::time::Duration;
use tidegate::config::uplink::Compression;
use tidegate::mqtt::message::{Message, MessageProperties, Origin};
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;

use super::world::{World, config, topic};

/// How many PUBLISH packets leave with a topic, and how many with an alias alone, while the cloud takes all of them.
fn drain_counting(world: &mut World) -> (usize, usize) {
    let (mut with_topic, mut with_alias_alone) = (0, 0);
    while let Some(packet) = world.to_cloud.front() {
        if let Packet::Publish(publish) = packet {
            with_topic += usize::from(publish.topic.is_some());
            with_alias_alone += usize::from(publish.topic.is_none() && publish.topic_alias.is_some());
        }
        world.step_cloud();
    }
    world.drain();
    (with_topic, with_alias_alone)
}

#[test]
fn a_topic_leaves_once_a_connection_where_the_server_takes_aliases() {
    let mut world = World::new(config(Version::V5));
    world.cloud.properties.topic_alias_maximum = Some(2);
    world.drain();
    let send = |world: &mut World| {
        for number in 0..9 {
            let name = format!("up/{}", number % 3);
            world.offer(world.message(&name, &number.to_string(), QoS::AtLeastOnce), None);
        }
        drain_counting(world)
    };
    assert_eq!(send(&mut world), (5, 4), "two topics have an alias, the third has none");
    world.cut();
    world.run(Duration::from_secs(5));
    assert_eq!(send(&mut world), (5, 4), "aliases end with their connection [MQTT-3.3.2-7]");
    for number in 0..3 {
        let of_topic = [number, number + 3, number + 6].map(|number| number.to_string());
        let expected = [of_topic.clone(), of_topic].concat();
        assert_eq!(world.delivered(&format!("sites/plant-7/{number}")), expected);
    }
}

#[test]
fn a_server_that_takes_no_aliases_gets_none() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let mut world = World::up(protocol);
        for _ in 0..3 {
            world.offer(world.message("up/a", "1", QoS::AtLeastOnce), None);
        }
        assert_eq!(drain_counting(&mut world), (3, 0));
    }
}

#[test]
fn a_payload_leaves_compressed_and_comes_back_as_it_was() {
    let mut bridge = config(Version::V5);
    bridge.buffer.compress = Compression::Zstd;
    let mut world = World::new(bridge);
    world.drain();
    let plain = "{\"value\":230.1,\"unit\":\"V\",\"quality\":\"good\"}".repeat(50);
    let message = Message {
        properties: Some(Box::new(MessageProperties {
            content_type: Some("application/json".into()),
            payload_format_utf8: Some(true),
            ..MessageProperties::default()
        })),
        ..Message::new(
            topic("up/a"),
            plain.clone(),
            QoS::AtLeastOnce,
            Origin::Client("meter".into()),
            world.now,
        )
    };
    world.offer(message, None);
    world.drain();
    let sent = world.cloud.delivered.last().expect("the message").clone();
    let properties = sent.properties.as_deref().expect("a content type");
    assert_eq!(properties.content_type.as_deref(), Some("application/json+zstd"));
    assert_eq!(properties.payload_format_utf8, None, "what leaves is no text");
    assert!(sent.payload.len() * 4 < plain.len(), "{} of {}", sent.payload.len(), plain.len());
    let Packet::Publish(mut publish) = world.cloud.publish("down/x", "", QoS::AtLeastOnce) else {
        unreachable!("it is a PUBLISH")
    };
    publish.payload = sent.payload;
    publish.properties = sent.properties;
    world.to_bridge.push_back(Packet::Publish(publish));
    world.drain();
    let local: Arc<Message> = world.local.last().expect("it came").clone();
    assert_eq!(&*local.payload, plain.as_bytes());
    let content_type = local.properties.as_deref().and_then(|properties| properties.content_type.as_deref());
    assert_eq!(content_type, Some("application/json"));
}

#[test]
fn a_short_payload_leaves_as_it_is() {
    let mut bridge = config(Version::V5);
    bridge.buffer.compress = Compression::Zstd;
    let mut world = World::new(bridge);
    world.drain();
    world.offer(world.message("up/a", "230.1", QoS::AtLeastOnce), None);
    world.drain();
    assert_eq!(world.delivered("sites/plant-7/a"), ["230.1"]);
}
