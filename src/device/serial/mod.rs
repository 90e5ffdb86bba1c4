//! The brain of one serial instrument: what to send when, what its lines mean, what to publish. It has its port to
//! itself. No I/O, no clock, no task.

pub mod binary;
pub mod checksum;
mod commands;
mod csv;
pub mod field;
pub mod framing;
pub mod line;
mod nmea;
pub mod sample;
pub(crate) mod task;

use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Duration, Instant, Now};
use crate::config::instrument::{FieldPoint, Instrument as Settings, Talk};
use crate::device::channel::Channel;
use crate::device::effect::Effects;
use crate::device::metrics::Herald;
use crate::device::pending::{Attempt, Pending};
use crate::device::reading::{BadReason, Quality, Reading};
use crate::device::request::{Failure, LineError};
use crate::device::serial::field::FieldError;
use crate::device::serial::framing::{Frame, Framer};
use crate::device::serial::line::Line;
use crate::device::serial::task::Task;
use crate::device::status::{DeviceStatus, State};
use crate::device::topics::Topics;
use crate::device::value::Value;
use crate::device::voice::Voice;

/// Nothing is asked while something may still be on its way.
const QUIET: Duration = Duration::from_millis(20);
/// What comes later than this after a request that was given up is not awaited.
const LATE_MAX: Duration = Duration::from_millis(500);
/// Commands in a row before a request that is due gets its turn.
const COMMANDS_IN_A_ROW_MAX: u32 = 8;

/// What the hand is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Open the port: `handle_opened` or `handle_lost` follows.
    Open,
    /// Throw away what has come, then send: `handle_sent` or `handle_lost` follows.
    Ask(Vec<u8>),
    /// Send, the same way, beside what the device says.
    Tell(Vec<u8>),
    /// Listen. Nothing to do before this, unless bytes or an order come.
    Wait(Instant),
}

#[derive(Debug)]
pub struct Instrument {
    /// In the configuration.
    index: u16,
    settings: Settings,
    voice: Voice,
    framer: Framer,
    is_open: bool,
    state: State,
    asked: Option<Asked>,
    tasks: Pending<Task>,
    /// When each point was heard last, and in how many answers it was missing since.
    heard: Vec<Heard>,
    /// The next request, on its grid.
    next_due: Instant,
    /// Failed ones, of the request under way.
    attempts: u8,
    /// Requests in a row without any answer.
    failures: u32,
    /// No request before: a late answer may still come.
    quiet_until: Instant,
    /// The port is not opened before, nor an offline device asked.
    back_until: Instant,
    backoff: Backoff,
    last_byte: Instant,
    last_heard: Instant,
    commands_in_a_row: u32,
    polls: u64,
    errors: u64,
    skipped: u64,
    last_failure: Option<Failure>,
    last_seen: Option<Now>,
}

/// What an answer is awaited to.
#[derive(Debug)]
struct Asked {
    job: Job,
    /// Far off until it was sent.
    deadline: Instant,
}

#[derive(Debug)]
enum Job {
    Request,
    Command(Box<Task>),
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    missing: u32,
}

/// What one line says of each point; None: nothing.
type Said = Vec<Option<Result<Value, FieldError>>>;

impl Instrument {
    /// `index` is the device's, counted behind the Modbus devices.
    pub fn new(gateway: &str, index: u16, settings: Settings, now: Now) -> Self {
        Self {
            index,
            voice: voice_of(gateway, index, &settings, now),
            framer: Framer::new(settings.framing.clone()),
            is_open: false,
            state: State::Unknown,
            asked: None,
            tasks: Pending::default(),
            heard: vec![Heard { at: now.instant, missing: 0 }; settings.points.len()],
            next_due: now.instant,
            attempts: 0,
            failures: 0,
            quiet_until: Instant::ORIGIN,
            back_until: Instant::ORIGIN,
            backoff: Backoff::new(settings.reconnect),
            last_byte: now.instant,
            last_heard: now.instant,
            commands_in_a_row: 0,
            polls: 0,
            errors: 0,
            skipped: 0,
            last_failure: None,
            last_seen: None,
            settings,
        }
    }

    pub fn status(&self) -> DeviceStatus {
        DeviceStatus {
            name: Arc::clone(&self.settings.name),
            state: self.state,
            polls: self.polls,
            errors: self.errors + self.framer.dropped(),
            skipped: self.skipped,
            last_failure: self.last_failure.clone(),
            last_seen: self.last_seen,
            identity: None,
            points: self.voice.channels().iter().map(Channel::status).collect(),
        }
    }

