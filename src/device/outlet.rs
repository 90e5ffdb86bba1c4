//! Where the readings of a device leave: each as a message, or gathered to one message that is an array of them. Never
//! decides what is news, and knows no value.

use std::collections::BTreeMap;

use crate::base::time::{Doubt, Instant, Now};
use crate::base::undated::{correct_time, shift_time};
use crate::config::batch::Batch;
use crate::config::model::Publish;
use crate::device::effect::Effects;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// Of a packet beside topic and payload: its header and identifier, and the properties that each hop may add.
const PACKET_BYTES: usize = 32;
/// What all open batches of a device hold; with more, all of them close.
const OPEN_BYTES_MAX: usize = 1 << 20;

/// What is a message by itself where nothing is gathered.
#[derive(Debug)]
pub(crate) struct Saying {
    pub(crate) topic: TopicName,
    pub(crate) payload: String,
    /// How many of its values are not good.
    pub(crate) doubtful: usize,
}

#[derive(Debug)]
pub(crate) struct Outlet {
    /// In the configuration.
    index: u16,
    qos: QoS,
    retain: bool,
    /// None: nothing waits.
    gathering: Option<Box<Gathering>>,
}

impl Outlet {
    pub(crate) fn new(index: u16, publish: &Publish) -> Self {
        let gathering = publish.batch.map(|settings| Box::new(Gathering::new(settings)));
        Self { index, qos: publish.qos, retain: publish.retain, gathering }
    }

    pub(crate) fn say(&mut self, saying: Saying, now: Now, out: &mut Effects) {
        match &mut self.gathering {
            Some(gathering) => {
                let closed = gathering.add(saying, now);
                self.publish(closed, now, out);
            }
            None => self.publish([(saying.topic, saying.payload)], now, out),
        }
    }

    /// When the next batch closes by its age.
    pub(crate) fn due(&self) -> Instant {
        self.gathering.as_ref().map_or(Instant::FAR_FUTURE, |gathering| gathering.due)
    }

    pub(crate) fn close_due(&mut self, now: Now, out: &mut Effects) {
        if self.due() <= now.instant {
            let closed = self.gathering.as_mut().map(|gathering| gathering.close_until(now.instant, now));
            self.publish(closed.unwrap_or_default(), now, out);
        }
    }

    /// Nothing more comes for now.
    pub(crate) fn close_all(&mut self, now: Now, out: &mut Effects) {
        let closed = self.gathering.as_mut().map(|gathering| gathering.close_until(Instant::FAR_FUTURE, now));
        self.publish(closed.unwrap_or_default(), now, out);
    }

    fn publish(&self, closed: impl IntoIterator<Item = (TopicName, String)>, now: Now, out: &mut Effects) {
        for (topic, payload) in closed {
            let mut message = Message::new(topic, payload, self.qos, Origin::Device(self.index), now);
            message.retain = self.retain;
            out.publishes.push(message);
        }
    }
}

/// Topics and payloads of batches that are closed.
type Closed = Vec<(TopicName, String)>;

#[derive(Debug)]
struct Gathering {
    settings: Batch,
    /// As many as the device has topics for its readings.
    batches: BTreeMap<TopicName, Open>,
    /// Of all of them.
    bytes: usize,
    /// When the first of them closes; may be early, never late.
    due: Instant,
}

impl Gathering {
    fn new(settings: Batch) -> Self {
        Self { settings, batches: BTreeMap::new(), bytes: 0, due: Instant::FAR_FUTURE }
    }

    fn add(&mut self, saying: Saying, now: Now) -> Closed {
        let Saying { topic, payload, doubtful } = saying;
        let around = PACKET_BYTES + topic.as_str().len() + "[]".len();
        let bytes_max = self.settings.packet_bytes_max.saturating_sub(around);
        let batch = self.batches.entry(topic.clone()).or_default();
        let mut closed = Closed::new();
        let added = payload.len() + ",".len();
        // One that alone is too large still is a reading.
        if batch.bytes + added > bytes_max && !batch.entries.is_empty() {
            self.bytes -= batch.bytes;
            closed.push((topic.clone(), batch.close(now)));
        }
        if batch.entries.is_empty() {
            batch.closes = now.instant + self.settings.every;
            self.due = self.due.min(batch.closes);
        }
        // Who waits for a fault is told at once.
        let is_worse = doubtful > batch.doubtful;
        batch.doubtful = doubtful;
        batch.entries.push(Entry { payload, at: now });
        batch.bytes += added;
        self.bytes += added;
        if is_worse || batch.entries.len() >= self.settings.readings || batch.bytes >= bytes_max {
            self.bytes -= batch.bytes;
            closed.push((topic, batch.close(now)));
        } else if self.bytes > OPEN_BYTES_MAX {
            closed.extend(self.close_until(Instant::FAR_FUTURE, now));
        }
        closed
    }

