//! What the broker counts, and how `$SYS` says it, with Mosquitto's names. Counts; never measures time itself.

use std::sync::Arc;

use crate::base::time::Duration;
use crate::broker::deadlines::Due;
use crate::broker::deliver::Publication;
use crate::broker::refusal::Refused;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;
use crate::spool::settings::Losses;

/// What `$SYS/broker/version` says.
const VERSION: &str = concat!("tidegate version ", env!("CARGO_PKG_VERSION"));

/// Counters since the start, and what stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Clients that are connected now.
    pub connections: u64,
    /// The most that were connected at once.
    pub connections_max: u64,
    /// CONNECTs that were accepted.
    pub connections_accepted: u64,
    /// Sessions, connected or not.
    pub sessions: u64,
    /// Sessions that ended because their expiry interval was over.
    pub clients_expired: u64,
    pub subscriptions: u64,
    pub shared_subscriptions: u64,
    pub retained: u64,
    /// Topics that were not retained because `retained_messages` was reached.
    pub retained_refused: u64,
    /// Messages in the sessions' queues, in memory and on disk.
    pub queued: u64,
    pub queued_bytes: u64,
    /// Unacknowledged towards clients.
    pub inflight: u64,
    /// Packets of any kind.
    pub messages_received: u64,
    pub messages_sent: u64,
    pub publish_received: u64,
    pub publish_sent: u64,
    /// Payloads alone.
    pub publish_bytes_received: u64,
    pub publish_bytes_sent: u64,
    /// On the wire, as the hands count.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Of what was dropped: `limits.queued_messages` or `queued_bytes` were reached.
    pub dropped_full: u64,
    /// Deliveries that a bound, an expiry or a client's maximum packet size cost.
    pub dropped: u64,
    /// Messages that this gateway had forwarded, and that came back.
    pub returned: u64,
    /// Messages that their publishers were told to keep: a buffer or the disk had no room.
    pub publish_refused: u64,
    /// Connections that never became a client's.
    pub refused: Refused,
    /// Messages that access rules kept from being published.
    pub denied: u64,
    /// Messages that had to wait because their client published above its rate.
    pub throttled: u64,
    /// Connections that ended because their client broke the protocol.
    pub violations: u64,
    /// Of those: its packet was larger than `limits.packet_size`.
    pub packets_too_large: u64,
    /// Of those: it had more unacknowledged than it was told that it may.
    pub receive_maximum_exceeded: u64,
    pub keep_alive_timeouts: u64,
    /// Clients that were connected when what let them in was taken away.
    pub revoked: u64,
    pub wills: u64,
    /// Acknowledgements of what was not in flight.
    pub acks_unknown: u64,
}

impl Stats {
    pub(super) fn count_losses(&mut self, losses: Losses) {
        self.dropped_full += losses.full;
        self.dropped += losses.full + losses.aged + losses.expired;
    }
}

impl Broker {
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.sessions = self.sessions.len() as u64;
        stats.subscriptions = self.router.subscriptions() as u64;
        stats.shared_subscriptions = self.router.shared_subscriptions() as u64;
        stats.retained = self.retained.len() as u64;
        for (_, session) in self.sessions.iter() {
            stats.queued += session.spool.messages();
            stats.queued_bytes += session.spool.bytes();
            stats.inflight += session.spool.inflight() as u64;
            stats.count_losses(session.spool.losses());
        }
        stats
    }

    pub(super) fn count_violation(&mut self, reason: ReasonCode) {
        self.stats.violations += 1;
        self.stats.packets_too_large += u64::from(reason == ReasonCode::PacketTooLarge);
        self.stats.receive_maximum_exceeded += u64::from(reason == ReasonCode::ReceiveMaximumExceeded);
    }

    /// Bytes on the wire, which only hands see.
    pub fn handle_traffic(&mut self, received_bytes: u64, sent_bytes: u64) {
        self.stats.bytes_received += received_bytes;
        self.stats.bytes_sent += sent_bytes;
    }

    /// Publishes what has changed. QoS 0: a number that the next one replaces is worth no queue.
    pub(super) fn publish_sys(&mut self, visit: &mut Visit<'_>) {
        let Some(interval) = self.settings.sys_interval else { return };
        let next = visit.now.instant + interval;
        self.sys_due = Some(next);
        self.deadlines.add(next, Due::Sys);
        let uptime = self.started.map_or(Duration::ZERO, |started| visit.now.instant.since(started));
        for (topic, payload) in sys_messages(&self.stats(), uptime, VERSION) {
            let Ok(topic) = TopicName::new(&topic) else { continue };
            if self.retained.get(&topic).is_some_and(|message| message.payload == payload.as_bytes()) {
                continue;
            }
            let mut message = Message::new(topic, payload, QoS::AtMostOnce, Origin::Gateway, visit.now);
            message.retain = true;
            self.route(&mut Publication { message: Arc::new(message), urgent: false, ticket: None }, visit);
        }
    }
}

/// `$SYS/broker/…` and what each says.
pub fn sys_messages(stats: &Stats, uptime: Duration, version: &str) -> Vec<(String, String)> {
    let counts = [
        ("clients/total", stats.sessions),
        ("clients/connected", stats.connections),
        ("clients/disconnected", stats.sessions.saturating_sub(stats.connections)),
        ("clients/maximum", stats.connections_max),
        ("clients/expired", stats.clients_expired),
        ("subscriptions/count", stats.subscriptions),
        ("shared_subscriptions/count", stats.shared_subscriptions),
        ("retained messages/count", stats.retained),
        ("store/messages/count", stats.queued),
        ("store/messages/bytes", stats.queued_bytes),
        ("messages/inflight", stats.inflight),
        ("messages/received", stats.messages_received),
        ("messages/sent", stats.messages_sent),
        ("publish/messages/received", stats.publish_received),
        ("publish/messages/sent", stats.publish_sent),
        ("publish/messages/dropped", stats.dropped),
        ("publish/bytes/received", stats.publish_bytes_received),
        ("publish/bytes/sent", stats.publish_bytes_sent),
        ("bytes/received", stats.bytes_received),
        ("bytes/sent", stats.bytes_sent),
    ];
    let texts = [("version", version.to_owned()), ("uptime", format!("{} seconds", uptime.as_secs()))];
    let counts = counts.into_iter().map(|(name, count)| (name, count.to_string()));
    texts.into_iter().chain(counts).map(|(name, value)| (format!("$SYS/broker/{name}"), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Stats, sys_messages};
    use crate::base::time::Duration;
    use crate::mqtt::topic::TopicName;

    #[test]
    fn names_are_topics_and_say_what_was_counted() {
        let stats = Stats { sessions: 5, connections: 2, retained: 7, ..Stats::default() };
        let messages = sys_messages(&stats, Duration::from_millis(61_999), "tidegate version 1");
        let value =
            |topic: &str| messages.iter().find(|(name, _)| name == topic).map(|(_, value)| value.as_str());
        for (topic, wanted) in [
            ("$SYS/broker/version", "tidegate version 1"),
            ("$SYS/broker/uptime", "61 seconds"),
            ("$SYS/broker/clients/disconnected", "3"),
            ("$SYS/broker/retained messages/count", "7"),
        ] {
            assert_eq!(value(topic), Some(wanted), "{topic}");
        }
        assert!(messages.iter().all(|(topic, _)| TopicName::new(topic).is_ok()));
    }
}
