//! Requests that a person makes by hand on a line that the gateway owns: they wait here for their turn, between
//! two polls. Makes none itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::device::request::{Reply, Request};

/// Requests that wait for one line.
const WAITING_MAX: usize = 16;

/// One line's.
#[derive(Debug, Default)]
pub struct Desk {
    waiting: Mutex<VecDeque<Asked>>,
    bell: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    answer: oneshot::Sender<Reply>,
}

impl Asked {
    pub(crate) fn answer(self, reply: Reply) {
        // Whoever asked may have given up meanwhile.
        let _ = self.answer.send(reply);
    }
}

impl Desk {
    /// The answer comes when the line has made the request, and never where the asker is gone before. None: too
    /// many wait.
    pub fn ask(&self, request: Request) -> Option<oneshot::Receiver<Reply>> {
        let mut waiting = self.lock();
        waiting.retain(|asked| !asked.answer.is_closed());
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        waiting.push_back(Asked { request, answer });
        self.bell.notify_one();
        Some(answered)
    }

    /// Nothing is done for somebody who has given up: a write would come as a surprise.
    pub(crate) fn take(&self) -> Option<Asked> {
        let mut waiting = self.lock();
        std::iter::from_fn(|| waiting.pop_front()).find(|asked| !asked.answer.is_closed())
    }

    /// Rung when somebody asks.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Asked>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Desk, WAITING_MAX};
    use crate::base::time::Duration;
    use crate::config::model::Table;
    use crate::device::request::{LineError, Request, RequestKind};

    fn request(address: u16) -> Request {
        let kind = RequestKind::Read { table: Table::Holding, address, count: 1 };
        Request::by_hand(1, kind, Duration::from_secs(1))
    }

    #[test]
    fn who_has_given_up_is_not_served_and_takes_no_place() {
        let desk = Desk::default();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| desk.ask(request(0)).expect("a place")).collect();
        assert!(desk.ask(request(0)).is_none());
        waiting.truncate(1);
        let mut last = desk.ask(request(7)).expect("a place");
        desk.take().expect("the first").answer(Err(LineError::Timeout));
        assert_eq!(waiting[0].try_recv(), Ok(Err(LineError::Timeout)));
        let asked = desk.take().expect("the last");
        assert_eq!(asked.request, request(7));
        asked.answer(Err(LineError::Busy));
        assert_eq!(last.try_recv(), Ok(Err(LineError::Busy)));
        assert!(desk.take().is_none());
    }
}
