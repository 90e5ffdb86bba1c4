//! The device brain: what to read when, what the registers mean, what to publish. No I/O, no clock, no task.
