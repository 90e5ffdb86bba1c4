//! Whether a server ends its connections for a filter that it is asked for: MQTT 3.1.1 has no word for what a server does
//! not grant before SUBACK, and a policy may close without any. Counts ends of connections; never asks, never waits.
//!
//! As with messages (`suspicion`), a link that breaks by itself must not look like that. Once connections have ended in a
//! row with a SUBSCRIBE that had no answer, what waits leaves first, and then filters that no server answered for are
//! asked one by one, with nothing else on its way, behind two pings that were answered. It takes as many ends behind one filter
//! alone as behind a message; each try that ends before takes one back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use crate::base::time::{Duration, Instant};
use crate::bridge::fault::LinkFault;
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;

/// Connections that end so in a row before filters are asked one by one.
const FRUITLESS_MAX: u8 = 2;
/// Pings that are answered before a SUBSCRIBE alone.
const PINGS: u8 = 2;
/// What it takes to believe that the QoS is the reason: from then on the filter is asked with QoS 1.
const ENDS_FOR_QOS: u8 = 4;
/// What it takes to leave a filter out.
const ENDS_FOR_FILTER: u8 = 8;
/// The same where the server says a word that may mean the filter.
const ENDS_WITH_WORD: u8 = 2;
/// How long a filter is left out: permissions change. Then one end is enough to leave it out again.
pub(super) const LEFT_OUT_FOR: Duration = Duration::from_secs(3600);
/// How long what waits may leave first.
const MESSAGES_FIRST: Duration = Duration::from_secs(10);
/// Servers that are remembered at once. Of more, all are asked anew.
const SERVERS_MAX: usize = 16;

/// What one server has shown of filters. No more than are configured.
#[derive(Debug, Default)]
struct Known {
    /// It has answered for these, whatever it said.
    answered: BTreeSet<TopicFilter>,
    /// Connections that ended behind a filter alone.
    ends: BTreeMap<TopicFilter, u8>,
    left_out: BTreeMap<TopicFilter, Instant>,
    /// It has answered for one of QoS 2: what it closes for is never that.
    took_qos_2: bool,
}

/// What the end of a connection says against a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It has nothing to do with one.
    Nothing,
    /// No word: it shows by doing it again.
    Silence,
    /// A word that may mean the filter. No link that breaks says one.
    Word,
    /// A word that means nothing else.
    Certain,
}

/// MQTT 5 3.14.2.1 for who is asked to grant a subscription.
pub(super) fn sign_of(fault: &LinkFault) -> Sign {
    match fault {
        LinkFault::ServerLeft(reason) => match reason {
            ReasonCode::TopicFilterInvalid => Sign::Certain,
            ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::NotAuthorized
            | ReasonCode::TopicNameInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::QuotaExceeded
            | ReasonCode::QosNotSupported
            | ReasonCode::SharedSubscriptionsNotSupported
            | ReasonCode::SubscriptionIdentifiersNotSupported
            | ReasonCode::WildcardSubscriptionsNotSupported => Sign::Word,
            _ => Sign::Nothing,
        },
        LinkFault::Closed
        | LinkFault::NoSuback
        | LinkFault::Transport(
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe,
        ) => Sign::Silence,
        _ => Sign::Nothing,
    }
}

/// The connection that stands.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Trial {
    #[default]
    None,
    /// Filters are to be asked alone once nothing else waits to leave, or then. None: it is time.
    Due(Option<Instant>),
    /// So many pings are still to be answered.
    Pinging(u8),
    /// Nothing but this SUBSCRIBE awaits an answer, until then.
    Asked { filter: TopicFilter, until: Instant },
}

/// What the end of a connection says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    /// The link was good, and the next try may come at once.
    TryAgain,
    /// After so many connections that ended behind it alone.
    LeaveOut {
        filter: TopicFilter,
        ends: u8,
    },
}

#[derive(Debug, Default)]
pub(super) struct Doubt {
    fruitless: u8,
    trial: Trial,
    by_server: BTreeMap<String, Known>,
}

impl Doubt {
    fn known(&mut self, server: &str) -> &mut Known {
        if self.by_server.len() >= SERVERS_MAX && !self.by_server.contains_key(server) {
            self.by_server.clear();
        }
        self.by_server.entry(server.to_owned()).or_default()
    }

    /// Whether a filter is asked together with others.
    pub(super) fn takes(&self, server: &str, filter: &TopicFilter) -> bool {
        let known = self.by_server.get(server);
        let is_left_out = known.is_some_and(|known| known.left_out.contains_key(filter));
        let answered = || known.is_some_and(|known| known.answered.contains(filter));
        !is_left_out && (self.fruitless < FRUITLESS_MAX || answered())
    }

