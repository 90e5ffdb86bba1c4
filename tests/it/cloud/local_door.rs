//! A door with one bridge behind it and a disk that is always done. The smallest hub there can be.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tidegate::base::time::{Clock, Duration, Instant, Now, Timestamp};
use tidegate::bridge::effect::Effects;
use tidegate::bridge::fault::LinkFault;
use tidegate::bridge::forward::Forwarded;
use tidegate::bridge::servers::Destination;
use tidegate::bridge::status::Status;
use tidegate::bridge::{Bridge, Settings};
use tidegate::cloud::door::{Door, Next};
use tidegate::config::model;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::spool::Hold;
use tidegate::store::record::SpoolId;
use tokio::sync::Notify;

struct State {
    bridge: Bridge,
    out: Effects,
    outbox: Vec<Packet>,
    connect: bool,
    disconnect: bool,
    stop: bool,
    released: BTreeSet<Hold>,
    local: Vec<Arc<Message>>,
    last_fault: Option<LinkFault>,
    faults: usize,
}

pub struct LocalDoor {
    clock: Clock,
    /// Time that the test has let pass at once.
    skipped: Mutex<Duration>,
    state: Mutex<State>,
    bell: Arc<Notify>,
    /// Rung after every visit.
    pub changed: Notify,
}

impl LocalDoor {
    pub fn new(bridge: model::Bridge) -> Arc<LocalDoor> {
        Self::with_seed(bridge, 1)
    }

    pub fn with_seed(bridge: model::Bridge, seed: u64) -> Arc<LocalDoor> {
        let clock = Clock::start();
        let settings = Settings {
            bridge,
            index: 0,
            gateway: "plant-7".into(),
            mark: "plant-7-mark".into(),
            may_return: false,
            seed,
            node: None,
            holder: None,
        };
        let mut out = Effects::default();
        let bridge = Bridge::new(settings, (SpoolId(1), None), (SpoolId(2), None), clock.now(), &mut out);
        let state = State {
            bridge,
            out,
            outbox: Vec::new(),
            connect: false,
            disconnect: false,
            stop: false,
            released: BTreeSet::new(),
            local: Vec::new(),
            last_fault: None,
            faults: 0,
        };
        let door = LocalDoor {
            clock,
            skipped: Mutex::default(),
            state: Mutex::new(state),
            bell: Arc::new(Notify::new()),
            changed: Notify::new(),
        };
        door.visit(|_, _, _| {});
        Arc::new(door)
    }

    pub fn now(&self) -> Now {
        let (now, skipped) = (self.clock.now(), *self.skipped.lock().expect("no panic inside"));
        let millis = i64::try_from(skipped.as_millis()).expect("in range");
        let wall = Timestamp::from_millis(now.wall.as_millis() + millis).with_doubt(now.wall.doubt());
        Now { instant: now.instant + skipped, wall }
    }

    /// Both clocks go on by so much.
    pub fn skip(&self, by: Duration) {
        *self.skipped.lock().expect("no panic inside") += by;
        self.visit(|_, _, _| {});
    }

    fn in_truth(&self, instant: Instant) -> std::time::Instant {
        self.clock.to_std(instant - *self.skipped.lock().expect("no panic inside"))
    }

    fn visit<T>(&self, work: impl FnOnce(&mut Bridge, Now, &mut Effects) -> T) -> T {
        let now = self.now();
        let mut state = self.state.lock().expect("no panic inside");
        let state = &mut *state;
        let result = work(&mut state.bridge, now, &mut state.out);
        while !state.out.ledger.log.take().is_empty() || !state.out.publishes.is_empty() {
            let lsn = state.out.ledger.log.last();
            let received = std::mem::take(&mut state.out.publishes);
            state.bridge.handle_durable(lsn, now, &mut state.out);
            for message in received {
                state.local.push(message.message);
                if let Some(token) = message.token {
                    state.bridge.handle_completed(token, false, now, &mut state.out);
                }
            }
        }
        assert!(state.out.ledger.loads.is_empty(), "nothing spills in these tests");
        state.released.extend(state.out.ledger.released.drain(..));
        state.outbox.append(&mut state.out.sends);
        state.connect |= std::mem::take(&mut state.out.connect);
        state.disconnect |= std::mem::take(&mut state.out.disconnect);
        self.bell.notify_one();
        self.changed.notify_waiters();
        result
    }

