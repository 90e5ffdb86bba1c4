//! Commands as an instrument carries them out: which step is next, what a line or a silence means, and how a command
//! ends. A command that was not answered is never repeated unseen.

use crate::base::time::{Duration, Instant, Now};
use crate::config::instrument::Talk;
use crate::device::command::{CommandError, Order};
use crate::device::effect::{Done, Effects};
use crate::device::request::{Failure, LineError};
use crate::device::serial::task::{self, Step, Task};
use crate::device::serial::{Asked, Do, Instrument, Job, LATE_MAX};
use crate::device::topics;
use crate::device::value::Value;
use crate::mqtt::message::Message;

/// What a device may take to show what it was told.
const SHOW_PAUSE: Duration = Duration::from_millis(50);

impl Instrument {
    /// A command to carry out, or to refuse with an answer at once.
    pub fn handle_order(&mut self, order: &Order, now: Now, out: &mut Effects) {
        let wanted = task::wanted(&self.settings, &self.voice.topics, &order.message, now);
        let (point, error) = match wanted {
            Ok(wanted) => {
                let point = wanted.point;
                match Task::new(&self.settings, wanted, order) {
                    Ok(task) => {
                        if let Some(displaced) = self.tasks.push(task) {
                            self.finish(&displaced, Err(&CommandError::Displaced), now, out);
                        }
                        return;
                    }
                    Err(error) => (Some(point), error),
                }
            }
            Err(refusal) => (refusal.point, refusal.error),
        };
        let answer = self.answer(point, &order.message, Err(&error), now);
        match order.id {
            Some(id) => out.done.push(Done { device: order.device, id, answer }),
            None => out.publishes.extend(answer),
        }
    }

    /// What has no time left, and what nobody keeps while there is no port.
    pub(super) fn drop_commands(&mut self, now: Now, out: &mut Effects) {
        while let Some(task) = self.tasks.take_overdue(now) {
            self.finish(&task, Err(&task.overdue()), now, out);
        }
        if self.is_open || self.back_until <= now.instant {
            return;
        }
        while let Some(task) = self.tasks.take_passing() {
            let failure = self.last_failure.clone().unwrap_or(Failure::Line(LineError::Timeout));
            self.finish(&task, Err(&task.failed(failure)), now, out);
        }
    }

    pub(super) fn next_command(&mut self, now: Now) -> Option<Do> {
        if self.line_free_at() > now.instant {
            return None;
        }
        let task = self.tasks.take_next(now)?;
        self.commands_in_a_row = self.commands_in_a_row.saturating_add(1);
        match (task.step, &self.settings.talk) {
            (Step::Write | Step::Confirm, _) => {
                let bytes = task.bytes.clone();
                Some(self.ask(Job::Command(Box::new(task)), bytes))
            }
            (Step::Check | Step::ReadBack, Talk::Asked { send, .. }) => {
                let send = send.clone();
                Some(self.ask(Job::Command(Box::new(task)), send))
            }
            (Step::Check | Step::ReadBack, Talk::Free { .. }) => {
                self.await_answer(Job::Command(Box::new(task)), self.show_wait(), now);
                None
            }
        }
    }

    /// How long one that talks by itself is listened to.
    fn show_wait(&self) -> Duration {
        self.settings.timeout * (u32::from(self.settings.retries) + 1)
    }

    pub(super) fn task(&self) -> Option<&Task> {
        match &self.asked.as_ref()?.job {
            Job::Command(task) => Some(task),
            Job::Request => None,
        }
    }

    fn take_task(&mut self) -> Option<Box<Task>> {
        match self.asked.take_if(|asked| matches!(asked.job, Job::Command(_)))?.job {
            Job::Command(task) => Some(task),
            Job::Request => None,
        }
    }

    /// Whether the device was asked for what its lines say.
    pub(super) fn awaits_a_line(&self) -> bool {
        match self.asked.as_ref().map(|asked| &asked.job) {
            Some(Job::Request) => true,
            Some(Job::Command(task)) => matches!(task.step, Step::Check | Step::ReadBack),
            None => false,
        }
    }

    pub(super) fn is_confirmed_by(&self, text: &str) -> bool {
        let expected = self.task().filter(|task| task.step == Step::Confirm);
        expected.and_then(|task| task.expect.as_ref()).is_some_and(|expect| expect.regex().is_match(text))
    }

    pub(super) fn handle_confirmed(&mut self, now: Now, out: &mut Effects) {
        let Some(task) = self.take_task() else { return };
        self.handle_written(task, now, out);
    }

    pub(super) fn handle_task_sent(&mut self, mut task: Box<Task>, now: Now, out: &mut Effects) {
        match task.step {
            Step::Write if task.expect.is_some() => {
                task.step = Step::Confirm;
                self.await_answer(Job::Command(task), self.settings.timeout, now);
            }
            Step::Write => self.handle_written(task, now, out),
            Step::Check | Step::Confirm | Step::ReadBack => {
                self.await_answer(Job::Command(task), self.settings.timeout, now);
            }
        }
    }

