//! What the world hears of a device: its readings, what is computed from them, windows that end, and whether it is
//! there; a message each, or one for the device. Never knows where a reading comes from, nor whether more is to come.

use std::collections::BTreeSet;
use std::sync::Arc;

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
use crate::device::status::State;
use crate::device::topics::Topics;
use crate::device::value::Value;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;

#[derive(Debug)]
pub(crate) struct Voice {
    pub(crate) topics: Topics,
    /// In the order of the configuration; the computed ones behind the others.
    channels: Vec<Channel>,
    computed: Arc<[Computed]>,
    format: Format,
    /// Channels that the device's message is to tell of.
    news: BTreeSet<usize>,
    /// Where it is published as Sparkplug says.
    herald: Option<Herald>,
    outlet: Outlet,
}

impl Voice {
    pub(crate) fn new(
        index: u16,
        publish: &Publish,
        topics: Topics,
        herald: Option<Herald>,
        (channels, computed): (Vec<Channel>, &Arc<[Computed]>),
    ) -> Self {
        Self {
            topics,
            channels,
            computed: Arc::clone(computed),
            format: publish.format,
            news: BTreeSet::new(),
            herald,
            outlet: Outlet::new(index, publish),
        }
    }

    /// A point's, or behind those a computed point's.
    pub(crate) fn channel(&self, at: usize) -> Option<&Channel> {
        self.channels.get(at)
    }

    pub(crate) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// The point's last value, where it is good.
    pub(crate) fn good_value(&self, at: usize) -> Option<&Value> {
        let reading = self.channel(at)?.last()?;
        reading.value.as_ref().filter(|_| reading.quality == Quality::Good)
    }

    /// Says what is news; the device's own message waits for [`Voice::publish_news`].
    pub(crate) fn apply_reading(&mut self, at: usize, reading: Reading, now: Now, out: &mut Effects) {
        let Some(channel) = self.channels.get_mut(at) else { return };
        out.changed = true;
        if channel.apply_reading(reading, now) {
            self.publish_point(at, now, out);
        }
    }

    /// Nothing is known of the point any more but what it said last.
    pub(crate) fn apply_silence(&mut self, at: usize, now: Now, out: &mut Effects) {
        let Some(channel) = self.channels.get_mut(at) else { return };
        let is_news = channel.apply_silence();
        out.changed |= channel.has_changed();
        if is_news {
            self.publish_point(at, now, out);
        }
    }

