//! One device as its line sees it: when its points are due, how far a poll has come, whether it answers, and
//! what of it is published. Never chooses between devices, never touches the line.

pub mod survey;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Duration, Instant, Now};
use crate::config::model::{Device, Point};
use crate::device::channel::Channel;
use crate::device::effect::Effects;
use crate::device::experience::{Experience, Trial};
use crate::device::identity::Inquiry;
use crate::device::metrics::Herald;
use crate::device::plan::Block;
use crate::device::polled::survey::Survey;
use crate::device::reading::{BadReason, Reading};
use crate::device::request::{Exception, Failure, Response};
use crate::device::status::{DeviceStatus, State};
use crate::device::topics::Topics;
use crate::device::voice::Voice;
use crate::device::ways::Unknown;

/// The shortest rhythm: keeps a poll of zero from dividing by it.
const POLL_MIN: Duration = Duration::from_millis(1);
/// A serial line is left alone by a unit that failed for one time-out, but no longer than this: what still
/// comes is late.
const SERIAL_PAUSE_MAX: Duration = Duration::from_millis(500);
/// A unit that said it is busy is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// A poll under way.
#[derive(Debug)]
struct Poll {
    due: Instant,
    /// How often it comes round.
    period: Duration,
    blocks: VecDeque<Block>,
    /// Failed ones, of the first block.
    attempts: u8,
    has_answer: bool,
    trial: Trial,
}

/// What a failed request leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    Again,
    GiveUp,
}

#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) index: u16,
    pub(crate) settings: Arc<Device>,
    pub(crate) voice: Voice,
    /// Of each point.
    next_due: Vec<Instant>,
    state: State,
    /// Polls in a row without any answer.
    failures: u32,
    backoff: Backoff,
    /// No request at all before: a late answer may still come.
    quiet_until: Instant,
    /// No poll before: the device is offline.
    back_until: Instant,
    poll: Option<Poll>,
    pub(crate) unknown: Unknown,
    pub(crate) experience: Experience,
    pub(crate) inquiry: Inquiry,
    /// None: every point has its address.
    survey: Option<Box<Survey>>,
    polls: u64,
    errors: u64,
    skipped: u64,
    last_failure: Option<Failure>,
    last_seen: Option<Now>,
}

impl Polled {
    pub(crate) fn new(gateway: &str, index: u16, settings: Arc<Device>, now: Now) -> Self {
        let voice = voice_of(gateway, index, &settings, now);
        Self {
            index,
            voice,
            next_due: vec![now.instant; settings.points.len()],
            state: State::Unknown,
            failures: 0,
            backoff: Backoff::new(settings.reconnect),
            quiet_until: Instant::ORIGIN,
            back_until: Instant::ORIGIN,
            poll: None,
            unknown: Unknown::default(),
            experience: Experience::new(),
            inquiry: Inquiry::default(),
            survey: Survey::new(&settings.points),
            polls: 0,
            errors: 0,
            skipped: 0,
            last_failure: None,
            last_seen: None,
            settings,
        }
    }

    /// Without those that only others need.
    fn named_channels(&self) -> impl Iterator<Item = &Channel> {
        let is_named = |at: &usize| !self.settings.points.get(*at).is_some_and(Point::is_hidden);
        let channels = self.voice.channels().iter().enumerate();
        channels.filter(move |(at, _)| is_named(at)).map(|(_, channel)| channel)
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.state == State::Offline
    }

    /// Not before: a late answer may still come.
    pub(crate) fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// When the next request of a poll may go.
    pub(crate) fn ready_at(&self) -> Instant {
        let due = if self.poll.is_some() { Instant::ORIGIN } else { self.due() };
        due.max(self.quiet_until)
    }

    /// When the turn of the next poll is, or was.
    pub(crate) fn due(&self) -> Instant {
        self.turn().0
    }

