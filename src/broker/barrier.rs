//! The barrier: what an acknowledgement waits for. Counts, and says who may be told; never sends anything.

use std::collections::{BTreeSet, HashMap};

use crate::broker::effect::{ConnKey, Token};
use crate::spool::Hold;
use crate::store::record::Lsn;

/// Who is told when everything is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The acknowledgement stands in the connection's queue. A connection that is gone is told nothing: its
    /// client sends again.
    Conn(ConnKey),
    Token(Token),
    /// What waits for this waits for it in turn: an answer that stands for its command.
    Hold(Hold),
}

/// A hold that is being counted.
#[derive(Debug)]
pub struct Ticket {
    hold: Hold,
    count: u32,
}

impl Ticket {
    /// One more place has to be safe.
    pub fn hold(&mut self) -> Hold {
        self.count += 1;
        self.hold
    }

    /// What the hold will be known by.
    pub fn id(&self) -> Hold {
        self.hold
    }
}

#[derive(Debug)]
struct Waiting {
    count: u32,
    owner: Owner,
}

#[derive(Debug, Default)]
pub struct Barrier {
    last: u64,
    /// Only ever asked by key. Bounded by what connections and bridges may have unacknowledged.
    pending: HashMap<Hold, Waiting>,
    positions: BTreeSet<(Lsn, Hold)>,
}

impl Barrier {
    pub fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket { hold: Hold(self.last), count: 0 }
    }

    /// The newest ticket's hold.
    pub fn last(&self) -> Hold {
        Hold(self.last)
    }

    /// The ticket waits for a record.
    pub fn wait_for(&mut self, ticket: &mut Ticket, lsn: Lsn) {
        let hold = ticket.hold();
        self.positions.insert((lsn, hold));
    }

    /// The count is complete. True: nothing is left to wait for.
    pub fn seal(&mut self, ticket: &Ticket, owner: Owner) -> bool {
        if ticket.count == 0 {
            return true;
        }
        self.pending.insert(ticket.hold, Waiting { count: ticket.count, owner });
        false
    }

    /// One place is safe. Some: it was the last.
    pub fn release(&mut self, hold: Hold) -> Option<Owner> {
        let waiting = self.pending.get_mut(&hold)?;
        waiting.count = waiting.count.saturating_sub(1);
        if waiting.count > 0 {
            return None;
        }
        self.pending.remove(&hold).map(|waiting| waiting.owner)
    }

    /// Who waits for a hold that is sealed.
    pub fn owner(&self, hold: Hold) -> Option<Owner> {
        self.pending.get(&hold).map(|waiting| waiting.owner)
    }

    /// The next hold that one record less keeps back, now that records up to `lsn` are durable.
    pub fn next_durable(&mut self, lsn: Lsn) -> Option<Hold> {
        let (at, hold) = *self.positions.first()?;
        if at > lsn {
            return None;
        }
        self.positions.pop_first();
        Some(hold)
    }

    /// A client came back and asks again for what is not safe yet. False: it is safe.
    pub fn rebind(&mut self, hold: Hold, owner: Owner) -> bool {
        self.pending.get_mut(&hold).map(|waiting| waiting.owner = owner).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::{Barrier, Owner};
    use crate::broker::effect::Token;
    use crate::store::record::Lsn;

    #[test]
    fn a_hold_is_released_by_its_last_place() {
        let mut barrier = Barrier::default();
        let mut ticket = barrier.ticket();
        let hold = ticket.hold();
        barrier.wait_for(&mut ticket, Lsn(7));
        assert!(!barrier.seal(&ticket, Owner::Token(Token(1))));
        assert_eq!(barrier.next_durable(Lsn(6)), None);
        assert_eq!(barrier.release(hold), None);
        assert_eq!(barrier.next_durable(Lsn(9)), Some(hold));
        assert_eq!(barrier.release(hold), Some(Owner::Token(Token(1))));
        assert_eq!(barrier.release(hold), None);
        let free = barrier.ticket();
        assert!(barrier.seal(&free, Owner::Token(Token(2))));
    }
}