    /// When the next window or batch ends.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.window_end().min(self.outlet.due())
    }

    /// When the next window ends.
    pub(crate) fn window_end(&self) -> Instant {
        self.channels.iter().map(Channel::window_end).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// What the windows that have ended come to.
    pub(crate) fn close_windows(&mut self, now: Now, out: &mut Effects) {
        for at in 0..self.channels.len() {
            if self.channels.get_mut(at).is_some_and(|channel| channel.close_window(now)) {
                self.publish_point(at, now, out);
            }
        }
    }

    /// The batches that have waited long enough.
    pub(crate) fn close_batches(&mut self, now: Now, out: &mut Effects) {
        self.outlet.close_due(now, out);
    }

    /// Computes the points whose inputs have changed, each behind those that it is computed from.
    pub(crate) fn compute(&mut self, now: Now, out: &mut Effects) {
        let first = self.channels.len().saturating_sub(self.computed.len());
        for at in 0..self.computed.len() {
            let Some(computed) = self.computed.get(at) else { continue };
            let has_changed = |input: &Input| self.channel(input.point).is_some_and(Channel::has_changed);
            if !computed.inputs.iter().any(has_changed) {
                continue;
            }
            if let Some(reading) = computed_reading(computed, |input| self.channel(input)) {
                self.apply_reading(first + at, reading, now, out);
            }
        }
        self.channels.iter_mut().for_each(Channel::handle_computed);
    }

    /// Where one message tells of all points: all that it is to tell of is in.
    pub(crate) fn publish_news(&mut self, now: Now, out: &mut Effects) {
        let news = std::mem::take(&mut self.news);
        if self.herald.is_some() {
            self.publish_metrics(&news, now, out);
        } else if !news.is_empty() {
            self.publish_device(now, out);
        }
    }

    fn publish_device(&mut self, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.device.clone() else { return };
        let public = self.channels.iter().filter(|channel| channel.is_public);
        let readings = public.filter_map(|channel| Some((&*channel.name, channel.shown()?)));
        let doubtful = readings.clone().filter(|(_, reading)| reading.quality != Quality::Good).count();
        let payload = format::json_device(readings, now);
        self.channels.iter_mut().for_each(|channel| channel.handle_published(now.instant));
        self.outlet.say(Saying { topic, payload, doubtful }, now, out);
    }

    /// Where the device came back, all that is known of it; then what is news.
    fn publish_metrics(&mut self, news: &BTreeSet<usize>, now: Now, out: &mut Effects) {
        let Some(herald) = &mut self.herald else { return };
        let channels = self.channels.iter().enumerate();
        let readings = channels.filter_map(|(at, channel)| Some((at, channel.shown()?)));
        if herald.owes_birth() {
            out.publishes.extend(herald.birth(readings.clone(), now));
        }
        out.publishes.extend(herald.data(readings.filter(|(at, _)| news.contains(at)), now));
        for (_, channel) in self.channels.iter_mut().enumerate().filter(|(at, _)| news.contains(at)) {
            channel.handle_published(now.instant);
        }
    }

    fn publish_point(&mut self, at: usize, now: Now, out: &mut Effects) {
        if self.topics.device.is_some() {
            self.news.insert(at);
            return;
        }
        let Some(channel) = self.channels.get_mut(at) else { return };
        let Some(reading) = channel.shown() else { return };
        let payload = match self.format {
            Format::Json => Some(format::json_point(reading, channel.unit.as_deref(), now)),
            // A value alone cannot say that it is doubtful.
            Format::Plain if reading.quality == Quality::Good => format::plain_point(reading),
            // Says nothing point by point.
            Format::Plain | Format::Sparkplug => None,
        };
        let doubtful = usize::from(reading.quality != Quality::Good);
        let topic = self.topics.points.get(at).and_then(|topics| topics.reading().cloned());
        let (Some(payload), Some(topic)) = (payload, topic) else { return };
        channel.handle_published(now.instant);
        self.outlet.say(Saying { topic, payload, doubtful }, now, out);
    }

    /// The device is there again.
    pub(crate) fn handle_online(&mut self, now: Now, out: &mut Effects) {
        if let Some(herald) = &mut self.herald {
            herald.handle_online();
        }
        self.publish_status("online", now, out);
    }

    /// The device is gone, and nothing is known of it any more but what it said last.
    pub(crate) fn handle_offline(&mut self, now: Now, out: &mut Effects) {
        self.publish_status("offline", now, out);
        for at in 0..self.channels.len().saturating_sub(self.computed.len()) {
            self.apply_silence(at, now, out);
        }
        self.compute(now, out);
        self.publish_news(now, out);
        self.publish_end(now, out);
    }

    /// Nobody watches the device any more; its readings stay as they are.
    pub(crate) fn handle_shutdown(&mut self, state: State, now: Now, out: &mut Effects) {
        if state == State::Online {
            self.publish_status("offline", now, out);
        }
        self.publish_end(now, out);
    }

    /// Nothing of it waits any more, and who knows it as a Sparkplug device is told.
    fn publish_end(&mut self, now: Now, out: &mut Effects) {
        self.outlet.close_all(now, out);
        out.publishes.extend(self.herald.as_mut().and_then(|herald| herald.death(now)));
    }

    /// `online` or `offline`, retained.
    fn publish_status(&self, text: &'static str, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.status.clone() else { return };
        let mut message = Message::new(topic, text, QoS::AtLeastOnce, Origin::Gateway, now);
        message.retain = true;
        out.publishes.push(message);
        out.changed = true;
    }
}
