//! How connections end: DISCONNECT, time-outs, violations, a lost socket, shutdown; and what becomes of their
//! sessions then.

use crate::base::ids::SlotKey;
use crate::base::time::{Duration, Now};
use crate::broker::connection::Link;
use crate::broker::deadlines::Due;
use crate::broker::effect::{ConnKey, Effects};
use crate::broker::refusal::NotAdmitted;
use crate::broker::violation::Fault;
use crate::broker::{Broker, CONNECT_WAIT, Visit};
use crate::mqtt::packet::control::Disconnect;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::reason::ReasonCode;

impl Broker {
    /// The socket is gone without DISCONNECT.
    pub fn handle_closed(&mut self, key: ConnKey, now: Now, out: &mut Effects) {
        self.drop_conn(key, &mut Visit { now, out });
    }

    /// The codec refused what came: the client is told as far as its version allows, and the connection ends.
    pub fn handle_malformed(&mut self, key: ConnKey, reason: ReasonCode, now: Now, out: &mut Effects) {
        let mut visit = Visit { now, out };
        let fresh = self.conns.get(key).is_some_and(|conn| conn.link.is_none());
        // Before CONNECT only a version that we do not speak is answered [MQTT-3.1.2-2] [MQTT-3.1.2-2 of 3.1.1], no
        // other error [MQTT-3.1.4-1] [MQTT-3.1.4-1 of 3.1.1].
        if fresh && reason == ReasonCode::UnsupportedProtocolVersion {
            return self.refuse_connect(key, NotAdmitted::Version, &mut visit);
        }
        // DISCONNECT cannot say that (3.14.2.1), and whatever it says, it is a second CONNECT [MQTT-3.1.0-2].
        let reason = match reason {
            ReasonCode::UnsupportedProtocolVersion => ReasonCode::ProtocolError,
            other => other,
        };
        self.count_violation(reason);
        // [MQTT-4.13.1-1]
        self.close_with(key, reason, &mut visit);
    }

