//! One edge node towards one MQTT server: what is known of its devices' metrics, which of it this session was told, and
//! with which numbers. Makes payloads; never sends one, and never decides when.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::{Instant, Now};
use crate::mqtt::topic::TopicName;
use crate::sparkplug::device::{Birth, Device, Held, millis};
use crate::sparkplug::payload::{DataType, Metric, MetricValue, Payload, Quality};
use crate::sparkplug::topic::{EdgeNode, Kind};

/// The number of this session, in its NBIRTH and its NDEATH.
const BD_SEQ: &str = "bdSeq";
/// Written by a host that wants to be told everything again. It has no alias, as the specification demands.
const REBIRTH: &str = "Node Control/Rebirth";

/// Whether what a host tells the node is to say everything again.
pub fn asks_rebirth(payload: &[u8]) -> bool {
    let asks = |metric: &Metric| {
        metric.name.as_deref() == Some(REBIRTH) && metric.value == Some(MetricValue::Boolean(true))
    };
    Payload::decode(payload).is_ok_and(|payload| payload.metrics.iter().any(asks))
}

/// What the node has, as configured. The same in each session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub node: EdgeNode,
    pub devices: Vec<DeviceDefinition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceDefinition {
    pub name: Arc<str>,
    pub metrics: Vec<MetricDefinition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricDefinition {
    pub name: Arc<str>,
    pub datatype: DataType,
    pub unit: Option<Arc<str>>,
}

/// One message, to be sent in the order of its making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub topic: TopicName,
    pub payload: Bytes,
    pub kind: Kind,
}

#[derive(Debug)]
pub struct Session {
    node: EdgeNode,
    devices: Vec<Device>,
    by_name: BTreeMap<Arc<str>, usize>,
    next_alias: u64,
    /// Of the connection, or of the one before it.
    bd_seq: Option<u8>,
    /// Of the one before.
    bd_seq_before: Option<u8>,
    /// Of the next message.
    seq: u8,
    /// Since when the server's hosts know the node. None: they do not.
    born_at: Option<Instant>,
}

impl Session {
    /// `bd_seq` is the last one that an earlier run used, `carries` says which devices the session is for. Aliases are
    /// the places of the metrics in the configuration, so that every session begins with the same.
    pub fn new(definition: &Definition, bd_seq: Option<u8>, carries: impl Fn(&str) -> bool) -> Self {
        let node = definition.node.clone();
        let mut session = Self {
            node,
            devices: Vec::new(),
            by_name: BTreeMap::new(),
            next_alias: 1,
            bd_seq,
            bd_seq_before: bd_seq,
            seq: 0,
            born_at: None,
        };
        for defined in &definition.devices {
            let at = session.place_of(&defined.name);
            session.devices[at].is_carried = carries(&defined.name);
            for metric in &defined.metrics {
                session.add_metric(at, (&metric.name, metric.datatype, metric.unit.clone()));
            }
        }
        session
    }

    pub fn node(&self) -> &EdgeNode {
        &self.node
    }

    pub fn is_born(&self) -> bool {
        self.born_at.is_some()
    }

    pub fn carries(&self, device: &str) -> bool {
        self.device(device).is_some_and(|device| device.is_carried)
    }

    pub fn is_alive(&self, device: &str) -> bool {
        self.device(device).is_some_and(|device| device.is_alive)
    }

    /// The number of this session.
    pub fn bd_seq(&self) -> Option<u8> {
        self.bd_seq
    }

    /// What another session has learned of the devices and metrics that this one has too.
    pub fn recall(&mut self, other: &Self) {
        self.bd_seq = other.bd_seq;
        for known in &other.devices {
            let Some(device) = self.by_name.get(&known.name).and_then(|at| self.devices.get_mut(*at)) else {
                continue;
            };
            device.recall(known);
        }
    }

