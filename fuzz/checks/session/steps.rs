//! What each step does to the world, and the healing at the end: all faults over, everybody comes back, and
//! everything that was acknowledged is there.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use tidegate::auth::Refusal;
use tidegate::base::time::{Duration, Timestamp};
use tidegate::broker::effect::Token;
use tidegate::mqtt::frame::encode;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;

use super::packets;
use super::seat::Due;
use super::step::{Op, SEATS, Step};
use super::world::{COMMIT, World};

/// Packets that one client answers at once.
const ANSWERS_MAX: usize = 1000;

impl World {
    pub fn apply(&mut self, step: &Step) {
        let Step { op, who, args } = *step;
        match op {
            Op::Connect => self.connect(who, args),
            Op::Answer => self.answer(who, args),
            Op::AnswerAll => self.answer_all(who),
            Op::Mutate => {
                if let Some(seat) = &mut self.seats[who] {
                    seat.mutation = Some(args);
                }
            }
            Op::Raw => self.feed(who, &args[1..=usize::from(args[0] % 5) + 1]),
            Op::Cut => self.cut(who),
            Op::Time => self.advance(span(args)),
            Op::Commit => {
                self.commit();
                self.finish();
            }
            Op::CommitAll => self.commit_all(),
            Op::Crash => self.crash(),
            Op::Restart => {
                self.broker.handle_shutdown(self.now, &mut self.out);
                self.finish();
                self.commit_all();
                assert!(self.seats.iter().all(Option::is_none), "a clean end closes all connections");
                self.crash();
            }
            Op::Safe => self.make_safe(),
            Op::Gate => self.set_gate(args),
            Op::Own => self.publish_own(args),
            Op::Access => self.set_access(args[0]),
            Op::Reading => match &self.seats[who] {
                Some(seat) if args[0] > 127 => self.broker.handle_progress(seat.key, self.now),
                _ => self.broker.handle_reading(args[0] & 1 == 1, self.now),
            },
            Op::Login => self.answer_first_login(args),
            Op::Publish
            | Op::Subscribe
            | Op::Unsubscribe
            | Op::Acknowledge
            | Op::Resend
            | Op::Ping
            | Op::Disconnect => {
                self.say(op, who, args);
            }
        }
    }

    fn connect(&mut self, who: usize, args: [u8; 6]) {
        self.cut(who);
        self.open(who);
        self.number += 1;
        let mut connect = packets::connect(args, who, self.number);
        if !self.plan.logins && self.plan.loopback {
            connect.username = None;
        }
        self.send(who, &Packet::Connect(Box::new(connect)));
    }

    /// What a client says once it is connected, or before.
    fn say(&mut self, op: Op, who: usize, args: [u8; 6]) {
        let Some(seat) = &self.seats[who] else { return };
        let version = seat.version;
        let id = PacketId::new(u16::from(args[3]) + 1).expect("above zero");
        let packet = match op {
            Op::Publish => {
                self.number += 1;
                let publish = packets::publish(args, version, id, self.number);
                if let Some(name) = seat.name.as_ref().filter(|_| publish.packet_id.is_some()) {
                    self.reference.person(name).unanswered.push(publish.clone());
                }
                Packet::Publish(publish)
            }
            Op::Resend => {
                let Some(name) = &seat.name else { return };
                let unanswered = &self.reference.person(name).unanswered;
                let Some(at) = usize::from(args[0]).checked_rem(unanswered.len()) else { return };
                Packet::Publish(tidegate::mqtt::packet::publish::Publish {
                    dup: true,
                    ..unanswered[at].clone()
                })
            }
            Op::Subscribe => Packet::Subscribe(packets::subscribe(args, version, id)),
            Op::Unsubscribe => Packet::Unsubscribe(packets::unsubscribe(args, id)),
            Op::Acknowledge => packets::acknowledgement(args, version),
            Op::Disconnect => Packet::Disconnect(packets::disconnect(args, version)),
            _ => Packet::Pingreq,
        };
        self.send(who, &packet);
    }