    /// What orders the devices of a line: how late the next poll is, in thousandths of its period. So a line that is
    /// short of time stretches all periods alike.
    pub(crate) fn lateness(&self, now: Instant) -> u128 {
        let (due, period) = self.turn();
        (now.since(due).as_nanos() * 1000).checked_div(period.as_nanos()).unwrap_or(0)
    }

    /// When the next poll is due and how often it comes round.
    fn turn(&self) -> (Instant, Duration) {
        match (&self.poll, self.state) {
            (Some(poll), _) => (poll.due, poll.period),
            (None, State::Offline) => (self.back_until, self.settings.poll.max(POLL_MIN)),
            (None, State::Online | State::Unknown) => {
                let points = self.next_due.iter().zip(&self.settings.points);
                let turns = points.map(|(next_due, point)| (*next_due, period_of(point)));
                turns.min().unwrap_or((Instant::FAR_FUTURE, POLL_MIN))
            }
        }
    }

    /// The read that the poll stands at; a due poll begins with it.
    pub(crate) fn next_block(&mut self, now: Now) -> Option<Block> {
        if self.poll.is_none() {
            self.start_poll(now.instant);
        }
        self.poll.as_ref().and_then(|poll| poll.blocks.front().cloned())
    }

    fn start_poll(&mut self, now: Instant) {
        let (poll_due, period) = self.turn();
        let is_offline = self.state == State::Offline;
        let mut due = Vec::new();
        for (index, (next_due, point)) in self.next_due.iter_mut().zip(&self.settings.points).enumerate() {
            // What comes back says everything again.
            if *next_due > now && !is_offline {
                continue;
            }
            due.push(index);
            if *next_due <= now {
                let passed = periods(now.since(*next_due), period_of(point));
                // Skip a poll rather than queue polls: the next one is on the grid again.
                *next_due = *next_due + times(period_of(point), passed + 1);
                self.skipped += if is_offline { 0 } else { passed };
            }
        }
        let search = self.search_before(&mut due, now);
        let mut blocks = self.planned(due);
        blocks.extend(search);
        if blocks.is_empty() {
            // The unit has none of what is due.
            return;
        }
        self.polls += 1;
        let trial = Trial::default();
        self.poll = Some(Poll { due: poll_due, period, blocks, attempts: 0, has_answer: false, trial });
    }

    fn planned(&self, mut due: Vec<usize>) -> VecDeque<Block> {
        // What a value is scaled with is read along with it.
        let scales = due.iter().filter_map(|index| self.settings.points.get(*index)?.scale_from);
        let scales: Vec<usize> = scales.collect();
        due.extend(scales);
        self.with_headers(&mut due);
        due.sort_unstable();
        due.dedup();
        let mut blocks = self.experience.blocks(&self.settings, &due);
        if let Some(turn) = (self.failures as usize).checked_rem(blocks.len()) {
            // One block that is never answered must not hide the others: another one begins next time.
            blocks.rotate_left(turn);
        }
        self.headers_first(&mut blocks);
        blocks
    }