    /// The same node with other devices, or with other metrics of theirs, in a session that goes on. What is new is born
    /// before it is said. What is gone has said so, and stays for what of it still waits.
    pub fn redefine(&mut self, (before, after): (&Definition, &Definition), carries: impl Fn(&str) -> bool) {
        for defined in after.devices.iter().filter(|defined| !before.devices.contains(defined)) {
            let at = self.place_of(&defined.name);
            self.devices[at].is_carried = carries(&defined.name);
            let is_defined = |name: &str| defined.metrics.iter().any(|metric| &*metric.name == name);
            self.devices[at].keep(is_defined);
            for metric in &defined.metrics {
                if let Some(held) = self.devices[at].held_as(&metric.name, Some(metric.datatype)) {
                    held.unit.clone_from(&metric.unit);
                } else {
                    self.add_metric(at, (&metric.name, metric.datatype, metric.unit.clone()));
                }
            }
        }
    }

    /// A connection begins: the number that its will and its births have. To be kept for the next run.
    pub fn begin(&mut self) -> u8 {
        self.end();
        self.bd_seq_before = self.bd_seq;
        let bd_seq = self.bd_seq.map_or(0, |last| last.wrapping_add(1));
        self.bd_seq = Some(bd_seq);
        bd_seq
    }

    /// The server did not take the connection that began, nor its will: the next one has the same number.
    pub fn unbegin(&mut self) {
        self.bd_seq = self.bd_seq_before;
    }

    /// The connection is over: nobody knows the node any more.
    pub fn end(&mut self) {
        self.born_at = None;
        self.devices.iter_mut().for_each(|device| device.birth = Birth::Unborn);
    }

    /// What the server says when the connection breaks, and the node when it ends it.
    pub fn node_death(&self, now: Now) -> Option<Publication> {
        let payload =
            Payload { timestamp: Some(millis(now)), metrics: vec![self.bd_seq_metric(now)], seq: None };
        publication(self.node.topic(Kind::NodeDeath), &payload, Kind::NodeDeath)
    }

    /// NBIRTH, and a DBIRTH of each device that is alive or was born in this session: the session begins, or begins anew.
    pub fn births(&mut self, now: Now) -> Vec<Publication> {
        self.seq = 0;
        self.born_at = Some(now.instant);
        let rebirth = Metric {
            name: Some(REBIRTH.into()),
            timestamp: Some(millis(now)),
            datatype: Some(DataType::Boolean),
            value: Some(MetricValue::Boolean(false)),
            ..Metric::default()
        };
        let metrics = vec![self.bd_seq_metric(now), rebirth];
        let payload = self.numbered(metrics, now);
        let mut births: Vec<Publication> =
            publication(self.node.topic(Kind::NodeBirth), &payload, Kind::NodeBirth).into_iter().collect();
        for at in 0..self.devices.len() {
            if self.devices[at].is_carried
                && (self.devices[at].is_alive || self.devices[at].birth != Birth::Unborn)
            {
                births.extend(self.birth_at(at, now));
            }
        }
        births
    }

    /// What a device has said of itself, whether this session is told of it or not.
    pub fn learn(&mut self, kind: Kind, name: &str, payload: &Payload) {
        let at = self.place_of(name);
        for metric in &payload.metrics {
            let Some(held) = self.held(at, metric) else { continue };
            held.learn(metric);
        }
        match kind {
            Kind::DeviceBirth => self.devices[at].is_alive = true,
            Kind::DeviceDeath => self.devices[at].is_alive = false,
            _ => {}
        }
    }

    /// DBIRTH with all that is known. None: the session is not told of it.
    pub fn device_birth(&mut self, name: &str, now: Now) -> Option<Publication> {
        let at = self.by_name.get(name).copied()?;
        let is_told = self.is_born() && self.devices[at].is_carried;
        if is_told { self.birth_at(at, now) } else { None }
    }

    /// DDEATH. None: the session has not heard of the device.
    pub fn device_death(&mut self, name: &str, now: Now) -> Option<Publication> {
        let at = self.by_name.get(name).copied()?;
        if std::mem::replace(&mut self.devices[at].birth, Birth::Unborn) == Birth::Unborn {
            return None;
        }
        let topic = self.node.device_topic(Kind::DeviceDeath, name);
        let payload = self.numbered(Vec::new(), now);
        publication(topic, &payload, Kind::DeviceDeath)
    }

