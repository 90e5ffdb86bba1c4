//! How much of the data directory's file system is free, for `keep_free`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::base::time::Duration;
use crate::hub::Hub;

const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Measures until it is cancelled.
pub async fn run(hub: Arc<Hub>, data_dir: PathBuf, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(MEASURE_INTERVAL);
    let mut told = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match rustix::fs::statvfs(&data_dir) {
            Ok(status) => {
                hub.handle_disk_free(status.f_bavail.saturating_mul(status.f_frsize));
                told = false;
            }
            Err(_) if told => {}
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much of the disk is free");
                told = true;
            }
        }
    }
}
