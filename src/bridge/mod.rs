//! The bridge brain: rules, the uplink's window, the buffer. No I/O, no clock, no task.
