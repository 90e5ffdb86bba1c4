//! The brains' deadlines: sleeps until the next one, then lets them handle it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::hub::core::Core;

/// Runs until it is cancelled.
pub async fn run(hub: Arc<Hub>, cancel: CancellationToken) {
    loop {
        let earlier = hub.timer.notified();
        let deadline = hub.next_deadline();
        let sleep = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(hub.clock.to_std(at).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = earlier => {}
            () = sleep => hub.visit(Core::handle_timeout),
        }
    }
}
