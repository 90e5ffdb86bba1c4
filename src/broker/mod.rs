//! The broker brain: sessions, subscriptions, routing, acknowledgements. No I/O, no clock, no task.

pub mod effect;