    /// A clean end: every client is told and closed, everything that is only in memory is recorded, sessions
    /// stay. Wills are kept for the next start, which the standard allows (3.1.2.5).
    pub fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        let mut visit = Visit { now, out };
        let keys: Vec<ConnKey> = self.conns.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.tell_and_close(key, ReasonCode::ServerShuttingDown, &mut visit);
            self.remove_conn(key);
        }
        for (_, session) in self.sessions.iter_mut() {
            if session.attached.take().is_some() && session.recorded {
                visit.out.ledger.log.push(session.row(Some(now)));
            }
            session.spool.handle_away(&mut visit.out.ledger);
            session.spool.write_all(&mut visit.out.ledger);
            session.spool.write_inflight(&mut visit.out.ledger);
        }
        self.retained.write_soon(&mut visit.out.ledger.log);
        self.retained.write_late(&mut visit.out.ledger.log);
    }

    pub(super) fn apply_disconnect(
        &mut self,
        key: ConnKey,
        disconnect: &Disconnect,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let session_key = self.session_of(key);
        let limit = self.expiry_limit_secs();
        let Some(session) = session_key.and_then(|key| self.sessions.get_mut(key)) else { return Ok(()) };
        let asked = disconnect.properties.as_ref().and_then(|properties| properties.session_expiry_interval);
        if let Some(secs) = asked {
            if session.expiry_secs == 0 && secs > 0 {
                return Err(Fault::ExpiryRaisedFromZero);
            }
            session.expiry_secs = secs.min(limit);
        }
        // Any other reason leaves the will to be published [MQTT-3.1.2-10] [MQTT-3.14.4-3] [MQTT-3.1.2-10 of 3.1.1]
        // [MQTT-3.14.4-3 of 3.1.1].
        if disconnect.reason == ReasonCode::Success
            && let Some(session) = session_key
        {
            self.forget_will(session, visit);
        }
        visit.out.closes.push(key);
        self.drop_conn(key, visit);
        Ok(())
    }

    /// Tells a 5.0 client why, and closes [MQTT-4.13.2-1] [MQTT-4.8.0-1 of 3.1.1].
    pub(super) fn close_with(&mut self, key: ConnKey, reason: ReasonCode, visit: &mut Visit<'_>) {
        self.tell_and_close(key, reason, visit);
        self.drop_conn(key, visit);
    }

    pub(super) fn handle_connect_due(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        match self.conns.get(key) {
            Some(conn) if conn.login.is_some() => self.refuse_connect(key, NotAdmitted::TooManyLogins, visit),
            Some(conn) if conn.link.is_none() && self.reading_paused => {
                self.set_due(key, visit.now.instant + CONNECT_WAIT, Due::Connect(key));
            }
            Some(conn) if conn.link.is_none() => {
                self.note_refused(key, NotAdmitted::Silent, visit);
                self.close_with(key, NotAdmitted::Silent.reason(), visit);
            }
            Some(_) | None => {}
        }
    }

    /// [MQTT-3.1.2-22] [MQTT-3.1.2-24 of 3.1.1]
    pub(super) fn handle_keep_alive_due(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        let Some(conn) = self.conns.get(key) else { return };
        let Some(silence_max) = conn.link.as_ref().and_then(|link| link.silence_max) else { return };
        // Silence is what was read and heard nothing in.
        let unread = self.reading_paused || self.is_holding(key);
        let read_since = if unread { visit.now.instant } else { self.read_since };
        let at = conn.last_seen.max(read_since) + silence_max;
        if at > visit.now.instant {
            self.set_due(key, at, Due::KeepAlive(key));
            return;
        }
        self.stats.keep_alive_timeouts += 1;
        self.close_with(key, ReasonCode::KeepAliveTimeout, visit);
    }

    /// The client is to keep what does not fit, and forget what was taken before: so it is told of that first,
    /// or it would send all of it again, for ever. False: it is owed nothing.
    pub(super) fn part_later(&mut self, key: ConnKey) -> bool {
        let Some(link) = self.conns.link_mut(key) else { return false };
        link.parting = !link.owes_nothing();
        link.parting
    }

    fn tell_and_close(&mut self, key: ConnKey, reason: ReasonCode, visit: &mut Visit<'_>) {
        let Some(conn) = self.conns.get(key) else { return };
        // [MQTT-3.14.0-1]: never before CONNACK.
        if conn.link.as_ref().is_some_and(|link| link.up && link.version == Version::V5) {
            self.send(key, Packet::Disconnect(Disconnect::with_reason(reason)), visit.out);
        }
        // [MQTT-3.14.4-1] [MQTT-3.14.4-2]
        visit.out.closes.push(key);
    }

    /// The connection ends here, however that came; its session goes on or ends [MQTT-3.3.2-7].
    fn drop_conn(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        if let Some(link) = self.remove_conn(key) {
            self.detach(link.session, visit);
        }
    }

    pub(super) fn remove_conn(&mut self, key: ConnKey) -> Option<Link> {
        let conn = self.conns.remove(key)?;
        if let Some((at, due)) = conn.due {
            self.deadlines.remove(at, due);
        }
        if let Some((_, at)) = conn.until.as_deref().copied() {
            self.deadlines.remove(at, Due::Token(key));
        }
        let link = conn.link?;
        if let Some(at) = link.pace.as_ref().and_then(|pace| pace.due) {
            self.deadlines.remove(at, Due::Waiting(key));
        }
        if let Some(at) = link.throttle.as_ref().and_then(|throttle| throttle.due()) {
            self.deadlines.remove(at, Due::Throttle(key));
        }
        self.stats.connections = self.stats.connections.saturating_sub(1);
        Some(link)
    }

    /// [MQTT-4.1.0-1] [MQTT-4.1.0-1 of 3.1.1] [MQTT-4.1.0-2 of 3.1.1]
    fn detach(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        let now = visit.now;
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.attached = None;
        session.spool.handle_away(&mut visit.out.ledger);
        session.disconnected_at = now;
        session.start_clocks(now.instant, Duration::ZERO);
        // A session of a connection alone ends with it [MQTT-3.1.2-6 of 3.1.1].
        if session.expiry_secs == 0 {
            self.end_session(key, visit);
            return;
        }
        // Else it goes on, and gathers what comes for it [MQTT-3.1.2-23] [MQTT-3.1.2-5 of 3.1.1].
        visit.out.ledger.log.push(session.row(Some(now)));
        self.schedule_absence(key);
        self.handle_will_due(key, visit);
        self.settle(key, visit);
    }

    /// Sets the deadlines of a session without connection.
    pub(super) fn schedule_absence(&mut self, key: SlotKey) {
        let Some(session) = self.sessions.get(key) else { return };
        if let Some(at) = session.expires_at {
            self.deadlines.add(at, Due::Expiry(key));
        }
        if let Some(at) = session.will_at {
            self.deadlines.add(at, Due::Will(key));
        }
    }
}
