//! CONNECT: who may come in, on what terms, and which session that is. Ends with CONNACK.

use std::sync::Arc;

use crate::auth::{Identity, Proof};
use crate::base::address::Address;
use crate::base::ids::SlotKey;
use crate::broker::access::Rights;
use crate::broker::barrier::Owner;
use crate::broker::connection::Link;
use crate::broker::deadlines::Due;
use crate::broker::effect::ConnKey;
use crate::broker::refusal::NotAdmitted;
use crate::broker::session::{Attached, Shape};
use crate::broker::terms::{Marking, Terms, fits, packet_bytes_max};
use crate::broker::throttle::Throttle;
use crate::broker::{Broker, Peer, Visit};
use crate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, Role, Will};
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::reason::ReasonCode;
use crate::store::record::Lsn;

/// A 5.0 CONNACK without properties: what a refusal takes of a client's maximum packet size [MQTT-3.1.2-24].
const REFUSAL_BYTES: usize = 5;

/// How somebody comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Without a name that has to be checked.
    Open,
    /// Once the name was checked.
    ByName,
}

/// Who comes in.
#[derive(Debug)]
struct Accepted {
    client_id: Arc<str>,
    rights: Rights,
    terms: Terms,
    /// Of its CONNACK.
    properties: ConnackProperties,
}

