//! What stands in the database under names that nobody has: its messages were acknowledged, and a name that is
//! configured again finds them. Holds where they stand, and none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::bridge::lane;
use crate::bridge::servers::parts_of_row;
use crate::device::inbox::Inbox;
use crate::store::record::{Recovered, RecoveredSpool, SpoolId};

/// What a name finds.
#[derive(Debug)]
pub struct Found {
    pub spool: SpoolId,
    pub recovered: RecoveredSpool,
    /// The server whose session the packets in flight belong to, where the database names one.
    pub holder: Option<Arc<str>>,
    /// The number of the last Sparkplug session.
    pub bd_seq: Option<u8>,
}

#[derive(Debug, Default)]
pub struct LeftOvers {
    buffers: Vec<(SpoolId, Arc<str>)>,
    spools: BTreeMap<SpoolId, RecoveredSpool>,
    births: BTreeMap<SpoolId, u8>,
}

impl LeftOvers {
    /// What is no session's.
    pub fn of(recovered: &mut Recovered) -> Self {
        Self {
            buffers: std::mem::take(&mut recovered.buffers),
            spools: std::mem::take(&mut recovered.spools).into_iter().collect(),
            births: recovered.births.clone(),
        }
    }

    /// What stands under a name as the start found it.
    pub fn take(&mut self, name: &str) -> Option<Found> {
        let at = self.buffers.iter().position(|(_, row)| parts_of_row(row).0 == name)?;
        let (spool, row) = self.buffers.remove(at);
        Some(Found {
            spool,
            recovered: self.spools.remove(&spool).unwrap_or_default(),
            holder: parts_of_row(&row).1.map(Into::into),
            bd_seq: self.births.get(&spool).copied(),
        })
    }

    /// The rest is for later: whoever takes it then reads the messages from the disk.
    pub fn put_down(&mut self) {
        for found in self.spools.values_mut() {
            found.head = Vec::new();
        }
    }

    /// The number of the last Sparkplug session that clients of the gateway were told of.
    pub fn lan_birth(&self) -> Option<u8> {
        self.births.get(&SpoolId::LAN).copied()
    }

    pub fn keep_lan_birth(&mut self, bd_seq: Option<u8>) {
        self.births.extend(bd_seq.map(|bd_seq| (SpoolId::LAN, bd_seq)));
    }

    /// The bridges and the devices that they are of.
    pub fn names(&self) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let (mut bridges, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for (_, row) in &self.buffers {
            match Inbox::device_of_spool(row) {
                Some(device) => devices.insert(device),
                None => bridges.insert(lane::bridge_of(parts_of_row(row).0)),
            };
        }
        (bridges, devices)
    }
}
