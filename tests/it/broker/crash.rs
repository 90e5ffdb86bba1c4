//! A crash at every point between visits: nothing acknowledged is lost, no QoS 2 message comes twice.

use std::collections::BTreeMap;

use tidegate::broker::effect::ConnKey;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::publish::Publish;

use super::world::{World, id, packet, publish, v5_durable};

const MESSAGES: u16 = 3;

/// How far the publisher is with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Publish,
    Release,
    Done,
}

/// A conforming pair of clients: a publisher that resends what is not acknowledged, and a subscriber that keeps
/// the identifiers of QoS 2 messages until they are released.
struct Clients {
    qos: u8,
    publisher: ConnKey,
    subscriber: ConnKey,
    steps: Vec<Step>,
    open: BTreeMap<u16, String>,
    got: Vec<String>,
}

impl Clients {
    fn new(world: &mut World, qos: u8) -> Self {
        let subscriber = world.open();
        let mut clients = Self {
            qos,
            publisher: subscriber,
            subscriber,
            steps: vec![Step::Publish; usize::from(MESSAGES)],
            open: BTreeMap::new(),
            got: Vec::new(),
        };
        world.put(subscriber, connect("s"));
        world.subscribe(subscriber, "t", 2);
        clients.connect_publisher(world);
        clients
    }

    fn reconnect(&mut self, world: &mut World) {
        self.connect_subscriber(world);
        self.connect_publisher(world);
    }

    fn connect_subscriber(&mut self, world: &mut World) {
        self.subscriber = world.open();
        world.put(self.subscriber, connect("s"));
    }

    fn connect_publisher(&mut self, world: &mut World) {
        self.publisher = world.open();
        world.put(self.publisher, connect("p"));
        for (index, step) in (1u16..).zip(self.steps.clone()) {
            match step {
                Step::Publish => {
                    let publish = Publish { dup: true, ..publish("t", &index.to_string(), self.qos, index) };
                    world.put(self.publisher, packet(publish));
                }
                Step::Release => world.put(self.publisher, super::world::pubrel(index)),
                Step::Done => {}
            }
        }
    }

    /// Both handle what they were sent. Returns whether there was anything.
    fn handle(&mut self, world: &mut World) -> bool {
        let publisher = self.handle_publisher(world);
        self.handle_subscriber(world) || publisher
    }

    fn handle_publisher(&mut self, world: &mut World) -> bool {
        let sent = world.take(self.publisher);
        for line in &sent {
            self.handle_as_publisher(line, world);
        }
        !sent.is_empty()
    }

    fn handle_subscriber(&mut self, world: &mut World) -> bool {
        let sent = world.take(self.subscriber);
        for line in &sent {
            self.handle_as_subscriber(line, world);
        }
        !sent.is_empty()
    }

    /// One of the things that can happen. Nothing waits for anything.
    fn stumble(&mut self, random: &mut fastrand::Rng, world: &mut World) {
        match random.u8(..20) {
            0 => {
                world.crash();
                self.reconnect(world);
            }
            1 => {
                world.cut(self.subscriber);
                if random.bool() {
                    world.durable_step();
                    world.finish();
                }
                self.connect_subscriber(world);
            }
            2 => {
                world.cut(self.publisher);
                self.connect_publisher(world);
            }
            // A take-over.
            3 => self.connect_subscriber(world),
            4..9 => _ = self.handle_publisher(world),
            9..14 => _ = self.handle_subscriber(world),
            14 => world.advance(super::world::COMMIT),
            _ => {
                world.durable_step();
                world.finish();
            }
        }
    }

    /// Everything heals: runs until nothing moves.
    fn come_to_rest(&mut self, world: &mut World) {
        self.reconnect(world);
        for _ in 0..1000 {
            world.durable();
            let moved = self.handle(world);
            world.advance(super::world::COMMIT);
            if !moved && world.pending.is_empty() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn handle_as_publisher(&mut self, line: &str, world: &mut World) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = || words[1].parse::<u16>().unwrap();
        match words[0] {
            "PUBACK" | "PUBCOMP" => self.steps[usize::from(number() - 1)] = Step::Done,
            "PUBREC" => {
                self.steps[usize::from(number() - 1)] = Step::Release;
                world.put(self.publisher, super::world::pubrel(number()));
            }
            _ => {}
        }
    }

    fn handle_as_subscriber(&mut self, line: &str, world: &mut World) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "PUBLISH" => {
                let packet_id: u16 = words[3].strip_prefix("id=").unwrap().parse().unwrap();
                let payload = (*words.last().unwrap()).to_owned();
                if words[2] == "q1" {
                    self.got.push(payload);
                    world.put(self.subscriber, super::world::puback(packet_id));
                } else {
                    if let Some(held) = self.open.insert(packet_id, payload.clone()) {
                        assert_eq!(held, payload, "an identifier is not used anew before it is released");
                    } else {
                        self.got.push(payload);
                    }
                    world.put(self.subscriber, super::world::pubrec(packet_id));
                }
            }
            "PUBREL" => {
                let packet_id: u16 = words[1].parse().unwrap();
                self.open.remove(&packet_id);
                world.put(self.subscriber, Packet::Pubcomp(Ack::success(id(packet_id))));
            }
            _ => {}
        }
    }
}

