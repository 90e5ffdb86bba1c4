//! Names that are checked elsewhere, tokens that end, and rules that let through what they name and nothing else.

use std::path::Path;
use std::sync::Arc;

use tidegate::auth::passwords::Passwords;
use tidegate::auth::{Credentials, Identity, Proof, Refusal, Revoked};
use tidegate::base::time::{Duration, Timestamp};
use tidegate::broker::effect::ConnKey;
use tidegate::broker::login::{Change, LOGIN_WAIT, WAITING_PACKETS_MAX};
use tidegate::broker::violation::Fault;
use tidegate::broker::{CONNECT_WAIT, Peer, Settings};
use tidegate::config::access::AccessRule;
use tidegate::config::expand::ProcessEnvironment;
use tidegate::config::load::parse;
use tidegate::config::model::Anonymous;
use tidegate::mqtt::message::Origin;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::connect::Connect;

use super::world::{
    World, options, packet, puback, publish, pubrel, settings, subscribe, v4, v4_durable, v5, v5_durable,
    will,
};

fn rules(text: &str) -> Option<Arc<[AccessRule]>> {
    let text = format!("{{ gateway: {{ id: g }}, broker: {{ access: {text} }} }}");
    let config =
        parse("t", &text, Path::new(""), &ProcessEnvironment).unwrap_or_else(|faults| panic!("{faults}"));
    config.broker.access
}

/// Nobody without a name.
fn by_name() -> Settings {
    Settings { anonymous: Anonymous::Never, logins: true, ..settings() }
}

fn under(text: &str) -> World {
    World::with(Settings { access: rules(text), anonymous: Anonymous::Always, ..by_name() })
}

fn named(connect: Connect, user: &str) -> Connect {
    Connect { username: Some(user.into()), password: Some("secret".into()), ..connect }
}

fn identity(user: &str) -> Identity {
    Identity { user: user.into(), proof: Proof::Password, until: None }
}

fn answer(world: &mut World, result: Result<Identity, Refusal>) {
    let login = world.logins.remove(0);
    world.broker.handle_authenticated(login.conn, result, world.now, &mut world.out).unwrap();
    world.finish();
}

/// Connects under a name, which is believed.
fn join_as(world: &mut World, connect: Connect, user: &str) -> ConnKey {
    let key = world.open();
    world.put(key, Packet::Connect(Box::new(named(connect, user))));
    answer(world, Ok(identity(user)));
    let sent = world.take(key);
    assert!(sent.first().is_some_and(|first| first.starts_with("CONNACK 00")), "{sent:?}");
    key
}

#[test]
fn a_name_is_checked_elsewhere_and_then_answered() {
    let cases = [
        (Ok(identity("ann")), "CONNACK 00"),
        (Err(Refusal::Wrong), "CONNACK 86"),
        (Err(Refusal::Busy), "CONNACK 89"),
    ];
    for (result, wanted) in cases {
        for connect in [v4("a"), v5("a")] {
            let mut world = World::with(by_name());
            let key =
                world.broker.handle_open(Peer { loopback: true, address: 7, ..Peer::default() }, world.now);
            world.put(key, Packet::Connect(Box::new(named(connect, "ann"))));
            assert!(world.broker.is_authenticating(key));
            let login = &world.logins[0];
            assert_eq!((login.conn, login.address, login.username.as_deref()), (key, 7, Some("ann")));
            assert_eq!(login.password, "secret");
            assert!(!format!("{login:?}").contains("secret"));
            assert_eq!(world.take(key), [""; 0], "no answer before the other");
            answer(&mut world, result.clone());
            assert_eq!(world.take(key), [wanted]);
            assert!(!world.broker.is_authenticating(key));
            assert_eq!(world.closed.contains(&key), result.is_err());
        }
    }
}

#[test]
fn whoever_names_nobody_is_not_asked() {
    let mut alone = v5("a");
    alone.password = Some("a.b.c".into());
    let cases = [
        (Anonymous::Never, v5("a"), Some("CONNACK 87")),
        (Anonymous::Always, v5("a"), Some("CONNACK 00")),
        // Even where everybody may come in, a name has to be right.
        (Anonymous::Always, named(v5("a"), "ann"), None),
        (Anonymous::Always, alone, None),
        // What is wrong anyway costs no hash.
        (Anonymous::Never, named(v4_durable(""), "ann"), Some("CONNACK 85")),
    ];
    for (anonymous, connect, wanted) in cases {
        let mut world = World::with(Settings { anonymous, ..by_name() });
        let text = format!("{anonymous:?} {:?}", connect.username);
        let (_, sent) = world.connect(connect);
        assert_eq!(sent.first().map(String::as_str), wanted, "{text}");
        assert_eq!(world.logins.len(), usize::from(wanted.is_none()), "{text}");
    }
}