    /// DDATA of metrics that were `read_at` that moment, behind a DBIRTH where the session does not know all of them.
    /// `later` is what is to be added to their times, in milliseconds. Empty before the session's own birth.
    pub fn data(
        &mut self,
        name: &str,
        payload: &Payload,
        (read_at, later): (Instant, i64),
        now: Now,
    ) -> Vec<Publication> {
        let Some(born_at) = self.born_at else { return Vec::new() };
        let at = self.place_of(name);
        let mut metrics = Vec::with_capacity(payload.metrics.len());
        for metric in &payload.metrics {
            // What has neither name nor type is no reading of ours.
            let Some(held) = self.held(at, metric) else { continue };
            metrics.push(Metric {
                name: None,
                alias: Some(held.alias),
                timestamp: metric.timestamp.map(|then| then.saturating_add_signed(later)),
                datatype: None,
                is_historical: read_at < born_at,
                value: metric.value.clone(),
                quality: Some(metric.quality.unwrap_or(Quality::Good)),
                unit: None,
            });
        }
        let mut publications = Vec::new();
        if self.devices[at].birth != Birth::Whole {
            publications.extend(self.birth_at(at, now));
        }
        let topic = self.node.device_topic(Kind::DeviceData, name);
        let payload = self.numbered(metrics, now);
        publications.extend(publication(topic, &payload, Kind::DeviceData));
        publications
    }

    /// The last message could not be sent: the next one has its number.
    pub fn take_back(&mut self) {
        self.seq = self.seq.wrapping_sub(1);
    }

    /// The metric that a host names, and its type.
    pub fn named<'a>(&'a self, device: &str, metric: &'a Metric) -> Option<(&'a str, Option<DataType>)> {
        let held = self.device(device).and_then(|device| device.named(metric));
        match held {
            Some(held) => Some((&held.name, Some(held.datatype))),
            None => Some((metric.name.as_deref()?, metric.datatype)),
        }
    }

    fn device(&self, name: &str) -> Option<&Device> {
        self.by_name.get(name).and_then(|at| self.devices.get(*at))
    }

    /// One that the configuration does not know any more, or not yet, is added: its readings still wait.
    fn place_of(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let name: Arc<str> = name.into();
        self.by_name.insert(Arc::clone(&name), self.devices.len());
        self.devices.push(Device::new(name));
        self.devices.len() - 1
    }

    /// The metric of that name and type; one that is new, or of another type now, is to be born.
    fn held(&mut self, at: usize, metric: &Metric) -> Option<&mut Held> {
        let name = metric.name.as_ref()?;
        if self.devices[at].has(name) {
            return self.devices[at].held_as(name, metric.datatype);
        }
        let datatype = metric.datatype?;
        Some(self.add_metric(at, (name, datatype, metric.unit.clone())))
    }

    fn add_metric(&mut self, at: usize, metric: (&Arc<str>, DataType, Option<Arc<str>>)) -> &mut Held {
        let alias = self.next_alias;
        self.next_alias += 1;
        self.devices[at].add(alias, metric)
    }

    fn birth_at(&mut self, at: usize, now: Now) -> Option<Publication> {
        let device = &mut self.devices[at];
        device.birth = Birth::Whole;
        let metrics = device.birth_metrics(now);
        let topic = self.node.device_topic(Kind::DeviceBirth, &device.name);
        let payload = self.numbered(metrics, now);
        publication(topic, &payload, Kind::DeviceBirth)
    }

    fn bd_seq_metric(&self, now: Now) -> Metric {
        Metric {
            name: Some(BD_SEQ.into()),
            timestamp: Some(millis(now)),
            datatype: Some(DataType::Int64),
            value: Some(MetricValue::Long(self.bd_seq.unwrap_or(0).into())),
            ..Metric::default()
        }
    }

    /// The next message of the session: 0 is NBIRTH's, and comes again after 255.
    fn numbered(&mut self, metrics: Vec<Metric>, now: Now) -> Payload {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        Payload { timestamp: Some(millis(now)), metrics, seq: Some(seq.into()) }
    }
}

