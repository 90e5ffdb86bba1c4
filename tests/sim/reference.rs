//! The reference model: which messages exist, who must, may and must not get them, and what each got. Knows the
//! promise, and nothing of how the gateway keeps it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidegate::base::time::{Duration, Instant};
use tidegate::mqtt::message::Message;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::{TopicFilter, TopicName};

/// Readings of the device count from here; all else is below.
pub const READING_FIRST: u64 = 10_000_000;
/// What the first bridge puts before a local topic.
pub const SITE: &str = "sites/plant-7/";
/// What the second one does.
const SECOND: &str = "second/";
/// What expires sooner than that may, within one world.
const BRIEF_SECS: u32 = 60;

/// A broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Gateway,
    Cloud,
    /// The cloud of the second bridge.
    Second,
}

/// A bridge of the gateway, by its index in the configuration.
pub struct LinkOf {
    pub name: &'static str,
    pub place: Place,
    pub client_id: &'static str,
}

pub const LINKS: [LinkOf; 2] = [
    LinkOf { name: "cloud", place: Place::Cloud, client_id: "plant-7" },
    LinkOf { name: "second", place: Place::Second, client_id: "plant-7-second" },
];

/// Where the messages of a lane go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Lan,
    /// To the LAN and on to the clouds.
    Up,
    /// What the device says: to the first cloud alone.
    Reading,
    /// From the cloud to the LAN.
    Down,
    /// From the cloud to the device.
    Set,
}

/// One topic with its one publisher.
#[derive(Debug, Clone)]
pub struct Lane {
    pub scope: Scope,
    /// As the publisher names it.
    pub topic: String,
    pub qos: QoS,
    pub retain: bool,
    pub expiry_secs: Option<u32>,
}

impl Lane {
    pub fn new(scope: Scope, topic: String, qos: QoS) -> Self {
        Self { scope, topic, qos, retain: false, expiry_secs: None }
    }

    /// The topic at a broker; None: it never gets there.
    pub fn topic_at(&self, place: Place) -> Option<String> {
        match (self.scope, place) {
            (Scope::Lan | Scope::Up | Scope::Reading, Place::Gateway)
            | (Scope::Down | Scope::Set, Place::Cloud) => Some(self.topic.clone()),
            (Scope::Up | Scope::Reading, Place::Cloud) => Some(format!("{SITE}{}", self.topic)),
            (Scope::Up, Place::Second) => Some(format!("{SECOND}{}", self.topic)),
            (Scope::Down, Place::Gateway) => self.topic.strip_prefix(SITE).map(str::to_owned),
            (Scope::Set, Place::Gateway) => Some(format!("devices/plc/{}/set", self.point())),
            (Scope::Lan, Place::Cloud | Place::Second)
            | (Scope::Reading | Scope::Down | Scope::Set, Place::Second) => None,
        }
    }

    /// What a command is for.
    fn point(&self) -> &str {
        self.topic.rsplit('/').next().unwrap_or_default()
    }

    fn comes_from_cloud(&self) -> bool {
        matches!(self.scope, Scope::Down | Scope::Set)
    }

    fn goes_to_clouds(&self) -> bool {
        matches!(self.scope, Scope::Up | Scope::Reading)
    }

    fn is_brief(&self) -> bool {
        self.expiry_secs.is_some_and(|secs| secs < BRIEF_SECS)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The publisher has yet to hear.
    Open,
    Acknowledged,
    /// Turned away, or nobody was promised anything.
    Unpromised,
}

#[derive(Debug, Clone, Copy)]
pub struct Numbered {
    pub lane: usize,
    pub fate: Fate,
    /// It was first sent then.
    sent_at: Instant,
    /// The publisher heard then that it was taken.
    settled_at: Option<Instant>,
}

/// A subscription.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub client: usize,
    pub place: Place,
    pub filter: TopicFilter,
    pub qos: QoS,
    /// Whether its session is kept.
    pub durable: bool,
    /// It comes and goes.
    pub wavers: bool,
    /// From SUBACK to UNSUBSCRIBE.
    spans: Vec<(Instant, Instant)>,
    /// UNSUBACK came, and no SUBSCRIBE was sent since.
    out_since: Option<Instant>,
}

impl Subscriber {
    pub fn new(client: usize, place: Place, filter: TopicFilter, qos: QoS) -> Self {
        let spans = vec![(Instant::ORIGIN, Instant::FAR_FUTURE)];
        Self { client, place, filter, qos, durable: true, wavers: false, spans, out_since: None }
    }