#[test]
fn packets_behind_a_login_wait_for_it_in_order() {
    let mut world = World::with(by_name());
    let key = world.open();
    world.put(key, Packet::Connect(Box::new(named(v5("a"), "ann"))));
    world.put(key, subscribe(&[("t", options())], None));
    world.put(key, packet(publish("t", "x", 1, 1)));
    world.put(key, Packet::Pingreq);
    assert_eq!(world.take(key), [""; 0]);
    answer(&mut world, Ok(identity("ann")));
    assert_eq!(world.take(key), ["CONNACK 00", "SUBACK 9 00", "PUBLISH t q0 x", "PUBACK 1", "PINGRESP"]);

    // After a refusal they are not processed, and nothing says that they were there.
    let key = world.open();
    world.put(key, Packet::Connect(Box::new(named(v5("b"), "ann"))));
    world.put(key, packet(publish("t", "y", 1, 1)));
    answer(&mut world, Err(Refusal::Wrong));
    assert_eq!(world.take(key), ["CONNACK 86"]);

    let key = world.open();
    world.put(key, Packet::Connect(Box::new(named(v5("c"), "ann"))));
    for _ in 0..WAITING_PACKETS_MAX {
        world.put(key, Packet::Pingreq);
    }
    let violation = world.send(key, Packet::Pingreq).expect_err("one too many");
    assert_eq!(violation.fault, Fault::TooMuchBeforeConnack);
    assert!(world.closed.contains(&key) && world.take(key).is_empty());
    answer(&mut world, Ok(identity("ann")));
    assert!(world.take(key).is_empty(), "it has gone");
}

#[test]
fn a_login_that_nobody_answers_is_told_so() {
    let mut world = World::with(by_name());
    let key = world.open();
    world.put(key, Packet::Connect(Box::new(named(v5("a"), "ann"))));
    world.advance(CONNECT_WAIT + Duration::from_secs(1));
    assert!(!world.closed.contains(&key), "its CONNECT came in time");
    world.advance(LOGIN_WAIT);
    assert_eq!(world.take(key), ["CONNACK 89"]);
    answer(&mut world, Ok(identity("ann")));
    assert!(world.take(key).is_empty() && world.broker.stats().connections == 0);
}

#[test]
fn a_connection_ends_when_its_token_does() {
    let mut world = World::with(by_name());
    let join = |world: &mut World, connect: Connect, secs: i64| {
        let key = world.open();
        world.put(key, Packet::Connect(Box::new(named(connect, "ann"))));
        let until = Some(Timestamp::from_millis(world.now.wall.as_millis() + secs * 1000));
        answer(world, Ok(Identity { user: "ann".into(), proof: Proof::Token, until }));
        assert_eq!(world.take(key), ["CONNACK 00"]);
        key
    };
    let mut keep = v5("a");
    keep.keep_alive = 600;
    let (short, long) = (join(&mut world, keep.clone(), 30), join(&mut world, v5("b"), 50));
    let silent = join(&mut world, Connect { keep_alive: 0, ..v4("c") }, 40);
    world.advance(Duration::from_secs(29));
    assert!(world.closed.is_empty());
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take(short), ["DISCONNECT a0"]);
    assert!(world.closed.contains(&short) && !world.closed.contains(&silent));
    // The wall clock goes back: the token is good for longer than it seemed.
    world.now.wall = Timestamp::from_millis(world.now.wall.as_millis() - 15_000);
    world.advance(Duration::from_secs(20));
    assert!(!world.closed.contains(&silent) && !world.closed.contains(&long));
    world.advance(Duration::from_secs(5));
    assert!(world.closed.contains(&silent) && !world.closed.contains(&long));
    world.advance(Duration::from_secs(10));
    assert_eq!(world.take(long), ["DISCONNECT a0"]);
    // One that went before leaves no deadline behind.
    let gone = join(&mut world, keep, 30);
    world.leave(gone);
    assert_eq!(world.broker.next_deadline(), None);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let text = r##"[
        { user: "sensor-*", client_id: "s*", publish: ["s/{client_id}/#"], subscribe: ["c/{user}"] },
        { user: "sensor-*", publish: ["other/#"] },
        { anonymous: true, subscribe: ["open/#"] },
        { user: admin, publish: ["#"], subscribe: ["#", "$SYS/#"] },
    ]"##;
    let mut world = under(text);
    let watcher = join_as(&mut world, v5("watch"), "admin");
    world.subscribe(watcher, "#", 0);
    let sensor = join_as(&mut world, v5("s1"), "sensor-1");
    let other = join_as(&mut world, v5("x1"), "sensor-1");
    let stranger = join_as(&mut world, v5("s2"), "eve");
    let nobody = world.join(v5("s3"));
    let cases = [
        (sensor, "s/s1/t", true),
        (sensor, "s/s2/t", false),
        (sensor, "other/t", false),
        (other, "other/t", true),
        (other, "s/x1/t", false),
        (stranger, "s/s2/t", false),
        (nobody, "open/t", false),
        (watcher, "s/s1/t", true),
        (watcher, "$SYS/t", false),
    ];
    for (key, topic, allowed) in cases {
        world.put(key, packet(publish(topic, "x", 1, 1)));
        let mut sent = world.take(key);
        let wanted = if allowed { "PUBACK 1" } else { "PUBACK 1 87" };
        assert!(sent.contains(&wanted.to_owned()), "{topic}: {sent:?}");
        sent.append(&mut world.take(watcher));
        assert_eq!(sent.contains(&format!("PUBLISH {topic} q0 x")), allowed, "{topic}: {sent:?}");
    }
    let filters = [
        (sensor, "c/sensor-1", "01"),
        (sensor, "c/+", "01"),
        (sensor, "#", "01"),
        (sensor, "$share/g/c/#", "01"),
        (sensor, "c/sensor-2", "87"),
        (sensor, "s/s1/#", "87"),
        (sensor, "$SYS/#", "87"),
        (other, "#", "87"),
        (stranger, "#", "87"),
        (nobody, "open/+", "01"),
        (nobody, "c/#", "87"),
        (watcher, "$SYS/broker/+", "01"),
    ];
    for (key, filter, code) in filters {
        assert_eq!(world.subscribe(key, filter, 1), [format!("SUBACK 9 {code}")], "{filter}");
    }
}

