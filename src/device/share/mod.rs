//! The brain of a line that other masters share: what of their requests is refused, answered from what was read not
//! long ago, or asked, and when. No I/O, no clock, no task. Never asks a unit twice for one request, and never keeps
//! a write for a master that is gone.

pub(crate) mod ask;
pub mod cache;
pub mod outcome;
pub mod queue;
pub mod turns;
pub mod units;

use crate::base::time::{Duration, Instant};
use crate::device::plan::Span;
use crate::device::request::{Exception, Reply, Request, RequestKind, Response};
use crate::device::share::ask::{Ask, BROADCAST, Touches, answer_of_exception, answer_of_read, values_of};
use crate::device::share::cache::Cache;
use crate::device::share::outcome::{Counts, Outcome};
use crate::device::share::queue::{AlsoUnderWay, Job, Master, Queue, Waiter};
use crate::device::share::turns::{Own, Turns};
use crate::device::share::units::{Health, Known, NotAsked, is_line_gone};

/// A request that had no turn for so long is refused: whoever made it has given up, and its write would be a surprise.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How a frame of the line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameEnd {
    /// Only who knows its length knows: RTU.
    Length,
    /// It says so: ASCII.
    Mark,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// How old an answer may be that is not asked for again; zero: always ask.
    pub cache: Duration,
    /// Whether other masters may write.
    pub writes: bool,
    pub frame_end: FrameEnd,
    /// Of the units that are devices of ours.
    pub timeouts: Vec<(u8, Duration)>,
    pub timeout_default: Duration,
}

/// A request as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub master: Master,
    pub transaction: u16,
    pub unit: u8,
    pub pdu: &'a [u8],
}

/// To one request of one master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub master: Master,
    pub transaction: u16,
    pub unit: u8,
    pub pdu: Vec<u8>,
}

/// What other masters want of the line now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    Request(Request),
    /// Nothing before this, unless they ask or a request of ours is made.
    Wait(Instant),
}

/// How a unit took a request of another master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub unit: u8,
    pub has_answered: bool,
    /// It was known to be dead before.
    pub was_dead: bool,
}

/// The brain of one line.
#[derive(Debug)]
pub struct Share {
    settings: Settings,
    cache: Cache,
    queue: Queue,
    turns: Turns,
    health: Health,
    counts: Counts,
}

