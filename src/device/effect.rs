//! What a visit to the poller wants done. Facts alone: the hand does them.

use crate::base::time::Instant;
use crate::device::request::Request;
use crate::mqtt::message::Message;

/// Owned by the caller and reused.
#[derive(Debug, Default)]
pub struct Effects {
    /// In this order.
    pub publishes: Vec<Message>,
    /// [`Poller::status`](crate::device::Poller::status) says something else than before.
    pub changed: bool,
}

/// What the line is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Request(Request),
    /// Nothing before this, unless a command comes.
    Wait(Instant),
}
