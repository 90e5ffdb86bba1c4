//! CONNECT: who may come in, on what terms, and which session that is. Ends with CONNACK.

use std::sync::Arc;

use crate::auth::Identity;
use crate::base::ids::SlotKey;
use crate::base::time::Duration;
use crate::broker::access::Rights;
use crate::broker::barrier::Owner;
use crate::broker::connection::{Link, RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM};
use crate::broker::deadlines::Due;
use crate::broker::effect::ConnKey;
use crate::broker::session::{Attached, Shape};
use crate::broker::{Broker, Peer, Visit};
use crate::config::model::Anonymous;
use crate::mqtt::frame::encoded_size;
use crate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, Will};
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::reason::ReasonCode;

/// A CONNACK that says nothing but its reason, in 5.0.
const CONNACK_BYTES_MIN: u32 = 5;

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
    /// What the client is told of them.
    announced: ConnackProperties,
}

/// On what terms a client is served.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// None: its silence is never too long.
    keep_alive_secs: Option<u16>,
    /// What is announced where it is not what the client asked for.
    server_keep_alive: Option<u16>,
    expiry_secs: u32,
    window: usize,
    packet_bytes_max: usize,
}

impl Broker {
    pub(super) fn apply_connect(&mut self, key: ConnKey, connect: Box<Connect>, visit: &mut Visit<'_>) {
        // [MQTT-3.1.2-24]: it cannot be told anything.
        if connect.properties.maximum_packet_size.is_some_and(|max| max < CONNACK_BYTES_MIN) {
            self.stats.refused += 1;
            self.close_with(key, ReasonCode::PacketTooLarge, visit);
            return;
        }
        match self.judge(key, &connect) {
            // [MQTT-3.1.4-2]
            Err(reason) => self.refuse_connect(key, reason, visit),
            Ok(Entry::Open) => {
                let user = self.conns.get(key).and_then(|conn| conn.peer.certificate_user.clone());
                self.admit(key, &connect, user.map(|user| Identity { user, until: None }), visit);
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
        if let Err(reason) = self.check_room(connect) {
            return self.refuse_connect(key, reason, visit);
        }
        let assigned = connect.client_id.is_empty().then(|| self.new_client_id());
        let client_id = assigned.clone().unwrap_or_else(|| connect.client_id.clone());
        let (user, until) = identity.map_or((None, None), |identity| (Some(identity.user), identity.until));
        let rights = Rights::of(self.settings.access.as_deref(), &client_id, user);
        // A will that may not be published is refused while the client is there to hear it.
        if connect.will.as_ref().is_some_and(|will| !rights.may_publish(&will.topic)) {
            return self.refuse_connect(key, ReasonCode::NotAuthorized, visit);
        }
        let terms = self.terms(connect);
        let announced = self.announce(connect, terms, assigned);
        // [MQTT-3.1.2-24]
        if connack_size(&announced, connect.version) > terms.packet_bytes_max {
            return self.refuse_connect(key, ReasonCode::PacketTooLarge, visit);
        }
        // [MQTT-3.1.4-3] [MQTT-3.1.4-4]: only now are sessions touched.
        self.accept_connect(key, connect, Accepted { client_id, rights, terms, announced }, visit);
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
            // What was in flight goes first, with its identifiers [MQTT-4.4.0-1] [MQTT-4.6.0-1].
            session.spool.handle_here(attached.window, &mut visit.out.ledger);
            self.settle(session_key, visit);
        }
    }

    pub(super) fn expiry_limit_secs(&self) -> u32 {
        u32::try_from(self.settings.limits.session_expiry.as_secs()).unwrap_or(u32::MAX)
    }

    fn judge(&self, key: ConnKey, connect: &Connect) -> Result<Entry, ReasonCode> {
        // [MQTT-4.12.0-1] [MQTT-4.12.0-4]
        if connect.properties.authentication_method.is_some() {
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        let nobody = Peer::default();
        let peer = self.conns.get(key).map_or(&nobody, |conn| &conn.peer);
        let certified = peer.certificate_user.is_some();
        let open = certified
            || match self.settings.anonymous {
                Anonymous::Never => false,
                Anonymous::Loopback => peer.loopback,
                Anonymous::Always => true,
            };
        // A name is always held against what names are held against, unless a certificate has said who it is. Without
        // such a thing no user is known: where everybody may come in, a name changes nothing then.
        let named = connect.username.is_some() || connect.password.is_some();
        let by_name = named && self.settings.logins && !certified;
        if !by_name && !open && connect.username.is_some() {
            return Err(ReasonCode::BadUserNameOrPassword);
        }
        if !by_name && !open {
            return Err(ReasonCode::NotAuthorized);
        }
        // Any other is accepted [MQTT-3.1.3-5].
        if connect.client_id.is_empty() && !may_be_nameless(connect) {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        self.check_room(connect)?;
        Ok(if by_name { Entry::ByName } else { Entry::Open })
    }

    fn check_room(&self, connect: &Connect) -> Result<(), ReasonCode> {
        let replaces = self
            .by_client
            .get(&connect.client_id)
            .and_then(|key| self.sessions.get(*key))
            .is_some_and(|session| session.attached.is_some());
        if !replaces && self.stats.connections >= u64::from(self.settings.limits.connections) {
            return Err(ReasonCode::ServerBusy);
        }
        Ok(())
    }

    pub(super) fn refuse_connect(&mut self, key: ConnKey, reason: ReasonCode, visit: &mut Visit<'_>) {
        self.stats.refused += 1;
        // [MQTT-3.2.2-4] [MQTT-3.2.2-6]
        let connack = Connack { session_present: false, reason, properties: ConnackProperties::default() };
        self.send(key, Packet::Connack(Box::new(connack)), visit.out);
        // [MQTT-3.2.2-5] [MQTT-3.2.2-7]
        visit.out.closes.push(key);
        self.remove_conn(key);
    }

    fn accept_connect(&mut self, key: ConnKey, connect: &Connect, accepted: Accepted, visit: &mut Visit<'_>) {
        let Accepted { client_id, rights, terms, announced } = accepted;
        let resumed = self.find_session(&client_id, connect.clean_start, visit);
        let ended = self.ended.get(&client_id).copied().filter(|_| resumed.is_none());
        let session_key = match resumed {
            Some(session) => session,
            None => self.open_session(client_id, connect, terms),
        };
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.rights = Some(rights);
        }
        self.link(key, session_key, (connect, terms), visit);
        // [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
        let session_present = resumed.is_some();
        let connack = Connack { session_present, reason: ReasonCode::Success, properties: announced };
        let mut ticket = self.barrier.ticket();
        if let Some(lsn) = ended {
            self.barrier.wait_for(&mut ticket, lsn);
        }
        let done = self.barrier.seal(&ticket, Owner::Conn(key));
        if let Some(link) = self.conns.get_mut(key).and_then(|conn| conn.link.as_mut()) {
            // [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2]
            link.owe(ticket.id(), Packet::Connack(Box::new(connack)), done);
        }
        self.release_owed(key, visit.out);
        self.attach_opened(visit);
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
            // [MQTT-3.1.4-2] [MQTT-3.1.4-3]: the older connection ends, and its will is due as ever.
            self.close_with(attached.conn, ReasonCode::SessionTakenOver, visit);
        }
        self.expire_session(found, visit);
        self.sessions.get(found)?;
        if clean_start {
            // [MQTT-3.1.2-4] [MQTT-3.1.2-6]
            self.end_session(found, visit);
            return None;
        }
        // [MQTT-3.1.2-5]
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
            packet_bytes_max: terms.packet_bytes_max,
        });
        if session.recorded {
            visit.out.ledger.log.push(session.row(None));
        }
        if let Some(will) = &connect.will {
            self.keep_will(session_key, Arc::new(Will::clone(will)), visit);
        }
        // [MQTT-3.1.2-21] [MQTT-3.2.2-22]
        let silence_max = terms.keep_alive_secs.map(|secs| Duration::from_secs(u64::from(secs)) * 3 / 2);
        if let Some(silence_max) = silence_max {
            self.set_due(key, visit.now.instant + silence_max, Due::KeepAlive(key));
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.link = Some(Link::new(connect.version, session_key, silence_max));
            self.stats.connections += 1;
            self.stats.connections_accepted += 1;
            self.stats.connections_max = self.stats.connections_max.max(self.stats.connections);
        }
    }

    fn terms(&self, connect: &Connect) -> Terms {
        let limits = &self.settings.limits;
        let limit = u16::try_from(limits.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let asked = connect.keep_alive;
        let properties = &connect.properties;
        let inflight = usize::from(limits.inflight);
        match connect.version {
            // They cannot be told another keep alive, so theirs counts; 0 turns it off (3.1.2.10).
            Version::V3_1 | Version::V3_1_1 => Terms {
                keep_alive_secs: (asked > 0).then_some(asked),
                server_keep_alive: None,
                expiry_secs: if connect.clean_start { 0 } else { self.expiry_limit_secs() },
                window: inflight,
                packet_bytes_max: usize::MAX,
            },
            Version::V5 => {
                let granted = if asked == 0 { limit } else { asked.min(limit) };
                Terms {
                    keep_alive_secs: Some(granted),
                    server_keep_alive: (granted != asked).then_some(granted),
                    expiry_secs: properties
                        .session_expiry_interval
                        .map_or(0, |secs| secs.min(self.expiry_limit_secs())),
                    // [MQTT-4.9.0-1]
                    window: properties.receive_maximum.map_or(inflight, |max| inflight.min(usize::from(max))),
                    packet_bytes_max: properties
                        .maximum_packet_size
                        .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX)),
                }
            }
        }
    }

    /// 3.2.2.3: only what is not the default: QoS 2, retained messages and all kinds of subscriptions are there
    /// [MQTT-3.2.2-9] [MQTT-3.2.2-12] [MQTT-3.2.2-13]. No Response Information, ever [MQTT-3.1.2-28]; no authentication
    /// method, for none was agreed on [MQTT-4.12.0-6]. No Reason String and no User Property here nor in any other
    /// packet of ours, so that none grows too large by them [MQTT-3.1.2-29] [MQTT-3.2.2-19] [MQTT-3.2.2-20].
    fn announce(&self, connect: &Connect, terms: Terms, assigned: Option<Arc<str>>) -> ConnackProperties {
        if connect.version != Version::V5 {
            return ConnackProperties::default();
        }
        let asked_expiry = connect.properties.session_expiry_interval.unwrap_or(0);
        ConnackProperties {
            session_expiry_interval: (terms.expiry_secs != asked_expiry).then_some(terms.expiry_secs),
            receive_maximum: Some(RECEIVE_MAXIMUM),
            maximum_packet_size: Some(self.settings.limits.packet_bytes),
            // [MQTT-3.1.3-7] [MQTT-3.2.2-16]
            assigned_client_id: assigned,
            topic_alias_maximum: Some(TOPIC_ALIAS_MAXIMUM),
            server_keep_alive: terms.server_keep_alive,
            ..ConnackProperties::default()
        }
    }

    /// [MQTT-3.1.3-6] [MQTT-3.2.2-16]
    fn new_client_id(&mut self) -> Arc<str> {
        loop {
            let id: Arc<str> = format!("auto-{:016x}", self.random.u64(..)).into();
            if !self.by_client.contains_key(&id) {
                return id;
            }
        }
    }
}

fn connack_size(announced: &ConnackProperties, version: Version) -> usize {
    let properties = announced.clone();
    let connack = Connack { session_present: false, reason: ReasonCode::Success, properties };
    encoded_size(&Packet::Connack(Box::new(connack)), version)
}

/// MQTT 5 always; 3.1.1 without a session to keep [MQTT-3.1.3-7] [MQTT-3.1.3-8]; 3.1 never.
fn may_be_nameless(connect: &Connect) -> bool {
    match connect.version {
        Version::V5 => true,
        Version::V3_1_1 => connect.clean_start,
        Version::V3_1 => false,
    }
}
