//! CONNECTs that name somebody: held until what checks names has answered, with the packets that come meanwhile.
//! Checks nothing itself.

use std::collections::VecDeque;

use crate::auth::{Identity, Refusal, Revoked};
use crate::base::time::{Duration, Now, Timestamp};
use crate::broker::connection::{Conn, Link};
use crate::broker::deadlines::Due;
use crate::broker::effect::{Authentication, ConnKey, Effects};
use crate::broker::refusal::NotAdmitted;
use crate::broker::violation::{Fault, Violation};
use crate::broker::{Broker, Visit};
use crate::config::model::Anonymous;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::connect::Connect;
use crate::mqtt::reason::ReasonCode;

/// The longest that an answer may take: beyond it the client is told that the server is busy.
pub const LOGIN_WAIT: Duration = Duration::from_secs(30);
/// Packets that a client may send behind its CONNECT before it has its answer (3.1.4). A hand reads no further once
/// a batch is here.
pub const WAITING_PACKETS_MAX: usize = 256;

/// A CONNECT that waits to be checked. Its password is on its way and not here.
#[derive(Debug)]
pub struct Login {
    connect: Box<Connect>,
    waiting: VecDeque<Packet>,
}

/// Who may come in from now on.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub anonymous: Anonymous,
    /// Whether there is something that names can be held against.
    pub logins: bool,
    pub revoked: &'a Revoked,
}

impl Broker {
    /// Whether the connection waits for an answer: until then nothing more is to be read from it.
    pub fn is_authenticating(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_some_and(|conn| conn.login.is_some())
    }

    /// What came of an [`Authentication`]. An error was answered already and has closed the connection.
    pub fn handle_authenticated(
        &mut self,
        key: ConnKey,
        result: Result<Identity, Refusal>,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), Violation> {
        let mut visit = Visit { now, out };
        // The client may have gone meanwhile.
        let Some(login) = self.conns.get_mut(key).and_then(|conn| conn.login.take()) else { return Ok(()) };
        match result {
            Ok(identity) => self.admit(key, &login.connect, Some(identity), &mut visit),
            // [MQTT-3.1.4-2]: which of both was wrong is not said.
            Err(Refusal::Wrong) => self.refuse_connect(key, NotAdmitted::WrongLogin, &mut visit),
            Err(Refusal::Busy) => self.refuse_connect(key, NotAdmitted::TooManyLogins, &mut visit),
        }
        // After a refusal nothing more is processed [MQTT-3.1.4-6] [MQTT-3.1.4-5 of 3.1.1].
        for packet in login.waiting {
            self.process(key, packet, &mut visit)?;
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, key: ConnKey, mut connect: Box<Connect>, visit: &mut Visit<'_>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        visit.out.authentications.push(Authentication {
            conn: key,
            address: conn.peer.address,
            username: connect.username.clone(),
            password: connect.password.take().unwrap_or_default(),
        });
        conn.login = Some(Box::new(Login { connect, waiting: VecDeque::new() }));
        self.set_due(key, visit.now.instant + LOGIN_WAIT, Due::Connect(key));
    }

    /// Keeps a packet until the answer is there.
    pub(super) fn keep_waiting(login: &mut Login, packet: Packet) -> Result<(), Fault> {
        if login.waiting.len() >= WAITING_PACKETS_MAX {
            return Err(Fault::TooMuchBeforeConnack);
        }
        login.waiting.push_back(packet);
        Ok(())
    }

    /// Others may come in from now on, and who was let in by what counts no more is shut out: 0x98, for an operator
    /// has done that. How many that were.
    pub fn handle_authentication(&mut self, change: &Change<'_>, now: Now, out: &mut Effects) -> u64 {
        self.settings.anonymous = change.anonymous;
        self.settings.logins = change.logins;
        let shut_out: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.link.as_ref().is_some_and(|link| self.is_shut_out(conn, link, change)))
            .map(|(key, _)| key)
            .collect();
        let mut visit = Visit { now, out };
        for key in &shut_out {
            self.close_with(*key, ReasonCode::AdministrativeAction, &mut visit);
        }
        self.stats.revoked += shut_out.len() as u64;
        shut_out.len() as u64
    }

    fn is_shut_out(&self, conn: &Conn, link: &Link, change: &Change<'_>) -> bool {
        let Some(proof) = conn.proof else { return !change.anonymous.lets_in(conn.peer.loopback) };
        let rights = self.sessions.get(link.session).and_then(|session| session.rights.as_ref());
        let user = rights.and_then(|rights| rights.user.as_deref());
        user.is_none_or(|user| change.revoked.covers(user, proof))
    }

    /// The connection ends when the client's token does.
    pub(super) fn plan_end(&mut self, key: ConnKey, until: Timestamp, now: Now) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let at = now.instant + until.since(now.wall);
        conn.until = Some(Box::new((until, at)));
        self.deadlines.add(at, Due::Token(key));
    }

    pub(super) fn handle_token_due(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        let Some(planned) = self.conns.get_mut(key).and_then(|conn| conn.until.take()) else { return };
        let (until, _) = *planned;
        // The wall clock may have been set back.
        if visit.now.wall < until {
            self.plan_end(key, until, visit.now);
            return;
        }
        self.close_with(key, ReasonCode::MaximumConnectTime, visit);
    }
}
