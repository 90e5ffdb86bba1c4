//! The wall clock is set while the broker runs, forwards and back, and across restarts.

use tidegate::auth::{Identity, Proof};
use tidegate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
use tidegate::broker::Settings;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::connect::Connect;

use super::world::{World, settings, v4, v4_durable, v5_durable, will};

const YEAR_2026_MS: i64 = 1_795_255_200_000;
const NOTHING: [&str; 0] = [];

/// A world whose machine was started 1000 seconds ago, with a clock that nobody has set.
fn unset_world() -> World {
    let mut world = World::new();
    world.now.instant = Instant::BOOT + Duration::from_secs(1000);
    world.now.wall = unset(1_000_000);
    world
}

fn unset(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).with_doubt(Doubt::Unset)
}

/// The clock is set, to so many milliseconds.
fn set(world: &mut World, millis: i64) {
    world.now.wall = Timestamp::from_millis(millis);
    let now = world.now;
    world.broker.handle_clock_step(now);
    world.broker.handle_clock_set(now, &mut world.out);
    world.finish();
}

/// The clock is stepped, and believed before and after.
fn step(world: &mut World, by_secs: i64) {
    world.now.wall = Timestamp::from_millis(world.now.wall.as_millis() + by_secs * 1000);
    world.broker.handle_clock_step(world.now);
    world.finish();
}

fn reading(world: &World) -> Message {
    let payload = r#"{"value":1,"time":"1970-01-01T00:16:40.000Z","clock":"unsynchronised"}"#;
    Message { payload: payload.into(), retain: true, ..world.message("m", 1, Origin::Device(0)) }
}

const CORRECTED: &str = r#"{"value":1,"time":"2026-11-21T10:00:00.000Z"}"#;

#[test]
fn readings_are_corrected_for_who_was_away_and_for_who_comes_later() {
    let mut world = unset_world();
    let key = world.join(v4_durable("c"));
    world.subscribe(key, "m", 1);
    world.cut(key);
    let message = reading(&world);
    world.publish(message, None).unwrap();
    world.now.instant = world.now.instant + Duration::from_secs(30);
    set(&mut world, YEAR_2026_MS + 30_000);
    let (_, sent) = world.connect(v4_durable("c"));
    assert_eq!(sent[1..], [format!("PUBLISH m q1 id=1 {CORRECTED}")]);
    let later = world.join(v4("later"));
    let sent = world.subscribe(later, "m", 0);
    assert_eq!(sent[1..], [format!("PUBLISH m q0 retain {CORRECTED}")]);
    // The right time is on the disk, too.
    world.advance(Duration::from_secs(601));
    assert_eq!(world.disk.retained.values().next().unwrap().payload, CORRECTED);
}

#[test]
fn a_client_s_own_words_are_never_changed_and_a_repeat_is_the_same_packet() {
    let mut world = unset_world();
    let key = world.join(v4_durable("c"));
    world.subscribe(key, "#", 1);
    let of_client = Message { origin: Origin::Client("meter".into()), ..reading(&world) };
    let marked = String::from_utf8(of_client.payload.to_vec()).unwrap();
    world.take(key);
    world.publish(Message { retain: false, ..of_client }, None).unwrap();
    let message = Message { retain: false, ..reading(&world) };
    world.publish(message, None).unwrap();
    assert_eq!(world.take(key).len(), 2);
    world.cut(key);
    set(&mut world, YEAR_2026_MS);
    let (_, sent) = world.connect(v4_durable("c"));
    let repeated = [1, 2].map(|id| format!("PUBLISH m q1 id={id} dup {marked}"));
    assert_eq!(sent[1..], repeated);
}

