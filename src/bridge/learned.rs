//! What a server has shown of itself that no CONNACK says: how it ended a connection tells what it does not take. Kept for
//! each server for a week, over restarts too (`note`). Decides nothing about the link.

use std::collections::BTreeMap;

use crate::base::time::{Duration, Instant};
use crate::mqtt::packet::connect::Role;
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;

/// Servers that are remembered at once: a list, and where its servers send us. Of more, all are asked anew.
const SERVERS_MAX: usize = 16;
/// Then it is found out anew: servers learn, too.
pub(super) const SHOWN_FOR: Duration = Duration::from_secs(7 * 86_400);

/// What one server was found to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a thing of its own
pub(super) struct Shown {
    pub(super) maximum_qos: QoS,
    pub(super) retain: bool,
    /// It has answered a QoS 2 message: what it closes for is never that.
    pub(super) took_qos_2: bool,
    /// Of subscriptions.
    pub(super) subscribe_qos: QoS,
    pub(super) wildcards: bool,
    pub(super) shared: bool,
    /// As what it takes a 3.1.1 bridge, for all that is known.
    pub(super) role: Role,
    /// Connections that it closed on CONNECT and took at once as something less.
    pub(super) role_closes: u8,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            maximum_qos: QoS::ExactlyOnce,
            retain: true,
            took_qos_2: false,
            subscribe_qos: QoS::ExactlyOnce,
            wildcards: true,
            shared: true,
            role: Role::Gateway,
            role_closes: 0,
        }
    }
}

#[derive(Debug)]
struct Known {
    shown: Shown,
    /// None: from the next connection on it counts.
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Learned {
    by_server: BTreeMap<String, Known>,
    /// Something changed that is to be kept.
    pub(super) has_news: bool,
}

impl Learned {
    pub(super) fn of(&self, server: &str) -> Shown {
        self.by_server.get(server).map(|known| known.shown).unwrap_or_default()
    }

    pub(super) fn set(&mut self, server: &str, shown: Shown) {
        self.insert(server, Known { shown, until: None });
    }

    fn insert(&mut self, server: &str, known: Known) {
        if self.by_server.len() >= SERVERS_MAX && !self.by_server.contains_key(server) {
            self.by_server.clear();
        }
        self.by_server.insert(server.to_owned(), known);
    }

    /// A connection begins.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.by_server.retain(|_, known| now < *known.until.get_or_insert(now + SHOWN_FOR));
    }

    /// Each server, and until when that holds.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Shown, Option<Instant>)> {
        self.by_server.iter().map(|(server, known)| (server.as_str(), known.shown, known.until))
    }

    /// What an earlier process knew.
    pub(super) fn recall(&mut self, server: &str, shown: Shown, until: Instant) {
        self.insert(server, Known { shown, until: Some(until) });
    }

    /// A server ended a connection, or refused it, for this reason. `used`: the QoS that it was met with at most. Whether
    /// that says something new.
    pub(super) fn handle_refusal(&mut self, server: &str, reason: ReasonCode, used: QoS) -> bool {
        let before = self.of(server);
        let mut shown = before;
        match reason {
            // [MQTT-3.2.2-12]
            ReasonCode::QosNotSupported => shown.maximum_qos = shown.maximum_qos.min(below(used)),
            // [MQTT-3.2.2-13]
            ReasonCode::RetainNotSupported => shown.retain = false,
            ReasonCode::WildcardSubscriptionsNotSupported => shown.wildcards = false,
            ReasonCode::SharedSubscriptionsNotSupported => shown.shared = false,
            _ => {}
        }
        if shown != before {
            self.set(server, shown);
        }
        shown != before
    }
}

pub(super) fn below(qos: QoS) -> QoS {
    match qos {
        QoS::ExactlyOnce => QoS::AtLeastOnce,
        QoS::AtLeastOnce | QoS::AtMostOnce => QoS::AtMostOnce,
    }
}

#[cfg(test)]
mod tests {
    use super::{Learned, SERVERS_MAX, SHOWN_FOR};
    use crate::base::time::Instant;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::reason::ReasonCode;

    #[test]
    fn each_server_is_known_for_itself_and_news_are_told_once() {
        let mut learned = Learned::default();
        assert!(learned.handle_refusal("a", ReasonCode::QosNotSupported, QoS::ExactlyOnce));
        assert!(!learned.handle_refusal("a", ReasonCode::QosNotSupported, QoS::ExactlyOnce));
        assert!(learned.handle_refusal("a", ReasonCode::QosNotSupported, QoS::AtLeastOnce));
        assert!(learned.handle_refusal("a", ReasonCode::RetainNotSupported, QoS::AtMostOnce));
        assert!(!learned.handle_refusal("a", ReasonCode::ServerBusy, QoS::AtMostOnce));
        assert_eq!((learned.of("a").maximum_qos, learned.of("a").retain), (QoS::AtMostOnce, false));
        assert_eq!(learned.of("b").maximum_qos, QoS::ExactlyOnce);
        for number in 0..SERVERS_MAX {
            learned.handle_refusal(&number.to_string(), ReasonCode::RetainNotSupported, QoS::AtMostOnce);
        }
        assert!(learned.by_server.len() <= SERVERS_MAX);
        let begin = Instant::ORIGIN;
        learned.handle_refusal("a", ReasonCode::RetainNotSupported, QoS::AtMostOnce);
        learned.forget_old(begin);
        assert!(!learned.of("a").retain);
        learned.forget_old(begin + SHOWN_FOR);
        assert!(learned.of("a").retain);
    }
}
