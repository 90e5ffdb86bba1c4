//! Random cuts and power failures at every step. What was promised must hold for each seed.

use std::collections::BTreeMap;

use tidegate::base::time::Duration;
use tidegate::bridge::Bridge;
use tidegate::config::model::{ForwardOrder, ForwardRule, Priority};
use tidegate::config::uplink::BridgeUrl;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tidegate::spool::Hold;

use super::world::{World, config, forward};

const SEEDS: u64 = 60;
const STEPS: usize = 1500;
const TOPICS: u64 = 3;

#[derive(Clone, Copy)]
struct Plan {
    protocol: Version,
    qos: QoS,
    crashes: bool,
    sessions: Sessions,
    /// Each topic has a rule of its own: high, low, and new ones first.
    lanes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sessions {
    Kept,
    /// The cloud forgets them now and then.
    Lost,
    /// Two servers have one each, and now this one is away and now that one.
    OfTwoServers,
}

const HOSTS: [&str; 2] = ["a.test", "b.test"];

/// Of the topic whose new messages go first.
const LIVE: u64 = 2;

struct Run {
    world: World,
    rng: fastrand::Rng,
    plan: Plan,
    offered: u64,
    published: u64,
    cuts: u64,
}

impl Run {
    fn new(plan: Plan, seed: u64) -> Run {
        let mut bridge = config(plan.protocol);
        bridge.inflight = 8;
        if plan.lanes {
            bridge.forward = (0..TOPICS).map(rule_of).collect();
        }
        if plan.sessions == Sessions::OfTwoServers {
            let [first, second] = HOSTS.map(|host| BridgeUrl { host: host.into(), ..bridge.url.clone() });
            (bridge.url, bridge.fallbacks) = (first, vec![second]);
        }
        let mut world = World::new(bridge);
        // Fewer than topics.
        world.cloud.properties.topic_alias_maximum = (plan.protocol == Version::V5).then_some(2);
        world.fast_disk = false;
        world.settings.seed = seed;
        Run { world, rng: fastrand::Rng::with_seed(seed), plan, offered: 0, published: 0, cuts: 0 }
    }

    fn step(&mut self) {
        let world = &mut self.world;
        match self.rng.u32(0..1000) {
            0..200 => {
                self.offered += 1;
                let name = format!("up/{}", self.offered % TOPICS);
                let message = world.message(&name, &self.offered.to_string(), self.plan.qos);
                let rule = if self.plan.lanes { self.offered % TOPICS } else { 0 };
                world.offer_by(u16::try_from(rule).expect("in range"), message, Some(self.offered));
            }
            200..300 => {
                self.published += 1;
                let packet = world.cloud.publish("down/c", &self.published.to_string(), self.plan.qos);
                if world.cloud.greeted {
                    world.to_bridge.push_back(packet);
                }
            }
            300..560 => {
                world.step_cloud();
            }
            560..820 => {
                world.step_bridge();
            }
            820..940 => world.commit(self.rng.usize(1..4)),
            940..974 => world.advance(Duration::from_millis(self.rng.u64(1..400))),
            974..978 => {
                self.cuts += 1;
                world.visit(Bridge::handle_renewed);
            }
            978..980 if self.plan.sessions == Sessions::OfTwoServers => self.change_servers(),
            980..992 => {
                self.cuts += 1;
                world.cut();
            }
            992..997 if self.plan.crashes => {
                self.cuts += 1;
                world.crash();
            }
            997..1000 if self.plan.sessions == Sessions::Lost => {
                world.cloud.lose_session();
                world.cut();
            }
            _ => {}
        }
        assert!(self.world.on_wire_max <= 8, "the window is {}", self.world.on_wire_max);
    }

    /// One goes, or both are there and the first is seen.
    fn change_servers(&mut self) {
        match self.rng.usize(0..3) {
            2 => {
                self.world.down.clear();
                for _ in 0..3 {
                    self.world.visit(|bridge, now, out| bridge.handle_probed(Some(0), now, out));
                }
            }
            host => {
                self.world.down = [HOSTS[host]].into();
                self.world.cut();
            }
        }
    }

    /// What any server has of a topic, with that of the one that the bridge is with last.
    fn delivered(&mut self, topic: &str) -> Vec<String> {
        if self.plan.sessions != Sessions::OfTwoServers {
            return self.world.delivered(topic);
        }
        let at = self.world.host().to_owned();
        let other = HOSTS.into_iter().find(|host| **host != at).expect("two");
        self.world.meet(other);
        let mut all = self.world.delivered(topic);
        self.world.meet(&at);
        self.world.cloud.greeted = true;
        all.extend(self.world.delivered(topic));
        all
    }

    fn heal(&mut self) {
        self.world.down.clear();
        for _ in 0..600 {
            self.world.run(Duration::from_secs(1));
            if self.world.bridge.status().queued_messages == 0
                && self.world.bridge.status().inflight == 0
                && self.world.cloud.owes() == 0
            {
                return;
            }
        }
        panic!("it never drains: {:?}", self.world.bridge.status());
    }

