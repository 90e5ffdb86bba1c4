//! How many descriptors the system lets the gateway have. Takes what the configured limits need; knows nothing of what
//! they are used for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::model::Config;
use crate::lan::admission::connections_open_max;

/// Beside what is counted: the database, the log, the dashboard's clients, the runtimes' own.
const SPARE_DESCRIPTORS: u64 = 256;
/// A socket, and a second one while a name is looked up or the next address is tried.
const LINK_DESCRIPTORS: u64 = 2;

/// Raises the soft limit as far as it is needed and allowed. Says so where that is not enough: clients beyond it would
/// wait in vain.
pub fn provide(config: &Config) {
    let needed = needed(config);
    let limit = getrlimit(Resource::Nofile);
    if let Some(wanted) = raised(limit, needed)
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            needed,
            allowed,
            "the system allows fewer open files than broker.limits.connections can need: raise LimitNOFILE= of the \
             service (or `ulimit -Hn`), or lower the limit"
        );
    }
}

fn needed(config: &Config) -> u64 {
    let connections = connections_open_max(config.broker.limits.connections) as u64;
    let links = (config.bridges.len() + config.devices.len() + config.instruments.len()) as u64;
    connections + config.broker.listeners.len() as u64 + links * LINK_DESCRIPTORS + SPARE_DESCRIPTORS
}

/// None: the limit may stay as it is.
fn raised(limit: Rlimit, needed: u64) -> Option<Rlimit> {
    let allowed = limit.current?;
    let wanted = limit.maximum.map_or(needed, |most| needed.min(most));
    (wanted > allowed).then_some(Rlimit { current: Some(wanted), ..limit })
}

#[cfg(test)]
mod tests {
    use super::{Rlimit, raised};

    #[test]
    fn the_limit_is_raised_as_far_as_needed_and_allowed() {
        let cases = [
            ((Some(1024), Some(4096)), 2000, Some(2000)),
            ((Some(1024), Some(4096)), 9000, Some(4096)),
            ((Some(1024), None), 9000, Some(9000)),
            ((Some(4096), Some(4096)), 9000, None),
            ((Some(4096), Some(9000)), 2000, None),
            ((None, None), 9000, None),
        ];
        for ((current, maximum), needed, wanted) in cases {
            let limit = Rlimit { current, maximum };
            let expected = wanted.map(|wanted| Rlimit { current: Some(wanted), maximum });
            assert_eq!(raised(limit, needed), expected, "{limit:?}, {needed} needed");
        }
    }
}