    /// Those that are left out now, and not to be asked yet.
    pub(super) fn left_out(&self, server: &str) -> impl Iterator<Item = &TopicFilter> {
        self.by_server.get(server).into_iter().flat_map(|known| known.left_out.keys())
    }

    /// Those of all servers, and until when.
    pub(super) fn all_left_out(&self) -> impl Iterator<Item = (&str, &TopicFilter, Instant)> {
        self.by_server.iter().flat_map(|(server, known)| {
            known.left_out.iter().map(move |(filter, until)| (server.as_str(), filter, *until))
        })
    }

    /// What an earlier process knew.
    pub(super) fn recall(&mut self, server: &str, filter: TopicFilter, until: Instant) {
        self.known(server).left_out.insert(filter, until);
    }

    /// Whether a filter that is not taken together with others is to be asked alone by now.
    pub(super) fn is_due(&self, server: &str, filter: &TopicFilter, now: Instant) -> bool {
        let until = self.by_server.get(server).and_then(|known| known.left_out.get(filter));
        until.is_none_or(|until| *until <= now)
    }

    /// When one that is left out is to be asked again.
    pub(super) fn due_at(&self, server: &str) -> Option<Instant> {
        let known = self.by_server.get(server).filter(|_| self.trial == Trial::None)?;
        known.left_out.values().min().copied()
    }

    /// Nobody wants those any more that are to be asked again by now.
    pub(super) fn drop_due(&mut self, server: &str, now: Instant) {
        self.known(server).left_out.retain(|_, until| now < *until);
    }

    /// Filters are to be asked alone on this connection.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.trial == Trial::None {
            self.trial = Trial::Due(Some(now + MESSAGES_FIRST));
        }
    }

    /// Whether a filter is to be asked alone now. `is_quiet`: nothing waits to leave.
    pub(super) fn may_begin(&self, is_quiet: bool) -> bool {
        matches!(self.trial, Trial::Due(until) if is_quiet || until.is_none())
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Trial::Due(until) = &mut self.trial {
            *until = until.filter(|until| now < *until);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.trial == Trial::None
    }

    /// Nothing else may leave.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.trial, Trial::Pinging(_) | Trial::Asked { .. })
    }

    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self.trial {
            Trial::Due(until) => until.map(|until| (until, "filters")),
            Trial::Asked { until, .. } => Some((until, "suback")),
            Trial::None | Trial::Pinging(_) => None,
        }
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.trial, Trial::Asked { until, .. } if until <= now)
    }

    pub(super) fn handle_pinged(&mut self) {
        if let Trial::Due(_) = self.trial {
            self.trial = Trial::Pinging(PINGS);
        }
    }

    /// Some: a ping was answered; whether it takes another one.
    pub(super) fn handle_pingresp(&mut self) -> Option<bool> {
        let Trial::Pinging(left) = &mut self.trial else { return None };
        *left = left.saturating_sub(1);
        Some(*left > 0)
    }

    /// Who is asked first of these: whoever ended the fewest connections, so that what is granted soon stands.
    pub(super) fn first_of<'a, T>(
        &self,
        server: &str,
        filters: &'a [(TopicFilter, T)],
    ) -> Option<&'a (TopicFilter, T)> {
        filters.iter().min_by_key(|(filter, _)| self.ends_of(server, filter))
    }

    fn ends_of(&self, server: &str, filter: &TopicFilter) -> u8 {
        self.by_server.get(server).and_then(|known| known.ends.get(filter)).copied().unwrap_or(0)
    }

    /// Whether it may be the QoS that the server ends connections for.
    pub(super) fn doubts_qos(&self, server: &str, filter: &TopicFilter) -> bool {
        let took_qos_2 = self.by_server.get(server).is_some_and(|known| known.took_qos_2);
        !took_qos_2 && self.ends_of(server, filter) >= ENDS_FOR_QOS
    }

    pub(super) fn handle_asked(&mut self, filter: &TopicFilter, until: Instant) {
        self.trial = Trial::Asked { filter: filter.clone(), until };
    }

    /// SUBACK, whatever it says. Whether the filter was left out.
    pub(super) fn handle_answered(&mut self, server: &str, filter: &TopicFilter, asked: QoS) -> bool {
        let known = self.known(server);
        known.answered.insert(filter.clone());
        known.ends.remove(filter);
        known.took_qos_2 |= asked == QoS::ExactlyOnce;
        known.left_out.remove(filter).is_some()
    }

    /// Every filter has its answer, or is left out.
    pub(super) fn handle_settled(&mut self) {
        (self.fruitless, self.trial) = (0, Trial::None);
    }

    /// What was wrong may have been put right: whatever is left out is asked again, alone.
    pub(super) fn forget(&mut self) {
        for known in self.by_server.values_mut() {
            known.ends.clear();
            known.left_out.values_mut().for_each(|until| *until = Instant::ORIGIN);
        }
    }

    /// The connection is gone, whatever for.
    pub(super) fn handle_away(&mut self) {
        self.trial = Trial::None;
    }

    /// A connection that was greeted is over. `awaited`: SUBACK was.
    pub(super) fn handle_end(&mut self, server: &str, sign: Sign, awaited: bool, now: Instant) -> Verdict {
        let trial = std::mem::take(&mut self.trial);
        if sign == Sign::Nothing {
            return Verdict::Nothing;
        }
        match trial {
            Trial::Due(_) | Trial::None => {
                if awaited {
                    self.note_fruitless(server, sign);
                }
                Verdict::Nothing
            }
            Trial::Pinging(_) => {
                for ends in self.known(server).ends.values_mut() {
                    *ends = ends.saturating_sub(1);
                }
                Verdict::Nothing
            }
            Trial::Asked { filter, .. } => self.judge(server, filter, sign, now),
        }
    }

    fn note_fruitless(&mut self, server: &str, sign: Sign) {
        if self.fruitless >= FRUITLESS_MAX {
            // What the server answered for once is what it closes for now.
            self.known(server).answered.clear();
        }
        let ends = if sign == Sign::Certain { FRUITLESS_MAX } else { 1 };
        self.fruitless = self.fruitless.saturating_add(ends).min(FRUITLESS_MAX);
    }

    fn judge(&mut self, server: &str, filter: TopicFilter, sign: Sign, now: Instant) -> Verdict {
        let known = self.known(server);
        known.answered.remove(&filter);
        let enough = match sign {
            Sign::Certain => 1,
            _ if known.left_out.contains_key(&filter) => 1,
            Sign::Word => ENDS_WITH_WORD,
            Sign::Silence | Sign::Nothing => ENDS_FOR_FILTER,
        };
        let count = known.ends.entry(filter.clone()).or_default();
        *count += 1;
        let ends = *count;
        if ends < enough {
            return Verdict::TryAgain;
        }
        known.ends.remove(&filter);
        known.left_out.insert(filter.clone(), now + LEFT_OUT_FOR);
        Verdict::LeaveOut { filter, ends }
    }
}

