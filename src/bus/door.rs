//! How the hand of a line meets the gateway. The hub implements it; nothing here does any work.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::device::command::Order;
use crate::device::effect::Done;
use crate::mqtt::message::Message;

/// The door to one line. Every call is one visit and never blocks for long.
pub trait Door: Send + Sync {
    /// The line has these devices from now on, of which some are new to it, at its beginning all: what was begun of
    /// those before is given again. Nothing is given for others.
    fn drives(&self, devices: &[u16], fresh: &[u16]);
    /// What is to be begun now.
    fn take_orders(&self, orders: &mut Vec<Order>);
    /// What the devices say, in this order, and the commands that have ended. Never called with nothing.
    fn report(&self, publishes: Vec<Message>, done: Vec<Done>);
    /// Rung with `notify_one` when there may be orders.
    fn bell(&self) -> Arc<Notify>;
}
