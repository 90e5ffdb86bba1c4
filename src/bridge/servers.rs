//! Which of its servers a bridge goes to: rounds through the list, the way back to the preferred ones, and whose session
//! it is that packets are in flight in. Never opens a connection, never waits.

use std::sync::Arc;

use crate::bridge::fault::LinkFault;
use crate::config::model;
use crate::config::uplink::BridgeUrl;

/// So often in a row a preferred server has to be reachable before the link goes back to it.
const PROBES_WANTED_MIN: u32 = 3;
/// After returns that came to nothing; each doubles what is wanted.
const PROBES_WANTED_MAX: u32 = 96;
/// In the place of a server: no session is known to be the one of the packets in flight.
const NOBODY: &str = "";
/// Server references that are followed one after the other.
const REFERENCES_MAX: u8 = 3;

/// Where the hand is to connect to, and what it looks for meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub server: BridgeUrl,
    /// To be probed while the link is there; empty where it is with the first server.
    pub preferred: Vec<BridgeUrl>,
}

#[derive(Debug)]
pub(super) struct Servers {
    /// Never empty.
    list: Vec<BridgeUrl>,
    current: usize,
    /// Attempts of this round that came to nothing.
    failed: usize,
    /// Where the current server sent us; for one connection.
    referred: Option<BridgeUrl>,
    references: u8,
    /// The server whose session the packets in flight belong to, as it is shown. None: nobody has said.
    holder: Option<Arc<str>>,
    /// The preferred server that was reachable last, and how often in a row.
    reachable: (usize, u32),
    probes_wanted: u32,
    /// The link goes back to a preferred server, and has not come up there yet.
    returning: bool,
    /// What was wrong with each of the list last, since the link was up.
    told: Vec<Option<String>>,
}

impl Servers {
    pub(super) fn new(bridge: &model::Bridge, holder: Option<Arc<str>>) -> Self {
        let list: Vec<BridgeUrl> = [&bridge.url].into_iter().chain(&bridge.fallbacks).cloned().collect();
        // After a restart it goes on where it was, so that the session is found again.
        let current = list.iter().position(|url| holder.as_deref() == Some(&*url.to_string()));
        Self {
            told: vec![None; list.len()],
            list,
            current: current.unwrap_or(0),
            failed: 0,
            referred: None,
            references: 0,
            holder,
            reachable: (0, 0),
            probes_wanted: PROBES_WANTED_MIN,
            returning: false,
        }
    }

    pub(super) fn target(&self) -> &BridgeUrl {
        self.referred.as_ref().unwrap_or(&self.list[self.current])
    }

    /// The server whose session the packets in flight belong to.
    pub(super) fn holder(&self) -> Option<Arc<str>> {
        self.holder.clone()
    }

    pub(super) fn destination(&self) -> Destination {
        Destination { server: self.target().clone(), preferred: self.list[..self.current].to_vec() }
    }

    /// Whether the session at this server is the one that the packets in flight belong to.
    pub(super) fn holds_session(&self) -> bool {
        match &self.holder {
            Some(holder) => **holder == *self.target().to_string(),
            None => self.list.len() == 1 && self.referred.is_none(),
        }
    }

    /// The packets in flight belong to the session at this server from now on. The row of the buffer that says so,
    /// where it does not yet.
    pub(super) fn take_session(&mut self, bridge: &str) -> Option<Arc<str>> {
        if self.holds_session() {
            return None;
        }
        let holder = self.target().to_string();
        let row = row_of(bridge, Some(&holder));
        self.holder = Some(holder.into());
        Some(row)
    }

    /// Packets leave to this server, and it may still hold identifiers of before: should the connection break, nobody's
    /// session can be gone on with. The row that says so, where it does not yet.
    pub(super) fn enter_session(&mut self, bridge: &str) -> Option<Arc<str>> {
        let is_new = self.holder.as_deref() != Some(NOBODY);
        self.holder = Some(NOBODY.into());
        is_new.then(|| row_of(bridge, Some(NOBODY)))
    }

    pub(super) fn handle_up(&mut self) {
        self.forget_faults();
        self.failed = 0;
        self.references = 0;
        self.returning = false;
        self.reachable = (0, 0);
        if self.current == 0 {
            self.probes_wanted = PROBES_WANTED_MIN;
        }
    }

