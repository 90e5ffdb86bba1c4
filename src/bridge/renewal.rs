//! A credential that runs out: the link ends in good order before it does, and a new one begins at once. Makes no
//! credential.

use crate::base::time::{Duration, Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::link::Phase;
use crate::bridge::pause::Wanted;
use crate::bridge::provider::Credential;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::control::Disconnect;
use crate::mqtt::reason::ReasonCode;

/// It is renewed after so many tenths of its time.
const TENTHS: u32 = 9;
/// How long what is unacknowledged may take then.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Renewal {
    #[default]
    Never,
    At(Instant),
    /// Nothing new is sent.
    Draining {
        until: Instant,
    },
}

impl Renewal {
    pub(super) fn after(credential: &Credential, now: Instant) -> Self {
        credential.lifetime.map_or(Self::Never, |lifetime| Self::At(now + lifetime * TENTHS / 10))
    }

    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Never => None,
            Self::At(at) | Self::Draining { until: at } => Some(at),
        }
    }
}

impl Bridge {
    /// While the link is greeted.
    pub(super) fn handle_renewal(&mut self, now: Now, out: &mut Effects) {
        match self.renewal {
            Renewal::At(at) if at <= now.instant => {
                tracing::debug!(bridge = %self.settings.bridge.name, "the credential is to be renewed");
                self.renewal = Renewal::Draining { until: now.instant + DRAIN_WAIT };
                self.lanes.handle_draining();
                self.part_if_drained(now, out);
            }
            Renewal::Draining { until } if until <= now.instant => self.part(now, out),
            Renewal::Never | Renewal::At(_) | Renewal::Draining { .. } => {}
        }
    }

    /// The server has answered all that was sent: nothing will be sent twice.
    pub(super) fn part_if_drained(&mut self, now: Now, out: &mut Effects) {
        let draining = matches!(self.renewal, Renewal::Draining { .. });
        if draining && self.is_greeted() && self.lanes.unanswered() == 0 {
            self.part(now, out);
        }
    }

    /// The status stays `online`, and the session stands: only the connection is another one.
    fn part(&mut self, now: Now, out: &mut Effects) {
        self.send(Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success)), now, out);
        out.disconnect = true;
        self.fault = Some(LinkFault::Renewed);
        self.wanted = Wanted::LinkAtOnce;
        self.renewal = Renewal::Never;
        self.go_away(out);
        self.set_phase(Phase::Closing { was_stable: true }, out);
    }
}
