//! The reference model: which messages exist, who must, may and must not get them, and what each got. Knows the
//! promise, and nothing of how the gateway keeps it.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::mqtt::message::Message;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicFilter;

/// Readings of the device count from here; all else is below.
pub const READING_FIRST: u64 = 10_000_000;
/// What the bridge puts before a local topic.
pub const SITE: &str = "sites/plant-7/";

/// A broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Gateway,
    Cloud,
}

/// Where the messages of a lane go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Lan,
    /// To the LAN and on to the cloud.
    Up,
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
    /// Index of the client; None: the device.
    pub publisher: Option<usize>,
}

impl Lane {
    /// The topic at a broker; None: it never gets there.
    pub fn topic_at(&self, place: Place) -> Option<String> {
        match (self.scope, place) {
            (Scope::Lan | Scope::Up, Place::Gateway) | (Scope::Down | Scope::Set, Place::Cloud) => {
                Some(self.topic.clone())
            }
            (Scope::Up, Place::Cloud) => Some(format!("{SITE}{}", self.topic)),
            (Scope::Down, Place::Gateway) => self.topic.strip_prefix(SITE).map(str::to_owned),
            (Scope::Set, Place::Gateway) => Some(format!("devices/plc/{}/set", self.point())),
            (Scope::Lan, Place::Cloud) => None,
        }
    }

    /// What a command is for.
    fn point(&self) -> &str {
        self.topic.rsplit('/').next().unwrap_or_default()
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
}

/// A subscription that stands from the start.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub client: usize,
    pub place: Place,
    pub filter: TopicFilter,
    pub qos: QoS,
    /// Whether its session is kept.
    pub durable: bool,
}

#[derive(Debug, Default)]
pub struct Reference {
    pub lanes: Vec<Lane>,
    pub subscribers: Vec<Subscriber>,
    pub messages: BTreeMap<u64, Numbered>,
    /// The bridge's buffer is so small that it may cost messages.
    pub small_buffer: bool,
    /// It turns them away to their publisher.
    pub may_refuse: bool,
    /// So are the queues of the gateway's sessions.
    pub small_queues: bool,
    counts: BTreeMap<(usize, u64), u32>,
    /// The last number of which a client got its first copy, by lane.
    latest: BTreeMap<(usize, usize), u64>,
    /// The last number of a lane.
    last: BTreeMap<usize, u64>,
    next: u64,
    pub duplicates: u64,
    pub deliveries: u64,
    /// Faults that may each repeat what was under way.
    pub faults: u64,
    /// Commands that changed what the device holds.
    carried_out: BTreeSet<u64>,
    /// Commands that were answered, be it by a refusal.
    answered: BTreeSet<u64>,
    /// The last command of a lane that was carried out.
    last_command: BTreeMap<usize, u64>,
    /// Answers that a client heard, by point.
    results: BTreeMap<(usize, String), u64>,
}

impl Reference {
    pub fn publish(&mut self, lane: usize) -> u64 {
        self.next += 1;
        self.insert(self.next, lane, Fate::Open);
        self.next
    }

    pub fn insert(&mut self, number: u64, lane: usize, fate: Fate) {
        self.messages.insert(number, Numbered { lane, fate });
        self.last.insert(lane, number);
    }

    pub fn lane_of(&self, number: u64) -> &Lane {
        let message = self.messages.get(&number);
        &self.lanes[message.unwrap_or_else(|| panic!("{number} was never published")).lane]
    }

    pub fn settle(&mut self, number: u64, fate: Fate) {
        let message = self.messages.get_mut(&number).expect("a published number");
        message.fate = fate;
    }

    /// The subscribers of a broker to which the message must come.
    pub fn targets(&self, number: u64, place: Place) -> Vec<usize> {
        let lane = self.lane_of(number);
        let Some(topic) = lane.topic_at(place) else { return Vec::new() };
        let topic = tidegate::mqtt::topic::TopicName::new(&topic).unwrap();
        let matching = self.subscribers.iter().filter(|s| s.place == place && s.filter.matches(&topic));
        matching.filter(|s| s.durable && s.qos.min(lane.qos) != QoS::AtMostOnce).map(|s| s.client).collect()
    }