    /// Well-formed, unless the client was told to change something.
    fn send(&mut self, who: usize, packet: &Packet) {
        let Some(seat) = &mut self.seats[who] else { return };
        let mut bytes = BytesMut::new();
        // Not everything has a form in a version: an alias without a topic, say.
        if encode(packet, seat.version, &mut bytes).is_err() {
            return;
        }
        let mut bytes = bytes.to_vec();
        if let Some(mutation) = seat.mutation.take() {
            mutate(&mut bytes, mutation);
        }
        self.feed(who, &bytes);
    }

    /// One answer that is due, and not always the first; with a reason where the version has one.
    fn answer(&mut self, who: usize, [at, refused, ..]: [u8; 6]) {
        let Some(seat) = &mut self.seats[who] else { return };
        let releases = seat.name.as_ref().map(|name| &mut self.reference.person(name).to_release);
        if let Some(id) = releases.and_then(Vec::pop) {
            return self.send(who, &Packet::Pubrel(Ack::success(id)));
        }
        let Some(at) = usize::from(at).checked_rem(seat.due.len()) else { return };
        let Some(due) = seat.due.remove(at) else { return };
        let refused = refused > 200 && seat.version == Version::V5;
        let reason = if refused { ReasonCode::ImplementationSpecificError } else { ReasonCode::Success };
        self.send(who, &answer_to(due, reason));
    }

    /// As a client does that is well-behaved and quick.
    fn answer_all(&mut self, who: usize) {
        for _ in 0..ANSWERS_MAX {
            let Some(seat) = &mut self.seats[who] else { return };
            if let Some(due) = seat.due.pop_front() {
                self.send(who, &answer_to(due, ReasonCode::Success));
                continue;
            }
            let releases = seat.name.as_ref().map(|name| &mut self.reference.person(name).to_release);
            let Some(id) = releases.and_then(Vec::pop) else { return };
            self.send(who, &Packet::Pubrel(Ack::success(id)));
        }
    }

    fn make_safe(&mut self) {
        if let Some(hold) = self.holds.pop_front() {
            self.broker.handle_released(hold, self.now, &mut self.out);
            self.finish();
        }
    }

    fn set_gate(&mut self, [rule, room, ..]: [u8; 6]) {
        if self.plan.gates {
            let room = (room < 250).then(|| u64::from(room));
            self.broker.handle_gate(0, u16::from(rule & 1), room);
        }
    }

    fn publish_own(&mut self, [flags, choice, size, origin, ..]: [u8; 6]) {
        self.number += 1;
        let topic = packets::topic(choice);
        let origin = match origin & 3 {
            0 => Origin::Bridge(0),
            1 => Origin::Bridge(1),
            2 => Origin::Device(0),
            _ => Origin::Gateway,
        };
        // A few of the largest are more than a session's queue keeps in memory.
        let bytes = if size < 200 { usize::from(size) } else { (usize::from(size) - 199) * 4096 };
        let payload = packets::payload(self.number, bytes);
        let qos = packets::qos(flags);
        let mut message = Message::new(topic.clone(), payload.clone(), qos, origin, self.now);
        message.retain = flags >> 2 & 1 == 1;
        self.reference.note_sent(Some(&topic), &payload);
        let waits = qos != QoS::AtMostOnce;
        let heirs = if waits { self.reference.heirs(&topic, None) } else { Vec::new() };
        let token = u64::from(self.number);
        self.tokens.insert(token, (payload, heirs));
        let urgent = qos == QoS::ExactlyOnce;
        let (now, out) = (self.now, &mut self.out);
        let result = self.broker.handle_publish(Arc::new(message), Some(Token(token)), urgent, now, out);
        if result.is_err() {
            assert!(self.plan.gates, "refused without a bound");
            self.tokens.remove(&token);
        }
        self.finish();
    }

    fn set_access(&mut self, choice: u8) {
        if self.settings.access.is_some() {
            self.settings.access = packets::access(choice.max(1));
            self.broker.handle_access(self.settings.access.clone());
        }
    }