    #[must_use]
    pub fn wavering(self) -> Self {
        Self { wavers: true, spans: Vec::new(), ..self }
    }

    fn stood(&self, from: Instant, to: Instant) -> bool {
        self.spans.iter().any(|(begin, end)| *begin < from && to < *end)
    }
}

/// What the bounds and reserves of a world may cost.
#[derive(Debug, Clone, Default)]
pub struct Leave {
    /// Clouds whose buffer may drop messages.
    pub drops_for: BTreeSet<Place>,
    /// Publishers may be refused what goes to a cloud.
    pub refuses_up: bool,
    /// Publishers may be refused anything.
    pub refuses_all: bool,
    /// Sessions of the gateway may drop messages.
    pub small_queues: bool,
    /// What is new goes before what had to wait, or before what was refused: the order of a topic is given up there.
    pub unordered_to: BTreeSet<Place>,
}

#[derive(Debug, Default)]
pub struct Reference {
    /// What the device said, by the first reading of each message.
    batches: BTreeMap<u64, Vec<u64>>,
    pub now: Instant,
    pub lanes: Vec<Lane>,
    pub subscribers: Vec<Subscriber>,
    pub messages: BTreeMap<u64, Numbered>,
    pub leave: Leave,
    counts: BTreeMap<(usize, u64), u32>,
    /// Copies that members of a shared subscription got, by its filter.
    shared_counts: BTreeMap<(String, u64), u32>,
    /// The last number of which a client got its first copy, by lane.
    latest: BTreeMap<(usize, usize), u64>,
    /// The last number of a lane.
    last: BTreeMap<usize, u64>,
    next: u64,
    pub duplicates: u64,
    pub deliveries: u64,
    /// Faults that may each repeat what was under way.
    pub faults: u64,
    /// Messages that nobody may get any more.
    forbidden: BTreeSet<u64>,
    /// The cloud forgot the session of the bridge then.
    forgot_at: Option<Instant>,
    /// What was published in the cloud later than that reaches the gateway. The far future: nothing does.
    downlink_since: Instant,
    /// Commands are not to be carried out later than that.
    deadlines: BTreeMap<u64, Instant>,
    /// Commands that changed what the device holds.
    carried_out: BTreeSet<u64>,
    /// Commands that were answered, be it by a refusal.
    answered: BTreeSet<u64>,
    /// The last command of a lane that was carried out.
    last_command: BTreeMap<usize, u64>,
    /// Answers that a client heard, by point.
    results: BTreeMap<(usize, String), u64>,
}

/// How late a command may be written that was begun in time.
const COMMAND_SLACK: Duration = Duration::from_secs(3);

impl Reference {
    pub fn publish(&mut self, lane: usize) -> u64 {
        self.next += 1;
        self.insert(self.next, lane, Fate::Open);
        self.next
    }

    /// A message that is published when its client's connection ends, if it does without a word.
    pub fn arm(&mut self, lane: usize) -> u64 {
        self.next += 1;
        self.insert(self.next, lane, Fate::Unpromised);
        self.next
    }

    /// The device says readings: a message that is known by the first.
    pub fn say(&mut self, readings: &[u64], lane: usize) {
        let Some(first) = readings.first() else { return };
        self.insert(*first, lane, Fate::Unpromised);
        self.batches.insert(*first, readings.to_vec());
    }

    /// What the device said comes as it was said.
    pub fn hear(&self, readings: &[u64]) {
        let Some(first) = readings.first() else { return };
        let said = self.batches.get(first);
        assert_eq!(said.map(Vec::as_slice), Some(readings), "a batch that was never said so");
    }

    pub fn insert(&mut self, number: u64, lane: usize, fate: Fate) {
        self.messages.insert(number, Numbered { lane, fate, sent_at: self.now, settled_at: None });
        self.last.insert(lane, number);
    }

    pub fn lane_of(&self, number: u64) -> &Lane {
        &self.lanes[self.message(number).lane]
    }

    fn message(&self, number: u64) -> Numbered {
        let message = self.messages.get(&number);
        *message.unwrap_or_else(|| panic!("{number} was never published"))
    }

    pub fn settle(&mut self, number: u64, fate: Fate) {
        let now = self.now;
        let message = self.messages.get_mut(&number).expect("a published number");
        message.fate = fate;
        message.settled_at.get_or_insert(now);
    }

