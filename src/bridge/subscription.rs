//! What a bridge asks its cloud for, and how the cloud answers that. Carries no messages.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::backoff::{Backoff, BackoffBounds};
use crate::base::time::{Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::doubt::{self, Doubt, Verdict};
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::learned::{Shown, below};
use crate::bridge::link::{ANSWER_WAIT, Phase};
use crate::bridge::status::LinkState;
use crate::config::model;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::subscribe::{RetainHandling, Suback, Subscribe, SubscriptionOptions};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;

/// Identifiers of SUBSCRIBE: never those of a message in flight.
const SUBSCRIBE_IDS: std::ops::RangeInclusive<u16> = 65_000..=65_534;
/// The least that a known cloud takes in one SUBSCRIBE.
const SUBSCRIBE_FILTERS_MAX: usize = 8;

/// Filters that are named at once to people.
const NAMED_MAX: usize = 8;

type Asked = (TopicFilter, SubscriptionOptions);

/// What of the filters stands.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// What each SUBSCRIBE asked for that is not answered yet.
    awaited: BTreeMap<PacketId, Vec<Asked>>,
    /// What the cloud refused, and gets asked for again.
    refused: Vec<Asked>,
    /// Filters of a kind that the server does not have.
    unavailable: Vec<TopicFilter>,
    /// Those that are to be asked one by one.
    alone: Vec<Asked>,
    /// Those that the server grants a lower QoS than was asked for.
    lowered: BTreeSet<TopicFilter>,
    pub(super) doubt: Doubt,
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
            unavailable: Vec::new(),
            alone: Vec::new(),
            lowered: BTreeSet::new(),
            doubt: Doubt::default(),
            retry_at: None,
            backoff: Backoff::new(reconnect),
            told: BTreeSet::new(),
        }
    }

    /// When refused ones are asked for again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.awaited.is_empty() && self.doubt.is_idle())
    }

    /// What an earlier process knew.
    pub(super) fn recall_left_out(&mut self, server: &str, filter: TopicFilter, until: Instant) {
        self.told.insert(filter.clone());
        self.doubt.recall(server, filter, until);
    }

    pub(super) fn is_answered(&self) -> bool {
        self.awaited.is_empty()
    }

    pub(super) fn handle_away(&mut self) {
        self.awaited.clear();
        self.retry_at = None;
        self.doubt.handle_away();
    }
}

impl Bridge {
    /// The rules' filters, and behind them what a Sparkplug node has to hear.
    pub(super) fn subscriptions(&self) -> Vec<(TopicFilter, SubscriptionOptions)> {
        let most = self.server.terms.maximum_qos.min(self.shown().subscribe_qos);
        let rules = self.settings.bridge.receive.iter().map(subscription_of);
        let asked = rules.chain(self.node_subscriptions());
        let lowered =
            |options: SubscriptionOptions| SubscriptionOptions { qos: options.qos.min(most), ..options };
        asked.map(|(filter, options)| (filter, lowered(options))).collect()
    }

    /// For all of them that the server has, but for those that it may end the connection for.
    pub(super) fn subscribe(&mut self, now: Now, out: &mut Effects) {
        let (offered, unavailable): (Vec<_>, Vec<_>) =
            self.subscriptions().into_iter().partition(|(filter, _)| self.server.offers(filter));
        let server = self.servers.target().to_string();
        let doubt = &self.asked.doubt;
        let (asked, others): (Vec<_>, Vec<_>) =
            offered.into_iter().partition(|(filter, _)| doubt.takes(&server, filter));
        self.asked.alone =
            others.into_iter().filter(|(filter, _)| doubt.is_due(&server, filter, now.instant)).collect();
        if !self.asked.alone.is_empty() {
            self.asked.doubt.begin(now.instant);
        }
        self.asked.refused.clear();
        self.asked.unavailable = unavailable.into_iter().map(|(filter, _)| filter).collect();
        for filter in self.asked.unavailable.clone() {
            self.tell_refused(&filter, "the server has no subscriptions of this kind");
        }
        if asked.is_empty() {
            self.subscribed = self.asked.alone.is_empty();
            self.go_on_asking(now, out);
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
            self.note_answered(&asked, *reason);
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
            self.go_on_asking(now, out);
        }
        match &mut self.phase {
            Phase::Subscribing { .. } if self.asked.is_answered() => self.go_up(now, out),
            Phase::Subscribing { until } => *until = now.instant + ANSWER_WAIT,
            _ => {}
        }
        Ok(())
    }

