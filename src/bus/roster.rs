//! Which devices a line has, where that changes while it runs: told to its task, which says when it has taken it in.
//! Outlives the task, so that one that is started again drives what counts now. Decides nothing.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};

use crate::base::lock::lock;
use crate::device::LineSettings;

/// One line's.
#[derive(Debug)]
pub struct Roster {
    /// With the number of the change.
    current: Mutex<(u64, LineSettings)>,
    /// Rung with each change.
    bell: Arc<Notify>,
    /// The last change that the line has taken in.
    taken: watch::Sender<u64>,
}

impl Roster {
    pub fn new(settings: LineSettings) -> Arc<Self> {
        Arc::new(Self {
            current: Mutex::new((0, settings)),
            bell: Arc::default(),
            taken: watch::Sender::new(0),
        })
    }

    /// What counts now.
    pub fn current(&self) -> LineSettings {
        lock(&self.current).1.clone()
    }

    /// Other devices from now on.
    pub fn replace(&self, settings: LineSettings) {
        let mut current = lock(&self.current);
        *current = (current.0 + 1, settings);
        drop(current);
        self.bell.notify_one();
    }

    /// Returns once the line has taken in what was told before.
    pub async fn until_taken(&self) {
        let wanted = lock(&self.current).0;
        let mut taken = self.taken.subscribe();
        // The sender lives as long as this.
        let _reached = taken.wait_for(|taken| *taken >= wanted).await;
    }

    /// What the line has not taken in yet, with its number.
    pub(super) fn news(&self) -> Option<(u64, LineSettings)> {
        let current = lock(&self.current);
        (current.0 > *self.taken.borrow()).then(|| current.clone())
    }

    /// The line has taken it in.
    pub(super) fn handle_taken(&self, number: u64) {
        self.taken.send_replace(number);
    }

    pub(super) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}