    /// Whether the current server has not failed like this before. To be asked before `handle_ended`.
    pub(super) fn is_news(&mut self, fault: &LinkFault) -> bool {
        let fault = Some(fault.to_string());
        let told = &mut self.told[self.current];
        std::mem::replace(told, fault.clone()) != fault
    }

    pub(super) fn forget_faults(&mut self) {
        self.told.fill(None);
    }

    /// The connection is over, or never was. Whether the whole list has been tried: the next try waits. A server that
    /// was good is tried first.
    pub(super) fn handle_ended(&mut self, was_stable: bool) -> bool {
        self.referred = None;
        self.references = 0;
        if was_stable {
            self.failed = 0;
            return true;
        }
        if std::mem::take(&mut self.returning) {
            self.probes_wanted = (self.probes_wanted * 2).min(PROBES_WANTED_MAX);
        }
        self.current = (self.current + 1) % self.list.len();
        self.failed = (self.failed + 1) % self.list.len();
        self.failed == 0
    }

    /// The server names another one. Whether that is where the next connection goes to.
    pub(super) fn refer(&mut self, reference: &str) -> bool {
        let elsewhere = self.target().elsewhere(reference);
        let Some(elsewhere) = elsewhere.filter(|_| self.references < REFERENCES_MAX) else { return false };
        self.references += 1;
        self.referred = Some(elsewhere);
        true
    }

    /// What the hand found when it looked for the preferred servers, the first that was there. Some: it has been there
    /// long enough.
    pub(super) fn handle_probed(&mut self, found: Option<usize>) -> Option<usize> {
        let Some(server) = found.filter(|server| *server < self.current) else {
            self.reachable = (0, 0);
            return None;
        };
        let (before, times) = self.reachable;
        self.reachable = (server, if before == server { times + 1 } else { 1 });
        (self.reachable.1 >= self.probes_wanted).then_some(server)
    }

    pub(super) fn go_back_to(&mut self, server: usize) {
        self.current = server.min(self.current);
        self.failed = 0;
        self.referred = None;
        self.returning = true;
    }
}

/// How the buffer of a bridge is called in the database: its name, and behind it the server whose session its packets
/// in flight belong to, where there can be several. Names have no blanks.
pub fn row_of(bridge: &str, holder: Option<&str>) -> Arc<str> {
    match holder {
        Some(holder) => format!("{bridge} {holder}").into(),
        None => bridge.into(),
    }
}

