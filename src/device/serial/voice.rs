//! What the world hears of a device: readings that are news, one message for all points where the topic names none,
//! `online` and `offline`. Never knows where a reading comes from.

use std::sync::Arc;

use crate::base::time::Now;
use crate::config::model::{Format, Publish};
use crate::device::effect::Effects;
use crate::device::format;
use crate::device::reading::{Memory, Quality, Reading, Rule};
use crate::device::status::PointStatus;
use crate::device::topics::Topics;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

#[derive(Debug)]
pub(crate) struct VoicePoint {
    pub(crate) name: Arc<str>,
    pub(crate) unit: Option<Arc<str>>,
    pub(crate) writable: bool,
    pub(crate) rule: Rule,
    pub(crate) memory: Memory,
}

#[derive(Debug)]
pub(crate) struct Voice {
    /// In the configuration.
    pub(crate) index: u16,
    pub(crate) publish: Publish,
    pub(crate) topics: Topics,
    /// In the order of the configuration.
    pub(crate) points: Vec<VoicePoint>,
    /// There is something new for the device's message.
    pub(crate) has_news: bool,
}

impl Voice {
    /// Says what is news; the device's own message waits for [`Voice::finish`].
    pub(crate) fn apply_reading(&mut self, at: usize, reading: Reading, now: Now, out: &mut Effects) {
        let Some(point) = self.points.get_mut(at) else { return };
        out.changed = true;
        if point.memory.apply_reading(reading, &point.rule, now.instant) {
            self.publish_point(at, now, out);
        }
    }

    /// Nothing is known of the point any more but what it said last.
    pub(crate) fn apply_silence(&mut self, at: usize, now: Now, out: &mut Effects) {
        if self.points.get_mut(at).is_some_and(|point| point.memory.apply_silence()) {
            out.changed = true;
            self.publish_point(at, now, out);
        }
    }

    /// All readings of one moment are in.
    pub(crate) fn finish(&mut self, now: Now, out: &mut Effects) {
        if !std::mem::take(&mut self.has_news) {
            return;
        }
        let Some(topic) = self.topics.device.clone() else { return };
        let readings = self.points.iter().filter_map(|point| Some((&*point.name, point.memory.last()?)));
        let payload = format::json_device(readings, now);
        for point in &mut self.points {
            point.memory.handle_published(now.instant);
        }
        self.publish_reading(topic, payload, now, out);
    }

    /// `online` or `offline`, retained.
    pub(crate) fn publish_status(&self, text: &'static str, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.status.clone() else { return };
        let mut message = Message::new(topic, text, QoS::AtLeastOnce, Origin::Gateway, now);
        message.retain = true;
        out.publishes.push(message);
        out.changed = true;
    }

    pub(crate) fn status(&self) -> Vec<PointStatus> {
        let point = |point: &VoicePoint| PointStatus {
            name: Arc::clone(&point.name),
            unit: point.unit.clone(),
            writable: point.writable,
            reading: point.memory.last().cloned(),
        };
        self.points.iter().map(point).collect()
    }

    fn publish_point(&mut self, at: usize, now: Now, out: &mut Effects) {
        if self.topics.device.is_some() {
            self.has_news = true;
            return;
        }
        let Some(point) = self.points.get_mut(at) else { return };
        let Some(reading) = point.memory.last() else { return };
        let payload = match self.publish.format {
            Format::Json => Some(format::json_point(reading, point.unit.as_deref(), now)),
            // A value alone cannot say that it is doubtful.
            Format::Plain if reading.quality == Quality::Good => format::plain_point(reading),
            Format::Plain => None,
        };
        let topic = self.topics.points.get(at).and_then(|topics| topics.reading().cloned());
        let (Some(payload), Some(topic)) = (payload, topic) else { return };
        point.memory.handle_published(now.instant);
        self.publish_reading(topic, payload, now, out);
    }

    fn publish_reading(&self, topic: TopicName, payload: String, now: Now, out: &mut Effects) {
        let mut message = Message::new(topic, payload, self.publish.qos, Origin::Device(self.index), now);
        message.retain = self.publish.retain;
        out.publishes.push(message);
    }
}
