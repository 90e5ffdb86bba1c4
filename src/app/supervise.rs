//! Tasks with an owner, a name, an end and a place to fail. A task that panics is started again after a back-off;
//! one that returns is done.

use std::future::Future;
use std::pin::Pin;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::backoff::{Backoff, BackoffBounds};
use crate::base::pulse::Pulses;
use crate::base::time::Duration;

const RESTART_BACKOFF: BackoffBounds =
    BackoffBounds { min: Duration::from_millis(500), max: Duration::from_secs(60) };
/// A task that lived for so long has earned a fresh back-off.
const STABLE: Duration = Duration::from_secs(60);

type Make = Box<dyn Fn(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// All tasks of one gateway.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    cancel: CancellationToken,
    pulses: Pulses,
}

impl Supervisor {
    /// Its tasks end with `cancel`, and are parts that `pulses` watch.
    pub fn new(cancel: CancellationToken, pulses: &Pulses) -> Self {
        Self { tasks: JoinSet::new(), cancel, pulses: pulses.clone() }
    }

    /// Runs what `make` makes until it returns, again and again if it panics.
    pub fn spawn<F, T>(&mut self, name: String, make: F)
    where
        F: Fn(CancellationToken) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed(name, Box::new(move |cancel| Box::pin(make(cancel))));
    }

    /// Boxed, so that the runtime's code for a task is there once, and not for each kind of task.
    fn spawn_boxed(&mut self, name: String, make: Make) {
        let cancel = self.cancel.clone();
        let pulse = self.pulses.part(&name);
        self.tasks.spawn(async move {
            let mut backoff = Backoff::new(RESTART_BACKOFF);
            loop {
                let started = tokio::time::Instant::now();
                let (task, pulse) = (make(cancel.clone()), pulse.clone());
                let ended = tokio::spawn(async move { pulse.watch(task).await }).await;
                if ended.is_ok() || cancel.is_cancelled() {
                    return;
                }
                if started.elapsed() >= STABLE {
                    backoff.reset();
                }
                let wait = backoff.next_ceiling();
                tracing::error!(task = name, "a task panicked and is started again in {wait:?}");
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }

    /// Waits for all tasks to end: those that end by themselves, or that were told to.
    pub async fn join(mut self) {
        self.wait().await;
    }

    /// Waits for all tasks to end by themselves.
    pub async fn wait(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// Tells all tasks to end and waits for them, for no longer than `wait`.
    pub async fn end(self, wait: Duration) {
        self.cancel.cancel();
        if tokio::time::timeout(wait, self.join()).await.is_err() {
            tracing::warn!("a task did not end in {wait:?}");
        }
    }
}

/// A start that fails halfway leaves nothing running.
impl Drop for Supervisor {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::Supervisor;
    use crate::base::pulse::Pulses;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again() {
        let runs = Arc::new(AtomicU32::new(0));
        let cancel = CancellationToken::new();
        let mut supervisor = Supervisor::new(cancel.clone(), &Pulses::default());
        let seen = runs.clone();
        supervisor.spawn("test".to_owned(), move |cancel| {
            let seen = seen.clone();
            async move {
                assert!(seen.fetch_add(1, Ordering::Relaxed) >= 2, "fails twice");
                cancel.cancelled().await;
            }
        });
        while runs.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(super::Duration::from_millis(100)).await;
        }
        cancel.cancel();
        supervisor.join().await;
        assert_eq!(runs.load(Ordering::Relaxed), 3, "and not once more");
    }
}
