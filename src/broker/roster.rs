//! Who is connected, a page at a time. Copies out; changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use crate::base::address::Address;
use crate::base::time::Timestamp;
use crate::broker::Broker;
use crate::mqtt::packet::Version;

/// A connected client and what waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientStatus {
    pub client_id: Arc<str>,
    /// None: it is nobody in particular.
    pub user: Option<Arc<str>>,
    pub address: Address,
    pub version: Version,
    pub connected_at: Timestamp,
    /// Whether its session outlives the connection.
    pub durable: bool,
    pub subscriptions: u64,
    /// Waiting for it and on their way to it.
    pub queued_messages: u64,
    pub queued_bytes: u64,
}

impl Broker {
    /// By name, those behind `after` (None: from the start): `sessions_max` are looked at, connected or not. The name to
    /// go on behind; None at the end.
    pub fn clients(
        &self,
        after: Option<&str>,
        sessions_max: usize,
        to: &mut Vec<ClientStatus>,
    ) -> Option<Arc<str>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked_at = 0;
        let mut last = None;
        for (client_id, key) in self.by_client.range::<str, _>((from, Bound::Unbounded)).take(sessions_max) {
            looked_at += 1;
            last = Some(client_id);
            let Some(session) = self.sessions.get(*key) else { continue };
            let Some(conn) = session.attached.and_then(|attached| self.conns.get(attached.conn)) else {
                continue;
            };
            let Some(link) = &conn.link else { continue };
            to.push(ClientStatus {
                client_id: client_id.clone(),
                user: session.rights.as_ref().and_then(|rights| rights.user.clone()),
                address: Address(conn.peer.address),
                version: link.version,
                connected_at: link.connected_at,
                durable: session.durable,
                subscriptions: session.subscriptions.len() as u64,
                queued_messages: session.spool.messages(),
                queued_bytes: session.spool.bytes(),
            });
        }
        last.filter(|_| looked_at == sessions_max).cloned()
    }
}