#[test]
fn what_may_not_be_published_is_answered_as_the_version_allows() {
    let mut world = under(r##"[{ user: ann, publish: ["a"], subscribe: ["#"] }]"##);
    let watcher = join_as(&mut world, v5("w"), "ann");
    world.subscribe(watcher, "#", 2);
    let (old, new) = (join_as(&mut world, v4("o"), "ann"), join_as(&mut world, v5("n"), "ann"));
    for key in [old, new] {
        world.put(key, packet(publish("b", "x", 0, 0)));
        assert!(world.take(key).is_empty());
    }
    // [MQTT-3.3.5-2]
    for (key, qos, wanted) in
        [(old, 1, "PUBACK 5"), (new, 1, "PUBACK 5 87"), (old, 2, "PUBREC 5"), (new, 2, "PUBREC 5 87")]
    {
        world.put(key, packet(publish("b", "x", qos, 5)));
        assert_eq!(world.take(key), [wanted]);
    }
    world.put(old, pubrel(5));
    assert_eq!(world.take(old), ["PUBCOMP 5"]);
    assert!(world.take(watcher).is_empty(), "nothing came through");
    assert_eq!(world.broker.stats().denied, 6);
    let denied = world.broker.denied().expect("the last one");
    assert_eq!((denied.count, &*denied.client_id, denied.user.as_deref()), (6, "n", Some("ann")));
    assert_eq!(denied.topic.as_str(), "b");
    world.put(new, packet(publish("a", "x", 2, 5)));
    assert_eq!(world.take(new), ["PUBREC 5"]);
    assert_eq!(world.take(watcher), ["PUBLISH a q2 id=1 x"]);
}

#[test]
fn a_wide_filter_brings_what_the_rule_allows() {
    let mut world = under(
        r##"[
        { user: ann, subscribe: ["a/#", "b/+/{client_id}"] },
        { user: admin, publish: ["#"] },
    ]"##,
    );
    let admin = join_as(&mut world, v5("admin"), "admin");
    let mut kept = publish("c/kept", "x", 1, 1);
    kept.retain = true;
    world.put(admin, packet(kept.clone()));
    kept.topic = Some(super::world::name("a/kept"));
    world.put(admin, packet(kept));
    world.take(admin);
    let ann = join_as(&mut world, v5("c1"), "ann");
    assert_eq!(world.subscribe(ann, "#", 1), ["SUBACK 9 01", "PUBLISH a/kept q1 id=1 retain x"]);
    world.put(ann, puback(1));
    for topic in ["a", "a/b/c", "b/x/c1", "b/x/c2", "c", "b/c1"] {
        world.put(admin, packet(publish(topic, "x", 0, 0)));
    }
    let message = world.message("c/device", 1, Origin::Device(0));
    world.publish(message, None).unwrap();
    assert_eq!(world.take(ann), ["PUBLISH a q0 x", "PUBLISH a/b/c q0 x", "PUBLISH b/x/c1 q0 x"]);
}