fn publication(topic: Option<TopicName>, payload: &Payload, kind: Kind) -> Option<Publication> {
    Some(Publication { topic: topic?, payload: payload.encode().into(), kind })
}

#[cfg(test)]
mod tests {
    use super::{Definition, DeviceDefinition, MetricDefinition, Publication, Session};
    use crate::base::time::{Duration, Instant, Now, Timestamp};
    use crate::sparkplug::payload::{DataType, Metric, MetricValue, Payload, Quality};
    use crate::sparkplug::topic::{EdgeNode, Kind};

    fn at(secs: u64) -> Now {
        let wall = Timestamp::from_millis(1_795_255_200_000 + i64::try_from(secs).unwrap() * 1000);
        Now { instant: Instant::ORIGIN + Duration::from_secs(secs), wall }
    }

    fn definition() -> Definition {
        let metric = |name: &str| MetricDefinition {
            name: name.into(),
            datatype: DataType::Float,
            unit: Some("V".into()),
        };
        let device =
            |name: &str| DeviceDefinition { name: name.into(), metrics: vec![metric("u"), metric("i")] };
        Definition {
            node: EdgeNode { group: "plant".into(), node: "gw".into() },
            devices: vec![device("a"), device("b")],
        }
    }

    fn session() -> Session {
        Session::new(&definition(), None, |_| true)
    }

    fn reading(name: &str, value: f32) -> Payload {
        let metric = Metric {
            name: Some(name.into()),
            timestamp: Some(1_000),
            datatype: Some(DataType::Float),
            value: Some(MetricValue::Float(value)),
            ..Metric::default()
        };
        Payload { metrics: vec![metric], ..Payload::default() }
    }

    /// Kind, device's topic end, seq.
    fn heads(publications: &[Publication]) -> Vec<(Kind, u64)> {
        publications.iter().map(|sent| (sent.kind, decoded(sent).seq.expect("a seq"))).collect()
    }

    fn decoded(publication: &Publication) -> Payload {
        Payload::decode(&publication.payload).expect("a payload")
    }

    fn now_read(now: Now) -> (Instant, i64) {
        (now.instant, 0)
    }

    #[test]
    fn each_connection_has_the_next_number_in_its_birth_and_its_death() {
        let mut session = Session::new(&definition(), Some(254), |_| true);
        for expected in [255, 0, 1] {
            assert_eq!(session.begin(), expected);
            let births = session.births(at(1));
            let birth = decoded(&births[0]);
            let death = decoded(&session.node_death(at(1)).expect("NDEATH"));
            assert_eq!(birth.metrics[0].name.as_deref(), Some("bdSeq"));
            assert_eq!(birth.metrics[0].value, Some(MetricValue::Long(expected.into())));
            assert_eq!((death.metrics.len(), death.seq), (1, None));
            assert_eq!(death.metrics[0].value, birth.metrics[0].value);
        }
        let mut first = self::session();
        assert_eq!(first.begin(), 0);
        assert_eq!(heads(&first.births(at(0))), [(Kind::NodeBirth, 0)], "no device is alive yet");
        assert_eq!(heads(&first.births(at(0))), [(Kind::NodeBirth, 0)], "a rebirth has the same numbers");
        let mut refused = self::session();
        for _ in 0..3 {
            assert_eq!(refused.begin(), 0, "nobody heard of it");
            refused.unbegin();
        }
    }

