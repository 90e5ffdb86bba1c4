//! Who takes part in a world: the clients of each broker, what they publish and subscribe to. What one of them draws
//! no other does.

use tidegate::base::time::Instant;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicFilter;

use super::chance::named;
use super::client::{Client, LastWill};
use super::plan::{Fault, Feature, Plan};
use super::reference::{Lane, Place, Reference, SITE, Scope, Subscriber};

const LONG_EXPIRY_SECS: u32 = 30 * 86_400;
const BRIEF_EXPIRY_SECS: u32 = 2;
const WILL_DELAY_SECS: u32 = 2;

const ONCE: QoS = QoS::AtLeastOnce;
const EXACTLY: QoS = QoS::ExactlyOnce;
const LEVELS: [QoS; 3] = [QoS::AtMostOnce, ONCE, EXACTLY];

pub struct Cast<'a> {
    plan: &'a Plan,
    seed: u64,
    pub reference: Reference,
    pub clients: Vec<Client>,
}

impl<'a> Cast<'a> {
    pub fn new(plan: &'a Plan, seed: u64) -> Self {
        let mut cast = Self { plan, seed, reference: Reference::default(), clients: Vec::new() };
        cast.device();
        cast.publishers();
        cast.subscribers();
        for (feature, add) in [
            (Feature::Wills, Self::wills as fn(&mut Self)),
            (Feature::Unsubscribe, Self::waverer),
            (Feature::Shared, Self::group),
            (Feature::Expiry, Self::expiry),
            (Feature::Aliases, Self::aliases),
            (Feature::Second, Self::second),
        ] {
            if cast.plan.has(feature) {
                add(&mut cast);
            }
        }
        cast.auditors();
        cast.leave();
        cast
    }

    /// What the bounds of the plan may cost.
    fn leave(&mut self) {
        let leave = &mut self.reference.leave;
        leave.small_queues = self.plan.queued_messages < 1000;
        if let Some(when_full) = self.plan.when_full {
            leave.drops_for.insert(Place::Cloud);
            leave.refuses_up = when_full.refuses;
        }
        if self.plan.faults.contains(&Fault::CloudRefuses) {
            leave.unordered_to.insert(Place::Cloud);
        }
        if self.plan.has(Feature::Lanes) && self.plan.has(Feature::Second) {
            leave.unordered_to.insert(Place::Second);
        }
        if self.plan.has(Feature::Reserve) {
            leave.drops_for.extend([Place::Cloud, Place::Second]);
            leave.refuses_all = true;
        }
    }

    fn publishers(&mut self) {
        for name in ["lan-p1", "lan-p2"] {
            let publisher = self.client(name, Place::Gateway);
            for qos in LEVELS {
                self.lane(publisher, Scope::Up, format!("up/{name}/q{}", qos.bits()), qos);
            }
            self.lane(publisher, Scope::Lan, format!("lan/{name}/q1"), ONCE);
            self.lane(publisher, Scope::Lan, format!("lan/{name}/q2"), EXACTLY);
            let qos = if self.draw(&format!("{name}/kept")).bool() { ONCE } else { EXACTLY };
            let lane = self.lane(publisher, Scope::Up, format!("up/{name}/kept"), qos);
            self.reference.lanes[lane].retain = true;
        }
        let passing = self.client("lan-p3", Place::Gateway);
        self.clients[passing].durable = false;
        self.lane(passing, Scope::Up, "up/lan-p3/q1".to_owned(), ONCE);
        let far = self.client("cloud-p", Place::Cloud);
        for qos in LEVELS {
            self.lane(far, Scope::Down, format!("{SITE}down/q{}", qos.bits()), qos);
        }
        self.lane(far, Scope::Set, format!("{SITE}set/setpoint"), EXACTLY);
        self.lane(far, Scope::Set, format!("{SITE}set/limit"), ONCE);
    }

    fn subscribers(&mut self) {
        let wide = if self.draw("wide").bool() { "#" } else { "up/#" };
        self.subscriber("lan-s1", Place::Gateway, "lan/#", EXACTLY);
        self.subscriber("lan-s2", Place::Gateway, wide, ONCE);
        self.subscriber("lan-s3", Place::Gateway, "down/#", EXACTLY);
        self.subscriber("cloud-s1", Place::Cloud, "#", EXACTLY);
        self.subscriber("cloud-s2", Place::Cloud, &format!("{SITE}up/#"), ONCE);
        let visitor = self.subscriber("lan-s4", Place::Gateway, "#", EXACTLY);
        self.make_volatile(visitor);
    }

