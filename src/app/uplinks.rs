//! The links of bridges: one task each, started and ended as the configuration says. Decides nothing about a link.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::app::supervise::Supervisor;
use crate::base::pulse::Pulses;
use crate::base::time::Duration;
use crate::cloud;
use crate::cloud::memory::Memory;
use crate::config::model::{Bridge, Config};
use crate::hub::Hub;
use crate::hub::link::LinkSeat;
use crate::observe::frames::Frames;

/// How long a server has to take what a link says at its end: a little more than the hand allows it.
const PARTING_WAIT: Duration = Duration::from_millis(2500);
/// How long a task may take to end that was told to.
const END_WAIT: Duration = Duration::from_secs(1);

/// What was found out since is lost with a crash; more often would wear the flash.
const NOTES_INTERVAL: Duration = Duration::from_secs(60);

pub struct Uplinks {
    hub: Arc<Hub>,
    frames: Arc<Frames>,
    cancel: CancellationToken,
    pulses: Pulses,
    memory: Arc<Memory>,
    /// By the names of their bridges.
    links: BTreeMap<Arc<str>, Supervisor>,
}

impl Uplinks {
    pub fn start(config: &Config, hub: &Arc<Hub>, frames: &Arc<Frames>, pulses: &Pulses) -> Self {
        let (hub, frames, pulses) = (hub.clone(), frames.clone(), pulses.clone());
        let (cancel, links) = (CancellationToken::new(), BTreeMap::new());
        let memory = Arc::new(Memory::open(&config.gateway.data_dir));
        for bridge in &config.bridges {
            if let (Some(index), Some(note)) = (hub.bridge_of(&bridge.name), memory.recall(&bridge.name)) {
                hub.recall(index, &note);
            }
        }
        let mut uplinks = Self { hub, frames, cancel, pulses, memory, links };
        uplinks.resume(&config.bridges);
        uplinks
    }

    /// Ends the links of these bridges as a stop does: they say goodbye, and their buffers stay as they are.
    pub async fn part<'a>(&mut self, bridges: impl Iterator<Item = &'a Arc<str>>) {
        let mut ends = Vec::new();
        for name in bridges {
            let Some(mut tasks) = self.links.remove(name) else { continue };
            let has_to_say = self.hub.part_bridge(name);
            ends.push(async move {
                if has_to_say {
                    let _in_time = timeout(PARTING_WAIT, tasks.wait()).await;
                }
                tasks.end(END_WAIT).await;
            });
        }
        join_all(ends).await;
    }

    /// Drives the links that nobody drives yet.
    pub fn resume(&mut self, bridges: &[Bridge]) {
        for bridge in bridges {
            if self.links.contains_key(&bridge.name) {
                continue;
            }
            let Some(index) = self.hub.bridge_of(&bridge.name) else { continue };
            let seat = Arc::new(LinkSeat::new(self.hub.clone(), index));
            let target = cloud::reach::Target::of(bridge).traced(&self.frames).counted(seat.traffic());
            let mut tasks = Supervisor::new(self.cancel.child_token(), &self.pulses);
            tasks.spawn(format!("link:{}", bridge.name), move |cancel| {
                cloud::run::run(seat.clone(), target.clone(), cancel)
            });
            self.links.insert(bridge.name.clone(), tasks);
        }
    }

    pub fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// Returns once all links have ended by themselves, as they do when their bridges do.
    pub async fn join(self) {
        join_all(self.links.into_values().map(Supervisor::join)).await;
    }
}

/// Keeps what bridges find out about their servers, now and then and at the end.
pub async fn keep_notes(hub: Arc<Hub>, memory: Arc<Memory>, cancel: CancellationToken) {
    loop {
        let ended = timeout(NOTES_INTERVAL, cancel.cancelled()).await.is_ok();
        let (news, names) = hub.take_notes();
        let memory = Arc::clone(&memory);
        // Fails only where the runtime ends.
        let _ = tokio::task::spawn_blocking(move || memory.keep(news, &names)).await;
        if ended {
            return;
        }
    }
}
