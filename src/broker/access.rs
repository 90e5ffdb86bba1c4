//! What each client may publish and receive: the rules of the configuration, made filters once a connection. Knows
//! nothing of how somebody proved who it is.

use std::sync::Arc;

use crate::base::time::Now;
use crate::broker::Broker;
use crate::broker::effect::ConnKey;
use crate::config::access::{AccessFilter, AccessRule};
use crate::mqtt::message::Message;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// What one client may do where there are rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    publish: Box<[TopicFilter]>,
    subscribe: Box<[TopicFilter]>,
}

impl Access {
    /// By the first rule that matches; by none: nothing.
    pub fn of(rules: &[AccessRule], client_id: &str, user: Option<&str>) -> Self {
        let Some(rule) = rules.iter().find(|rule| rule.matches(client_id, user)) else {
            return Self::default();
        };
        let render = |filters: &[AccessFilter]| {
            filters.iter().filter_map(|filter| filter.render(client_id, user)).collect()
        };
        Self { publish: render(&rule.publish), subscribe: render(&rule.subscribe) }
    }
}

/// Whose rules a session goes by.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    pub user: Option<Arc<str>>,
    /// None: everything.
    access: Option<Arc<Access>>,
}

impl Rights {
    pub fn of(rules: Option<&[AccessRule]>, client_id: &str, user: Option<Arc<str>>) -> Self {
        let access = rules.map(|rules| Arc::new(Access::of(rules, client_id, user.as_deref())));
        Self { user, access }
    }

    pub fn may_publish(&self, topic: &TopicName) -> bool {
        self.access.as_ref().is_none_or(|access| access.publish.iter().any(|filter| filter.matches(topic)))
    }

    /// Asked for every message on its way: a filter that is wider than the rule brings what the rule allows.
    pub fn may_receive(&self, topic: &TopicName) -> bool {
        self.access.as_ref().is_none_or(|access| access.subscribe.iter().any(|filter| filter.matches(topic)))
    }

    /// Whether the filter can bring anything at all.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.access.as_ref().is_none_or(|access| access.subscribe.iter().any(|allowed| allowed.meets(filter)))
    }
}

/// The last message that a rule kept from being published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// How many there were since the start.
    pub count: u64,
    pub client_id: Arc<str>,
    pub user: Option<Arc<str>>,
    pub topic: TopicName,
    pub at: Now,
}

impl Broker {
    /// Other rules from now on, for those who are here too. A session that nobody came for since the start is judged
    /// when somebody comes.
    pub fn handle_access(&mut self, rules: Option<Arc<[AccessRule]>>) {
        for (_, session) in self.sessions.iter_mut() {
            if let Some(rights) = &session.rights {
                let user = rights.user.clone();
                session.rights = Some(Rights::of(rules.as_deref(), &session.client_id, user));
            }
        }
        self.settings.access = rules;
    }

    /// The last message that a rule kept from being published. None: there was none.
    pub fn denied(&self) -> Option<&Denied> {
        self.denied.as_ref()
    }

    /// Whether the rules keep the client from publishing this; then it is counted.
    pub(super) fn denies(&mut self, key: ConnKey, message: &Message, now: Now) -> bool {
        let Some(session) = self.session_of(key).and_then(|key| self.sessions.get(key)) else { return true };
        let Some(rights) = session.rights.as_ref().filter(|rights| !rights.may_publish(&message.topic))
        else {
            return false;
        };
        self.stats.denied += 1;
        self.denied = Some(Denied {
            count: self.stats.denied,
            client_id: session.client_id.clone(),
            user: rights.user.clone(),
            topic: message.topic.clone(),
            at: now,
        });
        true
    }
}
