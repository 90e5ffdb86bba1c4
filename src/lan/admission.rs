//! How many connections may be open at once, in all and from one address, whatever they have said so far. Counts
//! them; never closes one.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::address::Address;
use crate::config::limits::Limits;

/// Over `limits.connections`, which counts clients: room for those that are about to be told that there is none,
/// that take over their own earlier connection, or that are on their way out.
const SPARE_CONNECTIONS: usize = 64;

#[derive(Debug)]
pub struct Admission {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all_max: usize,
    /// None: as many as may be open in all.
    per_address_max: Option<NonZeroU32>,
    all: usize,
    /// Of addresses that have any open, and only where those are bounded.
    by_address: BTreeMap<Address, u32>,
}

/// One connection's place; free again when dropped.
#[derive(Debug)]
pub struct Admitted(Box<Place>);

/// In a box: a connection's task carries it through all of its states.
#[derive(Debug)]
struct Place {
    admission: Arc<Admission>,
    address: Address,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    InAll,
    ForTheAddress,
}

impl Admission {
    pub fn new(limits: &Limits) -> Arc<Admission> {
        let admission = Arc::new(Admission { open: Mutex::default() });
        admission.replace(limits);
        admission
    }

    /// Other limits for who comes. Whoever is here stays; addresses are counted from when they are bounded on.
    pub fn replace(&self, limits: &Limits) {
        let mut open = self.lock();
        open.all_max = connections_open_max(limits.connections);
        open.per_address_max = limits.connections_per_address;
    }

    pub fn admit(self: &Arc<Self>, address: Address) -> Result<Admitted, NoPlace> {
        let mut open = self.lock();
        if let Some(max) = open.per_address_max {
            let from_there = open.by_address.get(&address).copied().unwrap_or(0);
            if from_there >= max.get() {
                return Err(NoPlace::ForTheAddress);
            }
        }
        if open.all >= open.all_max {
            return Err(NoPlace::InAll);
        }
        open.all += 1;
        if open.per_address_max.is_some() {
            *open.by_address.entry(address).or_default() += 1;
        }
        Ok(Admitted(Box::new(Place { admission: self.clone(), address })))
    }

    /// Nothing is half done under it.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sockets that may be open at once where so many clients may be connected.
pub fn connections_open_max(connections_max: u32) -> usize {
    usize::try_from(connections_max).unwrap_or(usize::MAX).saturating_add(SPARE_CONNECTIONS)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Place { admission, address } = &*self.0;
        let mut open = admission.lock();
        open.all = open.all.saturating_sub(1);
        let Some(from_there) = open.by_address.get_mut(address) else { return };
        *from_there -= 1;
        if *from_there == 0 {
            open.by_address.remove(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::{Arc, Mutex};

    use super::{Admission, NoPlace, SPARE_CONNECTIONS};
    use crate::base::address::Address;

    fn admission(all_max: usize, per_address_max: u32) -> Arc<Admission> {
        let per_address_max = NonZeroU32::new(per_address_max);
        let open = super::Open { all_max, per_address_max, ..super::Open::default() };
        Arc::new(Admission { open: Mutex::new(open) })
    }

    #[test]
    fn a_place_is_taken_once_and_free_again_when_left() {
        let admission = admission(2 + SPARE_CONNECTIONS, 0);
        let mut places: Vec<_> =
            (0..2 + SPARE_CONNECTIONS).map_while(|_| admission.admit(Address(1)).ok()).collect();
        assert_eq!(places.len(), 2 + SPARE_CONNECTIONS);
        assert_eq!(admission.admit(Address(2)).expect_err("full"), NoPlace::InAll);
        places.pop();
        assert!(admission.admit(Address(1)).is_ok());
        assert!(admission.lock().by_address.is_empty(), "counted only where that is bounded");
    }

    #[test]
    fn an_address_has_its_own_bound_and_leaves_no_trace() {
        let admission = admission(100, 2);
        let first: Vec<_> = (0..2).map(|_| admission.admit(Address(1)).expect("a place")).collect();
        assert_eq!(admission.admit(Address(1)).expect_err("full"), NoPlace::ForTheAddress);
        let other = admission.admit(Address(2)).expect("a place");
        drop(first);
        let again = admission.admit(Address(1)).expect("a place");
        drop((other, again));
        assert!(admission.lock().by_address.is_empty());
        assert_eq!(admission.lock().all, 0);
    }
}
