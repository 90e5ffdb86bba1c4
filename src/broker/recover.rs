//! From what a start finds in the database to a broker that goes on. Takes what is sessions' and leaves what is
//! bridges'.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::time::Now;
use crate::broker::Broker;
use crate::broker::effect::Effects;
use crate::broker::router::Granted;
use crate::broker::session::Shape;
use crate::spool::inbound::Inbound;
use crate::store::record::{Recovered, RecoveredSpool, SessionRow, SpoolId};

impl Broker {
    /// Restores sessions, subscriptions, queues, retained messages and wills. Sessions that were connected when
    /// the process ended count as disconnected from now on. What is due by now happens in `handle_timeout`.
    pub fn recover(&mut self, recovered: &mut Recovered, now: Now, out: &mut Effects) {
        self.start(now);
        self.next_spool = self.next_spool.max(recovered.next_spool);
        for message in std::mem::take(&mut recovered.retained) {
            self.retained.recover(message);
        }
        let mut spools: BTreeMap<SpoolId, RecoveredSpool> =
            std::mem::take(&mut recovered.spools).into_iter().collect();
        for row in std::mem::take(&mut recovered.sessions) {
            let found = spools.remove(&row.spool).unwrap_or_default();
            self.recover_session(&row, found, now, out);
        }
        recovered.spools = spools.into_iter().collect();
        for (spool, filter, options, identifier) in std::mem::take(&mut recovered.subscriptions) {
            let Some(&key) = self.by_spool.get(&spool) else { continue };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let granted = Granted { options, identifier };
            session.subscriptions.insert(filter.clone(), granted);
            self.router.subscribe(key, &filter, granted);
        }
        for (spool, will) in std::mem::take(&mut recovered.wills) {
            let Some(session) = self.by_spool.get(&spool).and_then(|key| self.sessions.get_mut(*key)) else {
                continue;
            };
            session.will = Some(Arc::new(will));
        }
        self.recover_clocks(now);
    }

    fn recover_session(&mut self, row: &SessionRow, found: RecoveredSpool, now: Now, out: &mut Effects) {
        let durable = row.expiry_interval > 0;
        let shape = Shape { spool: row.spool, durable, recorded: true, expiry_secs: row.expiry_interval };
        let key = self.insert_session(row.client_id.clone(), shape);
        let fresh = self.new_spool(shape);
        let keeping = self.keeping(shape);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.inbound = Inbound::recover(row.spool, keeping, found.inbound.iter().copied());
        session.spool = fresh.recover(found);
        session.disconnected_at = row.disconnected_at.unwrap_or(now);
        if row.disconnected_at.is_none() {
            out.ledger.log.push(session.row(Some(now)));
        }
    }

    fn recover_clocks(&mut self, now: Now) {
        let keys: Vec<_> = self.by_spool.values().copied().collect();
        for key in keys {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let away = now.instant.since(session.disconnected_at.instant);
            session.start_clocks(now.instant, away);
            self.schedule_absence(key);
        }
    }
}
