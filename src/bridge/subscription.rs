//! What a bridge asks its cloud for, and how the cloud answers that. Carries no messages.

use std::collections::BTreeMap;

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::link::{ANSWER_WAIT, Phase};
use crate::config::model;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::subscribe::{RetainHandling, Suback, Subscribe, SubscriptionOptions};
use crate::mqtt::qos::PacketId;
use crate::mqtt::topic::TopicFilter;

/// Identifiers of SUBSCRIBE: never those of a message in flight.
const SUBSCRIBE_IDS: std::ops::RangeInclusive<u16> = 65_000..=65_534;
/// The least that a known cloud takes in one SUBSCRIBE.
const SUBSCRIBE_FILTERS_MAX: usize = 8;

impl Bridge {
    /// The rules' filters, and behind them what a Sparkplug node has to hear.
    pub(super) fn subscriptions(&self) -> Vec<(TopicFilter, SubscriptionOptions)> {
        let most = self.server.terms.maximum_qos;
        let rules = self.settings.bridge.receive.iter().map(subscription_of);
        let asked = rules.chain(self.node_subscriptions());
        let lowered =
            |options: SubscriptionOptions| SubscriptionOptions { qos: options.qos.min(most), ..options };
        asked.map(|(filter, options)| (filter, lowered(options))).collect()
    }

    pub(super) fn subscribe(&mut self, now: Now, out: &mut Effects) {
        self.counters.filters_refused = 0;
        let filters = self.subscriptions();
        let identifiers = SUBSCRIBE_IDS.filter_map(PacketId::new);
        let mut awaited = BTreeMap::new();
        for (packet_id, filters) in identifiers.zip(filters.chunks(SUBSCRIBE_FILTERS_MAX)) {
            awaited.insert(packet_id, filters.len());
            let filters = filters.to_vec();
            let subscribe =
                Subscribe { packet_id, subscription_identifier: None, user_properties: Vec::new(), filters };
            self.send(Packet::Subscribe(subscribe), now, out);
        }
        self.set_phase(Phase::Subscribing { until: now.instant + ANSWER_WAIT, awaited }, out);
    }

    pub(super) fn handle_suback(
        &mut self,
        suback: &Suback,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), LinkFault> {
        let Phase::Subscribing { until, awaited } = &mut self.phase else {
            return Err(LinkFault::Unexpected("SUBACK"));
        };
        if awaited.remove(&suback.packet_id) != Some(suback.reasons.len()) {
            return Err(LinkFault::Unexpected("SUBACK"));
        }
        *until = now.instant + ANSWER_WAIT;
        let finished = awaited.is_empty();
        self.count_refused_filters(suback);
        if finished {
            self.subscribed = self.counters.filters_refused == 0;
            self.go_up(now, out);
        }
        Ok(())
    }

    fn count_refused_filters(&mut self, suback: &Suback) {
        let first = usize::from(suback.packet_id.as_u16().saturating_sub(*SUBSCRIBE_IDS.start()))
            .saturating_mul(SUBSCRIBE_FILTERS_MAX);
        let asked = self.subscriptions().into_iter().skip(first);
        for ((filter, _), reason) in asked.zip(&suback.reasons).filter(|(_, reason)| reason.is_error()) {
            self.counters.filters_refused += 1;
            tracing::warn!(
                bridge = %self.settings.bridge.name, %filter, reason = %reason,
                "the cloud refused a subscription"
            );
        }
    }
}

fn subscription_of(rule: &model::ReceiveRule) -> (TopicFilter, SubscriptionOptions) {
    let shared = rule.filter.share_name().is_some();
    let options = SubscriptionOptions {
        qos: rule.qos,
        // [MQTT-3.8.3-4]: never on a shared subscription.
        no_local: !shared,
        retain_as_published: true,
        // A retained command is not carried out again at each reconnect.
        retain_handling: RetainHandling::SendIfNew,
    };
    (rule.filter.clone(), options)
}
