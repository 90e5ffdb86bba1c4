//! Logins that were right a moment ago, so that a sensor that comes back costs no hash. Holds keyed digests, for a
//! short while and in a bounded number; never a password.

use std::collections::BTreeMap;

use ring::hmac;
use ring::rand::SystemRandom;

use crate::auth::password::HashNotMade;
use crate::base::time::{Duration, Instant};

/// How long a login counts without being checked again.
pub const FRESH_MAX: Duration = Duration::from_secs(300);
/// Logins that are remembered.
pub const LOGINS_MAX: usize = 10_000;

type Digest = [u8; 32];

#[derive(Debug)]
pub struct Cache {
    /// Of this process alone: what it digests is of no use elsewhere.
    key: hmac::Key,
    seen: BTreeMap<Digest, Instant>,
}

impl Cache {
    pub fn new() -> Result<Self, HashNotMade> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| HashNotMade)?;
        Ok(Self { key, seen: BTreeMap::new() })
    }

    /// Whether this very login was right within [`FRESH_MAX`].
    pub fn knows(&self, user: &str, password: &[u8], now: Instant) -> bool {
        self.seen.get(&self.digest(user, password)).is_some_and(|at| now.since(*at) < FRESH_MAX)
    }

    /// It was right just now.
    pub fn remember(&mut self, user: &str, password: &[u8], now: Instant) {
        let digest = self.digest(user, password);
        if self.seen.len() >= LOGINS_MAX && !self.seen.contains_key(&digest) {
            self.seen.retain(|_, at| now.since(*at) < FRESH_MAX);
        }
        if self.seen.len() < LOGINS_MAX || self.seen.contains_key(&digest) {
            self.seen.insert(digest, now);
        }
    }

    /// Passwords have changed.
    pub fn clear(&mut self) {
        self.seen.clear();
    }

    fn digest(&self, user: &str, password: &[u8]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        // With its length, so that no two pairs run together to one text.
        context.update(&(user.len() as u64).to_be_bytes());
        context.update(user.as_bytes());
        context.update(password);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, FRESH_MAX, LOGINS_MAX};
    use crate::base::time::{Duration, Instant};

    #[test]
    fn a_login_is_known_for_a_while() {
        let mut cache = Cache::new().expect("randomness");
        let start = Instant::from_nanos(7);
        cache.remember("ann", b"secret", start);
        let last = start + FRESH_MAX - Duration::from_nanos(1);
        let cases = [
            ("ann", &b"secret"[..], start, true),
            ("ann", b"secret", last, true),
            ("ann", b"secret", start + FRESH_MAX, false),
            ("ann", b"Secret", start, false),
            ("anns", b"ecret", start, false),
            ("bob", b"secret", start, false),
        ];
        for (user, password, now, known) in cases {
            assert_eq!(cache.knows(user, password, now), known, "{user}");
        }
        let other = Cache::new().expect("randomness");
        assert_ne!(other.digest("ann", b"secret"), cache.digest("ann", b"secret"));
        cache.clear();
        assert!(!cache.knows("ann", b"secret", start));
    }

    #[test]
    fn old_logins_make_room_and_fresh_ones_do_not() {
        let mut cache = Cache::new().expect("randomness");
        let start = Instant::from_nanos(0);
        for user in 0..LOGINS_MAX {
            cache.remember(&user.to_string(), b"", start);
        }
        cache.remember("late", b"", start);
        assert!(!cache.knows("late", b"", start) && cache.knows("0", b"", start));
        cache.remember("later", b"", start + FRESH_MAX);
        assert!(cache.knows("later", b"", start + FRESH_MAX));
        assert_eq!(cache.seen.len(), 1);
    }
}
