//! The commands that a line has begun or may begin, device by device, and whose turn it is. Never sends one.

use crate::base::time::Now;
use crate::device::pending::Pending;
use crate::device::write::Write;

/// By the device's position on the line.
#[derive(Debug)]
pub(crate) struct Orders {
    lanes: Vec<Pending<Write>>,
    /// The device whose turn it is: one that does not answer must not hold up its neighbours.
    turn: usize,
}

impl Orders {
    pub(crate) fn new(devices: usize) -> Self {
        Self { lanes: (0..devices).map(|_| Pending::default()).collect(), turn: 0 }
    }

    /// Behind what the device has. Returns what is displaced by it.
    pub(crate) fn push(&mut self, write: Write) -> Option<Write> {
        self.lanes.get_mut(write.device)?.push(write)
    }

    /// Back to where it was taken from.
    pub(crate) fn put_back(&mut self, write: Write) {
        if let Some(lane) = self.lanes.get_mut(write.device) {
            lane.put_back(write);
        }
    }

    /// The next that may be tried, of the devices that may be asked; they take turns.
    pub(crate) fn take_next(&mut self, now: Now, may_ask: impl Fn(usize) -> bool) -> Option<Write> {
        let count = self.lanes.len();
        for device in (self.turn..count).chain(0..self.turn) {
            let Some(lane) = self.lanes.get_mut(device).filter(|_| may_ask(device)) else { continue };
            let Some(write) = lane.take_next(now) else { continue };
            self.turn = (device + 1) % count;
            return Some(write);
        }
        None
    }

    /// One whose time has run out.
    pub(crate) fn take_overdue(&mut self, now: Now) -> Option<Write> {
        self.lanes.iter_mut().find_map(|lane| lane.take_overdue(now))
    }

    /// The device was heard: what waits for it is tried at once.
    pub(crate) fn wake(&mut self, device: usize, now: Now) {
        if let Some(lane) = self.lanes.get_mut(device) {
            lane.wake(now);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Write> {
        self.lanes.iter().flat_map(Pending::iter)
    }

    /// The devices have other positions: by the old one, the new one, or None for one that is gone. Returns what was
    /// begun of those.
    pub(crate) fn rearrange(&mut self, places: &[Option<usize>], devices: usize) -> Vec<Write> {
        let mut lanes = Self::new(devices).lanes;
        let mut gone = Vec::new();
        for (mut lane, place) in std::mem::take(&mut self.lanes).into_iter().zip(places) {
            match place.and_then(|place| Some((place, lanes.get_mut(place)?))) {
                Some((place, new)) => {
                    lane.iter_mut().for_each(|write| write.device = place);
                    new.append(lane);
                }
                None => gone.extend(lane.drain()),
            }
        }
        *self = Self { lanes, turn: 0 };
        gone
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Write> {
        self.lanes.iter_mut().flat_map(Pending::drain)
    }
}
