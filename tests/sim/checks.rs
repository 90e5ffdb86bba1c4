//! The judge: what has to hold at each step, and what has to be when everything has healed.

use std::fmt::Write;
use std::ops::ControlFlow;

use tidegate::base::time::Duration;
use tidegate::bridge::status::LinkState;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::store::record::Seq;

use super::disk::{DEVICE, is_of};
use super::plan::KEEP_FREE_BYTES;
use super::reference::{LINKS, Place, Scope, number_of_message};
use super::world::World;

/// Where the first bridge says whether it is there.
const STATUS_TOPIC: &str = "gateways/plant-7/status";

impl World {
    /// Whether a message is safe from one broker on: on its disk for each target, or further on. Break: why not.
    pub fn is_safe(&self, number: u64, place: Place) -> ControlFlow<String> {
        let lane = self.reference.lane_of(number);
        if lane.qos == QoS::AtMostOnce {
            return ControlFlow::Continue(());
        }
        let disk = &self.sites[&place].disk.durable;
        let targets = self.reference.targets(number, place).into_iter();
        for any in targets.filter(|_| !self.reference.is_lossy(number, place)) {
            let has = |client: &usize| {
                let spool = disk.spool_of_client(&self.clients[*client].name);
                let held = spool.is_some_and(|spool| disk.holds(spool, number));
                held || self.reference.got(*client, number)
            };
            if !any.iter().any(has) {
                let names: Vec<&str> = any.iter().map(|client| &*self.clients[*client].name).collect();
                return ControlFlow::Break(format!("{names:?} has it not"));
            }
        }
        let keeps_last = !self.reference.leave.unordered_to.contains(&place);
        if let Some(topic) = lane.topic_at(place).filter(|_| lane.retain && keeps_last) {
            let kept = disk.retained.get(&TopicName::new(&topic).unwrap());
            let kept = kept.and_then(|message| number_of_message(message));
            // At QoS 1 an earlier message may come again behind a later one.
            if kept.is_none_or(|kept| kept < number && lane.qos == QoS::ExactlyOnce) {
                return ControlFlow::Break(format!("{topic} retains {kept:?}"));
            }
        }
        if (lane.scope, place) == (Scope::Set, Place::Gateway) && !self.reference.is_lossy(number, place) {
            let held = disk.spool_named(DEVICE).is_some_and(|spool| disk.holds(spool, number));
            if !held && !self.reference.is_done(number) {
                return ControlFlow::Break("the device has it not".to_owned());
            }
        }
        if place == Place::Gateway {
            for link in LINKS.iter().filter(|link| self.sites.contains_key(&link.place)) {
                let is_for = lane.topic_at(link.place).is_some() && matches!(lane.scope, Scope::Up);
                if is_for
                    && !self.reference.is_lossy(number, link.place)
                    && !disk.buffer_holds(link.name, number)
                {
                    self.is_safe(number, link.place)?;
                }
            }
            return ControlFlow::Continue(());
        }
        let goes_on = matches!(lane.scope, Scope::Down | Scope::Set);
        let spool = disk.spool_of_client(LINKS[0].client_id);
        let held = spool.is_some_and(|spool| disk.holds(spool, number));
        if !goes_on || held || self.reference.is_lossy(number, Place::Gateway) {
            return ControlFlow::Continue(());
        }
        self.is_safe(number, Place::Gateway)
    }

    pub fn check_bounds(&mut self) {
        self.check_queues();
        self.check_rate();
        let windows = [usize::from(self.plan.bridge_inflight), 5];
        let bounds = self.buffer_bounds;
        let site = &self.sites[&Place::Gateway];
        let Some(core) = site.core.as_ref() else { return };
        for (index, link) in core.status().links.iter().enumerate() {
            let (status, window, most) = (&link.status, windows[index], bounds[index]);
            let bytes = status.queued_bytes;
            assert!(bytes <= most, "{bytes} bytes wait for {}, and {most} may", LINKS[index].name);
            // What was in flight before a start keeps its identifiers beside those of a window.
            assert!(status.inflight <= 2 * window, "{} are in flight, and {window} may", status.inflight);
            let disk = &site.disk.durable;
            let last = disk.spool_named(LINKS[index].name).map_or(0, |spool| disk.last_seq(spool).0);
            assert!(last <= status.accepted, "{last} was given, and the last is {}", status.accepted);
        }
    }

    /// What the buffers may hold from now on: what they do, and what others leave beside the reserve.
    pub fn note_bounds(&mut self, free: u64) {
        let sizes = [0, 1].map(|link| self.plan.buffer_bytes(link));
        let keep_free = [KEEP_FREE_BYTES, 0];
        let Some(core) = self.sites[&Place::Gateway].core.as_ref() else { return };
        for (index, link) in core.status().links.iter().enumerate() {
            let spare = free.saturating_sub(keep_free[index]);
            // Dead letters that are sent again take no more of the disk than before.
            let held = link.status.queued_bytes + link.status.dead.bytes;
            let most = held.saturating_add(spare).min(sizes[index]);
            // What is over the bound is dropped when the next message comes.
            self.buffer_bounds[index] = most.max(held);
        }
    }