    fn answer_first_login(&mut self, [answer, minutes, ..]: [u8; 6]) {
        let Some(key) = self.logins.pop_front() else { return };
        let refusal = match answer % 8 {
            0 => Refusal::Wrong,
            1 => Refusal::Busy,
            _ => {
                let millis = i64::from(minutes) * 60_000;
                let until = (minutes > 0).then(|| Timestamp::from_millis(self.now.wall.as_millis() + millis));
                let user = if answer > 127 { "ann" } else { "a/b" };
                return self.answer_login(key, user, until);
            }
        };
        let _closed = self.broker.handle_authenticated(key, Err(refusal), self.now, &mut self.out);
        self.finish();
    }

    /// All that hinders is over, and nobody does anything wrong any more.
    pub fn heal(&mut self) {
        self.instant_disk = true;
        self.settle();
        for seat in self.seats.iter().flatten().filter(|seat| seat.up) {
            assert_eq!(seat.owed(), None, "everything is answered in the end");
        }
        assert!(self.tokens.is_empty(), "everything is safe in the end");
        (0..SEATS).for_each(|who| self.cut(who));
        self.check_bounds();
        if self.reference.complete {
            self.bring_all_back();
        }
    }

    fn settle(&mut self) {
        self.broker.handle_reading(false, self.now);
        for _ in 0..4 {
            while let Some(key) = self.logins.pop_front() {
                self.answer_login(key, "ann", None);
            }
            while !self.holds.is_empty() {
                self.make_safe();
            }
            self.finish();
            self.commit_all();
            self.advance(COMMIT);
        }
    }

    /// Everybody who has something to get comes for it.
    fn bring_all_back(&mut self) {
        let persons = self.reference.persons.iter();
        let waiting: VecDeque<Arc<str>> =
            persons.filter(|(_, person)| !person.expected.is_empty()).map(|(name, _)| name.clone()).collect();
        for name in waiting {
            self.open(0);
            // 3.1.1, with a session to keep.
            let mut connect = packets::connect([1, 0, 0, 0, 0, 0], 0, 0);
            connect.client_id = name.clone();
            self.send(0, &Packet::Connect(Box::new(connect)));
            self.settle();
            self.answer_all(0);
            self.settle();
            let person = self.reference.person(&name);
            let lost = person.expected.difference(&person.delivered).next();
            let number = lost.map(|payload| payload.slice(..payload.len().min(packets::NUMBER_BYTES)));
            assert_eq!(number, None, "acknowledged, and never came to {name}");
            self.cut(0);
        }
    }
}

fn answer_to(due: Due, reason: ReasonCode) -> Packet {
    match due {
        Due::Publish(id, QoS::ExactlyOnce) => Packet::Pubrec(Ack::with_reason(id, reason)),
        Due::Publish(id, _) => Packet::Puback(Ack::with_reason(id, reason)),
        Due::Pubrel(id) => Packet::Pubcomp(Ack::success(id)),
    }
}

/// From a millisecond to some hours.
fn span([unit, count, ..]: [u8; 6]) -> Duration {
    let count = u64::from(count) + 1;
    match unit % 4 {
        0 => Duration::from_millis(count),
        1 => Duration::from_secs(count),
        2 => Duration::from_secs(count * 30),
        _ => Duration::from_secs(count * 60),
    }
}

/// One place of a packet, where its numbers mostly stand: near its beginning.
fn mutate(bytes: &mut Vec<u8>, [how, at, with, ..]: [u8; 6]) {
    let Some(at) = usize::from(at).checked_rem(bytes.len()) else { return };
    match how % 5 {
        0 => bytes[at] ^= with,
        1 => bytes[at] = with,
        2 => bytes.insert(at, with),
        3 => bytes.truncate(at),
        _ => {
            let repeated = bytes[at..].to_vec();
            bytes.extend_from_slice(&repeated);
        }
    }
}
