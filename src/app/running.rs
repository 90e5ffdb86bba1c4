//! What runs now, for whoever shows or controls it: replaced as a whole by a reload. Owns nothing that runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::app::LineStatus;
use crate::base::time::Timestamp;
use crate::bus::share::SharedLine;
use crate::config::model::Config;

/// At one moment.
#[derive(Clone)]
pub struct Running {
    pub config: Arc<Config>,
    pub lines: Vec<LineStatus>,
    pub shares: Vec<Arc<SharedLine>>,
    /// None: there was none since the start.
    pub reload: Option<LastReload>,
}

/// What came of the last reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReload {
    pub at: Timestamp,
    /// Why nothing was changed. Empty: it was applied.
    pub faults: Vec<String>,
    /// What changed.
    pub changed: String,
    /// Keys that count only after a restart.
    pub restart: Vec<String>,
}

/// Where what runs now is seen.
#[derive(Clone)]
pub struct Standing(watch::Receiver<Arc<Running>>);

impl Standing {
    pub fn now(&self) -> Arc<Running> {
        self.0.borrow().clone()
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.borrow().config)
    }

    /// Returns when something else runs; never once the gateway has ended.
    pub async fn until_changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Where it is told.
pub struct Stand(watch::Sender<Arc<Running>>);

impl Stand {
    pub fn new(running: Running) -> Self {
        Self(watch::Sender::new(Arc::new(running)))
    }

    pub fn see(&self) -> Standing {
        Standing(self.0.subscribe())
    }

    pub fn replace(&self, running: Running) {
        self.0.send_replace(Arc::new(running));
    }
}
