//! Log set-up and counts: tracing, to the journal through systemd-journal-logger under systemd. Knows no domain type.

pub mod frames;
pub mod journal;
pub mod limit;
pub mod log;
pub mod tail;
pub mod traffic;