    /// Somebody else had an answer of the unit: an offline one is looked at now.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.back_until = self.back_until.min(now);
    }

    /// The unit answered, be it with an exception.
    pub(crate) fn handle_answer(&mut self, now: Now, out: &mut Effects) {
        self.failures = 0;
        self.last_seen = Some(now);
        self.backoff.reset();
        out.changed = true;
        self.inquiry.handle_alive();
        if self.state != State::Online {
            self.inquiry.handle_online();
            self.wake_points(now.instant);
            self.state = State::Online;
            self.voice.handle_online(now, out);
        }
    }

    /// Where a command found the device back, no poll of all points is under way: they are due now.
    fn wake_points(&mut self, now: Instant) {
        if self.state == State::Offline && self.poll.is_none() {
            for next_due in &mut self.next_due {
                *next_due = (*next_due).min(now);
            }
        }
    }

    /// The poll's block was answered.
    pub(crate) fn handle_block(&mut self, response: &Response, now: Now, out: &mut Effects) {
        let Some(block) = self.take_block() else { return };
        if self.handle_survey(&block, Some(response), now, out) {
            return;
        }
        self.experience.handle_answered(&block);
        if self.is_moved(&block, response, now, out) {
            return;
        }
        self.apply_block(&block, response, now, out);
        self.finish_poll(now, out);
    }

    /// The poll's block was refused.
    pub(crate) fn handle_exception(&mut self, exception: Exception, now: Now, out: &mut Effects) {
        self.last_failure = Some(Failure::Exception(exception));
        if exception.is_busy() && self.retry(BUSY_PAUSE, now) == Retry::Again {
            return;
        }
        let Some(block) = self.take_block() else { return };
        if self.handle_survey(&block, None, now, out) {
            return;
        }
        if exception.is_of_range() && self.is_tried_in_parts(&block, exception) {
            return;
        }
        self.errors += 1;
        self.doubt_map(&block.points, exception);
        for index in block.points {
            self.voice.apply_reading(index, Reading::bad(BadReason::Exception(exception), now), now, out);
        }
        self.finish_poll(now, out);
    }

    /// No answer to the poll's block.
    pub(crate) fn handle_no_answer(&mut self, failure: Failure, now: Now, out: &mut Effects) {
        let is_permanent = matches!(&failure, Failure::Line(error) if error.is_permanent());
        self.handle_line_failure(&failure, now);
        self.last_failure = Some(failure);
        out.changed = true;
        if self.state != State::Offline && !is_permanent && self.retry(Duration::ZERO, now) == Retry::Again {
            return;
        }
        self.errors += 1;
        let Some(block) = self.take_block() else { return };
        if self.handle_survey_silence(&block, now, out) {
            return;
        }
        if self.poll.as_ref().is_some_and(|poll| poll.has_answer) {
            // The unit is there, it only keeps silent on this block.
            self.apply_silence(&block.points, now, out);
            self.finish_poll(now, out);
        } else {
            self.fail_poll(now, out);
        }
    }

    /// Keeps a serial line's late answers from meeting the next request to the unit.
    pub(crate) fn handle_line_failure(&mut self, failure: &Failure, now: Now) {
        let is_serial = !self.settings.link.numbers_requests();
        if let Failure::Line(error) = failure
            && is_serial
            && !error.is_permanent()
        {
            self.quiet_until = now.instant + self.settings.timeout.min(SERIAL_PAUSE_MAX);
        }
    }

    fn retry(&mut self, pause: Duration, now: Now) -> Retry {
        let Some(poll) = &mut self.poll else { return Retry::GiveUp };
        if poll.attempts >= self.settings.retries {
            return Retry::GiveUp;
        }
        poll.attempts += 1;
        self.quiet_until = self.quiet_until.max(now.instant + pause);
        Retry::Again
    }

    fn take_block(&mut self) -> Option<Block> {
        let poll = self.poll.as_mut()?;
        poll.attempts = 0;
        poll.blocks.pop_front()
    }

    fn is_tried_in_parts(&mut self, block: &Block, exception: Exception) -> bool {
        let Some(Poll { trial, blocks, has_answer, .. }) = &mut self.poll else { return false };
        *has_answer = true;
        self.experience.handle_refused(&self.settings, (block, exception), trial, blocks)
    }

    /// Whoever keeps it is told what was learned.
    fn tell_learned(&mut self, out: &mut Effects) {
        let news = self.experience.take_news();
        out.learned.extend(news.map(|learned| (Arc::clone(&self.settings.name), learned)));
    }

    fn finish_poll(&mut self, now: Now, out: &mut Effects) {
        let Some(poll) = &mut self.poll else { return };
        poll.has_answer = true;
        if !poll.blocks.is_empty() {
            return;
        }
        self.experience.end_poll(std::mem::take(&mut poll.trial));
        self.poll = None;
        self.end_doubt(now.instant);
        self.tell_learned(out);
        self.voice.compute(now, out);
        self.publish_news(now, out);
    }

    fn fail_poll(&mut self, now: Now, out: &mut Effects) {
        self.poll = None;
        self.forget_map();
        self.tell_learned(out);
        self.failures = self.failures.saturating_add(1);
        if self.state == State::Offline {
            self.back_until = now.instant + self.backoff.next_ceiling();
        } else if self.failures >= self.settings.offline_after {
            self.state = State::Offline;
            self.inquiry.handle_offline();
            self.back_until = now.instant + self.backoff.next_ceiling();
            self.voice.handle_offline(now, out);
        }
    }

    /// Readings of a block that a command asked for.
    pub(crate) fn apply_read(&mut self, block: &Block, response: &Response, now: Now, out: &mut Effects) {
        self.apply_block(block, response, now, out);
        self.voice.compute(now, out);
        self.publish_news(now, out);
    }

    fn apply_block(&mut self, block: &Block, response: &Response, now: Now, out: &mut Effects) {
        self.close_windows(now, out);
        for index in &block.points {
            let Some(point) = self.settings.points.get(*index) else { continue };
            let exponent = self.exponent_within(block, response, point);
            let value = match exponent {
                Ok(exponent) => block.value_of(point, response, exponent),
                // What is no value needs no scale.
                Err(error) => Err(block.value_of(point, response, 0).err().unwrap_or(error)),
            };
            let reading = match value {
                Ok(value) => Reading::good(value, now),
                Err(error) => {
                    self.errors += 1;
                    Reading::bad(BadReason::Value(error), now)
                }
            };
            self.voice.apply_reading(*index, reading, now, out);
        }
    }

    fn apply_silence(&mut self, points: &[usize], now: Now, out: &mut Effects) {
        for index in points {
            self.voice.apply_silence(*index, now, out);
        }
    }

    /// What falls due by itself.
    pub(crate) fn handle_time(&mut self, now: Now, out: &mut Effects) {
        if self.voice.window_end() <= now.instant {
            self.close_windows(now, out);
        }
        self.voice.close_batches(now, out);
    }

    fn close_windows(&mut self, now: Now, out: &mut Effects) {
        self.voice.close_windows(now, out);
        self.publish_news(now, out);
    }

    /// A poll under way has more to say.
    fn publish_news(&mut self, now: Now, out: &mut Effects) {
        if self.poll.is_none() {
            self.voice.publish_news(now, out);
        }
    }

    /// Nobody asks the device any more.
    pub(crate) fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        self.poll = None;
        self.voice.handle_shutdown(self.state, now, out);
        self.state = State::Unknown;
    }

    pub(crate) fn status(&self) -> DeviceStatus {
        DeviceStatus {
            name: Arc::clone(&self.settings.name),
            state: self.state,
            polls: self.polls,
            errors: self.errors,
            skipped: self.skipped,
            last_failure: self.last_failure.clone(),
            last_seen: self.last_seen,
            identity: self.inquiry.known().cloned(),
            points: self.named_channels().map(Channel::status).collect(),
        }
    }
}

/// Whole periods in `elapsed`.
fn periods(elapsed: Duration, period: Duration) -> u64 {
    let count = elapsed.as_nanos().checked_div(period.as_nanos()).unwrap_or(0);
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn times(period: Duration, count: u64) -> Duration {
    let nanos = period.as_nanos().saturating_mul(u128::from(count));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn period_of(point: &Point) -> Duration {
    point.poll.max(POLL_MIN)
}

fn voice_of(gateway: &str, index: u16, settings: &Device, now: Now) -> Voice {
    let (publish, when) = (&settings.publish, settings.publish.when);
    let points = settings.points.iter().map(|point| Channel::of_point(point, when, now));
    let computed = settings.computed.iter();
    let computed = computed.map(|point| Channel::of_computed(point, when, settings.poll, now));
    let channels = points.chain(computed).collect();
    let herald = Herald::of_device(gateway, index, settings);
    Voice::new(index, publish, Topics::new(gateway, settings), herald, (channels, &settings.computed))
}
