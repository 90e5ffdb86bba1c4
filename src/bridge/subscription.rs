//! What a bridge asks its cloud for, and how the cloud answers that. Carries no messages.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::backoff::{Backoff, BackoffBounds};
use crate::base::time::{Instant, Now};
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

type Asked = (TopicFilter, SubscriptionOptions);

/// What of the filters stands.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// What each SUBSCRIBE asked for that is not answered yet.
    awaited: BTreeMap<PacketId, Vec<Asked>>,
    /// What the cloud refused, and gets asked for again.
    refused: Vec<Asked>,
    /// Filters of a kind that the server does not have.
    unavailable: usize,
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// Filters whose refusal was logged.
    told: BTreeSet<TopicFilter>,
}

impl Subscriptions {
    pub(super) fn new(reconnect: BackoffBounds) -> Self {
        Self {
            awaited: BTreeMap::new(),
            refused: Vec::new(),
            unavailable: 0,
            retry_at: None,
            backoff: Backoff::new(reconnect),
            told: BTreeSet::new(),
        }
    }

    /// Filters that bring nothing now.
    pub(super) fn missing(&self) -> u64 {
        (self.refused.len() + self.unavailable) as u64
    }

    /// When refused ones are asked for again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.awaited.is_empty())
    }

    pub(super) fn is_answered(&self) -> bool {
        self.awaited.is_empty()
    }

    pub(super) fn handle_away(&mut self) {
        self.awaited.clear();
        self.retry_at = None;
    }
}

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

    /// For all of them that the server has.
    pub(super) fn subscribe(&mut self, now: Now, out: &mut Effects) {
        let (asked, unavailable): (Vec<_>, Vec<_>) =
            self.subscriptions().into_iter().partition(|(filter, _)| self.server.offers(filter));
        self.asked.refused.clear();
        self.asked.unavailable = unavailable.len();
        for (filter, _) in &unavailable {
            self.tell_refused(filter, "the server has no subscriptions of this kind");
        }
        if asked.is_empty() {
            self.subscribed = true;
            return self.go_up(now, out);
        }
        self.ask(&asked, now, out);
        self.set_phase(Phase::Subscribing { until: now.instant + ANSWER_WAIT }, out);
    }

    fn ask(&mut self, filters: &[Asked], now: Now, out: &mut Effects) {
        let identifiers = SUBSCRIBE_IDS.filter_map(PacketId::new);
        for (packet_id, filters) in identifiers.zip(filters.chunks(SUBSCRIBE_FILTERS_MAX)) {
            let filters = filters.to_vec();
            self.asked.awaited.insert(packet_id, filters.clone());
            let subscribe =
                Subscribe { packet_id, subscription_identifier: None, user_properties: Vec::new(), filters };
            self.send(Packet::Subscribe(subscribe), now, out);
        }
    }

    /// What was refused is asked for again while the link is up: permissions change.
    pub(super) fn retry_subscriptions(&mut self, now: Now, out: &mut Effects) {
        if self.asked.retry_at().is_some_and(|at| at <= now.instant) {
            self.asked.retry_at = None;
            let refused = self.asked.refused.clone();
            self.ask(&refused, now, out);
        }
    }

    pub(super) fn handle_suback(
        &mut self,
        suback: &Suback,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), LinkFault> {
        let asked = self.asked.awaited.remove(&suback.packet_id);
        let Some(asked) = asked.filter(|asked| asked.len() == suback.reasons.len()) else {
            return Err(LinkFault::Unexpected("SUBACK"));
        };
        for (asked, reason) in asked.into_iter().zip(&suback.reasons) {
            self.asked.refused.retain(|(filter, _)| *filter != asked.0);
            if reason.is_error() {
                self.tell_refused(&asked.0, &reason.to_string());
                self.asked.refused.push(asked);
            } else if self.asked.told.remove(&asked.0) {
                tracing::info!(bridge = %self.settings.bridge.name, filter = %asked.0, "the cloud took a subscription");
            }
        }
        if self.asked.is_answered() {
            self.settle_subscriptions(now);
        }
        match &mut self.phase {
            Phase::Subscribing { .. } if self.asked.is_answered() => self.go_up(now, out),
            Phase::Subscribing { until } => *until = now.instant + ANSWER_WAIT,
            _ => {}
        }
        Ok(())
    }

    fn settle_subscriptions(&mut self, now: Now) {
        self.subscribed = self.asked.refused.is_empty();
        if self.subscribed {
            self.asked.backoff.reset();
        } else {
            self.asked.retry_at = Some(now.instant + self.asked.backoff.next_ceiling());
        }
    }

    /// Once, until it is taken.
    fn tell_refused(&mut self, filter: &TopicFilter, reason: &str) {
        if self.asked.told.insert(filter.clone()) {
            tracing::warn!(bridge = %self.settings.bridge.name, %filter, %reason, "the cloud refused a subscription");
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
