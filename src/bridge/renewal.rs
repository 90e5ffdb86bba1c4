//! A credential that runs out: the link leaves its connection in good order before that, for one with a new credential.
//! Makes no credential, and ends no connection by itself.

use crate::base::time::{Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::provider::Credential;

/// It is renewed after so many tenths of its time.
const TENTHS: u32 = 9;

/// None: it does not run out.
pub(super) fn due_at(credential: &Credential, now: Instant) -> Option<Instant> {
    credential.lifetime.map(|lifetime| now + lifetime * TENTHS / 10)
}

impl Bridge {
    /// While the link is greeted.
    pub(super) fn handle_renewal(&mut self, now: Now, out: &mut Effects) {
        if self.renewal_at.take_if(|at| *at <= now.instant).is_some() {
            self.leave(LinkFault::CredentialRenewed, None, now, out);
        }
    }
}