    fn settle_subscriptions(&mut self, now: Now) {
        self.subscribed = self.asked.refused.is_empty() && self.asked.alone.is_empty();
        if self.asked.refused.is_empty() {
            self.asked.backoff.reset();
        } else {
            self.asked.retry_at = Some(now.instant + self.asked.backoff.next_ceiling());
        }
    }

    fn note_answered(&mut self, (filter, options): &Asked, reason: ReasonCode) {
        let server = self.servers.target().to_string();
        if self.asked.doubt.doubts_qos(&server, filter) {
            tracing::warn!(
                bridge = %self.settings.bridge.name, %filter,
                "the server ends each connection that asks for a subscription of QoS 2, and answers one of QoS 1: \
                 it is asked for that; qos: 1 in the receive rules spares the tries"
            );
            self.show(Shown { subscribe_qos: QoS::AtLeastOnce, ..self.shown() });
        }
        self.learned.has_news |= self.asked.doubt.handle_answered(&server, filter, options.qos);
        let is_lower = !reason.is_error() && (reason as u8) < (options.qos as u8);
        if is_lower {
            self.asked.lowered.insert(filter.clone());
        } else {
            self.asked.lowered.remove(filter);
        }
    }

    /// Once, until it is taken.
    fn tell_refused(&mut self, filter: &TopicFilter, reason: &str) {
        if self.asked.told.insert(filter.clone()) {
            tracing::warn!(bridge = %self.settings.bridge.name, %filter, %reason, "the cloud refused a subscription");
        }
    }
}

/// Filters that are asked alone: see `doubt`.
impl Bridge {
    /// What was left out for long enough is asked for again.
    pub(super) fn retry_left_out(&mut self, now: Now) {
        let server = self.servers.target().to_string();
        if !self.may_try_filters() || self.asked.doubt.due_at(&server).is_none_or(|at| now.instant < at) {
            return;
        }
        let doubt = &self.asked.doubt;
        let is_due = |filter: &TopicFilter| {
            let is_asked = self.server.offers(filter) && !doubt.takes(&server, filter);
            is_asked && doubt.is_due(&server, filter, now.instant)
        };
        self.asked.alone = self.subscriptions().into_iter().filter(|(filter, _)| is_due(filter)).collect();
        if self.asked.alone.is_empty() {
            // No rule wants them any more.
            return self.asked.doubt.drop_due(&server, now.instant);
        }
        self.subscribed = false;
        self.asked.doubt.begin(now.instant);
    }

    /// When `retry_left_out` has something to do.
    pub(super) fn left_out_due_at(&self) -> Option<Instant> {
        let server = self.servers.target().to_string();
        self.asked.doubt.due_at(&server).filter(|_| self.may_try_filters() && self.asked.is_answered())
    }

    /// Messages have their own trials, and go first.
    fn may_try_filters(&self) -> bool {
        matches!(self.phase.state(), LinkState::Up | LinkState::Waiting)
            && !self.suspicion.is_at_work()
            && self.leaving.is_none()
    }

    /// Filters are asked alone once nothing waits to leave, or has for long enough.
    pub(super) fn pump_filters(&mut self, now: Now, out: &mut Effects) {
        let is_quiet = self.messages_due() == 0 || !self.has_host();
        let may_begin = self.asked.doubt.may_begin(is_quiet) && self.asked.is_answered();
        if !may_begin || !self.may_try_filters() {
            return;
        }
        self.lanes.hold_back();
        if self.lanes.unanswered() == 0 {
            self.asked.doubt.handle_pinged();
            self.ping(now, out);
        }
    }

    pub(super) fn handle_filter_pingresp(&mut self, now: Now, out: &mut Effects) {
        match self.asked.doubt.handle_pingresp() {
            Some(true) => self.ping(now, out),
            Some(false) => self.ask_next_alone(now, out),
            None => {}
        }
    }