    /// The device has it, as far as it says so at all.
    fn handle_written(&mut self, mut task: Box<Task>, now: Now, out: &mut Effects) {
        if !task.shows {
            self.finish(&task, Ok(&task.value), now, out);
            return;
        }
        task.step = Step::ReadBack;
        task.attempts = 0;
        task.seen = None;
        if self.asks() {
            task.not_before = now.instant + SHOW_PAUSE;
            self.tasks.put_back(*task);
        } else {
            self.await_answer(Job::Command(task), self.show_wait(), now);
        }
    }

    /// What the device shows of the point that the command under way is for; None: nothing that is a value.
    pub(super) fn handle_look(&mut self, shown: Option<Value>, now: Now, out: &mut Effects) {
        let Some(Asked { deadline, .. }) = self.asked else { return };
        let Some(mut task) = self.take_task() else { return };
        let is_shown = shown.as_ref().is_some_and(|shown| !shown.differs(&task.value, None));
        match task.step {
            Step::Check | Step::ReadBack if is_shown => self.finish(&task, Ok(&task.value), now, out),
            Step::Check if task.lost_writes > self.settings.retries => {
                let error = CommandError::NotWritten(Failure::Line(LineError::Timeout));
                self.finish(&task, Err(&error), now, out);
            }
            Step::Check => {
                task.step = Step::Write;
                task.attempts = 0;
                self.tasks.put_back(*task);
            }
            Step::ReadBack if self.asks() => {
                task.seen = Some(CommandError::ReadBack(shown));
                self.look_again(task, LineError::Timeout, now, out);
            }
            // What was on its way says what was before.
            Step::ReadBack => {
                task.seen = Some(CommandError::ReadBack(shown));
                self.asked = Some(Asked { job: Job::Command(task), deadline });
            }
            Step::Write | Step::Confirm => self.asked = Some(Asked { job: Job::Command(task), deadline }),
        }
    }

    pub(super) fn handle_task_silence(&mut self, mut task: Box<Task>, now: Now, out: &mut Effects) {
        let error = LineError::Timeout;
        self.note(Failure::Line(error.clone()), out);
        self.quiet_until = now.instant + self.settings.timeout.min(LATE_MAX);
        match task.step {
            Step::Write | Step::Confirm if task.shows => {
                task.step = Step::Check;
                task.lost_writes = task.lost_writes.saturating_add(1);
                self.tasks.put_back(*task);
            }
            Step::Write | Step::Confirm => {
                self.finish(&task, Err(&task.failed(Failure::Line(error))), now, out);
            }
            Step::Check | Step::ReadBack => self.look_again(task, error, now, out),
        }
    }

    /// A look has shown nothing, or something else.
    fn look_again(&mut self, mut task: Box<Task>, error: LineError, now: Now, out: &mut Effects) {
        task.attempts = task.attempts.saturating_add(1);
        if self.asks() && task.attempts <= self.settings.retries {
            task.not_before = now.instant + SHOW_PAUSE;
            self.tasks.put_back(*task);
        } else if task.id.is_some() && task.step == Step::Check {
            task.not_before = now.instant + task.backoff.next_ceiling();
            self.tasks.put_back(*task);
        } else {
            self.finish(&task, Err(&task.failed(Failure::Line(error))), now, out);
        }
    }

    /// The port went with a command under way: it may have been done.
    pub(super) fn handle_task_lost(
        &mut self,
        mut task: Box<Task>,
        failure: Failure,
        now: Now,
        out: &mut Effects,
    ) {
        if task.step == Step::Write {
            task.step = Step::Confirm;
        }
        if task.id.is_none() || !task.shows {
            self.finish(&task, Err(&task.failed(failure)), now, out);
            return;
        }
        task.step = Step::Check;
        task.not_before = Instant::ORIGIN;
        self.tasks.put_back(*task);
    }

    /// The line stops. What somebody keeps is begun again at the next start.
    pub(super) fn stop_commands(&mut self, now: Now, out: &mut Effects) {
        let under_way = self.take_task();
        if let Some(task) = under_way.filter(|task| task.id.is_none()) {
            self.finish(&task, Err(&CommandError::Stopping), now, out);
        }
        while let Some(task) = self.tasks.take_passing() {
            self.finish(&task, Err(&CommandError::Stopping), now, out);
        }
    }

    fn finish(&self, task: &Task, outcome: Result<&Value, &CommandError>, now: Now, out: &mut Effects) {
        let answer = self.answer(Some(task.point), &task.message, outcome, now);
        match task.id {
            Some(id) => out.done.push(Done { device: self.index, id, answer }),
            None => out.publishes.extend(answer),
        }
    }

    fn answer(
        &self,
        point: Option<usize>,
        message: &Message,
        outcome: Result<&Value, &CommandError>,
        now: Now,
    ) -> Option<Message> {
        let topics = &self.voice.topics;
        let known = |at: usize| Some((&*self.settings.points.get(at)?.name, topics.points.get(at)?));
        topics::answer(point.and_then(known), message, outcome, now)
    }
}