    /// Those that close until `last`.
    fn close_until(&mut self, last: Instant, now: Now) -> Closed {
        let mut closed = Closed::new();
        self.due = Instant::FAR_FUTURE;
        for (topic, batch) in self.batches.iter_mut().filter(|(_, batch)| !batch.entries.is_empty()) {
            if batch.closes <= last {
                self.bytes -= batch.bytes;
                closed.push((topic.clone(), batch.close(now)));
            } else {
                self.due = self.due.min(batch.closes);
            }
        }
        closed
    }
}

/// The readings of one topic that wait.
#[derive(Debug)]
struct Open {
    /// As they came, so by their time.
    entries: Vec<Entry>,
    /// With a comma each.
    bytes: usize,
    closes: Instant,
    /// Values that were not good in what came last, be it gone since.
    doubtful: usize,
}

impl Default for Open {
    fn default() -> Self {
        Self { entries: Vec::new(), bytes: 0, closes: Instant::FAR_FUTURE, doubtful: 0 }
    }
}

impl Open {
    /// All that wait, as an array; its times are as one message knows them that is made `now`.
    fn close(&mut self, now: Now) -> String {
        let mut array = String::with_capacity(self.bytes + "[]".len());
        for entry in self.entries.drain(..) {
            array.push(if array.is_empty() { '[' } else { ',' });
            array.push_str(&entry.dated_by(now));
        }
        array.push(']');
        self.bytes = 0;
        array
    }
}

#[derive(Debug)]
struct Entry {
    payload: String,
    /// When it was made: its time is by this clock.
    at: Now,
}

impl Entry {
    /// A clock that was not set may be by now, or may have been stepped.
    fn dated_by(self, now: Now) -> String {
        let Self { payload, at } = self;
        let wall = at.dated_by(now);
        let later = wall.as_millis().saturating_sub(at.wall.as_millis());
        let dated = match (at.wall.doubt(), wall.doubt()) {
            (Doubt::Unset, Doubt::Unset) if later == 0 => None,
            (Doubt::Unset, Doubt::Unset) => shift_time(payload.as_bytes(), later),
            (Doubt::Unset, _) => correct_time(payload.as_bytes(), later),
            (_, _) => None,
        };
        // It was text, and is.
        dated.and_then(|dated| String::from_utf8(dated).ok()).unwrap_or(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::{Outlet, PACKET_BYTES, Saying};
    use crate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
    use crate::base::undated::write_time;
    use crate::config::batch::Batch;
    use crate::config::model::{Format, Publish, When};
    use crate::config::template::TopicTemplate;
    use crate::device::effect::Effects;
    use crate::mqtt::message::Message;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;

    const TEN: i64 = 1_795_255_200_000;

    fn outlet(batch: Option<Batch>) -> Outlet {
        let topic = TopicTemplate::new("devices/{device}/{point}").unwrap();
        let publish = Publish {
            topic,
            format: Format::Json,
            qos: QoS::AtLeastOnce,
            retain: false,
            when: When::Poll,
            heartbeat: None,
            batch,
        };
        Outlet::new(0, &publish)
    }

    fn gathering(readings: usize, packet_bytes_max: usize) -> Outlet {
        outlet(Some(Batch { every: Duration::from_secs(10), readings, packet_bytes_max }))
    }

    fn at(secs: u64, wall_millis: i64, doubt: Doubt) -> Now {
        let wall = Timestamp::from_millis(wall_millis).with_doubt(doubt);
        Now { instant: Instant::BOOT + Duration::from_secs(secs), wall }
    }

    fn second(secs: u64) -> Now {
        at(secs, TEN + i64::try_from(secs).unwrap() * 1000, Doubt::None)
    }

    /// What leaves because of a reading.
    fn say(outlet: &mut Outlet, topic: &str, payload: &str, now: Now) -> Vec<String> {
        let mut out = Effects::default();
        let topic = TopicName::new(topic).unwrap();
        let doubtful = payload.matches("bad").count();
        outlet.say(Saying { topic, payload: payload.to_owned(), doubtful }, now, &mut out);
        texts(&out.publishes)
    }

    fn texts(messages: &[Message]) -> Vec<String> {
        let text =
            |message: &Message| format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload));
        messages.iter().map(text).collect()
    }

    fn due(outlet: &mut Outlet, now: Now) -> Vec<String> {
        let mut out = Effects::default();
        outlet.close_due(now, &mut out);
        texts(&out.publishes)
    }

    #[test]
    fn without_a_batch_each_reading_leaves_at_once() {
        let mut outlet = outlet(None);
        assert_eq!(say(&mut outlet, "a", "1", second(0)), ["a 1"]);
        assert_eq!(outlet.due(), Instant::FAR_FUTURE);
    }

