//! What the world hears of a device: readings that are news, one message for all points where the topic names none,
//! `online` and `offline`. Never knows where a reading comes from.

use std::collections::BTreeSet;

use crate::base::time::{Instant, Now};
use crate::config::model::{Format, Publish};
use crate::config::point::{Computed, Input};
use crate::device::channel::Channel;
use crate::device::derive::computed_reading;
use crate::device::effect::Effects;
use crate::device::format;
use crate::device::metrics::Herald;
use crate::device::outlet::{Outlet, Saying};
use crate::device::reading::{Quality, Reading};
use crate::device::status::PointStatus;
use crate::device::topics::Topics;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;

#[derive(Debug)]
pub(crate) struct Voice {
    /// In the configuration.
    pub(crate) index: u16,
    pub(crate) publish: Publish,
    pub(crate) topics: Topics,
    /// In the order of the configuration; the computed ones behind the others.
    pub(crate) points: Vec<Channel>,
    pub(crate) computed: Vec<Computed>,
    /// Points that the device's message is to tell of.
    pub(crate) news: BTreeSet<usize>,
    /// Where it is published as Sparkplug says.
    pub(crate) herald: Option<Herald>,
    pub(crate) outlet: Outlet,
}

impl Voice {
    /// Says what is news; the device's own message waits for [`Voice::finish`].
    pub(crate) fn apply_reading(&mut self, at: usize, reading: Reading, now: Now, out: &mut Effects) {
        let Some(point) = self.points.get_mut(at) else { return };
        out.changed = true;
        if point.apply_reading(reading, now) {
            self.publish_point(at, now, out);
        }
    }

    /// Nothing is known of the point any more but what it said last.
    pub(crate) fn apply_silence(&mut self, at: usize, now: Now, out: &mut Effects) {
        let Some(point) = self.points.get_mut(at) else { return };
        let was_public_news = point.apply_silence();
        out.changed |= point.has_changed();
        if was_public_news {
            self.publish_point(at, now, out);
        }
    }

    /// What the windows that have ended come to, and the batches that have waited long enough.
    pub(crate) fn handle_time(&mut self, now: Now, out: &mut Effects) {
        if self.next_deadline() > now.instant {
            return;
        }
        for at in 0..self.points.len() {
            if self.points.get_mut(at).is_some_and(|point| point.close_window(now)) {
                self.publish_point(at, now, out);
            }
        }
        self.finish(now, out);
        self.outlet.close_due(now, out);
    }

    /// When the next window or batch ends.
    pub(crate) fn next_deadline(&self) -> Instant {
        let windows = self.points.iter().map(Channel::window_end);
        windows.chain([self.outlet.due()]).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// What is computed from readings that are new.
    fn compute(&mut self, now: Now, out: &mut Effects) {
        let first = self.points.len().saturating_sub(self.computed.len());
        for at in 0..self.computed.len() {
            let Some(computed) = self.computed.get(at) else { continue };
            let has_changed = |input: &Input| self.points.get(input.point).is_some_and(Channel::has_changed);
            if !computed.inputs.iter().any(has_changed) {
                continue;
            }
            if let Some(reading) = computed_reading(computed, |input| self.points.get(input)) {
                self.apply_reading(first + at, reading, now, out);
            }
        }
        self.points.iter_mut().for_each(Channel::handle_computed);
    }

    /// All readings of one moment are in.
    pub(crate) fn finish(&mut self, now: Now, out: &mut Effects) {
        self.compute(now, out);
        let news = std::mem::take(&mut self.news);
        if self.herald.is_some() {
            return self.publish_metrics(&news, now, out);
        }
        if news.is_empty() {
            return;
        }
        let Some(topic) = self.topics.device.clone() else { return };
        let public = self.points.iter().filter(|point| point.is_public);
        let readings = public.filter_map(|point| Some((&*point.name, point.shown()?)));
        let doubtful = readings.clone().filter(|(_, reading)| reading.quality != Quality::Good).count();
        let payload = format::json_device(readings, now);
        for point in &mut self.points {
            point.handle_published(now.instant);
        }
        self.outlet.say(Saying { topic, payload, doubtful }, now, out);
    }

    /// Where the device came back, all that is known of it; then what is news.
    fn publish_metrics(&mut self, news: &BTreeSet<usize>, now: Now, out: &mut Effects) {
        let Some(herald) = &mut self.herald else { return };
        let points = self.points.iter().enumerate();
        let readings = points.filter_map(|(at, point)| Some((at, point.shown()?)));
        if herald.owes_birth() {
            out.publishes.extend(herald.birth(readings.clone(), now));
        }
        out.publishes.extend(herald.data(readings.filter(|(at, _)| news.contains(at)), now));
        for (_, point) in self.points.iter_mut().enumerate().filter(|(at, _)| news.contains(at)) {
            point.handle_published(now.instant);
        }
    }

    /// It is there again.
    pub(crate) fn publish_online(&mut self, now: Now, out: &mut Effects) {
        if let Some(herald) = &mut self.herald {
            herald.handle_online();
        }
        self.publish_status("online", now, out);
    }

    /// It is gone: nothing of it waits any more, and who knows it as a Sparkplug device is told.
    pub(crate) fn publish_end(&mut self, now: Now, out: &mut Effects) {
        self.outlet.close_all(now, out);
        out.publishes.extend(self.herald.as_mut().and_then(|herald| herald.death(now)));
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
        self.points.iter().map(Channel::status).collect()
    }

    fn publish_point(&mut self, at: usize, now: Now, out: &mut Effects) {
        if self.topics.device.is_some() {
            self.news.insert(at);
            return;
        }
        let Some(point) = self.points.get_mut(at) else { return };
        let Some(reading) = point.shown() else { return };
        let payload = match self.publish.format {
            Format::Json => Some(format::json_point(reading, point.unit.as_deref(), now)),
            // A value alone cannot say that it is doubtful.
            Format::Plain if reading.quality == Quality::Good => format::plain_point(reading),
            // Says nothing point by point.
            Format::Plain | Format::Sparkplug => None,
        };
        let doubtful = usize::from(reading.quality != Quality::Good);
        let topic = self.topics.points.get(at).and_then(|topics| topics.reading().cloned());
        let (Some(payload), Some(topic)) = (payload, topic) else { return };
        point.handle_published(now.instant);
        self.outlet.say(Saying { topic, payload, doubtful }, now, out);
    }
}