fn connect(client_id: &str) -> Packet {
    Packet::Connect(Box::new(Connect { keep_alive: 0, ..v5_durable(client_id) }))
}

/// Runs until nothing moves, with `crashes` at these counts of steps. Returns how many steps it took.
fn run(qos: u8, crashes: &[usize]) -> (Clients, usize) {
    let mut world = World::slow_disk();
    let mut clients = Clients::new(&mut world, qos);
    // The first SUBACK is what the test begins with.
    world.durable();
    let mut steps = 0;
    loop {
        if crashes.contains(&steps) {
            world.crash();
            clients.reconnect(&mut world);
        }
        steps += 1;
        assert!(steps < 1000, "it comes to rest");
        // Clients and disk take turns; a crash may fall between any two.
        if steps % 2 == 0 && clients.handle(&mut world) {
            continue;
        }
        if world.durable_step() {
            world.finish();
            continue;
        }
        if clients.handle(&mut world) {
            continue;
        }
        world.advance(super::world::COMMIT);
        if world.pending.is_empty() && steps > crashes.iter().copied().max().unwrap_or(0) {
            assert!(world.disk.entries.is_empty(), "{:?}", world.disk.entries);
            assert!(world.disk.inflight.is_empty(), "{:?}", world.disk.inflight);
            assert!(world.disk.inbound.is_empty(), "{:?}", world.disk.inbound);
            return (clients, steps);
        }
    }
}

fn wanted() -> Vec<String> {
    (1..=MESSAGES).map(|number| number.to_string()).collect()
}

#[test]
fn qos_2_arrives_exactly_once_and_in_order_whenever_the_gateway_crashes() {
    let (calm, steps) = run(2, &[]);
    assert_eq!(calm.got, wanted());
    assert!(steps > 10, "there is something to crash into: {steps}");
    for first in 0..steps {
        for second in first..steps + 10 {
            let (clients, _) = run(2, &[first, second]);
            assert_eq!(clients.got, wanted(), "crashes at {first} and {second}");
            assert!(clients.steps.iter().all(|step| *step == Step::Done), "{first} {second}");
        }
    }
}

#[test]
fn qos_1_is_never_lost_whenever_the_gateway_crashes() {
    let (calm, steps) = run(1, &[]);
    assert_eq!(calm.got, wanted());
    for first in 0..steps {
        for second in first..steps + 10 {
            let (clients, _) = run(1, &[first, second]);
            let mut got = clients.got.clone();
            got.sort();
            got.dedup();
            assert_eq!(got, wanted(), "crashes at {first} and {second}: {:?}", clients.got);
            assert!(clients.steps.iter().all(|step| *step == Step::Done));
        }
    }
}

#[test]
fn any_mix_of_crashes_cuts_and_take_overs_keeps_the_promise() {
    for seed in 0..1500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let qos = 1 + u8::from(seed % 3 > 0);
        let mut world = World::slow_disk();
        let mut clients = Clients::new(&mut world, qos);
        world.durable();
        for _ in 0..random.usize(10..120) {
            clients.stumble(&mut random, &mut world);
        }
        clients.come_to_rest(&mut world);
        let mut got = clients.got.clone();
        if qos == 1 {
            got.sort();
            got.dedup();
        }
        assert_eq!(got, wanted(), "seed {seed}, QoS {qos}: {:?}", clients.got);
        assert!(clients.steps.iter().all(|step| *step == Step::Done), "seed {seed}");
        let left = (world.disk.entries.len(), world.disk.inflight.len(), world.disk.inbound.len());
        assert_eq!(left, (0, 0, 0), "seed {seed}");
        assert_eq!(world.broker.stats().queued, 0, "seed {seed}");
    }
}
