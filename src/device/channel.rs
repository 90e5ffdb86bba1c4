//! One point as the world hears of it: its readings, its window, and whether one is worth a message. Never knows
//! registers or topics.

use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::config::instrument::FieldPoint;
use crate::config::model::{Point, When};
use crate::config::point::Computed;
use crate::device::reading::{Memory, Reading, Rule};
use crate::device::status::PointStatus;
use crate::device::window::Window;

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: Arc<str>,
    pub(crate) unit: Option<Arc<str>>,
    rule: Rule,
    memory: Memory,
    /// None, as mostly: each reading is looked at by itself.
    window: Option<Box<Window>>,
    /// Said to the world at all.
    pub(crate) is_public: bool,
    is_writable: bool,
    /// A point that is computed from this one has to be computed again.
    has_changed: bool,
}

impl Channel {
    pub(crate) fn of_point(point: &Point, when: When, now: Now) -> Self {
        Self {
            name: Arc::clone(&point.name),
            unit: point.unit.clone(),
            rule: Rule { when, deadband: point.deadband, heartbeat: point.heartbeat, poll: point.poll },
            memory: Memory::default(),
            window: point.aggregate.map(|settings| Box::new(Window::new(settings, point.round, now))),
            is_public: point.publish,
            is_writable: point.writable,
            has_changed: false,
        }
    }

    /// `rhythm` is how often it is heard.
    pub(crate) fn of_field(point: &FieldPoint, when: When, rhythm: Duration, now: Now) -> Self {
        Self {
            name: Arc::clone(&point.name),
            unit: point.unit.clone(),
            rule: Rule { when, deadband: point.deadband, heartbeat: point.heartbeat, poll: rhythm },
            memory: Memory::default(),
            window: point.aggregate.map(|settings| Box::new(Window::new(settings, point.round, now))),
            is_public: point.publish,
            is_writable: point.command.is_some(),
            has_changed: false,
        }
    }

    /// `rhythm` is how often that is heard which it is computed from.
    pub(crate) fn of_computed(computed: &Computed, when: When, rhythm: Duration, now: Now) -> Self {
        let Computed { name, unit, round, deadband, heartbeat, aggregate, publish, .. } = computed;
        Self {
            name: Arc::clone(name),
            unit: unit.clone(),
            rule: Rule { when, deadband: *deadband, heartbeat: *heartbeat, poll: rhythm },
            memory: Memory::default(),
            window: aggregate.map(|settings| Box::new(Window::new(settings, *round, now))),
            is_public: *publish,
            is_writable: false,
            has_changed: false,
        }
    }

    /// What the device said last.
    pub(crate) fn last(&self) -> Option<&Reading> {
        self.memory.last()
    }

    /// What the world is to know: a window's result, where there are windows.
    pub(crate) fn shown(&self) -> Option<&Reading> {
        self.window.as_ref().map_or_else(|| self.memory.last(), |window| window.closed())
    }

    /// Says whether the reading is to be published.
    pub(crate) fn apply_reading(&mut self, reading: Reading, now: Now) -> bool {
        self.has_changed = true;
        if let Some(window) = &mut self.window {
            window.handle_reading(&reading);
        }
        let is_news = self.memory.apply_reading(reading, &self.rule, now.instant);
        is_news && self.is_public && self.window.is_none()
    }

    /// No answer. Says whether a value is to be published as stale.
    pub(crate) fn apply_silence(&mut self) -> bool {
        if let Some(window) = &mut self.window {
            window.handle_silence();
        }
        let is_news = self.memory.apply_silence();
        self.has_changed |= is_news;
        is_news && self.is_public && self.window.is_none()
    }

    /// When its window ends.
    pub(crate) fn window_end(&self) -> Instant {
        self.window.as_ref().map_or(Instant::FAR_FUTURE, |window| window.end())
    }

    /// Ends a window whose time is over. Says whether there is something to be published.
    pub(crate) fn close_window(&mut self, now: Now) -> bool {
        let due = self.window.as_mut().filter(|window| window.end() <= now.instant);
        due.is_some_and(|window| window.close(now)) && self.is_public
    }

    /// What is shown was published.
    pub(crate) fn handle_published(&mut self, now: Instant) {
        self.memory.handle_published(now);
    }

    /// Whether it changed since this was asked.
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed
    }

    pub(crate) fn handle_computed(&mut self) {
        self.has_changed = false;
    }

    pub(crate) fn status(&self) -> PointStatus {
        PointStatus {
            name: Arc::clone(&self.name),
            unit: self.unit.clone(),
            writable: self.is_writable,
            reading: self.memory.last().cloned(),
        }
    }
}
