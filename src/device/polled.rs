//! One device as its line sees it: when its points are due, how far a poll has come, whether it answers, and
//! what of it is published. Never chooses between devices, never touches the line.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::backoff::Backoff;
use crate::base::time::{Duration, Instant, Now, Timestamp};
use crate::config::model::{Device, Format};
use crate::device::effect::Effects;
use crate::device::experience::{Experience, Trial};
use crate::device::format;
use crate::device::plan::Block;
use crate::device::reading::{BadReason, Memory, Quality, Reading, Rule};
use crate::device::request::{Exception, Failure, Response};
use crate::device::status::{DeviceStatus, PointStatus, State};
use crate::device::topics::Topics;
use crate::device::value::Value;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// The shortest rhythm: keeps a poll of zero from dividing by it.
const POLL_MIN: Duration = Duration::from_millis(1);
/// A serial line is left alone by a unit that failed for one time-out, but no longer than this: what still
/// comes is late.
const SERIAL_PAUSE_MAX: Duration = Duration::from_millis(500);
/// A unit that said it is busy is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct PolledPoint {
    rule: Rule,
    memory: Memory,
    next_due: Instant,
}

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
    /// There is something new for the device's message.
    has_news: bool,
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
    pub(crate) settings: Device,
    points: Vec<PolledPoint>,
    pub(crate) topics: Topics,
    state: State,
    /// Polls in a row without any answer.
    failures: u32,
    backoff: Backoff,
    /// No request at all before: a late answer may still come.
    quiet_until: Instant,
    /// No poll before: the device is offline.
    back_until: Instant,
    poll: Option<Poll>,
    pub(crate) experience: Experience,
    polls: u64,
    errors: u64,
    skipped: u64,
    last_failure: Option<Failure>,
    last_seen: Option<Timestamp>,
}

impl Polled {
    pub(crate) fn new(gateway: &str, index: u16, settings: Device, now: Now) -> Self {
        let points = settings.points.iter().map(|point| PolledPoint {
            rule: Rule {
                when: settings.publish.when,
                deadband: point.deadband,
                heartbeat: point.heartbeat,
                poll: point.poll.max(POLL_MIN),
            },
            memory: Memory::default(),
            next_due: now.instant,
        });
        let points = points.collect();
        let topics = Topics::new(gateway, &settings);
        Self {
            index,
            points,
            topics,
            state: State::Unknown,
            failures: 0,
            backoff: Backoff::new(settings.reconnect),
            quiet_until: Instant::ORIGIN,
            back_until: Instant::ORIGIN,
            poll: None,
            experience: Experience::new(),
            polls: 0,
            errors: 0,
            skipped: 0,
            last_failure: None,
            last_seen: None,
            settings,
        }
    }

    /// The point's last value, where it is good.
    pub(crate) fn value_of(&self, index: usize) -> Option<Value> {
        let reading = self.points.get(index)?.memory.last()?;
        reading.value.clone().filter(|_| reading.quality == Quality::Good)
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
                let turns = self.points.iter().map(|point| (point.next_due, point.rule.poll));
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
        for (index, point) in self.points.iter_mut().enumerate() {
            // What comes back says everything again.
            if point.next_due > now && !is_offline {
                continue;
            }
            due.push(index);
            if point.next_due <= now {
                let passed = periods(now.since(point.next_due), point.rule.poll);
                // Skip a poll rather than queue polls: the next one is on the grid again.
                point.next_due = point.next_due + times(point.rule.poll, passed + 1);
                self.skipped += if is_offline { 0 } else { passed };
            }
        }
        let mut blocks = self.experience.blocks(&self.settings, &due);
        if let Some(turn) = (self.failures as usize).checked_rem(blocks.len()) {
            // One block that is never answered must not hide the others: another one begins next time.
            blocks.rotate_left(turn);
        }
        self.polls += 1;
        self.poll = Some(Poll {
            due: poll_due,
            period,
            blocks,
            attempts: 0,
            has_answer: false,
            has_news: false,
            trial: Trial::default(),
        });
    }

    /// The unit answered, be it with an exception.
    pub(crate) fn handle_answer(&mut self, now: Now, out: &mut Effects) {
        self.failures = 0;
        self.last_seen = Some(now.wall);
        self.backoff.reset();
        out.changed = true;
        if self.state != State::Online {
            self.wake_points(now.instant);
            self.state = State::Online;
            self.publish_status("online", now, out);
        }
    }

    /// Where a command found the device back, no poll of all points is under way: they are due now.
    fn wake_points(&mut self, now: Instant) {
        if self.state == State::Offline && self.poll.is_none() {
            for point in &mut self.points {
                point.next_due = point.next_due.min(now);
            }
        }
    }

