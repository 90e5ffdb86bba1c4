//! Which topics are commands to which device: one filter for each that reaches no other's, where there is one. Routes
//! nothing itself.

use std::collections::{BTreeSet, HashMap};

use crate::device::inbox::Inbox;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// A filter, and the index of the device whose commands come in by it.
pub type CommandRoute = (TopicFilter, u16);

/// Of all devices that are configured.
pub fn command_routes<'a>(inboxes: impl Iterator<Item = &'a Inbox>) -> BTreeSet<CommandRoute> {
    let inboxes: Vec<&Inbox> = inboxes.collect();
    let reach = Reach::of(&inboxes);
    let mut routes = BTreeSet::new();
    for inbox in inboxes {
        let index = inbox.index();
        // Where a device's name is no part of its topics, who has no such point cannot say that nobody has.
        let sole = inbox.any_command_filter().filter(|filter| !reach.has_other(filter, index));
        match sole {
            // One filter that reaches all its points, in place of one for each of thousands.
            Some(filter) => routes.extend([(filter.clone(), index)]),
            None => routes.extend(inbox.command_filters().map(|filter| (filter, index))),
        }
    }
    routes
}

/// Which devices the filters reach that stand for any point. One walk over all topics for each template, however
/// many devices there are.
struct Reach {
    /// By where a filter has `+`, and by what a topic looks like with `+` there: the device; None: several.
    owners: HashMap<Vec<usize>, HashMap<String, Option<u16>>>,
}

impl Reach {
    fn of(inboxes: &[&Inbox]) -> Self {
        let filters = inboxes.iter().filter_map(|inbox| inbox.any_command_filter());
        let mut owners: HashMap<_, HashMap<_, _>> =
            filters.map(|filter| (wildcards_of(filter), HashMap::new())).collect();
        for (wildcards, owners) in &mut owners {
            for inbox in inboxes {
                let index = inbox.index();
                for topic in inbox.command_topics() {
                    let owner = owners.entry(with_wildcards(&topic, wildcards)).or_insert(Some(index));
                    *owner = owner.filter(|owner| *owner == index);
                }
            }
        }
        Self { owners }
    }

    /// Whether a command of another device's points would come in by this device's filter.
    fn has_other(&self, filter: &TopicFilter, device: u16) -> bool {
        let owners = self.owners.get(&wildcards_of(filter));
        owners.and_then(|owners| owners.get(filter.as_str())).is_some_and(|owner| *owner != Some(device))
    }
}

fn wildcards_of(filter: &TopicFilter) -> Vec<usize> {
    let levels = filter.as_str().split('/').enumerate();
    levels.filter(|(_, level)| *level == "+").map(|(at, _)| at).collect()
}

fn with_wildcards(topic: &TopicName, wildcards: &[usize]) -> String {
    let levels = topic.as_str().split('/').enumerate();
    let shown = levels.map(|(at, level)| if wildcards.contains(&at) { "+" } else { level });
    shown.collect::<Vec<_>>().join("/")
}
