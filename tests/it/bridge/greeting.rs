//! As what a 3.1.1 bridge greets servers that know bridges, that do not, and that say so in their own ways.

use tidegate::base::time::Duration;
use tidegate::bridge::status::LinkState;
use tidegate::config::model;
use tidegate::config::provider::Account;
use tidegate::mqtt::packet::connect::Role::{self, Bridge, Client, Gateway};
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;

use super::world::{World, config, topic};

/// Its first connection, at once.
fn meets(change: impl FnOnce(&mut World)) -> World {
    let mut world = World::new(config(Version::V3_1_1));
    // The brain asked for a cloud at its start already: what that was is forgotten.
    world.cloud = super::cloud_model::Cloud::default();
    change(&mut world);
    world.restart();
    world.drain();
    world
}

fn is_up(world: &World) -> bool {
    world.bridge.status().state == LinkState::Up
}

fn role(world: &World) -> Role {
    world.cloud.connects.last().expect("a connection").role
}

/// The connection breaks, and whoever was turned away for the next one.
fn turned_away_next(world: &mut World) -> Vec<Role> {
    world.cloud.turned_away.clear();
    world.cut();
    world.run(Duration::from_secs(120));
    assert!(is_up(world));
    std::mem::take(&mut world.cloud.turned_away)
}

#[test]
fn a_server_that_refuses_a_level_is_asked_once() {
    for (takes, expected) in [(Client, &[Gateway, Bridge][..]), (Bridge, &[Gateway])] {
        let mut world = meets(|world| world.cloud.takes = takes);
        assert!(is_up(&world), "without a back-off");
        assert_eq!((role(&world), &world.cloud.turned_away[..]), (takes, expected));
        assert_eq!(turned_away_next(&mut world), []);
        assert_eq!((role(&world), world.bridge.status().losses.total()), (takes, 0));
    }
}

#[test]
fn another_gateway_is_known_and_stays_so() {
    let mut world = meets(|world| {
        world.cloud.takes = Gateway;
        world.cloud.properties.set_gateway("");
    });
    for _ in 0..3 {
        assert_eq!((is_up(&world), role(&world)), (true, Gateway));
        assert_eq!(turned_away_next(&mut world), []);
    }
    world.offer(world.message("up/a", "1", QoS::AtLeastOnce), None);
    world.drain();
    let marked: Vec<_> = world.cloud.delivered.iter().filter_map(|publish| publish.topic.clone()).collect();
    assert!(marked.contains(&topic("$tidegate-via/mark7/sites/plant-7/a")), "{marked:?}");
    let down = world.cloud.publish("$tidegate-via/other,third/down/x", "2", QoS::AtLeastOnce);
    world.to_bridge.push_back(down);
    world.drain();
    let local = world.local.last().expect("it came");
    let properties = local.properties.as_deref().expect("marks");
    assert_eq!(local.topic.as_str(), "x");
    assert!(properties.went_through("other") && properties.went_through("third"));
}

/// Such a server takes the connection for a plain one: it is left in good order, for one that it knows more of.
#[test]
fn a_server_that_overlooks_what_it_does_not_know_is_greeted_as_by_a_bridge() {
    let mut world = meets(|world| world.cloud.takes = Gateway);
    world.run(Duration::from_secs(1));
    assert_eq!((is_up(&world), role(&world)), (true, Bridge));
    assert!(matches!(world.parting.last(), Some(Packet::Disconnect(_))), "{:?}", world.parting);
    assert_eq!(turned_away_next(&mut world), []);
    let roles: Vec<Role> = world.cloud.connects.iter().map(|connect| connect.role).collect();
    assert_eq!(roles, [Gateway, Bridge, Bridge]);
    world.offer(world.message("up/a", "1", QoS::AtLeastOnce), None);
    world.drain();
    assert_eq!(world.delivered("sites/plant-7/a"), ["1"], "without a mark");
}

#[test]
fn a_server_that_closes_is_asked_twice() {
    for (takes, expected) in [(Client, &[Gateway, Bridge][..]), (Bridge, &[Gateway])] {
        let mut world = meets(|world| (world.cloud.takes, world.cloud.closes) = (takes, true));
        assert!(is_up(&world), "without a back-off");
        assert_eq!((role(&world), &world.cloud.turned_away[..]), (takes, expected));
        assert_eq!(turned_away_next(&mut world), expected, "it might have been going down");
        assert_eq!(turned_away_next(&mut world), []);
        assert_eq!(role(&world), takes);
    }
}

/// Behind a proxy that takes connections for it: what it could not answer says nothing of what it knows.
#[test]
fn a_server_that_is_down_loses_nothing_by_it() {
    for attempts in 1..9 {
        let mut world = meets(|world| {
            (world.cloud.takes, world.cloud.closes) = (Gateway, true);
            world.cloud.properties.set_gateway("");
            world.cloud.rested_at = world.now.instant + Duration::from_secs(600);
        });
        assert!(!is_up(&world));
        while world.cloud.turned_away.len() < attempts {
            world.advance(Duration::from_millis(100));
        }
        world.cloud.rested_at = world.now.instant;
        world.run(Duration::from_secs(120));
        assert_eq!((is_up(&world), role(&world)), (true, Gateway), "after {attempts}");
        assert_eq!(turned_away_next(&mut world), []);
    }
}

/// One that counts how often it is asked would never be met by tries that follow each other.
#[test]
fn a_server_that_wants_a_rest_gets_it() {
    let mut world = meets(|world| {
        (world.cloud.takes, world.cloud.closes) = (Client, true);
        world.cloud.rest = Duration::from_millis(50);
    });
    assert!(!is_up(&world));
    world.run(Duration::from_secs(600));
    assert_eq!((is_up(&world), role(&world)), (true, Client));
    assert!(world.cloud.turned_away.len() < 24, "{:?}", world.cloud.turned_away);
    assert_eq!(turned_away_next(&mut world), []);
}

#[test]
fn a_silent_server_is_not_mistaken_either() {
    let mut world = meets(|world| {
        world.cloud.takes = Gateway;
        world.cloud.properties.set_gateway("");
        world.cloud.mute = true;
    });
    world.run(Duration::from_secs(300));
    world.cloud.mute = false;
    world.run(Duration::from_secs(300));
    assert_eq!((is_up(&world), role(&world)), (true, Gateway));
}

/// What its manual does not know is not tried with a cloud that has one; 5.0 says it in other ways.
#[test]
fn who_has_rules_of_its_own_or_speaks_5_is_not_asked() {
    let azure = Account::AzureIotHub { hub: "hub.net".into(), device: "d".into(), module: None, key: None };
    for bridge in [model::Bridge { account: azure, ..config(Version::V3_1_1) }, config(Version::V5)] {
        let mut world = World::new(bridge);
        world.drain();
        assert_eq!((role(&world), world.cloud.turned_away.len()), (Client, 0));
    }
}

#[test]
fn a_pause_is_one_in_the_middle_of_it() {
    let mut world = meets(|world| {
        (world.cloud.takes, world.cloud.closes) = (Client, true);
        world.cloud.rest = Duration::from_secs(3600);
    });
    world.visit(tidegate::bridge::Bridge::handle_pause);
    let asked = world.cloud.turned_away.len();
    world.run(Duration::from_secs(600));
    assert_eq!((world.bridge.status().state, world.cloud.turned_away.len()), (LinkState::Paused, asked));
}
