//! Other devices on a line that goes on: those that stay keep all that is known of them, the others part as at a stop.
//! Never waits for the line.

use std::sync::Arc;

use crate::base::time::Now;
use crate::device::command::CommandError;
use crate::device::effect::Effects;
use crate::device::polled::Polled;
use crate::device::{LineSettings, Poller};

impl Poller {
    /// The devices from now on, in this order. One stays that has the same index and settings. Returns the indices of
    /// those that are new here. Only between two requests: the answer to one that is under way is not looked at.
    pub fn replace_devices(&mut self, settings: LineSettings, now: Now, out: &mut Effects) -> Vec<u16> {
        self.in_flight = None;
        let LineSettings { gateway, devices } = settings;
        let places: Vec<Option<usize>> = self
            .devices
            .iter()
            .map(|old| devices.iter().position(|(index, device)| stays(old, *index, device)))
            .collect();
        for write in self.orders.rearrange(&places, devices.len()) {
            if write.id.is_none() {
                self.finish(&write, Err(&CommandError::Stopping), now, out);
            }
        }
        let mut kept: Vec<Option<Polled>> = devices.iter().map(|_| None).collect();
        for (mut old, place) in std::mem::take(&mut self.devices).into_iter().zip(places) {
            match place.and_then(|place| kept.get_mut(place)) {
                Some(place) => *place = Some(old),
                None => old.handle_shutdown(now, out),
            }
        }
        let mut fresh = Vec::new();
        self.devices = devices
            .into_iter()
            .zip(kept)
            .map(|((index, device), kept)| {
                kept.unwrap_or_else(|| {
                    fresh.push(index);
                    Polled::new(&gateway, index, device, now)
                })
            })
            .collect();
        out.changed = true;
        fresh
    }

    /// The indices of the devices.
    pub fn indices(&self) -> Vec<u16> {
        self.devices.iter().map(|device| device.index).collect()
    }
}

/// The same device with the same settings; its port may have another place in the configuration.
fn stays(old: &Polled, index: u16, device: &Arc<crate::config::model::Device>) -> bool {
    old.index == index && (Arc::ptr_eq(&old.settings, device) || *old.settings == **device)
}
