//! The brain of a line that other masters share: what of their requests is refused, answered from what was read not
//! long ago, or asked, and when. No I/O, no clock, no task. Never asks a unit twice for one request, and never keeps
//! a write for a master that is gone.

pub(crate) mod ask;
pub mod cache;
pub mod queue;
pub mod turns;

use crate::base::time::{Duration, Instant};
use crate::device::plan::Span;
use crate::device::request::{Exception, LineError, Reply, Request, RequestKind, Response};
use crate::device::share::ask::{Ask, Touches, Unknown, answer_of_exception, answer_of_read, values_of};
use crate::device::share::cache::Cache;
use crate::device::share::queue::{AlsoUnderWay, Job, Master, Queue, Waiter};
use crate::device::share::turns::{Own, Turns};

/// A request that had no turn for so long is refused: whoever made it has given up, and its write would be a surprise.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Requests in a row that a unit which is no device of ours leaves unanswered, after which it counts as dead.
const DEAD_AFTER: u8 = 3;
/// A line that could not be opened is not tried again for other masters before.
const LINE_PAUSE: Duration = Duration::from_secs(1);
/// The unit that is all of them.
const BROADCAST: u8 = 0;

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

/// Some of all units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units([u64; 4]);

impl Units {
    pub fn insert(&mut self, unit: u8) {
        if let Some(bits) = self.0.get_mut(usize::from(unit / 64)) {
            *bits |= 1 << (unit % 64);
        }
    }

    pub fn contains(&self, unit: u8) -> bool {
        self.0.get(usize::from(unit / 64)).is_some_and(|bits| bits >> (unit % 64) & 1 == 1)
    }
}

/// What the line knows of its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Those that our polls found dead.
    pub offline: Units,
    /// No dead unit is asked before, for the sake of the others.
    pub spared_until: Instant,
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

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By the unit.
    Answered,
    /// By the unit, with an exception.
    Exception,
    /// From what was read before.
    Cached,
    /// Along with the same request of somebody else.
    Joined,
    /// Asked, and no answer came.
    NoAnswer,
    /// Not asked: the unit is known to be dead.
    Dead,
    /// The line is not there.
    NoLine,
    /// No room, or no turn in time.
    Busy,
    /// Not allowed, or no request that can be passed on.
    Refused,
}

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::Exception,
        Self::Cached,
        Self::Joined,
        Self::NoAnswer,
        Self::Dead,
        Self::NoLine,
        Self::Busy,
        Self::Refused,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Exception => "exception",
            Self::Cached => "cached",
            Self::Joined => "joined",
            Self::NoAnswer => "no_answer",
            Self::Dead => "dead",
            Self::NoLine => "no_line",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }
}

/// Since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; Outcome::ALL.len()]);

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        if let Some(count) = self.0.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0.get(outcome as usize).copied().unwrap_or(0)
    }
}

/// The brain of one line.
#[derive(Debug)]
pub struct Share {
    settings: Settings,
    cache: Cache,
    queue: Queue,
    turns: Turns,
    known: Known,
    /// Of each unit: requests of other masters in a row that it left unanswered.
    failures: [u8; 256],
    line_gone_until: Instant,
    counts: Counts,
}

impl Share {
    pub fn new(settings: Settings) -> Self {
        Self {
            cache: Cache::new(settings.cache),
            settings,
            queue: Queue::default(),
            turns: Turns::default(),
            known: Known { offline: Units::default(), spared_until: Instant::ORIGIN },
            failures: [0; 256],
            line_gone_until: Instant::ORIGIN,
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
        let refused = match self.permitted(unit, pdu) {
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

    fn permitted(&self, unit: u8, pdu: &[u8]) -> Result<Ask, Exception> {
        let ask = match Ask::parse(pdu) {
            Ok(parsed) => parsed?,
            // What nobody knows may be a write.
            Err(Unknown) => match (self.settings.frame_end, pdu.first()) {
                (FrameEnd::Mark, Some(1..=127)) => Ask::unknown(pdu),
                (FrameEnd::Mark | FrameEnd::Length, _) => return Err(Exception::ILLEGAL_FUNCTION),
            },
        };
        if matches!(ask, Ask::Write { .. }) && !self.settings.writes {
            return Err(Exception::ILLEGAL_FUNCTION);
        }
        if unit == BROADCAST && !ask.is_for_all() {
            return Err(Exception::TARGET_FAILED);
        }
        Ok(ask)
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
        self.is_worth_asking(unit, now)?;
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

    fn is_dead(&self, unit: u8) -> bool {
        let failures = self.failures.get(usize::from(unit)).copied().unwrap_or(0);
        self.known.offline.contains(unit) || failures >= DEAD_AFTER
    }

    fn is_worth_asking(&self, unit: u8, now: Instant) -> Result<(), (Exception, Outcome)> {
        if now < self.line_gone_until {
            return Err((Exception::PATH_UNAVAILABLE, Outcome::NoLine));
        }
        if self.is_dead(unit) && now < self.known.spared_until {
            return Err((Exception::TARGET_FAILED, Outcome::Dead));
        }
        Ok(())
    }

    /// The line begins, or begins anew.
    pub fn handle_started(&mut self, out: &mut Vec<Answer>) {
        if let Some(job) = self.queue.finish() {
            self.refuse(&job, (Exception::TARGET_FAILED, Outcome::NoAnswer), out);
        }
    }

    /// What the line knows now.
    pub fn handle_known(&mut self, known: Known) {
        self.known = known;
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
        let refused = self.is_worth_asking(job.unit, now);
        if let Err(refused) = refused {
            self.refuse(job, refused, out);
        }
        refused.is_err()
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
        let was_dead = self.is_dead(job.unit);
        match reply {
            Ok(Ok(response)) => {
                let pdu = self.answered(&job, response, answered_at);
                self.answer(&job, (&pdu, Outcome::Answered), Outcome::Joined, out);
            }
            Ok(Err(exception)) => self.refuse(&job, (*exception, Outcome::Exception), out),
            Err(error) if is_line_gone(error) => {
                self.line_gone_until = to + LINE_PAUSE;
                self.refuse(&job, (Exception::PATH_UNAVAILABLE, Outcome::NoLine), out);
                return None;
            }
            Err(_) => self.refuse(&job, (Exception::TARGET_FAILED, Outcome::NoAnswer), out),
        }
        if job.unit == BROADCAST {
            return None;
        }
        self.count_failure(job.unit, reply);
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

    fn count_failure(&mut self, unit: u8, reply: &Reply) {
        if let Some(failures) = self.failures.get_mut(usize::from(unit)) {
            *failures = if reply.is_ok() { 0 } else { failures.saturating_add(1) };
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
            self.count_failure(request.unit, reply);
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

/// The port is gone, or cannot be opened: no unit was asked.
fn is_line_gone(error: &LineError) -> bool {
    match error {
        LineError::Open { .. }
        | LineError::NoRs485 { .. }
        | LineError::Connect { .. }
        | LineError::Broken(_) => true,
        LineError::Timeout
        | LineError::Garbled
        | LineError::Mismatch
        | LineError::WrongCount
        | LineError::Untrusted
        | LineError::Busy => false,
    }
}