    /// Messages that the gateway took of its clients: at most what each may send at once, and the rate after it.
    fn check_rate(&self) {
        let site = &self.sites[&Place::Gateway];
        let (Some(core), rate @ 1..) = (site.core.as_ref(), self.plan.publish_rate) else { return };
        let open = site.conns.keys().filter_map(|id| self.conns.get(id));
        let open: Duration = open.map(|conn| self.now.instant.since(conn.opened_at)).sum();
        let seconds = u64::from(site.taken) + (open + site.lived).as_secs() + 1;
        let most = u64::from(rate) * seconds;
        let passed = core.status().broker.publish_received;
        assert!(passed <= most, "{passed} messages passed, and {most} may");
    }

    /// What a bound costs at a cloud is counted.
    pub fn check_counted(&mut self) {
        self.count_losses();
        for (link, counted) in LINKS.iter().zip(self.counted) {
            let lost = self.reference.lost(link.place);
            assert!(
                lost.len() as u64 <= counted,
                "{} were lost at {}, and {counted} counted: {lost:?}",
                lost.len(),
                link.name
            );
        }
    }

    /// The counters of the gateway begin anew with each start.
    pub fn count_losses(&mut self) {
        let Some(core) = self.sites[&Place::Gateway].core.as_ref() else { return };
        for (counted, link) in self.counted.iter_mut().zip(core.status().links) {
            let losses = link.status.losses;
            *counted += losses.full + losses.rejected + losses.aged + losses.too_large;
        }
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
            && (0..self.sites[&Place::Gateway].links.len()).all(|link| self.is_link_up(link))
            && self.sites.values().all(|site| site.core.is_some() && site.disk.is_idle())
    }

    pub fn is_link_up(&self, link: usize) -> bool {
        let core = self.sites[&Place::Gateway].core.as_ref();
        core.is_some_and(|core| core.bridges()[link].state() == LinkState::Up)
    }

    /// Nothing waits anywhere, and all that was promised came.
    pub fn is_drained(&self) -> bool {
        self.clients.iter().all(super::client::Client::is_done)
            && self.sites.values().all(|site| {
                let disk = &site.disk.durable;
                // What a crash left of a session that the cloud has lost stays until the identifier comes again.
                let left = disk.spool_named(LINKS[0].name).filter(|_| self.reference.is_forgotten());
                let inbound = disk.inbound.iter().filter(|(spool, _)| Some(*spool) != left).count();
                disk.entries.is_empty() && disk.inflight.is_empty() && inbound == 0
            })
            && self.is_settled()
            && self.sites[&Place::Gateway].core.as_ref().is_some_and(|core| {
                core.status().links.iter().all(|link| {
                    let status = &link.status;
                    status.queued_messages == 0 && status.queued_bytes == 0 && status.inflight == 0
                })
            })
            && self.reference.open() == 0
            && self.reference.missing(self.plan.places()).is_empty()
            && self.reference.undone().is_empty()
            && self.reference.unanswered().is_empty()
            && self.unsent().is_empty()
    }

    /// Messages that a disk held for somebody who never got them.
    fn unsent(&self) -> Vec<(u64, Vec<usize>)> {
        let mut unsent = Vec::new();
        for (place, site) in &self.sites {
            let disk = &site.disk.durable;
            for (spool, number) in &disk.written {
                let link =
                    disk.buffers.get(spool).map(|name| LINKS.iter().find(|link| is_of(link.name, name)));
                let far = match link {
                    Some(Some(link)) => link.place,
                    // What the device is to do.
                    Some(None) => continue,
                    None => *place,
                };
                let known = self.reference.messages.contains_key(number);
                if !known || self.reference.is_lossy(*number, far) {
                    continue;
                }
                let is_his = |any: &Vec<usize>| match disk.sessions.get(spool) {
                    Some(row) => any.iter().any(|client| *self.clients[*client].name == *row.client_id),
                    None => link.is_some(),
                };
                unsent.extend(self.reference.missed(*number, far).filter(is_his).map(|any| (*number, any)));
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
            writeln!(text, "  {:?}", core.status().links).unwrap();
        }
        text + &format!(
            "  open {} missing {:?} undone {:?} unanswered {:?} unsent {:?}",
            self.reference.open(),
            self.reference.missing(self.plan.places()),
            self.reference.undone(),
            self.reference.unanswered(),
            self.unsent()
        )
    }

    /// What a new subscriber finds must be what was published last.
    pub fn check_retained(&self) {
        for auditor in self.clients.iter().filter(|client| client.is_auditor()) {
            let leave = &self.reference.leave;
            let live_first = leave.unordered_to.contains(&auditor.place);
            if leave.drops_for.contains(&auditor.place) || leave.refuses_up || leave.refuses_all || live_first
            {
                continue;
            }
            for (topic, number) in self.reference.retained(auditor.place) {
                let kept = auditor.retained.get(&topic);
                assert_eq!(kept, Some(&number), "{topic} at {:?}", auditor.place);
            }
            if auditor.place == Place::Cloud {
                let said = auditor.texts.get(STATUS_TOPIC).map(String::as_str);
                assert_eq!(said, Some("online"), "{STATUS_TOPIC}");
            }
        }
    }
}