    fn ask_next_alone(&mut self, now: Now, out: &mut Effects) {
        let server = self.servers.target().to_string();
        let next = self.asked.doubt.first_of(&server, &self.asked.alone).cloned();
        let Some((filter, mut options)) = next else {
            self.asked.doubt.handle_settled();
            self.subscribed = self.asked.refused.is_empty();
            self.set_window(self.server.window);
            return self.tell_degraded();
        };
        self.asked.alone.retain(|(other, _)| *other != filter);
        if self.asked.doubt.doubts_qos(&server, &filter) {
            options.qos = doubt::lowered(options.qos);
        }
        self.asked.doubt.handle_asked(&filter, now.instant + ANSWER_WAIT);
        self.ask(&[(filter, options)], now, out);
    }

    /// All that was asked is answered.
    fn go_on_asking(&mut self, now: Now, out: &mut Effects) {
        if self.asked.doubt.is_asking() {
            self.ask_next_alone(now, out);
        } else if self.asked.alone.is_empty() {
            self.asked.doubt.handle_settled();
        }
    }

    /// The connection is over. To be called while it is known what was asked.
    pub(super) fn note_end_of_asking(&mut self, fault: &LinkFault, now: Now) {
        if !self.is_greeted() {
            return;
        }
        let awaited = !self.asked.is_answered();
        if awaited && matches!(fault, LinkFault::ServerLeft(ReasonCode::QosNotSupported)) {
            let shown = self.shown();
            self.show(Shown { subscribe_qos: below(shown.subscribe_qos), ..shown });
        }
        let server = self.servers.target().to_string();
        match self.asked.doubt.handle_end(&server, doubt::sign_of(fault), awaited, now.instant) {
            Verdict::Nothing => {}
            // Somebody is there, and all that waits has its turn before the next try.
            Verdict::TryAgain => self.backoff.reset(),
            Verdict::LeaveOut { filter, ends } => {
                self.backoff.reset();
                self.learned.has_news = true;
                if self.asked.told.insert(filter.clone()) {
                    tracing::warn!(
                        bridge = %self.settings.bridge.name, %filter, reason = %fault, ends,
                        retry_in_s = doubt::LEFT_OUT_FOR.as_secs(),
                        "the cloud ends the connection for a subscription: it is left out for now"
                    );
                }
            }
        }
    }

    /// Filters that bring nothing now.
    pub(super) fn filters_missing(&self) -> u64 {
        (self.not_granted().count() + self.left_out().count()) as u64
    }

    fn not_granted(&self) -> impl Iterator<Item = &TopicFilter> {
        let asked = self.asked.refused.iter().chain(&self.asked.alone).map(|(filter, _)| filter);
        let left_out = |filter: &&TopicFilter| !self.left_out().any(|other| other == *filter);
        asked.chain(&self.asked.unavailable).filter(left_out)
    }

    fn left_out(&self) -> impl Iterator<Item = &TopicFilter> {
        let server = self.servers.target().to_string();
        self.asked.doubt.left_out(&server).collect::<Vec<_>>().into_iter()
    }

    /// What of the filters is less than was asked for, in words.
    pub(super) fn filters_degraded(&self) -> impl Iterator<Item = String> {
        let lowered = self.asked.lowered.iter();
        let kinds: [(Vec<_>, &str); 3] = [
            (self.not_granted().collect(), "not granted"),
            (
                self.left_out().collect(),
                "left out for an hour at a time, since the server ends the connection for it",
            ),
            (lowered.collect(), "granted with a lower QoS than was asked for"),
        ];
        let most = self.shown().subscribe_qos;
        let asks_less = (most < QoS::ExactlyOnce)
            .then(|| format!("subscriptions are asked for with QoS {} at most", most as u8));
        kinds.into_iter().filter_map(|(filters, what)| named(&filters, what)).chain(asks_less)
    }
}

/// `2 subscriptions are not granted: a/#, b/#`
fn named(filters: &[&TopicFilter], what: &str) -> Option<String> {
    let mut names: Vec<_> = filters.iter().take(NAMED_MAX).map(|filter| filter.as_str()).collect();
    if filters.len() > NAMED_MAX {
        names.push("…");
    }
    let (count, names) = (filters.len(), names.join(", "));
    let are = if count == 1 { "subscription is" } else { "subscriptions are" };
    (count > 0).then(|| format!("{count} {are} {what}: {names}"))
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