    pub fn got(&self, client: usize, number: u64) -> bool {
        self.counts.contains_key(&(client, number))
    }

    /// Whether what is missing at a broker may have been dropped as configured, and order may suffer from that.
    pub fn is_lossy(&self, number: u64, place: Place) -> bool {
        let up = self.lane_of(number).scope == Scope::Up;
        let refused = up && self.may_refuse;
        match place {
            Place::Gateway => self.small_queues || refused,
            Place::Cloud => up && self.small_buffer,
        }
    }

    pub fn may_be_refused(&self, number: u64) -> bool {
        self.may_refuse && self.lane_of(number).scope == Scope::Up
    }

    /// A message that a client's application got.
    pub fn deliver(&mut self, client: usize, number: u64, topic: &str) {
        let message = *self.messages.get(&number).unwrap_or_else(|| panic!("{number} was never published"));
        let lane = self.lanes[message.lane].clone();
        let subscriber = self.subscribers.iter().find(|s| s.client == client).expect("a subscriber").clone();
        assert_eq!(lane.topic_at(subscriber.place).as_deref(), Some(topic), "{number} came on a wrong topic");
        self.deliveries += 1;
        let count = self.counts.entry((client, number)).or_default();
        *count += 1;
        let count = *count;
        if count > 1 {
            self.duplicates += 1;
            let exactly = subscriber.qos.min(lane.qos) == QoS::ExactlyOnce;
            assert!(!exactly, "{number} came to client {client} twice at QoS 2 ({topic})");
            let most = u64::from(count) <= 1 + self.faults;
            assert!(most, "{number} came to client {client} {count} times for {} faults", self.faults);
            return;
        }
        let latest = self.latest.insert((client, message.lane), number);
        // Who came later may see the second copy of what it missed.
        let ordered = subscriber.durable || lane.qos == QoS::ExactlyOnce;
        assert!(
            latest.is_none_or(|latest| latest < number)
                || !ordered
                || self.is_lossy(number, subscriber.place),
            "{number} came to client {client} after {latest:?} ({topic})"
        );
    }

    /// A connection of a client without session begins: nothing is known of earlier ones.
    pub fn forget(&mut self, client: usize) {
        self.counts.retain(|(of, _), _| *of != client);
        self.latest.retain(|(of, _), _| *of != client);
    }

    /// The device was told to write. `changed`: it held something else before.
    pub fn command(&mut self, number: u64, changed: bool) {
        let lane = self.messages.get(&number).map(|message| message.lane);
        let lane = lane.unwrap_or_else(|| panic!("{number} was never published"));
        let Lane { scope, qos, .. } = self.lanes[lane];
        assert!(scope == Scope::Set, "{number} is no command");
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
        if self.small_buffer || self.small_queues {
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

    /// What must have come and has not.
    pub fn missing(&self) -> Vec<(u64, usize)> {
        let promised = self.messages.iter().filter(|(_, message)| message.fate == Fate::Acknowledged);
        let mut missing = Vec::new();
        for (number, _) in promised {
            for place in [Place::Gateway, Place::Cloud] {
                if !self.is_lossy(*number, place) {
                    let targets = self.targets(*number, place).into_iter();
                    missing.extend(targets.filter(|c| !self.got(*c, *number)).map(|c| (*number, c)));
                }
            }
        }
        missing
    }

    /// Commands that the device must have got, or that must have been answered.
    pub fn undone(&self) -> Vec<u64> {
        let promised = self.messages.iter().filter(|(_, message)| message.fate == Fate::Acknowledged);
        let commands = promised.filter(|(_, message)| self.lanes[message.lane].scope == Scope::Set);
        commands.map(|(number, _)| *number).filter(|number| !self.is_done(*number)).collect()
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

/// The number that a message begins with. States and results of the device are text, and its points as they are
/// read back are no messages of ours.
pub fn number_of(topic: &str, payload: &[u8]) -> Option<u64> {
    if ["devices/plc/setpoint", "devices/plc/limit"].contains(&topic) {
        return None;
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
