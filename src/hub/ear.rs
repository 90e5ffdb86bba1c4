//! What the gateway itself listens to, and finds among what is retained. Decides nothing.

use std::sync::Arc;

use crate::device::homeassistant::BIRTH_PAYLOAD;
use crate::hub::core::Core;
use crate::hub::{Bell, Hub};
use crate::mqtt::message::Message;
use crate::mqtt::topic::TopicFilter;

impl Hub {
    /// Rung when Home Assistant says that it has come up.
    pub fn homeassistant_bell(&self) -> Bell {
        self.lock().homeassistant.clone()
    }

    /// What is retained on topics that match, by topic.
    pub fn retained(&self, filter: &TopicFilter) -> Vec<Arc<Message>> {
        let now = self.clock().now();
        self.lock().broker.retained_matching(filter, now)
    }
}

impl Core {
    /// A message on a topic that the gateway listens to.
    pub(super) fn hear(&mut self, message: &Message) {
        if *message.payload == *BIRTH_PAYLOAD {
            self.bells.push(self.homeassistant.clone());
        }
    }
}
