//! The commands that a line has begun or may begin, device by device, and whose turn it is. Never sends one.

use std::collections::VecDeque;

use crate::base::time::Now;
use crate::device::write::Write;

/// Commands of one device that nobody else keeps: beyond, the oldest is refused.
const PASSING_MAX: usize = 64;

/// By the device's position on the line.
#[derive(Debug)]
pub(crate) struct Orders {
    lanes: Vec<VecDeque<Write>>,
    /// The device whose turn it is: one that does not answer must not hold up its neighbours.
    turn: usize,
}

impl Orders {
    pub(crate) fn new(devices: usize) -> Self {
        Self { lanes: (0..devices).map(|_| VecDeque::new()).collect(), turn: 0 }
    }

    /// Behind what the device has. Returns what is displaced by it.
    pub(crate) fn push(&mut self, write: Write) -> Option<Write> {
        let lane = self.lanes.get_mut(write.device)?;
        lane.push_back(write);
        let passing = lane.iter().filter(|write| write.id.is_none()).count();
        let oldest = lane.iter().position(|write| write.id.is_none()).filter(|_| passing > PASSING_MAX)?;
        lane.remove(oldest)
    }

    /// Back to where it was taken from.
    pub(crate) fn put_back(&mut self, write: Write) {
        if let Some(lane) = self.lanes.get_mut(write.device) {
            lane.push_front(write);
        }
    }

    /// The next that may be tried, of the devices that may be asked; they take turns. Within a device the order
    /// is kept, but that a command which waits for its device lets those pass that nobody keeps.
    pub(crate) fn take_next(&mut self, now: Now, may_ask: impl Fn(usize) -> bool) -> Option<Write> {
        let count = self.lanes.len();
        for device in (self.turn..count).chain(0..self.turn) {
            let Some(lane) = self.lanes.get_mut(device).filter(|_| may_ask(device)) else { continue };
            let Some(at) = lane.iter().position(|write| write.not_before <= now.instant) else { continue };
            self.turn = (device + 1) % count;
            return lane.remove(at);
        }
        None
    }

    /// One whose time has run out.
    pub(crate) fn take_overdue(&mut self, now: Now) -> Option<Write> {
        self.lanes.iter_mut().find_map(|lane| {
            let at = lane.iter().position(|write| write.deadline() <= now.instant)?;
            lane.remove(at)
        })
    }

    /// The device was heard: what waits for it is tried at once.
    pub(crate) fn wake(&mut self, device: usize, now: Now) {
        for write in self.lanes.get_mut(device).into_iter().flatten() {
            write.not_before = write.not_before.min(now.instant);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Write> {
        self.lanes.iter().flatten()
    }

    /// The devices have other positions: by the old one, the new one, or None for one that is gone. Returns what was
    /// begun of those.
    pub(crate) fn rearrange(&mut self, places: &[Option<usize>], devices: usize) -> Vec<Write> {
        let mut lanes: Vec<VecDeque<Write>> = (0..devices).map(|_| VecDeque::new()).collect();
        let mut gone = Vec::new();
        for (lane, place) in std::mem::take(&mut self.lanes).into_iter().zip(places) {
            match place.and_then(|place| Some((place, lanes.get_mut(place)?))) {
                Some((place, new)) => {
                    new.extend(lane);
                    for write in new.iter_mut() {
                        write.device = place;
                    }
                }
                None => gone.extend(lane),
            }
        }
        *self = Self { lanes, turn: 0 };
        gone
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Write> {
        self.lanes.iter_mut().flat_map(|lane| lane.drain(..))
    }
}