    /// It was taken back before it was due.
    pub fn forbid(&mut self, number: u64) {
        let came = self.counts.keys().any(|(_, of)| *of == number);
        assert!(!came, "{number} came before it was due, and was taken back");
        self.forbidden.insert(number);
    }

    /// A crash brought back what had been taken back.
    pub fn allow_those(&mut self, came_back: impl Fn(u64) -> bool) {
        self.forbidden.retain(|number| !came_back(*number));
    }

    /// The subscribers of a broker to which the message must come: one of each list.
    pub fn targets(&self, number: u64, place: Place) -> Vec<Vec<usize>> {
        let message = self.message(number);
        let lane = &self.lanes[message.lane];
        let Some(topic) = lane.topic_at(place) else { return Vec::new() };
        let topic = TopicName::new(&topic).unwrap();
        let to = message.settled_at.unwrap_or(self.now);
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut targets = Vec::new();
        for one in self.subscribers.iter().filter(|one| one.place == place && one.filter.matches(&topic)) {
            if !one.durable || one.qos.min(lane.qos) == QoS::AtMostOnce {
                continue;
            }
            match one.filter.share_name() {
                Some(_) => groups.entry(one.filter.as_str()).or_default().push(one.client),
                None if one.stood(message.sent_at, to) => targets.push(vec![one.client]),
                None => {}
            }
        }
        targets.extend(groups.into_values());
        targets
    }

    pub fn got(&self, client: usize, number: u64) -> bool {
        self.counts.contains_key(&(client, number))
    }

    /// Whether what is missing at a broker may have been dropped as configured.
    pub fn is_lossy(&self, number: u64, place: Place) -> bool {
        let message = self.message(number);
        let lane = &self.lanes[message.lane];
        if lane.is_brief() {
            return true;
        }
        match place {
            Place::Gateway => {
                let cut_off = lane.comes_from_cloud() && message.sent_at <= self.downlink_since;
                self.leave.small_queues || (cut_off && self.forgot_at.is_some())
            }
            Place::Cloud | Place::Second => lane.goes_to_clouds() && self.leave.drops_for.contains(&place),
        }
    }

    pub fn may_be_refused(&self, number: u64) -> bool {
        let lane = self.lane_of(number);
        let is_local = !lane.comes_from_cloud();
        is_local && (self.leave.refuses_all || self.leave.refuses_up && lane.goes_to_clouds())
    }

    /// A message that a client's application got.
    pub fn deliver(&mut self, client: usize, number: u64, topic: &str) {
        let message = self.message(number);
        let lane = self.lanes[message.lane].clone();
        let subscriber = self.subscribers.iter().find(|s| s.client == client).expect("a subscriber").clone();
        let place = subscriber.place;
        assert_eq!(lane.topic_at(place).as_deref(), Some(topic), "{number} came on a wrong topic");
        assert!(!self.forbidden.contains(&number), "{number} came to client {client}, and was taken back");
        let after_all = subscriber.out_since.is_some_and(|since| since < message.sent_at);
        assert!(!after_all, "{number} came to client {client}, which had unsubscribed ({topic})");
        self.deliveries += 1;
        let mut count = self.counts.entry((client, number)).or_default();
        *count += 1;
        let first_here = *count == 1;
        if subscriber.filter.share_name().is_some() {
            let name = subscriber.filter.as_str().to_owned();
            count = self.shared_counts.entry((name, number)).or_default();
            *count += 1;
        }
        let count = *count;
        if count > 1 {
            self.duplicates += 1;
            let forgotten = place == Place::Cloud
                && lane.goes_to_clouds()
                && self.forgot_at.is_some_and(|at| message.sent_at <= at);
            let exactly = subscriber.qos.min(lane.qos) == QoS::ExactlyOnce && !forgotten;
            assert!(!exactly, "{number} came to client {client} twice at QoS 2 ({topic})");
            let most = u64::from(count) <= 1 + self.faults;
            assert!(most, "{number} came to client {client} {count} times for {} faults", self.faults);
        }
        if !first_here || subscriber.filter.share_name().is_some() {
            return;
        }
        let latest = self.latest.insert((client, message.lane), number);
        // Who came later, or whose first copy a bound cost, may see the second copy of what it missed.
        let steady = subscriber.durable && !subscriber.wavers && !self.is_lossy(number, place);
        let live_first = lane.goes_to_clouds() && self.leave.unordered_to.contains(&place);
        let ordered = (steady || lane.qos == QoS::ExactlyOnce) && !live_first;
        assert!(
            latest.is_none_or(|latest| latest < number) || !ordered,
            "{number} came to client {client} after {latest:?} ({topic})"
        );
    }