    #[test]
    fn the_number_of_readings_and_their_age_close_a_batch_of_one_topic() {
        let mut outlet = gathering(3, 1 << 16);
        assert_eq!(say(&mut outlet, "a", "1", second(0)), [""; 0]);
        assert_eq!(say(&mut outlet, "b", "9", second(4)), [""; 0]);
        assert_eq!(say(&mut outlet, "a", "2", second(5)), [""; 0]);
        assert_eq!(say(&mut outlet, "a", "3", second(6)), ["a [1,2,3]"]);
        assert_eq!(due(&mut outlet, second(13)), [""; 0], "ten seconds from its first reading on");
        assert_eq!(outlet.due(), second(14).instant);
        assert_eq!(say(&mut outlet, "a", "4", second(13)), [""; 0]);
        assert_eq!(due(&mut outlet, second(14)), ["b [9]"]);
        assert_eq!(due(&mut outlet, second(23)), ["a [4]"]);
        assert_eq!(outlet.due(), Instant::FAR_FUTURE);
    }

    #[test]
    fn no_batch_is_larger_than_its_packet_may_be() {
        let mut outlet = gathering(1000, 100);
        let payload_bytes_max = 100 - PACKET_BYTES - "a".len();
        let mut sent = Vec::new();
        for number in 10_000..10_100 {
            sent.extend(say(&mut outlet, "a", &number.to_string(), second(0)));
        }
        let payloads: Vec<&str> = sent.iter().map(|text| text.trim_start_matches("a ")).collect();
        assert!(payloads.iter().all(|payload| payload.len() <= payload_bytes_max), "{payloads:?}");
        assert!(payloads.iter().all(|payload| payload.len() + 7 > payload_bytes_max), "as full as it goes");
        let large = "7".repeat(500);
        let alone = say(&mut outlet, "a", &large, second(0));
        assert_eq!(alone.len(), 2, "what waited, and one that is too large by itself");
        assert_eq!(alone[1], format!("a [{large}]"));
    }

    #[test]
    fn what_a_device_gathers_on_all_its_topics_is_bounded() {
        let mut outlet = gathering(10_000, 1 << 20);
        let (payload, mut first) = ("7".repeat(10_000), None);
        for number in 0..200 {
            let sent = say(&mut outlet, &format!("t{number}"), &payload, second(0));
            if !sent.is_empty() {
                first = first.or(Some((number, sent.len())));
            }
        }
        assert_eq!(first, Some((104, 105)), "all of them, with the first that is over 1 MiB");
    }

    #[test]
    fn what_became_worse_is_told_at_once() {
        let mut outlet = gathering(100, 1 << 16);
        assert_eq!(say(&mut outlet, "a", "1", second(0)), [""; 0]);
        assert_eq!(say(&mut outlet, "b", "1", second(0)), [""; 0]);
        assert_eq!(say(&mut outlet, "a", "bad", second(1)), ["a [1,bad]"]);
        assert_eq!(say(&mut outlet, "a", "bad", second(2)), [""; 0], "no worse than before");
        assert_eq!(say(&mut outlet, "a", "bad bad", second(3)), ["a [bad,bad bad]"]);
        assert_eq!(say(&mut outlet, "a", "2", second(4)), [""; 0], "good again is no fault");
    }

    /// As single messages: right once the clock is set, else marked and by the clock of the message.
    #[test]
    fn times_from_before_the_clock_was_set_are_those_of_single_messages() {
        let reading = |now: Now| {
            let mut text = String::from("{");
            write_time(now.wall, &mut text);
            text + "}"
        };
        let unset = |secs, millis| at(secs, millis, Doubt::Unset);
        let gather = |times: &[Now]| {
            let mut outlet = gathering(100, 1 << 16);
            for now in times {
                assert_eq!(say(&mut outlet, "a", &reading(*now), *now), [""; 0]);
            }
            outlet
        };
        let mut out = Effects::default();
        // It is set between the second and the third.
        gather(&[unset(1, 1000), unset(2, 2000), second(3)]).close_all(second(4), &mut out);
        let right: Vec<String> = (1..=3).map(|secs| reading(second(secs))).collect();
        assert_eq!(texts(&out.publishes), [format!("a [{}]", right.join(","))]);

        // It is stepped, and not set before the batch has left: then it is set.
        let mut out = Effects::default();
        gather(&[unset(1, 1000), unset(2, 86_402_000)]).close_all(unset(4, 86_404_000), &mut out);
        let shifted = [unset(1, 86_401_000), unset(2, 86_402_000)].map(reading);
        assert_eq!(texts(&out.publishes), [format!("a [{}]", shifted.join(","))]);
        let dated = out.publishes[0].dated(second(9)).unwrap();
        assert_eq!(texts(&[dated]), [format!("a [{}]", right[..2].join(","))]);
    }
}
