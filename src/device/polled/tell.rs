//! What of a device is told to the world: a message a point, one for all of them, and whether it answers. Never decides
//! what is news.

use crate::base::time::Now;
use crate::config::model::Format;
use crate::device::effect::Effects;
use crate::device::format;
use crate::device::polled::Polled;
use crate::device::reading::{Quality, Reading};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

impl Polled {
    /// Those whose reading is news: a message each, or one for the device.
    pub(crate) fn publish_points(&mut self, news: &[usize], now: Now, out: &mut Effects) {
        if self.topics.device.is_none() {
            for index in news {
                self.publish_point(*index, now, out);
            }
            return;
        }
        self.has_news |= !news.is_empty();
    }

    /// Where one message tells of all points; a poll under way has more to say.
    pub(crate) fn publish_news(&mut self, now: Now, out: &mut Effects) {
        if self.poll.is_none() && std::mem::take(&mut self.has_news) {
            self.publish_device(now, out);
        }
    }

    fn publish_point(&mut self, index: usize, now: Now, out: &mut Effects) {
        let Some(channel) = self.channel(index) else { return };
        let Some(reading) = channel.shown() else { return };
        let payload = match self.settings.publish.format {
            Format::Json => Some(format::json_point(reading, channel.unit.as_deref(), now)),
            // A value alone cannot say that it is doubtful.
            Format::Plain if reading.quality == Quality::Good => format::plain_point(reading),
            Format::Plain => None,
        };
        let topic = self.topics.points.get(index).and_then(|topics| topics.reading.clone());
        let (Some(payload), Some(topic)) = (payload, topic) else { return };
        if let Some(channel) = self.channels_mut().nth(index) {
            channel.handle_published(now.instant);
        }
        self.publish_reading(topic, payload, now, out);
    }

    fn publish_device(&mut self, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.device.clone() else { return };
        let public = self.channels().filter(|channel| channel.is_public);
        let readings = public.filter_map(|channel| Some((&*channel.name, channel.shown()?)));
        let readings: Vec<(&str, &Reading)> = readings.collect();
        let payload = format::json_device(readings.into_iter(), now);
        self.channels_mut().for_each(|channel| channel.handle_published(now.instant));
        self.publish_reading(topic, payload, now, out);
    }

    fn publish_reading(&self, topic: TopicName, payload: String, now: Now, out: &mut Effects) {
        let publish = &self.settings.publish;
        let mut message = Message::new(topic, payload, publish.qos, Origin::Device(self.index), now);
        message.retain = publish.retain;
        out.publishes.push(message);
    }

    pub(super) fn publish_status(&self, text: &'static str, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.status.clone() else { return };
        let mut message = Message::new(topic, text, QoS::AtLeastOnce, Origin::Gateway, now);
        message.retain = true;
        out.publishes.push(message);
        out.changed = true;
    }
}