    fn next(&self, sends: &mut Vec<Packet>) -> Next {
        let mut state = self.state.lock().expect("no panic inside");
        sends.append(&mut state.outbox);
        if state.stop {
            Next::Stop
        } else if std::mem::take(&mut state.disconnect) {
            Next::Disconnect
        } else if std::mem::take(&mut state.connect) {
            Next::Connect
        } else {
            Next::Go
        }
    }

    pub fn offer(&self, topic: &str, payload: &str, qos: QoS, hold: u64) {
        let topic = TopicName::new(topic).expect("a valid topic");
        let origin = Origin::Client("meter".into());
        let message = Message::new(topic, payload.to_owned(), qos, origin, self.now());
        let forwarded =
            Forwarded { rule: 0, message: Arc::new(message), hold: Some(Hold(hold)), urgent: false };
        self.visit(|bridge, now, out| bridge.handle_forward(forwarded, now, out));
    }

    pub fn shut_down(&self) {
        self.visit(Bridge::handle_shutdown);
        self.state.lock().expect("no panic inside").stop = true;
        self.bell.notify_one();
    }

    pub fn status(&self) -> Status {
        self.state.lock().expect("no panic inside").bridge.status()
    }

    pub fn released(&self) -> usize {
        self.state.lock().expect("no panic inside").released.len()
    }

    pub fn local(&self) -> Vec<Arc<Message>> {
        self.state.lock().expect("no panic inside").local.clone()
    }

    /// Connections that ended or did not come about.
    pub fn faults(&self) -> usize {
        self.state.lock().expect("no panic inside").faults
    }

    pub fn last_fault(&self) -> Option<String> {
        self.state.lock().expect("no panic inside").last_fault.as_ref().map(ToString::to_string)
    }

    /// Wakes the brain when it is due, for ever.
    pub async fn tick(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            let due = self.state.lock().expect("no panic inside").bridge.next_deadline();
            match due {
                Some((at, _)) => {
                    let at = tokio::time::Instant::from_std(self.in_truth(at));
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {
                            self.visit(Bridge::handle_timeout);
                        }
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}

impl Door for LocalDoor {
    fn connected(&self, sends: &mut Vec<Packet>) -> Next {
        self.state.lock().expect("no panic inside").outbox.clear();
        self.visit(Bridge::handle_connected);
        self.next(sends)
    }

    fn packets(&self, batch: &mut Vec<Packet>, sends: &mut Vec<Packet>) -> Result<Next, LinkFault> {
        self.visit(|bridge, now, out| {
            bridge.handle_flushed(now, out);
            batch.drain(..).try_for_each(|packet| bridge.handle_packet(packet, now, out))
        })?;
        Ok(self.next(sends))
    }

    fn disconnected(&self, why: LinkFault) {
        {
            let mut state = self.state.lock().expect("no panic inside");
            state.outbox.clear();
            state.disconnect = false;
            state.last_fault = Some(why.clone());
            state.faults += 1;
        }
        self.visit(|bridge, now, out| bridge.handle_disconnected(why, now, out));
    }

    fn take_sends(&self, sends: &mut Vec<Packet>) -> Next {
        let now = self.now();
        {
            let mut state = self.state.lock().expect("no panic inside");
            let state = &mut *state;
            state.bridge.handle_flushed(now, &mut state.out);
            state.outbox.append(&mut state.out.sends);
        }
        self.next(sends)
    }

    fn destination(&self) -> Destination {
        self.state.lock().expect("no panic inside").bridge.destination()
    }

    fn probed(&self, found: Option<usize>) {
        self.visit(|bridge, now, out| bridge.handle_probed(found, now, out));
    }

    fn renewed(&self) {
        self.visit(Bridge::handle_renewed);
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}