impl Broker {
    pub(super) fn apply_connect(&mut self, key: ConnKey, connect: Box<Connect>, visit: &mut Visit<'_>) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.packet_bytes_max = packet_bytes_max(&connect);
        }
        match self.judge(key, &connect) {
            // [MQTT-3.1.4-2]
            Err(why) => self.refuse_connect(key, why, visit),
            Ok(Entry::Open) => {
                let user = self.conns.get(key).and_then(|conn| conn.peer.certificate_user.clone());
                self.admit(
                    key,
                    &connect,
                    user.map(|user| Identity { user, proof: Proof::Certificate, until: None }),
                    visit,
                );
            }
            Ok(Entry::ByName) => self.ask(key, connect, visit),
        }
    }

    /// Who the client is stands fixed; None: nobody known. What is left is whether there is room, and what it may do.
    pub(super) fn admit(
        &mut self,
        key: ConnKey,
        connect: &Connect,
        identity: Option<Identity>,
        visit: &mut Visit<'_>,
    ) {
        if let Err(why) = self.check_room(connect) {
            return self.refuse_connect(key, why, visit);
        }
        let assigned = connect.client_id.is_empty().then(|| self.new_client_id());
        let client_id = assigned.clone().unwrap_or_else(|| connect.client_id.clone());
        let proof = identity.as_ref().map(|identity| identity.proof);
        let (user, until) = identity.map_or((None, None), |identity| (Some(identity.user), identity.until));
        let rights = Rights::of(self.settings.access.as_deref(), &client_id, user);
        // A will that may not be published is refused while the client is there to hear it.
        if connect.will.as_ref().is_some_and(|will| !rights.may_publish(&will.topic)) {
            return self.refuse_connect(key, NotAdmitted::WillNotAllowed, visit);
        }
        let terms = self.terms(connect);
        let properties = self.announce(connect, terms, assigned);
        if !fits(connect, &properties) {
            return self.refuse_connect(key, NotAdmitted::PacketSize, visit);
        }
        // [MQTT-3.1.4-4] [MQTT-3.1.4-3 of 3.1.1]: only now are sessions touched.
        self.accept_connect(key, connect, Accepted { client_id, rights, terms, properties }, visit);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.proof = proof;
        }
        if let Some(until) = until {
            self.plan_end(key, until, visit.now);
        }
    }

    /// Connections whose CONNACK has left begin to get their messages.
    pub(super) fn attach_opened(&mut self, visit: &mut Visit<'_>) {
        for key in std::mem::take(&mut self.opened) {
            let Some(session_key) = self.session_of(key) else { continue };
            let Some(session) = self.sessions.get_mut(session_key) else { continue };
            let Some(attached) = session.attached.as_mut().filter(|attached| attached.conn == key) else {
                continue;
            };
            attached.up = true;
            // What was in flight goes first, with its identifiers [MQTT-4.4.0-1] [MQTT-4.4.0-1 of 3.1.1]
            // [MQTT-4.6.0-1 of 3.1.1].
            session.spool.handle_here(attached.window, &mut visit.out.ledger);
            self.settle(session_key, visit);
        }
    }

    /// What the client of a connection takes; None where it has no session.
    pub fn attached(&self, key: ConnKey) -> Option<Attached> {
        self.sessions.get(self.session_of(key)?)?.attached
    }

    fn judge(&self, key: ConnKey, connect: &Connect) -> Result<Entry, NotAdmitted> {
        // No method is offered [MQTT-4.12.0-1] [MQTT-4.12.0-4].
        // Does not apply: [MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5], no login goes on by AUTH.
        if connect.properties.authentication_method.is_some() {
            return Err(NotAdmitted::AuthenticationMethod);
        }
        let nobody = Peer::default();
        let peer = self.conns.get(key).map_or(&nobody, |conn| &conn.peer);
        let certified = peer.certificate_user.is_some();
        let open = certified || self.settings.anonymous.lets_in(peer.loopback);
        // A name is always held against what names are held against, unless a certificate has said who it is. Without
        // such a thing no user is known: where everybody may come in, a name changes nothing then.
        let named = connect.username.is_some() || connect.password.is_some();
        let by_name = named && self.settings.logins && !certified;
        if !by_name && !open && connect.username.is_some() {
            return Err(NotAdmitted::WrongLogin);
        }
        if !by_name && !open {
            return Err(NotAdmitted::Nameless);
        }
        // [MQTT-3.2.2-13]; 3.x clients are not told, and their wills are sent without being retained.
        let retained = connect.will.as_ref().is_some_and(|will| will.retain);
        if retained && !self.retains() && connect.version == Version::V5 {
            return Err(NotAdmitted::RetainedWill);
        }
        // [MQTT-3.1.3-9 of 3.1.1]; any other is accepted [MQTT-3.1.3-5] [MQTT-3.1.3-5 of 3.1.1].
        // Does not apply: [MQTT-3.1.3-8], no identifier of a 5.0 client is refused.
        if connect.client_id.is_empty() && !may_be_nameless(connect) {
            return Err(NotAdmitted::NoClientId);
        }
        self.check_room(connect)?;
        Ok(if by_name { Entry::ByName } else { Entry::Open })
    }

    fn check_room(&self, connect: &Connect) -> Result<(), NotAdmitted> {
        let replaces = self
            .by_client
            .get(&connect.client_id)
            .and_then(|key| self.sessions.get(*key))
            .is_some_and(|session| session.attached.is_some());
        if !replaces && self.stats.connections >= u64::from(self.settings.limits.connections) {
            return Err(NotAdmitted::TooManyConnections);
        }
        Ok(())
    }

    pub(super) fn refuse_connect(&mut self, key: ConnKey, why: NotAdmitted, visit: &mut Visit<'_>) {
        self.note_refused(key, why, visit);
        // [MQTT-3.2.2-6] [MQTT-3.2.2-4 of 3.1.1]
        let properties = ConnackProperties::default();
        let connack = Connack { session_present: false, reason: why.reason(), properties };
        let most = self.conns.get(key).map_or(0, |conn| conn.packet_bytes_max);
        if most >= REFUSAL_BYTES {
            self.send(key, Packet::Connack(Box::new(connack)), visit.out);
        }
        // [MQTT-3.2.2-7] [MQTT-4.13.2-1] [MQTT-3.2.2-5 of 3.1.1]
        visit.out.closes.push(key);
        self.remove_conn(key);
    }

    pub(super) fn note_refused(&mut self, key: ConnKey, why: NotAdmitted, visit: &mut Visit<'_>) {
        self.stats.refused.count(why);
        let address = self.conns.get(key).map_or_else(Address::default, |conn| Address(conn.peer.address));
        visit.out.refused.push((address, why));
    }

    fn accept_connect(&mut self, key: ConnKey, connect: &Connect, accepted: Accepted, visit: &mut Visit<'_>) {
        let Accepted { client_id, rights, terms, properties } = accepted;
        let resumed = self.find_session(&client_id, connect.clean_start, visit);
        let ended = self.ended.get(&client_id).copied().filter(|_| resumed.is_none());
        let session_key = match resumed {
            Some(session) => session,
            // [MQTT-3.1.2-6] [MQTT-3.1.2-4 of 3.1.1]
            None => self.open_session(client_id, connect, terms),
        };
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.rights = Some(rights);
        }
        self.link(key, session_key, (connect, terms), visit);
        // [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-3.2.2-1, -2, -3 of 3.1.1]
        let session_present = resumed.is_some();
        let connack = Connack { session_present, reason: ReasonCode::Success, properties };
        let mut ticket = self.barrier.ticket();
        let vouches = session_present || connect.will.is_some();
        if let Some(lsn) = self.kept_after(session_key, visit).filter(|_| vouches).or(ended) {
            self.barrier.wait_for(&mut ticket, lsn);
        }
        let done = self.barrier.seal(&ticket, Owner::Conn(key));
        if let Some(link) = self.conns.link_mut(key) {
            // [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT-3.1.4-4 of 3.1.1] [MQTT-3.2.0-1 of 3.1.1]
            link.owe(ticket.id(), Packet::Connack(Box::new(connack)), done);
        }
        self.release_owed(key, visit);
        self.attach_opened(visit);
    }

    /// The record that CONNACK vouches for where it says that a session is there, or takes a will: without it a crash
    /// could end the session as if the client had stayed away, or forget the will [MQTT-3.1.2-7]. None: there is
    /// nothing of it on disk, or the disk refuses: then a session that may be lost is better than none.
    fn kept_after(&self, key: SlotKey, visit: &Visit<'_>) -> Option<Lsn> {
        let recorded = self.sessions.get(key).is_some_and(|session| session.recorded);
        (recorded && self.outage.is_none()).then(|| visit.out.ledger.log.last())
    }

    /// The session that the client goes on with.
    fn find_session(
        &mut self,
        client_id: &Arc<str>,
        clean_start: bool,
        visit: &mut Visit<'_>,
    ) -> Option<SlotKey> {
        let &found = self.by_client.get(client_id)?;
        let old = self.sessions.get(found).and_then(|session| session.attached);
        if let Some(attached) = old {
            // [MQTT-3.1.4-3] [MQTT-3.1.4-2 of 3.1.1]: the older connection ends, and its will is due as ever.
            self.close_with(attached.conn, ReasonCode::SessionTakenOver, visit);
        }
        self.expire_session(found, visit);
        self.sessions.get(found)?;
        if clean_start {
            // [MQTT-3.1.2-4] [MQTT-3.1.2-6 of 3.1.1]
            self.end_session(found, visit);
            return None;
        }
        // [MQTT-3.1.2-5] [MQTT-3.1.2-4 of 3.1.1]
        Some(found)
    }

    fn open_session(&mut self, client_id: Arc<str>, connect: &Connect, terms: Terms) -> SlotKey {
        let durable = terms.expiry_secs > 0;
        // A will outlives a crash of ours even where its session does not.
        let recorded = durable || connect.will.is_some();
        let spool = if recorded { self.next_spool_id() } else { super::session::UNRECORDED };
        self.insert_session(client_id, Shape { spool, durable, recorded, expiry_secs: terms.expiry_secs })
    }

    /// Joins connection and session.
    fn link(
        &mut self,
        key: ConnKey,
        session_key: SlotKey,
        (connect, terms): (&Connect, Terms),
        visit: &mut Visit<'_>,
    ) {
        // One that is due since before a start comes first, whoever is faster.
        self.handle_will_due(session_key, visit);
        // [MQTT-3.1.3-9]: back before the delay was over.
        self.forget_will(session_key, visit);
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        session.expiry_secs = terms.expiry_secs;
        if let Some(at) = session.expires_at.take() {
            self.deadlines.remove(at, Due::Expiry(session_key));
        }
        session.attached = Some(Attached {
            conn: key,
            up: false,
            window: terms.window,
            packet_bytes_max: packet_bytes_max(connect),
            topic_alias_max: connect.properties.topic_alias_maximum.unwrap_or(0),
            role: connect.role,
            marking: Marking::of(connect),
        });
        if session.recorded {
            visit.out.ledger.log.push(session.row(None));
        }
        if connect.role != Role::Client {
            self.serve_as_bridge(session_key, visit);
        }
        // [MQTT-3.1.2-7]; without one nothing is published [MQTT-3.1.2-12 of 3.1.1].
        if let Some(will) = &connect.will {
            self.keep_will(session_key, Arc::new(Will::clone(will)), visit);
        }
        let silence_max = terms.silence_max();
        if let Some(silence_max) = silence_max {
            self.set_due(key, visit.now.instant + silence_max, Due::KeepAlive(key));
        }
        if let Some(conn) = self.conns.get_mut(key) {
            let throttle = self.settings.limits.publish_rate.map(|rate| Box::new(Throttle::new(rate)));
            let mut link = Link::new(connect.version, session_key, silence_max, visit.now);
            link.throttle = throttle;
            conn.link = Some(link);
            self.stats.connections += 1;
            self.stats.connections_accepted += 1;
            self.stats.connections_max = self.stats.connections_max.max(self.stats.connections);
        }
    }

    /// [MQTT-3.1.3-6] [MQTT-3.2.2-16] [MQTT-3.1.3-6 of 3.1.1]
    fn new_client_id(&mut self) -> Arc<str> {
        loop {
            let id: Arc<str> = format!("auto-{:016x}", self.random.u64(..)).into();
            if !self.by_client.contains_key(&id) {
                return id;
            }
        }
    }
}

/// MQTT 5 always; 3.1.1 without a session to keep [MQTT-3.1.3-7, -8 of 3.1.1]; 3.1 never.
fn may_be_nameless(connect: &Connect) -> bool {
    match connect.version {
        Version::V5 => true,
        Version::V3_1_1 => connect.clean_start,
        Version::V3_1 => false,
    }
}