    /// Call until it says to wait, after anything that happened.
    pub fn next(&mut self, now: Now, out: &mut Effects) -> Do {
        self.handle_time(now, out);
        if self.asked.is_none() && self.is_open {
            let polls_first = self.commands_in_a_row >= COMMANDS_IN_A_ROW_MAX;
            let found = if polls_first {
                self.next_request(now, out).or_else(|| self.next_command(now))
            } else {
                self.next_command(now).or_else(|| self.next_request(now, out))
            };
            if let Some(found) = found {
                return found;
            }
        } else if !self.is_open && self.back_until <= now.instant {
            return Do::Open;
        }
        Do::Wait(self.next_deadline())
    }

    pub fn handle_opened(&mut self, now: Now) {
        self.is_open = true;
        self.framer.handle_lost();
        self.last_byte = now.instant;
        self.next_due = now.instant;
        self.back_until = now.instant;
    }

    /// The port cannot be opened, or is gone.
    pub fn handle_lost(&mut self, error: LineError, now: Now, out: &mut Effects) {
        let nobody_listens = error.is_permanent();
        let failure = Failure::Line(error);
        self.is_open = false;
        self.framer.handle_lost();
        self.back_until = now.instant + self.backoff.next_ceiling();
        self.note(failure.clone(), out);
        match self.asked.take().map(|asked| asked.job) {
            Some(Job::Command(task)) => self.handle_task_lost(task, failure, now, out),
            Some(Job::Request) | None => {}
        }
        match self.settings.talk {
            Talk::Asked { .. } => self.fail_request(now, out),
            Talk::Free { .. } if nobody_listens => self.go_offline(now, out),
            Talk::Free { .. } => {}
        }
    }

    /// What was to be sent has left.
    pub fn handle_sent(&mut self, now: Now, out: &mut Effects) {
        let Some(Asked { job, .. }) = self.asked.take() else { return };
        match job {
            Job::Request => self.await_answer(Job::Request, self.settings.timeout, now),
            Job::Command(task) => self.handle_task_sent(task, now, out),
        }
    }

