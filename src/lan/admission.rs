//! How many connections may be open at once, whatever they have said so far. Counts them; never closes one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Over `limits.connections`, which counts clients: room for those that are about to be told that there is none,
/// that take over their own earlier connection, or that are on their way out.
const SPARE_CONNECTIONS: usize = 64;

#[derive(Debug)]
pub struct Admission {
    open: AtomicUsize,
    open_max: usize,
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub struct Admitted(Arc<Admission>);

impl Admission {
    pub fn new(connections_max: u32) -> Arc<Admission> {
        Arc::new(Admission { open: AtomicUsize::new(0), open_max: connections_open_max(connections_max) })
    }

    /// None: too many are open.
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let more = |open: usize| (open < self.open_max).then_some(open + 1);
        let admitted = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        admitted.then(|| Admitted(self.clone()))
    }
}

/// Sockets that may be open at once where so many clients may be connected.
pub fn connections_open_max(connections_max: u32) -> usize {
    usize::try_from(connections_max).unwrap_or(usize::MAX).saturating_add(SPARE_CONNECTIONS)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, SPARE_CONNECTIONS};

    #[test]
    fn a_place_is_taken_once_and_free_again_when_left() {
        let admission = Admission::new(2);
        let mut places: Vec<_> = (0..2 + SPARE_CONNECTIONS).map_while(|_| admission.admit()).collect();
        assert_eq!(places.len(), 2 + SPARE_CONNECTIONS);
        assert!(admission.admit().is_none());
        places.pop();
        assert!(admission.admit().is_some());
    }
}
