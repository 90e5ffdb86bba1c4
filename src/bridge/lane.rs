//! Which lane of a buffer a message waits in: by the priority of its rule, and by whether it is new where new ones go
//! first. Each lane is a spool of its own, in order within itself. Holds no message.

use crate::config::model::{self, ForwardOrder, ForwardRule, Priority};

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Messages that came while the link was up, of rules whose new ones go first.
    Live,
    /// Messages of rules that keep the order of a topic.
    Ordered,
    /// Messages that had to wait, of rules whose new ones go first.
    Replay,
    /// Messages of topics that the server has no room for now.
    Aside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    pub priority: Priority,
    pub kind: Kind,
}

/// The lane of rules that say nothing. Its messages stand under the bridge's own name.
pub const MAIN: Lane = Lane { priority: Priority::Normal, kind: Kind::Ordered };

/// What the server has no room for goes behind all else, whatever its rule says, and makes room first.
pub const ASIDE: Lane = Lane { priority: Priority::Low, kind: Kind::Aside };

/// Every lane that there can be, by its number.
pub const LANES: [Lane; 10] = [
    MAIN,
    Lane { priority: Priority::High, kind: Kind::Ordered },
    Lane { priority: Priority::Low, kind: Kind::Ordered },
    Lane { priority: Priority::High, kind: Kind::Live },
    Lane { priority: Priority::Normal, kind: Kind::Live },
    Lane { priority: Priority::Low, kind: Kind::Live },
    Lane { priority: Priority::High, kind: Kind::Replay },
    Lane { priority: Priority::Normal, kind: Kind::Replay },
    Lane { priority: Priority::Low, kind: Kind::Replay },
    ASIDE,
];

impl Lane {
    /// Never changes: it stands in sequence numbers that people see, and decides over packet identifiers.
    pub fn number(self) -> u16 {
        (0..).zip(LANES).find(|(_, lane)| *lane == self).map_or(0, |(number, _)| number)
    }

    /// The name of its spool in the database. A bridge's own name has no `/`.
    pub fn spool_name(self, bridge: &str) -> String {
        let priority = match self.priority {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        };
        match self.kind {
            _ if self == MAIN => bridge.to_owned(),
            Kind::Ordered => format!("{bridge}/{priority}"),
            Kind::Live => format!("{bridge}/{priority}-live"),
            Kind::Replay => format!("{bridge}/{priority}-replay"),
            Kind::Aside => format!("{bridge}/aside"),
        }
    }

    /// Who sends first: what is new of all priorities, then what waits, the higher priority before the lower.
    pub(super) fn rank(self) -> (u8, Priority, Kind) {
        (u8::from(self.kind != Kind::Live), self.priority, self.kind)
    }
}

/// The bridge that a spool of this name is a lane of.
pub fn bridge_of(spool_name: &str) -> &str {
    spool_name.split('/').next().unwrap_or(spool_name)
}

/// The lane of what waits by a rule.
pub(super) fn waiting(rule: &ForwardRule) -> Lane {
    let kind = match rule.order {
        ForwardOrder::Topic => Kind::Ordered,
        ForwardOrder::LiveFirst => Kind::Replay,
    };
    Lane { priority: rule.priority, kind }
}

/// The lane of what leaves at once, where a rule has one.
pub(super) fn live(rule: &ForwardRule) -> Option<Lane> {
    (rule.order == ForwardOrder::LiveFirst).then_some(Lane { priority: rule.priority, kind: Kind::Live })
}

/// The lanes that a bridge needs besides the main one.
pub fn needed(bridge: &model::Bridge) -> Vec<Lane> {
    let named =
        |lane: &Lane| bridge.forward.iter().any(|rule| waiting(rule) == *lane || live(rule) == Some(*lane));
    LANES.into_iter().filter(|lane| *lane != MAIN && (*lane == ASIDE || named(lane))).collect()
}

#[cfg(test)]
mod tests {
    use super::{LANES, MAIN, bridge_of};

    #[test]
    fn each_lane_has_its_number_and_its_name() {
        let names: std::collections::BTreeSet<_> =
            LANES.iter().map(|lane| lane.spool_name("cloud")).collect();
        assert_eq!(names.len(), LANES.len());
        assert_eq!((MAIN.number(), MAIN.spool_name("cloud")), (0, "cloud".to_owned()));
        assert!((0..).zip(LANES).all(|(number, lane)| lane.number() == number));
        assert!(names.iter().all(|name| bridge_of(name) == "cloud"));
        let mut ranked = LANES.to_vec();
        ranked.sort_by_key(|lane| lane.rank());
        let order: Vec<_> = ranked.iter().map(|lane| lane.spool_name("c")).collect();
        assert_eq!(
            order,
            [
                "c/high-live",
                "c/normal-live",
                "c/low-live",
                "c/high",
                "c/high-replay",
                "c",
                "c/normal-replay",
                "c/low",
                "c/low-replay",
                "c/aside"
            ]
        );
    }
}