    /// Never called with nothing.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Now, out: &mut Effects) {
        self.last_byte = now.instant;
        let dropped = self.framer.dropped();
        let mut frames = Vec::new();
        self.framer.handle_bytes(bytes, &mut frames);
        self.handle_frames(&frames, now, out);
        out.changed |= dropped != self.framer.dropped();
    }

    /// The gateway stops: nobody watches the device any more. Readings stay as they are. A command that nobody keeps is
    /// refused; the others stay where they are kept.
    pub fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        self.stop_commands(now, out);
        self.voice.handle_shutdown(self.state, now, out);
        self.state = State::Unknown;
    }

    /// What falls due by itself.
    fn handle_time(&mut self, now: Now, out: &mut Effects) {
        self.drop_commands(now, out);
        self.close_windows(now, out);
        if self.silence_at().is_some_and(|at| at <= now.instant) {
            let mut frames = Vec::new();
            self.framer.handle_silence(&mut frames);
            self.handle_frames(&frames, now, out);
        }
        if let Some(Asked { job, .. }) = self.asked.take_if(|asked| asked.deadline <= now.instant) {
            match job {
                Job::Request => self.handle_no_answer(LineError::Timeout, now, out),
                Job::Command(task) => self.handle_task_silence(task, now, out),
            }
        }
        let Talk::Free { offline_after: Some(after) } = self.settings.talk else { return };
        if self.state != State::Offline && self.last_heard + after <= now.instant {
            self.note(Failure::Line(LineError::Timeout), out);
            self.go_offline(now, out);
        }
        for at in 0..self.heard.len() {
            if self.is_good(at) && self.heard[at].at + after <= now.instant {
                self.voice.apply_silence(at, now, out);
            }
        }
        self.finish_readings(now, out);
    }

    /// Before a reading of the next window comes.
    fn close_windows(&mut self, now: Now, out: &mut Effects) {
        if self.voice.next_deadline() <= now.instant {
            self.voice.close_windows(now, out);
            self.voice.publish_news(now, out);
            self.voice.close_batches(now, out);
        }
    }

    /// All readings of one moment are in.
    fn finish_readings(&mut self, now: Now, out: &mut Effects) {
        self.voice.compute(now, out);
        self.voice.publish_news(now, out);
    }

    /// When a frame that has begun is over.
    fn silence_at(&self) -> Option<Instant> {
        (self.is_open && self.framer.waits()).then(|| self.last_byte + self.settings.framing.gap)
    }

    fn next_deadline(&self) -> Instant {
        let asked = self.asked.as_ref().map(|asked| asked.deadline);
        let window = Some(self.voice.next_deadline());
        let mut deadlines =
            vec![asked, self.silence_at(), self.tasks.iter().map(Attempt::deadline).min(), window];
        if !self.is_open {
            deadlines.push(Some(self.back_until));
        } else if asked.is_none() {
            let ready_at = self.tasks.iter().map(|task| task.not_before).min();
            let request = self.asks().then(|| self.request_ready_at().max(self.line_free_at()));
            deadlines.extend([request, ready_at.map(|at| at.max(self.line_free_at()))]);
        }
        if let Talk::Free { offline_after: Some(after) } = self.settings.talk {
            let offline = (self.state != State::Offline).then(|| self.last_heard + after);
            let stale =
                (0..self.heard.len()).filter(|at| self.is_good(*at)).map(|at| self.heard[at].at + after);
            deadlines.extend([offline, stale.min()]);
        }
        deadlines.into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE)
    }

    fn asks(&self) -> bool {
        matches!(self.settings.talk, Talk::Asked { .. })
    }

    fn is_good(&self, at: usize) -> bool {
        let last = self.voice.channel(at).and_then(Channel::last);
        last.is_some_and(|reading| reading.quality == Quality::Good)
    }

    /// From when on something may be sent: of one that talks by itself, always.
    fn line_free_at(&self) -> Instant {
        if self.asks() { self.quiet_until.max(self.last_byte + QUIET) } else { Instant::ORIGIN }
    }

    fn request_ready_at(&self) -> Instant {
        match self.state {
            _ if self.attempts > 0 => self.quiet_until,
            State::Offline => self.back_until,
            State::Online | State::Unknown => self.next_due,
        }
    }

    fn next_request(&mut self, now: Now, out: &mut Effects) -> Option<Do> {
        let Talk::Asked { send, every, .. } = &self.settings.talk else { return None };
        let (send, every) = (send.clone(), *every);
        let ready_at = self.request_ready_at().max(self.quiet_until);
        if ready_at > now.instant {
            return None;
        }
        if self.line_free_at() > now.instant {
            if ready_at + self.settings.timeout <= now.instant {
                self.handle_no_answer(LineError::Busy, now, out);
            }
            return None;
        }
        if self.attempts == 0 {
            self.polls += 1;
        }
        if self.next_due <= now.instant {
            let passed = now.instant.since(self.next_due).as_nanos() / every.as_nanos().max(1);
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            // Skip a request rather than queue requests: the next one is on the grid again.
            self.next_due = self.next_due + every.saturating_mul(passed.saturating_add(1));
            self.skipped += if self.state == State::Offline { 0 } else { u64::from(passed) };
        }
        self.commands_in_a_row = 0;
        Some(self.ask(Job::Request, send))
    }

    fn ask(&mut self, job: Job, bytes: Vec<u8>) -> Do {
        self.asked = Some(Asked { job, deadline: Instant::FAR_FUTURE });
        if self.asks() {
            self.framer.handle_asked();
            Do::Ask(bytes)
        } else {
            Do::Tell(bytes)
        }
    }

    fn await_answer(&mut self, job: Job, within: Duration, now: Now) {
        self.asked = Some(Asked { job, deadline: now.instant + within });
    }

    fn handle_no_answer(&mut self, error: LineError, now: Now, out: &mut Effects) {
        self.note(Failure::Line(error), out);
        self.quiet_until = now.instant + self.settings.timeout.min(LATE_MAX);
        if self.state != State::Offline && self.attempts < self.settings.retries {
            self.attempts += 1;
        } else {
            self.errors += 1;
            self.fail_request(now, out);
        }
    }

    fn fail_request(&mut self, now: Now, out: &mut Effects) {
        self.attempts = 0;
        self.failures = self.failures.saturating_add(1);
        let Talk::Asked { offline_after, .. } = self.settings.talk else { return };
        if self.is_open && (self.state == State::Offline || self.failures >= offline_after) {
            self.back_until = now.instant + self.backoff.next_ceiling();
        }
        if self.failures >= offline_after {
            self.go_offline(now, out);
        }
    }

    fn go_offline(&mut self, now: Now, out: &mut Effects) {
        if self.state == State::Offline {
            return;
        }
        self.state = State::Offline;
        self.voice.handle_offline(now, out);
    }

    fn note(&mut self, failure: Failure, out: &mut Effects) {
        self.last_failure = Some(failure);
        out.changed = true;
    }

    fn handle_frames(&mut self, frames: &[Frame], now: Now, out: &mut Effects) {
        for frame in frames {
            let text = line::text_of(frame);
            if self.is_confirmed_by(&text) {
                self.handle_heard(now, out);
                self.handle_confirmed(now, out);
                continue;
            }
            let Some(line) = Line::parse(&self.settings.format, frame, &text) else {
                self.errors += 1;
                self.note(Failure::Line(LineError::Garbled), out);
                continue;
            };
            if self.asks() && !self.awaits_a_line() {
                // Late, or nobody's answer: it cannot be told which.
                continue;
            }
            let said: Said = self.settings.points.iter().map(|point| said_of(point, &line)).collect();
            if said.iter().any(Option::is_some) {
                self.handle_line(said, now, out);
            } else if !self.asks() {
                self.handle_heard(now, out);
            }
        }
    }

    fn handle_line(&mut self, said: Said, now: Now, out: &mut Effects) {
        self.close_windows(now, out);
        self.handle_heard(now, out);
        if !self.asks() {
            self.polls += 1;
        }
        let looked_at = self.task().and_then(|task| said.get(task.point).cloned().flatten());
        for (at, said) in said.into_iter().enumerate() {
            let reading = match said {
                Some(Ok(value)) => Reading::good(value, now),
                Some(Err(error)) => {
                    self.errors += 1;
                    Reading::bad(BadReason::Field(error), now)
                }
                None => {
                    self.handle_missing(at, now, out);
                    continue;
                }
            };
            self.heard[at] = Heard { at: now.instant, missing: 0 };
            self.voice.apply_reading(at, reading, now, out);
        }
        self.finish_readings(now, out);
        let answered = self.asked.take_if(|asked| matches!(asked.job, Job::Request));
        if let (None, Some(value)) = (answered, looked_at) {
            self.handle_look(value.ok(), now, out);
        }
    }

    /// The answer says nothing of the point.
    fn handle_missing(&mut self, at: usize, now: Now, out: &mut Effects) {
        let Talk::Asked { offline_after, .. } = self.settings.talk else { return };
        self.heard[at].missing = self.heard[at].missing.saturating_add(1);
        if self.heard[at].missing >= offline_after {
            self.voice.apply_silence(at, now, out);
        }
    }

    /// The device is there.
    fn handle_heard(&mut self, now: Now, out: &mut Effects) {
        self.attempts = 0;
        self.failures = 0;
        self.last_heard = now.instant;
        self.last_seen = Some(now);
        self.backoff.reset();
        self.tasks.wake(now);
        out.changed = true;
        if self.state != State::Online {
            if self.state == State::Offline {
                self.next_due = self.next_due.min(now.instant);
            }
            self.state = State::Online;
            self.voice.handle_online(now, out);
        }
    }
}

fn said_of(point: &FieldPoint, line: &Line<'_>) -> Option<Result<Value, FieldError>> {
    let said = line.field(point.field.as_ref()?)?;
    Some(said.and_then(|said| field::value_of(point, &said)))
}

fn voice_of(gateway: &str, index: u16, settings: &Settings, now: Now) -> Voice {
    // One that talks by itself has no rhythm that a heartbeat could be nearer to.
    let rhythm = match settings.talk {
        Talk::Asked { every, .. } => every,
        Talk::Free { .. } => Duration::ZERO,
    };
    let when = settings.publish.when;
    let points = settings.points.iter().map(|point| Channel::of_field(point, when, rhythm, now));
    let computed = settings.computed.iter().map(|point| Channel::of_computed(point, when, rhythm, now));
    let channels = points.chain(computed).collect();
    let topics = Topics::of_instrument(gateway, settings);
    let herald = Herald::of_instrument(gateway, index, settings);
    Voice::new(index, &settings.publish, topics, herald, (channels, &settings.computed))
}