    #[test]
    fn seq_counts_every_message_and_begins_again_after_255() {
        let mut session = session();
        session.begin();
        session.births(at(0));
        let mut seen = Vec::new();
        for _ in 0..600 {
            let sent = session.data("a", &reading("u", 1.0), now_read(at(1)), at(1));
            seen.extend(heads(&sent).into_iter().map(|(_, seq)| seq));
        }
        let expected: Vec<u64> = (1..=601).map(|number| number % 256).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_birth_names_all_metrics_and_data_has_their_aliases_alone() {
        let mut session = session();
        session.begin();
        session.births(at(0));
        session.learn(Kind::DeviceBirth, "b", &reading("u", 230.1));
        let birth = decoded(&session.device_birth("b", at(5)).expect("DBIRTH"));
        let told: Vec<_> =
            birth.metrics.iter().map(|m| (m.name.as_deref().unwrap(), m.alias, m.quality)).collect();
        assert_eq!(told, [("u", Some(3), Some(Quality::Good)), ("i", Some(4), Some(Quality::Stale))]);
        assert_eq!(birth.metrics[0].value, Some(MetricValue::Float(230.1)));
        assert_eq!((&birth.metrics[1].value, birth.metrics[1].timestamp), (&None, Some(1_795_255_205_000)));
        assert_eq!(birth.metrics[0].unit.as_deref(), Some("V"));
        let sent = session.data("b", &reading("i", 2.0), now_read(at(6)), at(7));
        assert_eq!(heads(&sent), [(Kind::DeviceData, 2)]);
        let data = decoded(&sent[0]);
        let metric = &data.metrics[0];
        assert_eq!(
            (&metric.name, metric.alias, metric.datatype, metric.is_historical),
            (&None, Some(4), None, false)
        );
        assert_eq!((data.timestamp, metric.timestamp), (Some(1_795_255_207_000), Some(1_000)));
    }

    #[test]
    fn what_was_read_before_the_birth_is_historical_and_its_device_is_born_first() {
        let mut session = session();
        session.begin();
        assert!(
            session.data("a", &reading("u", 1.0), now_read(at(9)), at(9)).is_empty(),
            "nobody knows the node"
        );
        session.births(at(10));
        let sent = session.data("a", &reading("u", 1.0), (at(9).instant, 500), at(11));
        assert_eq!(heads(&sent), [(Kind::DeviceBirth, 1), (Kind::DeviceData, 2)]);
        let metric = &decoded(&sent[1]).metrics[0];
        assert_eq!((metric.is_historical, metric.timestamp), (true, Some(1_500)));
        let sent = session.data("a", &reading("u", 1.0), now_read(at(10)), at(11));
        assert_eq!(heads(&sent), [(Kind::DeviceData, 3)]);
        assert!(!decoded(&sent[0]).metrics[0].is_historical);
        // A rebirth says it all again, of the device too that was only born for what waited.
        assert_eq!(heads(&session.births(at(20))), [(Kind::NodeBirth, 0), (Kind::DeviceBirth, 1)]);
    }

    #[test]
    fn a_session_goes_on_with_other_devices_and_metrics() {
        let (before, mut after) = (definition(), definition());
        let mut session = session();
        session.begin();
        for device in ["a", "b"] {
            session.learn(Kind::DeviceBirth, device, &reading("u", 1.0));
        }
        assert_eq!(session.births(at(0)).len(), 3);
        after.devices.retain(|device| &*device.name == "b");
        after.devices[0].metrics.remove(0);
        after.devices[0].metrics[0].datatype = DataType::Double;
        after.devices.push(DeviceDefinition { name: "new".into(), ..before.devices[0].clone() });
        session.redefine((&before, &after), |_| true);
        // Both died before; that it is said now, behind what waited of them, is still due.
        let deaths = ["a", "b"].map(|device| session.device_death(device, at(1)).expect("DDEATH"));
        assert_eq!(heads(&deaths), [(Kind::DeviceDeath, 3), (Kind::DeviceDeath, 4)]);
        session.learn(Kind::DeviceBirth, "new", &reading("u", 1.0));
        let birth = decoded(&session.device_birth("new", at(2)).expect("DBIRTH"));
        assert!(
            birth.metrics.iter().all(|metric| metric.alias > Some(4)),
            "no alias that another has: {birth:?}"
        );
        let birth = decoded(&session.device_birth("b", at(2)).expect("DBIRTH"));
        let told: Vec<_> = birth.metrics.iter().map(|m| (m.name.as_deref().unwrap(), m.datatype)).collect();
        assert_eq!(told, [("i", Some(DataType::Double))]);
        // One whose metrics are others now is born before it says them, whatever it is that comes first.
        let known = after.clone();
        after.devices[0]
            .metrics
            .push(MetricDefinition { name: "x".into(), ..before.devices[0].metrics[0].clone() });
        session.redefine((&known, &after), |_| true);
        let sent = session.data("b", &reading("x", 1.0), now_read(at(3)), at(3));
        assert_eq!(heads(&sent), [(Kind::DeviceBirth, 7), (Kind::DeviceData, 8)]);
        let sent = session.data("new", &reading("u", 1.0), now_read(at(3)), at(3));
        assert_eq!(heads(&sent), [(Kind::DeviceData, 9)], "nothing of it changed");
    }

    #[test]
    fn what_the_configuration_does_not_know_any_more_is_born_before_it_is_said() {
        let mut session = session();
        session.begin();
        session.births(at(0));
        for device in ["a", "gone"] {
            let sent = session.data(device, &reading("u", 1.0), now_read(at(1)), at(1));
            assert_eq!(sent.len(), 2, "{device}");
            let sent = session.data(device, &reading("old", 1.0), now_read(at(1)), at(1));
            let birth = decoded(&sent[0]);
            let old =
                birth.metrics.iter().find(|metric| metric.name.as_deref() == Some("old")).expect("named");
            assert_eq!(old.alias, decoded(&sent[1]).metrics[0].alias);
            assert!(old.alias > Some(4), "no alias of the configuration's");
        }
        let mut other = reading("u", 1.0);
        other.metrics[0].datatype = Some(DataType::Double);
        let sent = session.data("a", &other, now_read(at(1)), at(1));
        assert_eq!(decoded(&sent[0]).metrics[0].datatype, Some(DataType::Double));
    }

    #[test]
    fn a_device_dies_once_and_only_where_it_was_born() {
        let mut session = session();
        session.begin();
        session.births(at(0));
        assert_eq!(session.device_death("a", at(1)), None);
        session.learn(Kind::DeviceBirth, "a", &reading("u", 1.0));
        session.device_birth("a", at(1)).expect("DBIRTH");
        session.learn(Kind::DeviceDeath, "a", &Payload::default());
        let death = session.device_death("a", at(2)).expect("DDEATH");
        assert_eq!((death.topic.as_str(), decoded(&death).metrics.len()), ("spBv1.0/plant/DDEATH/gw/a", 0));
        assert_eq!(session.device_death("a", at(3)), None);
        // What still waits of it brings it back, as what it is.
        let sent = session.data("a", &reading("u", 1.0), now_read(at(1)), at(4));
        assert_eq!(decoded(&sent[0]).metrics[0].quality, Some(Quality::Stale));
    }

    #[test]
    fn a_session_is_told_of_its_own_devices_and_numbers_them_as_every_session() {
        let mut session = Session::new(&definition(), None, |device| device == "b");
        session.begin();
        for device in ["a", "b"] {
            session.learn(Kind::DeviceBirth, device, &reading("u", 1.0));
        }
        let births = session.births(at(0));
        assert_eq!(heads(&births), [(Kind::NodeBirth, 0), (Kind::DeviceBirth, 1)]);
        assert_eq!(decoded(&births[1]).metrics[0].alias, Some(3));
        assert_eq!(session.device_birth("a", at(1)), None);
    }

    #[test]
    fn a_host_names_a_metric_by_name_or_alias() {
        let session = session();
        let by_name = Metric { name: Some("i".into()), ..Metric::default() };
        let by_alias = Metric { alias: Some(4), ..Metric::default() };
        let strange = Metric { name: Some("x".into()), ..Metric::default() };
        let nobody = Metric { alias: Some(1), ..Metric::default() };
        assert_eq!(session.named("b", &by_name), Some(("i", Some(DataType::Float))));
        assert_eq!(session.named("b", &by_alias), Some(("i", Some(DataType::Float))));
        assert_eq!(session.named("b", &strange), Some(("x", None)));
        assert_eq!(session.named("b", &nobody), None);
    }
}