    /// The poll's block was answered.
    pub(crate) fn handle_block(&mut self, response: &Response, now: Now, out: &mut Effects) {
        let Some(block) = self.take_block() else { return };
        self.experience.handle_answered(&block);
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
        if exception.is_of_range() && self.is_tried_in_parts(&block, exception) {
            return;
        }
        self.errors += 1;
        for index in block.points {
            self.apply_reading(index, Reading::bad(BadReason::Exception(exception), now.wall), now, out);
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
        let has_news = poll.has_news;
        self.experience.end_poll(std::mem::take(&mut poll.trial));
        self.poll = None;
        self.tell_learned(out);
        if has_news {
            self.publish_device(now, out);
        }
    }

    fn fail_poll(&mut self, now: Now, out: &mut Effects) {
        self.poll = None;
        self.tell_learned(out);
        self.failures = self.failures.saturating_add(1);
        if self.state == State::Offline {
            self.back_until = now.instant + self.backoff.next_ceiling();
        } else if self.failures >= self.settings.offline_after {
            self.state = State::Offline;
            self.back_until = now.instant + self.backoff.next_ceiling();
            self.publish_status("offline", now, out);
            let all: Vec<usize> = (0..self.points.len()).collect();
            self.apply_silence(&all, now, out);
            if self.points.iter().any(|point| point.memory.last().is_some()) {
                self.publish_device(now, out);
            }
        }
    }

    /// Readings of a block that was asked for, by a poll or by a command that reads back.
    pub(crate) fn apply_block(&mut self, block: &Block, response: &Response, now: Now, out: &mut Effects) {
        for index in &block.points {
            let Some(point) = self.settings.points.get(*index) else { continue };
            let reading = match block.value_of(point, response) {
                Ok(value) => Reading::good(value, now.wall),
                Err(error) => {
                    self.errors += 1;
                    Reading::bad(BadReason::Value(error), now.wall)
                }
            };
            self.apply_reading(*index, reading, now, out);
        }
    }

    fn apply_reading(&mut self, index: usize, reading: Reading, now: Now, out: &mut Effects) {
        let Some(point) = self.points.get_mut(index) else { return };
        out.changed = true;
        if point.memory.apply_reading(reading, &point.rule, now.instant) {
            self.publish_point(index, now, out);
        }
    }

    fn apply_silence(&mut self, points: &[usize], now: Now, out: &mut Effects) {
        for index in points {
            let is_news = self.points.get_mut(*index).is_some_and(|point| point.memory.apply_silence());
            if is_news {
                self.publish_point(*index, now, out);
            }
        }
    }

    fn publish_point(&mut self, index: usize, now: Now, out: &mut Effects) {
        if self.topics.device.is_some() {
            match &mut self.poll {
                Some(poll) => poll.has_news = true,
                // Read back after a command, outside of a poll.
                None if self.state == State::Online => self.publish_device(now, out),
                // One message tells of all points at once: `fail_poll` sends it.
                None => {}
            }
            return;
        }
        let (Some(point), Some(settings)) = (self.points.get_mut(index), self.settings.points.get(index))
        else {
            return;
        };
        let Some(reading) = point.memory.last() else { return };
        let payload = match self.settings.publish.format {
            Format::Json => Some(format::json_point(reading, settings.unit.as_deref())),
            // A value alone cannot say that it is doubtful.
            Format::Plain if reading.quality == Quality::Good => format::plain_point(reading),
            Format::Plain => None,
        };
        let topic = self.topics.points.get(index).and_then(|topics| topics.reading.clone());
        let (Some(payload), Some(topic)) = (payload, topic) else { return };
        point.memory.handle_published(now.instant);
        self.publish_reading(topic, payload, now, out);
    }

    fn publish_device(&mut self, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.device.clone() else { return };
        let readings = self.settings.points.iter().zip(&self.points);
        let readings = readings.filter_map(|(settings, point)| Some((&*settings.name, point.memory.last()?)));
        let time = readings.clone().map(|(_, reading)| reading.time).max().unwrap_or(now.wall);
        let payload = format::json_device(time, readings);
        for point in &mut self.points {
            point.memory.handle_published(now.instant);
        }
        self.publish_reading(topic, payload, now, out);
    }

    fn publish_reading(&self, topic: TopicName, payload: String, now: Now, out: &mut Effects) {
        let publish = &self.settings.publish;
        let mut message = Message::new(topic, payload, publish.qos, Origin::Device(self.index), now);
        message.retain = publish.retain;
        out.publishes.push(message);
    }

    fn publish_status(&self, text: &'static str, now: Now, out: &mut Effects) {
        let Some(topic) = self.topics.status.clone() else { return };
        let mut message = Message::new(topic, text, QoS::AtLeastOnce, Origin::Gateway, now);
        message.retain = true;
        out.publishes.push(message);
        out.changed = true;
    }

    /// Nobody asks the device any more.
    pub(crate) fn handle_shutdown(&mut self, now: Now, out: &mut Effects) {
        self.poll = None;
        if self.state == State::Online {
            self.publish_status("offline", now, out);
        }
        self.state = State::Unknown;
    }

    pub(crate) fn status(&self) -> DeviceStatus {
        let readings = self.settings.points.iter().zip(&self.points);
        DeviceStatus {
            name: Arc::clone(&self.settings.name),
            state: self.state,
            polls: self.polls,
            errors: self.errors,
            skipped: self.skipped,
            last_failure: self.last_failure.clone(),
            last_seen: self.last_seen,
            points: readings
                .map(|(settings, point)| PointStatus {
                    name: Arc::clone(&settings.name),
                    unit: settings.unit.clone(),
                    writable: settings.writable,
                    reading: point.memory.last().cloned(),
                })
                .collect(),
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