/// The bridge and the server that a row names.
pub fn parts_of_row(row: &str) -> (&str, Option<&str>) {
    match row.split_once(' ') {
        Some((bridge, holder)) => (bridge, Some(holder)),
        None => (row, None),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        NOBODY, PROBES_WANTED_MAX, PROBES_WANTED_MIN, REFERENCES_MAX, Servers, parts_of_row, row_of,
    };
    use crate::bridge::fault::LinkFault;
    use crate::config::uplink::BridgeUrl;

    fn servers(names: &[&str], holder: Option<&str>) -> Servers {
        let list: Vec<_> = names
            .iter()
            .map(|name| BridgeUrl { tls: false, host: (*name).into(), port: 1883, path: None })
            .collect();
        let current = list.iter().position(|url| holder == Some(&url.to_string()));
        Servers {
            told: vec![None; list.len()],
            list,
            current: current.unwrap_or(0),
            failed: 0,
            referred: None,
            references: 0,
            holder: holder.map(Into::into),
            reachable: (0, 0),
            probes_wanted: PROBES_WANTED_MIN,
            returning: false,
        }
    }

    fn host(servers: &Servers) -> String {
        servers.target().host.to_string()
    }

    #[test]
    fn a_round_tries_each_server_once_and_stays_with_what_works() {
        let mut servers = servers(&["a", "b", "c"], None);
        let mut tried = Vec::new();
        for _ in 0..6 {
            tried.push((host(&servers), servers.handle_ended(false)));
        }
        let round = [("a", false), ("b", false), ("c", true)];
        let expected: Vec<_> =
            round.iter().chain(&round).map(|(name, waits)| ((*name).to_owned(), *waits)).collect();
        assert_eq!(tried, expected);
        servers.handle_ended(false);
        servers.handle_up();
        assert_eq!((host(&servers), servers.handle_ended(true)), ("b".to_owned(), true));
        assert_eq!(host(&servers), "b", "where its session is");
        // A new round begins with it.
        assert!(!servers.handle_ended(false) && !servers.handle_ended(false) && servers.handle_ended(false));
        assert_eq!(host(&servers), "b");
    }

    #[test]
    fn a_fault_is_news_once_for_each_server() {
        let mut servers = servers(&["a", "b"], None);
        let mut news = Vec::new();
        for _ in 0..3 {
            for fault in [LinkFault::NoConnack, LinkFault::Closed] {
                news.push(servers.is_news(&fault));
                servers.handle_ended(false);
            }
        }
        assert_eq!(news, [true, true, false, false, false, false]);
        assert!(servers.is_news(&LinkFault::Stalled), "another reason");
        servers.handle_up();
        assert!(servers.is_news(&LinkFault::Stalled));
    }

    #[test]
    fn a_single_server_waits_after_each_try_and_its_session_is_ours() {
        let mut servers = servers(&["a"], None);
        assert!(servers.handle_ended(false) && servers.handle_ended(false));
        assert!(servers.holds_session());
        assert_eq!(servers.take_session("cloud"), None, "nothing is written for it");
    }

    #[test]
    fn a_session_belongs_to_one_server_also_after_a_restart() {
        let mut before = servers(&["a", "b"], None);
        assert!(!before.holds_session(), "nobody knows whose");
        assert_eq!(before.take_session("cloud").as_deref(), Some("cloud mqtt://a:1883"));
        assert_eq!(before.take_session("cloud"), None);
        before.handle_ended(false);
        assert!(!before.holds_session());
        let row = before.take_session("cloud").expect("another server");
        let (bridge, holder) = parts_of_row(&row);
        assert_eq!((bridge, holder), ("cloud", Some("mqtt://b:1883")));
        let after = servers(&["a", "b"], holder);
        assert_eq!((host(&after).as_str(), after.holds_session()), ("b", true));
        let moved = servers(&["c"], holder);
        assert_eq!((host(&moved).as_str(), moved.holds_session()), ("c", false));
        assert_eq!(parts_of_row(&row_of("cloud", None)), ("cloud", None));
        assert_eq!(parts_of_row(&row_of("cloud", Some(NOBODY))), ("cloud", Some(NOBODY)));
    }

    #[test]
    fn the_way_back_takes_several_good_probes_in_a_row() {
        let mut servers = servers(&["a", "b", "c"], Some("mqtt://c:1883"));
        assert_eq!(servers.destination().preferred.len(), 2);
        let found = [Some(0), Some(0), None, Some(0), Some(1), Some(1), Some(2), Some(1), Some(1)];
        for (at, found) in found.into_iter().enumerate() {
            assert_eq!(servers.handle_probed(found), None, "{at}");
        }
        assert_eq!(servers.handle_probed(Some(1)), Some(1));
        servers.go_back_to(1);
        assert_eq!(host(&servers), "b");
        // It came to nothing: it has to prove itself for longer.
        servers.handle_ended(false);
        servers.handle_up();
        assert_eq!(host(&servers), "c");
        let mut wanted = 1;
        while servers.handle_probed(Some(1)).is_none() {
            wanted += 1;
        }
        assert_eq!(wanted, 2 * PROBES_WANTED_MIN);
        for _ in 0..10 {
            servers.go_back_to(1);
            servers.handle_ended(false);
        }
        assert_eq!(servers.probes_wanted, PROBES_WANTED_MAX);
        servers.go_back_to(0);
        servers.handle_up();
        assert_eq!(servers.probes_wanted, PROBES_WANTED_MIN);
    }

    #[test]
    fn references_are_followed_so_far_and_for_one_connection() {
        let mut servers = servers(&["a"], None);
        assert!(!servers.refer("no/host"));
        assert!(servers.refer("b:1"));
        assert_eq!((host(&servers).as_str(), servers.holds_session()), ("b", false));
        for _ in 1..REFERENCES_MAX {
            assert!(servers.refer("c"));
        }
        assert!(!servers.refer("d"), "in circles perhaps");
        assert!(servers.handle_ended(false));
        assert_eq!(host(&servers), "a");
        assert!(servers.refer("b"));
    }
}