    /// They come at the end alone, to see what is retained.
    fn auditors(&mut self) {
        for (name, place) in [("auditor-1", Place::Gateway), ("auditor-2", Place::Cloud)] {
            let auditor = self.subscriber(name, place, "#", ONCE);
            self.clients[auditor].away_until = Instant::FAR_FUTURE;
            self.make_volatile(auditor);
        }
    }

    /// Its lane comes first: `World` knows it there.
    fn device(&mut self) {
        self.reference.lanes.push(Lane::new(Scope::Reading, "devices/plc/counter".to_owned(), ONCE));
    }

    fn wills(&mut self) {
        let plain = self.client("lan-w1", Place::Gateway);
        let late = self.client("lan-w2", Place::Gateway);
        let passing = self.client("lan-w3", Place::Gateway);
        self.clients[late].version = Version::V5;
        self.clients[passing].durable = false;
        for (client, qos, delay_secs) in
            [(plain, EXACTLY, 0), (late, EXACTLY, WILL_DELAY_SECS), (passing, ONCE, 0)]
        {
            let topic = format!("up/{}/will", self.clients[client].name);
            let lanes = &mut self.reference.lanes;
            self.clients[client].will = Some(LastWill { lane: lanes.len(), delay_secs });
            lanes.push(Lane::new(Scope::Up, topic, qos));
        }
    }

    fn waverer(&mut self) {
        let waverer = self.subscriber("lan-s5", Place::Gateway, "lan/#", EXACTLY);
        self.clients[waverer].wavers = true;
        self.waver();
    }

    fn group(&mut self) {
        for name in ["lan-g1", "lan-g2", "lan-g3"] {
            self.subscriber(name, Place::Gateway, "$share/group/lan/#", EXACTLY);
        }
        if let Some(last) = self.clients.last_mut() {
            last.wavers = true;
        }
        self.waver();
    }

    fn expiry(&mut self) {
        let publisher = self.client("lan-p4", Place::Gateway);
        let far = self.client("cloud-p2", Place::Cloud);
        for (client, scope, topic, expiry_secs) in [
            (publisher, Scope::Up, "up/lan-p4/brief".to_owned(), BRIEF_EXPIRY_SECS),
            (publisher, Scope::Up, "up/lan-p4/long".to_owned(), LONG_EXPIRY_SECS),
            (far, Scope::Set, format!("{SITE}set/limit"), BRIEF_EXPIRY_SECS),
        ] {
            self.clients[client].version = Version::V5;
            let lane = self.lane(client, scope, topic, ONCE);
            self.reference.lanes[lane].expiry_secs = Some(expiry_secs);
        }
    }

    /// 3.x clients have none.
    fn aliases(&mut self) {
        for client in &mut self.clients {
            let mut rng = named(self.seed, &format!("{}/aliases", client.name));
            if client.version == Version::V5 && client.place == Place::Gateway {
                (client.aliases_out, client.aliases_in) = (rng.u16(0..4), rng.u16(0..4));
            }
        }
    }

    fn second(&mut self) {
        self.subscriber("second-s1", Place::Second, "#", EXACTLY);
    }

    fn draw(&self, name: &str) -> fastrand::Rng {
        named(self.seed, name)
    }

    fn client(&mut self, name: &str, place: Place) -> usize {
        let index = self.clients.len();
        let mut rng = self.draw(name);
        let version = if rng.bool() { Version::V5 } else { Version::V3_1_1 };
        let mut client = Client::new(index, name, place, version);
        client.window = rng.usize(1..12);
        client.receive_maximum = rng.u16(1..12);
        client.pad_bytes = if rng.u32(0..4) == 0 { rng.usize(0..1500) } else { rng.usize(0..20) };
        self.clients.push(client);
        index
    }

    fn lane(&mut self, publisher: usize, scope: Scope, topic: String, qos: QoS) -> usize {
        let index = self.reference.lanes.len();
        self.reference.lanes.push(Lane::new(scope, topic, qos));
        self.clients[publisher].lanes.push(index);
        index
    }

    fn subscriber(&mut self, name: &str, place: Place, filter: &str, qos: QoS) -> usize {
        let client = self.client(name, place);
        let filter = TopicFilter::new(filter).unwrap();
        self.clients[client].subscription = Some((filter.clone(), qos));
        self.reference.subscribers.push(Subscriber::new(client, place, filter, qos));
        client
    }

    fn make_volatile(&mut self, client: usize) {
        self.clients[client].durable = false;
        if let Some(last) = self.reference.subscribers.last_mut() {
            last.durable = false;
        }
    }

    /// The last one comes and goes.
    fn waver(&mut self) {
        let last = self.reference.subscribers.pop().map(Subscriber::wavering);
        self.reference.subscribers.extend(last);
    }
}