    /// A connection of a client without session begins: nothing is known of earlier ones.
    pub fn forget(&mut self, client: usize) {
        self.counts.retain(|(of, _), _| *of != client);
        self.latest.retain(|(of, _), _| *of != client);
    }

    /// SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK of who comes and goes.
    pub fn ask_in(&mut self, client: usize) {
        self.wavering(client, |one, _| one.out_since = None);
    }

    pub fn come_in(&mut self, client: usize) {
        self.wavering(client, |one, now| one.spans.push((now, Instant::FAR_FUTURE)));
    }

    pub fn ask_out(&mut self, client: usize) {
        self.wavering(client, |one, now| {
            if let Some((_, end)) = one.spans.last_mut() {
                *end = (*end).min(now);
            }
        });
    }

    pub fn come_out(&mut self, client: usize) {
        self.wavering(client, |one, now| one.out_since = Some(now));
    }

    fn wavering(&mut self, client: usize, act: impl FnOnce(&mut Subscriber, Instant)) {
        let now = self.now;
        if let Some(one) = self.subscribers.iter_mut().find(|one| one.client == client && one.wavers) {
            act(one, now);
        }
    }

    /// The cloud has no session of the bridge any more.
    pub fn lose_downlink(&mut self) {
        self.forgot_at = Some(self.now);
        self.downlink_since = Instant::FAR_FUTURE;
    }

    /// Whether it ever had to begin anew.
    pub fn is_forgotten(&self) -> bool {
        self.forgot_at.is_some()
    }

    /// The subscriptions of the bridge stand in the cloud.
    pub fn gain_downlink(&mut self) {
        self.downlink_since = self.downlink_since.min(self.now);
    }

    /// A command came to the gateway that is to be forgotten after a while.
    pub fn receive_command(&mut self, number: u64, expiry_secs: u32) {
        let until = self.now + Duration::from_secs(expiry_secs.into());
        let deadline = self.deadlines.entry(number).or_default();
        *deadline = (*deadline).max(until);
    }

    /// A step of the wall clock makes the age of what a crash left behind unknown.
    pub fn forget_deadlines(&mut self) {
        self.deadlines.clear();
    }

    /// The device was told to write. `changed`: it held something else before.
    pub fn command(&mut self, number: u64, changed: bool) {
        let lane = self.message(number).lane;
        let Lane { scope, qos, .. } = self.lanes[lane];
        assert!(scope == Scope::Set, "{number} is no command");
        let overdue =
            self.deadlines.get(&number).is_some_and(|deadline| *deadline + COMMAND_SLACK < self.now);
        assert!(!overdue, "command {number} was carried out after it had expired");
        let first = self.carried_out.insert(number);
        if qos == QoS::ExactlyOnce {
            assert!(changed, "command {number} was written again, and the device showed it");
            assert!(first, "command {number} took effect twice");
        }
        if first {
            let latest = self.last_command.get(&lane).copied().max(Some(number));
            // One that was refused once may be begun again after a crash, with those behind it.
            let again = qos != QoS::ExactlyOnce && self.answered.contains(&number);
            assert!(latest == Some(number) || again, "command {number} came after {latest:?}");
            self.last_command.extend(latest.map(|latest| (lane, latest)));
        } else {
            assert!(self.faults > 0, "command {number} was carried out twice, and nothing failed");
        }
    }

    /// A command was answered.
    pub fn answer(&mut self, number: u64) {
        self.answered.insert(number);
    }

    /// The device has it, or whoever sent it was told why not.
    pub fn is_done(&self, number: u64) -> bool {
        self.carried_out.contains(&number) || self.answered.contains(&number)
    }

    pub fn hear_result(&mut self, client: usize, point: &str) {
        *self.results.entry((client, point.to_owned())).or_default() += 1;
    }

