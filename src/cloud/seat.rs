//! The hub as the door of a bridge's hand. Translates names, nothing more.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::bridge::fault::LinkFault;
use crate::bridge::servers::Destination;
use crate::cloud::door::{Door, Next};
use crate::hub::link::{LinkNext, LinkSeat};
use crate::mqtt::packet::Packet;

impl Door for LinkSeat {
    fn connected(&self, sends: &mut Vec<Packet>) -> Next {
        next(self.handle_connected(sends))
    }

    fn packets(&self, batch: &mut Vec<Packet>, sends: &mut Vec<Packet>) -> Result<Next, LinkFault> {
        self.handle_packets(batch, sends).map(next)
    }

    fn disconnected(&self, why: LinkFault) {
        self.handle_disconnected(why);
    }

    fn destination(&self) -> Destination {
        LinkSeat::destination(self)
    }

    fn probed(&self, found: Option<usize>) {
        self.handle_probed(found);
    }

    fn renewed(&self) {
        self.handle_renewed();
    }

    fn take_sends(&self, sends: &mut Vec<Packet>) -> Next {
        next(self.take(sends))
    }

    fn bell(&self) -> Arc<Notify> {
        LinkSeat::bell(self)
    }
}

fn next(next: LinkNext) -> Next {
    match next {
        LinkNext::Go => Next::Go,
        LinkNext::Connect => Next::Connect,
        LinkNext::Disconnect => Next::Disconnect,
        LinkNext::Stop => Next::Stop,
    }
}