#[test]
fn what_expires_does_so_by_the_monotonic_clock_whatever_the_other_does() {
    for by_secs in [1_800_000_000, -1_700_000_000] {
        let mut world = World::new();
        let key = world.join(Connect { will: Some(will("gone", 20)), ..v5_durable("c") });
        world.subscribe(key, "t", 1);
        let expiring = Message {
            expiry_interval: Some(Duration::from_secs(60)),
            ..world.message("t", 1, Origin::Gateway)
        };
        let watcher = world.join(v4("w"));
        world.subscribe(watcher, "gone", 0);
        world.cut(key);
        world.publish(expiring.clone(), None).unwrap();
        step(&mut world, by_secs);
        world.advance(Duration::from_secs(19));
        assert_eq!(world.take(watcher), NOTHING, "{by_secs}");
        world.advance(Duration::from_secs(1));
        assert_eq!(world.take(watcher).len(), 1, "the will, {by_secs}");
        world.advance(Duration::from_secs(39));
        let (key, sent) = world.connect(v5_durable("c"));
        assert_eq!(sent.len(), 2, "{by_secs} {sent:?}");
        world.cut(key);
        let mut other = expiring;
        other.arrived = world.now;
        world.publish(other, None).unwrap();
        step(&mut world, -by_secs);
        world.advance(Duration::from_secs(60));
        assert_eq!(world.connect(v5_durable("c")).1.iter().filter(|sent| sent.contains("t q1")).count(), 1);
        assert_eq!(world.broker.stats().clients_expired, 0);
    }
}

#[test]
fn a_session_lives_as_long_as_it_should_across_a_restart_whose_clock_is_wrong() {
    let hour = Duration::from_secs(3600);
    for wrong_ms in [0, 4_070_908_800_000] {
        for (away_secs, present) in [(3_500, true), (3_700, false)] {
            let mut world = World::new();
            world.now = Now {
                instant: Instant::BOOT + Duration::from_secs(1000),
                wall: Timestamp::from_millis(YEAR_2026_MS),
            };
            let key = world.join(v5_durable("c"));
            world.cut(key);
            // What a start reads of it, by a clock that is not set: see `store::age`.
            for row in world.disk.sessions.values_mut() {
                row.expiry_interval = 3600;
                row.disconnected_at = row.disconnected_at.map(|at| Now { instant: Instant::BOOT, ..at });
            }
            world.now = Now { instant: Instant::BOOT + Duration::from_secs(15), wall: unset(wrong_ms) };
            world.crash();
            assert_eq!(world.broker.stats().sessions, 1, "{wrong_ms}");
            set(&mut world, YEAR_2026_MS + away_secs * 1000);
            world.advance(Duration::ZERO);
            assert_eq!(world.broker.stats().sessions == 1, present, "{wrong_ms} {away_secs}");
            world.advance(hour);
            assert_eq!(world.broker.stats().sessions, 0, "{wrong_ms} {away_secs}");
        }
    }
}

#[test]
fn a_token_ends_by_the_wall_clock_as_soon_as_it_is_right() {
    let cases = [(3_599, false), (3_600, true), (-86_400, false)];
    for (by_secs, ended) in cases {
        let mut world = World::with(Settings { logins: true, ..settings() });
        let key = world.open();
        let connect = Connect { username: Some("ann".into()), password: Some("x".into()), ..v4("c") };
        world.put(key, Packet::Connect(Box::new(connect)));
        let login = world.logins.pop().unwrap();
        let until = Some(Timestamp::from_millis(world.now.wall.as_millis() + 3_600_000));
        let identity = Identity { user: "ann".into(), proof: Proof::Token, until };
        world.broker.handle_authenticated(login.conn, Ok(identity), world.now, &mut world.out).unwrap();
        world.finish();
        step(&mut world, by_secs);
        world.advance(Duration::ZERO);
        assert_eq!(world.closed.contains(&key), ended, "{by_secs}");
        let left = u64::try_from(3_600 - by_secs).unwrap_or(0);
        world.advance(Duration::from_secs(left));
        assert!(world.closed.contains(&key), "{by_secs}");
    }
}
