//! Watches the disk: how much of it is free, for `keep_free`, and whether it takes what it is given, for whoever
//! publishes. Only looks; writing is the store's.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::base::time::Duration;
use crate::hub::Hub;
use crate::mqtt::reason::ReasonCode;
use crate::store::error::StoreError;
use crate::store::trouble::Trouble;
use crate::store::writer::Writer;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks from one measurement of the free space to the next.
const LOOKS_PER_MEASUREMENT: u32 = 5;
/// How long publishers simply wait for a disk that refuses: a hiccup is not their business. A full one is no hiccup.
pub const REFUSE_AFTER: Duration = Duration::from_secs(5);

/// Looks until it is cancelled.
pub async fn run(hub: Arc<Hub>, writer: Arc<Writer>, data_dir: PathBuf, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    let mut measuring = Measuring { data_dir, looks: 0, told: false };
    let mut was_refused = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let trouble = writer.trouble();
        let is_full = trouble.as_ref().is_some_and(|trouble| trouble.error == StoreError::DiskFull);
        if !is_full {
            measuring.look(&hub);
        }
        let refused = trouble.as_ref().and_then(refusal);
        if refused.is_some() || was_refused || hub.is_refusing() {
            hub.handle_disk(refused);
        }
        match (was_refused, refused.is_some()) {
            (false, true) => tracing::warn!("publishers are refused what the disk would have to take"),
            (true, false) => tracing::info!("the disk takes what it is given: nobody is refused any longer"),
            _ => {}
        }
        was_refused = refused.is_some();
    }
}

/// What publishers of MQTT 5 are told; None: they wait.
fn refusal(trouble: &Trouble) -> Option<ReasonCode> {
    match trouble.error {
        StoreError::DiskFull => Some(ReasonCode::QuotaExceeded),
        _ if trouble.since.elapsed() >= REFUSE_AFTER => Some(ReasonCode::UnspecifiedError),
        _ => None,
    }
}

struct Measuring {
    data_dir: PathBuf,
    looks: u32,
    /// The log has heard that it does not work.
    told: bool,
}

impl Measuring {
    fn look(&mut self, hub: &Hub) {
        self.looks = (self.looks + 1) % LOOKS_PER_MEASUREMENT;
        if self.looks != 1 {
            return;
        }
        match rustix::fs::statvfs(&self.data_dir) {
            Ok(status) => {
                hub.handle_disk_free(status.f_bavail.saturating_mul(status.f_frsize));
                self.told = false;
            }
            Err(_) if self.told => {}
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much of the disk is free");
                self.told = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{REFUSE_AFTER, refusal};
    use crate::mqtt::reason::ReasonCode;
    use crate::store::error::StoreError;
    use crate::store::trouble::Trouble;

    #[test]
    fn a_full_disk_is_told_at_once_and_a_broken_one_after_a_while() {
        let now = Instant::now();
        let Some(before) = now.checked_sub(REFUSE_AFTER) else { return };
        let cases = [
            (StoreError::DiskFull, now, Some(ReasonCode::QuotaExceeded)),
            (StoreError::Io { code: 778 }, now, None),
            (StoreError::Io { code: 778 }, before, Some(ReasonCode::UnspecifiedError)),
            (StoreError::ReadOnly, before, Some(ReasonCode::UnspecifiedError)),
        ];
        for (error, since, expected) in cases {
            assert_eq!(refusal(&Trouble { error: error.clone(), since }), expected, "{error}");
        }
    }
}
