//! Keeps Home Assistant told of the devices: publishes their discovery messages, again when it comes up and when a unit
//! has said more of itself, and takes back those of devices that are announced no more. Never reads a reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::app::running::Standing;
use crate::base::time::Duration;
use crate::config::model::Config;
use crate::device::homeassistant::{Announcement, DISCOVERY_FILTER, is_own};
use crate::device::identity::Identity;
use crate::hub::Hub;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// How often it is looked whether a unit has said more of itself.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(2);

pub struct Announcer {
    running: Standing,
    hub: Arc<Hub>,
}

/// Whether anything is to be announced.
pub fn is_wanted(config: &Config) -> bool {
    config.devices.iter().any(|device| device.homeassistant)
        || config.instruments.iter().any(|instrument| instrument.homeassistant)
}

impl Announcer {
    pub fn new(running: Standing, hub: Arc<Hub>) -> Self {
        Self { running, hub }
    }

    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut running = self.running.clone();
        let mut known = self.identities();
        self.publish_news(&known);
        let born = self.hub.homeassistant_bell();
        let mut ticks = interval(IDENTITY_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = born.notified() => {
                    tracing::debug!("Home Assistant has come up: the devices are announced again");
                    self.publish_all(&known);
                }
                () = running.until_changed() => {
                    known = self.identities();
                    self.publish_news(&known);
                }
                _ = ticks.tick(), if is_wanted(&self.running.config()) => {
                    let identities = self.identities();
                    if identities != known {
                        known = identities;
                        self.publish_news(&known);
                    }
                }
            }
        }
    }

    /// By the device's name.
    fn identities(&self) -> BTreeMap<Arc<str>, Identity> {
        let mut found = BTreeMap::new();
        for line in &self.running.now().lines {
            let status = line.borrow();
            let known =
                status.iter().filter_map(|device| Some((device.name.clone(), device.identity.clone()?)));
            found.extend(known);
        }
        found
    }

    /// What a unit has not said yet stays as an earlier message has it.
    fn announcements(
        &self,
        identities: &BTreeMap<Arc<str>, Identity>,
        retained: &BTreeMap<TopicName, Arc<Message>>,
    ) -> Vec<Announcement> {
        let config = self.running.config();
        let gateway = &config.gateway.id;
        let devices = config.devices.iter().filter(|device| device.homeassistant);
        let devices = devices
            .filter_map(|device| Announcement::of_device(gateway, device, identities.get(&device.name)));
        let instruments = config.instruments.iter().filter(|instrument| instrument.homeassistant);
        let instruments =
            instruments.filter_map(|instrument| Announcement::of_instrument(gateway, instrument));
        let announced = devices.chain(instruments).map(|announced| {
            let earlier = retained.get(&announced.topic);
            earlier.map_or(announced.clone(), |earlier| announced.recalling(&earlier.payload))
        });
        announced.collect()
    }

    fn publish_all(&self, identities: &BTreeMap<Arc<str>, Identity>) {
        let announced = self.announcements(identities, &self.retained());
        let messages = announced.iter().map(|announced| self.message(&announced.topic, announced.payload()));
        self.hub.publish_system(messages.collect());
    }

    /// What is not retained as it is to be.
    fn publish_news(&self, identities: &BTreeMap<Arc<str>, Identity>) {
        let mut retained = self.retained();
        let mut messages = Vec::new();
        for announced in self.announcements(identities, &retained) {
            let payload = announced.payload();
            let earlier = retained.remove(&announced.topic);
            if earlier.as_ref().is_some_and(|earlier| earlier.payload == payload.as_bytes()) {
                continue;
            }
            let forgetting = earlier.and_then(|earlier| announced.forgetting(&earlier.payload));
            messages.extend(forgetting.map(|payload| self.message(&announced.topic, payload)));
            messages.push(self.message(&announced.topic, payload));
        }
        let config = self.running.config();
        let left = retained.into_values().filter(|left| is_own(&config.gateway.id, &left.payload));
        // An empty message takes the retained one away, and the device out of Home Assistant.
        messages.extend(left.map(|left| self.message(&left.topic, String::new())));
        if !messages.is_empty() {
            self.hub.publish_system(messages);
        }
    }

    fn retained(&self) -> BTreeMap<TopicName, Arc<Message>> {
        let Ok(filter) = TopicFilter::new(DISCOVERY_FILTER) else { return BTreeMap::new() };
        self.hub.retained(&filter).into_iter().map(|found| (found.topic.clone(), found)).collect()
    }

    fn message(&self, topic: &TopicName, payload: String) -> Message {
        let now = self.hub.clock().now();
        let mut message = Message::new(topic.clone(), payload, QoS::AtLeastOnce, Origin::Gateway, now);
        message.retain = true;
        message
    }
}