#[test]
fn a_message_that_nobody_may_have_holds_no_acknowledgement() {
    let mut world = under(r##"[{ user: ann, subscribe: ["a/#"] }, { user: admin, publish: ["#"] }]"##);
    world.instant_disk = false;
    let admin = join_as(&mut world, v5("admin"), "admin");
    let ann = join_as(&mut world, v5_durable("c1"), "ann");
    world.subscribe(ann, "#", 1);
    world.durable();
    world.cut(ann);
    world.put(admin, packet(publish("b", "x", 1, 1)));
    assert_eq!(world.take(admin), ["PUBACK 1"], "it waits for no disk");
    world.put(admin, packet(publish("a", "x", 1, 2)));
    world.advance(super::world::COMMIT);
    assert_eq!(world.take(admin), [""; 0]);
    world.durable();
    assert_eq!(world.take(admin), ["PUBACK 2"]);
}

#[test]
fn a_shared_message_goes_to_a_member_that_may_have_it() {
    let mut world = under(
        r##"[
        { user: ann, subscribe: ["a/#"] },
        { user: bob, subscribe: ["b/#"] },
        { user: admin, publish: ["#"] },
    ]"##,
    );
    let admin = join_as(&mut world, v5("admin"), "admin");
    let (ann, bob) = (join_as(&mut world, v5("c1"), "ann"), join_as(&mut world, v5("c2"), "bob"));
    for key in [ann, bob] {
        assert_eq!(world.subscribe(key, "$share/g/#", 0), ["SUBACK 9 00"]);
    }
    for topic in ["a/1", "a/2", "b/1", "b/2", "c"] {
        world.put(admin, packet(publish(topic, "x", 0, 0)));
    }
    assert_eq!(world.take(ann), ["PUBLISH a/1 q0 x", "PUBLISH a/2 q0 x"]);
    assert_eq!(world.take(bob), ["PUBLISH b/1 q0 x", "PUBLISH b/2 q0 x"]);
}

/// What was queued while nobody could tell for whom, or for somebody else under the same client identifier.
#[test]
fn whoever_comes_for_a_session_gets_what_he_may_have() {
    let text = r##"[{ user: ann, subscribe: ["a/#"] }, { user: bob, subscribe: ["b/#"] },
        { user: admin, publish: ["#"] }]"##;
    for comes in ["ann", "bob"] {
        let mut world = under(text);
        let first = join_as(&mut world, v5_durable("c1"), "ann");
        world.subscribe(first, "#", 1);
        world.cut(first);
        world.crash();
        let admin = join_as(&mut world, v5("admin"), "admin");
        for (topic, id) in [("a", 1), ("b", 2), ("c", 3)] {
            world.put(admin, packet(publish(topic, "x", 1, id)));
        }
        world.advance(super::world::COMMIT);
        assert_eq!(world.take(admin), ["PUBACK 1", "PUBACK 2", "PUBACK 3"]);
        let key = world.open();
        world.put(key, Packet::Connect(Box::new(named(v5_durable("c1"), comes))));
        answer(&mut world, Ok(identity(comes)));
        let sent = world.take(key);
        assert_eq!(sent[0], "CONNACK 00 present");
        let topics: Vec<_> = sent[1..].iter().map(|line| &line[..9]).collect();
        assert_eq!(topics, [format!("PUBLISH {}", &comes[..1])], "{sent:?}");
    }
}

