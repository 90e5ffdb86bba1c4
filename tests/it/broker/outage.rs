//! A disk that takes nothing for long: what it would have to take is refused, who waits for it is let go, and the
//! rest goes on.

use tidegate::base::time::Duration;
use tidegate::broker::disk::{ANSWER_WAIT, Refusing};
use tidegate::broker::violation::Fault;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, filter, packet, puback, publish, pubrel, v4, v4_durable, v5, v5_durable};

const NOTHING: [&str; 0] = [];
const BROKEN: ReasonCode = ReasonCode::UnspecifiedError;

/// The disk, and the one bridge that there is, as they are told of.
fn tell(world: &mut World, reason: Option<ReasonCode>, bridge_away: bool) {
    let refusing = reason.map(|reason| Refusing { reason, bridges_away: vec![bridge_away] });
    world.broker.handle_disk(refusing, world.now, &mut world.out);
    world.finish();
}

#[test]
fn only_what_the_disk_would_have_to_take_is_refused() {
    let mut world = World::new();
    world.broker.forward(&filter("up/#"), 0, 0);
    let away = world.join(v4_durable("away"));
    world.subscribe(away, "away/#", 1);
    world.cut(away);
    let online = world.join(v4_durable("online"));
    world.subscribe(online, "online/#", 2);
    let fleeting = world.join(v4("fleeting"));
    world.subscribe(fleeting, "fleeting/#", 2);
    tell(&mut world, Some(ReasonCode::QuotaExceeded), true);
    // Topic, QoS, whether it is refused.
    let cases = [
        ("away/t", 0, false),
        ("away/t", 1, true),
        ("away/t", 2, true),
        ("online/t", 1, false),
        ("online/t", 2, true),
        ("fleeting/t", 1, false),
        ("fleeting/t", 2, false),
        ("nobody/t", 1, false),
        ("up/t", 0, false),
        ("up/t", 1, true),
    ];
    for ((topic, qos, refused), id) in cases.into_iter().zip(1..) {
        let five = world.join(v5("five"));
        world.put(five, packet(publish(topic, "x", qos, id)));
        let told = world.take(five).iter().any(|answer| answer.ends_with(" 97"));
        assert_eq!(told, refused, "{topic} at QoS {qos}");
        world.take(online);
        world.put(online, puback(1));
    }
    assert_eq!(world.broker.stats().publish_refused, 4);
    let five = world.join(v5_durable("five-durable"));
    world.put(five, packet(publish("nobody/t", "x", 2, 1)));
    assert_eq!(world.take(five), ["PUBREC 1 97"], "its identifier would have to be recorded");
    let mut kept = publish("nobody/t", "x", 1, 2);
    kept.retain = true;
    world.put(five, packet(kept));
    assert_eq!(world.take(five), ["PUBACK 2 97"], "a retained message is recorded");
}

#[test]
fn a_bridge_whose_server_is_there_takes_the_place_of_the_disk() {
    let mut world = World::new();
    world.broker.forward(&filter("up/#"), 0, 0);
    let five = world.join(v5("five"));
    tell(&mut world, Some(BROKEN), false);
    world.put(five, packet(publish("up/t", "x", 1, 1)));
    world.put(five, packet(publish("up/t", "x", 2, 2)));
    assert_eq!(world.forwards.len(), 1, "QoS 2 is recorded before it leaves");
    tell(&mut world, Some(BROKEN), true);
    world.put(five, packet(publish("up/t", "x", 1, 3)));
    assert_eq!(world.forwards.len(), 1);
    tell(&mut world, None, true);
    world.put(five, packet(publish("up/t", "x", 1, 4)));
    assert_eq!(world.forwards.len(), 2, "the disk takes it again");
}

#[test]
fn a_3_x_publisher_is_closed_and_keeps_its_message() {
    let mut world = World::new();
    let away = world.join(v4_durable("away"));
    world.subscribe(away, "t", 1);
    world.cut(away);
    tell(&mut world, Some(BROKEN), true);
    let four = world.join(v4("four"));
    let violation = world.send(four, packet(publish("t", "x", 1, 1))).unwrap_err();
    assert_eq!(violation.fault, Fault::BufferFull);
    assert_eq!(world.take(four), NOTHING);
    assert!(world.closed.contains(&four));
}

#[test]
fn who_waits_for_what_is_in_doubt_is_let_go_in_time_and_its_message_comes_once() {
    let mut world = World::new();
    let away = world.join(v4_durable("away"));
    world.subscribe(away, "t", 2);
    world.cut(away);
    world.instant_disk = false;
    let five = world.join(v5_durable("five"));
    let idle = world.join(v5("idle"));
    world.durable();
    world.put(five, packet(publish("t", "x", 2, 1)));
    world.advance(Duration::from_secs(1));
    tell(&mut world, Some(BROKEN), true);
    world.advance(ANSWER_WAIT.saturating_sub(Duration::from_millis(1)));
    tell(&mut world, Some(BROKEN), true);
    assert!(!world.closed.contains(&five));
    world.advance(Duration::from_millis(1));
    tell(&mut world, Some(BROKEN), true);
    assert_eq!(world.take(five), ["DISCONNECT 80"]);
    assert!(world.closed.contains(&five) && !world.closed.contains(&idle));

    let (five, _) = world.connect(v5_durable("five"));
    let mut again = publish("t", "x", 2, 1);
    again.dup = true;
    world.put(five, packet(again));
    assert_eq!(world.take(five), NOTHING, "it is still in doubt");
    tell(&mut world, None, true);
    world.durable();
    assert_eq!(world.take(five), ["PUBREC 1"]);
    world.put(five, pubrel(1));
    world.durable();
    let (_, answers) = world.connect(v4_durable("away"));
    let copies = answers.iter().filter(|answer| answer.starts_with("PUBLISH")).count();
    assert!(copies <= 1, "{answers:?}");
}
