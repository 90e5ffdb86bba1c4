//! The judge: what has to hold at each step, and what has to be when everything has healed.

use std::fmt::Write;
use std::ops::ControlFlow;

use tidegate::bridge::status::LinkState;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::store::record::Seq;

use super::disk::{BRIDGE, DEVICE};
use super::reference::{Place, Scope, number_of_message};
use super::world::World;

impl World {
    /// Whether a message is safe from one broker on: on its disk for each target, or further on. Break: why not.
    pub fn is_safe(&self, number: u64, place: Place) -> ControlFlow<String> {
        let lane = self.reference.lane_of(number);
        if lane.qos == QoS::AtMostOnce {
            return ControlFlow::Continue(());
        }
        let disk = &self.sites[&place].disk.durable;
        let targets = self.reference.targets(number, place).into_iter();
        for client in targets.filter(|_| !self.reference.is_lossy(number, place)) {
            let name = &self.clients[client].name;
            let spool = disk.spool_of_client(name);
            let held = spool.is_some_and(|spool| disk.holds(spool, number));
            if !held && !self.reference.got(client, number) {
                return ControlFlow::Break(format!("{name} has it not"));
            }
        }
        if let Some(topic) = lane.topic_at(place).filter(|_| lane.retain) {
            let kept = disk.retained.get(&TopicName::new(&topic).unwrap());
            let kept = kept.and_then(|message| number_of_message(message));
            // At QoS 1 an earlier message may come again behind a later one.
            if kept.is_none_or(|kept| kept < number && lane.qos == QoS::ExactlyOnce) {
                return ControlFlow::Break(format!("{topic} retains {kept:?}"));
            }
        }
        if (lane.scope, place) == (Scope::Set, Place::Gateway) {
            let held = disk.spool_named(DEVICE).is_some_and(|spool| disk.holds(spool, number));
            if !held && !self.reference.is_done(number) {
                return ControlFlow::Break("the device has it not".to_owned());
            }
        }
        let (spool, next) = match (lane.scope, place) {
            (Scope::Up, Place::Gateway) => (disk.spool_named(BRIDGE), Place::Cloud),
            (Scope::Down | Scope::Set, Place::Cloud) => (disk.spool_of_client("plant-7"), Place::Gateway),
            _ => return ControlFlow::Continue(()),
        };
        if self.reference.is_lossy(number, next) || spool.is_some_and(|spool| disk.holds(spool, number)) {
            return ControlFlow::Continue(());
        }
        self.is_safe(number, next)
    }

    pub fn check_bounds(&mut self) {
        self.check_queues();
        let size = self.plan.gateway_buffer_bytes();
        let window = usize::from(self.plan.bridge_inflight);
        let Some(core) = self.site(Place::Gateway).core.as_mut() else { return };
        let status = core.status().links[0].status.clone();
        assert!(status.queued_bytes <= size, "{} bytes wait, and {size} may", status.queued_bytes);
        // What was in flight before a start keeps its identifiers beside those of a window.
        assert!(status.inflight <= 2 * window, "{} are in flight, and {window} may", status.inflight);
    }

    fn check_queues(&self) {
        let site = &self.sites[&Place::Gateway];
        let most = site.config.broker.limits.queued_messages as usize;
        let disk = &site.disk.durable;
        for (spool, row) in &disk.sessions {
            let queued = disk.entries.range((*spool, Seq(0))..=(*spool, Seq(u64::MAX))).count();
            assert!(queued <= most, "{queued} messages wait for {}, and {most} may", row.client_id);
        }
    }

    /// Everybody is connected, and nothing is on its way to the disk.
    pub fn is_settled(&self) -> bool {
        let clients = self.clients.iter().filter(|client| !client.is_auditor());
        clients.clone().all(super::client::Client::is_ready)
            && self.is_link_up()
            && self.sites.values().all(|site| site.core.is_some() && site.disk.is_idle())
    }

    fn is_link_up(&self) -> bool {
        let core = self.sites[&Place::Gateway].core.as_ref();
        core.is_some_and(|core| core.status().links[0].status.state == LinkState::Up)
    }

    /// Nothing waits anywhere, and all that was promised came.
    pub fn is_drained(&self) -> bool {
        self.clients.iter().all(super::client::Client::is_done)
            && self.sites.values().all(|site| {
                let disk = &site.disk.durable;
                disk.entries.is_empty() && disk.inflight.is_empty() && disk.inbound.is_empty()
            })
            && self.is_settled()
            && self.sites[&Place::Gateway].core.as_ref().is_some_and(|core| {
                let status = &core.status().links[0].status;
                status.queued_messages == 0 && status.queued_bytes == 0 && status.inflight == 0
            })
            && self.reference.open() == 0
            && self.reference.missing().is_empty()
            && self.reference.undone().is_empty()
            && self.reference.unanswered().is_empty()
            && self.unsent().is_empty()
    }

    /// Messages that a disk held for somebody who never got them.
    fn unsent(&self) -> Vec<(u64, usize)> {
        let mut unsent = Vec::new();
        for (place, site) in &self.sites {
            let disk = &site.disk.durable;
            let device = disk.spool_named(DEVICE);
            for (spool, number) in disk.written.iter().filter(|(spool, _)| Some(*spool) != device) {
                let far = if disk.buffers.contains_key(spool) { Place::Cloud } else { *place };
                let known = self.reference.messages.contains_key(number);
                if !known || self.reference.is_lossy(*number, far) {
                    continue;
                }
                let clients = match disk.sessions.get(spool) {
                    Some(row) => {
                        self.clients.iter().filter(|c| *c.name == *row.client_id).map(|c| c.index).collect()
                    }
                    None if disk.buffers.contains_key(spool) => self.reference.targets(*number, Place::Cloud),
                    None => Vec::new(),
                };
                debug_assert!(*place == Place::Gateway || disk.buffers.is_empty());
                unsent.extend(
                    clients.into_iter().filter(|c| !self.reference.got(*c, *number)).map(|c| (*number, c)),
                );
            }
        }
        unsent
    }

    /// Why it is not drained.
    pub fn complain(&self) -> String {
        let mut text = "\n".to_owned();
        for client in &self.clients {
            if !client.is_done() || !client.is_ready() {
                writeln!(text, "  {client:?}").unwrap();
            }
        }
        for (place, site) in &self.sites {
            let disk = &site.disk.durable;
            writeln!(
                text,
                "  {place:?}: entries {:?} inflight {:?} inbound {:?} idle {}",
                disk.entries.keys().collect::<Vec<_>>(),
                disk.inflight,
                disk.inbound,
                site.disk.is_idle(),
            )
            .unwrap();
        }
        if let Some(core) = &self.sites[&Place::Gateway].core {
            writeln!(text, "  {:?}", core.status().links[0].status).unwrap();
        }
        text + &format!(
            "  open {} missing {:?} undone {:?} unanswered {:?} unsent {:?}",
            self.reference.open(),
            self.reference.missing(),
            self.reference.undone(),
            self.reference.unanswered(),
            self.unsent()
        )
    }

    /// What a new subscriber finds must be what was published last.
    pub fn check_retained(&self) {
        for auditor in self.clients.iter().filter(|client| client.is_auditor()) {
            let lossy = self.reference.small_buffer && auditor.place == Place::Cloud;
            if lossy || self.reference.may_refuse {
                continue;
            }
            for (topic, number) in self.reference.retained(auditor.place) {
                let kept = auditor.retained.get(&topic);
                assert_eq!(kept, Some(&number), "{topic} at {:?}", auditor.place);
            }
        }
    }
}
