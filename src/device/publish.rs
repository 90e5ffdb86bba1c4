//! What the world hears of a polled device: readings that are news, a message each or one for the device, and whether it
//! is there. Never decides what is news.

use std::collections::BTreeSet;

use crate::base::time::Now;
use crate::config::model::Format;
use crate::device::effect::Effects;
use crate::device::format;
use crate::device::outlet::Saying;
use crate::device::polled::Polled;
use crate::device::reading::{Quality, Reading};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;

impl Polled {
    /// Those whose reading is news: a message each, or one for the device.
    pub(crate) fn publish_points(&mut self, news: &[usize], now: Now, out: &mut Effects) {
        if self.topics.device.is_none() {
            for index in news {
                self.publish_point(*index, now, out);
            }
            return;
        }
        self.news.extend(news);
    }

    /// Where one message tells of all points; a poll under way has more to say.
    pub(crate) fn publish_news(&mut self, now: Now, out: &mut Effects) {
        if self.is_polling() {
            return;
        }
        let news = std::mem::take(&mut self.news);
        if self.herald.is_some() {
            self.publish_metrics(&news, now, out);
        } else if !news.is_empty() {
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
            // Says nothing point by point.
            Format::Plain | Format::Sparkplug => None,
        };
        let doubtful = usize::from(reading.quality != Quality::Good);
        let topic = self.topics.points.get(index).and_then(|topics| topics.reading().cloned());
        let (Some(payload), Some(topic)) = (payload, topic) else { return };
        if let Some(channel) = self.channels_mut().nth(index) {
            channel.handle_published(now.instant);
        }
        self.outlet.say(Saying { topic, payload, doubtful }, now, out);
    }

    fn publish_device(&mut self, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.device.clone() else { return };
        let public = self.channels().filter(|channel| channel.is_public);
        let readings = public.filter_map(|channel| Some((&*channel.name, channel.shown()?)));
        let readings: Vec<(&str, &Reading)> = readings.collect();
        let doubtful = readings.iter().filter(|(_, reading)| reading.quality != Quality::Good).count();
        let payload = format::json_device(readings.into_iter(), now);
        self.channels_mut().for_each(|channel| channel.handle_published(now.instant));
        self.outlet.say(Saying { topic, payload, doubtful }, now, out);
    }

    /// Where the device came back, all that is known of it; then what is news.
    fn publish_metrics(&mut self, news: &BTreeSet<usize>, now: Now, out: &mut Effects) {
        let Some(mut herald) = self.herald.take() else { return };
        let shown = || self.channels().enumerate().filter_map(|(at, channel)| Some((at, channel.shown()?)));
        if herald.owes_birth() {
            out.publishes.extend(herald.birth(shown(), now));
        }
        out.publishes.extend(herald.data(shown().filter(|(at, _)| news.contains(at)), now));
        self.herald = Some(herald);
        for (at, channel) in self.channels_mut().enumerate() {
            if news.contains(&at) {
                channel.handle_published(now.instant);
            }
        }
    }

    /// It is gone: nothing of it waits any more, and who knows it as a Sparkplug device is told.
    pub(super) fn publish_end(&mut self, now: Now, out: &mut Effects) {
        self.outlet.close_all(now, out);
        out.publishes.extend(self.herald.as_mut().and_then(|herald| herald.death(now)));
    }

    pub(super) fn publish_status(&self, text: &'static str, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.status.clone() else { return };
        let mut message = Message::new(topic, text, QoS::AtLeastOnce, Origin::Gateway, now);
        message.retain = true;
        out.publishes.push(message);
        out.changed = true;
    }
}