/// What to ask for in place of QoS 2 where that is in doubt.
pub(super) fn lowered(qos: QoS) -> QoS {
    qos.min(QoS::AtLeastOnce)
}

#[cfg(test)]
mod tests {
    use super::{
        Doubt, ENDS_FOR_FILTER, ENDS_FOR_QOS, ENDS_WITH_WORD, FRUITLESS_MAX, LEFT_OUT_FOR, PINGS,
        SERVERS_MAX, Sign, Verdict, sign_of,
    };
    use crate::base::time::{Duration, Instant};
    use crate::bridge::fault::LinkFault;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::reason::ReasonCode;
    use crate::mqtt::topic::TopicFilter;

    const HERE: &str = "mqtt://here:1883";
    const AT: Instant = Instant::ORIGIN;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).expect("a valid filter")
    }

    /// Asks `no/#` alone on a good link, which ends with this sign.
    fn end_alone(doubt: &mut Doubt, sign: Sign, now: Instant) -> Verdict {
        doubt.begin(now);
        doubt.handle_pinged();
        for left in (0..PINGS).rev() {
            assert_eq!(doubt.handle_pingresp(), Some(left > 0));
        }
        doubt.handle_asked(&filter("no/#"), now);
        doubt.handle_end(HERE, sign, true, now)
    }

    fn doubting() -> Doubt {
        let mut doubt = Doubt::default();
        for _ in 0..FRUITLESS_MAX {
            assert!(doubt.takes(HERE, &filter("no/#")));
            assert_eq!(doubt.handle_end(HERE, Sign::Silence, true, AT), Verdict::Nothing);
        }
        assert!(!doubt.takes(HERE, &filter("no/#")));
        doubt
    }

    #[test]
    fn a_filter_that_ends_every_connection_is_left_out_for_its_time() {
        for (sign, enough) in
            [(Sign::Silence, ENDS_FOR_FILTER), (Sign::Word, ENDS_WITH_WORD), (Sign::Certain, 1)]
        {
            let mut doubt = doubting();
            for _ in 1..enough {
                assert_eq!(end_alone(&mut doubt, sign, AT), Verdict::TryAgain);
            }
            let verdict = Verdict::LeaveOut { filter: filter("no/#"), ends: enough };
            assert_eq!(end_alone(&mut doubt, sign, AT), verdict);
            doubt.handle_settled();
            assert!(!doubt.takes(HERE, &filter("no/#")) && doubt.takes(HERE, &filter("yes/#")));
            assert!(doubt.takes("mqtt://there:1883", &filter("no/#")), "another server");
            let later = AT + LEFT_OUT_FOR;
            assert_eq!(doubt.due_at(HERE), Some(later));
            assert!(!doubt.is_due(HERE, &filter("no/#"), AT) && doubt.is_due(HERE, &filter("no/#"), later));
            // One end is enough to leave it out again.
            let again = end_alone(&mut doubt, Sign::Silence, later);
            assert_eq!(again, Verdict::LeaveOut { filter: filter("no/#"), ends: 1 });
            assert_eq!(doubt.due_at(HERE), Some(later + LEFT_OUT_FOR));
            doubt.forget();
            assert!(doubt.is_due(HERE, &filter("no/#"), AT), "somebody put it right");
            doubt.handle_answered(HERE, &filter("no/#"), QoS::AtLeastOnce);
            assert!(doubt.takes(HERE, &filter("no/#")));
        }
    }

    #[test]
    fn the_qos_is_doubted_before_the_filter() {
        let mut doubt = doubting();
        for ends in 0..ENDS_FOR_QOS {
            assert!(!doubt.doubts_qos(HERE, &filter("no/#")), "{ends}");
            end_alone(&mut doubt, Sign::Silence, AT);
        }
        assert!(doubt.doubts_qos(HERE, &filter("no/#")));
        doubt.handle_answered(HERE, &filter("yes/#"), QoS::ExactlyOnce);
        assert!(!doubt.doubts_qos(HERE, &filter("no/#")), "it answers for QoS 2");
    }

    #[test]
    fn what_is_suspected_is_asked_last_and_servers_are_bounded() {
        let mut doubt = doubting();
        end_alone(&mut doubt, Sign::Silence, AT);
        let filters = [(filter("no/#"), ()), (filter("yes/#"), ())];
        assert_eq!(doubt.first_of(HERE, &filters), Some(&filters[1]));
        for number in 0..100 {
            doubt.handle_answered(&number.to_string(), &filter("yes/#"), QoS::AtMostOnce);
        }
        assert!(doubt.by_server.len() <= SERVERS_MAX);
    }

    #[test]
    fn only_ends_that_a_subscription_can_bring_about_count() {
        let left = LinkFault::ServerLeft;
        let cases = [
            (left(ReasonCode::TopicFilterInvalid), Sign::Certain),
            (left(ReasonCode::NotAuthorized), Sign::Word),
            (left(ReasonCode::ServerBusy), Sign::Nothing),
            (left(ReasonCode::SessionTakenOver), Sign::Nothing),
            (LinkFault::Closed, Sign::Silence),
            (LinkFault::NoSuback, Sign::Silence),
            (LinkFault::NoPingresp, Sign::Nothing),
        ];
        for (fault, sign) in cases {
            assert_eq!(sign_of(&fault), sign, "{fault}");
        }
    }

    /// Each round trip is lost with a probability of its own, and the connection with it, for months.
    #[test]
    fn no_link_that_breaks_by_itself_leaves_a_filter_out() {
        let mut rng = fastrand::Rng::with_seed(7);
        for percent in [5, 25, 50, 90, 99] {
            let mut doubt = Doubt::default();
            let mut now = AT;
            for _ in 0..100_000 {
                now = now + Duration::from_secs(60);
                let mut breaks = || rng.u8(0..100) < percent;
                let answered = if doubt.takes(HERE, &filter("a")) {
                    !breaks()
                } else {
                    doubt.begin(now);
                    doubt.handle_pinged();
                    let early = (0..PINGS).any(|_| breaks() || doubt.handle_pingresp().is_none());
                    if !early {
                        doubt.handle_asked(&filter("a"), now);
                    }
                    !early && !breaks()
                };
                if answered {
                    doubt.handle_answered(HERE, &filter("a"), QoS::AtLeastOnce);
                    doubt.handle_settled();
                }
                let verdict = doubt.handle_end(HERE, Sign::Silence, !answered, now);
                assert!(!matches!(verdict, Verdict::LeaveOut { .. }), "at {percent} %");
            }
        }
    }
}
