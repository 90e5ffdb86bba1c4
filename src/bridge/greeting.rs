//! As what a 3.1.1 bridge greets its server: as another gateway's, as a bridge, or as any client. Each server is asked for
//! the most that it is not known to refuse, and what it refuses costs one connection, without a back-off. Sends nothing else.
//!
//! 3.1.1 has neither No Local nor user properties. A server that knows bridges (Mosquitto, and others since) takes the first
//! for granted of who says so in the protocol level; another gateway takes marks in topics besides. A CONNACK that refuses the
//! level is believed at once, until the process ends. One that closes without it may as well be going down: that it takes the
//! same bridge as something less has to be seen twice.

use crate::base::time::Now;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::learned::Shown;
use crate::bridge::link::Phase;
use crate::bridge::loops;
use crate::bridge::pause::Wanted;
use crate::bridge::{Bridge, Settings};
use crate::config::provider::Provider;
use crate::mqtt::packet::connect::{Connack, Role};
use crate::mqtt::packet::control::Disconnect;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::reason::ReasonCode;

/// So often a server closes on a level, and takes a lower one behind that, before it is not asked again.
const CLOSES_MAX: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Greeting {
    /// What the last CONNECT said.
    role: Role,
    /// What the next one says, whatever is known of the server.
    next: Option<Role>,
    /// Time has passed since the server was asked for more, so that its answer says little of that: it may have come up
    /// meanwhile. A silent one took that time itself; one that closed on everything gets a rest, in case it counts tries.
    is_late: bool,
    /// The connection that ends is followed by one with another role.
    is_step: bool,
    /// The next one, or the last, is a client's behind a back-off, after the server closed on everything.
    is_alone: bool,
}

impl Bridge {
    pub(super) fn choose_role(&mut self) -> Role {
        self.greeting.role = self.greeting.next.take().unwrap_or(self.known_role());
        self.greeting.role
    }

    /// The most that the server is not known to refuse. A cloud with rules of its own knows no such levels, and is not asked.
    fn known_role(&self) -> Role {
        let bridge = &self.settings.bridge;
        let asks = bridge.protocol == Version::V3_1_1 && bridge.account.provider() == Provider::Generic;
        if asks { self.shown().role } else { Role::Client }
    }

    /// The connection ended before a CONNACK that takes it.
    pub(super) fn note_ungreeted(&mut self, fault: &LinkFault) {
        let lower = below(self.greeting.role);
        match fault {
            LinkFault::Refused(ReasonCode::UnsupportedProtocolVersion) => {
                let Some(lower) = lower else { return };
                self.unbegin_node();
                self.show_role(lower);
            }
            LinkFault::Closed | LinkFault::Transport(_) | LinkFault::NoConnack => {
                let Some(lower) = lower else {
                    self.greeting.is_alone = self.known_role() > Role::Client && !self.greeting.is_alone;
                    self.greeting.is_late = self.greeting.is_alone;
                    self.greeting.next = self.greeting.is_alone.then_some(Role::Client);
                    return;
                };
                self.greeting.is_late |= matches!(fault, LinkFault::NoConnack);
                // Who only did not answer may have the will, and say it yet.
                if matches!(fault, LinkFault::Closed) {
                    self.unbegin_node();
                }
                self.greeting.next = Some(lower);
            }
            _ => return,
        }
        self.try_at_once();
    }

    /// CONNACK takes the bridge, though not as what it greeted perhaps: there are servers that look at the lower bits of the
    /// level alone. Whether the connection is left for another one.
    pub(super) fn is_taken_as_less(&mut self, connack: &Connack, now: Now, out: &mut Effects) -> bool {
        let (role, known, shown) = (self.greeting.role, self.known_role(), self.shown());
        let is_late = std::mem::take(&mut self.greeting.is_late);
        self.greeting.is_alone = false;
        let leaves = if role == Role::Gateway && !connack.properties.is_gateway() {
            self.show_role(Role::Bridge);
            true
        } else if role >= known {
            self.show(Shown { role_closes: 0, ..shown });
            false
        } else if shown.role_closes + 1 >= CLOSES_MAX {
            self.show_role(role);
            false
        } else {
            self.show(Shown { role_closes: shown.role_closes + 1, ..shown });
            is_late
        };
        if leaves {
            self.unbegin_node();
            self.send(Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success)), now, out);
            out.disconnect = true;
            self.fault = Some(LinkFault::OtherRole);
            self.try_at_once();
            self.go_away(out);
            self.set_phase(Phase::Closing { was_stable: false }, out);
        }
        leaves
    }

    fn try_at_once(&mut self) {
        self.greeting.is_step = true;
        if self.wanted == Wanted::Link {
            self.wanted = Wanted::LinkAtOnce;
        }
    }

    /// Whether the connection that is over was only to find out what the server knows.
    pub(super) fn was_step(&mut self) -> bool {
        std::mem::take(&mut self.greeting.is_step)
    }

    fn show_role(&mut self, role: Role) {
        self.show(Shown { role, role_closes: 0, ..self.shown() });
        let Settings { bridge, gateway, .. } = &self.settings;
        if role == Role::Client
            && let Some(warning) = loops::echo(bridge, gateway)
        {
            tracing::warn!("{warning}");
        }
    }
}

fn below(role: Role) -> Option<Role> {
    match role {
        Role::Gateway => Some(Role::Bridge),
        Role::Bridge => Some(Role::Client),
        Role::Client => None,
    }
}