impl Share {
    pub fn new(settings: Settings) -> Self {
        Self {
            cache: Cache::new(settings.cache),
            settings,
            queue: Queue::default(),
            turns: Turns::default(),
            health: Health::default(),
            counts: Counts::default(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Requests that wait for their answers.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The answer, where there is one at once.
    pub fn handle_request(&mut self, question: Question<'_>, now: Instant) -> Option<Vec<u8>> {
        let Question { master, transaction, unit, pdu } = question;
        let refused = match Ask::permitted((unit, pdu), &self.settings) {
            Ok(ask) => match self.take_in(unit, ask, Waiter { master, transaction, since: now }) {
                Ok(answer) => return answer,
                Err(refused) => refused,
            },
            Err(exception) => (exception, Outcome::Refused),
        };
        let (exception, outcome) = refused;
        self.counts.add(outcome);
        Some(answer_of_exception(pdu, exception))
    }

    /// The answer that is known, or None where it has to be asked for.
    fn take_in(
        &mut self,
        unit: u8,
        ask: Ask,
        waiter: Waiter,
    ) -> Result<Option<Vec<u8>>, (Exception, Outcome)> {
        let now = waiter.since;
        let read = if let Ask::Read(span) = ask { Some(span) } else { None };
        let read = read.filter(|span| !self.queue.will_change(unit, *span));
        if let Some(known) = read.and_then(|span| self.known(unit, span, now)) {
            self.counts.add(Outcome::Cached);
            return Ok(Some(known));
        }
        self.health.may_ask(unit, now).map_err(refusal)?;
        if !self.queue.has_room_for(waiter.master) {
            return Err((Exception::BUSY, Outcome::Busy));
        }
        // What is under way was asked before this: too old where nothing may be old.
        let under_way = if self.cache.is_off() { AlsoUnderWay::No } else { AlsoUnderWay::Yes };
        if read.is_none() || !self.queue.join((unit, &ask), waiter, under_way) {
            self.queue.push(Job { unit, ask, waiters: vec![waiter] });
        }
        Ok(None)
    }

    fn known(&self, unit: u8, span: Span, now: Instant) -> Option<Vec<u8>> {
        let values = self.cache.read(unit, span, now)?;
        Some(answer_of_read(span.table, &values))
    }

    /// The line begins, or begins anew.
    pub fn handle_started(&mut self, out: &mut Vec<Answer>) {
        if let Some(job) = self.queue.finish() {
            self.refuse(&job, (Exception::TARGET_FAILED, Outcome::NoAnswer), out);
        }
    }

    /// What the line knows now.
    pub fn handle_known(&mut self, known: Known) {
        self.health.handle_known(known);
    }

    /// The next request for which the line has time. It is under way until its reply was handled.
    pub fn next_request(&mut self, own: Own, now: Instant, out: &mut Vec<Answer>) -> Turn {
        loop {
            if self.queue.is_idle() {
                return Turn::Wait(Instant::FAR_FUTURE);
            }
            match self.turns.shared_at(own, now) {
                None => return Turn::Wait(Instant::FAR_FUTURE),
                Some(at) if at > now => return Turn::Wait(at),
                Some(_) => {}
            }
            let Some(mut job) = self.queue.take_next() else { return Turn::Wait(Instant::FAR_FUTURE) };
            self.refuse_overdue(&mut job, now, out);
            if job.waiters.is_empty() || self.is_answered(&job, now, out) {
                continue;
            }
            let request = Request::by_hand(job.unit, job.ask.request_kind(), self.timeout(job.unit));
            self.queue.begin(job);
            return Turn::Request(request);
        }
    }

    /// How patient the line is: with the units that are devices of ours, and with others.
    pub fn set_timeouts(&mut self, timeouts: Vec<(u8, Duration)>, default: Duration) {
        (self.settings.timeouts, self.settings.timeout_default) = (timeouts, default);
    }

    fn timeout(&self, unit: u8) -> Duration {
        let known = self.settings.timeouts.iter().find(|(of, _)| *of == unit);
        known.map_or(self.settings.timeout_default, |(_, timeout)| *timeout)
    }

    fn refuse_overdue(&mut self, job: &mut Job, now: Instant, out: &mut Vec<Answer>) {
        let is_overdue = |waiter: &Waiter| now.since(waiter.since) > WAIT_MAX;
        let overdue: Vec<Waiter> = job.waiters.iter().copied().filter(is_overdue).collect();
        job.waiters.retain(|waiter| !is_overdue(waiter));
        let late = Job { unit: job.unit, ask: job.ask.clone(), waiters: overdue };
        self.refuse(&late, (Exception::BUSY, Outcome::Busy), out);
    }

    /// Whether its turn finds that it need not be asked, or not now.
    fn is_answered(&mut self, job: &Job, now: Instant, out: &mut Vec<Answer>) -> bool {
        let read = if let Ask::Read(span) = job.ask { Some(span) } else { None };
        if let Some(known) = read.and_then(|span| self.known(job.unit, span, now)) {
            self.answer(job, (&known, Outcome::Cached), Outcome::Cached, out);
            return true;
        }
        let may_ask = self.health.may_ask(job.unit, now);
        if let Err(not_asked) = may_ask {
            self.refuse(job, refusal(not_asked), out);
        }
        may_ask.is_err()
    }

    /// What came of the request under way, which took the line from `from` to `to`; ours was due then. The answer
    /// is as old as `answered_at`.
    pub fn handle_reply(
        &mut self,
        reply: &Reply,
        (due, from, to): (Instant, Instant, Instant),
        answered_at: Instant,
        out: &mut Vec<Answer>,
    ) -> Option<Heard> {
        self.turns.handle_shared(due, from, to);
        let job = self.queue.finish()?;
        if let Ask::Write { touches, .. } = &job.ask {
            self.cache.forget(job.unit, *touches);
        }
        let was_dead = self.health.is_dead(job.unit);
        match reply {
            Ok(Ok(response)) => {
                let pdu = self.answered(&job, response, answered_at);
                self.answer(&job, (&pdu, Outcome::Answered), Outcome::Joined, out);
            }
            Ok(Err(exception)) => self.refuse(&job, (*exception, Outcome::Exception), out),
            Err(error) if is_line_gone(error) => {
                self.health.handle_line_gone(to);
                self.refuse(&job, (Exception::PATH_UNAVAILABLE, Outcome::NoLine), out);
                return None;
            }
            Err(_) => self.refuse(&job, (Exception::TARGET_FAILED, Outcome::NoAnswer), out),
        }
        if job.unit == BROADCAST {
            return None;
        }
        self.health.handle_reply(job.unit, reply);
        Some(Heard { unit: job.unit, has_answered: reply.is_ok(), was_dead })
    }

    fn answered(&mut self, job: &Job, response: &Response, answered_at: Instant) -> Vec<u8> {
        match (&job.ask, values_of(response), response) {
            (Ask::Read(span), Some(values), _) => {
                let pdu = answer_of_read(span.table, &values);
                self.cache.insert(job.unit, *span, values, answered_at);
                pdu
            }
            (_, _, Response::Raw(pdu)) if job.unit == BROADCAST => Ask::echo(pdu),
            (_, _, Response::Raw(pdu)) => pdu.clone(),
            // The line compares answers with their requests.
            (Ask::Read(_) | Ask::Write { .. } | Ask::Other { .. }, _, _) => {
                let kind = job.ask.request_kind();
                answer_of_exception(&[kind.function()], Exception::TARGET_FAILED)
            }
        }
    }

    /// A request of ours took the line from `from` to `to`: others may have of it what it read, and nothing that it
    /// changed.
    pub fn handle_own(
        &mut self,
        request: &Request,
        reply: &Reply,
        (from, to): (Instant, Instant),
        answered_at: Instant,
    ) {
        self.turns.handle_own(from, to);
        if reply.is_ok() {
            self.health.handle_reply(request.unit, reply);
        }
        if let Some(touches) = Touches::of_request(&request.kind) {
            self.cache.forget(request.unit, touches);
        }
        if let (RequestKind::Read { .. }, Ok(Ok(response))) = (&request.kind, reply)
            && let (Some(span), Some(values)) = (Ask::span_of(&request.kind), values_of(response))
        {
            self.cache.insert(request.unit, span, values, answered_at);
        }
    }

    /// A master is gone.
    pub fn handle_closed(&mut self, master: Master) {
        self.queue.close(master);
    }

    /// When other masters have their turn, while the line has nothing to do for itself before `due`.
    pub fn idle_until(&mut self, due: Instant, now: Instant) -> Instant {
        if self.queue.is_idle() {
            return Instant::FAR_FUTURE;
        }
        self.turns.shared_at(Own { has_command: false, due }, now).unwrap_or(due)
    }

    fn refuse(&mut self, job: &Job, (exception, outcome): (Exception, Outcome), out: &mut Vec<Answer>) {
        let pdu = answer_of_exception(&[job.ask.request_kind().function()], exception);
        self.answer(job, (&pdu, outcome), outcome, out);
    }

    /// The first has asked, the others waited along.
    fn answer(&mut self, job: &Job, (pdu, first): (&[u8], Outcome), others: Outcome, out: &mut Vec<Answer>) {
        for (number, Waiter { master, transaction, .. }) in job.waiters.iter().enumerate() {
            self.counts.add(if number == 0 { first } else { others });
            out.push(Answer {
                master: *master,
                transaction: *transaction,
                unit: job.unit,
                pdu: pdu.to_vec(),
            });
        }
    }
}

fn refusal(not_asked: NotAsked) -> (Exception, Outcome) {
    match not_asked {
        NotAsked::NoLine => (Exception::PATH_UNAVAILABLE, Outcome::NoLine),
        NotAsked::Dead => (Exception::TARGET_FAILED, Outcome::Dead),
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, FrameEnd, Question, Settings, Share, Turn, WAIT_MAX};
    use crate::base::time::{Duration, Instant};
    use crate::device::request::{LineError, Reply, RequestKind, Response};
    use crate::device::share::outcome::Outcome;
    use crate::device::share::queue::Master;
    use crate::device::share::turns::Own;
    use crate::device::share::units::{DEAD_AFTER, Known, LINE_PAUSE, Units};

    const READ: [u8; 5] = [3, 0, 10, 0, 1];
    const WRITE: [u8; 5] = [6, 0, 10, 0, 7];
    const NOTHING_DUE: Own = Own { has_command: false, due: Instant::FAR_FUTURE };

    fn share(cache_seconds: u64, frame_end: FrameEnd) -> Share {
        Share::new(Settings {
            cache: Duration::from_secs(cache_seconds),
            writes: true,
            frame_end,
            timeouts: vec![(7, Duration::from_millis(70))],
            timeout_default: Duration::from_millis(500),
        })
    }

    fn at(millis: i64) -> Instant {
        Instant::from_millis(1_000_000 + millis)
    }

    fn ask(share: &mut Share, transaction: u16, unit: u8, pdu: &[u8], now: Instant) -> Option<Vec<u8>> {
        share.handle_request(Question { master: Master(1), transaction, unit, pdu }, now)
    }

    /// What the next request is answered with.
    fn step(share: &mut Share, now: Instant, reply: &Reply) -> (RequestKind, Vec<Vec<u8>>) {
        let mut out = Vec::new();
        let Turn::Request(request) = share.next_request(NOTHING_DUE, now, &mut out) else {
            panic!("no request: {out:?}");
        };
        share.handle_reply(reply, (Instant::FAR_FUTURE, now, now), now, &mut out);
        (request.kind, out.into_iter().map(|answer| answer.pdu).collect())
    }

    // As all replies are.
    #[allow(clippy::unnecessary_wraps)]
    fn words(words: &[u16]) -> Reply {
        Ok(Ok(Response::Words(words.to_vec())))
    }

    #[test]
    fn a_unit_has_the_time_out_of_its_device_and_others_the_lines() {
        let mut share = share(0, FrameEnd::Length);
        for (unit, millis) in [(7, 70), (8, 500)] {
            assert_eq!(ask(&mut share, 1, unit, &READ, at(0)), None);
            let Turn::Request(request) = share.next_request(NOTHING_DUE, at(0), &mut Vec::new()) else {
                panic!("no request");
            };
            assert_eq!((request.unit, request.timeout), (unit, Duration::from_millis(millis)));
            share.handle_reply(&words(&[1]), (at(0), at(0), at(0)), at(0), &mut Vec::new());
        }
    }

    #[test]
    fn a_read_behind_a_write_is_not_answered_with_what_was_before() {
        let mut share = share(10, FrameEnd::Length);
        assert_eq!(ask(&mut share, 1, 7, &READ, at(0)), None);
        assert_eq!(step(&mut share, at(0), &words(&[1])).1, [vec![3, 2, 0, 1]]);
        assert_eq!(ask(&mut share, 2, 7, &READ, at(10)), Some(vec![3, 2, 0, 1]));
        assert_eq!(ask(&mut share, 3, 7, &WRITE, at(20)), None);
        assert_eq!(ask(&mut share, 4, 7, &READ, at(20)), None);
        let written = Ok(Ok(Response::Raw(WRITE.to_vec())));
        assert_eq!(step(&mut share, at(30), &written).1, [WRITE.to_vec()]);
        assert_eq!(step(&mut share, at(40), &words(&[7])).1, [vec![3, 2, 0, 7]]);
        assert_eq!(ask(&mut share, 5, 7, &READ, at(50)), Some(vec![3, 2, 0, 7]));
        // A write that was lost may have been done all the same.
        assert_eq!(ask(&mut share, 6, 7, &WRITE, at(60)), None);
        assert_eq!(step(&mut share, at(70), &Err(LineError::Timeout)).1, [vec![0x86, 11]]);
        assert_eq!(ask(&mut share, 7, 7, &READ, at(80)), None);
    }

    #[test]
    fn what_is_always_asked_is_not_answered_by_what_was_asked_before() {
        for (cache, requests) in [(0, 2), (1, 1)] {
            let mut share = share(cache, FrameEnd::Length);
            assert_eq!(ask(&mut share, 1, 7, &READ, at(0)), None);
            let mut out = Vec::new();
            assert!(matches!(share.next_request(NOTHING_DUE, at(0), &mut out), Turn::Request(_)));
            // It is on the wire.
            assert_eq!(ask(&mut share, 2, 7, &READ, at(1)), None);
            share.handle_reply(&words(&[1]), (at(0), at(0), at(2)), at(2), &mut out);
            let next = share.next_request(NOTHING_DUE, at(3), &mut out);
            assert_eq!(matches!(next, Turn::Request(_)), requests == 2, "{cache}: {next:?}");
        }
    }

    #[test]
    fn who_had_no_turn_in_time_is_told_and_nothing_is_asked_for_him() {
        let mut share = share(0, FrameEnd::Length);
        assert_eq!(ask(&mut share, 9, 7, &WRITE, at(0)), None);
        let mut out = Vec::new();
        let late = at(1) + WAIT_MAX;
        assert_eq!(share.next_request(NOTHING_DUE, late, &mut out), Turn::Wait(Instant::FAR_FUTURE));
        let busy = Answer { master: Master(1), transaction: 9, unit: 7, pdu: vec![0x86, 6] };
        assert_eq!((out, share.counts().of(Outcome::Busy)), (vec![busy], 1));
    }

    #[test]
    fn a_line_that_is_gone_is_left_alone_for_a_while() {
        let mut share = share(0, FrameEnd::Length);
        assert_eq!(ask(&mut share, 1, 7, &READ, at(0)), None);
        let gone = LineError::Open { path: "p".into(), kind: std::io::ErrorKind::NotFound };
        assert_eq!(step(&mut share, at(0), &Err(gone)).1, [vec![0x83, 10]]);
        assert_eq!(ask(&mut share, 2, 8, &READ, at(1)), Some(vec![0x83, 10]));
        assert_eq!(ask(&mut share, 3, 8, &READ, at(0) + LINE_PAUSE), None);
    }

    #[test]
    fn a_dead_unit_is_asked_when_its_time_has_come_and_lives_again() {
        let mut share = share(0, FrameEnd::Length);
        for _ in 0..DEAD_AFTER {
            assert_eq!(ask(&mut share, 1, 9, &READ, at(0)), None);
            assert_eq!(step(&mut share, at(0), &Err(LineError::Timeout)).1, [vec![0x83, 11]]);
        }
        let mut offline = Units::default();
        offline.insert(200);
        share.handle_known(Known { offline, spared_until: at(1_000) });
        for unit in [9, 200] {
            assert_eq!(ask(&mut share, 1, unit, &READ, at(999)), Some(vec![0x83, 11]));
        }
        assert_eq!(ask(&mut share, 1, 8, &READ, at(999)), None, "a neighbour is asked");
        step(&mut share, at(999), &words(&[1]));
        // Two try at once, and one finds out for both.
        assert_eq!(ask(&mut share, 2, 9, &READ, at(1_000)), None);
        assert_eq!(ask(&mut share, 3, 9, &[4, 0, 0, 0, 1], at(1_000)), None);
        step(&mut share, at(1_000), &Err(LineError::Timeout));
        share.handle_known(Known { offline, spared_until: at(2_000) });
        let mut out = Vec::new();
        assert_eq!(share.next_request(NOTHING_DUE, at(1_001), &mut out), Turn::Wait(Instant::FAR_FUTURE));
        assert_eq!(out.iter().map(|answer| answer.transaction).collect::<Vec<_>>(), [3]);
        assert_eq!(ask(&mut share, 4, 9, &READ, at(2_000)), None);
        assert_eq!(step(&mut share, at(2_000), &words(&[1])).1, [vec![3, 2, 0, 1]]);
        share.handle_known(Known { offline, spared_until: at(9_000) });
        assert_eq!(ask(&mut share, 5, 9, &READ, at(2_001)), None, "it is back");
    }

    #[test]
    fn what_nobody_knows_goes_only_where_its_answer_can_be_told() {
        for (frame_end, expected) in [(FrameEnd::Length, Some(vec![0xC1, 1])), (FrameEnd::Mark, None)] {
            let mut share = share(0, frame_end);
            assert_eq!(ask(&mut share, 1, 7, &[65, 1], at(0)), expected);
            assert_eq!(ask(&mut share, 1, 7, &[0x83, 1], at(0)), Some(vec![0x83, 1]));
        }
        let mut share = share(10, FrameEnd::Mark);
        ask(&mut share, 1, 7, &READ, at(0));
        step(&mut share, at(0), &words(&[1]));
        assert_eq!(ask(&mut share, 2, 7, &[65, 1], at(1)), None);
        // It may have changed anything.
        assert_eq!(ask(&mut share, 3, 7, &READ, at(1)), None);
        let (kind, answers) = step(&mut share, at(1), &Ok(Ok(Response::Raw(vec![65, 2]))));
        assert_eq!((kind, answers), (RequestKind::Raw { pdu: vec![65, 1] }, vec![vec![65, 2]]));
        step(&mut share, at(2), &words(&[2]));
        share.settings.writes = false;
        assert_eq!(ask(&mut share, 4, 7, &[65, 1], at(3)), Some(vec![0xC1, 1]));
    }

    #[test]
    fn a_line_that_begins_anew_leaves_nobody_waiting() {
        let mut share = share(0, FrameEnd::Length);
        ask(&mut share, 1, 7, &READ, at(0));
        let mut out = Vec::new();
        share.next_request(NOTHING_DUE, at(0), &mut out);
        share.handle_started(&mut out);
        assert_eq!(out.iter().map(|answer| answer.pdu.clone()).collect::<Vec<_>>(), [vec![0x83, 11]]);
        assert_eq!(share.waiting(), 0);
    }
}
