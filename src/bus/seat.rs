//! The hub as the door of a line's hand. Translates names, nothing more.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::bus::door::Door;
use crate::device::command::Order;
use crate::device::effect::Done;
use crate::hub::line::LineSeat;
use crate::mqtt::message::Message;

impl Door for LineSeat {
    fn drives(&self, devices: &[u16], fresh: &[u16]) {
        self.handle_devices(devices, fresh);
    }

    fn take_orders(&self, orders: &mut Vec<Order>) {
        LineSeat::take_orders(self, orders);
    }

    fn report(&self, publishes: Vec<Message>, done: Vec<Done>) {
        LineSeat::report(self, publishes, done);
    }

    fn bell(&self) -> Arc<Notify> {
        LineSeat::bell(self)
    }
}