    /// How often each message came, with the order of first arrivals checked.
    fn counts(payloads: &[String], seed: u64, ordered: bool) -> BTreeMap<u64, usize> {
        let (mut counts, mut last) = (BTreeMap::new(), 0);
        for payload in payloads {
            let number: u64 = payload.parse().expect("a number");
            let count = counts.entry(number).or_default();
            *count += 1;
            if *count == 1 && ordered {
                assert!(number > last, "seed {seed}: {number} first came after {last}");
                last = number;
            }
        }
        counts
    }
}

fn rule_of(topic: u64) -> ForwardRule {
    let (priority, order) = match topic {
        0 => (Priority::High, ForwardOrder::Topic),
        1 => (Priority::Low, ForwardOrder::Topic),
        _ => (Priority::Normal, ForwardOrder::LiveFirst),
    };
    let to = format!("sites/{{gateway}}/{topic}");
    ForwardRule { priority, order, ..forward(&format!("up/{topic}"), &to, None) }
}

fn run(plan: Plan) {
    let (mut duplicates, mut cuts) = (0, 0);
    for seed in 0..SEEDS {
        let mut run = Run::new(plan, seed);
        for _ in 0..STEPS {
            run.step();
        }
        run.heal();
        cuts += run.cuts;
        let mut counts = BTreeMap::new();
        for lane in 0..TOPICS {
            let ordered = plan.sessions != Sessions::OfTwoServers && (!plan.lanes || lane != LIVE);
            let delivered = run.delivered(&format!("sites/plant-7/{lane}"));
            counts.append(&mut Run::counts(&delivered, seed, ordered));
        }
        for number in 1..=run.offered {
            let count = counts.get(&number).copied().unwrap_or(0);
            let promised = run.world.released.contains(&Hold(number));
            assert!(count > 0 || !promised, "seed {seed}: {number} was promised and is lost");
            assert!(promised || plan.crashes, "seed {seed}: {number} is still held");
            let exactly = plan.qos == QoS::ExactlyOnce && plan.sessions == Sessions::Kept;
            assert!(count <= 1 || !exactly, "seed {seed}: {number} came {count} times");
            duplicates += count.saturating_sub(1);
        }
        if plan.sessions == Sessions::Kept {
            check_received(&run, seed);
        }
        check_commands_come_still(&mut run, seed);
        assert!(run.world.disk.entries.is_empty() && run.world.disk.inflight.is_empty(), "seed {seed}");
    }
    let bound = cuts * 8 + if plan.crashes { cuts * 40 } else { 0 };
    assert!(
        plan.sessions == Sessions::Lost || duplicates as u64 <= bound,
        "{duplicates} duplicates at {cuts} cuts"
    );
}

fn check_received(run: &Run, seed: u64) {
    let local: Vec<_> = run
        .world
        .local
        .iter()
        .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
        .collect();
    let counts = Run::counts(&local, seed, true);
    for number in 1..=run.published {
        let count = counts.get(&number).copied().unwrap_or(0);
        assert!(count > 0, "seed {seed}: command {number} is lost");
        assert!(
            count == 1 || run.plan.qos == QoS::AtLeastOnce,
            "seed {seed}: command {number} came {count} times"
        );
    }
}

/// Whatever was forgotten or cut, every identifier can be used again.
fn check_commands_come_still(run: &mut Run, seed: u64) {
    let before = run.world.local.len();
    for number in 1..=30 {
        let packet = run.world.cloud.publish("down/c", &number.to_string(), run.plan.qos);
        run.world.to_bridge.push_back(packet);
    }
    run.heal();
    assert_eq!(run.world.local.len(), before + 30, "seed {seed}");
}

#[test]
fn nothing_is_lost_and_qos_2_comes_once_whatever_is_cut() {
    for protocol in [Version::V3_1_1, Version::V5] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for crashes in [false, true] {
                run(Plan { protocol, qos, crashes, sessions: Sessions::Kept, lanes: false });
                run(Plan { protocol, qos, crashes, sessions: Sessions::Kept, lanes: true });
            }
        }
    }
}

#[test]
fn nothing_is_lost_between_two_servers() {
    for protocol in [Version::V3_1_1, Version::V5] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for lanes in [false, true] {
                run(Plan { protocol, qos, crashes: true, sessions: Sessions::OfTwoServers, lanes });
            }
        }
    }
}

#[test]
fn nothing_is_lost_where_the_cloud_forgets_the_session() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        run(Plan { protocol: Version::V5, qos, crashes: true, sessions: Sessions::Lost, lanes: false });
        run(Plan { protocol: Version::V5, qos, crashes: true, sessions: Sessions::Lost, lanes: true });
    }
}