#[test]
fn a_will_is_checked_while_its_client_is_there() {
    let mut world = under(r#"[{ user: ann, publish: ["a/{client_id}"] }]"#);
    for (connect, topic, wanted) in [
        (v5("c1"), "a/c1", "CONNACK 00"),
        (v5("c2"), "a/c1", "CONNACK 87"),
        (v4("c3"), "b", "CONNACK 87"),
        (v5("+"), "a/+", "CONNACK 87"),
    ] {
        let key = world.open();
        let topic = if topic.ends_with('+') { "a/x" } else { topic };
        let connect = Connect { will: Some(will(topic, 0)), ..connect };
        world.put(key, Packet::Connect(Box::new(named(connect, "ann"))));
        answer(&mut world, Ok(identity("ann")));
        assert_eq!(world.take(key), [wanted], "{topic}");
        assert_eq!(world.closed.contains(&key), wanted != "CONNACK 00");
    }
    assert_eq!(world.broker.stats().sessions, 1, "who was refused left nothing behind");
}

#[test]
fn an_assigned_client_id_is_what_the_rules_see() {
    let mut world = under(r#"[{ client_id: "auto-*", publish: ["a"] }]"#);
    let (key, sent) = world.connect(v5(""));
    assert_eq!(sent, ["CONNACK 00"]);
    world.put(key, packet(publish("a", "x", 1, 1)));
    assert_eq!(world.take(key), ["PUBACK 1 10"]);
}

#[test]
fn without_rules_everything_is_allowed_and_with_an_empty_list_nothing() {
    let mut world = World::with(by_name());
    let ann = join_as(&mut world, v5("c1"), "ann");
    for filter in ["#", "$SYS/#"] {
        assert_eq!(world.subscribe(ann, filter, 0), ["SUBACK 9 00"]);
    }
    world.put(ann, packet(publish("a", "x", 1, 1)));
    assert_eq!(world.take(ann), ["PUBLISH a q0 x", "PUBACK 1"]);
    let mut world = under("[]");
    let key = world.join(v5("c1"));
    assert_eq!(world.subscribe(key, "#", 0), ["SUBACK 9 87"]);
    world.put(key, packet(publish("a", "x", 1, 1)));
    assert_eq!(world.take(key), ["PUBACK 1 87"]);
}

#[test]
fn new_rules_hold_for_those_who_are_here() {
    let mut world = under(r#"[{ user: ann, publish: ["a"], subscribe: ["a"] }]"#);
    let ann = join_as(&mut world, v5("c1"), "ann");
    world.subscribe(ann, "+", 0);
    world.put(ann, packet(publish("b", "x", 1, 1)));
    assert_eq!(world.take(ann), ["PUBACK 1 87"]);
    world.broker.handle_access(rules(r#"[{ user: ann, publish: ["b"], subscribe: ["b"] }]"#));
    world.put(ann, packet(publish("b", "x", 1, 1)));
    assert_eq!(world.take(ann), ["PUBLISH b q0 x", "PUBACK 1"]);
    world.put(ann, packet(publish("a", "x", 1, 1)));
    assert_eq!(world.take(ann), ["PUBACK 1 87"]);
    world.broker.handle_access(None);
    world.put(ann, packet(publish("a", "x", 1, 1)));
    assert_eq!(world.take(ann), ["PUBLISH a q0 x", "PUBACK 1"]);
}

/// Its will goes by the new rules, which come first.
#[test]
fn whoever_was_let_in_by_what_counts_no_more_is_shut_out() {
    let hash =
        "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
    let credentials = |users: &[&str]| {
        let lines: Vec<_> = users.iter().map(|user| format!("{user}:{hash}")).collect();
        let passwords = Some(Arc::new(Passwords::parse(&lines.join("\n")).unwrap()));
        Credentials { passwords, tokens: None }
    };
    let revoked = credentials(&["ann", "bob"]).revoked_by(&credentials(&["bob"]));
    let mut world = under(r##"[{ user: "*", publish: ["#"], subscribe: ["#"] }, { publish: ["#"] }]"##);
    let ann = join_as(&mut world, Connect { will: Some(will("w", 0)), ..v5("c1") }, "ann");
    let bob = join_as(&mut world, v5("c2"), "bob");
    world.subscribe(bob, "w", 0);
    let nameless = world.join(v4("c3"));
    let certified = Peer { certificate_user: Some("ann".into()), ..Peer::default() };
    let certified = world.broker.handle_open(certified, world.now);
    world.put(certified, Packet::Connect(Box::new(v5("c4"))));
    world.take(certified);
    world.broker.handle_access(rules(r#"[{ user: "*", publish: ["a"], subscribe: ["w"] }]"#));
    let change = Change { anonymous: Anonymous::Always, logins: true, revoked: &revoked };
    assert_eq!(world.broker.handle_authentication(&change, world.now, &mut world.out), 1);
    world.finish();
    assert_eq!(world.take(ann), ["DISCONNECT 98"]);
    assert!(world.take(bob).is_empty(), "no will");
    let change = Change { anonymous: Anonymous::Never, logins: true, revoked: &Revoked::default() };
    assert_eq!(world.broker.handle_authentication(&change, world.now, &mut world.out), 1);
    world.finish();
    let closed = [ann, bob, nameless, certified].map(|key| world.closed.contains(&key));
    assert_eq!(closed, [true, false, true, false]);
    assert_eq!(world.broker.stats().revoked, 2);
    assert_eq!(world.connect(v5("c5")).1, ["CONNACK 87"]);
}