    /// Points whose QoS 2 commands were not each answered once to whoever listens with QoS 2 in the cloud, with
    /// the number of commands and of answers.
    pub fn unanswered(&self) -> Vec<(String, u64, u64)> {
        if self.leave.drops_for.contains(&Place::Cloud) || self.leave.small_queues || self.forgot_at.is_some()
        {
            return Vec::new();
        }
        let lanes = self.lanes.iter().enumerate();
        let sets = lanes.filter(|(_, lane)| lane.scope == Scope::Set && lane.qos == QoS::ExactlyOnce);
        let exact = |s: &&Subscriber| {
            s.place == Place::Cloud && s.qos == QoS::ExactlyOnce && s.durable && s.filter.as_str() == "#"
        };
        let counts = sets.flat_map(|(index, lane)| {
            let sent = self.messages.values().filter(|m| m.lane == index && m.fate == Fate::Acknowledged);
            let sent = sent.count() as u64;
            self.subscribers.iter().filter(exact).map(move |subscriber| {
                let heard = self.results.get(&(subscriber.client, lane.point().to_owned()));
                (lane.point().to_owned(), sent, heard.copied().unwrap_or(0))
            })
        });
        counts.filter(|(_, sent, heard)| sent != heard).collect()
    }

    fn promised(&self) -> impl Iterator<Item = u64> {
        self.messages
            .iter()
            .filter(|(_, message)| message.fate == Fate::Acknowledged)
            .map(|(number, _)| *number)
    }

    /// Whom a message did not reach at a broker.
    pub fn missed(&self, number: u64, place: Place) -> impl Iterator<Item = Vec<usize>> {
        let targets = self.targets(number, place).into_iter();
        targets.filter(move |any| !any.iter().any(|client| self.got(*client, number)))
    }

    /// What must have come and has not.
    pub fn missing(&self, places: &[Place]) -> Vec<(u64, Vec<usize>)> {
        let mut missing = Vec::new();
        for number in self.promised() {
            for place in places.iter().filter(|place| !self.is_lossy(number, **place)) {
                missing.extend(self.missed(number, *place).map(|any| (number, any)));
            }
        }
        missing
    }

    /// Promised messages of any kind that a bound cost at a cloud.
    pub fn lost(&self, place: Place) -> Vec<u64> {
        let goes = |number: &u64| self.lane_of(*number).goes_to_clouds() && !self.lane_of(*number).is_brief();
        self.promised().filter(goes).filter(|number| self.missed(*number, place).next().is_some()).collect()
    }

    /// Commands that the device must have got, or that must have been answered.
    pub fn undone(&self) -> Vec<u64> {
        let is_due = |number: &u64| {
            let message = self.message(*number);
            self.lanes[message.lane].scope == Scope::Set
                && (self.forgot_at.is_none() || message.sent_at > self.downlink_since)
                && !self.is_done(*number)
        };
        // Nobody answers for what expired in the cloud.
        self.promised().filter(|number| !self.lane_of(*number).is_brief()).filter(is_due).collect()
    }

    pub fn open(&self) -> usize {
        self.messages.values().filter(|message| message.fate == Fate::Open).count()
    }

    /// What each retained topic of a broker must hold at the end.
    pub fn retained(&self, place: Place) -> BTreeMap<String, u64> {
        let lanes = self.lanes.iter().enumerate().filter(|(_, lane)| lane.retain);
        lanes.filter_map(|(index, lane)| Some((lane.topic_at(place)?, *self.last.get(&index)?))).collect()
    }
}

/// The readings of the device that a message holds: one, or those of a batch.
pub fn readings_of(topic: &str, payload: &[u8]) -> Vec<u64> {
    if !topic.ends_with("devices/plc/counter") {
        return Vec::new();
    }
    let Ok(Value::Array(batch)) = serde_json::from_slice(payload) else {
        return number_of(topic, payload).into_iter().collect();
    };
    // One that is not good is an old one, or none.
    let good = batch.iter().filter(|reading| reading["quality"] == "good");
    good.filter_map(|reading| reading["value"].as_u64()).collect()
}

/// The number that a message begins with, of a batch that of its first reading. States and results of the device are text, and its points as they are
/// read back are no messages of ours.
pub fn number_of(topic: &str, payload: &[u8]) -> Option<u64> {
    if ["devices/plc/setpoint", "devices/plc/limit"].contains(&topic) {
        return None;
    }
    if payload.first() == Some(&b'[') {
        return readings_of(topic, payload).first().copied();
    }
    let digits = payload.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&payload[..digits]).ok()?.parse().ok()
}

/// The point whose command is answered by a message on this topic.
pub fn point_of_result(topic: &str) -> Option<&str> {
    topic.strip_suffix("/result")?.rsplit('/').next()
}

pub fn number_of_message(message: &Message) -> Option<u64> {
    number_of(message.topic.as_str(), &message.payload)
}
