//! What a visit to the poller wants done. Facts alone: the hand does them.

use std::sync::Arc;

use crate::base::time::Instant;
use crate::device::learned::Learned;
use crate::device::polled::survey::MapNews;
use crate::device::request::Request;
use crate::mqtt::message::Message;
use crate::mqtt::qos::PacketId;

/// Owned by the caller and reused.
#[derive(Debug, Default)]
pub struct Effects {
    /// In this order.
    pub publishes: Vec<Message>,
    /// Behind the publishes.
    pub done: Vec<Done>,
    /// [`Poller::status`](crate::device::Poller::status) says something else than before.
    pub changed: bool,
    /// All that is known of units of which something new was learned, by their devices' names.
    pub learned: Vec<(Arc<str>, Learned)>,
    /// The maps of units, where they say something else than before, by their devices' names.
    pub maps: Vec<(Arc<str>, MapNews)>,
}

/// The end of an order that has an identifier: whoever keeps the command forgets it as its answer is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The device, by its index in the configuration.
    pub device: u16,
    pub id: PacketId,
    /// None where there is no topic to answer to.
    pub answer: Option<Message>,
}

/// What the line is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Request(Request),
    /// Nothing before this, unless an order comes.
    Wait(Instant),
}
